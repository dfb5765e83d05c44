/*
 * bitnet convert: a checkpoint of Hugging Face's form (config.json, tokenizer.json, model.safetensors) as one GGUF file with I2_S weights. What
 * would be lost or guessed is refused. The output is there when it is whole.
 */
#include "tools/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct config {
    const char *name, *license, *description, *pre;
};

static const struct option_def defs[] = {
    {.name = "name", .type = OPTION_STRING, .offset = offsetof(struct config, name), .help = "general.name; the folder's by default"},
    {.name = "license", .type = OPTION_STRING, .offset = offsetof(struct config, license), .help = "general.license"},
    {.name = "description", .type = OPTION_STRING, .offset = offsetof(struct config, description), .help = "general.description"},
    {.name = "pre", .type = OPTION_CHOICE, .offset = offsetof(struct config, pre), .default_value = "auto",
     .choices = "auto|llama-bpe|qwen2|gpt-2|falcon", .help = "how the tokenizer cuts words; auto = by tokenizer.json"},
    {.name = NULL}};

static const struct option_table table = {"bitnet convert", "usage: bitnet convert DIR OUT.gguf [--name NAME]\n", defs};

/* Reads a JSON file of the folder; one that is not there leaves out->json NULL. */
static enum error_code read_json(const char *folder, const char *name, struct convert_json *out, struct error *err)
{
    char path[4096];
    struct error why = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    buffer_init(&out->text, (size_t)64 << 20);
    if (!command_read_file(path, &out->text, &why))
        return why.code == ERROR_NOT_FOUND ? ERROR_NONE : error_set(err, why.code, "%s", why.message);
    enum error_code code = json_open(out->text.data ? out->text.data : "", out->text.n_bytes, &out->json, err);
    if (code)
        error_prefix(err, "%s", path);
    return code;
}

static void close_json(struct convert_json *j)
{
    json_close(j->json);
    buffer_fini(&j->text);
}

static enum error_code run(struct convert *c, struct error *err)
{
    enum error_code code = safetensors_open(c->folder, &c->weights, err);
    if (!code)
        code = read_json(c->folder, "config.json", &c->config, err);
    if (!code)
        code = read_json(c->folder, "tokenizer.json", &c->tokenizer, err);
    if (!code)
        code = read_json(c->folder, "tokenizer_config.json", &c->tokenizer_config, err);
    if (!code)
        code = read_json(c->folder, "1_Pooling/config.json", &c->pooling, err);
    if (!code)
        code = convert_read_config(c, err);
    if (!code)
        code = gguf_writer_open(c->out, &c->writer, err);
    if (!code)
        code = convert_write_keys(c, err);
    if (!code)
        code = convert_declare_tensors(c, err);
    if (!code)
        code = convert_write_tensors(c, err);
    return code ? code : gguf_writer_finish(c->writer, err);
}

int command_convert(int argc, char **argv)
{
    struct config o = {0};
    struct option_result result = {0};
    struct error err = {0};
    command_parse(&table, argc, argv, &o, &result);
    if (result.n_args != 2) {
        fprintf(stderr, "bitnet convert: expected a folder and the file to write, found %d arguments\n", result.n_args);
        return 2;
    }
    struct convert c = {.folder = result.args[0], .out = result.args[1], .name = o.name, .license = o.license,
                        .description = o.description, .pre = strcmp(o.pre, "auto") == 0 ? NULL : o.pre};
    enum error_code code = run(&c, &err);
    progress_end(&c.progress);
    gguf_writer_close(c.writer);
    close_json(&c.config);
    close_json(&c.tokenizer);
    close_json(&c.tokenizer_config);
    close_json(&c.pooling);
    safetensors_close(c.weights);
    option_free(&table, &o);
    return code ? command_fail(&err) : 0;
}
