/* RMSNorm and the quantisation of activations: one row at a time, both bound by a reduction over the row. */
#include "kernels/arith.h"
#include "kernels/cpu.h"

void rmsnorm_portable(const float *x, const float *weight, float eps, size_t n, float *y)
{
    float lane[ARITH_LANES] = {0};
    for (size_t i = 0; i < n; i += ARITH_LANES)
        for (size_t l = 0; l < ARITH_LANES; l++) {
            float v = i + l < n ? x[i + l] : 0.0f;
            lane[l] = arith_fma(v, v, lane[l]);
        }
    float r = 1.0f / sqrtf(arith_tree(lane) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * r * weight[i];
}

/* A value that is not finite counts as 0. */
static inline float finite_or_0(float x) { return fabsf(x) < INFINITY ? x : 0.0f; }

void quantize_portable(const float *x, size_t n, int8_t *q, float *scale, int32_t *sum)
{
    float max = 1e-5f;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(finite_or_0(x[i]));
        max = a > max ? a : max;
    }
    float s = 127.0f / max;
    int32_t total = 0;
    for (size_t i = 0; i < n; i++) {
        float v = rintf(finite_or_0(x[i]) * s);
        v = v < 127.0f ? v : 127.0f;
        v = v > -128.0f ? v : -128.0f;
        q[i] = (int8_t)v;
        total += q[i];
    }
    *scale = s;
    *sum = total;
}

struct norm_call {
    const float *x, *weight;
    float eps, *y;
    size_t dim;
    struct activations *a;
};

static void norm_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct norm_call *c = call;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        cpu->kernels.rmsnorm(c->x + i * c->dim, c->weight, c->eps, c->dim, c->y + i * c->dim);
}

void cpu_op_rmsnorm(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y)
{
    struct norm_call call = {.x = x, .weight = weight, .eps = eps, .dim = dim, .y = y};
    cpu_for((struct cpu *)be, n, dim, norm_items, &call);
}

static void quantize_row(const struct cpu *cpu, const float *x, size_t dim, const struct activations *a, size_t row)
{
    int8_t *q = a->q + row * a->stride;
    cpu->kernels.quantize(x, dim, q, a->scale + row, a->sum + row);
    memset(q + dim, 0, a->stride - dim);
}

void cpu_norm_quantize_row(const struct cpu *cpu, const float *x, const float *weight, float eps, size_t dim, float *y,
                           const struct activations *a, size_t row)
{
    if (weight)
        cpu->kernels.rmsnorm(x, weight, eps, dim, y);
    quantize_row(cpu, weight ? y : x, dim, a, row);
}

static void norm_quantize_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct norm_call *c = call;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        cpu_norm_quantize_row(cpu, c->x + i * c->dim, c->weight, c->eps, c->dim, c->y + i * c->dim, c->a, i);
}

void cpu_op_norm_quantize(struct backend *be, const float *x, const float *weight, float eps, size_t n, size_t dim, float *y,
                          struct activations *a)
{
    struct norm_call call = {.x = x, .weight = weight, .eps = eps, .dim = dim, .y = y, .a = a};
    cpu_for((struct cpu *)be, n, 2 * dim, norm_quantize_items, &call);
}

static void quantize_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct norm_call *c = call;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        quantize_row(cpu, c->x + i * c->dim, c->dim, c->a, i);
}

void cpu_op_quantize(struct backend *be, const float *x, size_t n, size_t dim, struct activations *a)
{
    struct norm_call call = {.x = x, .dim = dim, .a = a};
    cpu_for((struct cpu *)be, n, dim, quantize_items, &call);
}
