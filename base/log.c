/*
 * Structured logs. Levels are read without a lock: the components' table only ever grows, and an entry is published by
 * storing its count after its name.
 */
#include "base/log.h"

#include "base/buffer.h"
#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define MAX_COMPONENTS 32
#define MAX_NAME_BYTES 32
#define MAX_LINE_BYTES (32 * 1024)
#define BY_DEFAULT (-1)
#define TAIL_BYTES 32 /* kept free for the mark of a cut line and its end */

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

static struct {
    pthread_mutex_t lock; /* serialises log_set_level */
    _Atomic int format;   /* enum log_format */
    _Atomic int level;    /* of components without their own */
    atomic_size_t n;      /* release after names[n] is written; acquire before it is read */
    char names[MAX_COMPONENTS][MAX_NAME_BYTES + 1];
    _Atomic int levels[MAX_COMPONENTS]; /* BY_DEFAULT: that of the others */
    pthread_mutex_t write_lock; /* one thread looks for room and writes; guards what follows */
    uint64_t n_dropped;         /* lines since the last one that was written, whole */
    bool torn;                  /* the end of one of these is missing */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER, .write_lock = PTHREAD_MUTEX_INITIALIZER, .format = LOG_FORMAT_AUTO, .level = LOG_INFO};

void log_init(enum log_level level, enum log_format format)
{
    atomic_store(&state.level, (int)level);
    atomic_store(&state.format, (int)format);
}

/* Index of the component, or -1. */
static int find_component(const char *component)
{
    size_t n = atomic_load_explicit(&state.n, memory_order_acquire);
    for (size_t i = 0; i < n; i++)
        if (strcmp(state.names[i], component) == 0)
            return (int)i;
    return -1;
}

bool log_set_level(const char *component, enum log_level level)
{
    if (!component || !*component) {
        atomic_store(&state.level, (int)level);
        return true;
    }
    if (strlen(component) > MAX_NAME_BYTES)
        return false;
    pthread_mutex_lock(&state.lock);
    int at = find_component(component);
    size_t n = atomic_load(&state.n);
    bool ok = at >= 0 || n < MAX_COMPONENTS;
    if (at >= 0) {
        atomic_store(&state.levels[at], (int)level);
    } else if (ok) {
        strcpy(state.names[n], component);
        atomic_store(&state.levels[n], (int)level);
        atomic_store_explicit(&state.n, n + 1, memory_order_release);
    }
    pthread_mutex_unlock(&state.lock);
    return ok;
}

bool log_enabled(enum log_level level, const char *component)
{
    int at = find_component(component);
    int threshold = at >= 0 ? atomic_load_explicit(&state.levels[at], memory_order_relaxed) : BY_DEFAULT;
    if (threshold == BY_DEFAULT)
        threshold = atomic_load_explicit(&state.level, memory_order_relaxed);
    return level < LOG_OFF && (int)level >= threshold;
}

int log_level_from_name(const char *name)
{
    for (int level = LOG_DEBUG; name && level <= LOG_OFF; level++)
        if (strcmp(level_names[level], name) == 0)
            return level;
    return -1;
}

/* Whose lines there are, in either process. */
static bool is_component(const char *name)
{
    static const char *const components[] = {"engine", "gateway", "grpc", "latency", "registry", "rpc", "service", "trace"};
    for (size_t i = 0; i < sizeof components / sizeof *components; i++)
        if (strcmp(components[i], name) == 0)
            return true;
    return false;
}

/* One part of a list: "level" or "component=level"; component is "" for the former. */
static enum error_code read_part(const char *part, size_t n, char component[MAX_NAME_BYTES + 1], int *level, struct error *err)
{
    const char *equals = memchr(part, '=', n);
    size_t n_component = equals ? (size_t)(equals - part) : 0, n_level = equals ? n - n_component - 1 : n;
    char name[8] = "";
    if (n_level < sizeof name)
        memcpy(name, part + n - n_level, n_level);
    *level = log_level_from_name(name);
    if (*level < 0 || n_component > MAX_NAME_BYTES || (equals && n_component == 0))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "log-level",
                               "log-level: expected LEVEL or COMPONENT=LEVEL, separated by commas, with debug, info, warn, error or off; "
                               "found \"%.*s\"",
                               (int)(n < 64 ? n : 64), part);
    memcpy(component, part, n_component);
    component[n_component] = '\0';
    if (n_component > 0 && !is_component(component))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "log-level",
                               "log-level: expected a component (engine, gateway, grpc, latency, registry, rpc, service, trace), found \"%s\"",
                               component);
    return ERROR_NONE;
}

/* Reads the list and, when `apply`, sets what it says. */
static enum error_code each_part(const char *list, bool apply, struct error *err)
{
    enum error_code code = ERROR_NONE;
    bool had_default = false;
    size_t n_parts = 0;
    for (const char *p = list; !code;) {
        char component[MAX_NAME_BYTES + 1];
        int level;
        size_t n = strcspn(p, ",");
        code = read_part(p, n, component, &level, err);
        if (!code && ((component[0] == '\0' && had_default) || ++n_parts > MAX_COMPONENTS))
            code = error_set_param(err, ERROR_VALIDATION_FAILED, "log-level", "log-level: expected one level for all, and %d components at most",
                                   MAX_COMPONENTS - 1);
        had_default |= component[0] == '\0';
        if (!code && apply && !log_set_level(component, (enum log_level)level))
            code = error_set_param(err, ERROR_VALIDATION_FAILED, "log-level", "log-level: expected no more than %d components in a process's life",
                                   MAX_COMPONENTS);
        if (p[n] == '\0')
            break;
        p += n + 1;
    }
    return code;
}

enum error_code log_check_levels(const char *list, struct error *err)
{
    return each_part(list, false, err);
}

enum error_code log_set_levels(const char *list, struct error *err)
{
    enum error_code code = each_part(list, false, err);
    if (code)
        return code;
    log_set_level(NULL, LOG_INFO);
    for (size_t i = 0, n = atomic_load(&state.n); i < n; i++)
        atomic_store(&state.levels[i], BY_DEFAULT);
    return each_part(list, true, err);
}

void log_write_levels(struct buffer *out)
{
    buffer_append_str(out, level_names[atomic_load(&state.level)]);
    for (size_t i = 0, n = atomic_load_explicit(&state.n, memory_order_acquire); i < n; i++) {
        int level = atomic_load(&state.levels[i]);
        if (level != BY_DEFAULT)
            buffer_printf(out, ",%s=%s", state.names[i], level_names[level]);
    }
}

static void append_quoted(struct buffer *line, const char *text)
{
    buffer_append_char(line, '"');
    buffer_append_json(line, text, strlen(text));
    buffer_append_char(line, '"');
}

/* A word stands as it is, all else in quotes: a value can neither break the line nor look like another field. */
static void append_word(struct buffer *line, const char *text)
{
    bool word = *text != '\0';
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        word &= *c > ' ' && *c < 0x7F && *c != '"' && *c != '\\' && *c != '=';
    if (word)
        buffer_append_str(line, text);
    else
        append_quoted(line, text);
}

static void append_value(struct buffer *line, const struct log_field *field, bool json)
{
    switch (field->kind) {
    case LOG_KIND_STR:
        if (json)
            append_quoted(line, field->str);
        else
            append_word(line, field->str);
        break;
    case LOG_KIND_INT:
        buffer_printf(line, "%lld", (long long)field->i);
        break;
    case LOG_KIND_FLOAT:
        if (isfinite(field->f))
            buffer_printf(line, "%.9g", field->f);
        else
            buffer_append_str(line, "null"); /* JSON has no infinities */
        break;
    case LOG_KIND_BOOL:
        buffer_append_str(line, field->i ? "true" : "false");
        break;
    case LOG_KIND_END:
        break;
    }
}

/* Appends the field, or nothing when it would not leave room for the line's end. Returns false then. */
static bool append_field(struct buffer *line, const struct log_field *field, bool json)
{
    size_t before = line->n_bytes;
    buffer_append_str(line, json ? ",\"" : " ");
    buffer_append_json(line, field->key, strlen(field->key));
    buffer_append_str(line, json ? "\":" : "=");
    append_value(line, field, json);
    if (!line->failed && line->n_bytes <= MAX_LINE_BYTES - TAIL_BYTES)
        return true;
    line->n_bytes = before;
    line->failed = false;
    return false;
}

static void append_head(struct buffer *line, enum log_level level, const char *component, const char *message,
                        bool json)
{
    char ts[CLOCK_RFC3339_BYTES];
    clock_rfc3339(clock_wall_ns(), ts);
    if (!json) {
        buffer_printf(line, "%s %-5s %s: ", ts, level_names[level], component);
        buffer_append_json(line, message, strlen(message));
        return;
    }
    buffer_printf(line, "{\"ts\":\"%s\",\"level\":\"%s\",\"component\":", ts, level_names[level]);
    append_quoted(line, component);
    buffer_append_str(line, ",\"msg\":");
    append_quoted(line, message);
}

/* A pipe whose reader stands still must not hold the program up. A pipe that is writable has room for PIPE_BUF bytes. */
static bool has_room(void)
{
    struct pollfd fd = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&fd, 1, 0) != 0;
}

/* As much at a time as there is sure to be room for, so that most lines are one write(2). Gives how much there was no room for; a stderr that is
 * gone is not our failure. */
static size_t write_line(const char *data, size_t n_bytes)
{
    while (n_bytes > 0 && has_room()) {
        ssize_t n = write(STDERR_FILENO, data, n_bytes < PIPE_BUF ? n_bytes : PIPE_BUF);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return errno == EAGAIN ? n_bytes : 0;
        data += n;
        n_bytes -= (size_t)n;
    }
    return n_bytes;
}

/* Writes the line, or counts it as dropped. */
static void write_or_count(const struct buffer *line)
{
    size_t left = write_line(line->data, line->n_bytes);
    state.n_dropped += left > 0;
    state.torn |= left > 0 && left < line->n_bytes;
}

static void write_dropped(bool json)
{
    struct buffer line;
    const struct log_field count = LOG_INT("lines", state.n_dropped);
    buffer_init(&line, MAX_LINE_BYTES);
    if (state.torn)
        buffer_append_char(&line, '\n');
    append_head(&line, LOG_WARN, "log", "lines dropped, as there was no room for them", json);
    append_field(&line, &count, json);
    buffer_append_str(&line, json ? "}\n" : "\n");
    state.n_dropped = 0;
    state.torn = false;
    if (line.data && !line.failed)
        write_or_count(&line);
    buffer_fini(&line);
}

/* Writes the line, behind the number of those before it that were dropped, or drops it. */
static void write_or_drop(const struct buffer *line, bool json)
{
    pthread_mutex_lock(&state.write_lock);
    if (state.n_dropped > 0 && has_room())
        write_dropped(json);
    write_or_count(line);
    pthread_mutex_unlock(&state.write_lock);
}

void log_write(enum log_level level, const char *component, const char *message, const struct log_field *fields)
{
    if (level >= LOG_OFF)
        return;
    int saved_errno = errno; /* a log line between a call and the look at its errno must not change it */
    int format = atomic_load_explicit(&state.format, memory_order_relaxed);
    bool json = format == LOG_FORMAT_JSON || (format == LOG_FORMAT_AUTO && !isatty(STDERR_FILENO));

    struct buffer line;
    buffer_init(&line, MAX_LINE_BYTES);
    append_head(&line, level, component, message, json);
    if (line.failed || line.n_bytes > MAX_LINE_BYTES - TAIL_BYTES) {
        buffer_clear(&line);
        append_head(&line, level, component, "message too long", json);
    }
    bool whole = true;
    for (const struct log_field *field = fields; field->kind != LOG_KIND_END; field++)
        if (field->kind != LOG_KIND_STR || field->str)
            whole &= append_field(&line, field, json);
    if (!whole)
        buffer_append_str(&line, json ? ",\"truncated\":true" : " truncated=true");
    buffer_append_str(&line, json ? "}\n" : "\n");

    if (line.data && !line.failed)
        write_or_drop(&line, json);
    buffer_fini(&line);
    errno = saved_errno;
}
