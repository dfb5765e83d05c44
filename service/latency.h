/*
 * latency: one log line for a step or a request that took too long, with what can be said of its cause; at most one of each kind a second, which
 * then says how many were left out.
 */
#ifndef SERVICE_LATENCY_H
#define SERVICE_LATENCY_H

#include "engine/engine.h"

/* From how many milliseconds on a step and a request are slow; 0 = never. The next line of each kind comes at once. Any thread. */
void latency_limits(int64_t step_ms, int64_t request_ms);
/* A step has ended; on the engine's loop thread, whose page faults and waits for a CPU are looked at every 10 ms. */
void latency_step(size_t n_rows, size_t n_sequences, double seconds);
/* A request has ended; trace_id may be NULL. Any thread. */
void latency_request(const char *request_id, const char *trace_id, const struct stream_summary *summary);

#endif
