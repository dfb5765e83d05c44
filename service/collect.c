/* See collect.h. */
#include "service/collect.h"

#include "service/convert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct collected_token {
    uint32_t id;
    float logprob;
    size_t n_top;
    struct token_logprob top[COLLECT_MAX_TOP];
};

size_t collect_event_tokens(bool logprobs, size_t n_top)
{
    size_t n = logprobs ? COLLECT_EVENT_TOKENS / (1 + n_top) : COLLECT_EVENT_TOKENS;
    return n ? n : 1;
}

void collect_init(struct collected *c)
{
    *c = (struct collected){0};
    buffer_init(&c->text, COLLECT_MAX_TEXT_BYTES);
}

void collect_fini(struct collected *c)
{
    buffer_fini(&c->text);
    free(c->tokens);
    c->tokens = NULL;
}

static bool reserve(struct collected *c, size_t n)
{
    if (c->n + n <= c->capacity)
        return true;
    size_t capacity = 2 * (c->n + n);
    struct collected_token *tokens = realloc(c->tokens, capacity * sizeof *tokens);
    if (!tokens)
        return false;
    c->tokens = tokens;
    c->capacity = capacity;
    return true;
}

bool collect_add(struct collected *c, const struct stream_event *e)
{
    if (!reserve(c, e->n_tokens))
        return false;
    for (size_t i = 0; i < e->n_tokens; i++) {
        const struct token *t = &e->tokens[i];
        struct collected_token *saved = &c->tokens[c->n++];
        message_text(&c->text, t->text, t->n_bytes);
        saved->id = t->id;
        saved->logprob = t->logprob;
        c->sum_logprob += (double)t->logprob;
        saved->n_top = t->n_top;
        if (t->n_top)
            memcpy(saved->top, t->top, t->n_top * sizeof *t->top);
    }
    return !c->text.failed;
}

static double mean_logprob(const struct collected *c)
{
    return c->n ? c->sum_logprob / (double)c->n : -INFINITY;
}

void collect_rank(const struct collected *choices, uint32_t n, uint32_t *order)
{
    for (uint32_t i = 0; i < n; i++) { /* insertion: n is at most 8 */
        uint32_t at = i;
        for (; at > 0 && mean_logprob(&choices[order[at - 1]]) < mean_logprob(&choices[i]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static ProtobufCBinaryData piece(const struct tokenizer *t, uint32_t id)
{
    ProtobufCBinaryData p = {0};
    p.data = (uint8_t *)(uintptr_t)tokenizer_piece(t, id, &p.len);
    return p;
}

void collect_logprob(const struct tokenizer *t, uint32_t id, float logprob, const struct token_logprob *alternatives,
                     size_t n_top, Bitnet__V1__TokenLogprob *out, Bitnet__V1__TopLogprob *top,
                     Bitnet__V1__TopLogprob **list)
{
    bitnet__v1__token_logprob__init(out);
    out->token_id = id;
    out->token = piece(t, id);
    out->logprob = logprob;
    out->special = tokenizer_is_silent(t, id);
    out->n_top = n_top;
    out->top = list;
    for (size_t i = 0; i < n_top; i++) {
        bitnet__v1__top_logprob__init(&top[i]);
        top[i].token_id = alternatives[i].id;
        top[i].token = piece(t, alternatives[i].id);
        top[i].logprob = alternatives[i].logprob;
        list[i] = &top[i];
    }
}

static bool fill_logprobs(const struct collected *c, const struct tokenizer *t, size_t n_top, struct collect_room *r)
{
    r->entry = calloc(c->n + 1, sizeof *r->entry);
    r->entry_list = calloc(c->n + 1, sizeof *r->entry_list);
    r->top = calloc(c->n * n_top + 1, sizeof *r->top);
    r->top_list = calloc(c->n * n_top + 1, sizeof *r->top_list);
    if (!r->entry || !r->entry_list || !r->top || !r->top_list)
        return false;
    for (size_t i = 0; i < c->n; i++) {
        const struct collected_token *s = &c->tokens[i];
        collect_logprob(t, s->id, s->logprob, s->top, s->n_top, &r->entry[i], r->top + i * n_top,
                        r->top_list + i * n_top);
        r->entry_list[i] = &r->entry[i];
    }
    return true;
}

bool collect_choice(const struct collected *c, const struct tokenizer *t, bool logprobs, size_t n_top,
                    Bitnet__V1__Choice *out, struct collect_room *r)
{
    bitnet__v1__choice__init(out);
    r->ids = calloc(c->n + 1, sizeof *r->ids);
    if (!r->ids || (logprobs && !fill_logprobs(c, t, n_top, r)))
        return false;
    for (size_t i = 0; i < c->n; i++)
        r->ids[i] = c->tokens[i].id;
    out->text = c->text.data ? c->text.data : (char *)(uintptr_t) "";
    out->n_token_ids = c->n;
    out->token_ids = r->ids;
    out->finish_reason = convert_finish(c->finish);
    out->n_logprobs = logprobs ? c->n : 0;
    out->logprobs = r->entry_list;
    return true;
}

void collect_room_free(struct collect_room *r)
{
    free(r->ids);
    free(r->entry);
    free(r->entry_list);
    free(r->top);
    free(r->top_list);
}
