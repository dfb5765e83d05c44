/*
 * What was counted and measured at one level of load, and nothing of how. Every worker has its own; load_stats_merge makes one of
 * them. Owned by the worker's lock while it runs, by the caller afterwards.
 */
#ifndef TOOLS_LOAD_STATS_H
#define TOOLS_LOAD_STATS_H

#include "tools/load_histogram.h"

#define LOAD_MAX_FAULTS 32
#define LOAD_FAULT_BYTES 64

/* How a request ended. The first four are what a plan may ask for. */
enum load_outcome {
    LOAD_COMPLETED,   /* with its last token */
    LOAD_CANCELLED,   /* by us, as planned */
    LOAD_EXPIRED,     /* its deadline passed, as planned */
    LOAD_SHED,        /* the server gave up on a reader that was planned to be slow or dead */
    LOAD_REFUSED,     /* for lack of room: RESOURCE_EXHAUSTED, 429, 503 */
    LOAD_FAILED,      /* anything else */
    LOAD_INTERRUPTED, /* by us, because the run was */
    LOAD_N_OUTCOMES
};
extern const char *const load_outcome_names[LOAD_N_OUTCOMES];

struct load_fault {
    char kind[LOAD_FAULT_BYTES]; /* "503 SERVICE_UNAVAILABLE", "UNAVAILABLE", "client: connection closed" */
    uint64_t n;
};

struct load_stats {                            /* zeroed = empty */
    uint64_t n_ended[LOAD_N_OUTCOMES];         /* all requests, those of the warm-up too */
    uint64_t n_retry_told;                     /* refusals that said when to come back */
    struct load_fault faults[LOAD_MAX_FAULTS]; /* of refused and failed requests */
    size_t n_faults;
    uint64_t bytes_in, bytes_out;        /* bodies and messages */
    uint64_t n_prompt_tokens, n_prompts; /* as the server counted them, and for how many requests */
    uint64_t n_cached_tokens;            /* of the prompts, as the server says */
    uint64_t n_verified, n_mismatched,
        n_unverified; /* texts compared with an earlier one; not compared because the table was full */

    /* Requests that began in the window, which is the time between warm-up and end. Planned slow readers count in ttft only. */
    struct load_histogram ttft, per_message, per_token, end_to_end, refusal;
    /* What ended or came in the window. */
    uint64_t n_completed, n_good, n_tokens, n_good_tokens, n_messages;
};

void load_stats_fault(struct load_stats *s, const char *kind, uint64_t n);
void load_stats_merge(struct load_stats *s, const struct load_stats *from);
/* The sum of n_ended. */
uint64_t load_stats_n_ended(const struct load_stats *s);

#endif
