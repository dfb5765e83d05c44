/* The screen of an LM head and its scratch: made, filled from the table, freed. */
#include "kernels/head.h"

#include <stdlib.h>

#define DROP_ROWS 512 /* of the file that are in memory while the screen is made */

void cpu_screen_free(struct cpu_dense *w)
{
    if (!w->head)
        return;
    screen_close(&w->head->screen);
    free(w->head->halves);
    free(w->head->listed);
    free(w->head->aside);
    free(w->head->lower);
    free(w->head->upper);
    free(w->head->best);
    free(w->head->probes);
    free(w->head->probed);
    free(w->head);
    w->head = NULL;
}

static bool alloc_head(const struct cpu *cpu, struct cpu_dense *w)
{
    struct cpu_head *h = w->head = calloc(1, sizeof *h);
    if (!h || !screen_open(&h->screen, cpu, w->base.n_rows, w->base.n_cols))
        return false;
    h->n_chunks = (w->base.n_rows + CHUNK - 1) / CHUNK;
    placement_of_rows(&cpu->placement, h->screen.high, h->n_chunks, CHUNK * screen_high_bytes(h->screen.stride));
    placement_of_rows(&cpu->placement, h->screen.low, h->n_chunks, CHUNK * screen_low_bytes(h->screen.stride));
    h->halves = aligned_alloc(64, 2 * CPU_LOGITS_ROWS * h->screen.stride);
    h->listed = malloc(CPU_LOGITS_ROWS * h->n_chunks * sizeof *h->listed);
    h->aside = malloc(CPU_LOGITS_ROWS * h->n_chunks * sizeof *h->aside);
    h->lower = malloc(CPU_LOGITS_ROWS * h->n_chunks * GROUPS * sizeof *h->lower);
    h->upper = malloc(CPU_LOGITS_ROWS * h->n_chunks * GROUPS * sizeof *h->upper);
    h->best = malloc(CPU_LOGITS_ROWS * MAX_PROBES * sizeof *h->best);
    h->probes = malloc(CPU_LOGITS_ROWS * MAX_PROBES * sizeof *h->probes);
    h->probed = malloc(CPU_LOGITS_ROWS * MAX_PROBES * sizeof *h->probed);
    return h->halves && h->listed && h->aside && h->lower && h->upper && h->best && h->probes && h->probed;
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
        if (!screen_set_row(&f->w->head->screen, r, row))
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
    if (w->head)
        return true;
    if (dense->n_cols > SCREEN_MAX_COLS || !alloc_head((const struct cpu *)be, w)) {
        cpu_screen_free(w);
        return false;
    }
    cpu_for((struct cpu *)be, dense->n_rows, dense->n_cols, fill_rows, &fill);
    if (atomic_load(&fill.bad)) {
        cpu_screen_free(w);
        return false;
    }
    screen_finish(&w->head->screen);
    w->base.memory_bytes += w->head->screen.memory_bytes;
    return true;
}
