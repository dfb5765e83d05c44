/*
 * Structured logs: one JSON object a line on stderr, or human text when stderr is a terminal.
 * No prompt text at info level or above. Any thread; a line of up to PIPE_BUF bytes is written by one write(2),
 * or dropped and counted where stderr is a pipe that nobody reads, of which a longer one may lose its end.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct buffer;

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };
enum log_format { LOG_FORMAT_AUTO, LOG_FORMAT_JSON, LOG_FORMAT_TEXT };

enum log_kind { LOG_KIND_END, LOG_KIND_STR, LOG_KIND_INT, LOG_KIND_FLOAT, LOG_KIND_BOOL };

/* One field of a line; use the LOG_ macros. Strings are borrowed for the call; a NULL string field is left out. */
struct log_field {
    const char *key;
    enum log_kind kind;
    const char *str;
    int64_t i;
    double f;
};

#define LOG_STR(k, v) ((struct log_field){.key = (k), .kind = LOG_KIND_STR, .str = (v)})
#define LOG_INT(k, v) ((struct log_field){.key = (k), .kind = LOG_KIND_INT, .i = (int64_t)(v)})
#define LOG_FLOAT(k, v) ((struct log_field){.key = (k), .kind = LOG_KIND_FLOAT, .f = (double)(v)})
#define LOG_BOOL(k, v) ((struct log_field){.key = (k), .kind = LOG_KIND_BOOL, .i = (v) ? 1 : 0})

/* log_info("engine", "model loaded", LOG_STR("model", id), LOG_INT("load_ms", ms)); fields are optional. */
#define log_debug(component, ...) LOG_AT(LOG_DEBUG, component, __VA_ARGS__)
#define log_info(component, ...) LOG_AT(LOG_INFO, component, __VA_ARGS__)
#define log_warn(component, ...) LOG_AT(LOG_WARN, component, __VA_ARGS__)
#define log_error(component, ...) LOG_AT(LOG_ERROR, component, __VA_ARGS__)
#define LOG_AT(level, component, ...)                                                                                  \
    LOG_PICK(level, component, __VA_ARGS__, ((struct log_field){.kind = LOG_KIND_END}))
#define LOG_PICK(level, component, message, ...)                                                                       \
    do {                                                                                                               \
        if (log_enabled((level), (component)))                                                                         \
            log_write((level), (component), (message), (const struct log_field[]){__VA_ARGS__});                       \
    } while (0)

/* Sets level and format for the process; before the first thread. The default is LOG_INFO and LOG_FORMAT_AUTO. */
void log_init(enum log_level level, enum log_format format);

/* Sets the level of one component ("engine", "rpc", ...; at most 32 bytes, at most 32 components); "" or NULL sets the
 * default of all. Returns false when the table is full. Any thread. */
bool log_set_level(const char *component, enum log_level level);

/* Sets all levels by a list such as "info,rpc=debug,grpc=off": one level for all components that it does not name ("info" when it gives
 * none), and those of components. VALIDATION_FAILED says what is not understood; then nothing is changed. Any thread. */
enum error_code log_set_levels(const char *list, struct error *err);

/* Whether log_set_levels would take the list. */
enum error_code log_check_levels(const char *list, struct error *err);

/* Appends the levels as log_set_levels takes them. Any thread. */
void log_write_levels(struct buffer *out);

/* True when a line of this level and component would be written. */
bool log_enabled(enum log_level level, const char *component);

/* Writes one line; `fields` ends with LOG_KIND_END. Use the macros. */
void log_write(enum log_level level, const char *component, const char *message, const struct log_field *fields);

/* "debug", "info", "warn", "error", "off" -> level; -1 when it is none of them. */
int log_level_from_name(const char *name);

#endif
