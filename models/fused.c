/* Elementwise passes of the training step, fused: in torch they take four times the matrix
 * products' time. bf16 is uint16_t here. Compiled by fused.py with -ffast-math -fopenmp. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>

typedef uint16_t bf;
#define EPS 1e-5f
#define MAXK 8192

static inline float up(bf v) { uint32_t u = (uint32_t)v << 16; float f; memcpy(&f, &u, 4); return f; }
static inline bf dn(float f) { uint32_t u; memcpy(&u, &f, 4); return (bf)((u + 0x7fff + (u >> 16 & 1)) >> 16); }

/* RMSNorm of a row, then (quant) its int8 grid: round(h s) / s. */
static inline float norm_row(const float *restrict x, const float *restrict g, bf *restrict o, int k, int quant)
{
    float ss = 0, m = 0;
    for (int i = 0; i < k; i++) ss += x[i] * x[i];
    float r = 1 / sqrtf(ss / k + EPS);
    if (!quant) {
        for (int i = 0; i < k; i++) o[i] = dn(x[i] * r * g[i]);
        return r;
    }
    for (int i = 0; i < k; i++) { float h = fabsf(x[i] * g[i]); m = h > m ? h : m; }
    m *= r;
    float s = 127 / (m > 1e-5f ? m : 1e-5f), inv = 1 / s, rs = r * s;
    for (int i = 0; i < k; i++) o[i] = dn(rintf(x[i] * g[i] * rs) * inv);
    return r;
}

/* Straight-through gradient of the above; adds to gg, writes gx. */
static inline void norm_row_back(const bf *restrict gy, const float *restrict x, const float *restrict g, float r,
                                 float *restrict gg, float *restrict gx, int k)
{
    float m = 0;
    for (int i = 0; i < k; i++) {
        float t = up(gy[i]) * x[i] * r;
        gg[i] += t;
        m += t * g[i];
    }
    m *= r / k;
    for (int i = 0; i < k; i++) gx[i] = r * (up(gy[i]) * g[i] - x[i] * m);
}

/* The threads' sums of gg are added in thread order, so that a run repeats exactly. */
#define WITH_GG(K, BODY) do { \
    int nt = omp_get_max_threads(); \
    float *all = calloc((size_t)nt * (K), sizeof(float)); \
    _Pragma("omp parallel") { \
        float *gg = all + (size_t)omp_get_thread_num() * (K); \
        _Pragma("omp for schedule(static)") \
        for (long i = 0; i < rows; i++) BODY \
    } \
    for (int t = 0; t < nt; t++) for (int j = 0; j < (K); j++) gsum[j] += all[(size_t)t * (K) + j]; \
    free(all); } while (0)

/* y = x + d; o = normquant(y) */
void add_norm(const float *x, const bf *d, const float *g, float *y, bf *o, float *r, long rows, int k, int quant)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < rows; i++) {
        for (int j = 0; j < k; j++) y[i * k + j] = x[i * k + j] + up(d[i * k + j]);
        r[i] = norm_row(y + i * k, g, o + i * k, k, quant);
    }
}

/* gx += gradient through the norm; gd = gx in bf16 */
void add_norm_back(const bf *go, const float *y, const float *g, const float *r, float *gsum, float *gx, bf *gd,
                   long rows, int k)
{
    WITH_GG(k, {
        float t[MAXK];
        norm_row_back(go + i * k, y + i * k, g, r[i], gg, t, k);
        for (int j = 0; j < k; j++) { float v = gx[i * k + j] + t[j]; gx[i * k + j] = v; gd[i * k + j] = dn(v); }
    });
}

/* Normquant of bf16 rows */
void norm(const bf *x, const float *g, bf *o, float *r, long rows, int k)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < rows; i++) {
        float h[MAXK];
        for (int j = 0; j < k; j++) h[j] = up(x[i * k + j]);
        r[i] = norm_row(h, g, o + i * k, k, 1);
    }
}

void norm_back(const bf *go, const bf *x, const float *g, const float *r, float *gsum, bf *gx, long rows, int k)
{
    WITH_GG(k, {
        float h[MAXK]; float t[MAXK];
        for (int j = 0; j < k; j++) h[j] = up(x[i * k + j]);
        norm_row_back(go + i * k, h, g, r[i], gg, t, k);
        for (int j = 0; j < k; j++) gx[i * k + j] = dn(t[j]);
    });
}

/* Rows of [gate | up], 2k wide: normquant(relu(gate)^2 * up) */
void gate(const bf *gu, const float *g, bf *o, float *r, long rows, int k)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < rows; i++) {
        float h[MAXK];
        const bf *a = gu + i * 2 * k, *b = a + k;
        for (int j = 0; j < k; j++) { float v = up(a[j]); v = v > 0 ? v : 0; h[j] = v * v * up(b[j]); }
        r[i] = norm_row(h, g, o + i * k, k, 1);
    }
}

void gate_back(const bf *go, const bf *gu, const float *g, const float *r, float *gsum, bf *ggu, long rows, int k)
{
    WITH_GG(k, {
        float h[MAXK]; float t[MAXK];
        const bf *a = gu + i * 2 * k; const bf *b = a + k;
        bf *restrict ga = ggu + i * 2 * k; bf *restrict gb = ga + k;
        for (int j = 0; j < k; j++) { float v = up(a[j]); v = v > 0 ? v : 0; h[j] = v * v * up(b[j]); }
        norm_row_back(go + i * k, h, g, r[i], gg, t, k);
        for (int j = 0; j < k; j++) {
            float v = up(a[j]);
            v = v > 0 ? v : 0;
            ga[j] = dn(2 * v * up(b[j]) * t[j]);
            gb[j] = dn(v * v * t[j]);
        }
    });
}

/* [B, T, H+2KV, D] <-> q [B, H, T, D] (rotated, times qs), k (rotated), v [B, KV, T, D]; back: the other way,
 * rotated the other way, which is also the gradient. */
void rope(bf *qkv, bf *q, bf *k, bf *v, const float *cs, const float *sn, float qs, int B, int T, int H, int KV, int D, int back)
{
    int W = H + 2 * KV, h2 = D / 2;
#pragma omp parallel for collapse(2) schedule(static)
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) {
            const float *c = cs + t * h2, *s = sn + t * h2;
            for (int h = 0; h < W; h++) {
                bf *p = qkv + (((long)b * T + t) * W + h) * D;
                if (h >= H + KV) {
                    bf *o = v + (((long)b * KV + h - H - KV) * T + t) * D;
                    memcpy(back ? p : o, back ? o : p, D * sizeof(bf));
                    continue;
                }
                bf *o = h < H ? q + (((long)b * H + h) * T + t) * D : k + (((long)b * KV + h - H) * T + t) * D;
                float f = h < H ? qs : 1;
                const bf *in = back ? o : p;
                bf *out = back ? p : o;
                for (int j = 0; j < h2; j++) {
                    float x = up(in[j]) * f, y = up(in[j + h2]) * f, z = back ? -s[j] : s[j];
                    out[j] = dn(x * c[j] - y * z);
                    out[j + h2] = dn(y * c[j] + x * z);
                }
            }
        }
}

/* [B, H, T, D] -> [B, T, H, D] (call with H and T exchanged for the way back) */
void swap(const bf *a, bf *o, int B, int H, int T, int D)
{
#pragma omp parallel for collapse(2) schedule(static)
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++)
            for (int h = 0; h < H; h++)
                memcpy(o + (((long)b * T + t) * H + h) * D, a + (((long)b * H + h) * T + t) * D, D * sizeof(bf));
}

/* Causal softmax of [n, T, T] scores in place, and its gradient in place of gp */
void softmax(bf *s, long n, int T)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n * T; i++) {
        bf *p = s + i * T;
        int k = i % T + 1;
        float e[MAXK], m = -INFINITY, z = 0;
        for (int j = 0; j < k; j++) { e[j] = up(p[j]); m = e[j] > m ? e[j] : m; }
        for (int j = 0; j < k; j++) { e[j] = expf(e[j] - m); z += e[j]; }
        z = 1 / z;
        for (int j = 0; j < k; j++) p[j] = dn(e[j] * z);
        memset(p + k, 0, (T - k) * sizeof(bf));
    }
}

void softmax_back(const bf *s, bf *gp, long n, int T)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n * T; i++) {
        const bf *p = s + i * T;
        bf *g = gp + i * T;
        int k = i % T + 1;
        float d = 0;
        for (int j = 0; j < k; j++) d += up(p[j]) * up(g[j]);
        for (int j = 0; j < k; j++) g[j] = dn(up(p[j]) * (up(g[j]) - d));
        memset(g + k, 0, (T - k) * sizeof(bf));
    }
}

/* Cross-entropy of rows of logits; the logits become their gradient times scale. */
void cross_entropy(bf *l, const int64_t *target, float scale, float *loss, long rows, int V)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < rows; i++) {
        bf *p = l + i * V;
        float e[MAXK], m = -INFINITY, z = 0;
        for (int j = 0; j < V; j++) { e[j] = up(p[j]); m = e[j] > m ? e[j] : m; }
        float t = e[target[i]];
        for (int j = 0; j < V; j++) { e[j] = expf(e[j] - m); z += e[j]; }
        loss[i] = logf(z) + m - t;
        e[target[i]] -= z;
        z = scale / z;
        for (int j = 0; j < V; j++) p[j] = dn(e[j] * z);
    }
}

/* codes * scale in bf16, scale = bf16(mean |w|) */
void ternary(const float *w, bf *o, long n)
{
    double a = 0;
#pragma omp parallel for reduction(+ : a) schedule(static)
    for (long i = 0; i < n / 128; i++) {
        float s = 0;
        for (int j = 0; j < 128; j++) s += fabsf(w[i * 128 + j]);
        a += s;
    }
    float s = a / n > 1e-5 ? (float)(a / n) : 1e-5f;
    bf b = dn(s);
    float inv = 1 / up(b);
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) {
        float q = rintf(w[i] * inv);
        o[i] = q > 0 ? b : q < 0 ? b | 0x8000 : 0;
    }
}

/* Muon: momentum before and step after the orthogonalisation */
void momentum(const float *g, float *m, bf *o, long n, float beta)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) {
        m[i] = beta * m[i] + (1 - beta) * g[i];
        o[i] = dn(beta * m[i] + (1 - beta) * g[i]);
    }
}

void descend(float *w, const bf *u, long n, float lr, float keep)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) w[i] = w[i] * keep - lr * up(u[i]);
}
