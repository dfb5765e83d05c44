/*
 * tokenizer.json to GGUF's tokenizer keys: byte-level BPE ("gpt2"), and BPE over characters with bytes to fall back on, which is
 * SentencePiece's ("llama"): there merges go by scores, so a token's is the place of the merge that makes it.
 */
#include "tools/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENIZER "tokenizer.json: "
#define MAX_TEXT 65536

enum kind { KIND_NORMAL = 1, KIND_UNKNOWN = 2, KIND_CONTROL = 3, KIND_USER = 4, KIND_UNUSED = 5, KIND_BYTE = 6 };

struct vocab {
    size_t n;
    const char **texts; /* [n], NULL = no token has the id */
    int32_t *kinds;
    float *scores;
};

#define refuse(err, ...) error_set((err), ERROR_MODEL_LOAD_FAILED, __VA_ARGS__)

static enum error_code place(struct vocab *v, size_t id, const char *text, int32_t kind, struct error *err)
{
    if (id >= v->n)
        return refuse(err, TOKENIZER "token \"%.40s\" has the id %zu, but the vocabulary has %zu tokens", text, id, v->n);
    if (v->texts[id] && strcmp(v->texts[id], text) != 0)
        return refuse(err, TOKENIZER "id %zu is both \"%.40s\" and \"%.40s\"", id, v->texts[id], text);
    v->texts[id] = text;
    v->kinds[id] = kind;
    return ERROR_NONE;
}

static bool is_byte(const char *text)
{
    return strlen(text) == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>';
}

static enum error_code read_tokens(struct vocab *v, const struct json_value *root, bool spm, struct error *err)
{
    const struct json_value *model = json_member(root, "model"), *vocab = json_member(model, "vocab"), *added = json_member(root, "added_tokens");
    const char *unknown = "";
    enum error_code code;
    convert_string(model, "unk_token", &unknown);
    if (!vocab || vocab->type != JSON_OBJECT)
        return refuse(err, TOKENIZER "expected the object model.vocab");
    for (const struct json_value *t = vocab->first; t; t = t->next) {
        if (t->type != JSON_NUMBER || !(t->number >= 0 && t->number < 4294967296.0))
            return refuse(err, TOKENIZER "token \"%.40s\" has no id", t->name);
        int32_t kind = !spm ? KIND_NORMAL : strcmp(t->name, unknown) == 0 ? KIND_UNKNOWN : is_byte(t->name) ? KIND_BYTE : KIND_NORMAL;
        if ((code = place(v, (size_t)t->number, t->name, kind, err)))
            return code;
    }
    for (const struct json_value *t = added && added->type == JSON_ARRAY ? added->first : NULL; t; t = t->next) {
        size_t id;
        const char *text;
        bool special = false;
        if (!convert_size(t, "id", &id) || !convert_string(t, "content", &text))
            return refuse(err, TOKENIZER "expected id and content of each of added_tokens");
        convert_bool(t, "special", &special);
        bool unk = spm && strcmp(text, unknown) == 0;
        if ((code = place(v, id, text, unk ? KIND_UNKNOWN : special ? KIND_CONTROL : KIND_USER, err)))
            return code;
    }
    return ERROR_NONE;
}

/* A merge as "left right": written so, or as a pair. */
static bool merge_text(const struct json_value *m, char out[MAX_TEXT])
{
    if (m->type == JSON_STRING)
        return snprintf(out, MAX_TEXT, "%s", m->string) < MAX_TEXT;
    const struct json_value *left = m->type == JSON_ARRAY && m->number == 2 ? m->first : NULL;
    return left && left->type == JSON_STRING && left->next->type == JSON_STRING &&
           snprintf(out, MAX_TEXT, "%s %s", left->string, left->next->string) < MAX_TEXT;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(**(const char *const *const *)a, **(const char *const *const *)b);
}

/* Scores of tokens by the first merge that makes them; of others, which nothing merges to, the least. */
static enum error_code score(struct vocab *v, const struct json_value *merges, char *text, struct error *err)
{
    const char ***order = malloc((v->n + 1) * sizeof *order);
    size_t n = 0, rank = 0;
    if (!order)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu tokens", v->n);
    for (size_t i = 0; i < v->n; i++)
        if (v->texts[i] && v->kinds[i] == KIND_NORMAL) {
            v->scores[i] = -(float)merges->number - 1.0f;
            order[n++] = &v->texts[i];
        }
    qsort(order, n, sizeof *order, by_text);
    for (const struct json_value *m = merges->first; m; m = m->next, rank++) {
        char *space;
        if (!merge_text(m, text) || !(space = strchr(text + 1, ' ')))
            continue; /* written and refused by the caller */
        memmove(space, space + 1, strlen(space));
        const char *wanted = text, **w = &wanted, ***found = bsearch(&w, order, n, sizeof *order, by_text);
        if (found && v->scores[*found - v->texts] < -(float)rank)
            v->scores[*found - v->texts] = rank ? -(float)rank : 0.0f;
    }
    free(order);
    return ERROR_NONE;
}

/* True when the text of a pattern is somewhere in a JSON value. */
static bool contains(const struct json_value *v, const char *pattern)
{
    if (!v)
        return false;
    if (v->type == JSON_STRING)
        return strstr(v->string, pattern) != NULL;
    for (const struct json_value *i = v->type >= JSON_ARRAY ? v->first : NULL; i; i = i->next)
        if (contains(i, pattern))
            return true;
    return false;
}

/* How words are cut, by what is distinctive in the pattern. */
static enum error_code pre_tokenizer(const struct convert *c, const struct json_value *root, const char **out, struct error *err)
{
    const struct json_value *pre = json_member(root, "pre_tokenizer");
    if (c->pre)
        *out = c->pre;
    else if (contains(pre, "\\p{N}{1,3}|"))
        *out = "llama-bpe";
    else if (contains(pre, "|\\p{N}| ?"))
        *out = "qwen2";
    else if (contains(pre, "Digits") || contains(pre, "Punctuation"))
        *out = "falcon";
    else if (contains(pre, "ByteLevel") && !contains(pre, "Split"))
        *out = "gpt-2";
    else
        return refuse(err, TOKENIZER "pre_tokenizer: it is none that is known: say which with --pre llama-bpe, qwen2, gpt-2 or falcon");
    return ERROR_NONE;
}

static enum error_code write_merges(struct convert *c, const struct json_value *merges, char *text, struct error *err)
{
    size_t i = 0;
    gguf_write_strings(c->writer, "tokenizer.ggml.merges", (uint64_t)merges->number);
    for (const struct json_value *m = merges->first; m; m = m->next, i++) {
        if (!merge_text(m, text))
            return refuse(err, TOKENIZER "merge %zu: expected a string or a pair of strings", i);
        gguf_write_element(c->writer, text, strlen(text));
    }
    return ERROR_NONE;
}

static size_t id_of(const struct vocab *v, const char *text)
{
    size_t i = 0;
    while (text && i < v->n && !(v->texts[i] && strcmp(v->texts[i], text) == 0))
        i++;
    return text ? i : v->n;
}

/* A special token: its text in tokenizer_config.json (a string, or an object with it), or its id in config.json, of several the first. */
static size_t special(const struct convert *c, const struct vocab *v, const char *name)
{
    char member[64];
    size_t id = v->n;
    const struct json_value *texts = c->tokenizer_config.json ? json_root(c->tokenizer_config.json) : NULL;
    snprintf(member, sizeof member, "%s_token", name);
    const struct json_value *t = json_member(texts, member);
    const char *text = t && t->type == JSON_STRING ? t->string : NULL;
    convert_string(t, "content", &text);
    if (text && (id = id_of(v, text)) < v->n)
        return id;
    snprintf(member, sizeof member, "%s_token_id", name);
    const struct json_value *config = json_root(c->config.json), *list = json_member(config, member);
    if (list && list->type == JSON_ARRAY && list->first && list->first->type == JSON_NUMBER && list->first->number >= 0)
        return (size_t)list->first->number;
    id = v->n;
    convert_size(config, member, &id);
    return id;
}

/* The last of a TemplateProcessing's `single`, which may be one of a sequence of processors. */
const char *convert_text_end(const struct convert *c)
{
    const struct json_value *post = c->tokenizer.json ? json_member(json_root(c->tokenizer.json), "post_processor") : NULL,
                            *list = json_member(post, "processors");
    const char *text = NULL;
    for (const struct json_value *p = list && list->type == JSON_ARRAY ? list->first : post; p; p = list ? p->next : NULL) {
        const struct json_value *single = json_member(p, "single"), *last = single && single->type == JSON_ARRAY ? single->first : NULL;
        while (last && last->next)
            last = last->next;
        convert_string(json_member(last, "SpecialToken"), "id", &text);
    }
    return text;
}

static void write_specials(struct convert *c, const struct vocab *v)
{
    static const char *const ends[] = {"<|eot_id|>", "<|im_end|>", "<end_of_turn>"};
    size_t eot = special(c, v, "eot"), end = id_of(v, convert_text_end(c)), eos = end < v->n ? end : special(c, v, "eos");
    for (size_t i = 0; eot >= v->n && i < sizeof ends / sizeof ends[0]; i++)
        eot = id_of(v, ends[i]);
    const struct {
        const char *key;
        size_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", special(c, v, "bos")}, {"tokenizer.ggml.eos_token_id", eos},
               {"tokenizer.ggml.eot_token_id", eot}, {"tokenizer.ggml.unknown_token_id", special(c, v, "unk")},
               {"tokenizer.ggml.padding_token_id", special(c, v, "pad")}};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        if (ids[i].id < v->n)
            gguf_write_u32(c->writer, ids[i].key, (uint32_t)ids[i].id);
}

/* chat_template of tokenizer_config.json, or the file chat_template.jinja. */
static enum error_code write_template(struct convert *c, struct error *err)
{
    const char *text = NULL;
    struct buffer file;
    char path[4096];
    buffer_init(&file, 1 << 20);
    snprintf(path, sizeof path, "%s/chat_template.jinja", c->folder);
    if (c->tokenizer_config.json)
        convert_string(json_root(c->tokenizer_config.json), "chat_template", &text);
    struct error why = {0};
    enum error_code code = ERROR_NONE;
    if (!text && command_read_file(path, &file, &why)) {
        buffer_append_char(&file, '\0');
        text = file.failed ? NULL : file.data;
    } else if (!text && why.code != ERROR_NOT_FOUND) {
        code = error_set(err, why.code, "%s", why.message);
    }
    if (text)
        gguf_write_string(c->writer, "tokenizer.chat_template", text);
    buffer_fini(&file);
    return code;
}

bool convert_add_bos(const struct convert *c, bool *out)
{
    if (c->tokenizer_config.json && convert_bool(json_root(c->tokenizer_config.json), "add_bos_token", out))
        return true;
    const struct json_value *post = c->tokenizer.json ? json_member(json_root(c->tokenizer.json), "post_processor") : NULL;
    *out = contains(post, "TemplateProcessing") && contains(json_member(post, "single"), "begin_of_text");
    return *out;
}

static enum error_code write_all(struct convert *c, struct vocab *v, char *text, struct error *err)
{
    const struct json_value *root = json_root(c->tokenizer.json), *model = json_member(root, "model"), *merges = json_member(model, "merges");
    const char *type = "none", *pre = "default";
    bool spm = false;
    convert_string(model, "type", &type);
    convert_bool(model, "byte_fallback", &spm);
    if (strcmp(type, "BPE") != 0 || !merges || merges->type != JSON_ARRAY)
        return refuse(err, TOKENIZER "model: expected type BPE with merges, found type %.40s", type);
    enum error_code code = spm ? ERROR_NONE : pre_tokenizer(c, root, &pre, err);
    if (code || (code = read_tokens(v, root, spm, err)) || (spm && (code = score(v, merges, text, err))))
        return code;
    gguf_write_string(c->writer, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
    gguf_write_string(c->writer, "tokenizer.ggml.pre", pre);
    gguf_write_strings(c->writer, "tokenizer.ggml.tokens", v->n);
    for (size_t i = 0; i < v->n; i++) {
        snprintf(text, MAX_TEXT, "[PAD%zu]", i);
        const char *token = v->texts[i] ? v->texts[i] : text;
        if (!v->texts[i])
            v->kinds[i] = KIND_UNUSED;
        gguf_write_element(c->writer, token, strlen(token));
    }
    gguf_write_f32s(c->writer, "tokenizer.ggml.scores", v->scores, v->n);
    gguf_write_i32s(c->writer, "tokenizer.ggml.token_type", v->kinds, v->n);
    if (!spm && (code = write_merges(c, merges, text, err)))
        return code;
    write_specials(c, v);
    return write_template(c, err);
}

enum error_code convert_write_vocab(struct convert *c, struct error *err)
{
    if (!c->tokenizer.json)
        return error_set(err, ERROR_NOT_FOUND, "%s/tokenizer.json is not there", c->folder);
    struct vocab v = {.n = c->vocab_size};
    v.texts = calloc(v.n, sizeof *v.texts);
    v.kinds = calloc(v.n, sizeof *v.kinds);
    v.scores = calloc(v.n, sizeof *v.scores);
    char *text = malloc(MAX_TEXT);
    enum error_code code = v.texts && v.kinds && v.scores && text
                               ? write_all(c, &v, text, err)
                               : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %zu tokens", v.n);
    free(v.texts);
    free(v.kinds);
    free(v.scores);
    free(text);
    return code;
}
