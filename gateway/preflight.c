/* See preflight.h. Whatever can be opened without a side effect is opened by the code that opens it in earnest, and closed. */
#include "gateway/preflight.h"

#include "base/metrics.h"
#include "gateway/access.h"
#include "gateway/address.h"
#include "gateway/gateway.h"
#include "gateway/targets.h"
#include "gateway/tls.h"
#include "rpc/tls_check.h"

#include <stdlib.h>
#include <string.h>

/* One address with the scheme that may stand in front. */
static enum error_code check_address(const char *text, bool have_tls, struct error *err)
{
    struct address a;
    bool https = strncmp(text, "https://", 8) == 0, http = strncmp(text, "http://", 7) == 0;
    if (https && !have_tls)
        return error_set(err, ERROR_VALIDATION_FAILED, "%.200s: expected --tls-cert and --tls-key with it", text);
    return address_parse(text + (https ? 8 : http ? 7 : 0), &a, err);
}

static enum error_code check_addresses(const char *name, const char *list, bool have_tls, struct error *err)
{
    char *copy = strdup(list ? list : ""), *rest = copy, *one;
    enum error_code code = copy ? ERROR_NONE : error_set(err, ERROR_MEMORY_EXHAUSTED, "out of memory");
    while (code == ERROR_NONE && (one = strsep(&rest, ",")) != NULL)
        if (one[0] != '\0' && check_address(one, have_tls, err) != ERROR_NONE)
            code = error_prefix(err, "--%s", name);
    free(copy);
    return code;
}

/* Both sides: first as rpc's check names the options, then as the listeners take the files. */
static enum error_code check_tls(const struct gateway_config *c, struct error *err)
{
    const struct tls_check clients = {"tls-cert", c->tls_cert,     "tls-key",
                                      c->tls_key, "tls-client-ca", c->tls_client_ca};
    const struct tls_check engines = {"engine-tls-cert", c->engine_tls_cert, "engine-tls-key",
                                      c->engine_tls_key, "engine-tls-ca",    c->engine_tls_ca};
    const struct tls_files files = {.cert = c->tls_cert, .key = c->tls_key, .client_ca = c->tls_client_ca};
    struct tls *tls = NULL;
    enum error_code code = tls_check(&clients, err);
    if (code == ERROR_NONE)
        code = tls_check(&engines, err);
    if (code == ERROR_NONE && c->tls_cert)
        code = tls_open(&files, &tls, err);
    tls_close(tls);
    return code;
}

/* Keys, proxies, origins. */
static enum error_code check_access(const struct gateway_config *c, struct error *err)
{
    struct access *access = NULL;
    struct metrics *metrics = metrics_open();
    if (!metrics)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "out of memory");
    enum error_code code = access_open(c, metrics, &access, err);
    access_close(access);
    metrics_close(metrics);
    return code;
}

enum error_code preflight(const struct gateway_config *c, struct error *err)
{
    struct target targets[TARGETS_MAX];
    size_t n_targets;
    enum error_code code = targets_parse(c->engine, targets, &n_targets, err);
    if (code == ERROR_NONE)
        code = check_addresses("listen", c->listen, c->tls_cert != NULL, err);
    if (code == ERROR_NONE)
        code = check_addresses("admin-listen", c->admin_listen, c->tls_cert != NULL, err);
    if (code == ERROR_NONE)
        code = check_tls(c, err);
    return code == ERROR_NONE ? check_access(c, err) : code;
}
