/*
 * Passes. A batch goes to the device in one copy, from where it is laid out on the host:
 *
 *   positions | sequences | places | ids | tables | tiles     [n] [n] [n] [n] [sequences][stride] [n]
 *
 * Sequences are numbered anew, so that tables of those in the batch go only, and of these the blocks that are read. In a pass that repeats
 * the layout depends on the number of rows and of segments alone, the latter rounded up to a power of two: the operations then have the same
 * arguments each time, and are recorded the second time that they come, when all scratch memory is there. A piece of scratch memory that moves
 * makes all recordings void.
 */
#include "kernels/cuda/pass.h"

#include <stdlib.h>

#define SEGMENT_BLOCKS (ARITH_SEGMENT / KV_BLOCK_SIZE)
#define TILE_INTS (sizeof(struct tile) / sizeof(int32_t))
#define N_RECORDINGS 64
#define RECORDED_ROWS 256 /* at most: beyond, launches cost little beside what they launch */

struct recording {
    uint64_t of, generation, used; /* used: when, in passes; 0 = a free place */
    const void *kv;
    size_t n, height;      /* height: of its tiles */
    int n_segments;
    cudaGraphExec_t graph; /* NULL: seen once */
};

/* A batch, as it lies on the host and on the device. */
struct copy {
    struct batch_view view; /* whose it is; n = 0: of none */
    size_t height;
    int32_t *host;
    size_t n_host;
    struct scratch dev;
    struct gpu_batch batch;
    const int32_t *host_ids, *ids;
};

struct gpu_pass {
    bool open;
    struct copy own, other; /* the pass', and one of an operation outside */
    size_t height;          /* that tiles were last asked for with */
    struct recording recordings[N_RECORDINGS], *now;
    bool capturing;
    uint64_t n_passes;
};

bool gpu_pass_open(struct gpu *gpu)
{
    gpu->pass = (struct gpu_pass *)calloc(1, sizeof *gpu->pass);
    return gpu->pass != NULL;
}

void gpu_pass_close(struct gpu *gpu)
{
    struct gpu_pass *p = gpu->pass;
    if (!p)
        return;
    for (size_t i = 0; i < N_RECORDINGS; i++)
        if (p->recordings[i].graph)
            cudaGraphExecDestroy(p->recordings[i].graph);
    cudaFree(p->own.dev.dev);
    cudaFree(p->other.dev.dev);
    free(p->own.host);
    free(p->other.host);
    free(p);
}

/* ---- the copy of a batch ---- */

/* What a layout depends on. */
struct extent {
    size_t n, n_sequences, stride;
};

/* repeats: whatever the rows are. */
static struct extent extent_of(const struct batch_view *b, bool repeats, int *n_segments)
{
    struct extent e = {b->n, repeats ? b->n : 1, 0};
    int32_t last = 0;
    for (size_t i = 0; i < b->n; i++) {
        last = b->positions[i] > last ? b->positions[i] : last;
        e.n_sequences += !repeats && i && b->sequences[i] != b->sequences[i - 1];
    }
    *n_segments = last / ARITH_SEGMENT + 1;
    e.stride = (size_t)last / KV_BLOCK_SIZE + 1;
    if (repeats) {
        int rounded = 1;
        while (rounded < *n_segments)
            rounded *= 2;
        *n_segments = rounded;
        e.stride = (size_t)rounded * SEGMENT_BLOCKS;
    }
    return e;
}

static size_t ints_of(const struct extent *e) { return 4 * e->n + e->n_sequences * e->stride + e->n * TILE_INTS; }

static bool make_room(struct gpu *gpu, struct copy *c, size_t n)
{
    if (n > c->n_host) {
        int32_t *more = (int32_t *)realloc(c->host, n * sizeof *more);
        c->host = more ? more : c->host;
        c->n_host = more ? n : c->n_host;
        if (!more)
            gpu_check(gpu, cudaErrorMemoryAllocation);
    }
    return n <= c->n_host && gpu_scratch(gpu, &c->dev, n * sizeof *c->host);
}

static size_t add_tiles(const struct batch_view *b, size_t row, size_t end, size_t height, struct tile *to)
{
    size_t n = 0;
    for (; row < end; row += height) {
        struct tile t = {(int32_t)row, (int32_t)(end - row < height ? end - row : height), 0};
        for (int32_t i = 0; i < t.n_rows; i++)
            t.last = b->positions[row + (size_t)i] > t.last ? b->positions[row + (size_t)i] : t.last;
        to[n++] = t;
    }
    return n;
}

/* Stretches of sequences are cut into tiles: short ones from the front of `tiles` [n], long ones from its end. Places that are left stay empty;
 * where there are no long ones they count as short, so that how many there are is the size of the batch. */
static void cut_tiles(const struct batch_view *b, size_t height, struct tile *tiles, struct gpu_batch *out)
{
    size_t n_long = 0;
    for (int pass = 0; pass < 2; pass++) /* counts the long ones first */
        for (size_t row = 0, end; row < b->n; row = end) {
            for (end = row + 1; end < b->n && b->sequences[end] == b->sequences[row];)
                end++;
            bool is_long = end - row >= WHOLE_ROWS;
            if (pass == 0)
                n_long += is_long ? (end - row + height - 1) / height : 0;
            else if (is_long)
                out->n_whole += add_tiles(b, row, end, height, tiles + b->n - n_long + out->n_whole);
            else
                out->n_split += add_tiles(b, row, end, height, tiles + out->n_split);
        }
    if (!n_long)
        out->n_split = b->n;
}

static void fill_rows(const struct batch_view *b, const struct extent *e, int32_t *positions, int32_t *sequences, int32_t *places, int32_t *tables)
{
    int32_t number = -1;
    for (size_t i = 0; i < b->n; i++) {
        const int32_t *table = b->block_tables + (size_t)b->sequences[i] * b->max_blocks;
        if (i == 0 || b->sequences[i] != b->sequences[i - 1]) {
            number++;
            memcpy(tables + (size_t)number * e->stride, table, (e->stride < b->max_blocks ? e->stride : b->max_blocks) * sizeof *tables);
        }
        positions[i] = b->positions[i];
        sequences[i] = number;
        places[i] = table[b->positions[i] / KV_BLOCK_SIZE] * KV_BLOCK_SIZE + b->positions[i] % KV_BLOCK_SIZE;
    }
}

/* ids: of the rows, or NULL. */
static bool copy_batch(struct gpu *gpu, struct copy *c, const struct batch_view *b, const int32_t *ids, size_t height, bool repeats)
{
    struct gpu_batch out = {};
    struct extent e = extent_of(b, repeats, &out.n_segments);
    size_t n = ints_of(&e), n_table = e.n_sequences * e.stride;
    c->view.n = 0;
    if (!make_room(gpu, c, n))
        return false;
    int32_t *to = c->host, *dev = (int32_t *)c->dev.dev;
    memset(to, 0, n * sizeof *to);
    fill_rows(b, &e, to, to + e.n, to + 2 * e.n, to + 4 * e.n);
    if (ids)
        memcpy(to + 3 * e.n, ids, e.n * sizeof *ids);
    if (height)
        cut_tiles(b, height, (struct tile *)(to + 4 * e.n + n_table), &out);
    if (!gpu_check(gpu, cudaMemcpyAsync(dev, to, n * sizeof *to, cudaMemcpyHostToDevice, gpu->stream)))
        return false;
    out.positions = dev;
    out.sequences = dev + e.n;
    out.places = dev + 2 * e.n;
    out.tables = dev + 4 * e.n;
    out.split = (const struct tile *)(dev + 4 * e.n + n_table);
    out.host_split = (const struct tile *)(to + 4 * e.n + n_table);
    out.whole = out.split + e.n - out.n_whole;
    out.stride = e.stride;
    c->view = *b;
    c->height = height;
    c->batch = out;
    c->host_ids = ids;
    c->ids = dev + 3 * e.n;
    return true;
}

const struct gpu_batch *gpu_batch_of(struct gpu *gpu, const struct batch_view *b, size_t height)
{
    struct gpu_pass *p = gpu->pass;
    const struct copy *own = &p->own;
    p->height = height ? height : p->height;
    if (p->open && own->view.positions == b->positions && own->view.n == b->n && (!height || own->height == height))
        return &own->batch;
    return copy_batch(gpu, &p->other, b, NULL, height, false) ? &p->other.batch : NULL;
}

const int32_t *gpu_ints_of(struct gpu *gpu, const int32_t *host, size_t n)
{
    const struct gpu_pass *p = gpu->pass;
    size_t used = 0;
    if (p->open && n == p->own.view.n && host == p->own.view.positions)
        return p->own.batch.positions;
    if (p->open && n == p->own.view.n && host == p->own.host_ids)
        return p->own.ids;
    return gpu_scratch(gpu, &gpu->ints, n * sizeof *host) ? gpu_push_ints(gpu, host, n, &used) : NULL;
}

/* ---- recordings ---- */

/* The recording of such passes, or the place for one: a free one, else the one whose last use is longest ago. */
static struct recording *find_recording(struct gpu_pass *p, const struct op_pass *o, int n_segments)
{
    struct recording *oldest = &p->recordings[0];
    for (size_t i = 0; i < N_RECORDINGS; i++) {
        struct recording *r = &p->recordings[i];
        if (r->used && r->of == o->of && r->kv == o->kv->k && r->n == o->batch->n && r->n_segments == n_segments)
            return r;
        oldest = r->used < oldest->used ? r : oldest;
    }
    if (oldest->graph)
        cudaGraphExecDestroy(oldest->graph);
    *oldest = {o->of, 0, 0, o->kv->k, o->batch->n, 0, n_segments, NULL};
    return oldest;
}

/* Rows of a tile of such passes: as in those before, else as in the last of others. */
static size_t height_of(const struct gpu_pass *p, uint64_t of)
{
    for (size_t i = 0; i < N_RECORDINGS; i++)
        if (p->recordings[i].used && p->recordings[i].of == of && p->recordings[i].height)
            return p->recordings[i].height;
    return p->height;
}

/* A recording whose memory has moved is none. */
static void drop_stale(struct gpu *gpu, struct recording *r)
{
    if (r->generation == gpu->generation)
        return;
    if (r->graph)
        cudaGraphExecDestroy(r->graph);
    r->graph = NULL;
    r->generation = 0;
}

bool gpu_pass_begin(struct backend *be, const struct op_pass *o)
{
    struct gpu *gpu = gpu_enter(be);
    struct gpu_pass *p = gpu->pass;
    size_t height = height_of(p, o->of);
    bool repeats = o->repeats && o->batch->n <= RECORDED_ROWS && height;
    p->n_passes++;
    p->now = NULL;
    p->capturing = false;
    p->open = copy_batch(gpu, &p->own, o->batch, o->ids, height, repeats);
    if (!p->open || !repeats || p->own.batch.n_whole)
        return true;
    struct recording *r = find_recording(p, o, p->own.batch.n_segments);
    drop_stale(gpu, r);
    r->used = p->n_passes;
    if (r->graph) {
        gpu_check(gpu, cudaGraphLaunch(r->graph, gpu->stream));
        p->open = false;
        return false;
    }
    p->now = r;
    p->capturing = r->generation && gpu_check(gpu, cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal));
    return true;
}

void gpu_pass_end(struct backend *be)
{
    struct gpu *gpu = gpu_enter(be);
    struct gpu_pass *p = gpu->pass;
    cudaGraph_t graph = NULL;
    if (p->capturing && gpu_check(gpu, cudaStreamEndCapture(gpu->stream, &graph)) && gpu_check(gpu, cudaGraphInstantiate(&p->now->graph, graph, 0)))
        gpu_check(gpu, cudaGraphLaunch(p->now->graph, gpu->stream));
    if (graph)
        cudaGraphDestroy(graph);
    if (p->now) {
        p->now->generation = gpu->generation;
        p->now->height = p->height;
    }
    p->open = p->capturing = false;
}
