/* What a model that serves already must show before the one that it replaces may go. */
#include "base/clock.h"
#include "engine/background.h"
#include "engine/reference.h"
#include "engine/registry/ask.h"
#include "engine/registry/swap.h"
#include "engine/waker.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS (20 * CLOCK_NS_PER_MS)
#define MAX_ERRORS 0.01 /* of requests */
#define N_ANSWER 16     /* tokens of a prompt's answer */
#define N_SPEED 5      /* answers of each that speed is measured by where nothing better is there */
#define LEAST_SPEED 0.5 /* of the old model's */

void swap_note(struct swapping *s, const char *name, bool passed, enum error_code code, const char *format, ...)
{
    struct swap_result *out = s->out;
    char details[sizeof out->checks[0].details];
    va_list args;
    va_start(args, format);
    vsnprintf(details, sizeof details, format, args);
    va_end(args);
    if (out->n_checks < SWAP_MAX_CHECKS) {
        size_t i = out->n_checks++;
        snprintf(out->checks[i].name, sizeof out->checks[i].name, "%s", name);
        memcpy(out->checks[i].details, details, sizeof details);
        out->checks[i].passed = passed;
    }
    if (passed || s->failed[0])
        return;
    snprintf(s->failed, sizeof s->failed, "%.32s: %.200s", name, details);
    s->code = code;
}

/* ---- live traffic ------------------------------------------------------------------------------------------------ */

struct traffic {
    uint64_t n_done, n_failed;
};

static uint64_t failures(const struct engine_stats *st)
{
    return st->n_failed - st->n_stalled; /* a reader that stopped is none of the model's */
}

static struct traffic since(const struct swapping *s, struct engine_stats *now)
{
    engine_stats(s->next->engine, now);
    uint64_t n_failed = failures(now) - failures(&s->before);
    uint64_t n_whole = now->n_finished_stop + now->n_finished_length - s->before.n_finished_stop - s->before.n_finished_length;
    return (struct traffic){n_whole + n_failed, n_failed};
}

static bool too_many(const struct traffic *t)
{
    return (double)t->n_failed > MAX_ERRORS * (double)t->n_done;
}

/* False when the registry drains. */
static bool sleep_until(struct swapping *s, int64_t at_ns)
{
    struct registry *r = s->r;
    pthread_mutex_lock(&r->lock);
    while (!r->draining && waker_cond_wait(&r->changed, &r->lock, at_ns)) {
    }
    s->draining = r->draining;
    pthread_mutex_unlock(&r->lock);
    return !s->draining;
}

bool swap_watch(struct swapping *s, double share)
{
    int64_t start_ns = clock_now_ns(), watch_ns = s->q->watch_ns ? s->q->watch_ns : SWAP_WATCH_NS, now_ns;
    struct engine_stats now;
    struct traffic t;
    char message[96];
    do {
        if (!sleep_until(s, clock_now_ns() + LOOK_NS))
            return false;
        t = since(s, &now);
        now_ns = clock_now_ns();
        snprintf(message, sizeof message, "%.0f %% of new requests: %llu done, %llu failed", 100 * share, (unsigned long long)t.n_done,
                 (unsigned long long)t.n_failed);
        prepare_progress(&s->p, "watching", (double)(now_ns - start_ns) / (double)watch_ns, message);
    } while (now_ns - start_ns < watch_ns && t.n_done < SWAP_WATCH_REQUESTS && !(t.n_failed > 2 && too_many(&t)));
    return true;
}

void swap_check_errors(struct swapping *s, const char *name)
{
    struct engine_stats now;
    struct traffic t = since(s, &now);
    s->before = now;
    swap_note(s, name, !too_many(&t), ERROR_INFERENCE_FAILED, "%llu of %llu requests failed", (unsigned long long)t.n_failed,
                (unsigned long long)t.n_done);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

struct answering {
    struct swapping *s;
    const char *const *prompts;
    size_t n, n_answered, tried; /* tried: the prompt at hand, from 1 */
    uint64_t n_compared, n_same;
    enum error_code code;
    struct error err;
};

static bool goes_on(void *user)
{
    const struct swapping *s = user;
    return !atomic_load(&s->r->draining) && clock_now_ns() < s->deadline_ns;
}

/* Draws an answer again; what the device's weights do not allow is left out. */
static enum error_code compare(struct answering *a, const uint32_t *ids, size_t n_prompt, size_t n)
{
    const struct sampling greedy = {.top_p = 1};
    struct reference *reference;
    struct agreement agreement;
    struct error err = {0};
    if (reference_open(a->s->next->engine, &(struct reference_options){.n_positions = n}, &reference, &err))
        return ERROR_NONE;
    enum error_code code = reference_compare(reference, ids, n_prompt, n, &greedy, goes_on, a->s, &agreement, &a->err);
    reference_close(reference);
    if (code)
        return code;
    a->n_compared += agreement.n_compared;
    a->n_same += agreement.n_same;
    return ERROR_NONE;
}

/* Of a model that computes embeddings a vector is the answer, with which there is nothing to compare. */
static enum error_code answer_vector(struct answering *a, const struct token_list *ids)
{
    struct engine *e = a->s->next->engine;
    float *vector = malloc(engine_model(e)->embedding_size * sizeof *vector);
    if (!vector)
        return error_set(&a->err, ERROR_MEMORY_EXHAUSTED, "no memory for a vector");
    enum error_code code = ask_embedding(e, ids->ids, ids->n, a->s->deadline_ns, vector, &a->err);
    free(vector);
    return code;
}

static enum error_code answer(struct answering *a, const char *prompt)
{
    struct engine *e = a->s->next->engine;
    struct token_list ids = {0};
    struct answer got;
    enum error_code code = tokenizer_encode(engine_tokenizer(e), prompt, strlen(prompt), true, false, &ids, &a->err);
    bool embeds = engine_model(e)->embedding_size > 0;
    if (!code)
        code = embeds ? answer_vector(a, &ids) : ask_tokens(e, ids.ids, ids.n, N_ANSWER, a->s->deadline_ns, &got, &a->err);
    a->n_answered += !code;
    if (!code && !embeds && !a->s->q->validation.no_cross_validation) {
        uint32_t *all = realloc(ids.ids, (ids.n + got.n) * sizeof *all);
        if (all) {
            ids.ids = all;
            memcpy(all + ids.n, got.ids, got.n * sizeof *all);
            code = compare(a, all, ids.n, ids.n + got.n);
        }
    }
    free(ids.ids);
    return code;
}

static void answer_all(void *arg)
{
    struct answering *a = arg;
    for (size_t i = 0; !a->code && i < a->n; i++) {
        a->tried = i + 1;
        a->code = answer(a, a->prompts[i]);
    }
}

void swap_check_answers(struct swapping *s, const char *name, bool first)
{
    static const char *const own[] = {"Once upon a time there was a little fox"};
    struct answering a = {.s = s, .prompts = s->q->n_prompts ? s->q->prompts : own, .n = s->q->n_prompts && !first ? s->q->n_prompts : 1};
    background_run(answer_all, &a);
    bool answered = a.n_answered == a.n;
    if (!first || !answered) {
        if (answered)
            swap_note(s, "prompts", true, ERROR_NONE, "%zu of %zu answered", a.n_answered, a.n);
        else
            swap_note(s, "prompts", false, ERROR_INFERENCE_FAILED, "prompt %zu of %zu was not answered: %s", a.tried, a.n, a.err.message);
    }
    if (a.code || !a.n_compared)
        return;
    double accuracy = s->out->next.accuracy = (double)a.n_same / (double)a.n_compared;
    swap_note(s, name, accuracy >= s->p.asked.min_accuracy, ERROR_CROSS_VALIDATION_FAILED,
                "%llu of %llu tokens are those of the portable reference, expected %g of them", (unsigned long long)a.n_same,
                (unsigned long long)a.n_compared, s->p.asked.min_accuracy);
}

/* ---- speed ------------------------------------------------------------------------------------------------------- */

static enum error_code ask_best(struct swapping *s, struct engine *e, double *best, struct error *err)
{
    const uint32_t id = 1;
    struct answer a;
    enum error_code code = ask_tokens(e, &id, 1, N_ANSWER, s->deadline_ns, &a, err);
    *best = !code && a.tokens_per_second > *best ? a.tokens_per_second : *best;
    return code;
}

/* Where the CPU cannot read the weights: some short answers of each, in turns. */
static enum error_code ask_speed(struct swapping *s, double *previous, double *next, struct error *err)
{
    enum error_code code = ERROR_NONE;
    for (int i = 0; !code && i < N_SPEED; i++)
        if (!(code = ask_best(s, s->previous->engine, previous, err)))
            code = ask_best(s, s->next->engine, next, err);
    return code;
}

void swap_check_speed(struct swapping *s)
{
    double previous = -1, next = -1;
    struct error err = {0};
    if (s->r->options.engine.null_model)
        return; /* whose speed is an option */
    enum error_code code = speed_measure(s->previous->engine, s->next->engine, &previous, &next, &err);
    if (code == ERROR_DEVICE_UNAVAILABLE)
        code = ask_speed(s, &previous, &next, &err);
    s->out->previous.tokens_per_second = code ? -1 : previous;
    s->out->next.tokens_per_second = code ? -1 : next;
    if (code)
        swap_note(s, "speed", false, code, "%s", err.message);
    else
        swap_note(s, "speed", next >= LEAST_SPEED * previous, ERROR_INFERENCE_FAILED,
                    "%.1f tokens/s, expected at least %g of the old model's %.1f", next, LEAST_SPEED, previous);
}
