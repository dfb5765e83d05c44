/*
 * A token stream: the bounded buffer between the loop, which writes, and one reader. Two references, the reader's and
 * the loop's; the last to go frees it. The reader's functions (stream_read, _wait, _cancel, _close) are in engine.h.
 *
 * Each choice has a ring of token records and a ring of their text. A record is written as soon as its token is drawn
 * and shown to the reader when its text is decided: when no stop string can begin in it and no character is still open.
 *
 *   choice:  | taken by the reader | shown | written, text undecided | free |
 *            ^                     ^ read  ^ shown                   ^ written
 *
 * At most STREAM_MAX_UNDECIDED records are held back; an older one is then shown without its text, which moves on to
 * the next. Records of a token whose text is cut off by a stop string are shown too, so the records are exactly the
 * generated tokens.
 *
 * Events: PROMPT first, where it was asked for; tokens of the choices in turns; CHOICE_END once a choice is done and read; COMPLETE last. A request that
 * ends by an error, or by cancel or deadline before its first token, has no CHOICE_END, only COMPLETE.
 *
 * on_ready is called when a stream in which there was nothing to read gets something, and when a request ends by an error; without the lock held, never
 * after stream_close has returned: stream_close waits for a call that is under way, so a caller must hold no lock that
 * on_ready takes.
 */
#ifndef ENGINE_STREAM_H
#define ENGINE_STREAM_H

#include "engine/engine.h"
#include "engine/waker.h"

#define STREAM_MAX_UNREAD 256 /* unread tokens of a choice at which its sequence is paused */
#define STREAM_MAX_UNDECIDED 64

struct stream_options {
    uint32_t n_choices;
    uint32_t max_tokens;    /* of a choice */
    uint32_t n_top;         /* top log-probabilities of each token */
    const uint32_t *prompt; /* [n_prompt] tokens whose log-probabilities will be given; copied */
    uint32_t n_prompt;      /* 0 = none will */
    uint32_t n_embedding;   /* of the vector that will be given; 0 = none will */
    size_t max_token_bytes; /* text that one token can add, at most */
    void (*on_ready)(void *user);
    void *user;
    struct waker *waker; /* woken when a full ring has room again, and by cancel and close; borrowed until
                                  * stream_complete */
};

/* Two references: the caller's (the reader's) and the loop's. NULL when memory is out. */
struct stream *stream_open(const struct stream_options *options);
/* Gives back the loop's reference. */
void stream_release(struct stream *s);

/* ---- for the loop ---- */

struct stream_token {
    uint32_t id;
    float logprob;
    const struct token_logprob *top; /* [n_top], copied */
    uint32_t n_top;                  /* at most options.n_top; fewer where a grammar allows, or the vocabulary has, no more */
};

/* True when the choice can take one more token and its end; false while the reader is behind. */
bool stream_has_room(struct stream *s, uint32_t choice);
/* The reader has asked for the end, or is gone. */
bool stream_cancelled(const struct stream *s);

/* The log-probability of the prompt's token i (not the first, which has none), in any order; then, once, all of them are shown. */
void stream_score(struct stream *s, uint32_t i, const struct stream_token *token);
void stream_show_prompt(struct stream *s);

/* Appends a token with the text that it completed (needs room). Then shows the records whose text lies in the first
 * `safe` bytes of the choice's text; hold_last: not the newest, because a character is open that it has begun. */
void stream_push(struct stream *s, uint32_t choice, const struct stream_token *token, const char *text, size_t n_bytes,
                 uint64_t safe, bool hold_last);
/* Ends a choice: adds `text` to its last record if that is not shown yet, cuts the text at `safe` bytes and shows
 * all records. */
void stream_end_choice(struct stream *s, uint32_t choice, const char *text, size_t n_bytes, uint64_t safe,
                       enum finish_reason finish);
/* The vector [n_embedding] that the reader gets with COMPLETE. Before stream_complete. */
void stream_embed(struct stream *s, const float *embedding);

/* Ends the stream; `error` (copied, NULL = none) with FINISH_ERROR. The waker is not used any more. */
void stream_complete(struct stream *s, enum finish_reason finish, const struct error *error,
                     const struct stream_summary *summary);

#endif
