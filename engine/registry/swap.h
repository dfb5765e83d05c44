/*
 * Inside of a swap:
 *
 *   prepare -> switch -> checks -> commit            the state file names the new model, the old one goes when its last request has gone
 *                     `-> switch back                the old model serves again, the new one goes
 *
 * Both are held until it is decided. swap.c goes this way, health.c checks, speed.c measures. One swap of an id at a time; caller's thread.
 */
#ifndef ENGINE_REGISTRY_SWAP_H
#define ENGINE_REGISTRY_SWAP_H

#include "engine/registry/prepare.h"

#define SWAP_WATCH_NS (INT64_C(5) * 1000000000)
#define SWAP_WATCH_REQUESTS 50 /* end a watch sooner */

struct swapping {
    struct registry *r;
    const struct swap_request *q;
    struct swap_result *out;
    struct entry *e;
    struct preparation p;
    struct served *previous, *next; /* the entry's references */
    int64_t start_ns, deadline_ns;  /* deadline: of the checks' requests */
    bool draining;                  /* seen: nothing is waited for any more */
    struct engine_stats before;     /* of the new engine when the last share began */
    char failed[256];               /* the check that did not pass: why; "" = none */
    enum error_code code;           /* likewise */
    struct error *err;
};

/* Notes a check; the first that does not pass decides. `format` are its details. */
void swap_note(struct swapping *s, const char *name, bool passed, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Watches the new model's live traffic for the request's time, or SWAP_WATCH_REQUESTS requests. False when the registry drains. */
bool swap_watch(struct swapping *s, double share);
/* Checks "error_rate": of requests since `before`, which it moves on. */
void swap_check_errors(struct swapping *s, const char *name);
/* Checks that the prompts are answered, and that the portable reference answers likewise. `first`: only the first of them, as one check. */
void swap_check_answers(struct swapping *s, const char *name, bool first);
/* Checks "speed". */
void swap_check_speed(struct swapping *s);

/* Tokens a second of one sequence on one thread, of each of two engines, measured in turns and apart from their loops, so that what they
 * serve meanwhile does not matter. DEVICE_UNAVAILABLE: the CPU cannot read their weights. */
enum error_code speed_measure(struct engine *a, struct engine *b, double *a_per_second, double *b_per_second, struct error *err);

#endif
