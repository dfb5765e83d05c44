/* The CPU backend: dispatch, lifetime, and the splitting of work. */
#include "kernels/cpu.h"

#include "kernels/machine.h"
#include "kernels/memory.h"
#include "kernels/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PACE_COST ((size_t)1 << 18) /* values that take the portable kernels about a millisecond */
#define SERIAL_COST 16384 /* values; below it waking threads costs more than the work */
#define PARTIAL_FLOATS ((size_t)8 << 20) /* address space; 128K positions of the 2B model fill a sixth of it */
#define SHARED_BYTES ((size_t)1 << 20)   /* from which memory is spread over nodes */

void cpu_fill_portable(struct cpu_kernels *k)
{
#define STORE(ret, name, args) k->name = name##_portable;
    CPU_KERNELS(STORE)
#undef STORE
    k->auto_format = TERNARY_I2S;
    k->auto_reason = "fewest instructions a weight";
}

/* Without the feature `cpu` the portable code, which all else is compared with, is all there is. */
#if !defined(FEATURE_CPU) || (!defined(__x86_64__) && !defined(__aarch64__))
const struct cpu_level cpu_levels[] = {{"portable", cpu_fill_portable}, {NULL, NULL}};
size_t cpu_best_level(void) { return 0; }
#endif

const char *cpu_kernels_init(struct cpu_kernels *k, const char *isa)
{
    size_t level = cpu_best_level(), asked = 0;
    while (isa && cpu_levels[asked].name && strcmp(isa, cpu_levels[asked].name) != 0)
        asked++;
    if (!cpu_levels[asked].name)
        return NULL;
    if (isa && asked < level)
        level = asked;
    for (size_t i = 0; i <= level; i++)
        cpu_levels[i].fill(k);
    return cpu_levels[level].name;
}

static enum error_code unknown_isa(const char *isa, struct error *err)
{
    char names[64] = "";
    for (size_t i = 0, at = 0; cpu_levels[i].name && at < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", cpu_levels[i].name);
    return error_set_param(err, ERROR_VALIDATION_FAILED, "isa",
                           "expected an instruction set of this architecture (%s), found \"%.64s\"", names, isa);
}

struct parallel {
    struct cpu *cpu;
    cpu_items_fn *fn;
    const void *call;
    size_t n;
};

static void run_part(void *arg, int thread, int n_threads)
{
    const struct parallel *p = arg;
    size_t begin, end;
    pool_range(p->n, thread, n_threads, &begin, &end);
    if (begin < end)
        p->fn(p->cpu, p->call, begin, end, thread);
}

static void run_next(void *arg, int thread, int n_threads)
{
    const struct parallel *p = arg;
    (void)n_threads;
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&p->cpu->next_item, 1, memory_order_relaxed);
        if (i >= p->n)
            return;
        p->fn(p->cpu, p->call, i, i + 1, thread);
    }
}

/* All items on this thread; where there is a pace, by parts. */
static void run_alone(struct cpu *cpu, size_t n, size_t cost, cpu_items_fn *fn, const void *call)
{
    size_t step = !cpu->pace ? n : cost < PACE_COST ? PACE_COST / (cost + 1) : 1;
    for (size_t i = 0; i < n; i += step) {
        fn(cpu, call, i, n - i < step ? n : i + step, 0);
        if (cpu->pace)
            cpu->pace(cpu->pace_user);
    }
}

static bool is_small(const struct cpu *cpu, size_t n, size_t cost)
{
    return n < 2 || n * cost < SERIAL_COST || pool_size(cpu->base.pool) == 1;
}

void cpu_for(struct cpu *cpu, size_t n, size_t cost, cpu_items_fn *fn, const void *call)
{
    if (is_small(cpu, n, cost)) {
        run_alone(cpu, n, cost, fn, call);
        return;
    }
    pool_run(cpu->base.pool, run_part, &(struct parallel){.cpu = cpu, .fn = fn, .call = call, .n = n});
}

void cpu_for_each(struct cpu *cpu, size_t n, size_t cost, cpu_items_fn *fn, const void *call)
{
    if (is_small(cpu, n, cost)) {
        run_alone(cpu, n, cost, fn, call);
        return;
    }
    atomic_store(&cpu->next_item, 0);
    pool_run(cpu->base.pool, run_next, &(struct parallel){.cpu = cpu, .fn = fn, .call = call, .n = n});
}

static void *cpu_alloc(struct backend *be, size_t n_bytes)
{
    const struct cpu *cpu = (const struct cpu *)be;
    void *p = memory_alloc(n_bytes);
    if (p && n_bytes >= SHARED_BYTES)
        placement_of_shared(&cpu->placement, p, n_bytes);
    return p;
}

static void cpu_free(struct backend *be, void *dev)
{
    (void)be;
    memory_free(dev);
}

static void cpu_upload(struct backend *be, void *dev, const void *host, size_t n_bytes)
{
    (void)be;
    memcpy(dev, host, n_bytes);
}

static void cpu_download(struct backend *be, void *host, const void *dev, size_t n_bytes)
{
    (void)be;
    memcpy(host, dev, n_bytes);
}

static enum error_code cpu_sync(struct backend *be, struct error *err)
{
    (void)be, (void)err;
    return ERROR_NONE;
}

static void cpu_close(struct backend *be)
{
    struct cpu *cpu = (struct cpu *)be;
    free(cpu->scratch);
    memory_free(cpu->pieces.partials);
    free(cpu->pieces.n_done);
    free(cpu);
}

static void cpu_spare(struct backend *be) { placement_spare(&((struct cpu *)be)->placement); }

/* Few rows of a step. */
static void cpu_keep_rows(struct backend *be, float *x, size_t dim, const int32_t *rows, size_t n)
{
    (void)be;
    for (size_t i = 0; i < n; i++)
        if ((size_t)rows[i] > i)
            memcpy(x + i * dim, x + (size_t)rows[i] * dim, dim * sizeof *x);
}

static const struct backend_ops ops = {
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_upload,
    .download = cpu_download,
    .sync = cpu_sync,
    .spare = cpu_spare,
    .ternary_open = cpu_ternary_open,
    .ternary_close = cpu_ternary_close,
    .dense_open = cpu_dense_open,
    .dense_close = cpu_dense_close,
    .embed = cpu_op_embed,
    .keep_rows = cpu_keep_rows,
    .rmsnorm = cpu_op_rmsnorm,
    .quantize = cpu_op_quantize,
    .norm_quantize = cpu_op_norm_quantize,
    .ffn_quantize = cpu_op_ffn_quantize,
    .matmul = cpu_op_matmul,
    .add = cpu_op_add,
    .ffn_act = cpu_op_ffn_act,
    .rope = cpu_op_rope,
    .kv_write = cpu_op_kv_write,
    .attention = cpu_op_attention,
    .logits = cpu_op_logits,
    .dense_screen = cpu_dense_screen,
    .logits_needed = cpu_op_logits_needed,
    .dense_read_bytes = cpu_dense_read_bytes,
    .measure = cpu_measure,
    .ternary_share = cpu_ternary_share,
    .has_kv_int8 = true,
};

enum error_code cpu_open(const struct backend_options *options, struct backend **out, struct error *err)
{
    int n_threads = options->n_threads ? options->n_threads : machine_default_threads(machine_n_cpus());
    if (n_threads > POOL_MAX_THREADS)
        n_threads = POOL_MAX_THREADS;
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to open the CPU");
    const char *isa = cpu_kernels_init(&cpu->kernels, options->isa);
    if (!isa) {
        free(cpu);
        return unknown_isa(options->isa, err);
    }
    enum error_code code = placement_open(&cpu->placement, options, n_threads, err);
    if (code) {
        free(cpu);
        return code;
    }
    cpu->map_weights = options->map_weights;
    cpu->pace = n_threads == 1 ? options->pace : NULL;
    cpu->pace_user = options->pace_user;
    cpu->pieces.n_floats = PARTIAL_FLOATS;
    cpu->pieces.partials = memory_alloc(PARTIAL_FLOATS * sizeof *cpu->pieces.partials);
    cpu->pieces.n_done = calloc((size_t)n_threads * CPU_UNITS_A_THREAD, sizeof *cpu->pieces.n_done);
    cpu->base.pool = pool_open_placed(n_threads, placement_enter, &cpu->placement);
    if (!cpu->pieces.partials || !cpu->pieces.n_done || !cpu->base.pool) {
        pool_close(cpu->base.pool);
        cpu_close(&cpu->base);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %d compute threads", n_threads);
    }
    machine_cpu_name(cpu->name, sizeof cpu->name);
    cpu->base.ops = &ops;
    cpu->base.info = (struct backend_info){.device = "cpu",
                                           .name = cpu->name,
                                           .isa = isa,
                                           .n_threads = n_threads,
                                           .memory_bytes = machine_memory_bytes(),
                                           .auto_format = cpu->kernels.auto_format,
                                           .auto_reason = cpu->kernels.auto_reason};
    if (cpu->map_weights) {
        cpu->base.info.auto_format = TERNARY_I2S;
        cpu->base.info.auto_reason = "weights are read where the file lies";
    }
    *out = &cpu->base;
    return ERROR_NONE;
}
