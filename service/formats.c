/* See formats.h. Entries are few, so they are looked through; the least recently used go first. */
#include "service/formats.h"

#include "service/schema.h"
#include "service/tools.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define KIND_TOOLS (-1) /* text: the two messages, packed in a GenerateRequest */

struct entry {
    int kind; /* Bitnet__V1__ResponseFormat__FormatCase, or KIND_TOOLS */
    uint64_t hash;
    char *text;
    size_t n_bytes;
    struct grammar *grammar; /* a reference */
    uint64_t used;
};

struct formats {
    pthread_mutex_t lock; /* for all below */
    struct entry entries[FORMATS_MAX];
    size_t n;
    size_t n_bytes; /* of texts and grammars */
    uint64_t now;   /* counts uses */
};

struct formats *formats_open(void)
{
    struct formats *f = calloc(1, sizeof *f);
    if (f && pthread_mutex_init(&f->lock, NULL)) {
        free(f);
        return NULL;
    }
    return f;
}

static size_t entry_bytes(const struct entry *e)
{
    return e->n_bytes + grammar_memory_bytes(e->grammar);
}

static void drop(struct formats *f, size_t i)
{
    f->n_bytes -= entry_bytes(&f->entries[i]);
    grammar_release(f->entries[i].grammar);
    free(f->entries[i].text);
    f->entries[i] = f->entries[--f->n];
}

void formats_close(struct formats *f)
{
    if (!f)
        return;
    while (f->n > 0)
        drop(f, 0);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* ---- the cache ----------------------------------------------------------------------------------------------------- */

static struct grammar *find(struct formats *f, const struct entry *key)
{
    struct grammar *found = NULL;
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < f->n && !found; i++) {
        struct entry *e = &f->entries[i];
        if (e->kind != key->kind || e->hash != key->hash || e->n_bytes != key->n_bytes ||
            memcmp(e->text, key->text, key->n_bytes) != 0)
            continue;
        e->used = ++f->now;
        found = grammar_ref(e->grammar);
    }
    pthread_mutex_unlock(&f->lock);
    return found;
}

/* Adds a copy of the key. Twice the same does no harm: one of them is found, the other one ages. */
static void add(struct formats *f, const struct entry *key, struct grammar *g)
{
    struct entry e = *key;
    if (!(e.text = malloc(key->n_bytes + 1)))
        return;
    memcpy(e.text, key->text, key->n_bytes);
    e.grammar = grammar_ref(g);
    pthread_mutex_lock(&f->lock);
    while (f->n > 0 && (f->n == FORMATS_MAX || f->n_bytes + entry_bytes(&e) > FORMATS_MAX_BYTES)) {
        size_t oldest = 0;
        for (size_t i = 1; i < f->n; i++)
            oldest = f->entries[i].used < f->entries[oldest].used ? i : oldest;
        drop(f, oldest);
    }
    e.used = ++f->now;
    f->entries[f->n++] = e;
    f->n_bytes += entry_bytes(&e);
    pthread_mutex_unlock(&f->lock);
}

/* ---- compiling ----------------------------------------------------------------------------------------------------- */

static enum error_code compile_regex(const char *pattern, size_t n_bytes, struct grammar **out, struct error *err)
{
    struct grammar_builder *b = grammar_builder_open();
    uint32_t e;
    if (!b)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a grammar");
    enum error_code code = grammar_regex(b, pattern, n_bytes, false, false, &e, err);
    if (!code) {
        uint32_t rule = grammar_rule(b);
        grammar_rule_set(b, rule, e);
        code = grammar_compile(b, rule, out, err);
    }
    grammar_builder_close(b);
    if (code) {
        error_prefix(err, "regex");
        strcpy(err->param, "response_format");
    }
    return code;
}

static enum error_code compile(const struct entry *key, struct grammar **out, struct error *err)
{
    switch (key->kind) {
    case BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_SCHEMA:
        return schema_compile(key->text, key->n_bytes, out, err);
    case BITNET__V1__RESPONSE_FORMAT__FORMAT_REGEX:
        return compile_regex(key->text, key->n_bytes, out, err);
    default:
        return schema_any_object(out, err);
    }
}

/* The grammar of the key, from the cache or, once compiled, into it. */
static enum error_code get(struct formats *f, struct entry *key, const Bitnet__V1__ResponseFormat *format,
                           const Bitnet__V1__Tools *tools, struct grammar **out, struct error *err)
{
    key->hash = kernel_hash(0, key->text, key->n_bytes);
    if ((*out = find(f, key)))
        return ERROR_NONE;
    enum error_code code = key->kind == KIND_TOOLS ? tools_grammar(tools, format, out, err) : compile(key, out, err);
    if (!code)
        add(f, key, *out);
    return code;
}

static enum error_code get_tools(struct formats *f, const Bitnet__V1__ResponseFormat *format,
                                 const Bitnet__V1__Tools *tools, struct grammar **out, struct error *err)
{
    Bitnet__V1__GenerateRequest both = BITNET__V1__GENERATE_REQUEST__INIT;
    both.response_format = (Bitnet__V1__ResponseFormat *)(uintptr_t)format;
    both.tools = (Bitnet__V1__Tools *)(uintptr_t)tools;
    struct entry key = {.kind = KIND_TOOLS, .n_bytes = bitnet__v1__generate_request__get_packed_size(&both)};
    key.text = malloc(key.n_bytes + 1);
    if (!key.text)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a grammar");
    bitnet__v1__generate_request__pack(&both, (uint8_t *)key.text);
    enum error_code code = get(f, &key, format, tools, out, err);
    free(key.text);
    return code;
}

enum error_code formats_get(struct formats *f, const Bitnet__V1__ResponseFormat *format, const Bitnet__V1__Tools *tools,
                            struct grammar **out, struct error *err)
{
    int kind = format ? (int)format->format_case : BITNET__V1__RESPONSE_FORMAT__FORMAT__NOT_SET;
    struct entry key = {.kind = kind, .text = (char *)(uintptr_t) ""};
    *out = NULL;
    if (tools_in_use(tools))
        return get_tools(f, format, tools, out, err);
    if (kind == BITNET__V1__RESPONSE_FORMAT__FORMAT__NOT_SET ||
        (kind == BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT && !format->json_object))
        return ERROR_NONE;
    if (kind != BITNET__V1__RESPONSE_FORMAT__FORMAT_JSON_OBJECT)
        key.text = kind == BITNET__V1__RESPONSE_FORMAT__FORMAT_REGEX ? format->regex : format->json_schema;
    key.n_bytes = strlen(key.text);
    return get(f, &key, format, NULL, out, err);
}
