/* The reader of safetensors files against arbitrary bytes: every tensor that it accepts must lie in the input. */
#include "tools/safetensors.h"

#include <stdlib.h>

#define CHECK(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *s;
    struct error err = {0};
    if (safetensors_open_memory(data, size, &s, &err)) {
        CHECK(err.code && err.message[0]);
        return 0;
    }
    for (size_t i = 0; i < safetensors_n(s); i++) {
        const struct safetensor *t = safetensors_at(s, i);
        CHECK(t->data >= data && t->n_bytes <= (size_t)(data + size - t->data));
        CHECK(safetensors_find(s, t->name) == t);
        volatile float sum = 0;
        size_t n = 1;
        for (size_t d = 0; d < t->n_dims; d++)
            n *= t->dims[d];
        for (size_t k = 0; k < n; k++)
            sum = safetensor_value(t, k);
        (void)sum;
    }
    safetensors_close(s);
    return 0;
}
