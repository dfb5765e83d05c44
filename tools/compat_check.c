/* bitnet compat-check: whether, and how, a GGUF file can be served. Exit status 0 = it can, 1 = it cannot. */
#include "tools/command.h"

#include <stdio.h>

struct config {
    const char *model;
    bool json, show_kv, strict;
};

static const struct option_def defs[] = {
    {.name = "model", .type = OPTION_STRING, .offset = offsetof(struct config, model), .help = "GGUF file (or as an argument)"},
    {.name = "json", .type = OPTION_BOOL, .offset = offsetof(struct config, json), .help = "print one JSON object"},
    {.name = "show-kv", .type = OPTION_BOOL, .offset = offsetof(struct config, show_kv), .help = "list all keys"},
    {.name = "strict", .type = OPTION_BOOL, .offset = offsetof(struct config, strict),
     .help = "fail also when something is guessed or missing: packing, tokenizer, pre-tokenizer, chat template"},
    {.name = NULL}};

static const struct option_table table = {"bitnet compat-check", "usage: bitnet compat-check FILE [--json] [--show-kv] [--strict]\n", defs};

int command_compat_check(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", NULL};
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &c, &result);
    const char *path = c.model ? c.model : result.n_args > 0 ? result.args[0] : NULL;
    if (!path) {
        fputs("bitnet compat-check: a GGUF file is required\n", stderr);
        return 2;
    }
    struct error err = {0};
    struct buffer report;
    buffer_init(&report, 64 << 20);
    enum error_code code = model_compat_check(path, c.json, c.show_kv, c.strict, &report, &err);
    if (report.n_bytes)
        fwrite(report.data, 1, report.n_bytes, stdout);
    buffer_fini(&report);
    int status = code ? command_fail(&err) : 0;
    option_free(&table, &c);
    return status;
}
