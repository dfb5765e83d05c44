/* Masks against trying every token, over the demo model's vocabulary and states that random answers come to. */
#include "tests/suite.h"

#include "engine/grammar/masker.h"
#include "tests/unit/engine/grammar/match.h"

static struct tokenizer *tokenizer;
static uint32_t n_vocab;

static struct masker *open_masker(size_t n_sequences)
{
    struct masker *m;
    struct error err = {0};
    ck_assert_msg(!tokenizer_open("models/tales.gguf", &tokenizer, &err), "%s", err.message);
    n_vocab = tokenizer_n_tokens(tokenizer);
    ck_assert(!masker_open(tokenizer, n_vocab, n_sequences, &m, &err));
    return m;
}

static void close_all(struct masker *m)
{
    masker_close(m);
    tokenizer_close(tokenizer);
}

static uint64_t random_state = 1;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static bool is_allowed(const struct token_mask *mask, uint32_t id)
{
    return mask->allowed[id / 64] >> id % 64 & 1;
}

/* Objects of objects, strings with escapes and characters of several bytes, numbers: much like JSON. */
static struct grammar *json_like(void)
{
    struct grammar_builder *b = grammar_builder_open();
    struct error err;
    uint32_t value = grammar_rule(b), string, number, e;
    const char *strings = "\"([^\"\\\\\\n]|\\\\[nt\"])*\"", *numbers = "-?(0|[1-9]\\d{0,5})(\\.\\d+)?";
    ck_assert(!grammar_regex(b, strings, strlen(strings), false, false, &string, &err));
    ck_assert(!grammar_regex(b, numbers, strlen(numbers), false, false, &number, &err));
    uint32_t pair = grammar_sequence(b, string, grammar_sequence(b, grammar_text(b, ": ", 2), grammar_call(b, value)));
    uint32_t more = grammar_repeat(b, grammar_sequence(b, grammar_text(b, ", ", 2), pair), 0, 3);
    e = grammar_repeat(b, grammar_sequence(b, pair, more), 0, 1);
    e = grammar_sequence(b, grammar_sequence(b, grammar_text(b, "{", 1), e), grammar_text(b, "}", 1));
    grammar_rule_set(b, value, grammar_choice(b, grammar_choice(b, e, string), number));
    return match_compile(b, grammar_call(b, value));
}

static struct grammar *from_regex(const char *pattern)
{
    struct error err;
    struct grammar *g = match_regex(pattern, false, false, &err);
    ck_assert_msg(g != NULL, "%s", err.message);
    return g;
}

static void append(struct buffer *text, uint32_t id)
{
    size_t n;
    const char *piece = tokenizer_text(tokenizer, id, &n);
    ck_assert_ptr_nonnull(piece);
    buffer_append(text, piece, n);
}

/* The mask says of each token what trying its text says. */
static void check_mask(struct grammar *g, const struct token_mask *mask, struct buffer *text)
{
    size_t n_text = text->n_bytes, n_allowed = 0;
    bool whole = grammar_match(g, text->data ? text->data : "", n_text) == GRAMMAR_WHOLE;
    for (uint32_t id = 0; id < n_vocab; id++) {
        size_t n = 0;
        const char *piece = tokenizer_text(tokenizer, id, &n);
        bool expected = tokenizer_is_eog(tokenizer, id) && whole;
        if (piece && n > 0 && !tokenizer_is_eog(tokenizer, id)) {
            buffer_append(text, piece, n);
            expected = grammar_match(g, text->data, text->n_bytes) != GRAMMAR_NO;
            text->n_bytes = n_text;
        }
        ck_assert_msg(is_allowed(mask, id) == expected, "token %u after \"%.*s\"", id, (int)n_text, text->data);
        n_allowed += expected;
    }
    ck_assert_uint_eq(mask->n_allowed, n_allowed);
}

/* Goes through an answer of random allowed tokens, checking one mask in `every`; returns how many tokens it had. */
static size_t walk(struct masker *m, struct grammar *g, size_t max_tokens, uint32_t every)
{
    struct matcher x;
    struct buffer text;
    uint32_t ids[512];
    size_t n = 0;
    bool over = false;
    buffer_init(&text, 1 << 20);
    ck_assert(matcher_start(m, g, &x));
    while (n < max_tokens && !over) {
        const struct token_mask *mask = matcher_mask(m, &x, ids, n);
        ck_assert_ptr_nonnull(mask);
        ck_assert_uint_gt(mask->n_allowed, 0);
        if (every && random_below(every) == 0)
            check_mask(g, mask, &text);
        uint32_t id = random_below(n_vocab);
        while (!is_allowed(mask, id))
            id = (id + 1) % n_vocab;
        if (tokenizer_is_eog(tokenizer, id))
            break;
        ids[n++] = id;
        append(&text, id);
        over = matcher_push(m, &x, ids, n);
    }
    if (n < max_tokens) /* ended by itself */
        ck_assert_int_eq(grammar_match(g, text.data ? text.data : "", text.n_bytes), GRAMMAR_WHOLE);
    matcher_stop(m, &x);
    buffer_fini(&text);
    return n;
}

static const char *const patterns[] = {"(once|upon|a time| )*",          "[^]{0,9}!",     "[a-z ]+\\.",
                                       "(\xf0\x9f\x98\x80|\xc3\xa9+)?x", "a|the|then .*", ""};

START_TEST(masks_are_exact)
{
    struct masker *m = open_masker(4);
    struct grammar *g = json_like();
    for (int i = 0; i < 6; i++)
        walk(m, g, 60, 24);
    grammar_release(g);
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        g = from_regex(patterns[p]);
        for (int i = 0; i < 4; i++)
            walk(m, g, 12, 4);
        grammar_release(g);
    }
    close_all(m);
}
END_TEST

START_TEST(an_answer_ends_where_nothing_can_follow)
{
    struct masker *m = open_masker(1);
    struct grammar *g = from_regex("abc?");
    struct matcher x;
    struct token_list ids = {0};
    struct error err;
    ck_assert(!tokenizer_encode(tokenizer, "a", 1, false, false, &ids, &err));
    ck_assert(!tokenizer_encode(tokenizer, "b", 1, false, false, &ids, &err));
    ck_assert(!tokenizer_encode(tokenizer, "c", 1, false, false, &ids, &err));
    ck_assert_uint_eq(ids.n, 3);
    ck_assert(matcher_start(m, g, &x));
    const bool may_end[] = {false, false, true};
    for (size_t n = 0; n < 3; n++) {
        const struct token_mask *mask = matcher_mask(m, &x, ids.ids, n);
        ck_assert(is_allowed(mask, ids.ids[n]));
        for (uint32_t id = 0; id < n_vocab; id++)
            if (tokenizer_is_eog(tokenizer, id))
                ck_assert(is_allowed(mask, id) == may_end[n]);
        ck_assert(matcher_push(m, &x, ids.ids, n + 1) == (n == 2));
    }
    matcher_stop(m, &x);
    free(ids.ids);
    grammar_release(g);
    close_all(m);
}
END_TEST

/* More states than there is room for masks, grammars that come and go, places that are found again. */
START_TEST(memory_is_reused)
{
    struct masker *m = open_masker(1);
    size_t n_tokens = 0;
    for (int round = 0; round < 3; round++) {
        struct grammar *g = from_regex("[a-z]{3000}[0-9]{200}");
        for (int i = 0; i < 3; i++)
            n_tokens += walk(m, g, 512, 0);
        grammar_release(g);
    }
    ck_assert_uint_gt(n_tokens, 3000);
    for (int i = 0; i < 100; i++) {
        char pattern[32];
        snprintf(pattern, sizeof pattern, "(%d)+x", i);
        struct grammar *g = from_regex(pattern);
        walk(m, g, 9, 0);
        grammar_release(g);
    }
    close_all(m);
}
END_TEST

START_TEST(places_are_found_again)
{
    struct masker *m = open_masker(2);
    struct grammar *g = json_like();
    struct matcher x, y;
    struct token_list ids = {0};
    struct error err;
    const char *text = "{\"once upon a time\": {\"there\": 1";
    ck_assert(!tokenizer_encode(tokenizer, text, strlen(text), false, false, &ids, &err));
    ck_assert(matcher_start(m, g, &x) && matcher_start(m, g, &y));
    uint64_t before[128], words = (n_vocab + 63) / 64;
    for (size_t n = 1; n <= ids.n; n++)
        matcher_push(m, &x, ids.ids, n);
    memcpy(before, matcher_mask(m, &x, ids.ids, ids.n)->allowed, words * sizeof *before);
    automaton_clear(x.automaton);
    memcpy(before, matcher_mask(m, &y, ids.ids, ids.n)->allowed, words * sizeof *before);
    ck_assert_mem_eq(before, matcher_mask(m, &x, ids.ids, ids.n)->allowed, words * sizeof *before);
    ck_assert_uint_eq(x.state, y.state);
    matcher_stop(m, &x);
    matcher_stop(m, &y);
    free(ids.ids);
    grammar_release(g);
    close_all(m);
}
END_TEST

/* A grammar whose automaton explodes is given up, and those of others go on. */
START_TEST(too_many_states_fail_one_request)
{
    struct masker *m = open_masker(1);
    struct grammar *g;
    struct matcher x;
    char pattern[1024] = "[a-z]*(x"; /* each letter so far may be where any of these began */
    for (char c = 'a'; c < 'a' + 20; c++)
        snprintf(pattern + strlen(pattern), 48, "|[%c-z][a-z]{2000}%c", c, c);
    strcat(pattern, ")");
    g = from_regex(pattern);
    uint32_t ids[512];
    size_t n = 0;
    bool failed = false;
    ck_assert(matcher_start(m, g, &x));
    while (n < 512 && !failed) {
        const struct token_mask *mask = matcher_mask(m, &x, ids, n);
        failed = !mask;
        if (failed)
            break;
        uint32_t id = random_below(n_vocab);
        while (!is_allowed(mask, id))
            id = (id + 1) % n_vocab;
        ids[n++] = id;
        matcher_push(m, &x, ids, n);
    }
    ck_assert(failed);
    matcher_stop(m, &x);
    grammar_release(g);
    g = from_regex("[a-z]{3}");
    ck_assert_uint_gt(walk(m, g, 9, 2), 0);
    grammar_release(g);
    close_all(m);
}
END_TEST

SUITE("masker", masks_are_exact, an_answer_ends_where_nothing_can_follow, memory_is_reused, places_are_found_again,
      too_many_states_fail_one_request)
