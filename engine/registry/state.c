#include "engine/registry/state.h"

#include "base/log.h"
#include "kernels/kernels.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TITLE "bitnet-models 1"
#define MAX_BYTES ((size_t)16 << 20)
#define MAX_LINE (3 * (REGISTRY_PATH_BYTES + REGISTRY_ID_BYTES) + 32)

static const char *const format_names[] = {[TERNARY_I2S] = "i2s", [TERNARY_TL1] = "tl1", [TERNARY_TL2] = "tl2"};
#define N_FORMATS (sizeof format_names / sizeof *format_names)

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void put_value(struct buffer *out, const char *value, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c < ' ' || c == 127 || c == '%')
            buffer_printf(out, "%%%02X", c);
        else
            buffer_append_char(out, (char)c);
    }
    buffer_append_char(out, '\n');
}

static void put(struct buffer *out, const char *word, const char *value)
{
    buffer_append_str(out, word);
    buffer_append_char(out, ' ');
    put_value(out, value, strlen(value));
}

static void put_model(struct buffer *out, const struct state_model *m)
{
    put(out, "model", m->id);
    put(out, "path", m->source.path);
    for (const char *at = m->aliases; *at;) {
        size_t n = strcspn(at, ",");
        if (n) {
            buffer_append_str(out, "alias ");
            put_value(out, at, n);
        }
        at += n + (at[n] == ',');
    }
    if (m->source.device[0])
        put(out, "device", m->source.device);
    if (m->source.format != TERNARY_AUTO)
        put(out, "format", format_names[m->source.format]);
    if (m->source.kv_cache_bytes)
        buffer_printf(out, "kv_cache_bytes %zu\n", m->source.kv_cache_bytes);
    if (m->source.no_prefix_cache)
        put(out, "prefix_cache", "off");
}

bool state_print(const struct state *s, struct buffer *out)
{
    buffer_append_str(out, TITLE "\n");
    if (s->operator_path[0]) {
        buffer_printf(out, "operator %s ", s->operator_id);
        put_value(out, s->operator_path, strlen(s->operator_path));
    }
    if (s->default_id[0])
        put(out, "default", s->default_id);
    for (size_t i = 0; i < s->n_models; i++)
        put_model(out, &s->models[i]);
    return buffer_printf(out, "end %016" PRIx64 "\n", kernel_hash(0, out->data, out->n_bytes)) && !out->failed;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct reader {
    struct state *s;
    const char *at, *end;
    size_t line_number, capacity;
    char line[MAX_LINE], *value; /* the line's first word, and the rest */
    struct error *err;
};

#define refuse(r, ...) error_set((r)->err, ERROR_VALIDATION_FAILED, __VA_ARGS__)

static enum error_code odd_line(struct reader *r, const char *expected)
{
    return refuse(r, "line %zu: expected %s, found \"%.64s%s%.64s\"", r->line_number, expected, r->line, *r->value ? " " : "", r->value);
}

/* %XX back to bytes, in place; false when that is broken. */
static bool unescape(char *text)
{
    char *out = text;
    for (; *text; out++) {
        unsigned c = (unsigned char)*text++;
        if (c == '%' && (sscanf(text, "%2X", &c) != 1 || !text[0] || !text[1] || c == 0 || c > 255))
            return false;
        if (text[-1] == '%')
            text += 2;
        *out = (char)c;
    }
    *out = '\0';
    return true;
}

/* Takes the next line; false at the end of the text. */
static bool next_line(struct reader *r)
{
    const char *stop = memchr(r->at, '\n', (size_t)(r->end - r->at));
    size_t n = stop ? (size_t)(stop - r->at) : 0;
    if (!stop || n >= sizeof r->line)
        return false;
    memcpy(r->line, r->at, n);
    r->line[n] = '\0';
    r->at = stop + 1;
    r->line_number++;
    r->value = strchr(r->line, ' ');
    if (r->value)
        *r->value++ = '\0';
    else
        r->value = r->line + n;
    return true;
}

/* Copies a value; false when it is empty or too long. */
static bool take(char *value, char *out, size_t n)
{
    return unescape(value) && *value && (size_t)snprintf(out, n, "%s", value) < n;
}

static bool take_operator(struct reader *r)
{
    char *path = strchr(r->value, ' ');
    if (!path)
        return false;
    *path++ = '\0';
    return take(r->value, r->s->operator_id, sizeof r->s->operator_id) && take(path, r->s->operator_path, sizeof r->s->operator_path);
}

static bool add_model(struct reader *r)
{
    struct state *s = r->s;
    if (s->n_models == r->capacity) {
        size_t n = r->capacity ? 2 * r->capacity : 4;
        struct state_model *models = realloc(s->models, n * sizeof *models);
        if (!models)
            return false;
        s->models = models;
        r->capacity = n;
    }
    s->models[s->n_models] = (struct state_model){0};
    return take(r->value, s->models[s->n_models].id, REGISTRY_ID_BYTES) && ++s->n_models;
}

static bool add_alias(char *value, struct state_model *m)
{
    size_t n = strlen(m->aliases);
    if (n)
        m->aliases[n++] = ',';
    return take(value, m->aliases + n, sizeof m->aliases - n);
}

static bool take_format(const char *value, enum ternary_format *out)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (format_names[i] && strcmp(value, format_names[i]) == 0) {
            *out = (enum ternary_format)i;
            return true;
        }
    return false;
}

static bool take_size(const char *value, size_t *out)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(value, &end, 10);
    *out = (size_t)n;
    return *value >= '0' && *value <= '9' && !*end && !errno && n <= SIZE_MAX;
}

/* A line of a model's block. */
static bool take_model_line(struct reader *r, struct state_model *m)
{
    if (strcmp(r->line, "path") == 0)
        return take(r->value, m->source.path, sizeof m->source.path);
    if (strcmp(r->line, "alias") == 0)
        return add_alias(r->value, m);
    if (strcmp(r->line, "device") == 0)
        return take(r->value, m->source.device, sizeof m->source.device);
    if (strcmp(r->line, "format") == 0)
        return take_format(r->value, &m->source.format);
    if (strcmp(r->line, "kv_cache_bytes") == 0)
        return take_size(r->value, &m->source.kv_cache_bytes);
    m->source.no_prefix_cache = true;
    return strcmp(r->line, "prefix_cache") == 0 && strcmp(r->value, "off") == 0;
}

static bool take_line(struct reader *r)
{
    struct state *s = r->s;
    if (strcmp(r->line, "model") == 0)
        return add_model(r);
    if (s->n_models)
        return take_model_line(r, &s->models[s->n_models - 1]);
    if (strcmp(r->line, "operator") == 0)
        return take_operator(r);
    return strcmp(r->line, "default") == 0 && take(r->value, s->default_id, sizeof s->default_id);
}

/* The hash first, so that a torn file is told from a wrong one. */
static enum error_code check_whole(struct reader *r, const char *text)
{
    static const char end[] = "end 0123456789abcdef\n";
    size_t n = (size_t)(r->end - text), n_end = sizeof end - 1;
    char expected[sizeof end];
    if (n > n_end)
        snprintf(expected, sizeof expected, "end %016" PRIx64 "\n", kernel_hash(0, text, n - n_end));
    if (n <= n_end || memcmp(r->end - n_end, expected, n_end) != 0)
        return refuse(r, "the file of %zu bytes is not whole: its last line is not \"end\" and the hash of what is before it", n);
    r->end -= n_end;
    return ERROR_NONE;
}

static enum error_code parse(struct reader *r, const char *text)
{
    enum error_code code = check_whole(r, text);
    if (code)
        return code;
    if (!next_line(r) || strcmp(r->line, "bitnet-models") != 0 || strcmp(r->value, "1") != 0)
        return odd_line(r, "\"" TITLE "\"");
    while (r->at < r->end)
        if (!next_line(r) || !take_line(r))
            return odd_line(r, "a word of this version with its value");
    for (size_t i = 0; i < r->s->n_models; i++)
        if (!r->s->models[i].source.path[0])
            return refuse(r, "model %s: expected a path, found none", r->s->models[i].id);
    return ERROR_NONE;
}

enum error_code state_parse(const char *text, size_t n_bytes, struct state *out, struct error *err)
{
    struct reader r = {.s = out, .at = text, .end = text + n_bytes, .err = err};
    r.value = r.line;
    *out = (struct state){0};
    enum error_code code = parse(&r, text);
    if (code)
        state_fini(out);
    return code;
}

void state_fini(struct state *s)
{
    free(s->models);
    *s = (struct state){0};
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static enum error_code cannot(const char *what, const char *path, struct error *err)
{
    return error_set(err, ERROR_INTERNAL, "state file: cannot %s %s: %s", what, path, strerror(errno));
}

static bool write_all(int fd, const char *data, size_t n)
{
    while (n > 0) {
        ssize_t written = write(fd, data, n);
        if (written < 0 && errno != EINTR)
            return false;
        data += written > 0 ? written : 0;
        n -= written > 0 ? (size_t)written : 0;
    }
    return true;
}

static enum error_code write_file(const char *path, const struct buffer *text, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return cannot("create", path, err);
    enum error_code code = write_all(fd, text->data, text->n_bytes) && !fsync(fd) ? ERROR_NONE : cannot("write", path, err);
    if (close(fd) != 0 && !code)
        code = cannot("write", path, err);
    return code;
}

static int open_folder(const char *path)
{
    char copy[REGISTRY_PATH_BYTES];
    snprintf(copy, sizeof copy, "%s", path);
    return open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static enum error_code replace(const char *beside, const char *path, const struct state *s, struct error *err)
{
    struct buffer text;
    buffer_init(&text, MAX_BYTES);
    enum error_code code = state_print(s, &text) ? write_file(beside, &text, err)
                                                 : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the state file");
    buffer_fini(&text);
    if (!code && rename(beside, path) != 0)
        code = cannot("replace", path, err);
    if (code)
        unlink(beside);
    return code;
}

enum error_code state_save(const char *path, const struct state *s, struct error *err)
{
    char beside[REGISTRY_PATH_BYTES];
    if ((size_t)snprintf(beside, sizeof beside, "%s.new", path) >= sizeof beside)
        return error_set(err, ERROR_INTERNAL, "state file: its path is too long");
    int folder = open_folder(path);
    if (folder < 0)
        return cannot("open the folder of", path, err);
    enum error_code code = replace(beside, path, s, err);
    if (!code && fsync(folder) != 0) /* there it is, for all but a loss of power: no error, which would be one of a file that is as it was */
        log_warn("registry", "the folder of the state file cannot be synced", LOG_STR("path", path), LOG_STR("reason", strerror(errno)));
    close(folder);
    return code;
}

enum error_code state_load(const char *path, struct state *out, struct error *err)
{
    struct buffer text;
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_VALIDATION_FAILED, "cannot open %s: %s", path, strerror(errno));
    buffer_init(&text, MAX_BYTES);
    for (char *room; (room = buffer_reserve(&text, 65536)) && (n = read(fd, room, 65536)) > 0;)
        text.n_bytes += (size_t)n;
    enum error_code code = n ? error_set(err, ERROR_VALIDATION_FAILED, "cannot read %s: %s", path, n < 0 ? strerror(errno) : "too long")
                             : state_parse(text.data ? text.data : "", text.n_bytes, out, err);
    buffer_fini(&text);
    close(fd);
    return code;
}

void state_put_aside(const char *path)
{
    char aside[REGISTRY_PATH_BYTES + 16];
    snprintf(aside, sizeof aside, "%s.unreadable", path);
    rename(path, aside);
}
