/* Devices, errors, and the launch of kernels. */
#include "tests/cuda/host/emulator.h"

#include <map>
#include <string>

#define MAX_SHARED_BYTES 232448
#define DEFAULT_SHARED_BYTES 49152

std::recursive_mutex emulator_lock;
cudaError_t emulator_lost;
thread_local int emulator_device;

static std::map<const void *, size_t> shared_max; /* by kernel */
static long n_launches;
static std::string fail_setting;

static int n_devices()
{
    long n = emulator_setting("CUDA_EMULATOR_DEVICES", 1);
    return (int)(n < 0 ? 0 : n > EMULATOR_MAX_DEVICES ? EMULATOR_MAX_DEVICES : n);
}

size_t emulator_device_bytes() { return (size_t)emulator_setting("CUDA_EMULATOR_MEMORY", 4L << 30); }

/* A new value of CUDA_EMULATOR_FAIL is a new device. */
static void note_setting()
{
    const char *text = getenv("CUDA_EMULATOR_FAIL");
    if (fail_setting == (text ? text : ""))
        return;
    fail_setting = text ? text : "";
    n_launches = 0;
    emulator_lost = cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    LOCKED;
    note_setting();
    *count = n_devices();
    return *count ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaSetDevice(int device)
{
    LOCKED;
    if (device < 0 || device >= n_devices())
        return cudaErrorInvalidDevice;
    emulator_device = device;
    return emulator_lost;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    LOCKED;
    if (device < 0 || device >= n_devices())
        return cudaErrorInvalidDevice;
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated");
    p->totalGlobalMem = emulator_device_bytes();
    p->sharedMemPerBlock = DEFAULT_SHARED_BYTES;
    p->sharedMemPerBlockOptin = MAX_SHARED_BYTES;
    p->sharedMemPerMultiprocessor = MAX_SHARED_BYTES + 1024;
    p->major = 9;
    p->multiProcessorCount = 132;
    p->l2CacheSize = 50 << 20;
    p->warpSize = warpSize;
    p->maxThreadsPerBlock = EMULATOR_MAX_THREADS;
    return emulator_lost;
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    default: return "operation failed due to a previous error during capture";
    }
}

/* ---- kernels */

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute what, int value)
{
    LOCKED;
    if (what == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || value > MAX_SHARED_BYTES)
            return cudaErrorInvalidValue;
        shared_max[kernel] = (size_t)value;
    }
    return emulator_lost;
}

/* Before a kernel runs: whether the device is lost now. */
static bool loses()
{
    note_setting();
    long at = emulator_setting("CUDA_EMULATOR_FAIL", 0);
    if (at > 0 && ++n_launches >= at)
        emulator_lost = cudaErrorLaunchFailure;
    return emulator_lost != cudaSuccess;
}

cudaError_t emulator_launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> call)
{
    LOCKED;
    dim3 g = config->gridDim, b = config->blockDim;
    size_t shared_bytes = config->dynamicSmemBytes;
    size_t max_bytes = shared_max.count(kernel) && shared_max[kernel] > DEFAULT_SHARED_BYTES ? shared_max[kernel] : DEFAULT_SHARED_BYTES;
    uint64_t n_threads = (uint64_t)b.x * b.y * b.z;
    if (emulator_lost)
        return emulator_lost;
    if (!n_threads || n_threads > EMULATOR_MAX_THREADS || !g.x || !g.y || !g.z || g.x > INT32_MAX || g.y > 65535 || g.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (shared_bytes > max_bytes)
        return cudaErrorInvalidValue;
    return emulator_put(config->stream, [=] {
        if (!loses())
            emulator_run(kernel, g, b, shared_bytes, call);
    });
}
