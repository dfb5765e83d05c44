/* See stream.h. Lock order: the stream's, then the waker's. */
#include "engine/stream.h"

#include "base/clock.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES_A_TOKEN 8

struct record {
    uint32_t id;
    uint32_t n_top;
    float logprob;
    uint64_t end; /* of its text, in bytes from the start of the choice's text */
};

/* Counts run from 0 and are never wrapped; an index into a ring is the count modulo the ring's size. */
struct choice {
    struct record *records;     /* [n_records] */
    struct token_logprob *tops; /* [n_records][n_top] */
    char *text;                 /* [n_text] */
    uint32_t n_read, n_shown, n_written;
    uint64_t text_read, text_written;
    bool ended, end_read;
    enum finish_reason finish;
};

struct stream {
    pthread_mutex_t lock;    /* for all that is not constant or atomic */
    pthread_cond_t cond;     /* something to read; a call of on_ready is over */
    atomic_int n_references; /* release on drop, acquire by the last */
    atomic_bool cancelled;   /* relaxed: it carries no data */
    atomic_bool stalled;     /* likewise */
    uint32_t n_choices, n_records, n_top, next_choice, n_prompt;
    /* The loop's until prompt_shown, then the reader's: */
    struct token *prompt;             /* [n_prompt] */
    struct token_logprob *prompt_tops; /* [n_prompt][n_top] */
    bool prompt_shown, prompt_read;
    float *embedding; /* [n_embedding]; the loop's until complete, then the reader's */
    uint32_t n_embedding;
    bool embedded;
    size_t n_text, max_token_bytes;
    void (*on_ready)(void *user);
    void *user;
    struct waker *waker; /* NULL once complete */
    bool readable;       /* stream_read would give something */
    bool calling;        /* on_ready is running */
    bool closed, complete, complete_read;
    enum finish_reason finish;
    struct error error;
    struct stream_summary summary;
    struct choice *choices; /* [n_choices] */
    /* What the last stream_read gave out; the reader's. */
    struct token *out_tokens;       /* [n_records] */
    struct token_logprob *out_tops; /* [n_records][n_top] */
    char *out_text;                 /* [n_text] */
};

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static void free_all(struct stream *s)
{
    for (uint32_t c = 0; s->choices && c < s->n_choices; c++) {
        free(s->choices[c].records);
        free(s->choices[c].tops);
        free(s->choices[c].text);
    }
    free(s->choices);
    free(s->embedding);
    free(s->prompt);
    free(s->prompt_tops);
    free(s->out_tokens);
    free(s->out_tops);
    free(s->out_text);
    free(s);
}

static bool alloc_rings(struct stream *s)
{
    size_t n_tops = (size_t)s->n_records * s->n_top;
    s->choices = calloc(s->n_choices, sizeof *s->choices);
    s->out_tokens = calloc(s->n_records, sizeof *s->out_tokens);
    s->out_tops = calloc(n_tops + 1, sizeof *s->out_tops);
    s->out_text = calloc(s->n_text, 1);
    if (!s->choices || !s->out_tokens || !s->out_tops || !s->out_text)
        return false;
    for (uint32_t i = 0; i < s->n_choices; i++) {
        struct choice *c = &s->choices[i];
        c->records = calloc(s->n_records, sizeof *c->records);
        c->tops = calloc(n_tops + 1, sizeof *c->tops);
        c->text = calloc(s->n_text, 1);
        if (!c->records || !c->tops || !c->text)
            return false;
    }
    return true;
}

static bool alloc_prompt(struct stream *s, const struct stream_options *options)
{
    s->n_embedding = options->n_embedding;
    s->embedding = calloc((size_t)s->n_embedding + 1, sizeof *s->embedding);
    s->n_prompt = options->n_prompt;
    s->prompt = calloc((size_t)s->n_prompt + 1, sizeof *s->prompt);
    s->prompt_tops = calloc((size_t)s->n_prompt * s->n_top + 1, sizeof *s->prompt_tops);
    for (uint32_t i = 0; s->prompt && i < s->n_prompt; i++)
        s->prompt[i] = (struct token){.id = options->prompt[i], .logprob = NAN};
    return s->embedding && s->prompt && s->prompt_tops;
}

struct stream *stream_open(const struct stream_options *options)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    uint32_t most = STREAM_MAX_UNREAD + STREAM_MAX_UNDECIDED + 1;
    s->n_choices = options->n_choices;
    s->n_records = options->max_tokens < most ? options->max_tokens + 1 : most;
    s->n_top = options->n_top;
    s->max_token_bytes = options->max_token_bytes;
    /* Held text (a stop string at most) and two tokens always fit, so an empty stream has room whatever its tokens
     * are. */
    s->n_text = (size_t)s->n_records * TEXT_BYTES_A_TOKEN + 256 + 3 * options->max_token_bytes;
    s->on_ready = options->on_ready;
    s->user = options->user;
    s->waker = options->waker;
    atomic_init(&s->n_references, 2);
    if (!alloc_rings(s) || !alloc_prompt(s, options) || pthread_mutex_init(&s->lock, NULL))
        goto fail_memory;
    if (!waker_cond_init(&s->cond))
        goto fail_cond;
    return s;
fail_cond:
    pthread_mutex_destroy(&s->lock);
fail_memory:
    free_all(s);
    return NULL;
}

void stream_release(struct stream *s)
{
    if (atomic_fetch_sub_explicit(&s->n_references, 1, memory_order_acq_rel) > 1)
        return;
    pthread_cond_destroy(&s->cond);
    pthread_mutex_destroy(&s->lock);
    free_all(s);
}

static void wake_loop(struct stream *s)
{
    if (s->waker)
        waker_wake(s->waker);
}

void stream_cancel(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    atomic_store_explicit(&s->cancelled, true, memory_order_relaxed);
    wake_loop(s);
    pthread_mutex_unlock(&s->lock);
}

void stream_close(struct stream *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->closed = true;
    atomic_store_explicit(&s->cancelled, true, memory_order_relaxed);
    wake_loop(s);
    while (s->calling)
        pthread_cond_wait(&s->cond, &s->lock);
    pthread_mutex_unlock(&s->lock);
    stream_release(s);
}

bool stream_cancelled(const struct stream *s)
{
    return atomic_load_explicit(&s->cancelled, memory_order_relaxed);
}

bool stream_stalled(const struct stream *s)
{
    return atomic_load_explicit(&s->stalled, memory_order_relaxed);
}

/* ---- writing: the loop ------------------------------------------------------------------------------------------- */

static bool has_unread(const struct stream *s)
{
    for (uint32_t i = 0; i < s->n_choices; i++) {
        const struct choice *c = &s->choices[i];
        if (c->n_read < c->n_shown || (c->ended && !c->end_read))
            return true;
    }
    return (s->prompt_shown && !s->prompt_read) || (s->complete && !s->complete_read);
}

/* Ends a write: tells the reader when there is something new in an empty stream. Unlocks. */
static void publish(struct stream *s)
{
    bool was_readable = s->readable;
    s->readable = has_unread(s);
    bool ready = s->readable && !was_readable, call = ready && s->on_ready && !s->closed;
    if (ready)
        pthread_cond_broadcast(&s->cond);
    s->calling = call;
    pthread_mutex_unlock(&s->lock);
    if (!call)
        return;
    s->on_ready(s->user);
    pthread_mutex_lock(&s->lock);
    s->calling = false;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

/* Room for a token and for what its end can add. */
static bool choice_has_room(const struct stream *s, const struct choice *c)
{
    return c->n_shown - c->n_read < STREAM_MAX_UNREAD && c->n_written - c->n_read < s->n_records &&
           s->n_text - (size_t)(c->text_written - c->text_read) >= 2 * s->max_token_bytes;
}

bool stream_has_room(struct stream *s, uint32_t choice)
{
    pthread_mutex_lock(&s->lock);
    bool room = choice_has_room(s, &s->choices[choice]);
    pthread_mutex_unlock(&s->lock);
    return room;
}

void stream_score(struct stream *s, uint32_t i, const struct stream_token *token)
{
    struct token_logprob *top = s->prompt_tops + (size_t)i * s->n_top;
    uint32_t n_top = token->n_top < s->n_top ? token->n_top : s->n_top;
    assert(i > 0 && i < s->n_prompt && !s->prompt_shown && "stream: a token of the prompt");
    if (n_top)
        memcpy(top, token->top, n_top * sizeof *top);
    s->prompt[i] = (struct token){.id = token->id, .logprob = token->logprob, .top = n_top ? top : NULL, .n_top = n_top};
}

void stream_show_prompt(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->prompt_shown = true;
    publish(s);
}

void stream_embed(struct stream *s, const float *embedding)
{
    assert(!s->complete && "stream: an embedding comes before the end");
    memcpy(s->embedding, embedding, s->n_embedding * sizeof *embedding);
    s->embedded = true;
}

static struct record *record_at(const struct stream *s, const struct choice *c, uint32_t i)
{
    return &c->records[i % s->n_records];
}

static void append_text(const struct stream *s, struct choice *c, const char *text, size_t n_bytes)
{
    assert(n_bytes <= s->n_text - (size_t)(c->text_written - c->text_read) && "stream: room for the text");
    if (!n_bytes)
        return;
    size_t at = (size_t)(c->text_written % s->n_text), first = s->n_text - at < n_bytes ? s->n_text - at : n_bytes;
    memcpy(c->text + at, text, first);
    memcpy(c->text, text + first, n_bytes - first);
    c->text_written += n_bytes;
}

void stream_push(struct stream *s, uint32_t choice, const struct stream_token *token, const char *text, size_t n_bytes,
                 uint64_t safe, bool hold_last)
{
    struct choice *c = &s->choices[choice];
    pthread_mutex_lock(&s->lock);
    assert(c->n_written - c->n_read < s->n_records && !c->ended && "stream: room for a token");
    struct record *r = record_at(s, c, c->n_written);
    append_text(s, c, text, n_bytes);
    *r = (struct record){token->id, token->n_top < s->n_top ? token->n_top : s->n_top, token->logprob, c->text_written};
    if (r->n_top)
        memcpy(c->tops + (size_t)(c->n_written % s->n_records) * s->n_top, token->top, r->n_top * sizeof *token->top);
    c->n_written++;
    while (c->n_shown < c->n_written - hold_last && record_at(s, c, c->n_shown)->end <= safe)
        c->n_shown++;
    if (c->n_written - c->n_shown > STREAM_MAX_UNDECIDED) {
        /* Held by a stop string that tokens without text do not decide: the oldest goes out without its undecided
         * text. */
        uint64_t before = c->n_shown ? record_at(s, c, c->n_shown - 1)->end : 0;
        record_at(s, c, c->n_shown)->end = safe > before ? safe : before;
        c->n_shown++;
    }
    publish(s);
}

void stream_end_choice(struct stream *s, uint32_t choice, const char *text, size_t n_bytes, uint64_t safe,
                       enum finish_reason finish)
{
    struct choice *c = &s->choices[choice];
    pthread_mutex_lock(&s->lock);
    assert(!c->ended && "stream: a choice ends once");
    if (n_bytes && c->n_shown < c->n_written) {
        append_text(s, c, text, n_bytes);
        record_at(s, c, c->n_written - 1)->end = c->text_written;
    }
    for (; c->n_shown < c->n_written; c->n_shown++) {
        struct record *r = record_at(s, c, c->n_shown);
        r->end = r->end < safe ? r->end : safe;
    }
    c->ended = true;
    c->finish = finish;
    publish(s);
}

void stream_complete(struct stream *s, enum finish_reason finish, const struct error *error,
                     const struct stream_summary *summary)
{
    pthread_mutex_lock(&s->lock);
    s->complete = true;
    s->finish = finish;
    if (error) {
        s->error = *error;
        atomic_store_explicit(&s->stalled, error->code == ERROR_READER_STALLED, memory_order_relaxed);
        s->readable = false; /* also tells a reader that has left something unread */
    }
    s->summary = *summary;
    s->waker = NULL;
    publish(s);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void copy_text(const struct stream *s, const struct choice *c, uint64_t from, size_t n_bytes, char *out)
{
    size_t at = (size_t)(from % s->n_text), first = s->n_text - at < n_bytes ? s->n_text - at : n_bytes;
    memcpy(out, c->text + at, first);
    memcpy(out + first, c->text, n_bytes - first);
}

/* Copies out what is shown, so that the rings are free again at once. */
static void take_tokens(struct stream *s, struct choice *c, size_t max_tokens, struct stream_event *out)
{
    size_t n = c->n_shown - c->n_read, n_out_text = 0;
    bool was_full = !choice_has_room(s, c);
    n = max_tokens && max_tokens < n ? max_tokens : n;
    out->type = STREAM_TOKENS;
    out->position = c->n_read;
    out->tokens = s->out_tokens;
    out->n_tokens = n;
    for (size_t i = 0; i < n; i++) {
        const struct record *r = record_at(s, c, c->n_read);
        size_t n_bytes = (size_t)(r->end - c->text_read);
        struct token_logprob *top = s->out_tops + i * s->n_top;
        memcpy(top, c->tops + (size_t)(c->n_read % s->n_records) * s->n_top, r->n_top * sizeof *top);
        copy_text(s, c, c->text_read, n_bytes, s->out_text + n_out_text);
        s->out_tokens[i] = (struct token){r->id, s->out_text + n_out_text, n_bytes, r->logprob,
                                          s->n_top ? top : NULL, r->n_top};
        n_out_text += n_bytes;
        c->text_read = r->end;
        c->n_read++;
    }
    if (was_full && choice_has_room(s, c))
        wake_loop(s);
}

static bool read_choice(struct stream *s, uint32_t i, size_t max_tokens, struct stream_event *out)
{
    struct choice *c = &s->choices[i];
    out->choice = i;
    if (c->n_read < c->n_shown) {
        take_tokens(s, c, max_tokens, out);
        return true;
    }
    if (!c->ended || c->end_read)
        return false;
    out->type = STREAM_CHOICE_END;
    out->finish = c->finish;
    c->end_read = true;
    return true;
}

void stream_read(struct stream *s, size_t max_tokens, struct stream_event *out)
{
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&s->lock);
    bool found = s->prompt_shown && !s->prompt_read;
    if (found) {
        *out = (struct stream_event){.type = STREAM_PROMPT, .tokens = s->prompt, .n_tokens = s->n_prompt};
        s->prompt_read = true;
    }
    for (uint32_t k = 0; k < s->n_choices && !found; k++) { /* in turns, so that no choice waits for another's end */
        uint32_t i = (s->next_choice + k) % s->n_choices;
        found = read_choice(s, i, max_tokens, out);
        if (found)
            s->next_choice = (i + 1) % s->n_choices;
    }
    if (!found) {
        out->choice = 0;
        if (s->complete && !s->complete_read) {
            out->type = STREAM_COMPLETE;
            out->finish = s->finish;
            out->error = s->error;
            out->summary = s->summary;
            out->embedding = s->embedded ? s->embedding : NULL;
            out->n_embedding = s->embedded ? s->n_embedding : 0;
            s->complete_read = true;
        }
    }
    s->readable = has_unread(s);
    pthread_mutex_unlock(&s->lock);
}

bool stream_wait(struct stream *s, int64_t timeout_ns)
{
    int64_t now = clock_now_ns();
    int64_t deadline_ns = timeout_ns > CLOCK_NEVER - now ? CLOCK_NEVER : now + (timeout_ns > 0 ? timeout_ns : 0);
    pthread_mutex_lock(&s->lock);
    while (!s->readable && waker_cond_wait(&s->cond, &s->lock, deadline_ns))
        ;
    bool readable = s->readable;
    pthread_mutex_unlock(&s->lock);
    return readable;
}
