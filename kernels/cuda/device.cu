/* Opening of a CUDA device, its memory, and the table of operations. */
#include "kernels/cuda/device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum error_code gpu_error(struct error *err, enum error_code code, const char *format, ...)
{
    if (!err)
        return code;
    memset(err, 0, sizeof *err);
    err->code = code;
    snprintf(err->param, sizeof err->param, "device");
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return code;
}

void *gpu_scratch(struct gpu *gpu, struct scratch *s, size_t n_bytes)
{
    if (s->n_bytes >= n_bytes)
        return s->dev;
    cudaFree(s->dev); /* waits for the operations that use it */
    s->dev = NULL;
    s->n_bytes = 0;
    n_bytes += n_bytes / 2;
    if (!gpu_check(gpu, cudaMalloc(&s->dev, n_bytes))) {
        s->dev = NULL;
        return NULL;
    }
    s->n_bytes = n_bytes;
    return s->dev;
}

const int32_t *gpu_push_ints(struct gpu *gpu, const int32_t *host, size_t n, size_t *used)
{
    int32_t *to = (int32_t *)gpu->ints.dev + *used;
    gpu_check(gpu, cudaMemcpyAsync(to, host, n * sizeof *to, cudaMemcpyHostToDevice, gpu->stream));
    *used += n;
    return to;
}

static void gpu_close(struct backend *be)
{
    struct gpu *gpu = gpu_enter(be);
    cudaFree(gpu->ints.dev);
    cudaFree(gpu->floats.dev);
    if (gpu->stream)
        cudaStreamDestroy(gpu->stream);
    free(gpu);
}

static void *gpu_alloc(struct backend *be, size_t n_bytes)
{
    struct gpu *gpu = gpu_enter(be);
    void *dev;
    if (cudaMalloc(&dev, n_bytes) != cudaSuccess) {
        cudaGetLastError(); /* the caller is told by NULL */
        return NULL;
    }
    gpu_check(gpu, cudaMemsetAsync(dev, 0, n_bytes, gpu->stream));
    return dev;
}

static void gpu_free(struct backend *be, void *dev)
{
    gpu_enter(be);
    cudaFree(dev);
}

static void gpu_upload(struct backend *be, void *dev, const void *host, size_t n_bytes)
{
    struct gpu *gpu = gpu_enter(be);
    gpu_check(gpu, cudaMemcpyAsync(dev, host, n_bytes, cudaMemcpyHostToDevice, gpu->stream));
    gpu_check(gpu, cudaStreamSynchronize(gpu->stream));
}

static void gpu_download(struct backend *be, void *host, const void *dev, size_t n_bytes)
{
    struct gpu *gpu = gpu_enter(be);
    bool done = gpu_check(gpu, cudaMemcpyAsync(host, dev, n_bytes, cudaMemcpyDeviceToHost, gpu->stream)) &&
                gpu_check(gpu, cudaStreamSynchronize(gpu->stream));
    if (!done)
        memset(host, 0, n_bytes);
}

static enum error_code gpu_sync(struct backend *be, struct error *err)
{
    struct gpu *gpu = gpu_enter(be);
    gpu_check(gpu, cudaStreamSynchronize(gpu->stream));
    cudaError_t failed = gpu->failed;
    gpu->failed = cudaSuccess;
    if (failed == cudaSuccess)
        return ERROR_NONE;
    return gpu_error(err, failed == cudaErrorMemoryAllocation ? ERROR_MEMORY_EXHAUSTED : ERROR_DEVICE_UNAVAILABLE,
                     "%s (%s) failed: %s", gpu->device, gpu->name, cudaGetErrorString(failed));
}

static const struct backend_ops gpu_ops = {
    /* .close = */ gpu_close,
    /* .alloc = */ gpu_alloc,
    /* .free = */ gpu_free,
    /* .upload = */ gpu_upload,
    /* .download = */ gpu_download,
    /* .sync = */ gpu_sync,
    /* .ternary_open = */ gpu_ternary_open,
    /* .ternary_close = */ gpu_ternary_close,
    /* .dense_open = */ gpu_dense_open,
    /* .dense_close = */ gpu_dense_close,
    /* .embed = */ gpu_embed,
    /* .rmsnorm = */ gpu_rmsnorm,
    /* .quantize = */ gpu_quantize,
    /* .matmul = */ gpu_matmul,
    /* .add = */ gpu_add,
    /* .ffn_act = */ gpu_ffn_act,
    /* .norm_quantize = */ NULL,
    /* .ffn_quantize = */ NULL,
    /* .rope = */ gpu_rope,
    /* .kv_write = */ gpu_kv_write,
    /* .attention = */ gpu_attention,
    /* .logits = */ gpu_logits,
};

static enum error_code start(struct gpu *gpu, struct error *err)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaSetDevice(gpu->ordinal);
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(&properties, gpu->ordinal);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking);
    if (error != cudaSuccess)
        return gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "cuda:%d cannot be opened: %s", gpu->ordinal,
                         cudaGetErrorString(error));
    snprintf(gpu->device, sizeof gpu->device, "cuda:%d", gpu->ordinal);
    snprintf(gpu->name, sizeof gpu->name, "%s", properties.name);
    snprintf(gpu->isa, sizeof gpu->isa, "sm_%d%d", properties.major, properties.minor);
    if (properties.major < 8)
        return gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "cuda:%d (%s) is %s, but sm_80 or newer is needed", gpu->ordinal,
                         gpu->name, gpu->isa);
    gpu->base.ops = &gpu_ops;
    gpu->base.info.device = gpu->device;
    gpu->base.info.name = gpu->name;
    gpu->base.info.isa = gpu->isa;
    gpu->base.info.n_threads = 1;
    gpu->base.info.memory_bytes = properties.totalGlobalMem;
    gpu->base.info.auto_format = TERNARY_I2S;
    gpu->base.info.auto_reason = "the one layout of this device";
    return ERROR_NONE;
}

extern "C" __attribute__((visibility("default"))) backend_cuda_open_fn bitnet_cuda_open;

enum error_code bitnet_cuda_open(uint32_t abi, int ordinal, struct backend **out, struct error *err)
{
    if (abi != BACKEND_ABI)
        return gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "cuda:%d: " BACKEND_CUDA_LIBRARY " has version %u, the program needs %u",
                         ordinal, BACKEND_ABI, abi);
    int n_devices = 0;
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (error != cudaSuccess || n_devices == 0)
        return gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "cuda:%d: no CUDA device: %s", ordinal,
                         error != cudaSuccess ? cudaGetErrorString(error) : "the driver lists none");
    if (ordinal >= n_devices)
        return gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "cuda:%d: there are CUDA devices 0 to %d only", ordinal,
                         n_devices - 1);
    struct gpu *gpu = (struct gpu *)calloc(1, sizeof *gpu);
    if (!gpu)
        return gpu_error(err, ERROR_MEMORY_EXHAUSTED, "no memory to open cuda:%d", ordinal);
    gpu->ordinal = ordinal;
    enum error_code code = start(gpu, err);
    const char *what = NULL;
    if (!code && !gpu_self_test(&gpu->base, &what)) {
        struct error detail = {};
        code = gpu_sync(&gpu->base, &detail);
        code = gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "cuda:%d (%s) failed its self-test: %s%s%.200s", ordinal, gpu->name,
                         what, code ? ": " : "", detail.message);
    }
    if (code) {
        gpu_close(&gpu->base);
        return code;
    }
    *out = &gpu->base;
    return ERROR_NONE;
}
