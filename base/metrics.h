/*
 * Metrics in the Prometheus data model: counters, gauges and histograms with a fixed set of labels. Updating a series is
 * a few relaxed atomics and safe from any thread; making families and series and writing the page takes a lock.
 */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include "base/buffer.h"

#include <stddef.h>
#include <stdint.h>

enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_HISTOGRAM };

struct metrics;        /* registry */
struct metrics_family; /* one name */
struct metrics_series; /* one name with label values */

#define METRICS_MAX_LABELS 6
#define METRICS_MAX_BUCKETS 24

/* New registry, or NULL when memory is out. metrics_close frees it with all its families and series. */
struct metrics *metrics_open(void);
void metrics_close(struct metrics *m);

/* Adds a family. `labels` is a comma-separated list of label names ("" for none, at most METRICS_MAX_LABELS); `buckets`
 * are ascending upper bounds without +Inf (histograms only, else NULL and 0). name, help and labels are static strings.
 * A name added twice gives the first family. NULL when memory is out. */
struct metrics_family *metrics_add(struct metrics *m, enum metrics_type type, const char *name, const char *help,
                                   const char *labels, const double *buckets, size_t n_buckets);

/* The series of these label values (as many C strings as the family has labels; copied), made at 0 when new. At most
 * 1,000 series a family; beyond that, and when memory is out, a series that is not shown is returned, never NULL. */
struct metrics_series *metrics_get(struct metrics_family *family, ...);

/* What the series stood for is gone: it is not shown until metrics_get asks for it again, or metrics_show. It stays valid. */
void metrics_hide(struct metrics_series *s);
void metrics_show(struct metrics_series *s);

/* Counter: adds v >= 0. Gauge: adds v. */
void metrics_inc(struct metrics_series *s, double v);
/* Gauge: sets. */
void metrics_set(struct metrics_series *s, double v);
/* Histogram: counts one value, in the unit of the name. */
void metrics_observe(struct metrics_series *s, double v);
/* As metrics_observe, and keeps the value with the trace that it was measured in (32 hexadecimal digits; NULL = none) as the bucket's
 * exemplar, which OpenMetrics pages show. Never waits: while a page is written, or a series is made, no exemplar is kept. */
void metrics_observe_traced(struct metrics_series *s, double v, const char *trace_id);
/* The current value of a counter or gauge, the count of a histogram. */
double metrics_value(const struct metrics_series *s);

/* Calls `collect` before each metrics_write, so that gauges can be brought up to date. At most 8. Before any write. */
void metrics_on_collect(struct metrics *m, void (*collect)(void *user), void *user);

/* Writes all families in Prometheus text format 0.0.4, or OpenMetrics 1.0.0 when `openmetrics` (ends with # EOF). */
void metrics_write(struct metrics *m, struct buffer *out, int openmetrics);

/* Adds process_*: the standard process collector (CPU seconds, RSS, fds, start time), prefix "bitnet_process_" and a
 * collect hook. */
void metrics_add_process(struct metrics *m);

#endif
