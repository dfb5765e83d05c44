#include "engine/registry/allow.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The part of `path` below the directory `dir` of n characters, NULL when it is not below it. */
static const char *below(const char *path, const char *dir, size_t n)
{
    while (n > 0 && dir[n - 1] == '/')
        n--;
    return strncmp(path, dir, n) == 0 && path[n] == '/' ? path + n + 1 : NULL;
}

/* Each of the directories in turn, its real path in `real`; `at` points behind the last one. False at the end. */
static bool next_dir(const char **at, char asked[PATH_MAX], char real[PATH_MAX])
{
    while (*at && **at) {
        size_t n = strcspn(*at, ":");
        const char *dir = *at;
        *at += n + (dir[n] == ':');
        if (n == 0 || n >= PATH_MAX)
            continue;
        memcpy(asked, dir, n);
        asked[n] = '\0';
        if (realpath(asked, real))
            return true;
    }
    return false;
}

/* A path that does not lead to anything: whether its absence may be told. */
static bool may_tell(const char *dirs, const char *path)
{
    char asked[PATH_MAX], real[PATH_MAX];
    for (const char *at = dirs; !strstr(path, "/../") && next_dir(&at, asked, real);)
        if (below(path, asked, strlen(asked)) || below(path, real, strlen(real)))
            return true;
    return false;
}

static enum error_code forbid(const char *path, struct error *err)
{
    return error_set_param(err, ERROR_AUTHORIZATION_FAILED, "path",
                           "expected a file in one of the folders of --model-dirs once links are resolved, found %.256s", path);
}

/* Refuses what is no regular file, which must not even be opened. */
static enum error_code check_kind(const char *path, mode_t mode, struct error *err)
{
    if (S_ISREG(mode))
        return ERROR_NONE;
    return error_set_param(err, ERROR_MODEL_LOAD_FAILED, "path", "expected a regular file, found that %.256s is %s", path,
                           S_ISDIR(mode)    ? "a directory"
                           : S_ISFIFO(mode) ? "a FIFO"
                           : S_ISSOCK(mode) ? "a socket"
                           : S_ISLNK(mode)  ? "a symbolic link"
                                            : "a device");
}

/* Opens what is at `rest` below `dir`, which becomes closed, without following a link. */
static int open_below(int dir, const char *path, const char *rest, struct error *err)
{
    char name[NAME_MAX + 1];
    struct stat st;
    for (size_t n; dir >= 0 && rest[n = strcspn(rest, "/")]; rest += n + 1) {
        if (n > NAME_MAX)
            break;
        memcpy(name, rest, n);
        name[n] = '\0';
        int next = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        close(dir);
        dir = next;
    }
    if (dir < 0)
        return forbid(path, err), -1;
    int fd = -1;
    if (fstatat(dir, rest, &st, AT_SYMLINK_NOFOLLOW) != 0)
        forbid(path, err);
    else if (!check_kind(path, st.st_mode, err)) {
        fd = openat(dir, rest, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
            error_set_param(err, ERROR_MODEL_LOAD_FAILED, "path", "cannot open %.256s: %s", path, strerror(errno));
    }
    close(dir);
    if (fd >= 0 && (fstat(fd, &st) != 0 || check_kind(path, st.st_mode, err))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Resolves into `real` and opens; -1 and *err when it is not allowed. */
static int resolve_and_open(const char *dirs, const char *path, char real[PATH_MAX], struct error *err)
{
    char asked[PATH_MAX], dir[PATH_MAX];
    if (!realpath(path, real)) {
        int why = errno;
        if (may_tell(dirs, path))
            error_set_param(err, why == ENOENT || why == ENOTDIR ? ERROR_NOT_FOUND : ERROR_MODEL_LOAD_FAILED, "path",
                            "cannot open %.256s: %s", path, strerror(why));
        else
            forbid(path, err);
        return -1;
    }
    for (const char *at = dirs; next_dir(&at, asked, dir);) {
        const char *rest = below(real, dir, strlen(dir));
        if (rest)
            return open_below(open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC), path, rest, err);
    }
    return forbid(path, err), -1;
}

enum error_code allow_resolve(const char *dirs, const char *path, char *out, size_t n, struct error *err)
{
    char real[PATH_MAX];
    size_t length = path ? strlen(path) : 0;
    struct error unused;
    if (!err)
        err = &unused;
    if (length < 6 || path[0] != '/' || strcmp(path + length - 5, ".gguf") != 0 || length >= PATH_MAX)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "path",
                               "expected an absolute path of a .gguf file, of less than %d bytes, found \"%.256s\"", PATH_MAX,
                               path ? path : "");
    int fd = resolve_and_open(dirs, path, real, err);
    if (fd < 0)
        return err->code;
    close(fd);
    if (strlen(real) >= n)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "path", "expected a path of less than %zu bytes once links are resolved", n);
    snprintf(out, n, "%s", real);
    return ERROR_NONE;
}

int allow_open(const char *dirs, const char *path, struct error *err)
{
    char real[PATH_MAX];
    return resolve_and_open(dirs, path, real, err);
}
