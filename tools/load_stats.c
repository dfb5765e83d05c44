/* Counters and their sums. */
#include "tools/load_stats.h"

#include <stdio.h>
#include <string.h>

const char *const load_outcome_names[LOAD_N_OUTCOMES] = {"completed", "cancelled", "expired",    "shed",
                                                         "refused",   "failed",    "interrupted"};

void load_stats_fault(struct load_stats *s, const char *kind, uint64_t n)
{
    size_t i = 0;
    while (i < s->n_faults && strncmp(s->faults[i].kind, kind, LOAD_FAULT_BYTES - 1) != 0)
        i++;
    if (i == s->n_faults && i == LOAD_MAX_FAULTS) /* the last one is for all others */
        snprintf(s->faults[--i].kind, LOAD_FAULT_BYTES, "others");
    else if (i == s->n_faults)
        snprintf(s->faults[s->n_faults++].kind, LOAD_FAULT_BYTES, "%s", kind);
    s->faults[i].n += n;
}

void load_stats_merge(struct load_stats *s, const struct load_stats *from)
{
    for (int i = 0; i < LOAD_N_OUTCOMES; i++)
        s->n_ended[i] += from->n_ended[i];
    for (size_t i = 0; i < from->n_faults; i++)
        load_stats_fault(s, from->faults[i].kind, from->faults[i].n);
    s->n_retry_told += from->n_retry_told;
    s->bytes_in += from->bytes_in;
    s->bytes_out += from->bytes_out;
    s->n_prompt_tokens += from->n_prompt_tokens;
    s->n_prompts += from->n_prompts;
    s->n_cached_tokens += from->n_cached_tokens;
    s->n_verified += from->n_verified;
    s->n_mismatched += from->n_mismatched;
    s->n_unverified += from->n_unverified;
    load_histogram_merge(&s->ttft, &from->ttft);
    load_histogram_merge(&s->per_message, &from->per_message);
    load_histogram_merge(&s->per_token, &from->per_token);
    load_histogram_merge(&s->end_to_end, &from->end_to_end);
    load_histogram_merge(&s->refusal, &from->refusal);
    s->n_completed += from->n_completed;
    s->n_good += from->n_good;
    s->n_tokens += from->n_tokens;
    s->n_good_tokens += from->n_good_tokens;
    s->n_messages += from->n_messages;
}

uint64_t load_stats_n_ended(const struct load_stats *s)
{
    uint64_t n = 0;
    for (int i = 0; i < LOAD_N_OUTCOMES; i++)
        n += s->n_ended[i];
    return n;
}
