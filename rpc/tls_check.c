/* See tls_check.h. OpenSSL reads them as gRPC will. */
#include "rpc/tls_check.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>
#include <unistd.h>

static enum error_code refuse(const char *name, const char *path, struct error *err)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    if (access(path, R_OK) != 0)
        reason = strerror(errno);
    error_set_param(err, ERROR_VALIDATION_FAILED, name, "--%s %.200s: %s", name, path,
                    reason ? reason : "not readable");
    ERR_clear_error();
    return ERROR_VALIDATION_FAILED;
}

static enum error_code check(SSL_CTX *ssl, const struct tls_check *f, struct error *err)
{
    ERR_clear_error();
    if (f->cert && SSL_CTX_use_certificate_chain_file(ssl, f->cert) != 1)
        return refuse(f->cert_name, f->cert, err);
    if (f->key &&
        (SSL_CTX_use_PrivateKey_file(ssl, f->key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(ssl) != 1))
        return refuse(f->key_name, f->key, err);
    if (f->ca && SSL_CTX_load_verify_locations(ssl, f->ca, NULL) != 1)
        return refuse(f->ca_name, f->ca, err);
    return ERROR_NONE;
}

enum error_code tls_check(const struct tls_check *files, struct error *err)
{
    SSL_CTX *ssl = SSL_CTX_new(TLS_method());
    if (!ssl)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "out of memory");
    enum error_code code = check(ssl, files, err);
    SSL_CTX_free(ssl);
    return code;
}
