/* Typed access to keys, and their values as text. The data of a key is unaligned: every read is a memcpy. */
#include "engine/model/gguf.h"
#include "engine/model/gguf_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t n_bytes;
} types[GGUF_N_TYPES] = {
    [GGUF_U8] = {"u8", 1},       [GGUF_I8] = {"i8", 1},   [GGUF_U16] = {"u16", 2}, [GGUF_I16] = {"i16", 2},
    [GGUF_U32] = {"u32", 4},     [GGUF_I32] = {"i32", 4}, [GGUF_F32] = {"f32", 4}, [GGUF_BOOL] = {"bool", 1},
    [GGUF_U64] = {"u64", 8},     [GGUF_I64] = {"i64", 8}, [GGUF_F64] = {"f64", 8}, [GGUF_STRING] = {"string", 0},
    [GGUF_ARRAY] = {"array", 0},
};

const char *gguf_type_name(enum gguf_type type)
{
    return (unsigned)type < GGUF_N_TYPES ? types[type].name : "?";
}

size_t gguf_type_bytes(enum gguf_type type)
{
    return (unsigned)type < GGUF_N_TYPES ? types[type].n_bytes : 0;
}

const char *gguf_other_type_name(uint32_t type)
{
    /* ggml.h, enum ggml_type; 36 to 39 as in Microsoft's fork. */
    static const char *const names[] = {
        [3] = "Q4_1",     [6] = "Q5_0",    [7] = "Q5_1",   [9] = "Q8_1",     [10] = "Q2_K",
        [11] = "Q3_K",    [12] = "Q4_K",  [13] = "Q5_K",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS",
        [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS",
        [24] = "I8",      [25] = "I16",   [26] = "I32",    [27] = "I64",   [28] = "F64",     [29] = "IQ1_M",
        [37] = "I8_S",    [41] = "Q1_0",  [134] = "IQ1_BN", [135] = "IQ2_BN",
    };
    return type < sizeof names / sizeof names[0] && names[type] ? names[type] : "unknown";
}

char *gguf_text(struct gguf_string s, char out[GGUF_TEXT_BYTES])
{
    size_t n = s.n_bytes < GGUF_TEXT_BYTES ? s.n_bytes : GGUF_TEXT_BYTES - 1;
    for (size_t i = 0; i < n; i++)
        out[i] = s.data[i] >= 0x20 && s.data[i] < 0x7f ? s.data[i] : '?';
    out[n] = '\0';
    if (n < s.n_bytes)
        memcpy(out + n - 3, "...", 3);
    return out;
}

char *gguf_dims_text(const struct gguf_tensor *t, char out[GGUF_TEXT_BYTES])
{
    size_t n = 0;
    out[0] = '\0';
    for (uint32_t d = 0; d < t->n_dims && n < GGUF_TEXT_BYTES; d++)
        n += (size_t)snprintf(out + n, GGUF_TEXT_BYTES - n, "%s%" PRIu64, d ? " x " : "", t->dims[d]);
    return out;
}

struct gguf_string gguf_key_string(const struct gguf_key *key, uint64_t i)
{
    if (key->type == GGUF_ARRAY)
        return key->strings[i];
    uint64_t n;
    memcpy(&n, key->data, sizeof n);
    return (struct gguf_string){(const char *)key->data + sizeof n, (size_t)n};
}

/* Element i as an integer and as a double; false for floats in *as_int's sense (it is then left alone). */
static bool read_number(const struct gguf_key *key, uint64_t i, bool *negative, uint64_t *magnitude, double *as_double)
{
    const uint8_t *p = (const uint8_t *)key->data + i * gguf_type_bytes(key->element_type);
    uint64_t u = 0;
    int64_t s = 0;
    bool is_signed = false;
    switch (key->element_type) {
    case GGUF_U8:
    case GGUF_BOOL:
        u = *p;
        break;
    case GGUF_U16: {
        uint16_t v;
        memcpy(&v, p, sizeof v);
        u = v;
        break;
    }
    case GGUF_U32: {
        uint32_t v;
        memcpy(&v, p, sizeof v);
        u = v;
        break;
    }
    case GGUF_U64:
        memcpy(&u, p, sizeof u);
        break;
    case GGUF_I8: {
        int8_t v;
        memcpy(&v, p, sizeof v);
        s = v;
        is_signed = true;
        break;
    }
    case GGUF_I16: {
        int16_t v;
        memcpy(&v, p, sizeof v);
        s = v;
        is_signed = true;
        break;
    }
    case GGUF_I32: {
        int32_t v;
        memcpy(&v, p, sizeof v);
        s = v;
        is_signed = true;
        break;
    }
    case GGUF_I64:
        memcpy(&s, p, sizeof s);
        is_signed = true;
        break;
    case GGUF_F32: {
        float v;
        memcpy(&v, p, sizeof v);
        *as_double = (double)v;
        return false;
    }
    case GGUF_F64:
        memcpy(as_double, p, sizeof *as_double);
        return false;
    case GGUF_STRING:
    case GGUF_ARRAY:
    case GGUF_N_TYPES:
        *as_double = 0;
        return false;
    }
    *negative = is_signed && s < 0;
    *magnitude = !is_signed ? u : s < 0 ? 0 - (uint64_t)s : (uint64_t)s;
    *as_double = *negative ? -(double)*magnitude : (double)*magnitude;
    return true;
}

double gguf_number(const struct gguf_key *key, uint64_t i)
{
    bool negative;
    uint64_t magnitude;
    double value = 0;
    if (i < key->n)
        read_number(key, i, &negative, &magnitude, &value);
    return value;
}

static bool wrong_type(struct error *err, const char *name, const char *expected, const struct gguf_key *key)
{
    if (key->type == GGUF_ARRAY)
        error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s: expected %s, found an array of %s", name, expected,
                        gguf_type_name(key->element_type));
    else
        error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s: expected %s, found %s", name, expected,
                        gguf_type_name(key->type));
    return false;
}

bool gguf_get_u32(const struct gguf *g, const char *name, uint32_t *out, struct error *err)
{
    const struct gguf_key *key = gguf_find(g, name);
    bool negative = false;
    uint64_t magnitude = 0;
    double value = 0;
    if (!key)
        return false;
    if (key->type == GGUF_ARRAY || key->type == GGUF_BOOL || !read_number(key, 0, &negative, &magnitude, &value))
        return wrong_type(err, name, "an integer", key);
    if (negative || magnitude > UINT32_MAX) {
        error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s: expected 0 to 4294967295, found %s%" PRIu64, name,
                        negative ? "-" : "", magnitude);
        return false;
    }
    *out = (uint32_t)magnitude;
    return true;
}

bool gguf_get_f64(const struct gguf *g, const char *name, double *out, struct error *err)
{
    const struct gguf_key *key = gguf_find(g, name);
    if (!key)
        return false;
    if (key->type == GGUF_ARRAY || key->type == GGUF_STRING || key->type == GGUF_BOOL)
        return wrong_type(err, name, "a number", key);
    double value = gguf_number(key, 0);
    if (!isfinite(value)) {
        error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s: expected a finite number, found %f", name, value);
        return false;
    }
    *out = value;
    return true;
}

bool gguf_get_bool(const struct gguf *g, const char *name, bool *out, struct error *err)
{
    const struct gguf_key *key = gguf_find(g, name);
    if (!key)
        return false;
    if (key->type != GGUF_BOOL)
        return wrong_type(err, name, "a bool", key);
    uint8_t value = *(const uint8_t *)key->data;
    if (value > 1) {
        error_set_param(err, ERROR_MODEL_LOAD_FAILED, name, "key %s: expected a bool of 0 or 1, found %u", name, value);
        return false;
    }
    *out = value == 1;
    return true;
}

bool gguf_get_string(const struct gguf *g, const char *name, struct gguf_string *out, struct error *err)
{
    const struct gguf_key *key = gguf_find(g, name);
    if (!key)
        return false;
    if (key->type != GGUF_STRING)
        return wrong_type(err, name, "a string", key);
    *out = gguf_key_string(key, 0);
    return true;
}

const struct gguf_key *gguf_get_strings(const struct gguf *g, const char *name, struct error *err)
{
    const struct gguf_key *key = gguf_find(g, name);
    if (key && (key->type != GGUF_ARRAY || key->element_type != GGUF_STRING)) {
        wrong_type(err, name, "an array of strings", key);
        return NULL;
    }
    return key;
}

const struct gguf_key *gguf_get_numbers(const struct gguf *g, const char *name, struct error *err)
{
    const struct gguf_key *key = gguf_find(g, name);
    if (key && (key->type != GGUF_ARRAY || key->element_type == GGUF_STRING)) {
        wrong_type(err, name, "an array of numbers", key);
        return NULL;
    }
    return key;
}
