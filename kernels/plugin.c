/* CUDA is a library loaded at run time, so that one build runs with and without a GPU's driver. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memrchr, readlink */
#endif
#include "kernels/fake.h"

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

/* A symbol of the library, NULL with *err set. */
static void *find_symbol(const char *name, struct error *err)
{
    void *library = load_library(), *symbol = library ? dlsym(library, name) : NULL;
    if (!library)
        error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "a GPU needs " BACKEND_CUDA_LIBRARY ": %.300s", dlerror());
    else if (!symbol)
        error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", BACKEND_CUDA_LIBRARY " has no symbol %s", name);
    return symbol;
}

static enum error_code open_cuda(int ordinal, const struct backend_options *options, struct backend **out, struct error *err)
{
    backend_cuda_open_fn *open = (backend_cuda_open_fn *)find_symbol(BACKEND_CUDA_OPEN, err);
    if (!open)
        return error_prefix(err, "cuda:%d", ordinal);
    enum error_code code = open(BACKEND_ABI, ordinal, out, err);
    if (!code) /* checks and repacks weights on the host; without it that runs on one thread */
        (*out)->pool = pool_open(options->n_threads ? options->n_threads : machine_default_threads(machine_n_cpus()));
    return code;
}

static size_t list_cuda(struct backend_device *out, size_t max, struct error *why)
{
    backend_cuda_list_fn *list = (backend_cuda_list_fn *)find_symbol(BACKEND_CUDA_LIST, why);
    return list ? list(BACKEND_ABI, out, max, why) : 0;
}

#else

static enum error_code open_cuda(int ordinal, const struct backend_options *options, struct backend **out, struct error *err)
{
    (void)options, (void)out;
    return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "cuda:%d: this program was built without CUDA support", ordinal);
}

static size_t list_cuda(struct backend_device *out, size_t max, struct error *why)
{
    (void)out, (void)max;
    error_set_param(why, ERROR_DEVICE_UNAVAILABLE, "device", "this program was built without CUDA support");
    return 0;
}

#endif

enum error_code plugin_open_cuda(int ordinal, const struct backend_options *options, struct backend **out, struct error *err)
{
    return fake_gpus() ? fake_open(ordinal, options, out, err) : open_cuda(ordinal, options, out, err);
}

size_t plugin_list_cuda(struct backend_device *out, size_t max, struct error *why)
{
    return fake_gpus() ? fake_list(out, max, why) : list_cuda(out, max, why);
}
