/*
 * References that are servers. See crossval.h.
 *
 *   llama    llama.cpp's server and its kin, which score no prompts: POST /completion once for each position, the ids up to it as the
 *            prompt, one token to predict, and as many as are asked for of the distribution behind them. Their prompt cache makes that
 *            a token a request. llama-whole does without it: their results differ between tokens that were computed one by one and
 *            together, as a text that is scored is.
 *   openai   POST /v1/completions with echo, logprobs and max_tokens 0, once for each sequence: what scores texts with OpenAI's API.
 *            Five tokens a position and the text's own; tokens are told by their text.
 */
#include "tools/crossval.h"

#include "tools/http_client.h"
#include "tools/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ANSWER_BYTES = 64 << 20, WHOLE_VOCABULARY = 8192, SOME_OF_VOCABULARY = 256 };

struct server {
    const struct crossval_server_options *options;
    struct http_url url;
    size_t n_vocab, n_top;
    struct crossval_entry *entries; /* [n_top + 1]: a server of OpenAI's API lists the text's own token beside the best ones */
    struct crossval_pieces *pieces;
    struct buffer request, answer;
};

/* ---- asking ------------------------------------------------------------------------------------------------------ */

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
    if (s->answer.data)
        crossval_replace_nul(s->answer.data);
    return json_open(s->answer.data ? s->answer.data : "", s->answer.n_bytes, out, err) == ERROR_NONE;
}

static bool llama_compare(void *state, size_t index, const uint32_t *ids, size_t n, const float *ours, struct crossval_stats *stats,
                          struct error *err)
{
    struct server *s = state;
    bool ok = true;
    (void)index;
    for (size_t at = stats->first; ok && at < n; at++) {
        bool has_target = at + 1 < n;
        uint32_t target = has_target ? ids[at + 1] : 0;
        struct json *j;
        struct crossval_row row;
        buffer_clear(&s->request);
        buffer_append_char(&s->request, '{');
        put_ids(&s->request, ids, at + 1);
        buffer_printf(&s->request, ",\"n_predict\":1,\"n_probs\":%zu,\"temperature\":0,\"cache_prompt\":%s,\"stream\":false}", s->n_top,
                      strcmp(s->options->api, "llama") == 0 ? "true" : "false");
        ok = ask(s, "/completion", &j, err) &&
             crossval_read_llama(json_root(j), s->pieces, s->n_vocab, has_target ? (int64_t)target : -1, s->entries, s->n_top, &row, err) &&
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
        if (at < stats->first)
            continue;
        ok = crossval_read_openai(top, own, s->pieces, s->entries, s->n_top + 1, &row, err) &&
             crossval_add(stats, ours + at * s->n_vocab, s->n_vocab, &row, true, ids[at + 1], err);
    }
    json_close(j);
    return ok;
}

static void server_close(void *state)
{
    struct server *s = state;
    free(s->entries);
    crossval_pieces_close(s->pieces);
    buffer_fini(&s->request);
    buffer_fini(&s->answer);
    free(s);
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
    s->n_vocab = n_vocab;
    s->n_top = options->n_top ? options->n_top : s->n_vocab <= WHOLE_VOCABULARY ? s->n_vocab : SOME_OF_VOCABULARY;
    s->n_top = openai ? CROSSVAL_TOP : s->n_top < s->n_vocab ? s->n_top : s->n_vocab;
    buffer_init(&s->request, 16 << 20);
    buffer_init(&s->answer, MAX_ANSWER_BYTES);
    bool ok = http_url_parse(options->url, &s->url, err);
    if (ok && (!(s->entries = calloc(s->n_top + 1, sizeof *s->entries)) || !(s->pieces = crossval_pieces_open(tokenizer)))) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the reference's log-probabilities");
        ok = false;
    }
    *out = (struct crossval_reference){.state = s, .compare = openai ? openai_compare : llama_compare, .close = server_close};
    snprintf(out->name, sizeof out->name, "server %.180s (%s)", options->url, options->api);
    if (!ok)
        server_close(s);
    return ok;
}
