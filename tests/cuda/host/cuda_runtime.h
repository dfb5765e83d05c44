/*
 * A stand-in for CUDA on a host without a GPU, so that the sources of kernels/cuda run in tests: this header, cuda_fp16.h and
 * kernels/cuda/ptx.h hide the real ones; block.cc runs kernels, and streams.cc, memory.cc and runtime.cc have the rest.
 *
 * What it is meant to find: operations on a stream run as late as they may, the threads of a block in an order drawn from a seed, from barrier to
 * barrier; asynchronous copies to shared memory arrive when they are waited for. Device memory cannot be touched by the host, ends at a page that
 * nobody may touch, and is never zero at first; a kernel's arguments that point to the host's memory are an error. A barrier or a warp's
 * operation that not all threads reach ends the process with a message. Not found: races on shared and global memory that no
 * order of whole stretches between barriers shows. Static __shared__ variables are statics, for blocks run one after the other.
 *
 * The environment, read when used: CUDA_EMULATOR_DEVICES (1), CUDA_EMULATOR_MEMORY (bytes of a device, 4 GiB), CUDA_EMULATOR_SEED (1; 0: threads
 * in their order), CUDA_EMULATOR_FAIL (N: the Nth kernel from when the value changed and all calls after it fail, as on a device that is
 * lost, until the value changes again: cudaGetDeviceCount and each kernel look).
 */
#ifndef TESTS_CUDA_RUNTIME_H
#define TESTS_CUDA_RUNTIME_H

#include "tests/cuda/host/intrinsics.h"

#include <functional>
#include <tuple>

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };

typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;
typedef struct emulated_graph *cudaGraph_t;
typedef struct emulated_graph *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
    int major, minor, multiProcessorCount, l2CacheSize, warpSize, maxThreadsPerBlock;
};
struct cudaLaunchAttribute {
    int id;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
const char *cudaGetErrorString(cudaError_t error);

cudaError_t cudaMalloc(void **out, size_t n_bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **out, size_t n_bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMemcpy(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream = NULL);
cudaError_t cudaMemset(void *to, int value, size_t n_bytes);
cudaError_t cudaMemsetAsync(void *to, int value, size_t n_bytes, cudaStream_t stream = NULL);
template <typename T> static inline cudaError_t cudaMalloc(T **out, size_t n_bytes) { return cudaMalloc((void **)out, n_bytes); }
template <typename T> static inline cudaError_t cudaMallocHost(T **out, size_t n_bytes) { return cudaMallocHost((void **)out, n_bytes); }

cudaError_t cudaStreamCreate(cudaStream_t *out);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = NULL);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute what, int value);
template <typename F> static inline cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute what, int value)
{
    return cudaFuncSetAttribute((const void *)kernel, what, value);
}

/* False, with a message, when one of the words at `bytes` points to memory of the host. */
bool emulator_argument_is_device(const void *kernel, const void *bytes, size_t n_bytes);
cudaError_t emulator_launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> call);

template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...args)
{
    bool good = (emulator_argument_is_device((const void *)kernel, &args, sizeof args) && ...); /* a copy would have other bytes between members */
    std::tuple<P...> arguments(static_cast<P>(args)...);
    return good ? emulator_launch(config, (const void *)kernel, [=] { std::apply(kernel, arguments); }) : cudaErrorInvalidValue;
}

#endif
