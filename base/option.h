/*
 * Options: one table in each program is the only source of its flags, environment variables, configuration file keys,
 * defaults, ranges and help text. Order of precedence: flag, environment, file, default.
 *
 *   --queue-limit 64   BITNET_QUEUE_LIMIT=64   queue-limit = 64
 */
#ifndef BASE_OPTION_H
#define BASE_OPTION_H

#include "base/buffer.h"
#include "base/error.h"

#include <stddef.h>

enum option_type {
    OPTION_STRING, /* const char *  (owned by the set) */
    OPTION_INT,    /* int64_t, min..max */
    OPTION_FLOAT,  /* double, min..max */
    OPTION_BOOL,   /* bool; flag alone, or =true|false */
    OPTION_CHOICE, /* const char *, one of `choices` ("a|b|c") */
    OPTION_SIZE,   /* int64_t bytes, with suffix K M G (powers of 1024) or KiB MiB GiB */
};

struct option_def {
    const char *name; /* "queue-limit": flag --queue-limit, file key, BITNET_QUEUE_LIMIT */
    enum option_type type;
    size_t offset;             /* of the field in the program's configuration struct */
    const char *default_value; /* as it would be written, or NULL (string: NULL, others: 0/false) */
    double min, max;           /* for numbers */
    const char *choices;
    const char *unit; /* "ms", "bytes", ... or NULL */
    bool secret;      /* never as a flag, never printed */
    bool flag_only;   /* never from the environment or a file: what nobody may get by mistake */
    const char *help; /* one sentence */
};

/* The program's table; `defs` ends with a NULL name. */
struct option_table {
    const char *program; /* "bitnet-engine" */
    const char *usage;   /* text in front of the options in --help */
    const struct option_def *defs;
};

/* The forms of the help. */
enum option_help {
    OPTION_HELP_NONE,
    OPTION_HELP_TEXT,  /* --help: for a terminal */
    OPTION_HELP_MAN,   /* --help=man: sections of a man page, from SYNOPSIS on; option_man_title writes what is before them */
    OPTION_HELP_CONFIG /* --help=config: a sample configuration file, all defaults in comments */
};

/* What option_parse found apart from values. */
struct option_result {
    enum option_help help;      /* --help was given, in this form */
    bool version, check_config; /* --version, --check-config were given */
    int n_args;                       /* what is left: positional arguments, in argv's order */
    char *args[32];                   /* borrowed from argv */
};

/* Fills `config` (the program's struct, zeroed) from argv, the environment and the file named by --config or
 * BITNET_CONFIG. Unknown flags and keys, values out of range and unreadable files are errors that name the option and
 * what was expected. Strings live until option_free. */
enum error_code option_parse(const struct option_table *table, int argc, char **argv, void *config,
                             struct option_result *result, struct error *err);

/* Frees the strings that option_parse put into `config`. */
void option_free(const struct option_table *table, void *config);

/* Appends the help in a form that is not NONE: every option with its default, range and variable. */
void option_help(const struct option_table *table, enum option_help form, struct buffer *out);

/* Appends the head of a man page: `name` as it is called ("bitnet run"), the manual's section, one line that says what it is. */
void option_man_title(const char *name, int section, const char *summary, const char *version, struct buffer *out);

/* Appends the effective values as a configuration file; secrets are shown as "(set)" or "(unset)". */
void option_dump(const struct option_table *table, const void *config, struct buffer *out);

#endif
