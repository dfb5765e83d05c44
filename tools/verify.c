/* bitnet verify: whether a model file is whole and sound, by reading and running all of it. Exit status 0 = it is, 1 = it is not. */
#include "tools/command.h"

#include <stdio.h>
#include <string.h>

struct config {
    const char *i2s_order;
    bool json;
};

static const struct option_def defs[] = {
    {.name = "json", .type = OPTION_BOOL, .offset = offsetof(struct config, json), .help = "print one JSON object"},
    {.name = "i2s-order", .type = OPTION_CHOICE, .offset = offsetof(struct config, i2s_order), .default_value = "auto",
     .choices = "auto|128|64", .help = "packing of I2_S tensors in the file"},
    {.name = NULL}};

static const struct option_table table = {"bitnet verify", "usage: bitnet verify FILE [--json]\n", defs};

int command_verify(int argc, char **argv)
{
    struct config c = {0};
    struct option_result result = {0};
    command_parse(&table, argc, argv, &c, &result);
    if (result.n_args != 1) {
        fprintf(stderr, "bitnet verify: expected one GGUF file, found %d arguments\n", result.n_args);
        return 2;
    }
    struct error err = {0};
    struct buffer report;
    buffer_init(&report, 1 << 20);
    int order = strcmp(c.i2s_order, "64") == 0 ? I2S_ORDER_64 : strcmp(c.i2s_order, "128") == 0 ? I2S_ORDER_128 : -1;
    enum error_code code = model_verify(result.args[0], order, c.json, &report, &err);
    if (report.n_bytes)
        fwrite(report.data, 1, report.n_bytes, stdout);
    buffer_fini(&report);
    option_free(&table, &c);
    return code ? command_fail(&err) : 0;
}
