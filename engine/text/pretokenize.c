/* The patterns and the cutting; see pretokenize.h. The patterns are those of the models' own tokenizers. */
#include "engine/text/pretokenize.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Unicode's White_Space, spelled out: PCRE2's own \s also has U+180E, which the tokenizers' does not. */
#define SPACE "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WS "[" SPACE "]"
#define NOT_WS "[^" SPACE "]"
#define OTHER "[^" SPACE "\\p{L}\\p{N}]"

/* Only ASCII letters in the contractions: case folding would also take U+017F for an s. */
#define WORDS_AND_DIGITS(digits)                                                                                       \
    "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?" OTHER "+[\\r\\n]*|" WS   \
    "*[\\r\\n]+|" WS "+(?!" NOT_WS ")|" WS "+"
#define LLAMA_BPE WORDS_AND_DIGITS("\\p{N}{1,3}")
#define QWEN2 WORDS_AND_DIGITS("\\p{N}")
#define GPT_2 "'(?:[stmd]|re|ve|ll)| ?\\p{L}+| ?\\p{N}+| ?" OTHER "+|" WS "+(?!" NOT_WS ")|" WS "+"

static const char *const LLAMA_BPE_PATTERNS[] = {LLAMA_BPE, NULL};
static const char *const QWEN2_PATTERNS[] = {QWEN2, NULL};
static const char *const GPT_2_PATTERNS[] = {GPT_2, NULL};
static const char *const FALCON_PATTERNS[] = {"[\\p{P}$+<=>^~|`]+", GPT_2, "[0-9]{3}", NULL};
static const char *const DEFAULT_PATTERNS[] = {"[\\p{P}$+<=>^~|]+", GPT_2, "\\p{N}+", "[0-9]{3}", NULL};

static const struct pretokenizer_def DEFS[] = {
    {"llama-bpe", LLAMA_BPE_PATTERNS, true, true},
    {"qwen2", QWEN2_PATTERNS, false, false},
    {"gpt-2", GPT_2_PATTERNS, false, false},
    {"falcon", FALCON_PATTERNS, false, false},
    {"default", DEFAULT_PATTERNS, false, false},
};

/* Other values of tokenizer.ggml.pre that mean the same. */
static const struct {
    const char *name, *means;
} ALIASES[] = {{"llama3", "llama-bpe"},
               {"llama-v3", "llama-bpe"},
               {"falcon3", "llama-bpe"},
               {"falcon-h1", "llama-bpe"},
               {"gpt2", "gpt-2"}};

const struct pretokenizer_def *pretokenizer_find(const char *name, size_t n_bytes)
{
    for (size_t i = 0; i < sizeof ALIASES / sizeof ALIASES[0]; i++) {
        if (strlen(ALIASES[i].name) != n_bytes || memcmp(ALIASES[i].name, name, n_bytes) != 0)
            continue;
        name = ALIASES[i].means;
        n_bytes = strlen(name);
    }
    for (size_t i = 0; i < sizeof DEFS / sizeof DEFS[0]; i++)
        if (strlen(DEFS[i].name) == n_bytes && memcmp(DEFS[i].name, name, n_bytes) == 0)
            return &DEFS[i];
    return NULL;
}

#ifdef HAVE_PCRE2

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct pretokenizer {
    pcre2_code *stages[PRETOKENIZER_MAX_STAGES];
    int n_stages;
    bool jit; /* all stages are compiled to machine code; a hardened process may forbid that */
    pcre2_match_context *context;
};

/* One call of pretokenizer_split. */
struct split {
    const struct pretokenizer *p;
    pcre2_match_data
        *data[PRETOKENIZER_MAX_STAGES]; /* one a stage: a stage's match is in use while the next one cuts it */
    pretokenizer_piece *piece;
    void *user;
    struct error *err;
};

static enum error_code compile(struct pretokenizer *p, const char *pattern, struct error *err)
{
    int code;
    PCRE2_SIZE where;
    pcre2_code *stage =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &where, NULL);
    if (stage == NULL)
        return error_set(err, ERROR_INTERNAL, "this PCRE2 refuses a pre-tokenizer's pattern: error %d at %zu", code,
                         (size_t)where);
    p->stages[p->n_stages++] = stage;
    if (pcre2_jit_compile(stage, PCRE2_JIT_COMPLETE) != 0)
        p->jit = false;
    return ERROR_NONE;
}

enum error_code pretokenizer_open(const struct pretokenizer_def *def, struct pretokenizer **out, struct error *err)
{
    *out = NULL;
    struct pretokenizer *p = calloc(1, sizeof *p);
    if (p != NULL)
        p->context = pcre2_match_context_create(NULL);
    if (p == NULL || p->context == NULL) {
        free(p);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the pre-tokenizer");
    }
    p->jit = true;
    /* The patterns backtrack over each byte a few times at most; a limit would only turn long runs into errors. */
    pcre2_set_match_limit(p->context, UINT32_MAX);
    enum error_code code = ERROR_NONE;
    for (const char *const *pattern = def->patterns; code == ERROR_NONE && *pattern != NULL; pattern++)
        code = compile(p, *pattern, err);
    if (code != ERROR_NONE)
        pretokenizer_close(p);
    else
        *out = p;
    return code;
}

void pretokenizer_close(struct pretokenizer *p)
{
    if (p == NULL)
        return;
    for (int i = 0; i < p->n_stages; i++)
        pcre2_code_free(p->stages[i]);
    pcre2_match_context_free(p->context);
    free(p);
}

/* 1 and the match in *from, *to; 0 when there is none from `start` on; negative is PCRE2's error. */
static int next_match(const struct split *s, int stage, const char *text, size_t n_bytes, size_t start, size_t *from,
                      size_t *to)
{
    const struct pretokenizer *p = s->p;
    pcre2_match_data *data = s->data[stage];
    int n = p->jit
                ? pcre2_jit_match(p->stages[stage], (PCRE2_SPTR)text, n_bytes, start, 0, data, p->context)
                : pcre2_match(p->stages[stage], (PCRE2_SPTR)text, n_bytes, start, PCRE2_NO_UTF_CHECK, data, p->context);
    if (n < 0)
        return n == PCRE2_ERROR_NOMATCH ? 0 : n;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(data);
    *from = range[0];
    *to = range[1];
    return 1;
}

/* Cuts with this stage and hands each match and each gap to the next; the last stage's pieces go to the caller. A piece is a
 * subject of its own, so look-ahead ends at its end. */
static enum error_code cut(const struct split *s, int stage, const char *text, size_t n_bytes)
{
    if (stage == s->p->n_stages)
        return s->piece(s->user, text, n_bytes, s->err);
    size_t done = 0, from, to;
    while (done < n_bytes) {
        int n = next_match(s, stage, text, n_bytes, done, &from, &to);
        if (n < 0)
            return error_set(s->err, ERROR_INTERNAL, "the pre-tokenizer failed: PCRE2 error %d", n);
        if (n == 0)
            from = to = n_bytes;
        enum error_code code = ERROR_NONE;
        if (from > done)
            code = cut(s, stage + 1, text + done, from - done);
        if (code == ERROR_NONE && to > from)
            code = cut(s, stage + 1, text + from, to - from);
        if (code != ERROR_NONE)
            return code;
        done = to;
    }
    return ERROR_NONE;
}

enum error_code pretokenizer_split(const struct pretokenizer *p, const char *text, size_t n_bytes,
                                   pretokenizer_piece *piece, void *user, struct error *err)
{
    struct split s = {.p = p, .piece = piece, .user = user, .err = err};
    enum error_code code = ERROR_NONE;
    for (int i = 0; i < p->n_stages; i++) {
        s.data[i] = pcre2_match_data_create(1, NULL);
        if (s.data[i] == NULL)
            code = error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the pre-tokenizer");
    }
    if (code == ERROR_NONE)
        code = cut(&s, 0, text, n_bytes);
    for (int i = 0; i < p->n_stages; i++)
        pcre2_match_data_free(s.data[i]);
    return code;
}

#else

enum error_code pretokenizer_open(const struct pretokenizer_def *def, struct pretokenizer **out, struct error *err)
{
    (void)def;
    (void)err;
    *out = NULL; /* token ids can still be served; splitting says what is missing */
    return ERROR_NONE;
}

void pretokenizer_close(struct pretokenizer *p)
{
    (void)p;
}

enum error_code pretokenizer_split(const struct pretokenizer *p, const char *text, size_t n_bytes,
                                   pretokenizer_piece *piece, void *user, struct error *err)
{
    (void)p;
    (void)text;
    (void)n_bytes;
    (void)piece;
    (void)user;
    return error_set(err, ERROR_NOT_IMPLEMENTED,
                     "this build has no PCRE2: text cannot be tokenised, only token ids are accepted");
}

#endif
