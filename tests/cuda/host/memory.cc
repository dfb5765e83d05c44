/* Memory of devices, which the host cannot touch while no work is done, and memory of the host that was taken for copies. */
#include "tests/cuda/host/emulator.h"

#include <sys/mman.h>

#include <map>
#include <memory>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#define PAGE EMULATOR_PAGE
#define ALIGN ((size_t)256) /* of device memory */

/* Pages, the last bytes of which are used, between two that nobody may touch. */
struct block {
    int device;
    uint8_t *pages;
    size_t page_bytes, n_bytes;
};

static std::map<uintptr_t, block> memory;  /* of devices, by where the bytes begin */
static std::map<uintptr_t, size_t> pinned; /* of the host */
static size_t used[EMULATOR_MAX_DEVICES];
static int n_open; /* who has device memory open for access */

static const block *block_of(const void *p, size_t n_bytes)
{
    auto at = memory.upper_bound((uintptr_t)p);
    if (at == memory.begin())
        return NULL;
    --at;
    size_t offset = (uintptr_t)p - at->first;
    return offset <= at->second.n_bytes && n_bytes <= at->second.n_bytes - offset ? &at->second : NULL;
}

static bool is_pinned(const void *p, size_t n_bytes)
{
    auto at = pinned.upper_bound((uintptr_t)p);
    if (at == pinned.begin())
        return false;
    --at;
    size_t offset = (uintptr_t)p - at->first;
    return offset <= at->second && n_bytes <= at->second - offset;
}

static size_t free_bytes()
{
    size_t all = emulator_device_bytes();
    return all > used[emulator_device] ? all - used[emulator_device] : 0;
}

static void open_memory(int by, int protection)
{
    bool was_open = n_open > 0;
    n_open += by;
    if (was_open == (n_open > 0))
        return;
    for (auto &m : memory)
        mprotect(m.second.pages, m.second.page_bytes, protection);
}

touch::touch() { open_memory(1, PROT_READ | PROT_WRITE); }
touch::~touch() { open_memory(-1, PROT_NONE); }

bool emulator_argument_is_device(const void *kernel, const void *bytes, size_t n_bytes)
{
    LOCKED;
    for (size_t i = 0; i + sizeof(uintptr_t) <= n_bytes; i += sizeof(uintptr_t)) {
        uintptr_t word;
        unsigned char resident;
        memcpy(&word, (const char *)bytes + i, sizeof word);
        if (word < 0x5500ull << 32 || word >> 47 || block_of((const void *)word, 0))
            continue;
        if (mincore((void *)(word / PAGE * PAGE), 1, &resident) == 0 && resident & 1) {
            fprintf(stderr, "CUDA emulator: an argument of %s points to memory of the host: %#zx\n", emulator_kernel_name(kernel), (size_t)word);
            return false;
        }
    }
    return true;
}

cudaError_t cudaMalloc(void **out, size_t n_bytes)
{
    LOCKED;
    *out = NULL;
    if (emulator_lost)
        return emulator_lost;
    if (emulator_spoils())
        return cudaErrorStreamCaptureUnsupported;
    if (n_bytes == 0)
        return cudaSuccess;
    size_t in_use = (n_bytes + ALIGN - 1) / ALIGN * ALIGN, page_bytes = (in_use + PAGE - 1) / PAGE * PAGE;
    if (in_use < n_bytes || in_use > free_bytes())
        return cudaErrorMemoryAllocation;
    void *p = mmap(NULL, page_bytes + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    uint8_t *pages = (uint8_t *)p + PAGE, *begin = pages + page_bytes - in_use;
    mprotect(pages, page_bytes, PROT_READ | PROT_WRITE);
    memset(pages, 0xA5, page_bytes);
    ASAN_POISON_MEMORY_REGION(pages, page_bytes - in_use);
    ASAN_POISON_MEMORY_REGION(begin + n_bytes, in_use - n_bytes);
    if (!n_open)
        mprotect(pages, page_bytes, PROT_NONE);
    memory[(uintptr_t)begin] = {emulator_device, pages, page_bytes, n_bytes};
    used[emulator_device] += in_use;
    *out = begin;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    LOCKED;
    if (!p)
        return emulator_lost;
    auto at = memory.find((uintptr_t)p);
    if (at == memory.end())
        return cudaErrorInvalidValue;
    if (emulator_spoils())
        return cudaErrorStreamCaptureUnsupported;
    emulator_finish_all();
    block b = at->second;
    ASAN_UNPOISON_MEMORY_REGION(b.pages, b.page_bytes);
    munmap(b.pages - PAGE, b.page_bytes + 2 * PAGE);
    used[b.device] -= (b.n_bytes + ALIGN - 1) / ALIGN * ALIGN;
    memory.erase(at);
    return emulator_lost;
}

cudaError_t cudaMallocHost(void **out, size_t n_bytes)
{
    LOCKED;
    *out = NULL;
    if (emulator_lost)
        return emulator_lost;
    if (emulator_spoils())
        return cudaErrorStreamCaptureUnsupported;
    *out = malloc(n_bytes);
    if (!*out)
        return cudaErrorMemoryAllocation;
    pinned[(uintptr_t)*out] = n_bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    LOCKED;
    if (!p)
        return emulator_lost;
    if (!pinned.erase((uintptr_t)p))
        return cudaErrorInvalidValue;
    emulator_finish_all();
    free(p);
    return emulator_lost;
}

cudaError_t cudaMemGetInfo(size_t *out, size_t *total_bytes)
{
    LOCKED;
    *total_bytes = emulator_device_bytes();
    *out = free_bytes();
    return emulator_lost;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    LOCKED;
    bool to_device = block_of(to, n_bytes) != NULL, from_device = block_of(from, n_bytes) != NULL;
    bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (emulator_lost)
        return emulator_lost;
    if (n_bytes == 0)
        return cudaSuccess;
    if (to_device != wants_to || from_device != wants_from)
        return cudaErrorInvalidValue;
    bool pageable = (!to_device && !is_pinned(to, n_bytes)) || (!from_device && !is_pinned(from, n_bytes));
    if (pageable && emulator_stream(stream)->capture) {
        emulator_stream(stream)->spoiled = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    if (!pageable || (to_device && from_device))
        return emulator_put(stream, [=] { memmove(to, from, n_bytes); });
    if (to_device) { /* staged before this returns */
        std::shared_ptr<uint8_t> staged((uint8_t *)malloc(n_bytes), free);
        memcpy(staged.get(), from, n_bytes);
        return emulator_put(stream, [=] { memcpy(to, staged.get(), n_bytes); });
    }
    emulator_put(stream, [=] { memmove(to, from, n_bytes); });
    emulator_finish(emulator_stream(stream));
    return emulator_lost;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n_bytes, cudaMemcpyKind kind)
{
    LOCKED;
    if (emulator_spoils())
        return cudaErrorStreamCaptureUnsupported;
    cudaError_t error = cudaMemcpyAsync(to, from, n_bytes, kind, NULL);
    emulator_finish(emulator_stream(NULL));
    return error ? error : emulator_lost;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t n_bytes, cudaStream_t stream)
{
    LOCKED;
    if (emulator_lost)
        return emulator_lost;
    if (n_bytes && !block_of(to, n_bytes))
        return cudaErrorInvalidValue;
    return emulator_put(stream, [=] { memset(to, value, n_bytes); });
}

cudaError_t cudaMemset(void *to, int value, size_t n_bytes) { return cudaMemsetAsync(to, value, n_bytes, NULL); }
