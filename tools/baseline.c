/* The folder of baselines. A file is written beside its place and renamed, so that it is whole or not there. */
#include "tools/command.h"
#include "tools/compare.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".json"
#define MAX_FILE_BYTES ((size_t)4 << 20)

static enum error_code too_long(struct error *err)
{
    return error_set(err, ERROR_VALIDATION_FAILED, "the path of the folder of baselines is too long");
}

enum error_code baseline_folder(const char *option, char out[BASELINE_PATH_BYTES], struct error *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;
    if (option && *option)
        n = snprintf(out, BASELINE_PATH_BYTES, "%s", option);
    else if (state && state[0] == '/') /* the specification ignores others */
        n = snprintf(out, BASELINE_PATH_BYTES, "%s/bitnet/benchmarks", state);
    else if (home && *home)
        n = snprintf(out, BASELINE_PATH_BYTES, "%s/.local/state/bitnet/benchmarks", home);
    else
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "expected --baseline-dir, XDG_STATE_HOME or HOME to say where baselines are kept");
    return n < BASELINE_PATH_BYTES ? ERROR_NONE : too_long(err);
}

static bool has_suffix(const char *name)
{
    size_t n = strlen(name), k = strlen(SUFFIX);
    return n > k && strcmp(name + n - k, SUFFIX) == 0;
}

static bool is_later(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec > b->tv_nsec);
}

/* The file of the folder that was written last; of several the one whose name is last. */
static bool find_latest(const char *folder, char out[BASELINE_PATH_BYTES])
{
    DIR *dir = opendir(folder);
    char path[BASELINE_PATH_BYTES];
    struct timespec newest = {0};
    struct stat st;
    out[0] = '\0';
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.' || !has_suffix(e->d_name) ||
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= (int)sizeof path || stat(path, &st))
            continue;
        if (out[0] && (is_later(&newest, &st.st_mtim) || (!is_later(&st.st_mtim, &newest) && strcmp(path, out) < 0)))
            continue;
        newest = st.st_mtim;
        strcpy(out, path);
    }
    if (dir)
        closedir(dir);
    return out[0] != '\0';
}

enum error_code baseline_find(const char *folder, const char *which, char out[BASELINE_PATH_BYTES], struct error *err)
{
    if (strcmp(which, "latest") == 0) {
        if (find_latest(folder, out))
            return ERROR_NONE;
        return error_set(err, ERROR_NOT_FOUND, "expected a baseline in %.300s, found none: --save NAME makes one",
                         folder);
    }
    bool is_file = strchr(which, '/') || has_suffix(which);
    int n = is_file ? snprintf(out, BASELINE_PATH_BYTES, "%s", which)
                    : snprintf(out, BASELINE_PATH_BYTES, "%s/%s" SUFFIX, folder, which);
    if (n >= BASELINE_PATH_BYTES)
        return too_long(err);
    if (access(out, R_OK) == 0)
        return ERROR_NONE;
    return error_set(err, ERROR_NOT_FOUND, "cannot read the baseline %.300s: %s", out, strerror(errno));
}

enum error_code baseline_load(const char *path, struct bench_report *out, struct error *err)
{
    struct buffer text;
    buffer_init(&text, MAX_FILE_BYTES);
    enum error_code code = ERROR_NONE;
    if (!command_read_file(path, &text, err))
        code = ERROR_VALIDATION_FAILED;
    else if ((code = bench_report_read(text.data ? text.data : "", text.n_bytes, out, err)))
        error_prefix(err, "%.300s", path);
    buffer_fini(&text);
    return code;
}

enum error_code baseline_check_name(const char *name, struct error *err)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    size_t n = strlen(name);
    if (n > 0 && n <= 100 && name[0] != '.' && strspn(name, allowed) == n && strcmp(name, "latest") != 0 &&
        !has_suffix(name))
        return ERROR_NONE;
    return error_set_param(
        err, ERROR_VALIDATION_FAILED, "save",
        "--save: expected a name of letters, digits, '.', '-' and '_' other than latest, without " SUFFIX
        ", found \"%.100s\"",
        name);
}

/* Makes a folder and those above it. */
static bool make_folders(const char *folder)
{
    char path[BASELINE_PATH_BYTES];
    snprintf(path, sizeof path, "%s", folder);
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(path, 0777) && errno != EEXIST)
            return false;
        *p = '/';
    }
    return !mkdir(path, 0777) || errno == EEXIST;
}

static bool write_file(const char *path, const struct buffer *text)
{
    FILE *f = fopen(path, "wb");
    if (!f)
        return false;
    bool ok = fwrite(text->data, 1, text->n_bytes, f) == text->n_bytes;
    return fclose(f) == 0 && ok;
}

enum error_code baseline_save(const char *folder, const char *name, const struct bench_report *r, struct error *err)
{
    char path[BASELINE_PATH_BYTES], part[BASELINE_PATH_BYTES + 16];
    struct buffer text;
    enum error_code code = baseline_check_name(name, err);
    if (code)
        return code;
    if (snprintf(path, sizeof path, "%s/%s" SUFFIX, folder, name) >= (int)sizeof path)
        return too_long(err);
    snprintf(part, sizeof part, "%s.part", path);
    buffer_init(&text, MAX_FILE_BYTES);
    bench_report_write(r, &text);
    if (text.failed) {
        code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the text of a baseline");
    } else if (!make_folders(folder) || !write_file(part, &text) || rename(part, path)) {
        code = error_set(err, ERROR_INTERNAL, "cannot write %.300s: %s", path, strerror(errno));
        unlink(part);
    }
    buffer_fini(&text);
    return code;
}
