/*
 * ptx: the instructions that CUDA C++ has no function for, sm_80 and newer. Nothing else of the backend is written in PTX, so that the rest
 * can be compiled for a host that works these out by itself.
 *
 * Fragments of a warp, g = lane / 4 and t = lane % 4, lowest element in the lowest bits:
 *   s8, 16 x 8 x 32   a[0] = A[g][4t..], a[1] = A[g+8][4t..], a[2] = A[g][4t+16..], a[3] = A[g+8][4t+16..]
 *                     b[0] = B[4t..][g], b[1] = B[4t+16..][g]
 *   f16, 16 x 8 x 16  a[0] = A[g][2t..], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..], a[3] = A[g+8][2t+8..]
 *                     b[0] = B[2t..][g], b[1] = B[2t+8..][g]
 *   both              d[0..1] = D[g][2t..], d[2..3] = D[g+8][2t..]
 */
#ifndef KERNELS_CUDA_PTX_H
#define KERNELS_CUDA_PTX_H

/* D += A B over a warp, int8 into int32. */
static __device__ inline void mma_s8(int d[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The same with A unsigned. */
static __device__ inline void mma_u8(int d[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* D += A B over a warp, F16 into f32. */
static __device__ inline void mma_f16(float d[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The same of BF16. */
static __device__ inline void mma_bf16(float d[4], const unsigned a[4], const unsigned b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ inline unsigned shared_address(const void *shared) { return (unsigned)__cvta_generic_to_shared(shared); }

/* Starts to copy 16 aligned bytes past the first-level cache; they are there for the thread that copied after copy_async_wait, for
 * others after a barrier, too. */
static __device__ inline void copy_async16(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(shared_address(shared)), "l"(global) : "memory");
}

/* Makes what the thread started since the last commit a group. */
static __device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" : : : "memory"); }

/* Until at most N of the thread's newest groups are under way. */
template <int N> static __device__ inline void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

#endif
