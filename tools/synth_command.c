/* bitnet synth: the command around synth.h. */
#include "tools/command.h"
#include "tools/synth.h"

#include <stdio.h>

struct config {
    const char *output, *preset, *vocab, *pooling;
    int64_t seed, layers;
    bool not_causal;
};

static const struct option_def defs[] = {
    {.name = "preset", .type = OPTION_CHOICE, .offset = offsetof(struct config, preset), .default_value = "2b4t",
     .choices = "2b4t|0.7b|8b|0.6b|tiny|tiny-qwen3", .help = "whose shape"},
    {.name = "output", .type = OPTION_STRING, .offset = offsetof(struct config, output), .help = "GGUF file to write (required)"},
    {.name = "vocab", .type = OPTION_STRING, .offset = offsetof(struct config, vocab),
     .help = "tiktoken rank file of the Llama-3 vocabulary; without it bytes and placeholders"},
    {.name = "seed", .type = OPTION_INT, .offset = offsetof(struct config, seed), .default_value = "1", .min = 0, .max = 9e15,
     .help = "of the random weights"},
    {.name = "layers", .type = OPTION_INT, .offset = offsetof(struct config, layers), .default_value = "0", .min = 0, .max = 1000,
     .help = "layers to write; 0 = the preset's"},
    {.name = "pooling", .type = OPTION_CHOICE, .offset = offsetof(struct config, pooling), .default_value = "none",
     .choices = "none|mean|cls|last", .help = "makes a model that computes embeddings"},
    {.name = "not-causal", .type = OPTION_BOOL, .offset = offsetof(struct config, not_causal),
     .help = "of a model that computes embeddings: each token sees the whole text"},
    {.name = NULL}};

static const struct option_table table = {"bitnet synth", "usage: bitnet synth --preset 2b4t -o FILE\n", defs};

static void on_progress(void *user, uint64_t n_done, uint64_t n_total)
{
    progress_show(user, "synth", (double)n_done / 1e6, (double)n_total / 1e6, "MB");
}

int command_synth(int argc, char **argv)
{
    static const char *const map[] = {"o", "--output", NULL};
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &c, &result);
    if (!c.output) {
        fputs("bitnet synth: --output FILE is required\n", stderr);
        return 2;
    }
    struct error err = {0};
    struct progress progress = {0};
    struct synth_options options = {.path = c.output, .preset = c.preset, .vocab_path = c.vocab, .seed = (uint64_t)c.seed,
                                    .n_layers = (uint32_t)c.layers, .pooling = c.pooling, .not_causal = c.not_causal, .on_progress = on_progress, .user = &progress};
    enum error_code code = synth_write(&options, &err);
    progress_end(&progress);
    option_free(&table, &c);
    return code ? command_fail(&err) : 0;
}
