/*
 * References that are servers. See crossval.h.
 *
 *   llama    POST /completion of llama.cpp's server and its kin, once for each position: the ids up to it as the prompt, one token to
 *            predict, n_probs of the distribution behind them. The prompt cache makes that a token a request.
 *   openai   POST /v1/completions with echo, logprobs and max_tokens 0, once for each sequence: what scores texts with OpenAI's API.
 *            Five tokens a position and the text's own; tokens are told by their text.
 */
#include "tools/crossval.h"

#include "tools/http_client.h"
#include "tools/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ANSWER_BYTES = 64 << 20, WHOLE_VOCABULARY = 8192, SOME_OF_VOCABULARY = 256 };

struct server {
    const struct crossval_server_options *options;
    const struct tokenizer *tokenizer;
    struct http_url url;
    size_t n_vocab, n_tokens, n_top; /* the logits' and the tokenizer's, which may have fewer */
    struct crossval_entry *entries; /* [n_top + 1] */
    uint32_t *by_piece;             /* [n_tokens] ids in order of their bytes; openai only */
    struct buffer request, answer;
};

/* ---- reading answers --------------------------------------------------------------------------------------------- */

static int by_logprob(const void *a, const void *b)
{
    const struct crossval_entry *x = a, *y = b;
    return x->logprob != y->logprob ? (x->logprob < y->logprob) - (x->logprob > y->logprob) : (x->id > y->id) - (x->id < y->id);
}

static const struct json_value *number(const struct json_value *v)
{
    return v && v->type == JSON_NUMBER ? v : NULL;
}

bool crossval_read_llama(const struct json_value *root, size_t n_vocab, bool has_target, uint32_t target, struct crossval_entry *entries,
                         size_t max_entries, struct crossval_row *out, struct error *err)
{
    const struct json_value *positions = json_member(root, "completion_probabilities");
    const struct json_value *list = json_member(positions ? positions->first : NULL, "top_logprobs");
    *out = (struct crossval_row){.entries = entries, .target = NAN};
    for (const struct json_value *v = list ? list->first : NULL; v && out->n_entries < max_entries; v = v->next) {
        const struct json_value *id = number(json_member(v, "id")), *logprob = number(json_member(v, "logprob"));
        if (!id || !logprob || id->number < 0 || id->number >= (double)n_vocab) {
            error_set(err, ERROR_VALIDATION_FAILED, "the server's top_logprobs: expected token ids below %zu, each with a logprob", n_vocab);
            return false;
        }
        entries[out->n_entries++] = (struct crossval_entry){(uint32_t)id->number, logprob->number};
        if (has_target && (uint32_t)id->number == target)
            out->target = logprob->number;
    }
    if (out->n_entries == 0) {
        error_set(err, ERROR_VALIDATION_FAILED, "the server's answer: expected completion_probabilities[0].top_logprobs, found none");
        return false;
    }
    qsort(entries, out->n_entries, sizeof *entries, by_logprob);
    return true;
}

static int compare_bytes(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
    return order ? order : (n_a > n_b) - (n_a < n_b);
}

static int by_bytes(const void *a, const void *b, void *tokenizer)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    size_t n_x, n_y;
    const char *p = tokenizer_piece(tokenizer, x, &n_x), *q = tokenizer_piece(tokenizer, y, &n_y);
    int order = compare_bytes(p, n_x, q, n_y);
    return order ? order : (x > y) - (x < y);
}

/* OpenAI writes bytes that are no UTF-8 as bytes:\xe2\x80. Returns their number, or SIZE_MAX where it is not such a text. */
static size_t decode_bytes(const char *text, char *out, size_t max)
{
    size_t n = 0;
    if (strncmp(text, "bytes:", 6) != 0)
        return SIZE_MAX;
    for (text += 6; *text; text += 4) {
        unsigned value;
        if (n == max || strncmp(text, "\\x", 2) != 0 || sscanf(text + 2, "%2x", &value) != 1 || strlen(text) < 4)
            return SIZE_MAX;
        out[n++] = (char)value;
    }
    return n > 0 ? n : SIZE_MAX;
}

/* The token of a text, the lowest id of several; -1 = none. */
static int64_t find_token(const struct server *s, const char *text)
{
    char bytes[256];
    size_t n = decode_bytes(text, bytes, sizeof bytes), low = 0, high = s->n_tokens;
    const char *wanted = n == SIZE_MAX ? text : bytes;
    n = n == SIZE_MAX ? strlen(text) : n;
    while (low < high) {
        size_t middle = low + (high - low) / 2, n_piece;
        const char *piece = tokenizer_piece(s->tokenizer, s->by_piece[middle], &n_piece);
        if (compare_bytes(piece, n_piece, wanted, n) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    size_t n_piece = 0;
    const char *piece = low < s->n_tokens ? tokenizer_piece(s->tokenizer, s->by_piece[low], &n_piece) : NULL;
    return piece && compare_bytes(piece, n_piece, wanted, n) == 0 ? (int64_t)s->by_piece[low] : -1;
}

/* One position of an echoed prompt: `top` is an object of texts. A text that is no token of ours is left out, and so is a second of a token. */
static bool read_top(struct server *s, const struct json_value *top, const struct json_value *logprob, struct crossval_row *out,
                     struct error *err)
{
    *out = (struct crossval_row){.entries = s->entries, .target = number(logprob) ? logprob->number : NAN};
    for (const struct json_value *v = top ? top->first : NULL; v && out->n_entries <= s->n_top; v = v->next) {
        int64_t id = v->name && number(v) ? find_token(s, v->name) : -1;
        for (size_t i = 0; i < out->n_entries; i++)
            id = s->entries[i].id == id ? -1 : id;
        if (id >= 0)
            s->entries[out->n_entries++] = (struct crossval_entry){(uint32_t)id, v->number};
    }
    if (out->n_entries == 0) {
        error_set(err, ERROR_VALIDATION_FAILED, "the server's top_logprobs: expected texts of the model's tokens, found none");
        return false;
    }
    qsort(s->entries, out->n_entries, sizeof *s->entries, by_logprob);
    return true;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

/* \u0000, which the reader of JSON refuses, becomes \ufffd: a server that lists the whole vocabulary has it in the text of a byte's token,
 * which nobody reads. */
static void replace_nul(char *text)
{
    for (char *p = text; (p = strchr(p, '\\')); p += 2) {
        if (strncmp(p, "\\u0000", 6) == 0)
            memcpy(p + 2, "fffd", 4);
        if (!p[1])
            return;
    }
}

static void put_ids(struct buffer *b, const uint32_t *ids, size_t n)
{
    buffer_append_str(b, "\"prompt\":[");
    for (size_t i = 0; i < n; i++)
        buffer_printf(b, "%s%u", i ? "," : "", ids[i]);
    buffer_append_char(b, ']');
}

/* Posts s->request; the caller closes *out. */
static bool ask(struct server *s, const char *path, struct json **out, struct error *err)
{
    int status = 0;
    *out = NULL;
    if (s->request.failed) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a request");
        return false;
    }
    if (!http_post_json(&s->url, path, s->options->key, &s->request, s->options->timeout_ms, &status, &s->answer, err))
        return false;
    if (status != 200) {
        error_set(err, ERROR_INFERENCE_FAILED, "%s%s: expected status 200, found %d: %.200s", s->options->url, path, status,
                  s->answer.data ? s->answer.data : "");
        return false;
    }
    replace_nul(s->answer.data ? s->answer.data : (char[]){""});
    return json_open(s->answer.data ? s->answer.data : "", s->answer.n_bytes, out, err) == ERROR_NONE;
}

static bool llama_compare(void *state, size_t index, const uint32_t *ids, size_t n, const float *ours, struct crossval_stats *stats,
                          struct error *err)
{
    struct server *s = state;
    bool ok = true;
    (void)index;
    for (size_t at = 0; ok && at < n; at++) {
        bool has_target = at + 1 < n;
        uint32_t target = has_target ? ids[at + 1] : 0;
        struct json *j;
        struct crossval_row row;
        buffer_clear(&s->request);
        buffer_append_char(&s->request, '{');
        put_ids(&s->request, ids, at + 1);
        buffer_printf(&s->request, ",\"n_predict\":1,\"n_probs\":%zu,\"temperature\":0,\"cache_prompt\":true,\"stream\":false}", s->n_top);
        ok = ask(s, "/completion", &j, err) &&
             crossval_read_llama(json_root(j), s->n_vocab, has_target, target, s->entries, s->n_top, &row, err) &&
             crossval_add(stats, ours + at * s->n_vocab, s->n_vocab, &row, has_target, target, err);
        json_close(j);
    }
    return ok;
}

static bool openai_compare(void *state, size_t index, const uint32_t *ids, size_t n, const float *ours, struct crossval_stats *stats,
                           struct error *err)
{
    struct server *s = state;
    struct json *j;
    (void)index;
    buffer_clear(&s->request);
    buffer_append_str(&s->request, "{\"model\":\"");
    buffer_append_json(&s->request, s->options->model, strlen(s->options->model));
    buffer_append_str(&s->request, "\",");
    put_ids(&s->request, ids, n);
    buffer_printf(&s->request, ",\"max_tokens\":0,\"echo\":true,\"logprobs\":%zu,\"temperature\":0}", s->n_top);
    bool ok = ask(s, "/v1/completions", &j, err);
    const struct json_value *choices = ok ? json_member(json_root(j), "choices") : NULL;
    const struct json_value *all = json_member(choices ? choices->first : NULL, "logprobs");
    const struct json_value *own = json_member(all, "token_logprobs"), *top = json_member(all, "top_logprobs");
    if (ok && (!own || !top || own->number != (double)n || top->number != (double)n)) {
        error_set(err, ERROR_VALIDATION_FAILED, "the server's answer: expected token_logprobs and top_logprobs of the %zu tokens of the prompt "
                  "(echo), found %.0f and %.0f", n, own ? own->number : 0, top ? top->number : 0);
        ok = false;
    }
    own = ok ? own->first->next : NULL; /* nothing stands in front of the first token */
    top = ok ? top->first->next : NULL;
    for (size_t at = 0; ok && at + 1 < n; at++, own = own->next, top = top->next) {
        struct crossval_row row;
        ok = read_top(s, top, own, &row, err) &&
             crossval_add(stats, ours + at * s->n_vocab, s->n_vocab, &row, true, ids[at + 1], err);
    }
    json_close(j);
    return ok;
}

static void server_close(void *state)
{
    struct server *s = state;
    free(s->entries);
    free(s->by_piece);
    buffer_fini(&s->request);
    buffer_fini(&s->answer);
    free(s);
}

static bool sort_pieces(struct server *s)
{
    s->by_piece = malloc(s->n_tokens * sizeof *s->by_piece);
    for (size_t i = 0; s->by_piece && i < s->n_tokens; i++)
        s->by_piece[i] = (uint32_t)i;
    if (s->by_piece)
        qsort_r(s->by_piece, s->n_tokens, sizeof *s->by_piece, by_bytes, (void *)(uintptr_t)s->tokenizer);
    return s->by_piece != NULL;
}

bool crossval_server(const struct crossval_server_options *options, const struct tokenizer *tokenizer, uint32_t n_vocab,
                     struct crossval_reference *out, struct error *err)
{
    bool openai = strcmp(options->api, "openai") == 0;
    struct server *s = calloc(1, sizeof *s);
    if (!s) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the reference");
        return false;
    }
    s->options = options;
    s->tokenizer = tokenizer;
    s->n_vocab = n_vocab;
    s->n_tokens = tokenizer_n_tokens(tokenizer);
    s->n_top = options->n_top ? options->n_top : s->n_vocab <= WHOLE_VOCABULARY ? s->n_vocab : SOME_OF_VOCABULARY;
    s->n_top = openai ? CROSSVAL_TOP : s->n_top < s->n_vocab ? s->n_top : s->n_vocab;
    buffer_init(&s->request, 16 << 20);
    buffer_init(&s->answer, MAX_ANSWER_BYTES);
    bool ok = http_url_parse(options->url, &s->url, err);
    /* One more: a server of OpenAI's API lists the text's own token beside the best ones. */
    if (ok && (!(s->entries = calloc(s->n_top + 1, sizeof *s->entries)) || (openai && !sort_pieces(s)))) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the reference's log-probabilities");
        ok = false;
    }
    *out = (struct crossval_reference){.state = s, .compare = openai ? openai_compare : llama_compare, .close = server_close};
    snprintf(out->name, sizeof out->name, "server %.180s (%s)", options->url, options->api);
    if (!ok)
        server_close(s);
    return ok;
}
