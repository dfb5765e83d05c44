/*
 * TLS and mutual TLS from PEM files that may be replaced while we run: a new connection begins with what the files hold then, one that is
 * open stays as it is.
 *
 *   server   gRPC asks at each new connection (fetch), and gets something when a file looks different
 *   client   gRPC's own watcher looks at the files every second, on one thread for each rpc_tls; it does not check them, so that no
 *            connection can be made while they do not fit together
 */
#include "rpc/core.h"
#include "rpc/pem.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

#define CLIENT_LOOK_S 1
#define N_FILES 3
#define AGAIN_NS (10 * CLOCK_NS_PER_S)

/* ---- server ----------------------------------------------------------------------------------------------------- */

struct certificate {
    struct certificate *next;
    struct pem_paths paths;
    struct file_watch watches[N_FILES];
    int64_t again_ns; /* when files that were refused are read again: they may be good, and descriptors were out. 0 = they were not */
    bool taken;       /* the first one */
};

/* On gRPC's threads, one at a time for each address. A pair that is replaced one file after the other is refused once, and taken when its
 * second file is there. */
static grpc_ssl_certificate_config_reload_status fetch(void *user, grpc_ssl_server_certificate_config **out)
{
    struct certificate *c = user;
    struct pem_files files;
    struct error err = {0};
    bool changed = c->again_ns && clock_now_ns() >= c->again_ns;
    for (int i = 0; i < N_FILES; i++)
        changed |= file_watch_changed(&c->watches[i]);
    if (!changed)
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    for (int i = 0; i < N_FILES; i++)
        file_watch_mark(&c->watches[i]); /* before reading, so that a change in between is seen */
    enum error_code code = pem_read(&files, &c->paths, &err);
    if (!code) {
        const grpc_ssl_pem_key_cert_pair pair = {files.key.data, files.cert.data};
        /* gRPC 1.51 asserts that there is a CA, also where clients are not asked for certificates: then it is not used. */
        *out = grpc_ssl_server_certificate_config_create(c->paths.ca ? files.ca.data : files.cert.data, &pair, 1);
    }
    pem_forget(&files);
    if (code)
        log_error("rpc", "certificate not taken, the old one stays", LOG_STR("reason", err.message));
    else if (c->taken)
        log_info("rpc", "certificate taken", LOG_STR("file", c->paths.cert));
    c->again_ns = code ? clock_now_ns() + AGAIN_NS : 0;
    c->taken = true;
    return code ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

static enum error_code readable(const struct pem_paths *paths, struct error *err)
{
    struct pem_files files;
    enum error_code code = pem_read(&files, paths, err);
    pem_forget(&files);
    return code;
}

grpc_server_credentials *core_server_credentials(const struct rpc_server_options *o, struct certificate **list, struct error *err)
{
    const struct pem_paths paths = {o->tls_client_ca_file, o->tls_cert_file, o->tls_key_file};
    if (!paths.cert && !paths.key && !paths.ca)
        return grpc_insecure_server_credentials_create();
    if (!paths.cert && !paths.key) {
        error_set(err, ERROR_VALIDATION_FAILED, "a client CA needs the server's own certificate and key");
        return NULL;
    }
    if (readable(&paths, err) != ERROR_NONE)
        return NULL;
    struct certificate *c = calloc(1, sizeof *c);
    if (!c) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a certificate");
        return NULL;
    }
    *c = (struct certificate){
        .next = *list, .paths = paths, .watches = {{.path = paths.ca}, {.path = paths.cert}, {.path = paths.key}}};
    *list = c;
    return grpc_ssl_server_credentials_create_with_options(grpc_ssl_server_credentials_create_options_using_config_fetcher(
        paths.ca ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE, fetch, c));
}

void core_certificates_free(struct certificate *list)
{
    for (struct certificate *c = list, *next; c; c = next) {
        next = c->next;
        free(c);
    }
}

/* ---- client ----------------------------------------------------------------------------------------------------- */

struct rpc_tls {
    grpc_channel_credentials *credentials; /* owned; channels have references of their own, and these one of the watcher */
};

static grpc_channel_credentials *watching(const struct pem_paths *p)
{
    grpc_tls_certificate_provider *provider = grpc_tls_certificate_provider_file_watcher_create(p->key, p->cert, p->ca, CLIENT_LOOK_S);
    grpc_tls_credentials_options *options = grpc_tls_credentials_options_create();
    grpc_tls_credentials_options_set_certificate_provider(options, provider);
    if (p->ca)
        grpc_tls_credentials_options_watch_root_certs(options);
    if (p->cert)
        grpc_tls_credentials_options_watch_identity_key_cert_pairs(options);
    grpc_tls_certificate_provider_release(provider);
    return grpc_tls_credentials_create(options); /* takes the options */
}

enum error_code rpc_tls_open(const char *ca_file, const char *cert_file, const char *key_file, struct rpc_tls **out, struct error *err)
{
    const struct pem_paths paths = {ca_file, cert_file, key_file};
    enum error_code code = readable(&paths, err);
    if (code)
        return code;
    struct rpc_tls *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for TLS");
    t->credentials = watching(&paths);
    *out = t;
    return ERROR_NONE;
}

void rpc_tls_close(struct rpc_tls *t)
{
    if (!t)
        return;
    grpc_channel_credentials_release(t->credentials);
    free(t);
}

grpc_channel_credentials *core_channel_credentials(const struct rpc_tls *tls)
{
    return tls->credentials;
}
