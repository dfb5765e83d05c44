/* /debug on the admin port: what an operator on this machine may change while the process runs. */
#include "base/log.h"
#include "gateway/emit.h"
#include "gateway/error.h"

#include <string.h>

#define MAX_LIST_BYTES 2048

/* A change is for those on this machine, whatever address the admin port has; who may connect to a unix socket its file says. */
static bool is_local(const struct request *r)
{
    const char *peer = r->http->peer;
    return strncmp(peer, "127.", 4) == 0 || strcmp(peer, "::1") == 0 || strcmp(peer, "unix") == 0;
}

void handle_log_level(struct request *r)
{
    struct buffer levels, body;
    buffer_init(&levels, MAX_LIST_BYTES);
    buffer_init(&body, 2 * MAX_LIST_BYTES);
    log_write_levels(&levels);
    emit_open(&body, '{');
    emit_key(&body, "log_level");
    emit_text(&body, levels.data ? levels.data : "");
    emit_close(&body, '}');
    request_json(r, 200, &body);
    buffer_fini(&levels);
    buffer_fini(&body);
}

void handle_set_log_level(struct request *r)
{
    char list[MAX_LIST_BYTES];
    struct error err = {0};
    size_t n = r->http->n_body;
    if (!is_local(r)) {
        error_answer(r, ERROR_AUTHORIZATION_FAILED, "expected a connection from this machine, found one from %s", r->http->peer);
        return;
    }
    while (n > 0 && (r->http->body[n - 1] == '\n' || r->http->body[n - 1] == '\r'))
        n--; /* as tools send it from a file */
    if (n >= sizeof list || (n > 0 && memchr(r->http->body, '\0', n))) {
        error_answer(r, ERROR_VALIDATION_FAILED, "log-level: expected text of less than %d bytes", MAX_LIST_BYTES);
        return;
    }
    memcpy(list, n > 0 ? r->http->body : "", n);
    list[n] = '\0';
    if (log_set_levels(list, &err)) {
        error_respond_plain(r, &err);
        return;
    }
    log_info("gateway", "log levels changed", LOG_STR("log_level", list));
    handle_log_level(r);
}
