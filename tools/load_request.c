/* Requests as bytes: prompts of ids or words, the protobuf message, and the JSON bodies. */
#include "tools/load_plan.h"
#include "tools/load_random.h"

#include "bitnet/v1/inference.pb-c.h"

#include <stdlib.h>
#include <string.h>

/* Ids below are control tokens and single bytes in the vocabularies that we know. */
#define FIRST_ID 260
#define DRAW_PROMPT (UINT64_C(1) << 32)
#define PREFIX UINT64_MAX /* the prompt that all prefixes are part of */

/* With a blank in front each is one token of the bundled model's vocabulary and of common BPE ones. */
static const char *const words[] = {"the",   "a",    "of",    "and",   "to",    "in",    "he",   "she",  "it",
                                    "was",   "his",  "her",   "they",  "king",  "queen", "old",  "man",  "little",
                                    "house", "tree", "bird",  "water", "day",   "night", "said", "went", "came",
                                    "saw",   "good", "great", "long",  "young", "sea",   "wood", "door", "hand",
                                    "head",  "eye",  "heart", "time",  "way"};
#define N_WORDS (sizeof words / sizeof *words)

/* Token number i of a prompt, as a random number. Prompts of different lengths are different ones from the prefix on. */
static uint64_t draw(const struct load_plan *p, const struct load_spec *s, uint32_t i)
{
    uint64_t seed = (uint64_t)p->config->seed;
    if (i < (uint64_t)p->config->prefix_tokens)
        return load_random_u64(seed, PREFIX, DRAW_PROMPT + i);
    return load_random_u64(load_random_u64(seed, s->prompt, s->prompt_tokens), s->prompt, DRAW_PROMPT + i);
}

static uint32_t token_id(const struct load_plan *p, const struct load_spec *s, uint32_t i)
{
    return FIRST_ID + (uint32_t)(draw(p, s, i) % (uint64_t)(p->config->vocab - FIRST_ID));
}

/* The prompt as text, which needs no escapes unless it was given as one. */
static void put_text(const struct load_plan *p, const struct load_spec *s, bool json, struct buffer *out)
{
    const char *given = p->config->prompt;
    if (given && json)
        buffer_append_json(out, given, strlen(given));
    else if (given)
        buffer_append_str(out, given);
    for (uint32_t i = 0; !given && i < s->prompt_tokens; i++) {
        if (i > 0)
            buffer_append_char(out, ' ');
        buffer_append_str(out, words[draw(p, s, i) % N_WORDS]);
    }
}

/* ---- gRPC ---- */

static void fill_sampling(const struct load_plan *p, const struct load_spec *s, Bitnet__V1__Sampling *out)
{
    bitnet__v1__sampling__init(out);
    out->_temperature_case = BITNET__V1__SAMPLING___TEMPERATURE_TEMPERATURE;
    out->temperature = (float)p->config->temperature;
    out->_seed_case = BITNET__V1__SAMPLING___SEED_SEED;
    out->seed = s->seed;
}

static bool pack_message(const struct load_plan *p, const struct load_spec *s, struct buffer *out)
{
    Bitnet__V1__GenerateRequest r = BITNET__V1__GENERATE_REQUEST__INIT;
    Bitnet__V1__Tokens tokens = BITNET__V1__TOKENS__INIT;
    Bitnet__V1__Sampling sampling;
    struct buffer text;
    buffer_init(&text, SIZE_MAX / 2);
    fill_sampling(p, s, &sampling);
    if (p->text) {
        put_text(p, s, false, &text);
        r.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_PROMPT;
        r.prompt = text.data;
    } else {
        tokens.ids = (uint32_t *)(void *)buffer_reserve(&text, s->prompt_tokens * sizeof(uint32_t));
        tokens.n_ids = tokens.ids ? s->prompt_tokens : 0;
        for (uint32_t i = 0; i < tokens.n_ids; i++)
            tokens.ids[i] = token_id(p, s, i);
        r.input_case = BITNET__V1__GENERATE_REQUEST__INPUT_TOKENS;
        r.tokens = &tokens;
    }
    r.model = (char *)(uintptr_t)(p->config->model ? p->config->model : "");
    r.max_tokens = s->max_tokens;
    r.sampling = &sampling;
    r.ignore_eos = p->config->ignore_eos;
    r.timeout_ms = s->behaviour == LOAD_DEADLINE ? (uint32_t)p->config->deadline_ms : 0;
    r.priority = s->priority < 0   ? BITNET__V1__PRIORITY__PRIORITY_LOW
                 : s->priority > 0 ? BITNET__V1__PRIORITY__PRIORITY_HIGH
                                   : BITNET__V1__PRIORITY__PRIORITY_NORMAL;
    char *to = text.failed ? NULL : buffer_reserve(out, bitnet__v1__generate_request__get_packed_size(&r));
    if (to)
        out->n_bytes += bitnet__v1__generate_request__pack(&r, (uint8_t *)to);
    buffer_fini(&text);
    return to;
}

/* ---- REST ---- */

static void put_prompt(const struct load_plan *p, const struct load_spec *s, struct buffer *out)
{
    if (p->text) {
        buffer_append_char(out, '"');
        put_text(p, s, true, out);
        buffer_append_char(out, '"');
        return;
    }
    for (uint32_t i = 0; i < s->prompt_tokens; i++)
        buffer_printf(out, "%c%u", i ? ',' : '[', token_id(p, s, i));
    buffer_append_char(out, ']');
}

static bool pack_json(const struct load_plan *p, const struct load_spec *s, struct buffer *out)
{
    static const char *const priorities[] = {"low", "normal", "high"};
    const struct load_config *c = p->config;
    buffer_append_str(out, p->api == LOAD_CHAT ? "{\"messages\":[{\"role\":\"user\",\"content\":" : "{\"prompt\":");
    put_prompt(p, s, out);
    buffer_append_str(out, p->api == LOAD_CHAT ? "}]" : "");
    buffer_printf(out, ",\"max_tokens\":%u,\"temperature\":%.9g,\"seed\":%llu", s->max_tokens, c->temperature,
                  (unsigned long long)s->seed);
    if (c->model) {
        buffer_append_str(out, ",\"model\":\"");
        buffer_append_json(out, c->model, strlen(c->model));
        buffer_append_char(out, '"');
    }
    if (p->api != LOAD_INFERENCE)
        buffer_append_str(out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    if (c->ignore_eos)
        buffer_append_str(out, ",\"ignore_eos\":true");
    if (s->priority)
        buffer_printf(out, ",\"priority\":\"%s\"", priorities[s->priority + 1]);
    if (s->behaviour == LOAD_DEADLINE)
        buffer_printf(out, ",\"timeout_ms\":%lld", (long long)c->deadline_ms);
    return buffer_append_char(out, '}');
}

bool load_request_pack(const struct load_plan *p, const struct load_spec *s, struct buffer *out)
{
    buffer_clear(out);
    bool ok = p->api == LOAD_GRPC ? pack_message(p, s, out) : pack_json(p, s, out);
    return ok && !out->failed;
}
