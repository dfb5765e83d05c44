/* The instruction sets of aarch64 and what this CPU offers of them. NEON is part of the architecture; dot products of int8 (sdot) are an
 * extension of ARMv8.2 that the kernel reports. */
#include "kernels/cpu.h"

#include <asm/hwcap.h>
#include <sys/auxv.h>

enum { PORTABLE, NEON, DOTPROD };

static void fill_neon(struct cpu_kernels *k)
{
#define STORE(name) k->name = name##_neon;
    CPU_KERNELS_NEON(STORE)
#undef STORE
}

static void fill_dotprod(struct cpu_kernels *k)
{
#define STORE(name) k->name = name##_dotprod;
    CPU_KERNELS_DOTPROD(STORE)
#undef STORE
}

const struct cpu_level cpu_levels[] = {[PORTABLE] = {"portable", cpu_fill_portable},
                                       [NEON] = {"neon", fill_neon},
                                       [DOTPROD] = {"dotprod", fill_dotprod},
                                       {NULL, NULL}};

size_t cpu_best_level(void)
{
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? DOTPROD : NEON;
}
