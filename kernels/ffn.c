/* Operations on values one by one: residual addition and the gated activation of the FFN, alone and with what follows it. */
#include "kernels/arith.h"
#include "kernels/cpu.h"

#define PIECE ((size_t)1024) /* values of an item */

void add_portable(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

void relu2_portable(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) {
        float r = gate[i] > 0.0f ? gate[i] : 0.0f;
        y[i] = r * r * up[i];
    }
}

void silu_portable(const float *gate, const float *up, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + arith_exp(-gate[i])) * up[i];
}

struct values_call {
    const float *gate, *up;
    float *y;
    size_t n_values;
    bool silu;
};

/* Rows of the activation, normalised and quantised. */
struct rows_call {
    struct values_call values;
    size_t dim;
    const float *weight;
    float eps;
    const struct activations *a;
};

/* Values of items begin .. end - 1. */
static size_t piece_size(const struct values_call *c, size_t begin, size_t end)
{
    size_t last = end * PIECE < c->n_values ? end * PIECE : c->n_values;
    return last - begin * PIECE;
}

static void add_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct values_call *c = call;
    (void)thread;
    cpu->kernels.add(c->y + begin * PIECE, c->up + begin * PIECE, piece_size(c, begin, end));
}

void cpu_op_add(struct backend *be, float *x, const float *y, size_t n_values)
{
    struct values_call call = {.up = y, .y = x, .n_values = n_values};
    cpu_for((struct cpu *)be, (n_values + PIECE - 1) / PIECE, PIECE / 2, add_items, &call);
}

static void act_values(const struct cpu *cpu, const struct values_call *c, size_t first, size_t n)
{
    (c->silu ? cpu->kernels.silu : cpu->kernels.relu2)(c->gate + first, c->up + first, n, c->y + first);
}

static void act_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct values_call *c = call;
    (void)thread;
    act_values(cpu, c, begin * PIECE, piece_size(c, begin, end));
}

void cpu_op_ffn_act(struct backend *be, enum ffn_act act, const float *gate, const float *up, size_t n_values, float *y)
{
    struct values_call call = {.gate = gate, .up = up, .y = y, .n_values = n_values, .silu = act == FFN_SILU};
    cpu_for((struct cpu *)be, (n_values + PIECE - 1) / PIECE, PIECE, act_items, &call);
}

static void row_items(struct cpu *cpu, const void *call, size_t begin, size_t end, int thread)
{
    const struct rows_call *c = call;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float *y = c->values.y + i * c->dim;
        act_values(cpu, &c->values, i * c->dim, c->dim);
        cpu_norm_quantize_row(cpu, y, c->weight, c->eps, c->dim, y, c->a, i);
    }
}

void cpu_op_ffn_quantize(struct backend *be, enum ffn_act act, const float *gate, const float *up, const float *weight, float eps,
                         size_t n, size_t dim, float *y, struct activations *a)
{
    struct rows_call call = {.values = {.gate = gate, .up = up, .y = y, .silu = act == FFN_SILU},
                             .dim = dim,
                             .weight = weight,
                             .eps = eps,
                             .a = a};
    cpu_for((struct cpu *)be, n, 3 * dim, row_items, &call);
}
