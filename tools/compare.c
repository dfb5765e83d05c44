/* See compare.h for the rule. */
#include "tools/compare.h"

#include <stdlib.h>
#include <string.h>

const char *const verdict_names[4] = {"same", "faster", "slower", "new"};

enum verdict compare_figures(const struct bench_figure *base, const struct bench_figure *now, double threshold)
{
    if (now->median < base->median * (1 - threshold) && now->max < base->min)
        return VERDICT_SLOWER;
    if (now->median > base->median * (1 + threshold) && now->min > base->max)
        return VERDICT_FASTER;
    return VERDICT_SAME;
}

const struct bench_figure *compare_find(const struct bench_report *base, const struct bench_report *now,
                                        const struct bench_figure *f, bool any_setup)
{
    const struct bench_load *l = &now->loads[f->load];
    for (size_t i = 0; i < base->n_figures; i++) {
        const struct bench_figure *b = &base->figures[i];
        const struct bench_load *k = &base->loads[b->load];
        bool same_load = any_setup ? b->load == f->load : k->threads == l->threads && k->asked == l->asked;
        if (same_load && bench_same_test(&b->test, &f->test))
            return b;
    }
    return NULL;
}

static void note(struct buffer *out, const char *what, const char *base, const char *now)
{
    if (strcmp(base, now) != 0)
        buffer_printf(out, "%s%s: %s in the baseline, %s now", out->n_bytes ? "; " : "", what, base, now);
}

static void note_number(struct buffer *out, const char *what, double base, double now)
{
    if (base != now)
        buffer_printf(out, "%s%s: %.0f in the baseline, %.0f now", out->n_bytes ? "; " : "", what, base, now);
}

/* The load of the baseline that is most like `l`: threads and format, else format, else the first. */
static const struct bench_load *closest_load(const struct bench_report *base, const struct bench_load *l)
{
    const struct bench_load *found = &base->loads[0];
    int best = 0;
    for (size_t i = 0; i < base->n_loads; i++) {
        const struct bench_load *k = &base->loads[i];
        int score = 2 * (k->threads == l->threads) + (k->asked == l->asked);
        if (score > best) {
            best = score;
            found = k;
        }
    }
    return found;
}

bool compare_setup(const struct bench_report *base, const struct bench_report *now, struct buffer *out)
{
    size_t before = out->n_bytes;
    const struct bench_load *l = &now->loads[now->n_loads - 1], *k = closest_load(base, l);
    note(out, "device", base->device, now->device);
    note(out, "machine", base->device_name, now->device_name);
    note_number(out, "CPUs", base->n_cpus, now->n_cpus);
    note(out, "model", base->model, now->model);
    note(out, "architecture", base->architecture, now->architecture);
    note_number(out, "weights", base->n_parameters, now->n_parameters);
    note_number(out, "bytes of the file", base->file_bytes, now->file_bytes);
    note_number(out, "threads", k->threads, l->threads);
    note(out, "quantization", bench_format_names[k->asked], bench_format_names[l->asked]);
    note(out, "instruction set", k->isa, l->isa);
    return out->n_bytes == before;
}

bool compare_threshold(const char *text, double *out)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return false;
    double percent = strtod(text, &end);
    if (*end == '%')
        end++;
    *out = percent / 100;
    return !*end && percent >= 0 && percent < 100;
}
