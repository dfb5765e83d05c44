/* The instruction sets of x86-64 and what this CPU and its operating system offer of them; compiled for the baseline. AVX2 is with FMA
 * and F16C, AVX-512 with BW, VL and VNNI, AMX with int8. What the system does not keep across a switch of threads is not there. */
#include "kernels/cpu.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LEAF1_ECX_FMA (1u << 12)
#define LEAF1_ECX_OSXSAVE (1u << 27)
#define LEAF1_ECX_AVX (1u << 28)
#define LEAF1_ECX_F16C (1u << 29)
#define LEAF7_EBX_AVX2 (1u << 5)
#define LEAF7_EBX_AVX512 (1u << 16 | 1u << 30 | 1u << 31) /* F, BW, VL */
#define LEAF7_ECX_VBMI (1u << 1)
#define LEAF7_ECX_VBMI2 (1u << 6)
#define LEAF7_ECX_VNNI (1u << 11)
#define LEAF7_EDX_AMX (1u << 24 | 1u << 25)                /* TILE, INT8 */
#define XCR0_AVX 0x6u                                      /* both halves of ymm are saved */
#define XCR0_AVX512 0xe6u                                  /* masks and zmm too */
#define XCR0_AMX 0x60000u                                  /* tile configuration and data */
#define ARCH_REQ_XCOMP_PERM 0x1023                         /* Linux: Documentation/arch/x86/xstate.rst */
#define XFEATURE_XTILEDATA 18

enum { PORTABLE, AVX2, AVX512, AMX };

static void fill_avx2(struct cpu_kernels *k)
{
#define STORE(ret, name, args) k->name = name##_avx2;
    CPU_KERNELS(STORE)
#undef STORE
}

/* All but the first CPUs with AVX-512 look bytes up in tables. */
static bool has_vbmi(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & LEAF7_ECX_VBMI) && (c & LEAF7_ECX_VBMI2);
}

static void fill_avx512(struct cpu_kernels *k)
{
    k->matmul_tiles_i8 = matmul_tiles_i8_avx512;
    if (has_vbmi()) {
        k->matmul_triples_i8 = matmul_triples_i8_vbmi;
        k->auto_format = TERNARY_TL2;
        k->auto_reason = "fewest bytes a weight, unpacked as fast as memory delivers";
    }
    k->matmul_tl1_i8 = matmul_tl1_i8_avx512;
    k->tl1_tables = tl1_tables_avx512;
    k->screen_i8 = screen_i8_avx512;
    k->gumbels = gumbels_avx512;
    k->attention_segment = attention_segment_avx512;
    k->read_bytes = read_bytes_avx512;
    k->peak_i8 = peak_i8_avx512;
}

static void fill_amx(struct cpu_kernels *k)
{
    k->matmul_tiles_i8 = matmul_tiles_i8_amx;
    k->matmul_triples_i8 = matmul_triples_i8_amx;
    k->peak_i8 = peak_i8_amx;
}

const struct cpu_level cpu_levels[] = {[PORTABLE] = {"portable", cpu_fill_portable},
                                       [AVX2] = {"avx2", fill_avx2},
                                       [AVX512] = {"avx512", fill_avx512},
                                       [AMX] = {"amx", fill_amx},
                                       {NULL, NULL}};

static uint32_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool all(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

/* Asking for AMX asks the system for its use. */
size_t cpu_best_level(void)
{
    const unsigned leaf1 = LEAF1_ECX_FMA | LEAF1_ECX_OSXSAVE | LEAF1_ECX_AVX | LEAF1_ECX_F16C;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !all(c, leaf1))
        return PORTABLE;
    uint32_t saved = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all(b, LEAF7_EBX_AVX2) || !all(saved, XCR0_AVX))
        return PORTABLE;
    if (!all(b, LEAF7_EBX_AVX512) || !all(c, LEAF7_ECX_VNNI) || !all(saved, XCR0_AVX512))
        return AVX2;
    if (!all(d, LEAF7_EDX_AMX) || !all(saved, XCR0_AMX) || syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA))
        return AVX512;
    return AMX;
}
