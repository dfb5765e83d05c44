/*
 * What the emulator of tests/cuda/host has to find, one case a run: misuse CASE. Cases that must end the process say what they do and then should
 * not return; the others exit with 0 when all is as it should be. tests/emulator.sh runs them.
 */
#include "kernels/cuda/ptx.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define THREADS 128

/* Launches on a stream, and the error after waiting. */
template <typename... P, typename... A> static cudaError_t run(void (*kernel)(P...), unsigned n_threads, A... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(2);
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = 4096;
    cudaError_t error = cudaLaunchKernelEx(&config, kernel, args...);
    cudaError_t later = cudaStreamSynchronize(NULL);
    return error ? error : later;
}

static int *device_ints(size_t n)
{
    int *p = NULL;
    if (cudaMalloc(&p, n * sizeof *p) || cudaMemset(p, 0, n * sizeof *p))
        exit(2);
    return p;
}

/* The first int at p, which waits. */
static int first_of(const int *p)
{
    int v = -1;
    cudaMemcpy(&v, p, sizeof v, cudaMemcpyDeviceToHost);
    return v;
}

/* ---- threads of a block */

static __global__ void unreached_kernel(int *out)
{
    if (threadIdx.x != 77)
        __syncthreads();
    out[threadIdx.x] = 1;
}

static __global__ void absent_lane_kernel(int *out)
{
    int v = 0;
    if (threadIdx.x % 32 != 5)
        v = __shfl_xor_sync(0xffffffffu, 1, 1);
    out[threadIdx.x] = v;
}

static __global__ void crossed_kernel(int *out)
{
    out[threadIdx.x] = threadIdx.x % 2 ? __shfl_xor_sync(0xffffffffu, 1, 1) : (int)__ballot_sync(0xffffffffu, 1);
}

/* Counts threads whose neighbour's value was not there. */
template <bool BARRIER> static __global__ void neighbour_kernel(int *out)
{
    __shared__ int values[THREADS];
    int i = (int)threadIdx.x, next = (i + 1) % THREADS;
    values[i] = (int)blockIdx.x * 1000 + i;
    if (BARRIER)
        __syncthreads();
    if (values[next] != (int)blockIdx.x * 1000 + next)
        atomicAdd(out, 1);
}

template <bool WAIT> static __global__ void copy_kernel(const int *in, int *out)
{
    SHARED_BYTES(shared);
    int *words = (int *)shared + 4 * threadIdx.x;
    copy_async16(words, in + 4 * threadIdx.x);
    copy_async_commit();
    if (WAIT)
        copy_async_wait<0>();
    for (int i = 0; i < 4; i++)
        if (words[i] != 0)
            atomicAdd(out, 1);
}

static bool missing_barrier()
{
    int *out = device_ints(1);
    run(neighbour_kernel<true>, THREADS, out);
    int with = first_of(out);
    run(neighbour_kernel<false>, THREADS, out);
    return with == 0 && first_of(out) > 0;
}

static bool missing_wait()
{
    int *in = device_ints(4 * THREADS), *out = device_ints(1);
    run(copy_kernel<true>, THREADS, (const int *)in, out);
    int with = first_of(out);
    run(copy_kernel<false>, THREADS, (const int *)in, out);
    return with == 0 && first_of(out) > 0;
}

/* ---- instructions: products of a warp */

static __device__ int8_t a_at(int row, int k) { return (int8_t)(row * 37 + k * 11 - 100); }
static __device__ int8_t b_at(int k, int col) { return (int8_t)(k * 29 - col * 17 + 3); }
static __device__ unsigned half_at(float v) { return __half_as_ushort(__float2half_rn(v)); }

/* Fragment words as kernels/cuda/ptx.h has them. */
static __device__ void fill_bytes(int g, int t, unsigned a[4], unsigned b[2])
{
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            a[i] |= (unsigned)(uint8_t)a_at(g + i % 2 * 8, 4 * t + j + i / 2 * 16) << (8 * j);
            b[i % 2] |= (unsigned)(uint8_t)b_at(4 * t + j + i % 2 * 16, g) << (8 * j);
        }
}

static __device__ void fill_halves(int g, int t, unsigned a[4], unsigned b[2])
{
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            a[i] |= half_at((float)a_at(g + i % 2 * 8, 2 * t + j + i / 2 * 8) * 0.25f) << (16 * j);
            b[i % 2] |= half_at((float)b_at(2 * t + j + i % 2 * 8, g)) << (16 * j);
        }
}

static __global__ void mma_kernel(int *wrong)
{
    int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4, d[4] = {1, 2, 3, 4}, u[4] = {1, 2, 3, 4};
    unsigned a[4] = {}, b[2] = {}, ha[4] = {}, hb[2] = {};
    float e[4] = {1, 2, 3, 4};
    fill_bytes(g, t, a, b);
    fill_halves(g, t, ha, hb);
    mma_s8(d, a, b);
    mma_u8(u, a, b);
    mma_f16(e, ha, hb);
    for (int i = 0; i < 4; i++) {
        int row = g + i / 2 * 8, col = 2 * t + i % 2, whole = i + 1, positive = i + 1;
        float half = (float)(i + 1);
        for (int k = 0; k < 32; k++) {
            whole += a_at(row, k) * b_at(k, col);
            positive += (uint8_t)a_at(row, k) * b_at(k, col);
        }
        for (int k = 0; k < 16; k++)
            half += (float)a_at(row, k) * 0.25f * (float)b_at(k, col);
        if (d[i] != whole || u[i] != positive || e[i] != half)
            atomicAdd(wrong, 1);
    }
}

static bool instructions()
{
    int *wrong = device_ints(1);
    return run(mma_kernel, 32, wrong) == cudaSuccess && first_of(wrong) == 0;
}

/* ---- memory */

static __global__ void write_kernel(int *out, int i, int value) { out[i] = value; }

static bool overrun()
{
    int *out = device_ints(64); /* 256 bytes: what follows is nobody's */
    run(write_kernel, 1, out, 64, 1);
    return true;
}

static bool host_argument()
{
    int on_host = 0;
    return run(write_kernel, 1, &on_host, 0, 1) == cudaErrorInvalidValue;
}

static bool host_touch()
{
    volatile int *out = device_ints(1);
    *out = 1;
    return true;
}

static bool full()
{
    void *p, *q;
    setenv("CUDA_EMULATOR_MEMORY", "1000000", 1);
    bool good = cudaMalloc(&p, 600000) == cudaSuccess && cudaMalloc(&q, 600000) == cudaErrorMemoryAllocation;
    return good && cudaFree(p) == cudaSuccess && cudaMalloc(&q, 600000) == cudaSuccess;
}

static bool lost()
{
    int *out = device_ints(1);
    setenv("CUDA_EMULATOR_FAIL", "2", 1);
    bool good = run(write_kernel, 1, out, 0, 1) == cudaSuccess && run(write_kernel, 1, out, 0, 2) == cudaErrorLaunchFailure;
    void *p;
    return good && cudaMalloc(&p, 8) == cudaErrorLaunchFailure && cudaFree(out) == cudaErrorLaunchFailure;
}

/* ---- streams */

static bool late_copies()
{
    int *dev = device_ints(1), *pinned, pageable = 1, seen;
    cudaMallocHost(&pinned, sizeof *pinned);
    *pinned = 1;
    cudaMemcpyAsync(dev, &pageable, sizeof *dev, cudaMemcpyHostToDevice);
    pageable = 2; /* taken already */
    seen = first_of(dev);
    cudaMemcpyAsync(dev, pinned, sizeof *dev, cudaMemcpyHostToDevice);
    *pinned = 2; /* too early */
    bool good = seen == 1 && first_of(dev) == 2;
    cudaFreeHost(pinned);
    return good;
}

static bool events()
{
    int *dev = device_ints(2);
    cudaStream_t a, b;
    cudaEvent_t done;
    cudaStreamCreate(&a);
    cudaStreamCreate(&b);
    cudaEventCreate(&done);
    cudaMemsetAsync(dev, 1, sizeof *dev, a);
    cudaMemcpyAsync(dev + 1, dev, sizeof *dev, cudaMemcpyDeviceToDevice, b);
    cudaStreamSynchronize(b);
    int without = first_of(dev + 1);
    cudaMemsetAsync(dev, 1, sizeof *dev, a);
    cudaEventRecord(done, a);
    cudaStreamWaitEvent(b, done, 0);
    cudaMemcpyAsync(dev + 1, dev, sizeof *dev, cudaMemcpyDeviceToDevice, b);
    cudaStreamSynchronize(b);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaEventDestroy(done);
    return without == 0 && first_of(dev + 1) == 0x01010101;
}

static __global__ void count_kernel(int *out) { atomicAdd(out, 1); }

/* A graph runs as often as it is launched; copies from pageable memory and allocations are no part of one. */
static bool graphs()
{
    int *out = device_ints(1), zero = 0;
    void *p;
    cudaStream_t s;
    cudaGraph_t graph, none;
    cudaGraphExec_t exec = NULL;
    cudaStreamCreate(&s);
    cudaLaunchConfig_t config = {};
    config.stream = s;
    cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
    cudaLaunchKernelEx(&config, count_kernel, out);
    bool good = cudaStreamEndCapture(s, &graph) == cudaSuccess && first_of(out) == 0 && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess;
    for (int i = 0; good && i < 3; i++)
        good = cudaGraphLaunch(exec, s) == cudaSuccess;
    good = good && cudaStreamSynchronize(s) == cudaSuccess && first_of(out) == 3;
    cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
    good = good && cudaMemcpyAsync(out, &zero, sizeof zero, cudaMemcpyHostToDevice, s) != cudaSuccess &&
           cudaStreamEndCapture(s, &none) != cudaSuccess;
    cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
    good = good && cudaMalloc(&p, 8) != cudaSuccess && cudaStreamEndCapture(s, &none) != cudaSuccess;
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(s);
    return good;
}

static bool unreached_barrier() { return run(unreached_kernel, THREADS, device_ints(THREADS)) == cudaSuccess; }
static bool absent_lane() { return run(absent_lane_kernel, THREADS, device_ints(THREADS)) == cudaSuccess; }
static bool crossed() { return run(crossed_kernel, THREADS, device_ints(THREADS)) == cudaSuccess; }

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        bool (*good)();
    } cases[] = {{"unreached-barrier", unreached_barrier}, {"absent-lane", absent_lane}, {"crossed", crossed}, {"missing-barrier", missing_barrier},
                 {"missing-wait", missing_wait}, {"instructions", instructions}, {"overrun", overrun}, {"host-argument", host_argument},
                 {"host-touch", host_touch}, {"full", full}, {"lost", lost}, {"late-copies", late_copies}, {"events", events}, {"graphs", graphs}};
    for (auto &c : cases)
        if (argc == 2 && strcmp(argv[1], c.name) == 0)
            return c.good() ? 0 : 1;
    fprintf(stderr, "expected the name of a case\n");
    return 2;
}
