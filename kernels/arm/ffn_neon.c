/* Values one by one: addition, gated activations. */
#include "kernels/arm/neon.h"
#include "kernels/cpu.h"

void add_neon(float *x, const float *y, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        vst1q_f32(x + i, vaddq_f32(vld1q_f32(x + i), vld1q_f32(y + i)));
    add_portable(x + i, y + i, n - i);
}

void relu2_neon(const float *gate, const float *up, size_t n, float *y)
{
    const float32x4_t zero = vdupq_n_f32(0.0f);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t g = vld1q_f32(gate + i), r = vbslq_f32(vcgtq_f32(g, zero), g, zero); /* a NaN gives 0 */
        vst1q_f32(y + i, vmulq_f32(vmulq_f32(r, r), vld1q_f32(up + i)));
    }
    relu2_portable(gate + i, up + i, n - i, y + i);
}

void silu_neon(const float *gate, const float *up, size_t n, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t g = vld1q_f32(gate + i), d = vaddq_f32(vdupq_n_f32(1.0f), exp_neon(vnegq_f32(g)));
        vst1q_f32(y + i, vmulq_f32(vdivq_f32(g, d), vld1q_f32(up + i)));
    }
    silu_portable(gate + i, up + i, n - i, y + i);
}
