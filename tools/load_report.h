/* What was measured, level by level, as tables, JSON and a picture. */
#ifndef TOOLS_LOAD_REPORT_H
#define TOOLS_LOAD_REPORT_H

#include "base/buffer.h"
#include "tools/load_plan.h"
#include "tools/load_stats.h"

struct load_level {
    double load;    /* clients, requests a second, or speed */
    double seconds; /* of the window */
    struct load_stats stats;
};

struct load_report {
    const struct load_plan *plan;
    const char *version;
    bool interrupted;
    struct load_level *alone;  /* the requests of --verify-alone, or NULL */
    struct load_level *levels; /* n_levels, those of the plan that were run */
    size_t n_levels;
};

/* Requests that did not end as planned, and texts that were not those expected. */
uint64_t load_report_n_errors(const struct load_report *r);
uint64_t load_report_n_mismatched(const struct load_report *r);

/* One level in full, or several as a table of rows with what went wrong below it. */
void load_report_table(const struct load_report *r, struct buffer *out);
/* One JSON object; docs/performance.md describes it. */
void load_report_json(const struct load_report *r, struct buffer *out);
/* An SVG: latencies (TTFT p50 and p99, inter-token p99) above throughput, over load. */
void load_report_svg(const struct load_report *r, struct buffer *out);

#endif
