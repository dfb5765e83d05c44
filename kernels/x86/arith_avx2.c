/* The scalar definitions with fma as an instruction. */
#include "kernels/arith.h"

#include "kernels/cpu.h"

float exp_one_avx2(float x) { return arith_exp(x); }

float log_one_avx2(float x) { return arith_log(x); }

float gumbel_one_avx2(uint64_t seed, uint32_t choice, uint32_t position, uint32_t id)
{
    return arith_gumbel(seed, choice, position, id);
}
