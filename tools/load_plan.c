/* From options to a plan, and from the plan to each request. */
#include "tools/load_plan.h"

#include "tools/load_random.h"
#include "tools/load_verify.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const load_api_names[LOAD_N_APIS] = {"grpc", "inference", "completions", "chat"};
const char *const load_mode_names[LOAD_N_MODES] = {"closed loop", "open loop", "trace"};

/* What is drawn for a request, so that draws do not depend on each other. */
enum draw { DRAW_PRIORITY, DRAW_BEHAVIOUR, DRAW_CANCEL, DRAW_SEED };

#define DEFAULT_URL "grpc://127.0.0.1:50051"

static const struct {
    const char *path;
    enum load_api api;
} paths[] = {
    {"/v1/inference/stream", LOAD_INFERENCE},
    {"/v1/completions", LOAD_COMPLETIONS},
    {"/v1/chat/completions", LOAD_CHAT},
};

/* ---- URL ---- */

static enum error_code bad_url(const char *url, struct error *err)
{
    return error_set(err, ERROR_VALIDATION_FAILED,
                     "expected grpc://HOST:PORT, unix:/PATH (gRPC too), or http://HOST:PORT and one of the paths "
                     "/v1/inference/stream, /v1/completions and /v1/chat/completions; found '%s'",
                     url);
}

static enum error_code read_url(struct load_plan *p, const char *url, struct error *err)
{
    bool grpc = strncmp(url, "grpc://", 7) == 0, local = strncmp(url, "unix:", 5) == 0;
    if (!grpc && !local && strncmp(url, "http://", 7) != 0)
        return bad_url(url, err);
    const char *host = local ? url : url + 7;
    size_t n = local ? strlen(host) : strcspn(host, "/");
    if (n <= (local ? strlen("unix:") : 0) || n >= sizeof p->target || (!local && !memchr(host, ':', n)))
        return bad_url(url, err);
    memcpy(p->target, host, n);
    p->target[n] = '\0';
    if (grpc || local)
        return host[n] == '\0' || strcmp(host + n, "/") == 0 ? ERROR_NONE : bad_url(url, err);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (strcmp(host + n, paths[i].path) == 0) {
            p->api = paths[i].api;
            snprintf(p->path, sizeof p->path, "%s", paths[i].path);
            return ERROR_NONE;
        }
    return bad_url(url, err);
}

/* ---- levels ---- */

static enum error_code read_levels(const char *option, const char *list, double max, bool whole, struct load_plan *p,
                                   struct error *err)
{
    const char *at = list;
    do {
        char *end;
        double v = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !isfinite(v) || v <= 0 || v > max || (whole && v != floor(v)))
            return error_set_param(err, ERROR_VALIDATION_FAILED, option,
                                   "--%s: expected %s from %s to %g, several separated by commas; found '%s'", option,
                                   whole ? "an integer" : "a number", whole ? "1" : "above 0", max, list);
        if (p->n_levels == LOAD_MAX_LEVELS)
            return error_set_param(err, ERROR_VALIDATION_FAILED, option, "--%s: at most %d levels", option,
                                   LOAD_MAX_LEVELS);
        p->levels[p->n_levels++] = v;
        at = *end ? end + 1 : NULL;
    } while (at);
    return ERROR_NONE;
}

static enum error_code read_mode(struct load_plan *p, struct error *err)
{
    const struct load_config *c = p->config;
    int n = (c->clients != NULL) + (c->rate != NULL) + (c->trace != NULL);
    if (n > 1)
        return error_set(err, ERROR_VALIDATION_FAILED, "expected one of --clients, --rate and --trace, found %d", n);
    if (c->rate) {
        p->mode = LOAD_POISSON;
        return read_levels("rate", c->rate, 1e6, false, p, err);
    }
    if (!c->trace)
        return read_levels("clients", c->clients ? c->clients : "1", LOAD_MAX_CLIENTS, true, p, err);
    p->mode = LOAD_TRACE;
    if (read_levels("speed", c->speed, 1e6, false, p, err))
        return err->code;
    return load_trace_read(c->trace, &p->trace, err);
}

/* ---- what does not go together ---- */

static enum error_code check(const struct load_plan *p, struct error *err)
{
    const struct load_config *c = p->config;
    bool rest = p->api != LOAD_GRPC;
    if (c->low_share + c->high_share > 1 || c->cancel_share + c->deadline_share + c->slow_share + c->dead_share > 1)
        return error_set(
            err, ERROR_VALIDATION_FAILED,
            "shares exclude each other: expected a sum of at most 1 over low and high, and over cancel, deadline, "
            "slow and dead");
    if (c->deadline_share > 0 && p->api >= LOAD_COMPLETIONS)
        return error_set(err, ERROR_VALIDATION_FAILED, "--deadline-share: the OpenAI API has no deadlines");
    if (c->low_share + c->high_share > 0 && p->api >= LOAD_COMPLETIONS)
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "--low-share and --high-share: the OpenAI API has no priorities");
    if (c->ignore_eos && p->api == LOAD_INFERENCE)
        return error_set(err, ERROR_VALIDATION_FAILED, "--ignore-eos: /v1/inference/stream has no such field");
    if ((c->tls_ca || c->tls_cert || c->tls_key) && rest)
        return error_set(err, ERROR_VALIDATION_FAILED, "--tls-ca, --tls-cert and --tls-key are for gRPC");
    if (c->verify_alone && (c->prompts == 0 || p->mode == LOAD_TRACE))
        return error_set(err, ERROR_VALIDATION_FAILED, "--verify-alone: expected --prompts, and no --trace");
    if (c->vocab < 300)
        return error_set(err, ERROR_VALIDATION_FAILED, "--vocab: expected at least 300");
    return ERROR_NONE;
}

enum error_code load_plan_open(const struct load_config *config, const char *url, struct load_plan *out,
                               struct error *err)
{
    *out = (struct load_plan){.config = config};
    enum error_code code = read_url(out, url ? url : DEFAULT_URL, err);
    if (!code)
        code = read_mode(out, err);
    if (!code)
        code = check(out, err);
    out->text = config->text || config->prompt || out->api == LOAD_INFERENCE || out->api == LOAD_CHAT;
    return code;
}

void load_plan_free(struct load_plan *p)
{
    load_trace_free(&p->trace);
}

/* ---- requests ---- */

void load_plan_spec(const struct load_plan *p, uint64_t n_before, uint64_t index, struct load_spec *out)
{
    const struct load_config *c = p->config;
    uint64_t seed = (uint64_t)c->seed;
    *out = (struct load_spec){.index = index,
                              .prompt = c->prompts ? index % (uint64_t)c->prompts : n_before + index,
                              .prompt_tokens = (uint32_t)c->prompt_tokens,
                              .max_tokens = (uint32_t)c->max_tokens};
    if (p->mode == LOAD_TRACE) {
        out->prompt_tokens = p->trace.arrivals[index].prompt_tokens;
        out->max_tokens = p->trace.arrivals[index].max_tokens;
    }
    out->seed = load_random_u64(seed, out->prompt, DRAW_SEED) >> 32; /* the REST API takes 32 bits */
    double u = load_random_unit(seed, index, DRAW_PRIORITY);
    out->priority = u < c->low_share ? -1 : u < c->low_share + c->high_share ? 1 : 0;
    const double shares[] = {[LOAD_CANCELS] = c->cancel_share,
                             [LOAD_DEADLINE] = c->deadline_share,
                             [LOAD_SLOW] = c->slow_share,
                             [LOAD_DEAD] = c->dead_share};
    u = load_random_unit(seed, index, DRAW_BEHAVIOUR);
    for (int b = LOAD_CANCELS; b <= LOAD_DEAD && out->behaviour == LOAD_READS; b++) {
        if (u < shares[b])
            out->behaviour = (enum load_behaviour)b;
        u -= shares[b];
    }
    if (out->behaviour == LOAD_CANCELS)
        out->cancel_after = 1 + (uint32_t)(load_random_unit(seed, index, DRAW_CANCEL) * (double)c->cancel_after);
}

uint64_t load_spec_key(const struct load_spec *s)
{
    const uint64_t what[] = {s->prompt, s->prompt_tokens, s->max_tokens, s->seed};
    return load_hash(LOAD_HASH_START, what, sizeof what);
}
