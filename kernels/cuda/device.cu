/* Listing and opening of CUDA devices, and the table of operations. */
#include "kernels/cuda/device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SELF_TEST_BYTES ((size_t)16 << 20)

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

static void gpu_close(struct backend *be)
{
    struct gpu *gpu = gpu_enter(be);
    gpu_pass_close(gpu);
    gpu_memory_close(gpu);
    if (gpu->stream)
        cudaStreamDestroy(gpu->stream);
    free(gpu);
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
    /* .norm_quantize = */ gpu_norm_quantize,
    /* .ffn_quantize = */ gpu_ffn_quantize,
    /* .rope = */ gpu_rope,
    /* .kv_write = */ gpu_kv_write,
    /* .attention = */ gpu_attention,
    /* .logits = */ gpu_logits,
    /* .dense_screen = */ NULL,
    /* .logits_needed = */ gpu_logits_needed,
    /* .dense_read_bytes = */ NULL,
    /* .measure = */ NULL,
    /* .ternary_share = */ NULL,
    /* .has_kv_int8 = */ true,
    /* .keep_rows = */ gpu_keep_rows,
    /* .spare = */ NULL,
    /* .room = */ gpu_room,
    /* .pass_begin = */ gpu_pass_begin,
    /* .pass_end = */ gpu_pass_end,
    /* .add_norm_quantize = */ gpu_add_norm_quantize,
    /* .rope_write = */ gpu_rope_write,
};

static enum error_code start(struct gpu *gpu, struct error *err)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaSetDevice(gpu->ordinal);
    if (error == cudaSuccess)
        error = cudaGetDeviceProperties(&properties, gpu->ordinal);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = gpu_memory_open(gpu);
    if (error != cudaSuccess)
        return gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "cuda:%d cannot be opened: %s", gpu->ordinal,
                         cudaGetErrorString(error));
    if (!gpu_pass_open(gpu))
        return gpu_error(err, ERROR_MEMORY_EXHAUSTED, "no memory to open cuda:%d", gpu->ordinal);
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

/* How many devices there are; 0, with *err set, when there is none. */
static int count_devices(uint32_t abi, struct error *err)
{
    int n = 0;
    if (abi != BACKEND_ABI) {
        gpu_error(err, ERROR_DEVICE_UNAVAILABLE, BACKEND_CUDA_LIBRARY " has version %u, the program needs %u", BACKEND_ABI, abi);
        return 0;
    }
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error == cudaSuccess && n > 0)
        return n;
    gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "no CUDA device: %s", error != cudaSuccess ? cudaGetErrorString(error) : "the driver lists none");
    return 0;
}

extern "C" {
__attribute__((visibility("default"))) backend_cuda_open_fn bitnet_cuda_open;
__attribute__((visibility("default"))) backend_cuda_list_fn bitnet_cuda_list;
}

/* Makes no device's context: free memory is known of none. */
size_t bitnet_cuda_list(uint32_t abi, struct backend_device *out, size_t max, struct error *why)
{
    int n = count_devices(abi, why);
    for (int i = 0; i < n && (size_t)i < max; i++) {
        struct cudaDeviceProp properties = {};
        cudaGetDeviceProperties(&properties, i);
        memset(&out[i], 0, sizeof out[i]);
        snprintf(out[i].id, sizeof out[i].id, "cuda:%d", i);
        snprintf(out[i].name, sizeof out[i].name, "%.127s", properties.name);
        snprintf(out[i].isa, sizeof out[i].isa, "sm_%d%d", properties.major, properties.minor);
        out[i].memory_bytes = properties.totalGlobalMem;
    }
    return (size_t)n;
}

enum error_code bitnet_cuda_open(uint32_t abi, int ordinal, struct backend **out, struct error *err)
{
    int n_devices = count_devices(abi, err);
    if (n_devices == 0)
        return ERROR_DEVICE_UNAVAILABLE;
    if (ordinal >= n_devices)
        return gpu_error(err, ERROR_DEVICE_UNAVAILABLE, "cuda:%d: there are CUDA devices 0 to %d only", ordinal, n_devices - 1);
    struct gpu *gpu = (struct gpu *)calloc(1, sizeof *gpu);
    if (!gpu)
        return gpu_error(err, ERROR_MEMORY_EXHAUSTED, "no memory to open cuda:%d", ordinal);
    gpu->ordinal = ordinal;
    enum error_code code = start(gpu, err);
    const char *what = NULL;
    if (!code)
        code = gpu_room(&gpu->base, SELF_TEST_BYTES, err);
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
    gpu_drop_scratch(gpu); /* the test's */
    *out = &gpu->base;
    return ERROR_NONE;
}
