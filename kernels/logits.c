/*
 * Screened logits on the CPU: bounds of all logits from the screen, the rows that these cannot rule out computed exactly.
 *
 *   halves of x -> bounds, first look -> probes -> least -> bounds of what reaches it, second look -> least -> exact logits of what reaches it
 *
 * Everything but `least` is parallel over rows, and rows of x share what is read. The bounds are far wider than the estimates are wrong, so
 * those that look best are the best but for a few: their exact logits, the probes, raise `least` by the width of a bound. A quantity is the logit or, for a draw, logit +
 * temperature * noise. `least` is the count-th largest of the lower bounds of groups of 16 rows: at least `count` rows have a
 * quantity of that size, so one whose upper bound is below is not among the `count` largest and does not equal the last of them.
 *
 * Listed rows take no part in this: they are computed in any case. So the caller may change them at will: the `count` largest of the
 * whole are among them and the `count` largest of the others. Rows that are not allowed take no part either, and are not computed; where
 * few are allowed these count as listed, and nothing is screened.
 *
 * A draw compares fl(fl(logit / T) + noise) in double, off by less than 2^-51 (|logit| / T + noise). Times T that is far below the
 * allowance of the bounds for float rounding, 2^-18 |v| |x| and 2^-20 T * MAX_NOISE, so what cannot win by its bounds cannot win.
 */
#include "kernels/arith.h"
#include "kernels/head.h"

#include <stdlib.h>

#define STEP ((size_t)8)         /* chunks of an item of unlike cost */
#define REFINE_STEP ((size_t)32) /* of the second look, where rows of an item are asked for before they are read */
#define AHEAD ((size_t)6)        /* so many rows before */
#define MAX_NOISE 22.5f          /* no noise is larger: -log(2^-32) = 22.19 */
/* The high half of x is worth a first look when its error is about that of the weights, |w| / 100 of both: some outliers of x are not. */
#define MAX_COARSE_ERROR 0.015

/* ---- one call ---------------------------------------------------------------------------------------------------- */

/* Up to CPU_LOGITS_ROWS rows of x. */
struct pass {
    const struct cpu_dense *w;
    struct cpu_head *head;
    const float *x; /* row j is x + rows[j] * n_cols */
    const int32_t *rows;
    size_t n_x;
    const struct logits_need *needs;
    float *logits;              /* [n_x][n_rows]: the estimates until they are replaced */
    bool screened;              /* some row of x needs bounds */
    bool all_bits, both_halves; /* in the first look: not both, or there is no second */
    struct screen_bound bounds[2][CPU_LOGITS_ROWS]; /* of the first and the second look */
};

static const float *row_of_x(const struct pass *p, size_t j)
{
    return p->x + (size_t)p->rows[j] * p->w->base.n_cols;
}

/* Few rows are read one by one sooner than all bounds are computed. */
static bool few_allowed(const struct cpu_dense *w, const struct logits_need *need)
{
    return need->allowed && need->n_allowed <= w->base.n_rows / 8;
}

static void prepare_rows(const struct pass *p, size_t j)
{
    const struct logits_need *need = &p->needs[j];
    size_t n_chunks = p->head->n_chunks;
    uint64_t *listed = p->head->listed + j * n_chunks, *aside = p->head->aside + j * n_chunks;
    memset(listed, 0, n_chunks * sizeof *listed);
    for (size_t l = 0; l < LOGITS_MAX_LISTS; l++)
        for (size_t i = 0; i < need->lists[l].n; i++) {
            uint32_t id = need->lists[l].ids[i * need->lists[l].stride];
            listed[id / CHUNK] |= UINT64_C(1) << id % CHUNK;
        }
    bool few = few_allowed(p->w, need);
    for (size_t c = 0; c < n_chunks; c++) {
        uint64_t allowed = need->allowed ? need->allowed[c] : UINT64_MAX;
        listed[c] = few ? allowed : listed[c] & allowed;
        aside[c] = few ? UINT64_MAX : listed[c] | ~allowed;
    }
}

static void prepare_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct pass *p = call;
    struct cpu_head *h = p->head;
    size_t stride = h->screen.stride;
    (void)cpu, (void)thread;
    for (size_t j = begin; j < end; j++) {
        screen_split(&h->screen, row_of_x(p, j), h->halves + j * stride, h->halves + (p->n_x + j) * stride, &h->x[j]);
        prepare_rows(p, j);
    }
}

/* ---- bounds ------------------------------------------------------------------------------------------------------ */

static const struct screen_bound *bound_of(const struct pass *p, size_t j, bool second) { return &p->bounds[second][j]; }

static void make_bounds(struct pass *p)
{
    for (size_t j = 0; j < p->n_x; j++)
        for (int second = 0; second < 2; second++) {
            struct screen_bound *b = &p->bounds[second][j];
            *b = screen_bound(&p->head->screen, &p->head->x[j], second || p->all_bits, second || p->both_halves);
            b->constant += p->needs[j].temperature * MAX_NOISE * 0x1p-20f;
        }
}

/* Temperature times the noise of a chunk's rows. */
static void chunk_noise(struct cpu *cpu, const struct logits_need *need, size_t first, float noise[CHUNK])
{
    cpu->kernels.gumbels(need->seed, need->choice, need->position, (uint32_t)first, noise);
    for (size_t i = 0; i < CHUNK; i++)
        noise[i] *= need->temperature;
}

/* Estimates and bounds of a chunk for one row of x; low is NULL where that half is not used. */
static void bound_chunk(struct cpu *cpu, const struct pass *p, size_t chunk, size_t j, const int32_t *high,
                        const int32_t *low)
{
    const struct screen *s = &p->head->screen;
    const struct screen_x *x = &p->head->x[j];
    const struct screen_bound *b = bound_of(p, j, false);
    size_t first = chunk * CHUNK, n = s->n_rows - first < CHUNK ? s->n_rows - first : CHUNK, at = j * p->head->n_chunks + chunk;
    float noise[CHUNK], last[CHUNK], *quantity = p->logits + j * s->n_rows + first;
    bool noisy = p->needs[j].temperature > 0;
    if (noisy)
        chunk_noise(cpu, &p->needs[j], first, noise);
    cpu->kernels.screen_bounds(&(struct screen_chunk){.high = high,
                                                      .low = low,
                                                      .high_centre = b->centre * x->high_sum,
                                                      .low_centre = b->centre * x->low_sum,
                                                      .bound = b,
                                                      .scale = s->scale + first,
                                                      .error = b->error + first,
                                                      .norm = s->norm + first,
                                                      .noise = noisy ? noise : NULL,
                                                      .aside = p->head->aside[at] | (n < CHUNK ? UINT64_MAX << n : 0),
                                                      .quantity = n < CHUNK ? last : quantity,
                                                      .lower = p->head->lower + at * GROUPS,
                                                      .upper = p->head->upper + at * GROUPS});
    if (n < CHUNK)
        memcpy(quantity, last, n * sizeof *quantity);
}

static void bound_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct pass *p = call;
    const struct screen *s = &p->head->screen;
    int32_t sums[2 * CPU_LOGITS_ROWS * CHUNK];
    (void)thread;
    for (size_t chunk = begin; chunk < end; chunk++) {
        struct screen_tile tile = {.high = s->high + chunk * CHUNK * screen_high_bytes(s->stride),
                                   .low = p->all_bits ? s->low + chunk * CHUNK * screen_low_bytes(s->stride) : NULL,
                                   .stride = s->stride,
                                   .n_rows = CHUNK,
                                   .x = p->head->halves,
                                   .x_stride = s->stride,
                                   .n_x = p->both_halves ? 2 * p->n_x : p->n_x,
                                   .sums = sums};
        cpu->kernels.screen_i8(&tile);
        for (size_t j = 0; j < p->n_x; j++)
            bound_chunk(cpu, p, chunk, j, sums + j * CHUNK, p->both_halves ? sums + (p->n_x + j) * CHUNK : NULL);
    }
}

/* ---- the least that matters -------------------------------------------------------------------------------------- */

/* Moves value down from the root of a heap whose root is the smallest. */
static void replace_root(float *heap, size_t n, float value)
{
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (value <= heap[child])
            break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

/* The first value from i on that is above `bound`, or n; most are not, so they are skipped in lanes. */
static size_t next_above(const float *values, size_t i, size_t n, float bound)
{
    for (; i + ARITH_LANES <= n; i += ARITH_LANES) {
        int any = 0;
        for (size_t l = 0; l < ARITH_LANES; l++)
            any |= values[i + l] > bound;
        if (any)
            break;
    }
    while (i < n && !(values[i] > bound))
        i++;
    return i;
}

/* The count-th largest of n values. */
static float nth_largest(const float *values, size_t n, size_t count, float *heap)
{
    for (size_t i = 0; i < count; i++)
        heap[i] = -INFINITY;
    for (size_t i = 0; (i = next_above(values, i, n, heap[0])) < n; i++)
        replace_root(heap, count, values[i]);
    return heap[0];
}

static size_t count_of(const struct pass *p, size_t j) { return p->needs[j].top ? p->needs[j].top : 1; }

/* Raises least[j] to the count-th largest of n lower bounds of rows. */
static void raise_least(const struct pass *p, size_t j, const float *lower, size_t n)
{
    struct cpu_head *h = p->head;
    float least = nth_largest(lower, n, count_of(p, j), h->best + j * MAX_PROBES);
    if (p->needs[j].within > 0)
        least = nextafterf(least - p->needs[j].within, -INFINITY);
    h->least[j] = least > h->least[j] ? least : h->least[j];
}

/* The row of a group that looks best, of those that take part. */
static size_t best_of_group(const struct pass *p, size_t group, size_t j)
{
    const float *quantity = p->logits + j * p->w->base.n_rows;
    size_t best = SIZE_MAX;
    for (size_t r = group * GROUP; r < (group + 1) * GROUP && r < p->w->base.n_rows; r++)
        if (!(p->head->aside[j * p->head->n_chunks + r / CHUNK] >> r % CHUNK & 1) &&
            (best == SIZE_MAX || quantity[r] > quantity[best]))
            best = r;
    return best;
}

/* One row of each of the groups with the largest lower bounds. */
static void find_probes_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct pass *p = call;
    struct cpu_head *h = p->head;
    (void)cpu, (void)thread;
    for (size_t j = begin; j < end; j++) {
        size_t n = h->n_chunks * GROUPS, count = count_of(p, j) + PROBES, r;
        const float *lower = h->lower + j * n;
        float from = nth_largest(lower, n, count, h->best + j * MAX_PROBES);
        h->n_probes[j] = 0;
        for (size_t g = 0; (g = next_above(lower, g, n, from)) < n && h->n_probes[j] < count; g++)
            if ((r = best_of_group(p, g, j)) != SIZE_MAX)
                h->probes[j * MAX_PROBES + h->n_probes[j]++] = (uint32_t)r;
    }
}

/* Items are probes of all rows of x, MAX_PROBES apart. */
static void probe_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct pass *p = call;
    struct cpu_head *h = p->head;
    size_t n = p->w->base.n_cols;
    float *row = p->w->row + (size_t)thread * n, noise[CHUNK];
    for (size_t i = begin; i < end; i++) {
        size_t j = i % p->n_x, k = i / p->n_x;
        if (k >= h->n_probes[j])
            continue;
        size_t r = h->probes[j * MAX_PROBES + k];
        float *out = h->probed + j * MAX_PROBES + k;
        cpu_dense_single_row(cpu, p->w, r, thread, row);
        cpu->kernels.dots_f32(row, row_of_x(p, j), n, 1, n, out, 1);
        if (p->needs[j].temperature > 0) {
            chunk_noise(cpu, &p->needs[j], r / CHUNK * CHUNK, noise);
            *out += noise[r % CHUNK];
        }
        *out -= fabsf(*out) * 0x1p-20f + bound_of(p, j, true)->constant;
    }
}

static void raise_by_probes(struct cpu *cpu, const struct pass *p)
{
    size_t most = 0;
    cpu_for(cpu, p->n_x, p->head->n_chunks * GROUPS, find_probes_items, p);
    for (size_t j = 0; j < p->n_x; j++)
        most = p->head->n_probes[j] > most ? p->head->n_probes[j] : most;
    cpu_for(cpu, most * p->n_x, p->w->base.n_cols, probe_items, p);
    for (size_t j = 0; j < p->n_x; j++)
        if (p->head->n_probes[j] >= count_of(p, j))
            raise_least(p, j, p->head->probed + j * MAX_PROBES, p->head->n_probes[j]);
}

/* Raises least[j] to what the lower bounds say. */
static void choose_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct pass *p = call;
    struct cpu_head *h = p->head;
    (void)cpu, (void)thread;
    for (size_t j = begin; j < end; j++)
        if (!few_allowed(p->w, &p->needs[j])) /* of these nothing was screened */
            raise_least(p, j, h->lower + j * h->n_chunks * GROUPS, h->n_chunks * GROUPS);
}

/* ---- the second look --------------------------------------------------------------------------------------------- */

/* The rows of a chunk whose upper bound reaches least[j], of those that take part. */
static uint64_t reaching(struct cpu *cpu, const struct pass *p, size_t chunk, size_t j, const struct screen_bound *b)
{
    const struct screen *s = &p->head->screen;
    size_t first = chunk * CHUNK, n = s->n_rows - first < CHUNK ? s->n_rows - first : CHUNK, at = j * p->head->n_chunks + chunk;
    float last[CHUNK], *quantity = p->logits + j * s->n_rows + first;
    if (n < CHUNK) {
        memset(last, 0, sizeof last);
        quantity = memcpy(last, quantity, n * sizeof *quantity);
    }
    return cpu->kernels.screen_reaching(&(struct screen_chunk){.bound = b,
                                                               .error = b->error + first,
                                                               .norm = s->norm + first,
                                                               .aside = p->head->aside[at] | (n < CHUNK ? UINT64_MAX << n : 0),
                                                               .quantity = quantity,
                                                               .upper = p->head->upper + at * GROUPS},
                                        p->head->least[j]);
}

/* What the first look left out of the estimate of row r: the low plane times both halves, or both planes times the low half. */
static float look_again(struct cpu *cpu, const struct pass *p, size_t r, size_t j)
{
    const struct screen *s = &p->head->screen;
    const struct screen_x *x = &p->head->x[j];
    size_t half_stride = p->n_x * s->stride;
    int32_t sums[2 * CHUNK];
    struct screen_tile tile = {.low = s->low + r * screen_low_bytes(s->stride),
                               .stride = s->stride,
                               .n_rows = 1,
                               .x = p->head->halves + j * s->stride,
                               .x_stride = half_stride,
                               .n_x = 2,
                               .sums = sums};
    if (p->all_bits) {
        tile.high = s->high + r * screen_high_bytes(s->stride);
        tile.x += half_stride;
        tile.n_x = 1;
        cpu->kernels.screen_i8(&tile);
        return (float)(2 * sums[0] - 256 * x->low_sum);
    }
    cpu->kernels.screen_i8(&tile);
    return 254.0f * (float)(2 * sums[0] - 3 * x->high_sum) + (float)(2 * sums[CHUNK] - 3 * x->low_sum);
}

/* The rows of a chunk that still matter, appended to rows; returns how many. All others are set aside, and the bounds of groups are to be
 * those of these rows. */
static size_t find_rows(struct cpu *cpu, const struct pass *p, size_t chunk, size_t j, uint32_t *rows)
{
    size_t at = j * p->head->n_chunks + chunk, n = 0;
    uint64_t found = reaching(cpu, p, chunk, j, bound_of(p, j, false));
    p->head->aside[at] |= ~found;
    for (size_t g = 0; g < GROUPS; g++)
        p->head->lower[at * GROUPS + g] = p->head->upper[at * GROUPS + g] = -INFINITY;
    for (; found; found &= found - 1)
        rows[n++] = (uint32_t)(chunk * CHUNK + (size_t)__builtin_ctzll(found));
    return n;
}

/* Asks for what a second look at row r reads first. */
static void ask_for_row(const struct screen *s, size_t r)
{
    size_t n_bytes = screen_low_bytes(s->stride);
    for (size_t i = 0; i < n_bytes; i += 64)
        __builtin_prefetch(s->low + r * n_bytes + i, 0, 2);
}

static void refine_row(struct cpu *cpu, const struct pass *p, size_t r, size_t j)
{
    const struct screen *s = &p->head->screen;
    const struct screen_bound *b = bound_of(p, j, true);
    size_t group = j * p->head->n_chunks * GROUPS + r / GROUP;
    float *lower = &p->head->lower[group], *upper = &p->head->upper[group], *quantity = &p->logits[j * s->n_rows + r];
    float slack = b->per_error * b->error[r] + b->per_norm * s->norm[r] + b->constant;
    *quantity += look_again(cpu, p, r, j) * (b->factor * s->scale[r]);
    *lower = *quantity - slack > *lower ? *quantity - slack : *lower;
    *upper = *quantity + slack > *upper ? *quantity + slack : *upper;
}

static void refine_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct pass *p = call;
    uint32_t rows[REFINE_STEP * CHUNK];
    (void)thread;
    for (size_t first = begin * REFINE_STEP; first < end * REFINE_STEP; first += REFINE_STEP)
        for (size_t j = 0; j < p->n_x; j++) {
            size_t n = 0;
            for (size_t chunk = first; chunk < first + REFINE_STEP && chunk < p->head->n_chunks; chunk++)
                n += find_rows(cpu, p, chunk, j, rows + n);
            for (size_t i = 0; i < n + AHEAD; i++) {
                if (i < n)
                    ask_for_row(&p->head->screen, rows[i]);
                if (i >= AHEAD)
                    refine_row(cpu, p, rows[i - AHEAD], j);
            }
        }
}

/* ---- exact ------------------------------------------------------------------------------------------------------- */

/* Rows of the table are converted once for all rows of x that want them. */
static void exact_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct pass *p = call;
    size_t n = p->w->base.n_cols, n_rows = p->w->base.n_rows;
    float *row = p->w->row + (size_t)thread * n;
    uint64_t wanted[CPU_LOGITS_ROWS];
    for (size_t chunk = begin * STEP; chunk < end * STEP && chunk < p->head->n_chunks; chunk++) {
        size_t first = chunk * CHUNK, n_here = n_rows - first < CHUNK ? n_rows - first : CHUNK;
        uint64_t any = 0;
        for (size_t j = 0; j < p->n_x; j++) {
            wanted[j] =
                p->head->listed[j * p->head->n_chunks + chunk] | (p->screened ? reaching(cpu, p, chunk, j, bound_of(p, j, true)) : 0);
            any |= wanted[j];
            for (size_t i = 0; i < n_here; i++)
                p->logits[j * n_rows + first + i] = -INFINITY;
        }
        for (; any; any &= any - 1) {
            size_t i = (size_t)__builtin_ctzll(any);
            cpu_dense_single_row(cpu, p->w, first + i, thread, row);
            for (size_t j = 0; j < p->n_x; j++)
                if (wanted[j] >> i & 1)
                    cpu->kernels.dots_f32(row, row_of_x(p, j), n, 1, n, p->logits + j * n_rows + first + i, 1);
        }
    }
}

/* ---- operation --------------------------------------------------------------------------------------------------- */

static bool can_screen(const struct cpu_dense *w, const struct logits_need *need)
{
    size_t n_listed = 0;
    for (size_t l = 0; l < LOGITS_MAX_LISTS; l++)
        n_listed += need->lists[l].n;
    bool bounded = (need->top || need->within > 0 || need->temperature > 0) && n_listed <= w->base.n_rows / 4 &&
                   need->top <= CPU_LOGITS_MAX_COUNT && w->head && need->top <= w->head->n_chunks * GROUPS / 2;
    return w->head && (bounded || few_allowed(w, need));
}

/* A single row of x looks at the high plane first. */
size_t cpu_dense_read_bytes(const struct dense *table, const struct logits_need *need)
{
    const struct cpu_dense *w = (const struct cpu_dense *)table;
    if (!can_screen(w, need))
        return table->n_rows * table->row_bytes;
    return table->n_rows * (screen_high_bytes(w->head->screen.stride) + 3 * sizeof(float)); /* scale, error, norm */
}

static void run_pass(struct cpu *cpu, struct pass *p)
{
    struct cpu_head *h = p->head;
    size_t n = p->w->base.n_cols, n_items = (h->n_chunks + STEP - 1) / STEP;
    cpu_for(cpu, p->n_x, n, prepare_items, p);
    p->all_bits = p->n_x > 1;
    p->both_halves = p->n_x == 1;
    for (size_t j = 0; j < p->n_x; j++) {
        p->screened |= !few_allowed(p->w, &p->needs[j]);
        p->both_halves |= h->x[j].coarse_error > MAX_COARSE_ERROR * h->x[j].norm;
        h->least[j] = -INFINITY;
    }
    make_bounds(p);
    if (p->screened) {
        cpu_for(cpu, h->n_chunks, CHUNK * n * p->n_x, bound_items, p);
        cpu_for(cpu, p->n_x, h->n_chunks * GROUPS, choose_items, p);
        raise_by_probes(cpu, p);
    }
    if (p->screened && (!p->all_bits || !p->both_halves)) {
        cpu_for_each(cpu, (h->n_chunks + REFINE_STEP - 1) / REFINE_STEP, REFINE_STEP * CHUNK * p->n_x, refine_items, p);
        cpu_for(cpu, p->n_x, h->n_chunks * GROUPS, choose_items, p);
    }
    cpu_for_each(cpu, n_items, STEP * CHUNK * p->n_x, exact_items, p);
}

void cpu_op_logits_needed(struct backend *be, const struct dense *table, const float *x, const int32_t *rows,
                          size_t n_out, const struct logits_need *needs, float *logits)
{
    struct cpu *cpu = (struct cpu *)be;
    const struct cpu_dense *w = (const struct cpu_dense *)table;
    for (size_t j = 0, n_x; j < n_out; j += n_x) {
        bool screened = can_screen(w, &needs[j]);
        for (n_x = 1; j + n_x < n_out && n_x < CPU_LOGITS_ROWS && can_screen(w, &needs[j + n_x]) == screened;)
            n_x++;
        float *out = logits + j * table->n_rows;
        if (!screened) {
            cpu_op_logits(be, table, x, rows + j, n_x, false, out);
            continue;
        }
        run_pass(cpu,
                 &(struct pass){
                     .w = w, .head = w->head, .x = x, .rows = rows + j, .n_x = n_x, .needs = needs + j, .logits = out});
        for (size_t i = 0; i < n_x; i++)
            if (!w->head->x[i].usable)
                cpu_op_logits(be, table, x, rows + j + i, 1, false, out + i * table->n_rows);
    }
}
