/*
 * Screened logits on the CPU: estimate all rows from the int8 copy, keep those whose interval reaches the best lower
 * bounds, compute these exactly.
 *
 *   scores from the screen (parallel) -> lower bound of the count-th best -> survivors -> exact dot products (parallel)
 *
 * A row that is left out has at least `count` others whose logit is certainly larger, so it cannot be among the needed.
 */
#include "kernels/arith.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"

#include <stdlib.h>

#define DROP_ROWS 512         /* of the file that are in memory while the screen is made */
#define CHUNK 64              /* rows of the screen that meet all rows of x while they are in the cache */
#define MAX_COLS 32768        /* int32 sums of the screen */

void cpu_screen_free(struct cpu_dense *w)
{
    for (size_t j = 0; w->halves && j < CPU_LOGITS_ROWS; j++) {
        free(w->halves[j].high);
        free(w->halves[j].low);
    }
    free(w->halves);
    free(w->survivors);
    free(w->best);
    if (w->screen)
        screen_close(w->screen);
    free(w->screen);
    w->screen = NULL;
    w->halves = NULL;
    w->survivors = NULL;
    w->best = NULL;
}

static bool alloc_screen(struct cpu_dense *w)
{
    w->screen = calloc(1, sizeof *w->screen);
    w->halves = calloc(CPU_LOGITS_ROWS, sizeof *w->halves);
    w->survivors = malloc(w->base.n_rows * sizeof *w->survivors);
    w->best = malloc(CPU_LOGITS_MAX_COUNT * sizeof *w->best);
    if (!w->screen || !w->halves || !w->survivors || !w->best || !screen_open(w->screen, w->base.n_rows, w->base.n_cols))
        return false;
    for (size_t j = 0; j < CPU_LOGITS_ROWS; j++) {
        w->halves[j].high = aligned_alloc(64, w->screen->stride);
        w->halves[j].low = aligned_alloc(64, w->screen->stride);
        if (!w->halves[j].high || !w->halves[j].low)
            return false;
    }
    return true;
}

struct fill {
    struct cpu_dense *w;
    atomic_bool bad;
};

static void fill_rows(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    struct fill *f = (struct fill *)(uintptr_t)call;
    float *row = f->w->row + (size_t)thread * f->w->base.n_cols;
    for (size_t r = begin; r < end; r++) {
        cpu_dense_row(cpu, f->w, r, row);
        if (!screen_set_row(f->w->screen, r, row))
            atomic_store(&f->bad, true);
        if ((r + 1) % DROP_ROWS == 0 || r + 1 == end)
            cpu_dense_drop(f->w, begin, r + 1); /* all so far: faults bring neighbours back */
    }
}

bool cpu_dense_screen(struct backend *be, struct dense *dense)
{
    struct cpu_dense *w = (struct cpu_dense *)dense;
    struct fill fill = {.w = w};
    atomic_init(&fill.bad, false);
    if (w->screen)
        return true;
    if (dense->n_cols > MAX_COLS || !alloc_screen(w)) {
        cpu_screen_free(w);
        return false;
    }
    cpu_for((struct cpu *)be, dense->n_rows, dense->n_cols, fill_rows, &fill);
    if (atomic_load(&fill.bad)) {
        cpu_screen_free(w);
        return false;
    }
    screen_finish(w->screen);
    w->base.memory_bytes += w->screen->memory_bytes;
    return true;
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */

struct score_call {
    const struct cpu_dense *w;
    size_t n_x;
    float *scores; /* [n_x][n_rows]: estimates */
};

static void score_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct score_call *c = call;
    const struct screen *s = c->w->screen;
    int32_t high[CHUNK], low[CHUNK];
    (void)thread;
    for (size_t r = begin; r < end; r += CHUNK) {
        size_t n = end - r < CHUNK ? end - r : CHUNK;
        for (size_t j = 0; j < c->n_x; j++) {
            cpu->kernels.screen_i8(s->q + r * s->stride, s->stride, n, &c->w->halves[j], high, low);
            for (size_t i = 0; i < n; i++)
                c->scores[j * s->n_rows + r + i] =
                    (float)((254.0 * high[i] + low[i]) * c->w->halves[j].scale * (double)s->scale[r + i]);
        }
    }
}

/* ---- survivors --------------------------------------------------------------------------------------------------- */

/* A heap whose root is the smallest of the best. */
static void sift_down(double *heap, size_t n, size_t i)
{
    double moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (moved <= heap[child])
            break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

struct best {
    double *heap;
    size_t n, count;
};

static double worst_of(const struct best *b) { return b->n < b->count ? -INFINITY : b->heap[0]; }

static void best_add(struct best *b, double value)
{
    if (b->n < b->count) { /* build it at the end by pushing down from the root of what is there */
        size_t i = b->n++;
        for (; i > 0 && b->heap[(i - 1) / 2] > value; i = (i - 1) / 2)
            b->heap[i] = b->heap[(i - 1) / 2];
        b->heap[i] = value;
    } else if (value > b->heap[0]) {
        b->heap[0] = value;
        sift_down(b->heap, b->n, 0);
    }
}

/* Which rows of one x may matter. The logit of row r is certainly within its slack of scores[r]. */
struct screening {
    const struct screen *screen;
    const float *scores;
    struct screen_bound bound;
};

static double slack(const struct screening *s, float error, float norm)
{
    return s->bound.per_error * (double)error + s->bound.per_norm * (double)norm;
}

static double row_slack(const struct screening *s, size_t r) { return slack(s, s->screen->error[r], s->screen->norm[r]); }

/* The first row from r on whose score is at least `least`, or n; most are not, so they are skipped in lanes. */
static size_t next_at_least(const float *scores, size_t r, size_t n, float least)
{
    for (; r + ARITH_LANES <= n; r += ARITH_LANES) {
        int any = 0;
        for (size_t l = 0; l < ARITH_LANES; l++)
            any |= scores[r + l] >= least;
        if (any)
            break;
    }
    while (r < n && !(scores[r] >= least))
        r++;
    return r;
}

/* The count-th largest lower bound. */
static double find_least(const struct screening *s, double *heap, size_t count)
{
    struct best best = {.heap = heap, .count = count};
    size_t n = s->screen->n_rows;
    for (size_t r = 0; (r = next_at_least(s->scores, r, n, (float)worst_of(&best))) < n; r++)
        best_add(&best, (double)s->scores[r] - row_slack(s, r));
    return worst_of(&best);
}

/* Rows that may be among the needed; returns how many. */
static size_t find_survivors(const struct screening *s, double least, uint32_t *survivors)
{
    size_t n = s->screen->n_rows, n_found = 0;
    float from = (float)(least - slack(s, s->screen->max_error, s->screen->max_norm)); /* no row's slack reaches further */
    from -= fabsf(from) * 1e-6f;                                                       /* nor its rounding */
    for (size_t r = 0; (r = next_at_least(s->scores, r, n, from)) < n; r++)
        if ((double)s->scores[r] + row_slack(s, r) >= least)
            survivors[n_found++] = (uint32_t)r;
    return n_found;
}

/* ---- exact ------------------------------------------------------------------------------------------------------- */

struct exact_call {
    const struct cpu_dense *w;
    const float *x;
    const uint32_t *ids;
    float *logits;
};

static void exact_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct exact_call *c = call;
    size_t n = c->w->base.n_cols;
    float *row = c->w->row + (size_t)thread * n;
    for (size_t i = begin; i < end; i++) {
        cpu_dense_row(cpu, c->w, c->ids[i], row);
        cpu->kernels.dots_f32(row, c->x, n, 1, n, c->logits + c->ids[i], 1);
    }
}

static void compute_exact(struct cpu *cpu, const struct cpu_dense *w, const float *x, const uint32_t *ids, size_t n, float *logits)
{
    struct exact_call call = {.w = w, .x = x, .ids = ids, .logits = logits};
    cpu_for(cpu, n, w->base.n_cols, exact_items, &call);
    cpu_dense_paged(w, n);
}

static bool can_screen(const struct cpu_dense *w, const struct logits_need *need)
{
    return w->screen && need->top && need->top + need->n_ids <= CPU_LOGITS_MAX_COUNT &&
           need->top + need->n_ids < w->base.n_rows;
}

size_t cpu_dense_read_bytes(const struct dense *table, const struct logits_need *need)
{
    const struct cpu_dense *w = (const struct cpu_dense *)table;
    return can_screen(w, need) ? w->screen->memory_bytes : table->n_rows * table->row_bytes;
}

static void screened_row(struct cpu *cpu, const struct cpu_dense *w, const struct screen_x *half, const float *x,
                         const struct logits_need *need, float *logits)
{
    struct screening s = {.screen = w->screen, .scores = logits, .bound = screen_bound(w->screen, half)};
    size_t n = find_survivors(&s, find_least(&s, w->best, need->top + need->n_ids), w->survivors);
    for (size_t r = 0; r < w->base.n_rows; r++)
        logits[r] = -INFINITY;
    compute_exact(cpu, w, x, w->survivors, n, logits);
    compute_exact(cpu, w, x, need->ids, need->n_ids, logits);
}

void cpu_op_logits_needed(struct backend *be, const struct dense *table, const float *x, const int32_t *rows, size_t n_out,
                          const struct logits_need *needs, float *logits)
{
    struct cpu *cpu = (struct cpu *)be;
    const struct cpu_dense *w = (const struct cpu_dense *)table;
    size_t n = table->n_cols, n_rows = table->n_rows;
    for (size_t j = 0; j < n_out;) {
        size_t n_x = 0;
        while (j + n_x < n_out && n_x < CPU_LOGITS_ROWS && can_screen(w, &needs[j + n_x])) {
            screen_split(w->screen, x + (size_t)rows[j + n_x] * n, &w->halves[n_x]);
            if (!w->halves[n_x].finite)
                break;
            n_x++;
        }
        if (n_x == 0) {
            cpu_op_logits(be, table, x, rows + j, 1, false, logits + j * n_rows);
            j++;
            continue;
        }
        struct score_call call = {.w = w, .n_x = n_x, .scores = logits + j * n_rows};
        cpu_for(cpu, n_rows, n * n_x, score_items, &call);
        for (size_t i = 0; i < n_x; i++, j++)
            screened_row(cpu, w, &w->halves[i], x + (size_t)rows[j] * n, &needs[j], logits + j * n_rows);
    }
}
