#include "kernels/memory.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef HAVE_NUMA
#include <numaif.h>
#endif

#define ALIGNMENT ((size_t)64)
#define MAP_FROM ((size_t)1 << 20)        /* bytes from which a block is mapped by itself */
#define CHUNK_BYTES ((size_t)64 << 20)    /* of weights */
#define SMALL_WEIGHTS ((size_t)128 << 10) /* below it malloc does as well, and its checkers see overruns */

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void *map(size_t n_bytes)
{
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

/* Lies before a block, so that it is freed without its size. */
struct header {
    void *base;
    size_t mapped_bytes; /* 0: from malloc */
};
_Static_assert(sizeof(struct header) <= ALIGNMENT, "a header fits before an aligned block");

static void *finish_block(void *base, size_t mapped_bytes)
{
    struct header *h = base;
    if (base)
        *h = (struct header){base, mapped_bytes};
    return base ? (char *)base + ALIGNMENT : NULL;
}

void *memory_alloc(size_t n_bytes)
{
    if (n_bytes > SIZE_MAX / 2)
        return NULL;
    size_t total = round_up(n_bytes, ALIGNMENT) + ALIGNMENT;
    if (n_bytes >= MAP_FROM) {
        void *base = map(total);
        /* Sparse use, as of a KV cache by one sequence, would fill whole huge pages. */
        if (base)
            madvise(base, total, MADV_NOHUGEPAGE);
        return finish_block(base, total);
    }
    void *base = aligned_alloc(ALIGNMENT, total);
    return finish_block(base ? memset(base, 0, total) : NULL, 0);
}

void memory_free(void *p)
{
    if (!p)
        return;
    struct header h = *(struct header *)(void *)((char *)p - ALIGNMENT);
    if (h.mapped_bytes)
        munmap(h.base, h.mapped_bytes);
    else
        free(h.base);
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* A mapping whose beginning is given away; what was given back is not given again. */
struct chunk {
    struct chunk *next;
    const void *owner;
    char *data;
    size_t n_bytes, n_used;
    size_t n_blocks; /* that are not freed */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct chunk *chunks; /* under the lock; the newest first */

/* Maps with both ends at a huge page's. */
static char *map_aligned(size_t n_bytes)
{
    char *p = map(n_bytes + MEMORY_HUGE_PAGE);
    if (!p)
        return NULL;
    size_t before = round_up((uintptr_t)p, MEMORY_HUGE_PAGE) - (uintptr_t)p;
    if (before)
        munmap(p, before);
    if (before < MEMORY_HUGE_PAGE)
        munmap(p + before + n_bytes, MEMORY_HUGE_PAGE - before);
    madvise(p + before, n_bytes, MADV_HUGEPAGE); /* refused where the kernel has none: small pages then */
    return p + before;
}

static struct chunk *add_chunk(const void *owner, size_t least_bytes)
{
    struct chunk *c = malloc(sizeof *c);
    size_t n_bytes = least_bytes > CHUNK_BYTES ? round_up(least_bytes, MEMORY_HUGE_PAGE) : CHUNK_BYTES;
    char *data = c ? map_aligned(n_bytes) : NULL;
    if (!data) {
        free(c);
        return NULL;
    }
    *c = (struct chunk){.next = chunks, .owner = owner, .data = data, .n_bytes = n_bytes};
    return chunks = c;
}

void *memory_alloc_weights(const void *owner, size_t n_bytes)
{
    if (n_bytes > SIZE_MAX / 2)
        return NULL;
    size_t rounded = round_up(n_bytes ? n_bytes : 1, ALIGNMENT);
    if (n_bytes < SMALL_WEIGHTS)
        return aligned_alloc(ALIGNMENT, rounded);
    void *p = NULL;
    pthread_mutex_lock(&lock);
    struct chunk *c = chunks;
    while (c && (c->owner != owner || c->n_bytes - c->n_used < rounded))
        c = c->next;
    if (c || (c = add_chunk(owner, rounded))) {
        p = c->data + c->n_used;
        c->n_used += rounded;
        c->n_blocks++;
    }
    pthread_mutex_unlock(&lock);
    return p;
}

void memory_free_weights(void *p)
{
    pthread_mutex_lock(&lock);
    struct chunk **link = &chunks, *c;
    while ((c = *link) && !((char *)p >= c->data && (char *)p < c->data + c->n_bytes))
        link = &c->next;
    if (c && --c->n_blocks == 0) {
        *link = c->next;
        munmap(c->data, c->n_bytes);
        free(c);
    }
    pthread_mutex_unlock(&lock);
    if (!c)
        free(p);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

#define MAX_NODES 1024
#define WORD_BITS (8 * sizeof(unsigned long))

/* A page lies where its first byte belongs. */
bool memory_place(void *p, size_t n_bytes, const int *nodes, int n_nodes)
{
#ifdef HAVE_NUMA
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = round_up((uintptr_t)p, page), end = round_up((uintptr_t)p + n_bytes, page);
    unsigned long mask[MAX_NODES / WORD_BITS] = {0};
    for (int i = 0; i < n_nodes; i++)
        if (nodes[i] < MAX_NODES)
            mask[(size_t)nodes[i] / WORD_BITS] |= 1ul << (size_t)nodes[i] % WORD_BITS;
    int mode = n_nodes > 1 ? MPOL_INTERLEAVE : MPOL_PREFERRED;
    return begin >= end || mbind((void *)begin, end - begin, mode, mask, MAX_NODES, 0) == 0;
#else
    (void)p, (void)n_bytes, (void)nodes, (void)n_nodes;
    return false;
#endif
}

/* ---- mapped files ------------------------------------------------------------------------------------------------ */

void memory_drop(const void *data, size_t n_bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = round_up((uintptr_t)data, page);
    uintptr_t end = ((uintptr_t)data + n_bytes) / page * page; /* whole pages: a neighbour may share the ends */
    if (begin < end)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}
