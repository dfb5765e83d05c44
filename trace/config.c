/*
 * The OTEL_* variables (OpenTelemetry specification: environment variables, and those of the OTLP exporter). Those of traces stand over those of
 * all signals. A wrong value must not stop a process, so it is logged and its default taken.
 */
#include "trace/config.h"

#include "base/clock.h"
#include "base/log.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define DEFAULT_PORT "4317"

/* An empty value counts as none. */
static const char *env(const char *name)
{
    const char *value = getenv(name);
    return value && value[0] ? value : NULL;
}

/* OTEL_EXPORTER_OTLP_TRACES_X, else OTEL_EXPORTER_OTLP_X. */
static const char *env_otlp(const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "OTEL_EXPORTER_OTLP_TRACES_%s", name);
    const char *value = env(full);
    snprintf(full, sizeof full, "OTEL_EXPORTER_OTLP_%s", name);
    return value ? value : env(full);
}

static void warn(const char *name, const char *expected, const char *found)
{
    log_warn("trace", "a variable of the environment is left out", LOG_STR("variable", name), LOG_STR("expected", expected),
             LOG_STR("found", found));
}

static int64_t whole(const char *name, const char *value, int64_t min, int64_t max, int64_t otherwise)
{
    char *end, expected[64];
    if (!value)
        return otherwise;
    long long v = strtoll(value, &end, 10);
    if (end != value && *end == '\0' && v >= min && v <= max)
        return v;
    snprintf(expected, sizeof expected, "a number from %lld to %lld", (long long)min, (long long)max);
    warn(name, expected, value);
    return otherwise;
}

static bool truth(const char *name)
{
    const char *value = env(name);
    if (value && strcasecmp(value, "true") != 0 && strcasecmp(value, "false") != 0)
        warn(name, "true or false", value);
    return value && strcasecmp(value, "true") == 0;
}

/* ---- lists ---- */

/* Decodes %XX in place; false where there is no such byte, or one that no text has. */
static bool percent_decode(char *text)
{
    char *to = text;
    for (; *text; text++) {
        if (*text == '%') {
            char hex[3] = {text[1], text[1] ? text[2] : '\0', '\0'}, *end;
            *text = (char)strtol(hex, &end, 16);
            if (!isxdigit((unsigned char)hex[0]) || end != hex + 2 || *text == '\0')
                return false;
            *to++ = *text;
            text += 2;
        } else {
            *to++ = *text;
        }
    }
    *to = '\0';
    return true;
}

static char *trim(char *text)
{
    text += strspn(text, " \t");
    size_t n = strlen(text);
    while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '\t'))
        text[--n] = '\0';
    return text;
}

/* What gRPC takes as metadata: else the first call would end the process. */
static bool header_legal(char *key, const char *value)
{
    for (char *c = key; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    for (const char *c = value; *c; c++)
        if (*c < ' ' || *c > '~')
            return false;
    return strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == strlen(key) && strncmp(key, "grpc-", 5) != 0;
}

/* A list with one wrong pair is left out as a whole, as the specification has it for resources. */
static void read_pairs(const char *name, const char *list, bool headers, struct pairs *out)
{
    char *rest = list ? strdup(list) : NULL;
    out->room = rest;
    for (char *item; rest && (item = strsep(&rest, ","));) {
        char *value = strchr(item, '=');
        if (*trim(item) == '\0')
            continue;
        if (value)
            *value++ = '\0';
        char *key = trim(item);
        if (!value || !*key || out->n == CONFIG_MAX_PAIRS || !percent_decode(value = trim(value)) ||
            (headers && !header_legal(key, value))) {
            warn(name, "key=value,key=value with %XX for what is special, at most 15", "another text"); /* it may hold a secret */
            out->n = 0;
            return;
        }
        out->keys[out->n] = key;
        out->values[out->n++] = value;
    }
}

/* ---- the collector ---- */

/* "http://host:4317/", "https://host", "host:4317", "unix:/path" -> gRPC's target; TLS by the scheme, or by ..INSECURE where there is
 * none. */
static bool read_endpoint(const char *endpoint, struct trace_config *out)
{
    const char *insecure = env_otlp("INSECURE"), *rest = endpoint;
    out->tls = insecure && strcasecmp(insecure, "false") == 0;
    if (strncmp(endpoint, "unix:", 5) == 0)
        return (size_t)snprintf(out->target, sizeof out->target, "%s", endpoint) < sizeof out->target;
    if (strncasecmp(endpoint, "http://", 7) == 0) {
        out->tls = false;
        rest += 7;
    } else if (strncasecmp(endpoint, "https://", 8) == 0) {
        out->tls = true;
        rest += 8;
    } else if (strstr(endpoint, "://")) {
        return false;
    }
    size_t n = strcspn(rest, "/?#");
    const char *colon = memrchr(rest, ':', n), *bracket = memrchr(rest, ']', n);
    bool has_port = colon && (!bracket || colon > bracket) && (rest[0] == '[' || memchr(rest, ':', n) == colon);
    if (n == 0 || n > 255 || (!has_port && colon && !bracket) || (has_port && (colon == rest || colon[1] < '0' || colon[1] > '9')))
        return false;
    snprintf(out->target, sizeof out->target, "%.*s%s", (int)n, rest, has_port ? "" : ":" DEFAULT_PORT);
    return true;
}

static bool is_off(void)
{
    const char *exporter = env("OTEL_TRACES_EXPORTER"), *protocol = env_otlp("PROTOCOL");
    if (truth("OTEL_SDK_DISABLED") || (exporter && strcmp(exporter, "none") == 0))
        return true;
    if (exporter && strcmp(exporter, "otlp") != 0) {
        log_warn("trace", "tracing is off: OTEL_TRACES_EXPORTER: expected otlp or none", LOG_STR("found", exporter));
        return true;
    }
    if (protocol && strcmp(protocol, "grpc") != 0) {
        log_warn("trace", "tracing is off: OTEL_EXPORTER_OTLP_PROTOCOL: expected grpc", LOG_STR("found", protocol));
        return true;
    }
    return false;
}

static bool read_collector(struct trace_config *c)
{
    const char *endpoint = env_otlp("ENDPOINT"), *compression = env_otlp("COMPRESSION");
    if (!endpoint || is_off())
        return false;
    if (!read_endpoint(endpoint, c)) {
        log_warn("trace", "tracing is off: OTEL_EXPORTER_OTLP_ENDPOINT: expected http://HOST:PORT, https://HOST:PORT or unix:/PATH",
                 LOG_STR("found", endpoint));
        return false;
    }
    if (compression && strcmp(compression, "none") != 0)
        warn("OTEL_EXPORTER_OTLP_COMPRESSION", "none", compression);
    if (c->tls) {
        c->ca_file = env_otlp("CERTIFICATE");
        c->cert_file = env_otlp("CLIENT_CERTIFICATE");
        c->key_file = env_otlp("CLIENT_KEY");
    }
    read_pairs("OTEL_EXPORTER_OTLP_HEADERS", env_otlp("HEADERS"), true, &c->headers);
    return true;
}

/* ---- sampling and batches ---- */

static void read_sampler(struct trace_config *c)
{
    static const struct {
        const char *name;
        enum sampler sampler;
        bool parent_based;
    } names[] = {{"parentbased_always_on", SAMPLER_ALWAYS_ON, true},   {"parentbased_always_off", SAMPLER_ALWAYS_OFF, true},
                 {"parentbased_traceidratio", SAMPLER_RATIO, true},    {"always_on", SAMPLER_ALWAYS_ON, false},
                 {"always_off", SAMPLER_ALWAYS_OFF, false},            {"traceidratio", SAMPLER_RATIO, false}};
    const char *name = env("OTEL_TRACES_SAMPLER"), *argument = env("OTEL_TRACES_SAMPLER_ARG");
    size_t i = 0, n = sizeof names / sizeof *names;
    while (name && i < n && strcmp(names[i].name, name) != 0)
        i++;
    if (i == n) {
        warn("OTEL_TRACES_SAMPLER", "always_on, always_off or traceidratio, or one of them with parentbased_ in front", name);
        i = 0;
    }
    c->sampler = names[i].sampler;
    c->parent_based = names[i].parent_based;
    c->ratio = 1;
    if (c->sampler != SAMPLER_RATIO || !argument)
        return;
    char *end;
    double ratio = strtod(argument, &end);
    if (end != argument && *end == '\0' && ratio >= 0 && ratio <= 1)
        c->ratio = ratio;
    else
        warn("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", argument);
}

static void read_batches(struct trace_config *c)
{
    int64_t hour_ms = 3600000;
    c->timeout_ns = CLOCK_NS_PER_MS * whole("OTEL_EXPORTER_OTLP_TIMEOUT", env_otlp("TIMEOUT"), 1, hour_ms, 10000);
    c->export_timeout_ns = CLOCK_NS_PER_MS * whole("OTEL_BSP_EXPORT_TIMEOUT", env("OTEL_BSP_EXPORT_TIMEOUT"), 1, hour_ms, 30000);
    c->delay_ns = CLOCK_NS_PER_MS * whole("OTEL_BSP_SCHEDULE_DELAY", env("OTEL_BSP_SCHEDULE_DELAY"), 1, hour_ms, 5000);
    c->max_queue = (size_t)whole("OTEL_BSP_MAX_QUEUE_SIZE", env("OTEL_BSP_MAX_QUEUE_SIZE"), 1, 65536, 2048);
    c->max_batch = (size_t)whole("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE"), 1, 4096, 512);
    if (c->max_batch > c->max_queue)
        c->max_batch = c->max_queue;
}

bool config_read(struct trace_config *c)
{
    memset(c, 0, sizeof *c);
    if (!read_collector(c))
        return false;
    read_pairs("OTEL_RESOURCE_ATTRIBUTES", env("OTEL_RESOURCE_ATTRIBUTES"), false, &c->attributes);
    c->service = env("OTEL_SERVICE_NAME");
    read_sampler(c);
    read_batches(c);
    return true;
}

void config_free(struct trace_config *c)
{
    free(c->headers.room);
    free(c->attributes.room);
}
