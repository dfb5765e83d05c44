/*
 * Memory of a device, and what goes there and back. Uploads pass through two pieces of pinned memory on a stream of their own: while one is
 * copied, the next is read from the file that the host's memory maps.
 */
#include "kernels/cuda/device.h"

#define STAGE_BYTES ((size_t)4 << 20)

cudaError_t gpu_memory_open(struct gpu *gpu)
{
    cudaError_t error = cudaStreamCreateWithFlags(&gpu->copies, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&gpu->zeroed, cudaEventDisableTiming);
    for (int i = 0; error == cudaSuccess && i < GPU_STAGES; i++) {
        error = cudaEventCreateWithFlags(&gpu->stages[i].copied, cudaEventDisableTiming);
        if (error == cudaSuccess)
            error = cudaMallocHost((void **)&gpu->stages[i].host, STAGE_BYTES);
    }
    return error;
}

void gpu_memory_close(struct gpu *gpu)
{
    for (int i = 0; i < GPU_STAGES; i++) {
        cudaFreeHost(gpu->stages[i].host);
        if (gpu->stages[i].copied)
            cudaEventDestroy(gpu->stages[i].copied);
    }
    if (gpu->zeroed)
        cudaEventDestroy(gpu->zeroed);
    if (gpu->copies)
        cudaStreamDestroy(gpu->copies);
    gpu_drop_scratch(gpu);
}

void gpu_drop_scratch(struct gpu *gpu)
{
    cudaFree(gpu->ints.dev);
    cudaFree(gpu->floats.dev);
    gpu->ints = gpu->floats = {};
}

void *gpu_scratch(struct gpu *gpu, struct scratch *s, size_t n_bytes)
{
    if (s->n_bytes >= n_bytes)
        return s->dev;
    cudaFree(s->dev); /* waits for the operations that use it */
    s->dev = NULL;
    s->n_bytes = 0;
    gpu->generation++;
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

void *gpu_alloc(struct backend *be, size_t n_bytes)
{
    struct gpu *gpu = gpu_enter(be);
    void *dev;
    if (cudaMalloc(&dev, n_bytes) != cudaSuccess)
        return NULL;
    gpu_check(gpu, cudaMemsetAsync(dev, 0, n_bytes, gpu->stream));
    return dev;
}

void gpu_free(struct backend *be, void *dev)
{
    gpu_enter(be);
    cudaFree(dev);
}

/* The stream of copies waits for what was begun before: gpu_alloc's zeros, and operations that read what is overwritten. */
void gpu_upload(struct backend *be, void *dev, const void *host, size_t n_bytes)
{
    struct gpu *gpu = gpu_enter(be);
    bool good = gpu_check(gpu, cudaEventRecord(gpu->zeroed, gpu->stream)) && gpu_check(gpu, cudaStreamWaitEvent(gpu->copies, gpu->zeroed, 0));
    for (size_t at = 0, i = 0; good && at < n_bytes; at += STAGE_BYTES, i++) {
        struct stage *stage = &gpu->stages[i % GPU_STAGES];
        size_t n = n_bytes - at < STAGE_BYTES ? n_bytes - at : STAGE_BYTES;
        good = gpu_check(gpu, cudaEventSynchronize(stage->copied));
        if (good)
            memcpy(stage->host, (const uint8_t *)host + at, n);
        good = good && gpu_check(gpu, cudaMemcpyAsync((uint8_t *)dev + at, stage->host, n, cudaMemcpyHostToDevice, gpu->copies)) &&
               gpu_check(gpu, cudaEventRecord(stage->copied, gpu->copies));
    }
    gpu_check(gpu, cudaStreamSynchronize(gpu->copies));
}

void gpu_download(struct backend *be, void *host, const void *dev, size_t n_bytes)
{
    struct gpu *gpu = gpu_enter(be);
    bool done = gpu_check(gpu, cudaMemcpyAsync(host, dev, n_bytes, cudaMemcpyDeviceToHost, gpu->stream)) &&
                gpu_check(gpu, cudaStreamSynchronize(gpu->stream));
    if (!done)
        memset(host, 0, n_bytes);
}

enum error_code gpu_no_memory(struct backend *be, const char *what, size_t n_bytes, struct error *err)
{
    size_t free_bytes = 0, all_bytes = 0;
    gpu_enter(be);
    cudaMemGetInfo(&free_bytes, &all_bytes);
    return gpu_error(err, ERROR_MEMORY_EXHAUSTED, "no memory on %s (%.100s) for %s: %zu bytes are needed, %zu of %zu are free", be->info.device,
                     be->info.name, what, n_bytes, free_bytes, all_bytes);
}

enum error_code gpu_room(struct backend *be, size_t n_bytes, struct error *err)
{
    size_t free_bytes = 0, all_bytes = 0;
    struct gpu *gpu = gpu_enter(be);
    if (!gpu_check(gpu, cudaMemGetInfo(&free_bytes, &all_bytes)))
        return be->ops->sync(be, err);
    return n_bytes <= free_bytes ? ERROR_NONE : gpu_no_memory(be, "what is to be opened", n_bytes, err);
}
