/*
 * Admission from whole requests to their answers: the application of app.h with a struct access. Include it in one file of a
 * program only.
 */
#ifndef TESTS_UNIT_GATEWAY_ADMISSION_H
#define TESTS_UNIT_GATEWAY_ADMISSION_H

#include "base/clock.h"
#include "gateway/access.h"
#include "gateway/keys.h"
#include "tests/unit/gateway/app.h"
#include "tests/unit/gateway/tokens.h"

#define SECRET "0123456789abcdef0123456789abcdef"
#define HASH_OF_A "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
#define HASH_OF_B "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
#define JSON "Content-Type: application/json\r\n"
#define PROMPT "{\"prompt\":\"Hi\"}"

static struct app app;

/* The application with admission as app.config says; to be filled between the two. */
static inline void setup(void)
{
    app_open(&app);
    app.config.rate_limits = "off";
    app.config.rate_limit_inference = 100;
    app.config.rate_limit_models = 10;
    app.config.rate_limit_health = 600;
    app.config.rate_limit_stats = 60;
    app.config.jwt_leeway_s = 30;
}

static inline void begin(void)
{
    struct error err;
    ck_assert_msg(access_open(&app.config, app.g.metrics, &app.g.access, &err) == ERROR_NONE, "%s", err.message);
}

static inline void begin_with_keys(void)
{
    app.config.jwt_key = tokens_text("secret", SECRET);
    app.config.jwt_alg = "HS256";
    app.config.api_keys =
        tokens_text("keys", "alice sha256:" HASH_OF_A "\nbob sha256:" HASH_OF_B " model:read,model:manage\n");
    begin();
}

static inline void finish(void)
{
    memory_close(&app.m);
    access_close(app.g.access);
    app.g.access = NULL;
    health_close(app.g.health);
    for (int i = 0; i < app_n_calls; i++)
        buffer_fini(&app_calls[i].request);
    metrics_close(app.g.metrics);
    event_base_free(app.g.base);
}

static inline const char *token(const char *more)
{
    static char header[2048];
    char payload[512];
    snprintf(payload, sizeof payload, "{\"sub\":\"carol\",\"exp\":%lld%s}",
             (long long)(clock_wall_ns() / CLOCK_NS_PER_S + 1000), more);
    snprintf(header, sizeof header, JSON "Authorization: Bearer %s\r\n",
             tokens_forge("{\"alg\":\"HS256\"}", payload, SECRET, NULL));
    return header;
}

static inline bool says(const char *text)
{
    return strstr(app_sent(&app), text) != NULL;
}

static inline int ask(const char *method, const char *path, const char *headers)
{
    app_request(&app, method, path, headers, strcmp(method, "POST") == 0 ? PROMPT : "");
    return app_status(&app);
}

/* Status of a call that goes to the engine: 0 means that it was let in. The connection is given up. */
static inline int let_in(const char *method, const char *path, const char *headers)
{
    int before = app_n_calls, status = ask(method, path, headers);
    ck_assert_int_eq(app_n_calls - before, status == 0);
    memory_close(&app.m);
    app_connect(&app, &app.g.main_http);
    return status;
}

static inline double rejections(const char *reason)
{
    return metrics_value(metrics_get(
        metrics_add(app.g.metrics, METRICS_COUNTER, "bitnet_admission_rejections_total", "", "reason", NULL, 0),
        reason));
}

/* The number in a header field of the answer; -1 when it is not there. */
static inline long long field(const char *name)
{
    char text[64];
    snprintf(text, sizeof text, "\r\n%s: ", name);
    const char *at = strstr(app_sent(&app), text);
    return at ? atoll(at + strlen(text)) : -1;
}

#endif
