/* What the engine's tests share: a tiny synthetic model, requests of token ids, and an answer read to its end. */
#ifndef TESTS_UNIT_ENGINE_HARNESS_H
#define TESTS_UNIT_ENGINE_HARNESS_H

#include "engine/engine.h"

#include "base/clock.h"
#include "base/log.h"
#include "tools/synth.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HARNESS_CONTEXT 512
#define HARNESS_VOCAB 1280

struct harness_choice {
    uint32_t n_tokens;
    uint32_t ids[HARNESS_CONTEXT];
    float logprobs[HARNESS_CONTEXT];
    uint64_t tops; /* hash of the top log-probabilities */
    size_t n_text;
    char text[HARNESS_CONTEXT * 40];
    bool ended;
    enum finish_reason finish;
};

struct harness_answer {
    struct harness_choice choices[8];
    enum finish_reason finish;
    struct error error;
    struct stream_summary summary;
};

static char harness_model_path[256];
static pid_t harness_model_owner;

static inline void harness_remove_model(void)
{
    if (getpid() == harness_model_owner)
        unlink(harness_model_path);
}

/* Path of the model, made at the first call in this process's folder for temporary files and removed at exit. */
static inline const char *harness_model(void)
{
    if (harness_model_path[0])
        return harness_model_path;
    const char *folder = getenv("TMPDIR");
    struct error err = {0};
    harness_model_owner = getpid();
    snprintf(harness_model_path, sizeof harness_model_path, "%s/bitnet-engine-%ld.gguf", folder ? folder : "/tmp",
             (long)harness_model_owner);
    struct synth_options o = {.path = harness_model_path, .preset = "tiny", .seed = 5};
    ck_assert_msg(!synth_write(&o, &err), "%s", err.message);
    atexit(harness_remove_model);
    return harness_model_path;
}

/* Opens an engine over the tiny model on the CPU; zeroes in `options` are filled in. */
static inline struct engine *harness_open(struct engine_options options)
{
    struct engine *e;
    struct error err = {0};
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    if (!options.model_path)
        options.model_path = harness_model();
    options.device = "cpu";
    options.i2s_order = -1;
    ck_assert_msg(!engine_open(&options, &e, &err), "%s", err.message);
    return e;
}

/* A request of n_prompt pseudo-random ids that are a function of `seed`, into `ids` [n_prompt]; sampled at
 * temperature 1. */
static inline struct request harness_request(uint32_t seed, uint32_t *ids, uint32_t n_prompt, uint32_t max_tokens)
{
    for (uint32_t i = 0; i < n_prompt; i++)
        ids[i] = (seed * 2654435761u + i * 40503u) % 1000;
    return (struct request){.tokens = ids,
                            .n_tokens = n_prompt,
                            .max_tokens = max_tokens,
                            .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = seed},
                            .deadline_ns = CLOCK_NEVER};
}

static inline struct stream *harness_submit(struct engine *e, const struct request *r)
{
    struct stream *s;
    struct error err = {0};
    ck_assert_msg(!engine_submit(e, r, &s, &err), "%s (%s)", err.message, err.param);
    return s;
}

static inline void harness_take(struct harness_choice *c, const struct stream_event *ev)
{
    ck_assert(!c->ended);
    ck_assert_uint_eq(ev->position, c->n_tokens);
    ck_assert_uint_gt(ev->n_tokens, 0);
    for (size_t i = 0; i < ev->n_tokens; i++) {
        const struct token *t = &ev->tokens[i];
        ck_assert_uint_lt(c->n_tokens, HARNESS_CONTEXT);
        c->ids[c->n_tokens] = t->id;
        c->logprobs[c->n_tokens++] = t->logprob;
        if (t->top)
            c->tops = kernel_hash(c->tops, t->top, sizeof *t->top);
        ck_assert_uint_lt(c->n_text + t->n_bytes, sizeof c->text);
        memcpy(c->text + c->n_text, t->text, t->n_bytes);
        c->n_text += t->n_bytes;
    }
}

/* Reads the next event into the answer, waiting for it; false once complete. */
static inline bool harness_read(struct stream *s, size_t max_tokens, struct harness_answer *a)
{
    struct stream_event ev;
    ck_assert_msg(stream_wait(s, 120 * CLOCK_NS_PER_S), "nothing came for two minutes");
    stream_read(s, max_tokens, &ev);
    ck_assert_int_ne(ev.type, STREAM_NOTHING);
    if (ev.type == STREAM_TOKENS) {
        harness_take(&a->choices[ev.choice], &ev);
    } else if (ev.type == STREAM_CHOICE_END) {
        ck_assert(!a->choices[ev.choice].ended);
        a->choices[ev.choice].ended = true;
        a->choices[ev.choice].finish = ev.finish;
    } else {
        a->finish = ev.finish;
        a->error = ev.error;
        a->summary = ev.summary;
        stream_read(s, 0, &ev);
        ck_assert_int_eq(ev.type, STREAM_NOTHING);
        return false;
    }
    return true;
}

/* Reads to the end and closes the stream. The answer is freed by the caller. */
static inline struct harness_answer *harness_finish(struct stream *s)
{
    struct harness_answer *a = calloc(1, sizeof *a);
    while (harness_read(s, 0, a))
        ;
    stream_close(s);
    return a;
}

/* Fails the test unless both are the same to the bit. */
static inline void harness_expect_same(const struct harness_answer *a, const struct harness_answer *b,
                                       uint32_t n_choices)
{
    ck_assert_int_eq(a->finish, b->finish);
    ck_assert_uint_eq(a->summary.n_prompt_tokens, b->summary.n_prompt_tokens);
    ck_assert_uint_eq(a->summary.n_generated_tokens, b->summary.n_generated_tokens);
    for (uint32_t c = 0; c < n_choices; c++) {
        const struct harness_choice *x = &a->choices[c], *y = &b->choices[c];
        ck_assert_uint_eq(x->n_tokens, y->n_tokens);
        ck_assert_mem_eq(x->ids, y->ids, sizeof x->ids);
        ck_assert_mem_eq(x->logprobs, y->logprobs, sizeof x->logprobs);
        ck_assert(x->tops == y->tops);
        ck_assert_uint_eq(x->n_text, y->n_text);
        ck_assert_mem_eq(x->text, y->text, sizeof x->text);
        ck_assert(x->ended && y->ended);
        ck_assert_int_eq(x->finish, y->finish);
    }
}

/* Waits until the statistics' function is true, at most some seconds; else fails the test. */
static inline void harness_await(struct engine *e, bool (*reached)(const struct engine_stats *st))
{
    struct engine_stats st;
    int64_t deadline_ns = clock_now_ns() + 60 * CLOCK_NS_PER_S;
    do {
        engine_stats(e, &st);
        if (reached(&st))
            return;
        usleep(500);
    } while (clock_now_ns() < deadline_ns);
    ck_abort_msg("not reached: %u running, %u waiting, %u blocks used, %lu tokens", st.n_running, st.n_waiting,
                 st.n_kv_blocks_used, (unsigned long)st.n_generated_tokens);
}

/* No sequence runs, nothing waits, all blocks are free. */
static inline bool harness_idle(const struct engine_stats *st)
{
    return st->n_running == 0 && st->n_waiting == 0 && st->n_kv_blocks_used == 0;
}

#endif
