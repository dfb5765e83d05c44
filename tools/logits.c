/*
 * bitnet logits: teacher-forced logits, for comparison with other programs and between our own variants.
 *
 * A sequence of one token is a batch of one token to bitnet.cpp, which then, and only then, rounds the head's input to F16.
 * This command follows it, so that its output compares; --served gives what the server computes, which never rounds.
 */
#include "tools/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct config {
    struct model_flags flags;
    const char *tokens, *output;
    int64_t chunk;
    bool served;
};

static const struct option_def defs[] = {
    MODEL_FLAGS,
    {.name = "tokens", .type = OPTION_STRING, .offset = offsetof(struct config, tokens), .default_value = "-",
     .help = "file of token ids separated by spaces, a sequence a line; - is standard input"},
    {.name = "output", .type = OPTION_STRING, .offset = offsetof(struct config, output),
     .help = "file for raw little-endian f32 [n_tokens][n_vocab], sequences one after the other (required)"},
    {.name = "chunk", .type = OPTION_INT, .offset = offsetof(struct config, chunk), .default_value = "512", .min = 1, .max = 4096,
     .unit = "tokens", .help = "tokens evaluated together; changes nothing in the result"},
    {.name = "served", .type = OPTION_BOOL, .offset = offsetof(struct config, served),
     .help = "never round the head's input to F16, not even where bitnet.cpp does (sequences of one token)"},
    {.name = NULL}};

static const struct option_table table = {
    "bitnet logits", "usage: bitnet logits --model FILE --tokens FILE -o FILE\n", defs};

static bool parse_line(const char *line, size_t number, uint32_t vocab_size, struct token_list *out, struct error *err)
{
    out->n = 0;
    for (const char *p = line;;) {
        p += strspn(p, " \t\r");
        if (!*p)
            return true;
        char *end;
        unsigned long long id = strtoull(p, &end, 10);
        if (end == p || id >= vocab_size) {
            error_set(err, ERROR_VALIDATION_FAILED, "line %zu: expected token ids from 0 to %u, found \"%.20s\"", number,
                      vocab_size - 1, p);
            return false;
        }
        p = end;
        if (out->n == out->capacity) {
            out->capacity = out->capacity ? 2 * out->capacity : 256;
            out->ids = realloc(out->ids, out->capacity * sizeof *out->ids);
            if (!out->ids)
                abort();
        }
        out->ids[out->n++] = (uint32_t)id;
    }
}

/* Evaluates one sequence in chunks and writes its logits. */
static bool write_sequence(const struct config *c, struct session *s, const struct token_list *ids,
                           struct session_row *rows, float *logits, FILE *out, struct error *err)
{
    size_t vocab_size = session_model(s)->vocab_size;
    bool round = ids->n == 1 && !c->served;
    session_reset(s, 0);
    for (size_t at = 0; at < ids->n;) {
        size_t n = ids->n - at < (size_t)c->chunk ? ids->n - at : (size_t)c->chunk;
        for (size_t i = 0; i < n; i++)
            rows[i] = (struct session_row){.sequence = 0, .token = ids->ids[at + i], .want_logits = true};
        if (session_step(s, rows, n, round, logits, err))
            return false;
        if (fwrite(logits, sizeof(float) * vocab_size, n, out) != n) {
            error_set(err, ERROR_INTERNAL, "cannot write %s", c->output);
            return false;
        }
        at += n;
    }
    return true;
}

static bool write_all(const struct config *c, struct session *s, struct buffer *text, FILE *out, struct error *err)
{
    const struct engine_model *model = session_model(s);
    struct session_row *rows = malloc((size_t)c->chunk * sizeof *rows);
    float *logits = malloc((size_t)c->chunk * model->vocab_size * sizeof *logits);
    struct token_list ids = {0};
    struct progress progress = {0};
    bool ok = rows && logits;
    if (!ok)
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the logits of %lld tokens", (long long)c->chunk);
    char *line = text->data ? text->data : NULL;
    for (size_t number = 1; ok && line; number++) {
        char *next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        ok = parse_line(line, number, model->vocab_size, &ids, err);
        if (ok && ids.n > model->context_length) {
            error_set(err, ERROR_VALIDATION_FAILED, "line %zu: %zu tokens, but the model's context is %u", number, ids.n,
                      model->context_length);
            ok = false;
        }
        ok = ok && write_sequence(c, s, &ids, rows, logits, out, err);
        line = next;
        progress_show(&progress, "logits", (double)number, 0, "sequences");
    }
    progress_end(&progress);
    free(ids.ids);
    free(logits);
    free(rows);
    return ok;
}

int command_logits(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", "o", "--output", "t", "--threads", NULL};
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &c, &result);
    if (!c.output) {
        fputs("bitnet logits: --output FILE is required\n", stderr);
        return 2;
    }
    struct error err = {0};
    struct engine_options options;
    struct session *s = NULL;
    struct buffer text;
    buffer_init(&text, SIZE_MAX / 2);
    command_engine_options(&c.flags, &options);
    options.max_sequences = 1;
    options.max_batch_tokens = (size_t)c.chunk;
    FILE *out = NULL;
    bool ok = command_read_file(c.tokens, &text, &err) && session_open(&options, &s, &err) == ERROR_NONE;
    if (ok && !(out = fopen(c.output, "wb"))) {
        error_set(&err, ERROR_INTERNAL, "cannot write %s", c.output);
        ok = false;
    }
    ok = ok && write_all(&c, s, &text, out, &err);
    if (out && fclose(out) != 0 && ok) {
        error_set(&err, ERROR_INTERNAL, "cannot write %s", c.output);
        ok = false;
    }
    session_close(s);
    buffer_fini(&text);
    option_free(&table, &c);
    return ok ? 0 : command_fail(&err);
}
