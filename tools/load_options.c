/* The table of options. */
#include "tools/load_plan.h"

#include <stddef.h>

#define AT(member) .offset = offsetof(struct load_config, member)
#define SHARE(n, field, text)                                                                                          \
    {                                                                                                                  \
        n, OPTION_FLOAT, AT(field), .default_value = "0", .min = 0, .max = 1, .help = text                             \
    }
#define INT(n, field, def, lo, hi, u, text)                                                                            \
    {                                                                                                                  \
        n, OPTION_INT, AT(field), .default_value = def, .min = lo, .max = hi, .unit = u, .help = text                  \
    }
#define SECONDS(n, field, def, text)                                                                                   \
    {                                                                                                                  \
        n, OPTION_FLOAT, AT(field), .default_value = def, .min = 0, .max = 1e6, .unit = "s", .help = text              \
    }
#define MS(n, field, text)                                                                                             \
    {                                                                                                                  \
        n, OPTION_FLOAT, AT(field), .default_value = "0", .min = 0, .max = 1e9, .unit = "ms", .help = text             \
    }

static const struct option_def defs[] = {
    {"clients", OPTION_STRING, AT(clients),
     .help = "closed loop: how many clients, each of which sends its next request after an answer; a list is a sweep "
             "(1 by default)"},
    {"rate", OPTION_STRING, AT(rate), .help = "open loop: Poisson arrivals, requests a second; a list is a sweep"},
    {"trace", OPTION_STRING, AT(trace),
     .help = "open loop: arrivals from a file with lines of 'time_s prompt_tokens max_tokens'"},
    {"speed", OPTION_STRING, AT(speed), .default_value = "1",
     .help = "how many times faster the trace goes; a list is a sweep"},
    SECONDS("duration", duration_s, "10",
            "that requests are sent at each level, after the warm-up; 0 = until --requests are sent"),
    SECONDS("warmup", warmup_s, "0", "before, whose requests do not count in latencies and rates"),
    SECONDS("drain-s", drain_s, "60", "that requests get to end after the duration; then they are errors"),
    INT("requests", requests, "0", 0, 1e12, NULL, "to send at each level at most; 0 = as many as the duration allows"),
    INT("threads", threads, "1", 1, 64, NULL, "client threads: completion queues of gRPC, event loops of HTTP"),
    INT("channels", channels, "1", 1, 256, NULL, "gRPC connections of each thread"),
    INT("max-in-flight", max_in_flight, "10000", 1, LOAD_MAX_CLIENTS, NULL,
        "open loop: requests at once; further arrivals are errors"),
    INT("think-ms", think_ms, "0", 0, 3600000, "ms", "closed loop: between an answer and the next request"),
    INT("retry-ms", retry_ms, "-1", -1, 3600000, "ms",
        "closed loop: between a refusal and the next request; -1 = what the server says, or 100"),
    {"tls-ca", OPTION_STRING, AT(tls_ca),
     .help = "gRPC over TLS: PEM file of the CA that signed the server's certificate"},
    {"tls-cert", OPTION_STRING, AT(tls_cert), .help = "PEM file of our certificate, for mutual TLS"},
    {"tls-key", OPTION_STRING, AT(tls_key), .help = "PEM file of its key"},
    {"model-id", OPTION_STRING, AT(model), .help = "name of the model; the server's default without it"},
    {"prompt", OPTION_STRING, AT(prompt), .help = "text of all prompts; random ones without it"},
    INT("prompt-tokens", prompt_tokens, "32", 1, LOAD_MAX_TOKENS, "tokens", "length of a random prompt"),
    INT("prefix-tokens", prefix_tokens, "0", 0, LOAD_MAX_TOKENS, "tokens", "of it that are the same in all prompts"),
    INT("prompts", prompts, "0", 0, 1e9, NULL, "how many prompts there are; 0 = each request has its own"),
    {"text", OPTION_BOOL, AT(text),
     .help = "random prompts are words of a token each instead of token ids; /v1/inference and chat take nothing else"},
    INT("vocab", vocab, "4000", 0, 1e9, NULL, "random token ids are below this"),
    INT("max-tokens", max_tokens, "32", 1, LOAD_MAX_TOKENS, "tokens", "to generate"),
    {"ignore-eos", OPTION_BOOL, AT(ignore_eos), .help = "generate max-tokens whatever the model says"},
    {"temperature", OPTION_FLOAT, AT(temperature), .default_value = "0.7", .min = 0, .max = 2,
     .help = "of sampling; 0 = greedy"},
    INT("seed", seed, "1", 0, 9e15, NULL,
        "of all that is drawn: prompts, arrivals, behaviour, and the requests' own seeds"),
    SHARE("low-share", low_share, "share of requests with low priority"),
    SHARE("high-share", high_share, "share of requests with high priority"),
    SHARE("cancel-share", cancel_share, "share of requests that are cancelled in mid-stream"),
    INT("cancel-after", cancel_after, "16", 1, LOAD_MAX_TOKENS, "tokens",
        "after which these are cancelled at the latest; each draws its own"),
    SHARE("deadline-share", deadline_share, "share of requests with a deadline"),
    INT("deadline-ms", deadline_ms, "1000", 1, 600000, "ms", "deadline of these"),
    SHARE("slow-share", slow_share, "share of requests that are read slowly"),
    INT("slow-ms", slow_ms, "100", 1, 3600000, "ms", "between the reads of these"),
    SHARE("dead-share", dead_share, "share of requests of which only the first message is read"),
    INT("dead-ms", dead_ms, "5000", 1, 3600000, "ms", "until these are given up"),
    MS("slo-ttft-ms", slo_ttft_ms, "goodput counts requests whose first token came within this; 0 = any"),
    MS("slo-itl-ms", slo_itl_ms, "goodput counts requests whose mean time between tokens was within this; 0 = any"),
    {"verify", OPTION_BOOL, AT(verify),
     .help = "requests with the same prompt and lengths must be answered with the same text"},
    {"verify-alone", OPTION_BOOL, AT(verify_alone),
     .help = "and with the one that each of --prompts got alone, one by one before the load"},
    INT("allow-errors", allow_errors, "0", 0, 1e15, NULL, "errors up to this leave the exit status 0"),
    {"allow-refused", OPTION_BOOL, AT(allow_refused), .help = "refused requests are not errors"},
    {"json", OPTION_BOOL, AT(json), .help = "print one JSON object instead of tables"},
    {"svg", OPTION_STRING, AT(svg), .help = "write a picture of latency and throughput over load to this file"},
    {.name = NULL},
};

const struct option_table load_options = {
    .program = "bitnet-load",
    .usage = "usage: bitnet-load [options] [URL]\n\n"
             "Loads a server and measures it. URL is grpc://HOST:PORT (by default grpc://127.0.0.1:50051), unix:/PATH "
             "for gRPC too,\n"
             "or http://HOST:PORT with /v1/inference/stream, /v1/completions or /v1/chat/completions.\n"
             "Exit status: 0 = all requests ended as planned, 1 = errors beyond --allow-errors, 2 = wrong usage.\n",
    .defs = defs,
};
