#include "service/accuracy.h"

#include <stdio.h>

static struct metrics_family *counter(struct accuracy_series *s, const char *name, const char *help, const char *labels)
{
    return metrics_add(s->page, METRICS_COUNTER, name, help, labels, NULL, 0);
}

void accuracy_series_open(struct accuracy_series *s, struct metrics *page, const struct engine *e)
{
    const char *id = engine_model(e)->id;
    *s = (struct accuracy_series){.page = page};
    s->violations = metrics_get(counter(s, "bitnet_accuracy_violations_total",
                                        "Requests of whose tokens too few were the portable reference's.", "model"),
                                id);
    struct metrics_family *f =
        counter(s, "bitnet_accuracy_tokens_total", "Tokens that were computed again by the portable reference.", "model,result");
    s->same = metrics_get(f, id, "same");
    s->other = metrics_get(f, id, "other");
    f = counter(s, "bitnet_accuracy_requests_total", "Requests whose turn it was to be computed again.", "model,result");
    s->compared = metrics_get(f, id, "compared");
    s->dropped = metrics_get(f, id, "dropped");
}

void accuracy_series_update(struct accuracy_series *s, struct engine *e)
{
    const struct engine_accuracy *seen = &s->seen;
    const struct engine_model *m = engine_model(e);
    struct engine_accuracy now;
    if (engine_accuracy(e, &now)) {
        if (!s->ratio)
            s->ratio = metrics_get(metrics_add(s->page, METRICS_GAUGE, "bitnet_quantization_accuracy_ratio",
                                               "Share of recomputed tokens that were the same, of the last 32 such requests.",
                                               "model,quantization", NULL, 0),
                                   m->id, m->quantization);
        metrics_set(s->ratio, now.recent);
    }
    metrics_inc(s->violations, (double)(now.n_violations - seen->n_violations));
    metrics_inc(s->same, (double)(now.n_same - seen->n_same));
    metrics_inc(s->other, (double)(now.n_compared - now.n_same) - (double)(seen->n_compared - seen->n_same));
    metrics_inc(s->compared, (double)(now.n_requests - seen->n_requests));
    metrics_inc(s->dropped, (double)(now.n_dropped - seen->n_dropped));
    s->seen = now;
}

void accuracy_series_hide(struct accuracy_series *s)
{
    struct metrics_series *all[] = {s->ratio, s->violations, s->same, s->other, s->compared, s->dropped};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i])
            metrics_hide(all[i]);
}

bool accuracy_degraded(struct engine *e, char message[ACCURACY_MESSAGE_BYTES])
{
    struct engine_accuracy a;
    if (!engine_accuracy(e, &a) || !a.degraded)
        return false;
    snprintf(message, ACCURACY_MESSAGE_BYTES, "model %.64s: %.4f of the recomputed tokens were the same, expected at least %.4f",
             engine_model(e)->id, a.recent, a.threshold);
    return true;
}
