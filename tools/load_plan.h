/*
 * The plan: whom to load, how hard, and with what. What request number i is follows from the plan and i alone.
 *
 *   prompt p  =  prefix, the same in all requests  +  the rest, drawn by (seed, p, length)
 *   request i asks prompt i mod prompts (every request its own when prompts = 0) and draws with a seed that belongs to the prompt,
 *   so that requests with the same prompt and lengths must be answered with the same text.
 */
#ifndef TOOLS_LOAD_PLAN_H
#define TOOLS_LOAD_PLAN_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/option.h"
#include "tools/load_trace.h"

#include <stdbool.h>
#include <stdint.h>

#define LOAD_MAX_LEVELS 64
#define LOAD_MAX_CLIENTS 100000

enum load_api { LOAD_GRPC, LOAD_INFERENCE, LOAD_COMPLETIONS, LOAD_CHAT, LOAD_N_APIS };
extern const char *const load_api_names[LOAD_N_APIS];

/* Closed: clients that send the next request when the last one is answered. Open: arrivals that wait for nothing. */
enum load_mode { LOAD_CLOSED, LOAD_POISSON, LOAD_TRACE, LOAD_N_MODES };
extern const char *const load_mode_names[LOAD_N_MODES];

/* What a request is planned to do, one of them each. */
enum load_behaviour { LOAD_READS, LOAD_CANCELS, LOAD_DEADLINE, LOAD_SLOW, LOAD_DEAD };

/* As the options are written. */
struct load_config {
    const char *clients, *rate, *trace, *speed;
    double duration_s, warmup_s, drain_s;
    int64_t requests, threads, channels, max_in_flight, think_ms, retry_ms;
    const char *model, *prompt, *tls_ca, *tls_cert, *tls_key;
    int64_t prompt_tokens, prefix_tokens, prompts, vocab, max_tokens, seed;
    bool text, ignore_eos;
    double temperature;
    double low_share, high_share, cancel_share, deadline_share, slow_share, dead_share;
    int64_t cancel_after, deadline_ms, slow_ms, dead_ms;
    double slo_ttft_ms, slo_itl_ms;
    bool verify, verify_alone, allow_refused, json;
    int64_t allow_errors;
    const char *svg;
};

struct load_plan {
    const struct load_config *config; /* borrowed; the numbers that need no more reading */
    enum load_api api;
    char target[256]; /* gRPC target, or HOST:PORT */
    char path[128];   /* of the URL */
    enum load_mode mode;
    double
        levels[LOAD_MAX_LEVELS]; /* clients, requests a second, or how many times the trace's speed; ascending or not */
    size_t n_levels;
    struct load_trace trace;
    bool text; /* prompts are text, not token ids */
};

extern const struct option_table load_options; /* fills a struct load_config */

/* Reads the URL (NULL = gRPC on the default port), lists and files, and checks what an option's own range cannot. VALIDATION_FAILED
 * names the option. The caller frees it, also after an error. */
enum error_code load_plan_open(const struct load_config *config, const char *url, struct load_plan *out,
                               struct error *err);
void load_plan_free(struct load_plan *p);

struct load_spec {
    uint64_t index, prompt;
    uint32_t prompt_tokens, max_tokens;
    uint64_t seed;
    int priority; /* -1 low, 0 normal, 1 high */
    enum load_behaviour behaviour;
    uint32_t cancel_after; /* tokens */
};
/* Request number `index` of a level; `n_before` requests were sent at earlier levels, so that prompts of their own stay new. */
void load_plan_spec(const struct load_plan *p, uint64_t n_before, uint64_t index, struct load_spec *out);
/* Stands for all that decides the text of the answer. */
uint64_t load_spec_key(const struct load_spec *s);

/* The request as it is sent: a packed GenerateRequest, or the body as JSON. Replaces what is in `out`; false when memory is out. */
bool load_request_pack(const struct load_plan *p, const struct load_spec *s, struct buffer *out);

#endif
