/* emulator: what its parts share. One thread at a time is in it. */
#ifndef TESTS_CUDA_EMULATOR_H
#define TESTS_CUDA_EMULATOR_H

#include <cuda_runtime.h>

#include <deque>
#include <mutex>
#include <vector>

#define EMULATOR_MAX_THREADS 1024
#define EMULATOR_MAX_DEVICES 8
#define EMULATOR_PAGE ((size_t)4096)
#define LOCKED std::lock_guard<std::recursive_mutex> locked(emulator_lock)

typedef std::function<void()> work;

struct emulated_graph {
    std::vector<work> nodes;
};

struct emulated_stream {
    std::deque<work> queue;
    uint64_t n_queued, n_done;
    cudaGraph_t capture;
    bool spoiled; /* the capture: something was done that cannot be */
};

extern std::recursive_mutex emulator_lock;
extern cudaError_t emulator_lost;        /* what all calls return now */
extern thread_local int emulator_device; /* that is current */

/* Of a device, as the environment says. */
size_t emulator_device_bytes();
/* A number of the environment. */
long emulator_setting(const char *name, long otherwise);

/* The stream, or the default one for NULL. */
cudaStream_t emulator_stream(cudaStream_t stream);
/* Puts work into a stream, or into the graph that it captures. */
cudaError_t emulator_put(cudaStream_t stream, work w);
/* Does a stream's work, or all streams'. */
void emulator_finish(cudaStream_t stream);
void emulator_finish_all();
/* What waits or changes memory is no part of a graph: it spoils all captures. True when there is one. */
bool emulator_spoils();

/* Device memory may be touched while one of these lives. */
struct touch {
    touch();
    ~touch();
};

/* Runs a kernel, block after block. */
void emulator_run(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &call);
/* "kernel(args) at file.cu:12", as far as the debugger's data tell; a static string. */
const char *emulator_kernel_name(const void *kernel);

#endif
