/*
 * The vocabulary: what tokenizer.h's `struct tokenizer` consists of. Filled by one of two loaders (vocab_gguf.c, vocab_ranks.c),
 * immutable after that.
 *
 * A token's piece is its bytes as they stand in a text: GPT-2's byte alphabet decoded, U+2581 turned into a space, <0x0A>
 * turned into the byte. Texts are matched with pieces, so encoding never leaves UTF-8 bytes.
 */
#ifndef ENGINE_TEXT_VOCAB_H
#define ENGINE_TEXT_VOCAB_H

#include "engine/text/merges.h"
#include "engine/text/pretokenize.h"
#include "engine/text/specials.h"
#include "engine/text/strmap.h"
#include "engine/text/tokenizer.h"

#define VOCAB_MAX_TOKENS (1u << 22)
#define VOCAB_MAX_BYTES (64u << 20)
/* Tokens over this length are never made by merging: cutting a token of n bytes into its pairs takes n^2 / 2 steps. */
#define VOCAB_MAX_MERGED_BYTES 256

enum vocab_model { VOCAB_NONE, VOCAB_BPE, VOCAB_SPM };

/* tokenizer.ggml.token_type */
enum token_kind { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE };

struct tokenizer {
    enum vocab_model model;
    uint32_t n;
    char *bytes;               /* all pieces; owned */
    uint32_t *offsets;         /* [n + 1] into bytes; NULL when the model has no vocabulary */
    uint8_t *kinds;            /* [n] enum token_kind */
    bool *eog;                 /* [n] */
    int64_t bos, eos, unknown; /* -1 = none */
    bool add_bos, add_eos;

    struct strmap
        by_piece; /* normal tokens; SPM: and characters that only occur inside of tokens, with ids from n on */
    struct merges merges;
    struct specials specials;
    uint32_t byte_ids[256]; /* token of a single byte, or STRMAP_NONE */
    const struct pretokenizer_def *pre_def;
    struct pretokenizer *pre; /* BPE; NULL without PCRE2 */
    bool add_space_prefix;    /* SPM */
    bool space_starts_word;   /* SPM: no token has a space after another character, so words merge on their own */
    const struct chat_template *chat;
};

/* A tokenizer with room for n tokens and n_bytes of pieces; NULL when memory is out. tokenizer_close frees it. */
struct tokenizer *vocab_new(enum vocab_model model, uint32_t n, size_t n_bytes);

/* The piece of a token below t->n. */
static inline const char *vocab_piece(const struct tokenizer *t, uint32_t id, size_t *n_bytes)
{
    *n_bytes = t->offsets[id + 1] - t->offsets[id];
    return t->bytes + t->offsets[id];
}

/* True when text (n_bytes) is "<0xXX>"; *byte gets the value. */
bool vocab_byte_text(const char *text, size_t n_bytes, uint8_t *byte);

/* What both loaders do once pieces and kinds are there: the maps, the special tokens, the EOG set. */
enum error_code vocab_index(struct tokenizer *t, struct error *err);
/* Adds every way to cut a normal token into two symbols as a pair; ranks[id] is the pair's rank. */
enum error_code vocab_merges_by_rank(struct tokenizer *t, const uint32_t *ranks, struct error *err);

/* The id of the first token with this piece that is not a normal one (a special token by its text), or -1. */
int64_t vocab_special(const struct tokenizer *t, const char *text);

/* Opens a tiktoken rank file; see tokenizer_open. */
enum error_code vocab_from_ranks(const char *path, struct tokenizer **out, struct error *err);

/* ---- chat.c ---- */

/* The template for a GGUF's tokenizer.chat_template (NULL = absent) and architecture; NULL when none fits. */
const struct chat_template *chat_template_choose(const struct tokenizer *t, const char *source, size_t n_bytes,
                                                 const char *architecture, size_t n_architecture);

/* ---- encode.c ---- */

/* An encoding in progress: the memory that its pieces share. */
struct encoder {
    const struct tokenizer *t;
    struct token_list *out;
    struct merges_work work;
    struct buffer text; /* SPM: the fragment as it is matched */
};

void encoder_init(struct encoder *e, const struct tokenizer *t, struct token_list *out);
void encoder_fini(struct encoder *e);
enum error_code encoder_push(struct encoder *e, uint32_t id, struct error *err);
/* Plain text; user-defined tokens are read, control tokens when parse_special. `text` is valid UTF-8. */
enum error_code encoder_text(struct encoder *e, const char *text, size_t n_bytes, bool parse_special,
                             struct error *err);
/* VALIDATION_FAILED unless text can be encoded at all and is valid UTF-8. */
enum error_code encoder_check(const struct tokenizer *t, const char *text, size_t n_bytes, struct error *err);

#endif
