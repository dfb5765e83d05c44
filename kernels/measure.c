/*
 * What the machine can do at most, with the pool's threads and the instruction set in use: bytes that a stream of reads moves,
 * int8 multiply-adds out of registers. Benchmarks give their figures as shares of these.
 *
 * Each thread first writes, then reads its own part of a buffer that no cache holds. Both limits are medians: a neighbour's burst moves
 * neither up nor down.
 */
#include "kernels/cpu.h"
#include "kernels/pool.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define READ_BYTES ((size_t)256 << 20)
#define READ_BYTES_A_THREAD ((size_t)32 << 20) /* machines with many cores have larger caches */
#define ALIGN ((size_t)2 << 20)                /* a huge page */
#define N_PASSES 11
#define MIN_PEAK_NS (10 * CLOCK_NS_PER_MS)
#define MAX_ROUNDS (UINT64_C(1) << 40)

uint64_t read_bytes_portable(const uint8_t *p, size_t n)
{
    uint64_t sums[4] = {0};
    for (size_t i = 0; i < n; i += 32)
        for (size_t k = 0; k < 4; k++) {
            uint64_t word;
            memcpy(&word, p + i + 8 * k, sizeof word);
            sums[k] ^= word;
        }
    return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

/* Products of 16 bits in vectors of 16 bytes, the widest that every target has. Each chain feeds on its own result, so that no
 * compiler computes less than is written. */
typedef uint16_t eight __attribute__((vector_size(16)));

#define STEP(s) s = s * factor + add

uint64_t peak_i8_portable(uint64_t n_rounds)
{
    static volatile uint16_t seed = 3; /* not known when compiled */
    eight factor = (eight){0} + seed, add = factor + 2, s0 = add, s1 = add + 1, s2 = add + 2, s3 = add + 3,
          s4 = add + 4, s5 = add + 5, s6 = add + 6, s7 = add + 7;
    for (uint64_t r = 0; r < n_rounds; r++) {
        STEP(s0);
        STEP(s1);
        STEP(s2);
        STEP(s3);
        STEP(s4);
        STEP(s5);
        STEP(s6);
        STEP(s7);
    }
    s0 ^= s1 ^ s2 ^ s3 ^ s4 ^ s5 ^ s6 ^ s7;
    seed = s0[0] | 1;
    return n_rounds * 8 * 8;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double values[N_PASSES])
{
    qsort(values, N_PASSES, sizeof values[0], compare_doubles);
    return values[N_PASSES / 2];
}

struct reading {
    const struct cpu *cpu;
    uint8_t *buffer;
    size_t n_bytes;
    _Atomic uint64_t sum; /* so that the reads are not dead */
};

static void part_of(const struct reading *r, int thread, int n_threads, size_t *begin, size_t *end)
{
    pool_range(r->n_bytes / READ_BYTES_STEP, thread, n_threads, begin, end);
    *begin *= READ_BYTES_STEP;
    *end *= READ_BYTES_STEP;
}

static void write_part(void *arg, int thread, int n_threads)
{
    struct reading *r = arg;
    size_t begin, end;
    part_of(r, thread, n_threads, &begin, &end);
    memset(r->buffer + begin, 1 + thread, end - begin);
}

static void read_part(void *arg, int thread, int n_threads)
{
    struct reading *r = arg;
    size_t begin, end;
    part_of(r, thread, n_threads, &begin, &end);
    atomic_fetch_xor(&r->sum, r->cpu->kernels.read_bytes(r->buffer + begin, end - begin));
}

static double measure_read(struct cpu *cpu)
{
    struct pool *pool = cpu->base.pool;
    size_t n = (size_t)pool_size(pool) * READ_BYTES_A_THREAD;
    double rates[N_PASSES];
    n = n > READ_BYTES ? n : READ_BYTES;
    uint8_t *map = mmap(NULL, n + ALIGN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return 0;
    struct reading r = {.cpu = cpu, .n_bytes = n};
    r.buffer = map + (ALIGN - (uintptr_t)map % ALIGN) % ALIGN;
    madvise(r.buffer, n, MADV_HUGEPAGE);
    pool_run(pool, write_part, &r);
    pool_run(pool, read_part, &r);
    for (int i = 0; i < N_PASSES; i++) {
        int64_t start = clock_now_ns();
        pool_run(pool, read_part, &r);
        rates[i] = (double)n / (double)(clock_now_ns() - start) * 1e9;
    }
    munmap(map, n + ALIGN);
    return median(rates);
}

struct peak {
    const struct cpu *cpu;
    uint64_t n_rounds;
    _Atomic uint64_t n_done;
};

static void peak_part(void *arg, int thread, int n_threads)
{
    struct peak *p = arg;
    (void)thread, (void)n_threads;
    atomic_fetch_add(&p->n_done, p->cpu->kernels.peak_i8(p->n_rounds));
}

/* Multiply-adds a second of one go; *ns is what it took. */
static double run_peak(struct cpu *cpu, uint64_t n_rounds, int64_t *ns)
{
    struct peak p = {.cpu = cpu, .n_rounds = n_rounds};
    int64_t start = clock_now_ns();
    pool_run(cpu->base.pool, peak_part, &p);
    *ns = clock_now_ns() - start;
    *ns = *ns > 0 ? *ns : 1;
    return (double)p.n_done / (double)*ns * 1e9;
}

static double measure_peak(struct cpu *cpu)
{
    uint64_t n_rounds = 1024;
    double rates[N_PASSES];
    int64_t ns = 0;
    while (run_peak(cpu, n_rounds, &ns), ns < MIN_PEAK_NS && n_rounds < MAX_ROUNDS)
        n_rounds *= 2;
    for (int i = 0; i < N_PASSES; i++)
        rates[i] = run_peak(cpu, n_rounds, &ns);
    return median(rates);
}

double cpu_measure(struct backend *be, enum backend_limit limit)
{
    struct cpu *cpu = (struct cpu *)be;
    return limit == LIMIT_READ_BYTES ? measure_read(cpu) : measure_peak(cpu);
}
