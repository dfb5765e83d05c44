/*
 * memory: the large blocks of a CPU backend. Two kinds:
 *
 *   blocks    zeroed, for scratch and the KV cache. Large ones are mapped by themselves: a page that was never touched takes no memory
 *   weights   written once, then streamed: carved from chunks of address space that ask for huge pages. A matrix of 0.4 MB then shares
 *             its huge page with its neighbours instead of wasting most of one
 *
 * and what a kernel has read of a mapped file may be dropped. Any thread.
 */
#ifndef KERNELS_MEMORY_H
#define KERNELS_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#define MEMORY_HUGE_PAGE ((size_t)2 << 20)

/* Zeroed, 64-byte aligned, or NULL when memory is out. Freed by memory_free (NULL is allowed). */
void *memory_alloc(size_t n_bytes);
void memory_free(void *p);

/* 64-byte aligned, not cleared, or NULL when memory is out. Freed by memory_free_weights (NULL is allowed). A chunk holds blocks of one owner, any
 * address, and goes back to the system with the last of them: so all of a model's does, whatever others came meanwhile. */
void *memory_alloc_weights(const void *owner, size_t n_bytes);
void memory_free_weights(void *p);

/* Asks that pages of [p, p + n_bytes) that are touched first from now on lie on one NUMA node, or evenly over several, by the system's
 * numbers. A wish: false when the system refuses it, or when this is built without libnuma. */
bool memory_place(void *p, size_t n_bytes, const int *nodes, int n_nodes);

/* Drops the whole pages of [data, data + n_bytes) from resident memory. They must be of a mapping of a file that nobody writes: what is
 * read after all comes back from the file. */
void memory_drop(const void *data, size_t n_bytes);

#endif
