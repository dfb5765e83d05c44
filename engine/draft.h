/*
 * Speculation by prompt lookup: where the last tokens of a sequence have occurred before, those that followed are drafted as its next ones
 * (Saxena, Prompt Lookup Decoding, 2023). A step then computes the rows of the draft beside that of the last token, and a drafted token is taken
 * only if it equals the one that is drawn at its place. As a draw depends on the tokens before it alone, the tokens are those that would have
 * come one by one.
 *
 * How many are drafted follows from what is gained: with a chance p that a drafted token is the drawn one, and c for what a row more costs
 * beside a step of one row, n drafted tokens give (1 + p + .. + p^n) / (1 + c n) of plain decoding. Pure policy: no clock, no state but what is
 * passed.
 */
#ifndef ENGINE_DRAFT_H
#define ENGINE_DRAFT_H

#include <stdint.h>

#define DRAFT_MAX 8          /* tokens drafted at once */
#define DRAFT_MAX_SEQUENCES 4 /* more in a step fill it with rows that are certain */

/* Of one sequence; zeroed at its start. */
struct draft_state {
    float chance;   /* that a drafted token is the drawn one; from few tokens at first */
    uint32_t n_tested;
    uint32_t n_idle; /* steps since the last draft */
};

/* How many tokens to draft: 0..DRAFT_MAX. `cost` as c above. Now and then one, when it does not pay, to see whether it would. */
uint32_t draft_length(struct draft_state *d, double cost);

/* Of n drafted tokens the first n_accepted were the drawn ones. */
void draft_learn(struct draft_state *d, uint32_t n, uint32_t n_accepted);

/* Drafts at most `max` tokens behind prompt and generated into `out`; returns how many: 0 when the end has not occurred before. */
uint32_t draft_find(const uint32_t *prompt, uint32_t n_prompt, const uint32_t *generated, uint32_t n_generated, uint32_t *out,
                    uint32_t max);

#endif
