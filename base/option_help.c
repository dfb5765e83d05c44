/* Options for people: the help in its three forms, and values as a configuration file. All of it is made from the table. */
#include "base/option_internal.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void option_variable(const char *name, char out[OPTION_NAME_BYTES])
{
    size_t n = (size_t)snprintf(out, OPTION_NAME_BYTES, "BITNET_%s", name);
    assert(n < OPTION_NAME_BYTES && "option: name too long");
    for (char *c = out; *c; c++)
        *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
}

void option_number(const struct option_def *def, double v, char out[OPTION_NUMBER_BYTES])
{
    if (def->type == OPTION_SIZE) {
        static const char units[] = "KMG";
        int64_t bytes = (int64_t)v;
        int unit = -1;
        while (unit < 2 && bytes != 0 && bytes % 1024 == 0) {
            bytes /= 1024;
            unit++;
        }
        snprintf(out, OPTION_NUMBER_BYTES, "%lld%.1s", (long long)bytes, unit < 0 ? "" : units + unit);
    } else {
        snprintf(out, OPTION_NUMBER_BYTES, "%.15g", v);
        if (strtod(out, NULL) != v)
            snprintf(out, OPTION_NUMBER_BYTES, "%.17g", v);
    }
}

/* ---- one option ---- */

static const char *placeholder(const struct option_def *def)
{
    static const char *const names[] = {[OPTION_STRING] = " TEXT", [OPTION_INT] = " N",   [OPTION_FLOAT] = " X",
                                        [OPTION_BOOL] = "",        [OPTION_CHOICE] = " ", [OPTION_SIZE] = " SIZE"};
    return names[def->type];
}

static const char *choices(const struct option_def *def)
{
    return def->type == OPTION_CHOICE ? def->choices : "";
}

/* "ms; 0..60000; default 0; BITNET_TARGET_ITL_MS" */
static void facts(const struct option_def *def, struct buffer *out)
{
    char variable[OPTION_NAME_BYTES], min[OPTION_NUMBER_BYTES], max[OPTION_NUMBER_BYTES];
    option_variable(def->name, variable);
    if (def->unit)
        buffer_printf(out, "%s; ", def->unit);
    if (option_has_range(def)) {
        option_number(def, def->min, min);
        option_number(def, def->max, max);
        buffer_printf(out, "%s..%s; ", min, max);
    }
    if (def->default_value && *def->default_value)
        buffer_printf(out, "default %s; ", def->default_value);
    buffer_append_str(out, def->flag_only ? "flag only" : variable);
}

/* The flags that every program has. */
static const struct {
    const char *flag, *value, *help, *variable;
} common[] = {
    {"config", " FILE", "Configuration file: lines of `name = value`, comments begin with #.", "BITNET_CONFIG"},
    {"check-config", "", "Check all values, print them as a configuration file, and exit.", NULL},
    {"version", "", "Print version and build, and exit.", NULL},
    {"help", "", "Print this, and exit; --help=man: as a manual page, --help=config: as a sample configuration file.",
     NULL},
};
#define N_COMMON (sizeof common / sizeof *common)

/* ---- for a terminal ---- */

static void help_one(const struct option_def *def, struct buffer *out)
{
    if (def->secret)
        buffer_printf(out, "  %s (not as a flag)\n", def->name);
    else
        buffer_printf(out, "  --%s%s%s\n", def->name, placeholder(def), choices(def));
    buffer_printf(out, "        %s\n        [", def->help);
    facts(def, out);
    buffer_append_str(out, "]\n");
}

static void help_text(const struct option_table *table, struct buffer *out)
{
    buffer_append_str(out, table->usage);
    buffer_append_str(out, "\nOptions (flag over environment variable over configuration file over default):\n");
    for (const struct option_def *def = table->defs; def->name; def++)
        help_one(def, out);
    for (size_t i = 0; i < N_COMMON; i++) {
        buffer_printf(out, "  --%s%s\n        %s\n", common[i].flag, common[i].value, common[i].help);
        if (common[i].variable)
            buffer_printf(out, "        [%s]\n", common[i].variable);
    }
}

/* ---- as a manual page ---- */

/* What roff would read as a request, an escape or a hyphen that it may break at. */
static void roff(const char *text, size_t n, struct buffer *out)
{
    for (size_t i = 0; i < n; i++) {
        bool begins = i == 0 || text[i - 1] == '\n';
        if (begins && (text[i] == '.' || text[i] == '\''))
            buffer_append_str(out, "\\&");
        if (text[i] == '\\')
            buffer_append_str(out, "\\e");
        else if (text[i] == '-')
            buffer_append_str(out, "\\-");
        else
            buffer_append_char(out, text[i]);
    }
}

static void roff_str(const char *text, struct buffer *out)
{
    roff(text, strlen(text), out);
}

/* A tagged paragraph: the flag in bold and its value's name, the help below. */
static void man_item(const char *flag, const char *value, const char *help, struct buffer *out)
{
    buffer_append_str(out, ".TP\n\\fB");
    roff_str(flag, out);
    buffer_append_str(out, "\\fR\\fI");
    roff_str(value, out);
    buffer_append_str(out, "\\fR\n");
    roff_str(help, out);
    buffer_append_char(out, '\n');
}

static void man_one(const struct option_def *def, struct buffer *out)
{
    struct buffer line;
    char flag[OPTION_NAME_BYTES + 24];
    buffer_init(&line, 4096);
    snprintf(flag, sizeof flag, def->secret ? "%s (not as a flag)" : "--%s", def->name);
    buffer_printf(&line, "%s%s", placeholder(def), choices(def));
    man_item(flag, line.data, def->help, out);
    buffer_clear(&line);
    facts(def, &line);
    buffer_append_str(out, ".br\n[");
    roff(line.data, line.n_bytes, out);
    buffer_append_str(out, "]\n");
    buffer_fini(&line);
}

/* The usage text: lines up to an empty one are the synopsis, what follows is the description. */
static void man_usage(const char *usage, struct buffer *out)
{
    const char *end = strstr(usage, "\n\n");
    size_t n = end ? (size_t)(end - usage) : strlen(usage);
    buffer_append_str(out, ".SH SYNOPSIS\n.nf\n");
    for (const char *line = usage; line < usage + n;) {
        size_t n_line = strcspn(line, "\n"), skip = strspn(line, " ");
        skip = strncmp(line, "usage: ", 7) == 0 ? 7 : skip;
        roff(line + skip, n_line - skip, out);
        buffer_append_char(out, '\n');
        line += n_line + (line[n_line] == '\n');
    }
    buffer_append_str(out, ".fi\n");
    if (!end || !end[2])
        return;
    buffer_append_str(out, ".SH DESCRIPTION\n");
    roff_str(end + 2, out);
    if (end[strlen(end) - 1] != '\n')
        buffer_append_char(out, '\n');
}

static void help_man(const struct option_table *table, struct buffer *out)
{
    man_usage(table->usage, out);
    buffer_append_str(
        out,
        ".SH OPTIONS\nA flag wins over the environment variable in brackets, which wins over the configuration file, "
        "which wins over the default.\n");
    for (const struct option_def *def = table->defs; def->name; def++)
        man_one(def, out);
    for (size_t i = 0; i < N_COMMON; i++) {
        char flag[OPTION_NAME_BYTES];
        snprintf(flag, sizeof flag, "--%s", common[i].flag);
        man_item(flag, common[i].value, common[i].help, out);
        if (common[i].variable)
            buffer_printf(out, ".br\n[%s]\n", common[i].variable);
    }
}

void option_man_title(const char *name, int section, const char *summary, const char *version, struct buffer *out)
{
    buffer_append_str(out, ".TH \"");
    for (const char *c = name; *c; c++)
        buffer_append_char(out, *c == ' ' ? '-' : (char)toupper((unsigned char)*c));
    buffer_printf(out, "\" %d \"\" \"bitnetd %s\" \"bitnetd\"\n.SH NAME\n", section, version);
    for (const char *c = name; *c; c++)
        if (*c == ' ' || *c == '-')
            buffer_append_str(out, "\\-");
        else
            buffer_append_char(out, *c);
    buffer_append_str(out, " \\- ");
    roff_str(summary, out);
    buffer_append_char(out, '\n');
}

/* ---- as a configuration file ---- */

static void sample_one(const struct option_def *def, struct buffer *out)
{
    static const char *const zeros[] = {[OPTION_STRING] = "",    [OPTION_INT] = "0",   [OPTION_FLOAT] = "0",
                                        [OPTION_BOOL] = "false", [OPTION_CHOICE] = "", [OPTION_SIZE] = "0"};
    if (def->flag_only)
        return;
    const char *value = def->default_value ? def->default_value : zeros[def->type];
    buffer_printf(out, "\n# %s\n# [", def->help);
    if (def->choices)
        buffer_printf(out, "%s; ", def->choices);
    facts(def, out);
    buffer_printf(out, "]\n#%s =%s%s\n", def->name, *value ? " " : "", value);
}

static void help_config(const struct option_table *table, struct buffer *out)
{
    buffer_printf(out,
                  "# Configuration of %s: lines of `name = value`, comments begin with #.\n"
                  "# Each option stands here with its default; take the # in front of it away to set it.\n"
                  "# A flag (--name) or a variable (in brackets) wins over this file.\n"
                  "# `%s --config FILE --check-config` checks a file and prints the values in effect.\n",
                  table->program, table->program);
    for (const struct option_def *def = table->defs; def->name; def++)
        sample_one(def, out);
}

void option_help(const struct option_table *table, enum option_help form, struct buffer *out)
{
    switch (form) {
    case OPTION_HELP_NONE:
        break;
    case OPTION_HELP_TEXT:
        help_text(table, out);
        break;
    case OPTION_HELP_MAN:
        help_man(table, out);
        break;
    case OPTION_HELP_CONFIG:
        help_config(table, out);
        break;
    }
}

/* ---- the values in effect ---- */

/* Quotes keep what trimming would take away: spaces at the ends, and quotes that are part of the value. */
static void dump_text(const char *text, struct buffer *out)
{
    size_t n = strlen(text);
    bool quotes = n == 0 || text[0] == ' ' || text[n - 1] == ' ' || (n >= 2 && text[0] == '"' && text[n - 1] == '"');
    buffer_printf(out, quotes ? "\"%s\"" : "%s", text);
}

static void dump_one(const struct option_def *def, const void *config, struct buffer *out)
{
    const void *from = (const char *)config + def->offset;
    const char *text = option_is_text(def) ? *(const char *const *)from : NULL;
    char number[OPTION_NUMBER_BYTES];
    if (def->secret) { /* a comment, so that reading the dump back does not set the placeholder */
        buffer_printf(out, "# %s = %s\n", def->name, text && *text ? "(set)" : "(unset)");
        return;
    }
    if (option_is_text(def) && !text) {
        buffer_printf(out, "# %s =\n", def->name);
        return;
    }
    buffer_printf(out, "%s%s = ", def->flag_only ? "# flag only: " : "", def->name);
    switch (def->type) {
    case OPTION_STRING:
    case OPTION_CHOICE:
        dump_text(text, out);
        break;
    case OPTION_INT:
        buffer_printf(out, "%lld", (long long)*(const int64_t *)from);
        break;
    case OPTION_SIZE:
        option_number(def, (double)*(const int64_t *)from, number);
        buffer_append_str(out, number);
        break;
    case OPTION_FLOAT:
        option_number(def, *(const double *)from, number);
        buffer_append_str(out, number);
        break;
    case OPTION_BOOL:
        buffer_append_str(out, *(const bool *)from ? "true" : "false");
        break;
    }
    buffer_append_char(out, '\n');
}

void option_dump(const struct option_table *table, const void *config, struct buffer *out)
{
    for (const struct option_def *def = table->defs; def->name; def++)
        dump_one(def, config, out);
}
