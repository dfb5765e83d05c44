/* bitnet: the command line. Links engine and kernels only; each command is a file of its own. */
#include "base/log.h"
#include "tools/command.h"
#include "version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"run", command_run, "continue a text, streaming to the terminal"},
    {"chat", command_chat, "talk with a model through its chat template"},
    {"tokenize", command_tokenize, "text to token ids, or back"},
    {"logits", command_logits, "teacher-forced logits of token sequences, raw f32"},
    {"perplexity", command_perplexity, "perplexity and bits per byte of a text"},
    {"compat-check", command_compat_check, "say whether, and how, a GGUF file can be served"},
    {"verify", command_verify, "read and run a whole file: is it what its maker meant?"},
    {"convert", command_convert, "a Hugging Face checkpoint to GGUF"},
    {"quantize", command_quantize, "convert between ternary types, and the embedding's type"},
    {"synth", command_synth, "write a model with random ternary weights, for benchmarks"},
    {"bench", command_bench, "measure prefill and decode speed"},
    {"benchmark-compare", command_benchmark_compare, "measure and compare with an earlier measurement"},
    {"crossval", command_crossval, "compare the served path with a reference: kernels, stored logits, a server"},
};

static void usage(FILE *out)
{
    fputs("usage: bitnet COMMAND [options]\n\n", out);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(out, "  %-18s %s\n", commands[i].name, commands[i].summary);
    fputs("\nbitnet COMMAND --help lists a command's options; bitnet --version says what this is.\n", out);
}

int main(int argc, char **argv)
{
    const char *level = getenv("BITNET_LOG_LEVEL");
    log_init(level && log_level_from_name(level) >= 0 ? (enum log_level)log_level_from_name(level) : LOG_WARN,
             LOG_FORMAT_AUTO);
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("bitnet %s (%s) features: %s\n", BITNET_VERSION, BITNET_GIT_SHA, BITNET_FEATURES);
        return 0;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "bitnet: unknown command \"%s\"\n\n", argv[1]);
    usage(stderr);
    return 2;
}
