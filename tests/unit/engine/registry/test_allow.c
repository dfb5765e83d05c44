/* Which files may be loaded: nothing outside of the allowed directories, nothing that is no regular file, by no way. */
#include "tests/suite.h"
#include "tests/unit/engine/registry/support.h"

#include "engine/registry/allow.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>

static void touch(const char *path)
{
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs("x", f);
    fclose(f);
}

/* in/ is allowed, out/ is not; everything that an attacker may try lies there. */
static void make_tree(void)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    ck_assert(chdir(folder()) == 0);
    mkdir("in", 0755), mkdir("in/sub", 0755), mkdir("inside", 0755), mkdir("out", 0755), mkdir("in/dir.gguf", 0755);
    touch("in/a.gguf"), touch("in/sub/b.gguf"), touch("out/c.gguf"), touch("inside/d.gguf"), touch("in/text.txt");
    ck_assert(!symlink("sub/b.gguf", "in/good.gguf") && !symlink("../out/c.gguf", "in/bad.gguf") && !symlink("../out", "in/outer"));
    ck_assert(!symlink("/dev/zero", "in/zero.gguf") && !symlink("in", "link") && !symlink("nowhere.gguf", "in/dangling.gguf"));
    ck_assert(!symlink("loop.gguf", "in/loop.gguf") && !symlink("../in/sub", "out/back"));
    ck_assert(!mkfifo("in/fifo.gguf", 0644));
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    strcpy(name.sun_path, "in/socket.gguf");
    ck_assert(!bind(s, (struct sockaddr *)&name, sizeof name));
    close(s);
}

START_TEST(cases)
{
    static const struct {
        const char *path, *real; /* below the folder, unless they begin with / */
        enum error_code code;
    } all[] = {
        {"in/a.gguf", "in/a.gguf", ERROR_NONE},
        {"in/sub/b.gguf", "in/sub/b.gguf", ERROR_NONE},
        {"in/good.gguf", "in/sub/b.gguf", ERROR_NONE},
        {"in/sub/../a.gguf", "in/a.gguf", ERROR_NONE},
        {"link/a.gguf", "in/a.gguf", ERROR_NONE},
        {"out/back/b.gguf", "in/sub/b.gguf", ERROR_NONE},
        {"out/c.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
        {"inside/d.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
        {"in/bad.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
        {"in/outer/c.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
        {"in/../out/c.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
        {"in/zero.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
        {"in/missing.gguf", NULL, ERROR_NOT_FOUND},
        {"in/dangling.gguf", NULL, ERROR_NOT_FOUND},
        {"in/a.gguf/x.gguf", NULL, ERROR_NOT_FOUND},
        {"in/loop.gguf", NULL, ERROR_MODEL_LOAD_FAILED},
        {"out/missing.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
        {"in/../out/missing.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
        {"in/fifo.gguf", NULL, ERROR_MODEL_LOAD_FAILED},
        {"in/socket.gguf", NULL, ERROR_MODEL_LOAD_FAILED},
        {"in/dir.gguf", NULL, ERROR_MODEL_LOAD_FAILED},
        {"in/text.txt", NULL, ERROR_VALIDATION_FAILED},
        {"/dev/zero", NULL, ERROR_VALIDATION_FAILED},
        {"/proc/self/mem.gguf", NULL, ERROR_AUTHORIZATION_FAILED},
    };
    char dirs[1024], path[1024], expected[1024], real[PATH_MAX];
    make_tree();
    snprintf(dirs, sizeof dirs, ":/nonexistent:%s/in/:%s/in", folder(), folder());
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct error err = {0};
        snprintf(path, sizeof path, "%s%s%s", all[i].path[0] == '/' ? "" : folder(), all[i].path[0] == '/' ? "" : "/", all[i].path);
        enum error_code code = allow_resolve(dirs, path, real, sizeof real, &err);
        ck_assert_msg(code == all[i].code && err.code == code, "%s: %s", all[i].path, code ? err.message : "allowed");
        ck_assert(!code || !strcmp(err.param, "path"));
        int fd = allow_open(dirs, path, &err);
        ck_assert_msg((fd >= 0) == (code == ERROR_NONE) || code == ERROR_VALIDATION_FAILED, "%s", all[i].path);
        if (fd >= 0)
            close(fd);
        if (code)
            continue;
        snprintf(expected, sizeof expected, "%s/%s", folder(), all[i].real);
        ck_assert_str_eq(real, expected);
    }
    ck_assert_int_eq(allow_resolve(dirs, "in/a.gguf", real, sizeof real, NULL), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(allow_resolve(NULL, at("in/a.gguf"), real, sizeof real, NULL), ERROR_AUTHORIZATION_FAILED);
    ck_assert_int_eq(allow_resolve("", at("in/a.gguf"), real, sizeof real, NULL), ERROR_AUTHORIZATION_FAILED);
    ck_assert_int_eq(allow_resolve(dirs, at("in/a.gguf"), real, 8, NULL), ERROR_VALIDATION_FAILED);
    if (system("rm -rf in out inside link") != 0)
        ck_abort_msg("rm");
}
END_TEST

static void *exchange(void *arg)
{
    atomic_bool *stop = arg;
    while (!atomic_load(stop)) {
        rename("in/x", "in/y");
        if (symlink("../out", "in/x"))
            continue;
        unlink("in/x");
        rename("in/y", "in/x");
    }
    return NULL;
}

/* A directory that becomes a link outside, over and over, while its file is asked for. */
START_TEST(race)
{
    atomic_bool stop = false;
    pthread_t thread;
    char text[8];
    int n_opened = 0;
    ck_assert(chdir(folder()) == 0);
    mkdir("in", 0755), mkdir("in/x", 0755), mkdir("out", 0755);
    FILE *f = fopen("in/x/a.gguf", "w");
    fputs("mine", f), fclose(f);
    f = fopen("out/a.gguf", "w");
    fputs("else", f), fclose(f);
    const char *dirs = at("in"), *path = at("in/x/a.gguf");
    ck_assert(!pthread_create(&thread, NULL, exchange, &stop));
    for (int i = 0; i < 20000; i++) {
        int fd = allow_open(dirs, path, &(struct error){0});
        if (fd < 0)
            continue;
        n_opened++;
        ck_assert_int_eq(read(fd, text, 4), 4);
        close(fd);
        ck_assert_msg(memcmp(text, "mine", 4) == 0, "after %d", i);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    ck_assert_int_gt(n_opened, 0);
    if (system("rm -rf in out") != 0)
        ck_abort_msg("rm");
}
END_TEST

SUITE("allow", cases, race)
