/* CUDA is a library loaded at run time, so that one build runs with and without a GPU's driver. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memrchr, readlink */
#endif
#include "kernels/backend.h"

#ifdef FEATURE_GPU

#include "kernels/machine.h"
#include "kernels/pool.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 4096

/* Folders that may hold the library, from the executable's: beside it, and where `make install` puts it. */
static const char *const folders[] = {"", "../lib/bitnet/"};

/* Opens the library from where this program lies, else from the system's library path; NULL: see dlerror. It stays loaded, as
 * the driver's threads may outlive a backend. */
static void *load_library(void)
{
    char path[PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
    char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;
    for (size_t i = 0; slash && i < sizeof folders / sizeof folders[0]; i++) {
        snprintf(slash + 1, 64, "%s" BACKEND_CUDA_LIBRARY, folders[i]);
        if (access(path, R_OK) == 0)
            return dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return dlopen(BACKEND_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

enum error_code plugin_open_cuda(int ordinal, const struct backend_options *options, struct backend **out,
                                 struct error *err)
{
    void *library = load_library();
    if (!library)
        return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "cuda:%d needs " BACKEND_CUDA_LIBRARY ": %.300s",
                               ordinal, dlerror());
    backend_cuda_open_fn *open = (backend_cuda_open_fn *)dlsym(library, BACKEND_CUDA_SYMBOL);
    if (!open)
        return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device",
                               "cuda:%d: " BACKEND_CUDA_LIBRARY " has no symbol " BACKEND_CUDA_SYMBOL, ordinal);
    enum error_code code = open(BACKEND_ABI, ordinal, out, err);
    if (!code) /* checks and repacks weights on the host; without it that runs on one thread */
        (*out)->pool = pool_open(options->n_threads ? options->n_threads : machine_default_threads(machine_n_cpus()));
    return code;
}

#else

enum error_code plugin_open_cuda(int ordinal, const struct backend_options *options, struct backend **out,
                                 struct error *err)
{
    (void)options, (void)out;
    return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "cuda:%d: this program was built without CUDA support",
                           ordinal);
}

#endif
