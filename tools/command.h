/*
 * What the commands of `bitnet` share: the model's options, short flags, progress bars, ends with an error. A command is one file
 * with one `command_*` function: it parses its options with base/option.h, does its work and returns the exit status
 * (0 = done, 1 = failed, 2 = wrong usage). Results go to stdout, everything else to stderr.
 */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "base/option.h"
#include "engine/engine.h"

#include <stddef.h>

int command_run(int argc, char **argv);
int command_chat(int argc, char **argv);
int command_tokenize(int argc, char **argv);
int command_logits(int argc, char **argv);
int command_perplexity(int argc, char **argv);
int command_compat_check(int argc, char **argv);
int command_synth(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_quantize(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_benchmark_compare(int argc, char **argv); /* exit 1 = slower, 2 = all errors */
int command_crossval(int argc, char **argv);          /* exit 1 = beyond a limit, 2 = could not be compared */
int command_devices(int argc, char **argv);
int command_healthcheck(int argc, char **argv);       /* exit 1 = not well, or no answer */

/* The options of every command that loads a model; the first member of its configuration struct. */
struct model_flags {
    const char *model, *device, *isa, *quantization, *i2s_order, *kv_type, *numa;
    int64_t threads;
    bool pin;
};

#define MODEL_FLAGS_FIXED                                                                                              \
    {.name = "model", .type = OPTION_STRING, .offset = offsetof(struct model_flags, model), .help = "GGUF file (required)"},   \
    {.name = "device", .type = OPTION_STRING, .offset = offsetof(struct model_flags, device), .default_value = "auto", \
     .help = "auto, cpu, gpu or cuda:N; auto and gpu fall back to the CPU"},                                           \
    {.name = "isa", .type = OPTION_STRING, .offset = offsetof(struct model_flags, isa),                                \
     .help = "highest instruction set to use (x86-64: portable, avx2, avx512, amx; aarch64: portable, neon, dotprod); "        \
             "the best there is by default"},                                                                          \
    {.name = "i2s-order", .type = OPTION_CHOICE, .offset = offsetof(struct model_flags, i2s_order),                    \
     .default_value = "auto", .choices = "auto|128|64", .help = "packing of I2_S tensors in the file"},                \
    {.name = "pin", .type = OPTION_BOOL, .offset = offsetof(struct model_flags, pin),                                  \
     .help = "keep each compute thread but the first to a CPU of its own"},                                            \
    {.name = "numa", .type = OPTION_CHOICE, .offset = offsetof(struct model_flags, numa), .default_value = "auto",      \
     .choices = "auto|interleave|off", .help = "where weights lie on machines with several memory nodes"},          \
    {.name = "kv-type", .type = OPTION_CHOICE, .offset = offsetof(struct model_flags, kv_type), .default_value = "f16", \
     .choices = "f16|int8", .help = "values of the KV cache"}
/* And those that a benchmark has lists for. */
#define MODEL_FLAGS                                                                                                    \
    MODEL_FLAGS_FIXED,                                                                                                 \
    {.name = "quantization", .type = OPTION_CHOICE, .offset = offsetof(struct model_flags, quantization),              \
     .default_value = "auto", .choices = "auto|i2s|tl1|tl2", .help = "layout that the ternary kernels read"},          \
    {.name = "threads", .type = OPTION_INT, .offset = offsetof(struct model_flags, threads), .default_value = "0",     \
     .min = 0, .max = 1024, .help = "compute threads; 0 = what the machine and its cgroup offer"}

/* -m becomes --model, and so on. `map` is pairs "m", "model", ..., NULL; argv is changed in place (entries replaced). */
void command_expand_short(int argc, char **argv, const char *const *map);

/* Parses; prints help and ends the process with 0 for --help, with 2 and the error for a wrong one. */
void command_parse(const struct option_table *table, int argc, char **argv, void *config, struct option_result *result);

/* The engine options that the flags stand for; NULL model is a usage error (ends with 2). */
void command_engine_options(const struct model_flags *flags, struct engine_options *out);

/* Prints "bitnet: message" to stderr and returns 1. */
int command_fail(const struct error *err);

/* Reads a whole file ("-" or NULL = stdin) into `out`; false with *err set. */
bool command_read_file(const char *path, struct buffer *out, struct error *err);

/* A progress bar on stderr, on a terminal only; at most ten updates a second. total 0 = unknown. Zero it first. */
struct progress { int64_t last_ns, start_ns; bool shown; };
void progress_show(struct progress *p, const char *what, double done, double total, const char *unit);
void progress_end(struct progress *p);

#endif
