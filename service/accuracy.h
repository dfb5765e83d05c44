/* accuracy: what live accuracy (engine_accuracy) shows of a served model: its metrics, and its part of health. */
#ifndef SERVICE_ACCURACY_H
#define SERVICE_ACCURACY_H

#include "base/metrics.h"
#include "engine/engine.h"

/* The series of one engine. One thread at a time: whoever writes the page. */
struct accuracy_series {
    struct metrics *page;
    struct metrics_series *ratio; /* NULL until something has been compared */
    struct metrics_series *violations, *same, *other, *compared, *dropped;
    struct engine_accuracy seen;  /* what the counters have of this engine */
};

/* Makes the counters, at 0. */
void accuracy_series_open(struct accuracy_series *s, struct metrics *page, const struct engine *e);
/* Brings all up to date. */
void accuracy_series_update(struct accuracy_series *s, struct engine *e);
/* The model is gone: they are not shown any more. */
void accuracy_series_hide(struct accuracy_series *s);

#define ACCURACY_MESSAGE_BYTES 192
/* True, and why, when the engine is degraded. */
bool accuracy_degraded(struct engine *e, char message[ACCURACY_MESSAGE_BYTES]);

#endif
