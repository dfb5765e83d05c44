/*
 * Tokenizers against arbitrary bytes. The first byte says what the rest is:
 *   0..4   text for a small vocabulary (llama-bpe, gpt-2, falcon, default, SentencePiece): what encodes must decode to the same
 *          text, whole and incrementally
 *   5      token ids: whatever comes out incrementally is valid UTF-8
 *   6, 7   a GGUF, whose tokenizer is then used for a while; 7: the rest is the keys, the header is made here
 */
#include "tests/unit/engine/text/vocabulary.h"

#include "base/log.h"

#include <stdint.h>

#define CHECK(condition) ((condition) ? (void)0 : abort())
#define N_SMALL 5

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *open_small(int which)
{
    static const char *const pres[] = {"llama-bpe", "gpt-2", "falcon", "default"};
    static const char *const merges[] = {
        "\xc4\xa0 a",        "a b", "ab c", "1 1", "11 1", "\xc4\xa0 \xc4\xa0", "! !", "\xc4\x8a \xc4\x8a",
        "\xc3\xa3 \xc4\xa3", NULL};
    static const char *const user[] = {":)", "    ", NULL}, *const control[] = {"<|bos|>", "<|eos|>", "<|e|>", NULL};
    static const struct spm_token tokens[] = {
        {"\xe2\x96\x81", -9, 1},
        {"a", -8, 1},
        {"b", -7, 1},
        {"\xe2\x96\x81"
         "a",
         -1, 1},
        {"ab", -2, 1},
        {"a\xe2\x96\x81", -3, 1},
        {"\xe2\x96\x81\xe2\x96\x81", -4, 1},
        {":)", 0, 4},
        {"xyx", -5, 1},
        {"xy", -6, 1},
    };
    struct vocabulary v;
    struct error err = {0};
    vocabulary_init(&v);
    if (which < 4)
        bpe_keys(&v, &(struct bpe_spec){.pre = pres[which], .merges = merges, .user = user, .control = control});
    else
        spm_keys(&v, tokens, sizeof tokens / sizeof *tokens);
    struct tokenizer *t = vocabulary_open(&v, 0, &err);
    CHECK(t != NULL);
    return t;
}

/* SentencePiece reads U+2581 as a space and puts one behind special tokens, so texts with either do not come back. */
static bool comes_back(int which, const char *text, size_t n)
{
    return which < 4 || (memmem(text, n, "\xe2\x96\x81", 3) == NULL && memmem(text, n, ":)", 2) == NULL);
}

static void round_trip(const struct tokenizer *t, int which, const char *text, size_t n)
{
    struct token_list list = {0};
    struct buffer whole, streamed;
    struct detokenizer d = {0};
    struct error err = {0};
    buffer_init(&whole, SIZE_MAX / 2);
    buffer_init(&streamed, SIZE_MAX / 2);
    enum error_code code = tokenizer_encode(t, text, n, false, false, &list, &err);
    CHECK((code == ERROR_NONE) == utf8_valid(text, n, NULL));
    if (code == ERROR_NONE && comes_back(which, text, n)) {
        CHECK(tokenizer_decode(t, list.ids, list.n, false, &whole, &err) == ERROR_NONE);
        CHECK(whole.n_bytes == n && (n == 0 || memcmp(whole.data, text, n) == 0));
        for (size_t i = 0; i < list.n; i++)
            detokenizer_push(&d, t, list.ids[i], &streamed);
        detokenizer_finish(&d, &streamed);
        size_t extra = streamed.n_bytes - n; /* SentencePiece's first space */
        CHECK(extra <= (which < 4 ? 0u : 1u));
        CHECK(n == 0 || memcmp(streamed.data + extra, text, n) == 0);
    }
    list.n = 0; /* and the special tokens' way, where only memory safety is at stake */
    tokenizer_encode(t, text, n, true, true, &list, &err);
    free(list.ids);
    buffer_fini(&whole);
    buffer_fini(&streamed);
}

static void stream_ids(const struct tokenizer *t, const uint8_t *data, size_t size)
{
    struct detokenizer d = {0};
    struct buffer out;
    buffer_init(&out, SIZE_MAX / 2);
    for (size_t i = 0; i < size; i++)
        detokenizer_push(&d, t, data[i], &out);
    detokenizer_finish(&d, &out);
    CHECK(utf8_valid(out.data, out.n_bytes, NULL));
    buffer_fini(&out);
}

/* Uses everything that a file's tokenizer offers; errors are welcome. */
static void use(const struct tokenizer *t)
{
    static const char text[] = " hello ab<|eot_id|></s> 1111\n\n\xe3\x81\x82 <0x0A>";
    const struct chat_message messages[] = {
        {"system", "a"}, {"user", " b "}, {"assistant", "c"}, {"user", "<|im_end|>"}};
    struct token_list list = {0};
    struct detokenizer d = {0};
    struct buffer out;
    struct error err = {0};
    size_t n;
    buffer_init(&out, 1u << 20);
    tokenizer_encode(t, text, sizeof text - 1, true, true, &list, &err);
    tokenizer_encode(t, text, sizeof text - 1, false, false, &list, &err);
    tokenizer_encode_chat(t, messages, 4, &list, &err);
    for (size_t i = 0; i < list.n; i++)
        CHECK(list.ids[i] < tokenizer_n_tokens(t));
    CHECK(tokenizer_decode(t, list.ids, list.n, false, &out, &err) == ERROR_NONE || out.failed);
    for (uint32_t id = 0; id < tokenizer_n_tokens(t) && id < 1000; id++) {
        CHECK(tokenizer_piece(t, id, &n) != NULL);
        tokenizer_is_eog(t, id);
        detokenizer_push(&d, t, id, &out);
    }
    CHECK(tokenizer_bos(t) < (int64_t)tokenizer_n_tokens(t));
    free(list.ids);
    buffer_fini(&out);
}

static void open_file(const void *data, size_t size)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct error err = {0};
    if (gguf_open_memory(data, size, &g, &err) != ERROR_NONE)
        return;
    if (tokenizer_from_gguf(g, 0, &t, &err) == ERROR_NONE)
        use(t);
    else
        CHECK(err.code != ERROR_NONE && err.message[0] != '\0');
    tokenizer_close(t);
    gguf_close(g);
}

/* Keys without header: mutations need not keep the counts at the file's beginning right. */
static void open_keys(const uint8_t *data, size_t size)
{
    for (uint64_t n_keys = 1; n_keys <= 8; n_keys++) {
        struct vocabulary v = {.n_keys = n_keys};
        struct buffer file;
        buffer_init(&v.keys, SIZE_MAX / 2);
        buffer_append(&v.keys, data, size);
        vocabulary_file(&v, &file);
        open_file(file.data, file.n_bytes);
        buffer_fini(&file);
        vocabulary_fini(&v);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *small[N_SMALL]; /* kept for the whole run */
    if (small[0] == NULL) {
        log_init(LOG_OFF, LOG_FORMAT_TEXT);
        for (int i = 0; i < N_SMALL; i++)
            small[i] = open_small(i);
    }
    if (size == 0)
        return 0;
    int kind = data[0] % 8;
    data++;
    size--;
    if (kind < N_SMALL)
        round_trip(small[kind], kind, (const char *)data, size);
    else if (kind == 5)
        stream_ids(small[0], data, size);
    else if (kind == 6)
        open_file(data, size);
    else
        open_keys(data, size);
    return 0;
}
