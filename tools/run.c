/* bitnet run and bitnet chat: one request after the other through a whole engine, streamed to the terminal. */
#include "base/clock.h"
#include "base/id.h"
#include "tools/command.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct config {
    struct model_flags flags;
    const char *prompt, *system;
    int64_t max_tokens, top_k, seed, ctx;
    double temperature, top_p, min_p, repetition_penalty;
    bool ignore_eos, quiet;
};

#define SAMPLING_FLAGS                                                                                                 \
    {.name = "max-tokens", .type = OPTION_INT, .offset = offsetof(struct config, max_tokens), .default_value = "200",  \
     .min = 1, .max = 131072, .unit = "tokens", .help = "at most so many"},                                            \
    {.name = "temperature", .type = OPTION_FLOAT, .offset = offsetof(struct config, temperature),                      \
     .default_value = "0.7", .min = 0, .max = 2, .help = "0 = greedy"},                                                \
    {.name = "top-k", .type = OPTION_INT, .offset = offsetof(struct config, top_k), .default_value = "50", .min = 0,   \
     .max = 1000000, .help = "0 = off"},                                                                               \
    {.name = "top-p", .type = OPTION_FLOAT, .offset = offsetof(struct config, top_p), .default_value = "0.9",          \
     .min = 0, .max = 1, .help = "1 = off"},                                                                           \
    {.name = "min-p", .type = OPTION_FLOAT, .offset = offsetof(struct config, min_p), .default_value = "0", .min = 0,  \
     .max = 1, .help = "0 = off"},                                                                                     \
    {.name = "repetition-penalty", .type = OPTION_FLOAT, .offset = offsetof(struct config, repetition_penalty),        \
     .default_value = "1", .min = 0, .max = 2, .help = "1 = off"},                                                     \
    {.name = "seed", .type = OPTION_INT, .offset = offsetof(struct config, seed), .default_value = "-1", .min = -1,    \
     .max = 9e15, .help = "-1 = random"},                                                                              \
    {.name = "ctx", .type = OPTION_INT, .offset = offsetof(struct config, ctx), .default_value = "0", .min = 0,        \
     .max = 1 << 20, .unit = "tokens", .help = "context; 0 = the model's"},                                            \
    {.name = "quiet", .type = OPTION_BOOL, .offset = offsetof(struct config, quiet), .help = "no figures at the end"}

static const struct option_def run_defs[] = {
    MODEL_FLAGS,
    {.name = "prompt", .type = OPTION_STRING, .offset = offsetof(struct config, prompt),
     .help = "text to continue; standard input by default"},
    SAMPLING_FLAGS,
    {.name = "ignore-eos", .type = OPTION_BOOL, .offset = offsetof(struct config, ignore_eos),
     .help = "go on past the end of the text"},
    {.name = NULL}};
static const struct option_table run_table = {"bitnet run", "usage: bitnet run --model FILE -p \"Once upon a time\"\n", run_defs};

static const struct option_def chat_defs[] = {
    MODEL_FLAGS,
    {.name = "system", .type = OPTION_STRING, .offset = offsetof(struct config, system), .help = "system message"},
    SAMPLING_FLAGS,
    {.name = NULL}};
static const struct option_table chat_table = {
    "bitnet chat", "usage: bitnet chat --model FILE\nA line is a message; /reset forgets, /exit or Ctrl-D ends, Ctrl-C stops an answer.\n",
    chat_defs};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static struct request request_from(const struct config *c)
{
    struct request r = {.max_tokens = (uint32_t)c->max_tokens, .sampling = sampling_defaults(), .ignore_eos = c->ignore_eos,
                        .deadline_ns = CLOCK_NEVER};
    r.sampling.temperature = (float)c->temperature;
    r.sampling.top_k = (uint32_t)c->top_k;
    r.sampling.top_p = (float)c->top_p;
    r.sampling.min_p = (float)c->min_p;
    r.sampling.repetition_penalty = (float)c->repetition_penalty;
    r.sampling.seed = c->seed >= 0 ? (uint64_t)c->seed : id_random_u64();
    return r;
}

/* Streams one answer to stdout and, when `answer` is given, keeps its text. */
static bool answer_request(struct engine *e, const struct request *r, const struct config *c, struct buffer *answer,
                           struct error *err)
{
    struct stream *s = NULL;
    if (engine_submit(e, r, &s, err))
        return false;
    struct stream_event event = {0};
    while (event.type != STREAM_COMPLETE) {
        if (!stream_wait(s, CLOCK_NS_PER_S / 10) && interrupted)
            stream_cancel(s);
        stream_read(s, 0, &event);
        for (size_t i = 0; event.type == STREAM_TOKENS && i < event.n_tokens; i++) {
            fwrite(event.tokens[i].text, 1, event.tokens[i].n_bytes, stdout);
            if (answer)
                buffer_append(answer, event.tokens[i].text, event.tokens[i].n_bytes);
        }
        fflush(stdout);
        if (interrupted)
            stream_cancel(s);
    }
    putchar('\n');
    bool ok = event.finish != FINISH_ERROR;
    if (!ok)
        *err = event.error;
    else if (!c->quiet)
        fprintf(stderr, "[%u prompt + %u generated tokens, first after %.0f ms, %.1f tokens/s, seed %" PRIu64 "]\n",
                event.summary.n_prompt_tokens, event.summary.n_generated_tokens, event.summary.first_token_ms,
                event.summary.tokens_per_second, r->sampling.seed);
    stream_close(s);
    return ok;
}

static bool open_engine(const struct config *c, struct engine **out, struct error *err)
{
    struct engine_options options;
    command_engine_options(&c->flags, &options);
    options.context_length = (size_t)c->ctx;
    options.max_sequences = 1;
    signal(SIGINT, on_interrupt);
    return engine_open(&options, out, err) == ERROR_NONE;
}

int command_run(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", "p", "--prompt", "n", "--max-tokens", "t", "--threads", NULL};
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&run_table, argc, argv, &c, &result);
    struct error err = {0};
    struct engine *e = NULL;
    struct buffer text;
    buffer_init(&text, 64 << 20);
    if (c.prompt)
        buffer_append_str(&text, c.prompt);
    bool ok = (c.prompt || command_read_file("-", &text, &err)) && open_engine(&c, &e, &err);
    if (ok) {
        struct request r = request_from(&c);
        r.prompt = text.data ? text.data : "";
        r.prompt_bytes = text.n_bytes;
        fwrite(r.prompt, 1, r.prompt_bytes, stdout);
        ok = answer_request(e, &r, &c, NULL, &err);
    }
    engine_close(e);
    buffer_fini(&text);
    option_free(&run_table, &c);
    return ok ? 0 : command_fail(&err);
}

/* ---- chat ---- */

enum { MAX_MESSAGES = 512 };

struct talk {
    struct chat_message messages[MAX_MESSAGES]; /* contents owned */
    size_t n;
};

static void talk_add(struct talk *t, const char *role, const char *content)
{
    char *copy = strdup(content);
    if (!copy)
        abort();
    t->messages[t->n++] = (struct chat_message){role, copy};
}

static void talk_drop(struct talk *t, size_t keep)
{
    while (t->n > keep)
        free((char *)(uintptr_t)t->messages[--t->n].content);
}

/* One turn; false ends the chat. */
static bool turn(struct engine *e, struct talk *t, const struct config *c, char *line, size_t n_system)
{
    line[strcspn(line, "\r\n")] = '\0';
    if (strcmp(line, "/exit") == 0)
        return false;
    if (strcmp(line, "/reset") == 0)
        talk_drop(t, n_system);
    if (!line[0] || strcmp(line, "/reset") == 0)
        return true;
    if (t->n + 2 > MAX_MESSAGES) {
        fprintf(stderr, "the talk has %d messages, which is as many as fit; /reset begins a new one\n", MAX_MESSAGES);
        return true;
    }
    talk_add(t, "user", line);
    struct request r = request_from(c);
    r.messages = t->messages;
    r.n_messages = t->n;
    struct buffer answer;
    struct error err = {0};
    buffer_init(&answer, 16 << 20);
    interrupted = 0;
    if (answer_request(e, &r, c, &answer, &err)) {
        talk_add(t, "assistant", answer.data ? answer.data : "");
    } else {
        command_fail(&err);
        talk_drop(t, t->n - 1);
    }
    buffer_fini(&answer);
    return true;
}

int command_chat(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", "n", "--max-tokens", "t", "--threads", NULL};
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&chat_table, argc, argv, &c, &result);
    struct error err = {0};
    struct engine *e = NULL;
    bool ok = open_engine(&c, &e, &err);
    if (ok && !engine_model(e)->chat_template) {
        error_set(&err, ERROR_VALIDATION_FAILED, "%s has no chat template that is known; use bitnet run", c.flags.model);
        ok = false;
    }
    struct talk talk = {.n = 0};
    char *line = NULL;
    size_t capacity = 0, n_system = 0;
    if (ok && c.system) {
        talk_add(&talk, "system", c.system);
        n_system = 1;
    }
    while (ok) {
        if (isatty(STDIN_FILENO))
            fputs("> ", stderr);
        if (getline(&line, &capacity, stdin) < 0 || !turn(e, &talk, &c, line, n_system))
            break;
    }
    free(line);
    talk_drop(&talk, 0);
    engine_close(e);
    option_free(&chat_table, &c);
    return ok ? 0 : command_fail(&err);
}
