/* The case of passes: recorded ones, and those in one copy of their batch, give the bits of operations one by one. */
#include "kernels/cuda/check.h"

#include <stdlib.h>

#define ROWS 8
#define SEQUENCES 7
#define BLOCKS 24 /* of a sequence */
#define HEADS 4
#define DIM 64
#define VOCAB 50
#define STEPS 40

/* A device's memory for one way to do it. */
struct way {
    struct kv_cache kv;
    float *x, *k, *y; /* dev [ROWS][HEADS * DIM]; of k and v the first ROWS * DIM */
    uint64_t of;      /* 0: operations one by one */
    size_t n_heads;   /* of q; another number means other tiles */
};

struct scene {
    struct backend *be;
    struct dense *table;
    struct rope *rope;
    int32_t tables[SEQUENCES * BLOCKS];
};

static bool way_open(struct backend *be, uint64_t of, size_t n_heads, struct way *w)
{
    size_t n_bytes = SEQUENCES * BLOCKS * KV_BLOCK_SIZE * DIM * sizeof(uint16_t) + KV_SLACK_BYTES;
    *w = (struct way){.kv = {.k = backend_alloc(be, n_bytes), .v = backend_alloc(be, n_bytes), .n_layers = 1, .n_blocks = SEQUENCES * BLOCKS, .n_kv_heads = 1,
                             .head_dim = DIM},
                      .x = backend_alloc(be, ROWS * HEADS * DIM * sizeof(float)),
                      .k = backend_alloc(be, ROWS * HEADS * DIM * sizeof(float)),
                      .y = backend_alloc(be, ROWS * HEADS * DIM * sizeof(float)),
                      .of = of,
                      .n_heads = n_heads};
    return w->kv.k && w->kv.v && w->x && w->k && w->y;
}

static void way_close(struct backend *be, struct way *w)
{
    backend_free(be, w->kv.k);
    backend_free(be, w->kv.v);
    backend_free(be, w->x);
    backend_free(be, w->k);
    backend_free(be, w->y);
}

/* Embedding, rope, K and V, attention, in a pass with the joint operation; false when a recording was run. */
static bool run(const struct scene *s, const struct way *w, const struct batch_view *b, const int32_t *ids, bool repeats)
{
    const struct op_pass pass = {w->of, &w->kv, b, ids, repeats};
    if (w->of && !op_pass_begin(s->be, &pass))
        return false;
    op_embed(s->be, s->table, ids, b->n, w->x);
    op_embed(s->be, s->table, ids, b->n, w->k);
    if (w->of) {
        op_rope_write(s->be, s->rope, w->x, w->n_heads, w->k, w->k + ROWS * DIM, &w->kv, 0, b);
    } else {
        op_rope(s->be, s->rope, w->x, b->n, w->n_heads, DIM, b->positions);
        op_rope(s->be, s->rope, w->k, b->n, 1, DIM, b->positions);
        op_kv_write(s->be, &w->kv, 0, b, w->k, w->k + ROWS * DIM);
    }
    op_attention(s->be, &w->kv, 0, b, w->x, w->n_heads, w->y);
    if (w->of)
        op_pass_end(s->be);
    return true;
}

static void compare(struct check *c, const struct scene *s, const struct way *a, const struct way *b, const char *what)
{
    static float expected[ROWS * HEADS * DIM], found[ROWS * HEADS * DIM];
    backend_download(s->be, expected, a->y, sizeof expected);
    backend_download(s->be, found, b->y, sizeof found);
    check_same(c, what, expected, found, sizeof expected);
}

/* Rows of two sequences, and six of a third, as drafts are; the sequences in use change. */
static struct batch_view batch_at(struct check *c, const struct scene *s, int step, int32_t positions[ROWS], int32_t sequences[ROWS], int32_t ids[ROWS])
{
    for (int i = 0; i < ROWS; i++) {
        positions[i] = i < 2 ? step * (i ? 5 : 13) : step * 11 + i; /* beyond a segment in the end */
        sequences[i] = ((i < 2 ? i : 2) + step) % SEQUENCES;
        ids[i] = (int32_t)(check_random(c) % VOCAB);
    }
    return (struct batch_view){ROWS, positions, sequences, s->tables, SEQUENCES, BLOCKS};
}

/* Of two models by turns. */
static void run_steps(struct check *c, const struct scene *s, const struct way alone[2], const struct way recorded[2], const struct way copied[2])
{
    int32_t positions[ROWS], sequences[ROWS], ids[ROWS], n_recordings = 0;
    for (int step = 0; step < STEPS; step++) {
        struct batch_view b = batch_at(c, s, step, positions, sequences, ids);
        for (int model = 0; model < 2; model++) {
            n_recordings += !run(s, &recorded[model], &b, ids, true); /* first: what came before was the other model's */
            run(s, &alone[model], &b, ids, false);
            compare(c, s, &alone[model], &recorded[model], "attention of a recorded pass");
            run(s, &copied[model], &b, ids, false);
            compare(c, s, &alone[model], &copied[model], "attention of a pass");
        }
    }
    if (n_recordings < STEPS) /* of each number of segments the first two passes are none */
        check_fail(c, "%d of %d passes were recordings", n_recordings, 2 * STEPS);
    if (n_recordings == 2 * STEPS)
        check_fail(c, "all passes were recordings");
}

void check_passes(struct check *c)
{
    struct scene s = {.be = c->be[DEVICE]};
    struct way alone[2], recorded[2], copied[2];
    float *values = check_floats(c, VOCAB * HEADS * DIM, FILL_PLAIN);
    const struct tensor_view view = {
        .type = TENSOR_F32, .data = values, .n_bytes = VOCAB * HEADS * DIM * sizeof *values, .n_rows = VOCAB, .n_cols = HEADS * DIM};
    struct error err = {0};
    for (int i = 0; i < SEQUENCES * BLOCKS; i++)
        s.tables[i] = SEQUENCES * BLOCKS - 1 - i;
    s.rope = rope_open(s.be, ROPE_NEOX, DIM, BLOCKS * KV_BLOCK_SIZE, 10000, NULL);
    bool good = s.rope != NULL;
    for (size_t m = 0; m < 2; m++) {
        good &= way_open(s.be, 0, HEADS >> m, &alone[m]);
        good &= way_open(s.be, 1000001 + m, HEADS >> m, &recorded[m]);
        good &= way_open(s.be, 1000003 + m, HEADS >> m, &copied[m]);
    }
    if (!good || dense_open(s.be, &view, &s.table, &err))
        check_fail(c, "no memory: %s", err.message);
    else
        run_steps(c, &s, alone, recorded, copied);
    if (backend_sync(s.be, &err))
        check_fail(c, "%s", err.message);
    dense_close(s.be, s.table);
    rope_close(s.be, s.rope);
    for (size_t m = 0; m < 2; m++) {
        way_close(s.be, &alone[m]);
        way_close(s.be, &recorded[m]);
        way_close(s.be, &copied[m]);
    }
    free(values);
}
