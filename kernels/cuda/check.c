/*
 * The check as a program: check [ORDINAL [PART]] compares each operation of a device with the portable reference, or those whose name has PART
 * in it. A line a case; exit 1 when one failed. `make -C kernels gpu-check` builds and runs it.
 */
#include "kernels/cuda/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

extern backend_cuda_open_fn bitnet_cuda_open;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    struct backend_options options = {.device = "cpu", .n_threads = 1, .isa = "portable"};
    struct check c = {0};
    struct error err = {0};
    int n_failed = 0, n_run = 0;
    if (backend_open(&options, &c.be[REFERENCE], &err) || bitnet_cuda_open(BACKEND_ABI, argc > 1 ? atoi(argv[1]) : 0, &c.be[DEVICE], &err)) {
        fprintf(stderr, "%s\n", err.message);
        return EXIT_FAILURE;
    }
    const struct backend_info *info = backend_info(c.be[DEVICE]);
    printf("%s: %s, %s, %zu MiB\n", info->device, info->name, info->isa, info->memory_bytes >> 20);
    for (const struct check_case *what = check_cases; what->name; what++) {
        if (argc > 2 && !strstr(what->name, argv[2]))
            continue;
        double began = now_s();
        bool passed = check_run(&c, what);
        printf("%-6s %-46s %6.2f s%s%s\n", passed ? "ok" : "FAILED", what->name, now_s() - began, passed ? "" : "  ", c.failure);
        fflush(stdout);
        n_run++, n_failed += !passed;
    }
    printf("%d of %d cases passed\n", n_run - n_failed, n_run);
    backend_close(c.be[DEVICE]);
    backend_close(c.be[REFERENCE]);
    return n_failed || !n_run ? EXIT_FAILURE : EXIT_SUCCESS;
}
