/*
 * Options. Values are set in the order default, file, environment, flags, each over the last, and each is checked: a wrong
 * value is an error even where a stronger source hides it. An empty environment variable counts as not set, because
 * deployment templates write those for values that were left out.
 */
#include "base/option_internal.h"

#include "base/utf8.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES (1024 * 1024)
#define WHERE_BYTES 256

/* ---- one value ---- */

static void *field(const struct option_def *def, void *config)
{
    return (char *)config + def->offset;
}

/* "an integer from 1 to 64", "true or false", ...: what the value should have been. */
static void describe(const struct option_def *def, struct buffer *out)
{
    char min[OPTION_NUMBER_BYTES], max[OPTION_NUMBER_BYTES];
    switch (def->type) {
    case OPTION_STRING:
        buffer_append_str(out, "a string without control characters");
        return;
    case OPTION_BOOL:
        buffer_append_str(out, "true or false");
        return;
    case OPTION_CHOICE:
        buffer_printf(out, "one of %s", def->choices);
        return;
    case OPTION_INT:
        buffer_append_str(out, "an integer");
        break;
    case OPTION_FLOAT:
        buffer_append_str(out, "a number");
        break;
    case OPTION_SIZE:
        buffer_append_str(out, "a size in bytes or with K, M or G");
        break;
    }
    if (option_has_range(def)) {
        option_number(def, def->min, min);
        option_number(def, def->max, max);
        buffer_printf(out, " from %s to %s", min, max);
    }
}

static bool in_range(const struct option_def *def, double v)
{
    return !option_has_range(def) || (v >= def->min && v <= def->max);
}

/* Parses a whole decimal integer; false on anything else. */
static bool parse_int(const char *text, char **end, int64_t *out)
{
    if (!isdigit((unsigned char)text[text[0] == '-' || text[0] == '+']))
        return false;
    errno = 0;
    long long v = strtoll(text, end, 10);
    *out = v;
    return errno == 0;
}

static bool set_int(const struct option_def *def, const char *text, int64_t *out)
{
    char *end;
    int64_t v;
    if (!parse_int(text, &end, &v) || *end || !in_range(def, (double)v))
        return false;
    *out = v;
    return true;
}

static bool set_size(const struct option_def *def, const char *text, int64_t *out)
{
    static const struct {
        const char *suffix;
        int shift;
    } units[] = {{"", 0}, {"K", 10}, {"KiB", 10}, {"M", 20}, {"MiB", 20}, {"G", 30}, {"GiB", 30}};
    char *end;
    int64_t v;
    if (!parse_int(text, &end, &v) || v < 0)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].suffix) != 0)
            continue;
        if (v > INT64_MAX >> units[i].shift || !in_range(def, (double)(v << units[i].shift)))
            return false;
        *out = v << units[i].shift;
        return true;
    }
    return false;
}

static bool set_float(const struct option_def *def, const char *text, double *out)
{
    char *end;
    if (!*text || isspace((unsigned char)*text))
        return false;
    double v = strtod(text, &end);
    if (*end || !isfinite(v) || !in_range(def, v))
        return false;
    *out = v;
    return true;
}

static bool set_bool(const char *text, bool *out)
{
    static const char *const words[2][4] = {{"false", "0", "no", "off"}, {"true", "1", "yes", "on"}};
    for (int value = 0; value < 2; value++)
        for (int i = 0; i < 4; i++)
            if (strcmp(text, words[value][i]) == 0) {
                *out = value;
                return true;
            }
    return false;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t n_text = strlen(text);
    for (const char *c = choices; *c;) {
        size_t n = strcspn(c, "|");
        if (n == n_text && memcmp(c, text, n) == 0)
            return true;
        c += n + (c[n] == '|');
    }
    return false;
}

static bool is_plain(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c < 0x20 || *c == 0x7F)
            return false;
    return utf8_valid(text, strlen(text), NULL);
}

/* Stores a checked copy in place of what was there; false when `text` is not acceptable, or with ENOMEM in errno. */
static bool set_text(const struct option_def *def, const char *text, const char **out)
{
    if (!is_plain(text) || (def->type == OPTION_CHOICE && !is_choice(def->choices, text)))
        return false;
    char *copy = strdup(text);
    if (!copy)
        return false;
    free((char *)*out);
    *out = copy;
    return true;
}

/* Sets the field of `def` from `text`; `where` says in an error where the text was found. */
static enum error_code set_value(const struct option_def *def, const char *text, const char *where, void *config,
                                 struct error *err)
{
    void *to = field(def, config);
    bool ok = false;
    errno = 0;
    switch (def->type) {
    case OPTION_STRING:
    case OPTION_CHOICE:
        ok = set_text(def, text, to);
        break;
    case OPTION_INT:
        ok = set_int(def, text, to);
        break;
    case OPTION_SIZE:
        ok = set_size(def, text, to);
        break;
    case OPTION_FLOAT:
        ok = set_float(def, text, to);
        break;
    case OPTION_BOOL:
        ok = set_bool(text, to);
        break;
    }
    if (ok)
        return ERROR_NONE;
    if (errno == ENOMEM)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "out of memory");
    struct buffer expected;
    buffer_init(&expected, 1024);
    describe(def, &expected);
    const char *what = expected.data ? expected.data : "a valid value";
    if (def->secret)
        error_set_param(err, ERROR_VALIDATION_FAILED, def->name, "%s: expected %s", where, what);
    else
        error_set_param(err, ERROR_VALIDATION_FAILED, def->name, "%s: expected %s, found '%s'", where, what, text);
    buffer_fini(&expected);
    return ERROR_VALIDATION_FAILED;
}

/* ---- names ---- */

static const struct option_def *find(const struct option_table *table, const char *name, size_t n_name)
{
    for (const struct option_def *def = table->defs; def->name; def++)
        if (strlen(def->name) == n_name && memcmp(def->name, name, n_name) == 0)
            return def;
    return NULL;
}

/* ---- sources, weakest first ---- */

static enum error_code apply_defaults(const struct option_table *table, void *config, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (const struct option_def *def = table->defs; !code && def->name; def++)
        if (def->default_value)
            code = set_value(def, def->default_value, "default", config, err);
    return code;
}

/* An error, rather than nothing: who wrote it there means something by it. */
static enum error_code refuse_source(const struct option_def *def, const char *where, struct error *err)
{
    return error_set_param(err, ERROR_VALIDATION_FAILED, def->name, "%s: expected --%s on the command line, where alone it may be given",
                           where, def->name);
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return text;
}

/* Sets one `name = value` line; spaces at a value's ends are kept by double quotes around it. `line` is changed. */
static enum error_code apply_line(const struct option_table *table, char *line, const char *path, size_t number,
                                  void *config, struct error *err)
{
    line = trim(line);
    if (*line == '\0' || *line == '#')
        return ERROR_NONE;
    char *equals = strchr(line, '=');
    if (!equals)
        return error_set(err, ERROR_VALIDATION_FAILED, "%s:%zu: expected 'name = value'", path, number);
    *equals = '\0';
    char *name = trim(line), *value = trim(equals + 1);
    size_t n = strlen(value);
    if (n >= 2 && value[0] == '"' && value[n - 1] == '"') {
        value[n - 1] = '\0';
        value++;
    }
    const struct option_def *def = find(table, name, strlen(name));
    if (!def)
        return error_set_param(err, ERROR_VALIDATION_FAILED, name, "%s:%zu: there is no option '%s'", path, number,
                               name);
    char where[WHERE_BYTES];
    snprintf(where, sizeof where, "%s:%zu: %s", path, number, name);
    if (def->flag_only)
        return refuse_source(def, where, err);
    return set_value(def, value, where, config, err);
}

static enum error_code read_file(const char *path, struct buffer *text, struct error *err)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "config", "cannot open %s: %s", path, strerror(errno));
    char chunk[4096];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, file)) > 0 && buffer_append(text, chunk, n))
        ;
    bool failed = ferror(file);
    fclose(file);
    if (failed)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "config", "cannot read %s: %s", path, strerror(errno));
    if (text->failed)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "config", "%s is larger than %d bytes", path,
                               MAX_FILE_BYTES);
    if (text->data && strlen(text->data) != text->n_bytes)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "config", "%s: expected text, found a zero byte", path);
    return ERROR_NONE;
}

static enum error_code apply_file(const struct option_table *table, const char *path, void *config, struct error *err)
{
    struct buffer text;
    buffer_init(&text, MAX_FILE_BYTES);
    enum error_code code = read_file(path, &text, err);
    char *rest = text.data;
    for (size_t number = 1; !code && rest; number++) {
        char *line = strsep(&rest, "\n");
        code = apply_line(table, line, path, number, config, err);
    }
    buffer_fini(&text);
    return code;
}

static enum error_code apply_environment(const struct option_table *table, void *config, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (const struct option_def *def = table->defs; !code && def->name; def++) {
        char name[OPTION_NAME_BYTES];
        option_variable(def->name, name);
        const char *value = getenv(name);
        if (value && *value)
            code = def->flag_only ? refuse_source(def, name, err) : set_value(def, value, name, config, err);
    }
    return code;
}

/* ---- flags ---- */

/* A flag of the command line, found before any is applied, because --config among them comes first. */
struct hit {
    const struct option_def *def;
    const char *value;
};

struct command_line {
    struct hit *hits; /* owned; room for argc */
    size_t n_hits;
    const char *config_path;
};

/* Is it one of the flags that every program has? Sets it in the result. */
static bool common_switch(const char *arg, struct option_result *result)
{
    if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)
        result->help = OPTION_HELP_TEXT;
    else if (strcmp(arg, "--help=man") == 0)
        result->help = OPTION_HELP_MAN;
    else if (strcmp(arg, "--help=config") == 0)
        result->help = OPTION_HELP_CONFIG;
    else if (strcmp(arg, "--version") == 0)
        result->version = true;
    else if (strcmp(arg, "--check-config") == 0)
        result->check_config = true;
    else
        return false;
    return true;
}

/* Reads the flag at argv[*i], and moves *i to its value when that is the next argument. */
static enum error_code read_flag(const struct option_table *table, int argc, char **argv, int *i,
                                 struct command_line *line, struct error *err)
{
    const char *arg = argv[*i], *name = arg + 2, *equals = strchr(name, '=');
    size_t n_name = equals ? (size_t)(equals - name) : strlen(name);
    bool is_config = n_name == 6 && memcmp(name, "config", 6) == 0;
    const struct option_def *def = is_config ? NULL : find(table, name, n_name);
    if (strncmp(arg, "--", 2) != 0 || (!def && !is_config))
        return error_set_param(err, ERROR_VALIDATION_FAILED, arg, "there is no option '%.*s'",
                               (int)(equals ? equals - arg : (ptrdiff_t)strlen(arg)), arg);
    if (def && def->secret) {
        char variable[OPTION_NAME_BYTES];
        option_variable(def->name, variable);
        return error_set_param(err, ERROR_VALIDATION_FAILED, def->name,
                               "--%s is a secret: expected it in %s or in the configuration file, found it as a flag",
                               def->name, variable);
    }
    const char *value = equals ? equals + 1 : NULL;
    if (!value && def && def->type == OPTION_BOOL)
        value = "true";
    else if (!value && *i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0)
        value = argv[++*i];
    if (!value)
        return error_set_param(err, ERROR_VALIDATION_FAILED, is_config ? "config" : def->name,
                               "--%.*s: expected a value after it", (int)n_name, name);
    if (is_config)
        line->config_path = value;
    else
        line->hits[line->n_hits++] = (struct hit){def, value};
    return ERROR_NONE;
}

/* Sorts argv into flags and positional arguments. Stops at --help and --version: nothing else matters then. */
static enum error_code read_command_line(const struct option_table *table, int argc, char **argv,
                                         struct command_line *line, struct option_result *result, struct error *err)
{
    bool only_args = false; /* behind "--" */
    for (int i = 1; i < argc; i++) {
        char *arg = argv[i];
        if (only_args || arg[0] != '-' || arg[1] == '\0') {
            if (result->n_args == (int)(sizeof result->args / sizeof *result->args))
                return error_set(err, ERROR_VALIDATION_FAILED, "expected at most %d arguments", result->n_args);
            result->args[result->n_args++] = arg;
        } else if (strcmp(arg, "--") == 0) {
            only_args = true;
        } else if (common_switch(arg, result)) {
            if (result->help || result->version)
                return ERROR_NONE;
        } else if (read_flag(table, argc, argv, &i, line, err)) {
            return ERROR_VALIDATION_FAILED;
        }
    }
    return ERROR_NONE;
}

static enum error_code apply_flags(const struct command_line *line, void *config, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (size_t i = 0; !code && i < line->n_hits; i++) {
        char where[WHERE_BYTES];
        snprintf(where, sizeof where, "--%s", line->hits[i].def->name);
        code = set_value(line->hits[i].def, line->hits[i].value, where, config, err);
    }
    return code;
}

enum error_code option_parse(const struct option_table *table, int argc, char **argv, void *config,
                             struct option_result *result, struct error *err)
{
    *result = (struct option_result){0};
    struct command_line line = {.hits = calloc((size_t)argc + 1, sizeof(struct hit))};
    if (!line.hits)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "out of memory");

    enum error_code code = apply_defaults(table, config, err);
    assert((!code || code == ERROR_MEMORY_EXHAUSTED) && "option: a default that its own table refuses");
    if (!code)
        code = read_command_line(table, argc, argv, &line, result, err);
    if (code || result->help || result->version)
        goto done;
    if (!line.config_path)
        line.config_path = getenv("BITNET_CONFIG");
    if (line.config_path && *line.config_path)
        code = apply_file(table, line.config_path, config, err);
    if (!code)
        code = apply_environment(table, config, err);
    if (!code)
        code = apply_flags(&line, config, err);

done:
    if (code)
        option_free(table, config);
    free(line.hits);
    return code;
}

void option_free(const struct option_table *table, void *config)
{
    for (const struct option_def *def = table->defs; def->name; def++)
        if (option_is_text(def)) {
            const char **text = field(def, config);
            free((char *)*text);
            *text = NULL;
        }
}
