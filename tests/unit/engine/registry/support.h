/* What the registry's tests share: a folder of models that may be loaded, and a registry over the bundled one. Run from the repository's root. */
#ifndef TESTS_UNIT_ENGINE_REGISTRY_SUPPORT_H
#define TESTS_UNIT_ENGINE_REGISTRY_SUPPORT_H

#include "engine/registry.h"

#include "tests/unit/engine/harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#define TALES "models/tales.gguf"

static char support_folder[256];
static pid_t support_owner;

static inline void support_remove(void)
{
    DIR *d = getpid() == support_owner ? opendir(support_folder) : NULL;
    for (struct dirent *f; d && (f = readdir(d));)
        unlinkat(dirfd(d), f->d_name, 0), unlinkat(dirfd(d), f->d_name, AT_REMOVEDIR);
    if (d)
        closedir(d), rmdir(support_folder);
}

/* An empty folder of this process, without links in its path, removed at exit. */
static inline const char *folder(void)
{
    const char *tmp = getenv("TMPDIR");
    char template[256];
    if (support_owner == getpid())
        return support_folder;
    snprintf(template, sizeof template, "%s/bitnet-registry-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(template));
    char *real = realpath(template, NULL);
    snprintf(support_folder, sizeof support_folder, "%s", real);
    free(real);
    support_owner = getpid();
    atexit(support_remove);
    return support_folder;
}

/* "folder/name"; one of a few static places. */
static inline const char *at(const char *name)
{
    static char paths[8][512];
    static unsigned n;
    char *path = paths[n++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder(), name);
    return path;
}

static inline void copy_file(const char *from, const char *to)
{
    static char data[8 << 20];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    ck_assert(in && out);
    size_t n = fread(data, 1, sizeof data, in);
    ck_assert_uint_eq(fwrite(data, 1, n, out), n);
    fclose(in);
    fclose(out);
}

/* A copy of the bundled model in the folder. */
static inline const char *tales(const char *name)
{
    const char *path = at(name);
    copy_file(TALES, path);
    return path;
}

static inline struct registry_options options(void)
{
    return (struct registry_options){.engine = {.model_path = TALES, .device = "cpu", .i2s_order = -1, .n_threads = 1, .max_sequences = 4,
                                                .context_length = 256, .max_batch_tokens = 64},
                                     .allowed_dirs = folder()};
}

static inline struct registry *open_registry(const struct registry_options *o)
{
    struct registry *r;
    struct error err = {0};
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    ck_assert_msg(!registry_open(o, &r, &err), "%s", err.message);
    return r;
}

/* Loads without cross-validation, releases, and gives the code. */
static inline enum error_code load(struct registry *r, const char *path, const char *id, struct error *err)
{
    const struct load_request q = {.path = path, .id = id, .validation = {.no_cross_validation = true, .timeout_ns = 3600 * CLOCK_NS_PER_S}};
    struct load_result result;
    enum error_code code = registry_load(r, &q, &result, err);
    served_release(result.served);
    return code;
}

static inline void must_load(struct registry *r, const char *path, const char *id)
{
    struct error err = {0};
    ck_assert_msg(!load(r, path, id, &err), "%s: %s", id, err.message);
}

static inline struct served *acquire(struct registry *r, const char *name)
{
    struct served *s;
    struct error err = {0};
    ck_assert_msg(!registry_acquire(r, name, &s, &err), "%s", err.message);
    return s;
}

/* "id:status,.." of all models, "*" before the default's, in a static place. */
static inline const char *listed(struct registry *r)
{
    static char text[1024];
    static const char *const states[] = {"?", "loading", "active", "failed", "unloading"};
    struct model_entry *list;
    size_t n, length = 0;
    ck_assert(registry_list(r, &list, &n));
    text[0] = '\0';
    for (size_t i = 0; i < n; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%s%s:%s", i ? "," : "", list[i].is_default ? "*" : "", list[i].id,
                                   states[list[i].status]);
    registry_list_free(list, n);
    return text;
}

#define expect_listed(r, expected) ck_assert_str_eq(listed(r), expected)

/* Generates n tokens and gives their hash. */
static inline uint64_t generate(struct served *s, uint32_t seed, uint32_t n)
{
    uint32_t ids[8];
    struct request q = harness_request(seed, ids, 8, n);
    q.ignore_eos = true;
    struct harness_answer *a = harness_finish(harness_submit(served_engine(s), &q));
    ck_assert_uint_eq(a->choices[0].n_tokens, n);
    uint64_t hash = kernel_hash(0, a->choices[0].ids, n * sizeof *a->choices[0].ids);
    free(a);
    return hash;
}

#endif
