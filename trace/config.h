/* config: what the environment says of tracing, by OpenTelemetry's names. Nobody outside trace/ includes this. */
#ifndef TRACE_CONFIG_H
#define TRACE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_MAX_PAIRS 15 /* gRPC calls of ours carry 16 at most */

enum sampler { SAMPLER_ALWAYS_ON, SAMPLER_ALWAYS_OFF, SAMPLER_RATIO };

/* Pairs of a list `key=value,key=value`, decoded. */
struct pairs {
    char *room; /* owned; the texts */
    const char *keys[CONFIG_MAX_PAIRS], *values[CONFIG_MAX_PAIRS];
    size_t n;
};

struct trace_config {
    char target[272]; /* "collector:4317", "unix:/path" */
    bool tls;
    const char *ca_file, *cert_file, *key_file; /* with tls, of the environment; NULL = the system's CA, no certificate of our own */
    struct pairs headers, attributes; /* metadata of each call; of the resource */
    const char *service;              /* service.name; NULL = the program's */
    enum sampler sampler;
    bool parent_based; /* a request that belongs to a trace is recorded when its caller is; `sampler` is for those that begin one */
    double ratio;
    int64_t timeout_ns;        /* of one call to the collector */
    int64_t export_timeout_ns; /* of one batch with all its tries */
    int64_t delay_ns;          /* that a span waits for others at most */
    size_t max_queue, max_batch; /* spans */
};

/* Fills *out from the environment; false when tracing is off, with a log line where something was asked for that is not possible. Values that
 * are not understood are logged and their defaults taken. Freed with config_free in both cases. */
bool config_read(struct trace_config *out);
void config_free(struct trace_config *c);

#endif
