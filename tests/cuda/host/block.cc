/*
 * The threads of a block as fibers: each has a stack and runs until it waits for the block or for lanes of its warp; then one of those that
 * can go on is drawn. When none can and some have not returned, they wait for what will never come.
 */
#include "tests/cuda/host/emulator.h"

#include <cuda_fp16.h>

#include <dlfcn.h>
#include <sys/mman.h>

#include <stdarg.h>

#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES ((size_t)512 << 10)
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define STACK_BYTES ((size_t)128 << 10)
#endif
#define PAGE EMULATOR_PAGE
#define LANES 32
#define MASKS 8 /* groups of lanes of a warp that are exchanging at a time */

enum state { READY, AT_BARRIER, EXCHANGING, RETURNED };

struct copy {
    void *to;
    const void *from;
    size_t n_bytes;
    unsigned group;
};

struct fiber {
    void *sp;
    uint8_t *stack;
    void *fake_stack; /* of the address sanitizer */
    uint3 index;
    enum state state;
    const char *what; /* it waits for */
    unsigned mask;
    std::vector<copy> copies;
    unsigned n_groups; /* of copies, committed */
};

/* Lanes that exchange values; kept for the next time. */
struct exchange {
    unsigned mask, arrived, generation;
    const char *what;
    uint64_t values[2][LANES]; /* by generation: a lane is at most one exchange ahead of another */
};

struct warp {
    struct exchange exchanges[MASKS];
};

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

static struct {
    struct fiber fibers[EMULATOR_MAX_THREADS], host, *here;
    struct warp warps[EMULATOR_MAX_THREADS / LANES];
    unsigned ready[EMULATOR_MAX_THREADS], n_ready, n_threads, n_returned, n_at_barrier;
    uint64_t random; /* 0: in order */
    const void *kernel;
    const std::function<void()> *call;
    uint8_t *shared;
    struct fiber *before;      /* whose stack was left last */
    const void *host_bottom;   /* the host's stack, for the address sanitizer */
    size_t host_bytes;
} run;

/* ---- stacks */

extern "C" void emulator_switch(void **save_sp, void *to_sp);
asm(".text\n"
    ".type emulator_switch, @function\n"
    "emulator_switch:\n"
    "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov %rsi, %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
    "    ret\n"
    ".size emulator_switch, . - emulator_switch\n");

/* From the fiber that runs to `next`; with `last` it never comes back. */
static void switch_to(struct fiber *next, bool last)
{
    struct fiber *self = run.before = run.here;
    run.here = next;
    threadIdx = next->index;
#ifdef __SANITIZE_ADDRESS__
    bool to_host = next == &run.host;
    __sanitizer_start_switch_fiber(last ? NULL : &self->fake_stack, to_host ? run.host_bottom : next->stack, to_host ? run.host_bytes : STACK_BYTES);
#endif
    (void)last;
    emulator_switch(&self->sp, next->sp);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(self->fake_stack, NULL, NULL);
#endif
}

static void thread_main();

/* Makes a fiber that begins at thread_main. */
static void start_fiber(unsigned i)
{
    struct fiber *f = &run.fibers[i];
    if (!f->stack) { /* the lowest page is a guard */
        void *p = mmap(NULL, STACK_BYTES + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED || mprotect(p, PAGE, PROT_NONE))
            emulator_stop("no memory for the stacks of threads");
        f->stack = (uint8_t *)p + PAGE;
    }
    ASAN_UNPOISON_MEMORY_REGION(f->stack + STACK_BYTES - PAGE, PAGE); /* frames that never returned: see the end of thread_main */
    void **top = (void **)(f->stack + STACK_BYTES) - 2; /* the stack of a function that was called is 8 off a multiple of 16 */
    *top = (void *)thread_main;
    f->sp = top - 6;
    f->fake_stack = NULL;
    f->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    f->state = READY;
    f->copies.clear();
    f->n_groups = 0;
}

/* ---- who runs next */

static void make_ready(unsigned i)
{
    run.fibers[i].state = READY;
    run.ready[run.n_ready++] = i;
}

[[noreturn]] static void stuck()
{
    const struct fiber *barrier = NULL, *exchange = NULL;
    for (unsigned i = 0; i < run.n_threads; i++) {
        const struct fiber *f = &run.fibers[i];
        barrier = f->state == AT_BARRIER && !barrier ? f : barrier;
        exchange = f->state == EXCHANGING && !exchange ? f : exchange;
    }
    char lanes[160] = "";
    if (exchange) {
        unsigned i = (unsigned)(exchange - run.fibers);
        snprintf(lanes, sizeof lanes, "; thread %u waits in %s of lanes %08x", i, exchange->what, exchange->mask);
    }
    emulator_stop("%u of %u threads wait at a barrier, %u have returned%s", run.n_at_barrier, run.n_threads, run.n_returned, lanes);
}

/* Runs another fiber; the present one has taken care to be made ready at some time. */
static void leave(bool last)
{
    struct fiber *next = &run.host;
    if (run.n_ready) {
        unsigned at = 0;
        if (run.random) { /* xorshift64 (Marsaglia, Xorshift RNGs, 2003) */
            run.random ^= run.random << 13;
            run.random ^= run.random >> 7;
            run.random ^= run.random << 17;
            at = (unsigned)((run.random >> 32) * run.n_ready >> 32);
            next = &run.fibers[run.ready[at]];
            run.ready[at] = run.ready[--run.n_ready];
        } else {
            next = &run.fibers[run.ready[0]];
            memmove(run.ready, run.ready + 1, --run.n_ready * sizeof *run.ready);
        }
    } else if (run.n_returned < run.n_threads) {
        stuck();
    }
    if (next != run.here)
        switch_to(next, last);
}

static void thread_main()
{
#ifdef __SANITIZE_ADDRESS__
    const void *bottom;
    size_t n_bytes;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &n_bytes);
    if (run.before == &run.host) {
        run.host_bottom = bottom;
        run.host_bytes = n_bytes;
    }
#endif
    (*run.call)();
    run.here->state = RETURNED;
    run.n_returned++;
    leave(true);
    abort();
}

/* ---- what threads wait for */

static unsigned self_index() { return (unsigned)(run.here - run.fibers); }
unsigned emulator_lane() { return self_index() % LANES; }

void emulator_barrier()
{
    run.here->state = AT_BARRIER;
    if (++run.n_at_barrier == run.n_threads) {
        run.n_at_barrier = 0;
        for (unsigned i = 0; i < run.n_threads; i++)
            make_ready(i);
    }
    leave(false);
}

static struct exchange *exchange_of(struct warp *w, unsigned mask)
{
    for (int i = 0; i < MASKS; i++)
        if (w->exchanges[i].mask == mask)
            return &w->exchanges[i];
    for (int i = 0; i < MASKS; i++) {
        struct exchange *e = &w->exchanges[i];
        if (!e->arrived) { /* its lanes may still read the values of the last generation, which are left there */
            e->mask = mask;
            return e;
        }
    }
    emulator_stop("more than %d groups of lanes in one warp", MASKS);
}

const uint64_t *emulator_exchange(unsigned mask, uint64_t value, const char *what, void (*compute)(const uint64_t *values))
{
    struct fiber *f = run.here;
    unsigned i = self_index(), lane = i % LANES;
    if (!(mask >> lane & 1))
        emulator_stop("%s: lane %u is not in the mask %08x", what, lane, mask);
    struct exchange *e = exchange_of(&run.warps[i / LANES], mask);
    if (e->arrived && e->what != what && strcmp(e->what, what) != 0)
        emulator_stop("lanes %08x meet in %s and in %s", mask, e->what, what);
    uint64_t *values = e->values[e->generation & 1];
    values[lane] = value;
    e->what = what;
    e->arrived |= 1u << lane;
    f->state = EXCHANGING;
    f->what = what;
    f->mask = mask;
    if (e->arrived == mask) {
        if (compute)
            compute(values);
        e->arrived = 0;
        e->generation++;
        for (unsigned l = 0; l < LANES; l++)
            if (mask >> l & 1)
                make_ready(i / LANES * LANES + l);
    }
    leave(false);
    return values;
}

/* ---- shared memory */

void *emulator_shared() { return run.shared; }

void emulator_copy(void *to, const void *from, size_t n_bytes)
{
    if ((uintptr_t)to % n_bytes || (uintptr_t)from % n_bytes)
        emulator_stop("an asynchronous copy from %p to %p is not aligned to %zu bytes", from, to, n_bytes);
    memset(to, 0xA5, n_bytes); /* not there yet */
    run.here->copies.push_back({to, from, n_bytes, run.here->n_groups});
}

void emulator_copy_commit() { run.here->n_groups++; }

void emulator_copy_wait(int n_groups)
{
    struct fiber *f = run.here;
    size_t n = 0;
    for (; n < f->copies.size() && f->copies[n].group + (unsigned)n_groups < f->n_groups; n++)
        memcpy(f->copies[n].to, f->copies[n].from, f->copies[n].n_bytes);
    f->copies.erase(f->copies.begin(), f->copies.begin() + (ptrdiff_t)n);
}

/* ---- blocks */

static void run_block()
{
    run.n_ready = run.n_returned = run.n_at_barrier = 0;
    memset(run.warps, 0, (run.n_threads + LANES - 1) / LANES * sizeof *run.warps);
    for (unsigned i = 0; i < run.n_threads; i++) {
        start_fiber(i);
        make_ready(i);
    }
    leave(false);
}

void emulator_run(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &call)
{
    long seed = emulator_setting("CUDA_EMULATOR_SEED", 1);
    run.random = (uint64_t)seed * 0x9E3779B97F4A7C15u;
    run.here = &run.host;
    run.kernel = kernel;
    run.call = &call;
    run.n_threads = block.x * block.y * block.z;
    gridDim = grid;
    blockDim = block;
    run.shared = (uint8_t *)aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128);
    if (!run.shared)
        emulator_stop("no memory for shared memory");
    memset(run.shared, 0xA5, shared_bytes);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                run_block();
            }
    free(run.shared);
    run.kernel = NULL;
}

/* ---- words */

const char *emulator_kernel_name(const void *kernel)
{
    static char name[512];
    Dl_info info;
    snprintf(name, sizeof name, "kernel %p", kernel);
    if (!kernel || !dladdr(kernel, &info))
        return name;
    char command[600];
    size_t offset = (size_t)((const char *)kernel - (const char *)info.dli_fbase);
    snprintf(command, sizeof command, "addr2line -fCpe '%s' %#zx 2>/dev/null", info.dli_fname, offset);
    FILE *pipe = popen(command, "r");
    if (pipe) {
        if (fgets(name, sizeof name, pipe))
            name[strcspn(name, "\n")] = 0;
        pclose(pipe);
    }
    return name;
}

void emulator_stop(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "CUDA emulator: ");
    vfprintf(stderr, format, args);
    va_end(args);
    if (run.kernel)
        fprintf(stderr, "; in %s, block %u, %u, %u", emulator_kernel_name(run.kernel), blockIdx.x, blockIdx.y, blockIdx.z);
    fprintf(stderr, "\n");
    abort();
}

long emulator_setting(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtol(text, NULL, 0) : otherwise;
}

static const float *make_f16()
{
    static float values[65536];
    for (unsigned i = 0; i < 65536; i++)
        values[i] = arith_from_f16((uint16_t)i);
    return values;
}
const float *const emulator_f16 = make_f16();
