/*
 * bitnet crossval: the served path against a reference, position by position over the same tokens.
 *
 *   crossval.c             options, models, texts, the verdict
 *   crossval_answers.c     answers of our own to compare along
 *   crossval_reference.c   references that give logits: the portable kernels, stored files, a command
 *   crossval_server.c      references that give log-probabilities of listed tokens: servers
 *   crossval_answer.c      what servers answer, no I/O
 *   crossval_stats.c       the statistics alone, no I/O
 *   crossval_report.c      table and JSON
 */
#ifndef TOOLS_CROSSVAL_H
#define TOOLS_CROSSVAL_H

#include "engine/engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- statistics -------------------------------------------------------------------------------------------------- */

struct crossval_entry { uint32_t id; double logprob; };

/* What a reference says of the token behind one position: all logits, or some tokens' log-probabilities. */
struct crossval_row {
    const float *logits;                  /* [n_vocab], or NULL: */
    const struct crossval_entry *entries; /* [n_entries], best first, no id twice */
    size_t n_entries;
    double target;                        /* log-probability of the text's next token; NAN = not told */
};

enum { CROSSVAL_TOP = 5 };

/* Sums over positions; zeroed = none. */
struct crossval_stats {
    size_t first;                         /* set by the caller: of the sequence at hand the position that counts first */
    double tie;                           /* nats, set by the caller: best tokens that differ and are closer than this are a tie */
    size_t n_ties;
    size_t n_positions, n_top1;
    double gap_sum, gap_max;              /* where the best tokens differ: how far they are apart, by whoever has them further */
    size_t n_margins;                     /* positions where both have a log-probability of our two best tokens */
    double margin_sum2;                   /* over these, squared: how much further they are apart with us than with the reference */
    double top_shared;                    /* of each position the share of the reference's five best that are among ours */
    size_t n_cosine;
    double cosine_sum, cosine_min;
    double kl_sum, kl_max;
    size_t n_whole;                       /* positions whose reference gave the whole distribution */
    size_t n_scored;                      /* positions where both have a log-probability of the next token */
    double our_nll, reference_nll;        /* sums of -ln p over these */
    double difference_mean, difference_m2; /* of ln p(ours) - ln p(reference), by Welford's recurrence */
};

/* Adds one position. ours: [n_vocab] logits. has_target: `target` is the text's next token (a sequence's last position has none). False
 * with *err set when a logit or log-probability is not a number, or an id is none of the vocabulary. */
bool crossval_add(struct crossval_stats *s, const float *ours, size_t n_vocab, const struct crossval_row *reference,
                  bool has_target, uint32_t target, struct error *err);

/* NAN where there was nothing to compare. */
struct crossval_result {
    double gap_mean, gap_max;             /* nats between two best tokens that differ: a tie that rounding decides when it is in the order of */
    double tied;                          /* share of positions whose best tokens differ and are a tie */
    double margin_rms;                    /* what the two arithmetics make of the distance of two tokens */
    double top1, top5, cosine_mean, cosine_min, kl_mean, kl_max; /* KL(reference || ours), nats */
    bool kl_is_bound;                     /* some positions had listed tokens only: the true KL is this or more */
    double our_perplexity, reference_perplexity, perplexity_difference; /* the last relative to the reference, with its sign */
    double mean_difference, t, p;         /* paired test over ln p(ours) - ln p(reference), two-sided */
};
void crossval_finish(const struct crossval_stats *s, struct crossval_result *out);

struct crossval_limits { double min_top1 /* ties count for it */, min_top5, min_cosine, max_ppl_difference, max_kl, min_p; }; /* 0 = not judged */
/* Appends what fails, as "top-1 agreement 0.9800 is under 0.9900; ..."; false when anything does. What is not known fails no limit but
 * those of top-1 and perplexity. */
bool crossval_judge(const struct crossval_result *r, const struct crossval_limits *limits, struct buffer *why);

/* ---- references -------------------------------------------------------------------------------------------------- */

/* Sequences of token ids, one after the other. ids is owned; n_ids[i] tokens in sequence i, which counts from position first[i] on. */
struct crossval_sequences { uint32_t *ids; size_t *n_ids, *first; size_t n, n_tokens; };
bool crossval_sequences_add(struct crossval_sequences *q, const uint32_t *ids, size_t n, size_t first); /* false: no memory */
void crossval_sequences_free(struct crossval_sequences *q);
/* Reads a file of ids, a sequence a line; empty lines are left out. */
bool crossval_sequences_read(struct crossval_sequences *q, const char *path, uint32_t n_vocab, struct error *err);

struct crossval_server_options {
    const char *url, *api, *key;          /* api: "llama", "llama-whole" or "openai"; key: of a Bearer token, or NULL */
    const char *model;                    /* its name on the server; openai */
    size_t n_top;                         /* tokens to ask for at each position; 0 = the vocabulary, of a large one 256 */
    int timeout_ms;                       /* of one request */
};

/* A reference is asked for the sequences in order, each once. `ours`: [n][n_vocab] logits of the same tokens; positions before stats->first
 * are left out. */
struct crossval_reference {
    void *state;
    bool (*compare)(void *state, size_t index, const uint32_t *ids, size_t n, const float *ours, struct crossval_stats *stats,
                    struct error *err);
    void (*close)(void *state);
    char name[256];                       /* for the report */
};

/* The portable C kernels over another layout than `served` has. max_tokens: of a sequence. */
bool crossval_portable(const struct engine_options *options, const struct engine_model *served, size_t max_tokens,
                       struct crossval_reference *out, struct error *err);
/* Stored logits beside `sequences_path` (NAME.seqs.txt): NAME.seqI.logits.f32 of each line that has one, or NAME.logits.f32 of all. Fills
 * `sequences` with those that have logits. */
bool crossval_vectors(const char *sequences_path, uint32_t n_vocab, struct crossval_sequences *sequences,
                      struct crossval_reference *out, struct error *err);
/* A shell command that gets the sequences on standard input, ids separated by spaces, one a line, and writes their logits, raw
 * little-endian f32 [n_tokens][n_vocab], one after the other. BITNET_MODEL in its environment is the model's path. */
bool crossval_command(const char *command, const char *model_path, uint32_t n_vocab, int timeout_ms,
                      const struct crossval_sequences *sequences, struct crossval_reference *out, struct error *err);
/* Options and tokenizer are borrowed until it is closed. */
bool crossval_server(const struct crossval_server_options *options, const struct tokenizer *tokenizer, uint32_t n_vocab,
                     struct crossval_reference *out, struct error *err);

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* Continues each sequence greedily, as served, by up to n tokens, or to the token that ends a text; only the answers count then. */
bool crossval_answer(struct session *s, struct crossval_sequences *q, size_t n, struct error *err);

/* ---- what servers answer; pure ----------------------------------------------------------------------------------- */

/* Tokens by their bytes; the tokenizer is borrowed. NULL when memory is out. */
struct crossval_pieces;
struct crossval_pieces *crossval_pieces_open(const struct tokenizer *t);
void crossval_pieces_close(struct crossval_pieces *p);
/* The token of a text, or of bytes:\xe2\x80 or "byte: \xe2"; the lowest id of several; -1 = none. */
int64_t crossval_pieces_find(const struct crossval_pieces *p, const char *text);

struct json_value;
/* Reads the first position's list of a llama.cpp server's answer into `entries`, at most max_entries, sorted; `out` borrows them. The list is
 * top_logprobs of choices[0].logprobs.content[0] or of completion_probabilities[0], or in older servers probs of the latter, whose texts
 * are looked up in `pieces`; one that is no token is left out. target: the text's next token, -1 = none. False with *err set when there
 * is no such list. */
bool crossval_read_llama(const struct json_value *root, const struct crossval_pieces *pieces, size_t n_vocab, int64_t target,
                         struct crossval_entry *entries, size_t max_entries, struct crossval_row *out, struct error *err);
/* The same of one position of an echoed prompt: `top` is the position's object of texts, `own` its token's log-probability. */
bool crossval_read_openai(const struct json_value *top, const struct json_value *own, const struct crossval_pieces *pieces,
                          struct crossval_entry *entries, size_t max_entries, struct crossval_row *out, struct error *err);
/* \u0000 becomes \ufffd in place: the reader of JSON refuses it, and a server that lists a whole vocabulary has it in the text of a byte's
 * token. */
void crossval_replace_nul(char *text);

/* ---- reports ----------------------------------------------------------------------------------------------------- */

struct crossval_report {
    const char *model, *reference, *served; /* path; name; "i2s on avx512" */
    const struct crossval_stats *stats;
    const struct crossval_result *result;
    const char *failures;                 /* empty = it agrees */
    size_t n_sequences;
};
void crossval_report_text(const struct crossval_report *r, struct buffer *out);
void crossval_report_json(const struct crossval_report *r, struct buffer *out); /* one object */

#endif
