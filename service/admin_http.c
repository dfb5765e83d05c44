/* The admin port: metrics and health over HTTP, on a thread of its own so that it answers under any load. */
#include "base/log.h"
#include "service/metrics.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <event2/thread.h>
#include <pthread.h>
#include <stdio.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE_MAX_BYTES (16 * 1024 * 1024)
#define HEADERS_MAX_BYTES 16384
#define BODY_MAX_BYTES 4096
#define TIMEOUT_SECONDS 10
#define ACCEPT_PAUSE_MS 100 /* when descriptors or memory are out */

struct admin_http {
    struct service *service;
    struct event_base *base;
    struct evhttp *http;
    pthread_t thread;
    bool running;
};

static void reply(struct evhttp_request *r, int code, const char *type, const char *text, size_t n_bytes)
{
    struct evbuffer *body = evbuffer_new();
    if (body)
        evbuffer_add(body, text, n_bytes);
    evhttp_add_header(evhttp_request_get_output_headers(r), "Content-Type", type);
    evhttp_add_header(evhttp_request_get_output_headers(r), "Cache-Control", "no-store");
    evhttp_send_reply(r, body ? code : 500, NULL, body);
    if (body)
        evbuffer_free(body);
}

static void reply_error(struct evhttp_request *r, const struct error *err)
{
    const struct error_info *info = error_info(err->code);
    struct buffer text;
    buffer_init(&text, BODY_MAX_BYTES);
    buffer_printf(&text, "{\"error\":{\"code\":\"%s\",\"message\":\"", info->name);
    buffer_append_json(&text, err->message, strlen(err->message));
    buffer_append_str(&text, "\"}}\n");
    reply(r, info->http_status, "application/json", text.data ? text.data : "", text.n_bytes);
    buffer_fini(&text);
}

/* What only reads takes GET and HEAD alone. */
static bool refuse_put(struct evhttp_request *r)
{
    if (evhttp_request_get_command(r) != EVHTTP_REQ_PUT)
        return false;
    reply_error(r, &(struct error){.code = ERROR_METHOD_NOT_ALLOWED, .message = "expected GET or HEAD"});
    return true;
}

#ifdef FEATURE_PROMETHEUS
static void on_metrics(struct evhttp_request *r, void *user)
{
    struct admin_http *a = user;
    if (refuse_put(r))
        return;
    const char *accept = evhttp_find_header(evhttp_request_get_input_headers(r), "Accept");
    bool open = accept && strstr(accept, "application/openmetrics-text");
    struct buffer page;
    buffer_init(&page, PAGE_MAX_BYTES);
    metrics_write(service_metrics_page(a->service->metrics), &page, open);
    reply(r, page.failed ? 500 : 200,
          open ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
               : "text/plain; version=0.0.4; charset=utf-8",
          page.data ? page.data : "", page.n_bytes);
    buffer_fini(&page);
}
#endif

static void on_live(struct evhttp_request *r, void *user)
{
    struct admin_http *a = user;
    if (refuse_put(r))
        return;
    bool alive = service_state(a->service).engine_turns;
    const char *text = alive ? "{\"status\":\"live\"}\n" : "{\"status\":\"stalled\"}\n";
    reply(r, alive ? 200 : 503, "application/json", text, strlen(text));
}

static void on_ready(struct evhttp_request *r, void *user)
{
    struct admin_http *a = user;
    if (refuse_put(r))
        return;
    struct service_state s = service_state(a->service);
    char text[256];
    int n = snprintf(
        text, sizeof text,
        "{\"status\":\"%s\",\"checks\":{\"model_loaded\":true,\"inference_engine_ready\":%s,\"device_available\":%s,"
        "\"resources_available\":%s}}\n",
        s.ready ? "ready" : "not_ready", s.engine_turns ? "true" : "false", s.device_refused ? "false" : "true", s.queue_has_room ? "true" : "false");
    reply(r, s.ready ? 200 : 503, "application/json", text, (size_t)n);
}

/* A change is for those on this machine, whatever address the admin port has. */
static bool is_local(struct evhttp_request *r)
{
    const struct sockaddr *a = evhttp_connection_get_addr(evhttp_request_get_connection(r));
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
    if (a && a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    if (a && a->sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) || (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && v6->sin6_addr.s6_addr[12] == 127);
    return a && a->sa_family == AF_UNIX;
}

/* The levels that a PUT brings; false when it was refused, and answered. */
static bool set_levels(struct evhttp_request *r)
{
    struct evbuffer *body = evhttp_request_get_input_buffer(r);
    char list[BODY_MAX_BYTES + 1];
    struct error err = {0};
    ssize_t n = evbuffer_copyout(body, list, sizeof list - 1);
    list[n > 0 ? n : 0] = '\0';
    list[strcspn(list, "\r\n")] = '\0'; /* as tools send it from a file */
    if (!is_local(r))
        error_set(&err, ERROR_AUTHORIZATION_FAILED, "expected a connection from this machine");
    else
        log_set_levels(list, &err);
    if (err.code) {
        reply_error(r, &err);
        return false;
    }
    log_info("service", "log levels changed", LOG_STR("log_level", list));
    return true;
}

static void on_log_level(struct evhttp_request *r, void *user)
{
    (void)user;
    struct buffer text;
    if (evhttp_request_get_command(r) == EVHTTP_REQ_PUT && !set_levels(r))
        return;
    buffer_init(&text, BODY_MAX_BYTES);
    buffer_append_str(&text, "{\"log_level\":\"");
    log_write_levels(&text);
    buffer_append_str(&text, "\"}\n");
    reply(r, 200, "application/json", text.data ? text.data : "", text.n_bytes);
    buffer_fini(&text);
}

static void on_other(struct evhttp_request *r, void *user)
{
    static const char text[] = "{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"expected "
#ifdef FEATURE_PROMETHEUS
                               "/metrics, "
#endif
                               "/health, /health/live, /health/ready or /debug/log-level\"}}\n";
    (void)user;
    reply(r, 404, "application/json", text, sizeof text - 1);
}

static void *run(void *user)
{
    struct admin_http *a = user;
    event_base_loop(a->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

/* "127.0.0.1:9090" or "[::1]:9090". */
static bool split_address(const char *listen, char *host, size_t n, int *port)
{
    const char *colon = strrchr(listen, ':');
    char *end;
    if (!colon || colon == listen)
        return false;
    long value = strtol(colon + 1, &end, 10);
    bool bracket = listen[0] == '[' && colon[-1] == ']';
    snprintf(host, n, "%.*s", (int)(colon - listen) - (bracket ? 2 : 0), listen + bracket);
    *port = (int)value;
    return end != colon + 1 && !*end && value >= 0 && value <= 65535;
}

/* Connections to `path`; an old socket that nobody listens on any more makes room. */
static struct evconnlistener *listen_unix(struct event_base *base, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat found;
    if (strlen(path) >= sizeof address.sun_path)
        return NULL;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && lstat(path, &found) == 0 && S_ISSOCK(found.st_mode) &&
        connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno == ECONNREFUSED)
        unlink(path);
    if (fd >= 0)
        close(fd);
    return evconnlistener_new_bind(base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, -1,
                                   (struct sockaddr *)&address, sizeof address);
}

static void resume(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    evconnlistener_enable(user);
}

/* Out of descriptors or memory: the connection stays in the queue, and asking for it again at once would be a busy loop. */
static void on_accept_error(struct evconnlistener *listener, void *user)
{
    (void)user;
    const struct timeval pause = {0, ACCEPT_PAUSE_MS * 1000};
    log_warn("service", "accept failed", LOG_STR("reason", strerror(errno)), LOG_STR("server", "admin"));
    if (event_base_once(evconnlistener_get_base(listener), -1, EV_TIMEOUT, resume, listener, &pause) == 0)
        evconnlistener_disable(listener);
}

static enum error_code bind_address(struct admin_http *a, const char *listen, struct error *err)
{
    char host[256];
    int port;
    struct evhttp_bound_socket *bound = NULL;
    if (strncmp(listen, "unix:", 5) == 0) {
        struct evconnlistener *listener = listen_unix(a->base, listen + 5);
        bound = listener ? evhttp_bind_listener(a->http, listener) : NULL;
        if (listener && !bound)
            evconnlistener_free(listener);
    } else if (split_address(listen, host, sizeof host, &port)) {
        bound = evhttp_bind_socket_with_handle(a->http, host, (uint16_t)port);
    } else {
        return error_set_param(err, ERROR_INVALID_REQUEST, "admin-listen",
                               "--admin-listen: expected ADDRESS:PORT or unix:/PATH, found \"%.100s\"", listen);
    }
    if (bound) {
        evconnlistener_set_error_cb(evhttp_bound_socket_get_listener(bound), on_accept_error);
        return ERROR_NONE;
    }
    return error_set_param(err, ERROR_INVALID_REQUEST, "admin-listen",
                           "--admin-listen: cannot listen on %.200s: in use, or no address of this machine", listen);
}

static void set_handlers(struct admin_http *a)
{
    evhttp_set_allowed_methods(a->http, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT);
    evhttp_set_timeout(a->http, TIMEOUT_SECONDS);
    evhttp_set_max_headers_size(a->http, HEADERS_MAX_BYTES);
    evhttp_set_max_body_size(a->http, BODY_MAX_BYTES);
#ifdef FEATURE_PROMETHEUS
    evhttp_set_cb(a->http, "/metrics", on_metrics, a);
#endif
    evhttp_set_cb(a->http, "/health", on_ready, a);
    evhttp_set_cb(a->http, "/health/live", on_live, a);
    evhttp_set_cb(a->http, "/health/ready", on_ready, a);
    evhttp_set_cb(a->http, "/debug/log-level", on_log_level, a);
    evhttp_set_gencb(a->http, on_other, a);
}

void admin_http_close(struct admin_http *a)
{
    if (!a)
        return;
    if (a->running) {
        event_base_loopbreak(a->base);
        pthread_join(a->thread, NULL);
    }
    if (a->http)
        evhttp_free(a->http);
    if (a->base)
        event_base_free(a->base);
    free(a);
}

enum error_code admin_http_open(struct service *s, const char *listen, struct admin_http **out, struct error *err)
{
    struct admin_http *a = calloc(1, sizeof *a);
    evthread_use_pthreads();
    if (a) {
        a->service = s;
        a->base = event_base_new();
        a->http = a->base ? evhttp_new(a->base) : NULL;
    }
    if (!a || !a->http) {
        admin_http_close(a);
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the admin port");
    }
    set_handlers(a);
    enum error_code code = bind_address(a, listen, err);
    if (!code && pthread_create(&a->thread, NULL, run, a) != 0)
        code = error_set(err, ERROR_INTERNAL, "cannot start the admin thread");
    a->running = !code;
    if (code) {
        admin_http_close(a);
        return code;
    }
    *out = a;
    return ERROR_NONE;
}
