/*
 * Comparing two reports, and the folder that keeps reports as baselines: DIR/NAME.json, as `bitnet bench --json` prints them.
 *
 * A figure is slower when its median is below the baseline's by more than the threshold and every one of its runs is slower than every
 * run of the baseline; faster likewise. Differences that one of the two does not see are noise.
 */
#ifndef TOOLS_COMPARE_H
#define TOOLS_COMPARE_H

#include "tools/bench.h"

enum verdict { VERDICT_SAME, VERDICT_FASTER, VERDICT_SLOWER, VERDICT_NEW };
extern const char *const verdict_names[4];

/* threshold: 0.05 for 5 %. */
enum verdict compare_figures(const struct bench_figure *base, const struct bench_figure *now, double threshold);

/* The baseline's figure of the same test with the same threads and format asked for (any_setup: with its load at the same place), NULL
 * when there is none. */
const struct bench_figure *compare_find(const struct bench_report *base, const struct bench_report *now,
                                        const struct bench_figure *f, bool any_setup);

/* True when machine and model are the same, and the last load of `now` has a counterpart (threads, format asked for, instruction
 * set); else what differs is appended, as "threads: 1 in the baseline, 2 now; ...". */
bool compare_setup(const struct bench_report *base, const struct bench_report *now, struct buffer *out);

/* "5%" or "5" to 0.05; false unless 0 <= it < 100. */
bool compare_threshold(const char *text, double *out);

/* ---- baselines --------------------------------------------------------------------------------------------------- */

#define BASELINE_PATH_BYTES 4096

/* The folder: `option`, or $XDG_STATE_HOME/bitnet/benchmarks, or $HOME/.local/state/bitnet/benchmarks when that is not set. */
enum error_code baseline_folder(const char *option, char out[BASELINE_PATH_BYTES], struct error *err);
/* The path that `which` means: "latest" (written last), the name of a baseline, or a file (it has a '/' or ends in .json).
 * NOT_FOUND when there is none. */
enum error_code baseline_find(const char *folder, const char *which, char out[BASELINE_PATH_BYTES], struct error *err);
enum error_code baseline_load(const char *path, struct bench_report *out, struct error *err);
/* Letters, digits, '.', '-' and '_', not beginning with '.' nor ending in .json, other than "latest"; else VALIDATION_FAILED. */
enum error_code baseline_check_name(const char *name, struct error *err);
/* Makes the folder; the file appears whole. The name is checked. */
enum error_code baseline_save(const char *folder, const char *name, const struct bench_report *r, struct error *err);

#endif
