#include "engine/registry/ask.h"

#include "base/clock.h"

#include <string.h>

#define LOOK_NS (100 * CLOCK_NS_PER_MS)

/* Where an answer goes; one of them. */
struct asked {
    struct answer *answer;
    struct score *scores;
    float *vector;
};

static void take_answer(struct answer *a, const struct stream_event *ev)
{
    for (size_t i = 0; i < ev->n_tokens && a->n < ASK_MAX_TOKENS; i++, a->n++) {
        a->ids[a->n] = ev->tokens[i].id;
        a->logprobs[a->n] = ev->tokens[i].logprob;
    }
}

static void take_scores(struct score *scores, const struct stream_event *ev)
{
    for (size_t i = 1; i < ev->n_tokens; i++) {
        const struct token *t = &ev->tokens[i];
        scores[i] = (struct score){.id = t->id, .logprob = t->logprob, .n_top = t->n_top < ASK_TOP ? t->n_top : ASK_TOP};
        memcpy(scores[i].top, t->top, scores[i].n_top * sizeof *t->top);
    }
}

static enum error_code finish_of(const struct stream_event *ev, struct error *err)
{
    if (ev->finish == FINISH_STOP || ev->finish == FINISH_LENGTH)
        return ERROR_NONE;
    if (ev->finish != FINISH_ERROR)
        return error_set(err, ERROR_DEADLINE_EXCEEDED, "the model has not answered in time");
    if (err)
        *err = ev->error;
    return ev->error.code;
}

static enum error_code ask(struct engine *e, const struct request *q, const struct asked *to, struct error *err)
{
    struct stream *s;
    struct stream_event ev;
    enum error_code code = engine_submit(e, q, &s, err);
    if (code)
        return code;
    do {
        stream_wait(s, LOOK_NS);
        stream_read(s, 0, &ev);
        if (ev.type == STREAM_PROMPT && to->scores)
            take_scores(to->scores, &ev);
        if (ev.type == STREAM_TOKENS && to->answer)
            take_answer(to->answer, &ev);
    } while (ev.type != STREAM_COMPLETE);
    if (to->answer)
        to->answer->tokens_per_second = ev.summary.tokens_per_second;
    if (to->vector && ev.embedding)
        memcpy(to->vector, ev.embedding, ev.n_embedding * sizeof *to->vector);
    code = finish_of(&ev, err);
    stream_close(s);
    return code;
}

enum error_code ask_tokens(struct engine *e, const uint32_t *ids, size_t n, size_t max_tokens, int64_t deadline_ns, struct answer *out,
                           struct error *err)
{
    const struct request q = {.id = "registry",
                              .tokens = ids,
                              .n_tokens = n,
                              .max_tokens = (uint32_t)(max_tokens < ASK_MAX_TOKENS ? max_tokens : ASK_MAX_TOKENS),
                              .sampling = {.top_p = 1},
                              .logprobs = true,
                              .ignore_eos = true,
                              .deadline_ns = deadline_ns};
    out->n = 0;
    return ask(e, &q, &(struct asked){.answer = out}, err);
}

enum error_code ask_scores(struct engine *e, const uint32_t *ids, size_t n, int64_t deadline_ns, struct score *out, struct error *err)
{
    const struct request q = {.id = "registry",
                              .tokens = ids,
                              .n_tokens = n,
                              .max_tokens = 0,
                              .sampling = {.top_p = 1},
                              .logprobs = true,
                              .top_logprobs = ASK_TOP,
                              .prompt_logprobs = true,
                              .deadline_ns = deadline_ns};
    return ask(e, &q, &(struct asked){.scores = out}, err);
}

enum error_code ask_embedding(struct engine *e, const uint32_t *ids, size_t n, int64_t deadline_ns, float *out, struct error *err)
{
    const struct request q = {.id = "registry", .tokens = ids, .n_tokens = n, .embed = true, .deadline_ns = deadline_ns};
    return ask(e, &q, &(struct asked){.vector = out}, err);
}
