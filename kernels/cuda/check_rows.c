/* What the cases share: data, memory on both sides, comparison. */
#include "kernels/cuda/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define GUARD 0xa5
#define GUARD_BYTES 256

const struct check_case check_cases[] = {{"rmsnorm", check_norm},
                                         {"quantisation", check_quantize},
                                         {"addition, norm, FFN and quantisation in one", check_fused},
                                         {"addition and activations", check_values},
                                         {"rope", check_rope},
                                         {"kept rows", check_keep_rows},
                                         {"ternary product", check_matmul},
                                         {"ternary product of extreme values", check_matmul_extremes},
                                         {"ternary products of one input", check_matmul_joint},
                                         {"kv write", check_kv_write},
                                         {"attention", check_attention_f16},
                                         {"attention over int8", check_attention_int8},
                                         {"attention to extreme values", check_attention_extremes},
                                         {"attention to a long context", check_attention_long},
                                         {"passes", check_passes},
                                         {"embedding", check_embed},
                                         {"logits", check_logits},
                                         {"logits of extreme values", check_logits_extremes},
                                         {"needed logits", check_logits_needed},
                                         {NULL, NULL}};

bool check_run(struct check *c, const struct check_case *what)
{
    struct error err = {0};
    c->random = 88172645463325252u;
    c->failure[0] = '\0';
    what->run(c);
    if (backend_sync(c->be[DEVICE], &err))
        check_fail(c, "%s", err.message);
    return !c->failure[0];
}

void check_fail(struct check *c, const char *format, ...)
{
    if (c->failure[0])
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(c->failure, sizeof c->failure, format, args);
    va_end(args);
}

/* ---- data */

uint32_t check_random(struct check *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 7;
    c->random ^= c->random << 17;
    return (uint32_t)(c->random * 0x2545F4914F6CDD1Du >> 32);
}

float check_float(struct check *c, float limit) { return ((float)(check_random(c) >> 8) * 0x1p-23f - 1.0f) * limit; }

const char *const check_fill_names[N_FILLS] = {"plain values", "zeros", "outliers", "denormals", "wild values", "special values"};

static float fill_value(struct check *c, enum fill fill)
{
    uint32_t bits = check_random(c), exponent = bits & 0x7f800000u;
    switch (fill) {
    case FILL_ZERO: return 0.0f;
    case FILL_OUTLIERS: return check_float(c, bits % 61 == 0 ? 2000.0f : 2.0f);
    case FILL_DENORMAL: return arith_float(bits & 0x807fffffu);
    case FILL_WILD: return arith_float(exponent == 0x7f800000u ? bits & 0xbfffffffu : bits);
    case FILL_SPECIAL:
        if (bits % 16 == 0)
            return bits % 32 ? NAN : bits >> 31 ? -INFINITY : INFINITY;
        return check_float(c, 2.0f);
    default: return check_float(c, 2.0f);
    }
}

float *check_floats(struct check *c, size_t n, enum fill fill)
{
    float *x = malloc(n * sizeof *x);
    if (!x)
        abort();
    for (size_t i = 0; i < n; i++)
        x[i] = fill_value(c, fill);
    return x;
}

/* ---- memory */

struct twin twin_open(struct check *c, const void *host, size_t n_bytes)
{
    struct twin t = {.n_bytes = n_bytes};
    uint8_t *all = malloc(n_bytes + GUARD_BYTES);
    if (!all)
        abort();
    memset(all, GUARD, n_bytes + GUARD_BYTES);
    if (host)
        memcpy(all, host, n_bytes);
    for (int which = REFERENCE; which <= DEVICE; which++) {
        t.at[which] = backend_alloc(c->be[which], n_bytes + GUARD_BYTES);
        if (!t.at[which])
            abort();
        backend_upload(c->be[which], t.at[which], all, n_bytes + GUARD_BYTES);
    }
    free(all);
    return t;
}

void twin_close(struct check *c, const char *what, struct twin *t)
{
    uint8_t guard[GUARD_BYTES];
    for (int which = REFERENCE; which <= DEVICE; which++) {
        backend_download(c->be[which], guard, (uint8_t *)t->at[which] + t->n_bytes, GUARD_BYTES);
        for (size_t i = 0; i < GUARD_BYTES; i++)
            if (guard[i] != GUARD)
                check_fail(c, "%s: written %zu bytes behind its end%s", what, i, which == DEVICE ? "" : " by the reference");
        backend_free(c->be[which], t->at[which]);
    }
}

void *twin_read(struct check *c, const struct twin *t, int which)
{
    void *host = malloc(t->n_bytes);
    if (!host)
        abort();
    backend_download(c->be[which], host, t->at[which], t->n_bytes);
    return host;
}

/* ---- comparison */

void check_near(struct check *c, const char *what, const float *expected, const float *found, const float *bounds, size_t n)
{
    for (size_t i = 0; i < n && !c->failure[0]; i++) {
        bool same = arith_bits(expected[i]) == arith_bits(found[i]) || (expected[i] != expected[i] && found[i] != found[i]);
        if (same || (bounds && bounds[i] == INFINITY))
            continue;
        if (!bounds)
            check_fail(c, "%s: value %zu of %zu: expected %a, found %a", what, i, n, (double)expected[i], (double)found[i]);
        else if (fabsf(expected[i]) < INFINITY ? !(fabsf(found[i] - expected[i]) <= bounds[i]) : fabsf(found[i]) < INFINITY)
            check_fail(c, "%s: value %zu of %zu: expected %g within %g, found %g, %g away", what, i, n, (double)expected[i],
                       (double)bounds[i], (double)found[i], (double)found[i] - (double)expected[i]);
    }
}

void check_same(struct check *c, const char *what, const void *expected, const void *found, size_t n_bytes)
{
    const uint8_t *a = expected, *b = found;
    for (size_t i = 0; i < n_bytes && !c->failure[0]; i++)
        if (a[i] != b[i])
            check_fail(c, "%s: byte %zu of %zu: expected %02x, found %02x", what, i, n_bytes, a[i], b[i]);
}

static void *read_output(struct check *c, const struct output *o, int which, size_t n)
{
    if (o->dev)
        return twin_read(c, o->dev, which);
    void *copy = malloc(n * o->row_bytes);
    return copy ? memcpy(copy, o->host[which], n * o->row_bytes) : NULL;
}

static void compare(struct check *c, const char *what, const struct output *o, const void *expected, const void *found, size_t n)
{
    if (o->is_float)
        check_near(c, what, expected, found, o->bounds, n * o->row_bytes / sizeof(float));
    else
        check_same(c, what, expected, found, n * o->row_bytes);
}

static void spoil(struct check *c, const struct output *o, size_t n)
{
    if (!o->dev) {
        memset(o->host[DEVICE], GUARD, n * o->row_bytes);
        return;
    }
    uint8_t *bytes = malloc(o->dev->n_bytes);
    if (!bytes)
        abort();
    memset(bytes, GUARD, o->dev->n_bytes);
    backend_upload(c->be[DEVICE], o->dev->at[DEVICE], bytes, o->dev->n_bytes);
    free(bytes);
}

void check_rows(struct check *c, const char *what, const struct row_check *r)
{
    static const size_t parts[][8] = {{1}, {2, 3, 8, 17, 5, 16, 9, 33}}; /* sizes that take turns */
    char name[160];
    size_t n_outputs = 0;
    void *whole[MAX_OUTPUTS];
    for (int which = REFERENCE; which <= DEVICE; which++)
        r->run(c->be[which], which, r->arg, 0, r->n);
    for (const struct output *o = r->outputs; n_outputs < MAX_OUTPUTS && o->what; o++, n_outputs++) {
        void *expected = read_output(c, o, REFERENCE, r->n);
        whole[n_outputs] = read_output(c, o, DEVICE, r->n);
        snprintf(name, sizeof name, "%s, %zu rows: %s", what, r->n, o->what);
        compare(c, name, o, expected, whole[n_outputs], r->n);
        free(expected);
    }
    for (size_t p = 0; p < 2 && !c->failure[0]; p++) {
        for (size_t i = 0; i < n_outputs; i++)
            spoil(c, &r->outputs[i], r->n);
        for (size_t first = 0, turn = 0, n; first < r->n; first += n, turn++) {
            n = parts[p][turn % 8] ? parts[p][turn % 8] : 1;
            n = n < r->n - first ? n : r->n - first;
            r->run(c->be[DEVICE], DEVICE, r->arg, first, n);
        }
        for (size_t i = 0; i < n_outputs; i++) {
            void *found = read_output(c, &r->outputs[i], DEVICE, r->n);
            snprintf(name, sizeof name, "%s, rows %s: %s", what, p ? "in parts" : "alone", r->outputs[i].what);
            struct output exact = r->outputs[i];
            exact.bounds = NULL;
            compare(c, name, &exact, whole[i], found, r->n);
            free(found);
        }
    }
    for (size_t i = 0; i < n_outputs; i++)
        free(whole[i]);
}

struct activations check_part(const struct activations *a, size_t first, size_t n)
{
    struct activations part = *a;
    part.q += first * a->stride;
    part.scale += first;
    part.sum += first;
    part.max_rows = n;
    return part;
}
