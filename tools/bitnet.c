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
    {"devices", command_devices, "list what models can be served on, and whether it works"},
    {"healthcheck", command_healthcheck, "ask an engine or a gateway whether it is well, for probes without a shell"},
};

static void usage(FILE *out)
{
    fputs("usage: bitnet COMMAND [options]\n\n", out);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(out, "  %-18s %s\n", commands[i].name, commands[i].summary);
    fputs("\nbitnet COMMAND --help lists a command's options; bitnet --version says what this is.\n", out);
}

/* A manual page: of `bitnet` itself, or the head of a command's, which prints the rest. */
static void man(const struct command *command)
{
    struct buffer text;
    char name[64] = "bitnet";
    buffer_init(&text, 1 << 16);
    if (command)
        snprintf(name, sizeof name, "bitnet %s", command->name);
    option_man_title(name, 1, command ? command->summary : "runs, measures, checks and converts ternary language models",
                     BITNET_VERSION, &text);
    if (!command) {
        buffer_append_str(&text, ".SH SYNOPSIS\n\\fBbitnet\\fR \\fICOMMAND\\fR [options]\n.SH COMMANDS\nEach has a manual page, and --help.\n");
        for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
            buffer_printf(&text, ".TP\n\\fBbitnet\\-%s\\fR(1)\n%s\n", commands[i].name, commands[i].summary);
    }
    fputs(text.data ? text.data : "", stdout);
    buffer_fini(&text);
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
    if (strcmp(argv[1], "--help=man") == 0) {
        man(NULL);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        if (argc == 3 && strcmp(argv[2], "--help=man") == 0)
            man(&commands[i]);
        fflush(stdout);
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "bitnet: unknown command \"%s\"\n\n", argv[1]);
    usage(stderr);
    return 2;
}
