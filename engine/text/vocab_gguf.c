/* The tokenizer of a GGUF: tokenizer.ggml.* keys, as ggml's docs/gguf.md names them, checked before they are believed. */
#include "engine/text/vocab.h"
#include "engine/text/vocab_pieces.h"

#include "base/log.h"
#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MODEL "tokenizer.ggml.model"
#define KEY_PRE "tokenizer.ggml.pre"
#define KEY_MERGES "tokenizer.ggml.merges"
#define KEY_SCORES "tokenizer.ggml.scores"
#define KEY_BOS "tokenizer.ggml.bos_token_id"
#define KEY_EOS "tokenizer.ggml.eos_token_id"
#define KEY_EOT "tokenizer.ggml.eot_token_id"
#define KEY_EOM "tokenizer.ggml.eom_token_id"
#define KEY_UNKNOWN "tokenizer.ggml.unknown_token_id"
#define KEY_ADD_BOS "tokenizer.ggml.add_bos_token"
#define KEY_ADD_EOS "tokenizer.ggml.add_eos_token"
#define KEY_ADD_SPACE "tokenizer.ggml.add_space_prefix"
#define KEY_CHAT "tokenizer.chat_template"
#define KEY_ARCHITECTURE "general.architecture"
#define MAX_MERGES (1u << 24)

/* A load in progress. `err` is never NULL and starts at ERROR_NONE, so that it can be asked after a run of reads. */
struct load {
    const struct gguf *g;
    struct tokenizer *t;
    struct strmap texts; /* the file's token texts -> ids */
    struct error *err;
};

static enum error_code no_memory(struct load *l)
{
    return error_set(l->err, ERROR_MEMORY_EXHAUSTED, "no memory for the vocabulary");
}

/* Reads a token id; -1 and true when the key is absent. */
static bool read_id(struct load *l, const char *key, int64_t *out)
{
    uint32_t id;
    if (!gguf_get_u32(l->g, key, &id, l->err))
        return l->err->code == ERROR_NONE;
    if (id >= l->t->n) {
        error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, key, "%s: token %u, but the vocabulary has %u tokens", key, id,
                        l->t->n);
        return false;
    }
    *out = id;
    return true;
}

static enum error_code read_ids(struct load *l)
{
    struct tokenizer *t = l->t;
    int64_t eot = -1, eom = -1;
    if (t->model == VOCAB_SPM && t->n > 2) { /* SentencePiece's own numbering, for files that name none */
        t->unknown = t->kinds[0] == TOKEN_UNKNOWN ? 0 : -1;
        t->bos = t->kinds[1] == TOKEN_CONTROL ? 1 : -1;
        t->eos = t->kinds[2] == TOKEN_CONTROL ? 2 : -1;
    }
    if (!read_id(l, KEY_BOS, &t->bos) || !read_id(l, KEY_EOS, &t->eos) || !read_id(l, KEY_UNKNOWN, &t->unknown) ||
        !read_id(l, KEY_EOT, &eot) || !read_id(l, KEY_EOM, &eom))
        return l->err->code;
    if (t->eos >= 0)
        t->eog[t->eos] = true;
    if (eot >= 0)
        t->eog[eot] = true;
    if (eom >= 0)
        t->eog[eom] = true;
    if (t->model != VOCAB_NONE && gguf_find(l->g, KEY_TOKEN_TYPE) == NULL) {
        if (t->bos >= 0)
            t->kinds[t->bos] = TOKEN_CONTROL;
        if (t->eos >= 0)
            t->kinds[t->eos] = TOKEN_CONTROL;
        if (t->unknown >= 0)
            t->kinds[t->unknown] = TOKEN_UNKNOWN;
    }
    return ERROR_NONE;
}

/* ---- byte-level BPE ---- */

/* The id of a token that merging may use, by its text. */
static uint32_t normal_token(const struct load *l, const char *text, size_t n_bytes)
{
    uint32_t id = strmap_get(&l->texts, text, n_bytes);
    return id != STRMAP_NONE && l->t->kinds[id] == TOKEN_NORMAL ? id : STRMAP_NONE;
}

/* Adds the merge "left right"; one that names a token that is not there can never apply and is passed over (*n_skipped). */
static bool add_merge(struct load *l, struct gguf_string merge, uint32_t rank, struct buffer *scratch,
                      size_t *n_skipped)
{
    const char *space = merge.n_bytes > 2 ? memchr(merge.data + 1, ' ', merge.n_bytes - 1) : NULL;
    uint32_t left = STRMAP_NONE, right = STRMAP_NONE, joined = STRMAP_NONE;
    if (space != NULL) {
        size_t n_left = (size_t)(space - merge.data), n_right = merge.n_bytes - n_left - 1;
        left = normal_token(l, merge.data, n_left);
        right = normal_token(l, space + 1, n_right);
        if (left != STRMAP_NONE && right != STRMAP_NONE) {
            buffer_clear(scratch);
            if (!buffer_append(scratch, merge.data, n_left) || !buffer_append(scratch, space + 1, n_right))
                return false;
            joined = normal_token(l, scratch->data, scratch->n_bytes);
        }
    }
    if (joined == STRMAP_NONE) {
        ++*n_skipped;
        return true;
    }
    return merges_add(&l->t->merges, left, right, rank, joined);
}

static enum error_code read_merges(struct load *l)
{
    const struct gguf_key *key = gguf_get_strings(l->g, KEY_MERGES, l->err);
    if (l->err->code != ERROR_NONE)
        return l->err->code;
    if (key == NULL)
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_MERGES,
                               KEY_MERGES " is missing: byte-level BPE needs it");
    if (key->n > MAX_MERGES)
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_MERGES,
                               KEY_MERGES ": expected at most %u merges, found %llu", MAX_MERGES,
                               (unsigned long long)key->n);
    if (!merges_init(&l->t->merges, key->n))
        return no_memory(l);
    struct buffer scratch;
    buffer_init(&scratch, 2 * VOCAB_MAX_BYTES);
    size_t n_skipped = 0;
    bool ok = true;
    for (uint32_t i = 0; ok && i < key->n; i++)
        ok = add_merge(l, key->strings[i], i, &scratch, &n_skipped);
    buffer_fini(&scratch);
    if (n_skipped > 0)
        log_debug("engine", "merges of unknown tokens left out", LOG_INT("n", n_skipped));
    return ok ? ERROR_NONE : no_memory(l);
}

/* Files made before tokenizer.ggml.pre existed: their vocabulary tells Llama 3, which the published 2B-4T has. */
static const struct pretokenizer_def *guess_pre(const struct tokenizer *t)
{
    if (vocab_special(t, "<|begin_of_text|>") >= 0)
        return pretokenizer_find("llama-bpe", 9);
    log_warn("engine",
             "the model does not say how words are cut (" KEY_PRE "): text may be tokenised other than in training",
             LOG_STR("assumed", "default"));
    return pretokenizer_find("default", 7);
}

static enum error_code read_pre(struct load *l)
{
    struct gguf_string name = {0};
    bool there = gguf_get_string(l->g, KEY_PRE, &name, l->err);
    if (l->err->code != ERROR_NONE)
        return l->err->code;
    l->t->pre_def = there && name.n_bytes > 0 ? pretokenizer_find(name.data, name.n_bytes) : guess_pre(l->t);
    if (l->t->pre_def == NULL)
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_PRE,
                               KEY_PRE ": \"%.*s\" is not known: expected llama-bpe, gpt-2, falcon or default",
                               name.n_bytes < 64 ? (int)name.n_bytes : 64, name.data);
    return pretokenizer_open(l->t->pre_def, &l->t->pre, l->err);
}

static enum error_code load_bpe(struct load *l)
{
    if (read_merges(l) != ERROR_NONE || read_pre(l) != ERROR_NONE)
        return l->err->code;
    if (l->t->bos < 0)
        l->t->bos = vocab_special(l->t, "<|begin_of_text|>");
    l->t->add_bos = l->t->pre_def->add_bos;
    return ERROR_NONE;
}

/* ---- SentencePiece ---- */

struct scored {
    double score;
    uint32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

/* ranks[id]: place of the token's score among all, equal scores sharing a place (then the leftmost pair goes first). */
static enum error_code rank_scores(struct load *l, struct scored *order, uint32_t *ranks)
{
    const struct gguf_key *scores = gguf_get_numbers(l->g, KEY_SCORES, l->err);
    if (l->err->code != ERROR_NONE)
        return l->err->code;
    if (scores == NULL || scores->n != l->t->n)
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_SCORES,
                               KEY_SCORES ": expected %u scores, found %llu", l->t->n,
                               scores == NULL ? 0 : (unsigned long long)scores->n);
    for (uint32_t id = 0; id < l->t->n; id++) {
        order[id] = (struct scored){.score = gguf_number(scores, id), .id = id};
        if (isnan(order[id].score))
            return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_SCORES,
                                   KEY_SCORES ": element %u is not a number", id);
    }
    qsort(order, l->t->n, sizeof *order, by_score);
    uint32_t rank = 0;
    for (uint32_t i = 0; i < l->t->n; i++) {
        if (i > 0 && order[i].score != order[i - 1].score)
            rank++;
        ranks[order[i].id] = rank;
    }
    return ERROR_NONE;
}

/* Merging starts from characters. One that is no token itself, but part of some, gets an id beyond the vocabulary. */
static bool add_characters(struct tokenizer *t)
{
    uint32_t next = t->n, found;
    for (uint32_t id = 0; id < t->n; id++) {
        size_t n_bytes;
        const char *piece = vocab_piece(t, id, &n_bytes);
        if (t->kinds[id] != TOKEN_NORMAL || n_bytes > VOCAB_MAX_MERGED_BYTES)
            continue;
        for (size_t i = 0, length; i < n_bytes; i += length) {
            uint32_t code_point;
            length = utf8_decode(piece + i, n_bytes - i, &code_point);
            if (length == 0)
                break;
            if (!strmap_add(&t->by_piece, piece + i, length, next, &found))
                return false;
            if (found == next)
                next++;
        }
    }
    return true;
}

static bool space_starts_word(const struct tokenizer *t)
{
    for (uint32_t id = 0; id < t->n; id++) {
        size_t n_bytes;
        const char *piece = vocab_piece(t, id, &n_bytes);
        if (t->kinds[id] != TOKEN_NORMAL)
            continue;
        for (size_t i = 1; i < n_bytes; i++)
            if (piece[i] == ' ' && piece[i - 1] != ' ')
                return false;
    }
    return true;
}

static enum error_code load_spm(struct load *l)
{
    struct tokenizer *t = l->t;
    struct scored *order = malloc((size_t)t->n * sizeof *order);
    uint32_t *ranks = malloc((size_t)t->n * sizeof *ranks);
    if (order == NULL || ranks == NULL || !add_characters(t))
        no_memory(l);
    else if (rank_scores(l, order, ranks) == ERROR_NONE)
        vocab_merges_by_rank(t, ranks, l->err);
    free(order);
    free(ranks);
    t->space_starts_word = space_starts_word(t);
    t->add_bos = true;
    t->add_space_prefix = true;
    gguf_get_bool(l->g, KEY_ADD_SPACE, &t->add_space_prefix, l->err);
    return l->err->code;
}

/* ---- the whole ---- */

/* add_bos and add_eos: the file's word, or the model's default where it can be followed. */
static enum error_code read_flags(struct load *l)
{
    struct tokenizer *t = l->t;
    bool bos_given = gguf_get_bool(l->g, KEY_ADD_BOS, &t->add_bos, l->err);
    gguf_get_bool(l->g, KEY_ADD_EOS, &t->add_eos, l->err);
    if (l->err->code != ERROR_NONE)
        return l->err->code;
    if (t->add_bos && t->bos < 0 && bos_given)
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_BOS,
                               KEY_ADD_BOS " is true, but " KEY_BOS " is missing");
    if (t->add_eos && t->eos < 0)
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_EOS,
                               KEY_ADD_EOS " is true, but " KEY_EOS " is missing");
    if (t->bos < 0)
        t->add_bos = false;
    return ERROR_NONE;
}

static enum error_code read_chat(struct load *l)
{
    struct gguf_string source = {0}, architecture = {0};
    bool there = gguf_get_string(l->g, KEY_CHAT, &source, l->err);
    gguf_get_string(l->g, KEY_ARCHITECTURE, &architecture, l->err);
    if (l->err->code != ERROR_NONE)
        return l->err->code;
    l->t->chat =
        chat_template_choose(l->t, there ? source.data : NULL, source.n_bytes, architecture.data, architecture.n_bytes);
    return ERROR_NONE;
}

/* The file has no vocabulary: ids go in and out, and only the keys that name ids mean something. */
static enum error_code load_none(struct load *l, uint32_t n_vocab)
{
    if (n_vocab > VOCAB_MAX_TOKENS)
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_TOKENS, "expected at most %u tokens, found %u",
                               VOCAB_MAX_TOKENS, n_vocab);
    l->t = vocab_new(VOCAB_NONE, n_vocab, 0);
    if (l->t == NULL)
        return no_memory(l);
    return n_vocab == 0 ? ERROR_NONE : read_ids(l);
}

static enum error_code read_model(struct load *l, enum vocab_model *model)
{
    struct gguf_string name = {0};
    *model = VOCAB_NONE;
    if (!gguf_get_string(l->g, KEY_MODEL, &name, l->err))
        return l->err->code;
    if (name.n_bytes == 4 && memcmp(name.data, "gpt2", 4) == 0)
        *model = VOCAB_BPE;
    else if (name.n_bytes == 5 && memcmp(name.data, "llama", 5) == 0)
        *model = VOCAB_SPM;
    else if (!(name.n_bytes == 4 && memcmp(name.data, "none", 4) == 0) &&
             !(name.n_bytes == 8 && memcmp(name.data, "no_vocab", 8) == 0))
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_MODEL,
                               KEY_MODEL ": expected gpt2 or llama, found \"%.*s\"",
                               name.n_bytes < 64 ? (int)name.n_bytes : 64, name.data);
    return ERROR_NONE;
}

static enum error_code load_all(struct load *l, uint32_t n_vocab)
{
    enum vocab_model model;
    const struct gguf_key *tokens = gguf_get_strings(l->g, KEY_TOKENS, l->err);
    if (l->err->code != ERROR_NONE || read_model(l, &model) != ERROR_NONE)
        return l->err->code;
    if (tokens == NULL || model == VOCAB_NONE)
        return load_none(l, n_vocab);
    if (n_vocab != 0 && tokens->n != n_vocab)
        return error_set_param(l->err, ERROR_MODEL_LOAD_FAILED, KEY_TOKENS,
                               KEY_TOKENS ": %llu tokens, but the embedding has %u rows", (unsigned long long)tokens->n,
                               n_vocab);
    if (vocab_read_pieces(l->g, model, tokens, &l->t, &l->texts, l->err) != ERROR_NONE || read_ids(l) != ERROR_NONE ||
        vocab_index(l->t, l->err) != ERROR_NONE)
        return l->err->code;
    if ((model == VOCAB_BPE ? load_bpe(l) : load_spm(l)) != ERROR_NONE)
        return l->err->code;
    return read_flags(l) != ERROR_NONE ? l->err->code : read_chat(l);
}

enum error_code tokenizer_from_gguf(const struct gguf *g, uint32_t n_vocab, struct tokenizer **out, struct error *err)
{
    struct error local = {0};
    struct load l = {.g = g, .err = &local};
    *out = NULL;
    load_all(&l, n_vocab);
    strmap_fini(&l.texts);
    if (local.code == ERROR_NONE) {
        *out = l.t;
        return ERROR_NONE;
    }
    tokenizer_close(l.t);
    if (err != NULL)
        *err = local;
    return local.code;
}

/* Opens what the first bytes say the file is. */
enum error_code tokenizer_open(const char *path, struct tokenizer **out, struct error *err)
{
    char magic[4] = {0};
    *out = NULL;
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return error_set(err, ERROR_MODEL_LOAD_FAILED, "%s: %m", path);
    size_t n = fread(magic, 1, sizeof magic, f);
    fclose(f);
    if (n != sizeof magic || memcmp(magic, "GGUF", sizeof magic) != 0)
        return vocab_from_ranks(path, out, err);
    struct gguf *g;
    enum error_code code = gguf_open(path, &g, err);
    if (code != ERROR_NONE)
        return code;
    code = tokenizer_from_gguf(g, 0, out, err);
    gguf_close(g);
    return code;
}
