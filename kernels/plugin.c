/* CUDA is a library loaded at run time, so that one build runs with and without a GPU's driver. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* readlink */
#endif
#include "kernels/backend.h"

#ifdef FEATURE_GPU

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 4096

/* The library beside the executable, or NULL. */
static void *load_beside_executable(void)
{
    char path[PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof BACKEND_CUDA_LIBRARY);
    if (n <= 0)
        return NULL;
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return NULL;
    strcpy(slash + 1, BACKEND_CUDA_LIBRARY); /* fits: room was left above */
    return access(path, R_OK) == 0 ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
}

enum error_code plugin_open_cuda(int ordinal, const struct backend_options *options, struct backend **out,
                                 struct error *err)
{
    (void)options;
    void *library = load_beside_executable(); /* stays loaded: the driver's threads may outlive a backend */
    if (!library)
        library = dlopen(BACKEND_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "cuda:%d needs " BACKEND_CUDA_LIBRARY ": %.300s",
                               ordinal, dlerror());
    backend_cuda_open_fn *open = (backend_cuda_open_fn *)dlsym(library, BACKEND_CUDA_SYMBOL);
    if (!open)
        return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device",
                               BACKEND_CUDA_LIBRARY " has no symbol " BACKEND_CUDA_SYMBOL);
    return open(BACKEND_ABI, ordinal, out, err);
}

#else

enum error_code plugin_open_cuda(int ordinal, const struct backend_options *options, struct backend **out,
                                 struct error *err)
{
    (void)options, (void)out;
    return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device",
                           "cuda:%d asked for, but this program was built without CUDA support", ordinal);
}

#endif
