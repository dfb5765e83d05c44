/*
 * Streams, events and graphs. What is put into a stream is kept as a function and done when somebody waits for it, so that a missing wait
 * shows; a stream that captures keeps it in a graph.
 */
#include "tests/cuda/host/emulator.h"

#include <time.h>

struct emulated_event {
    bool recorded;
    cudaStream_t stream; /* NULL: done when recorded */
    uint64_t at;         /* of the stream's work */
    double ms;
};

static std::vector<cudaStream_t> streams;
static emulated_stream default_stream;

cudaStream_t emulator_stream(cudaStream_t stream) { return stream ? stream : &default_stream; }

cudaError_t emulator_put(cudaStream_t stream, work w)
{
    stream = emulator_stream(stream);
    if (emulator_lost)
        return emulator_lost;
    if (stream->capture) {
        if (stream->spoiled)
            return cudaErrorStreamCaptureInvalidated;
        stream->capture->nodes.push_back(std::move(w));
        return cudaSuccess;
    }
    stream->queue.push_back(std::move(w));
    stream->n_queued++;
    return cudaSuccess;
}

/* Does a stream's work up to the `until`th. Nothing is done on a device that is lost. */
static void finish(cudaStream_t stream, uint64_t until)
{
    if (stream->n_done >= until)
        return;
    touch open;
    while (stream->n_done < until && !stream->queue.empty()) {
        work w = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->n_done++;
        if (!emulator_lost)
            w();
    }
}

void emulator_finish(cudaStream_t stream) { finish(stream, stream->n_queued); }

void emulator_finish_all()
{
    emulator_finish(&default_stream);
    for (size_t i = 0; i < streams.size(); i++)
        emulator_finish(streams[i]);
}

bool emulator_spoils()
{
    bool spoiled = false;
    for (cudaStream_t s : streams)
        if (s->capture)
            spoiled = s->spoiled = true;
    return spoiled;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    (void)flags;
    LOCKED;
    if (emulator_lost)
        return emulator_lost;
    *out = new emulated_stream();
    streams.push_back(*out);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *out) { return cudaStreamCreateWithFlags(out, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    LOCKED;
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) {
            emulator_finish(stream);
            streams.erase(streams.begin() + (ptrdiff_t)i);
            delete stream->capture;
            delete stream;
            return emulator_lost;
        }
    return cudaErrorInvalidResourceHandle;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    LOCKED;
    if (emulator_stream(stream)->capture) {
        emulator_stream(stream)->spoiled = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    emulator_finish(emulator_stream(stream));
    return emulator_lost;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    (void)flags;
    LOCKED;
    if (emulator_lost)
        return emulator_lost;
    *out = new emulated_event();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    LOCKED;
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == event->stream)
            finish(event->stream, event->at); /* its work writes the time */
    delete event;
    return emulator_lost;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    LOCKED;
    stream = emulator_stream(stream);
    cudaError_t error = emulator_put(stream, [event] {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        event->ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
    });
    event->recorded = true;
    event->stream = stream->capture ? NULL : stream;
    event->at = stream->n_queued;
    return error;
}

/* A stream that is gone has done its work. */
static void finish_event(cudaEvent_t event)
{
    bool there = event->stream == &default_stream;
    for (cudaStream_t s : streams)
        there |= event->stream == s;
    if (there)
        finish(event->stream, event->at);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    LOCKED;
    emulated_event now = *event;
    return now.recorded ? emulator_put(stream, [now]() mutable { finish_event(&now); }) : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    LOCKED;
    if (event->recorded)
        finish_event(event);
    return emulator_lost;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    LOCKED;
    for (cudaEvent_t event : {from, to})
        if (event->stream && event->stream->n_done < event->at)
            return cudaErrorNotReady;
    *ms = (float)(to->ms - from->ms);
    return emulator_lost;
}

/* ---- graphs */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    (void)mode;
    LOCKED;
    if (emulator_lost)
        return emulator_lost;
    if (!stream || stream->capture)
        return cudaErrorStreamCaptureUnsupported;
    stream->capture = new emulated_graph();
    stream->spoiled = false;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    LOCKED;
    *out = NULL;
    if (!stream || !stream->capture)
        return cudaErrorInvalidValue;
    cudaGraph_t graph = stream->capture;
    stream->capture = NULL;
    if (stream->spoiled || emulator_lost) {
        delete graph;
        return emulator_lost ? emulator_lost : cudaErrorStreamCaptureInvalidated;
    }
    *out = graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    LOCKED;
    *out = NULL;
    if (emulator_lost)
        return emulator_lost;
    *out = new emulated_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    LOCKED;
    for (const work &node : graph->nodes) {
        cudaError_t error = emulator_put(stream, node);
        if (error != cudaSuccess)
            return error;
    }
    return emulator_lost;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    LOCKED;
    delete graph;
    return emulator_lost;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return cudaGraphExecDestroy(graph); }
