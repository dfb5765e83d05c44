/*
 * GPUs that are none, for tests of what becomes of a device that is not there, is too small, or fails while it computes: BITNET_GPU_FAKE names
 * them, separated by commas, the first is cuda:0. They compute with the CPU's kernels, so that tokens are the CPU's.
 *
 *   none     no GPU, whatever the machine has     ok       computes
 *   oom      too small for any weights            oom:N    out of memory in step N
 *   fail     as fail:16                           fail:N   lost in step N, of all its steps, and for good
 *   broken   fails its self-test
 */
#ifndef KERNELS_FAKE_H
#define KERNELS_FAKE_H

#include "kernels/backend.h"

/* The variable's value, NULL when it is not set. */
const char *fake_gpus(void);
/* As backend_gpus and plugin_open_cuda. ERROR_VALIDATION_FAILED for other words. */
size_t fake_list(struct backend_device *out, size_t max, struct error *why);
enum error_code fake_open(int ordinal, const struct backend_options *options, struct backend **out, struct error *err);

#endif
