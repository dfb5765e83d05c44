/* TLS and mutual TLS credentials from PEM files. Files are read once, when the server or client is opened. */
#include "rpc/core.h"

#include "base/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <grpc/grpc_security.h>
#include <string.h>
#include <unistd.h>

#define PEM_MAX_BYTES (1024 * 1024)

/* Certificates and keys are small; what is larger is not one. */
static enum error_code read_pem(const char *path, struct buffer *out, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, ERROR_INVALID_REQUEST, "cannot open %s: %s", path, strerror(errno));
    ssize_t n = 0;
    for (;;) {
        char *room = buffer_reserve(out, 4096);
        n = room ? read(fd, room, 4096) : 0;
        if (n <= 0)
            break;
        out->n_bytes += (size_t)n;
    }
    int failed = n < 0 ? errno : 0;
    close(fd);
    if (failed)
        return error_set(err, ERROR_INVALID_REQUEST, "cannot read %s: %s", path, strerror(failed));
    if (out->failed)
        return error_set(err, ERROR_INVALID_REQUEST, "%s is no PEM file: larger than 1 MiB", path);
    if (out->n_bytes == 0 || !buffer_append_char(out, '\0') || !strstr(out->data, "-----BEGIN "))
        return error_set(err, ERROR_INVALID_REQUEST, "%s is no PEM file: expected a line -----BEGIN", path);
    return ERROR_NONE;
}

/* The private key must not stay behind in freed memory. */
static void forget(struct buffer *b)
{
    if (b->data)
        explicit_bzero(b->data, b->n_bytes);
    buffer_fini(b);
}

struct pem_files { struct buffer ca, cert, key; };

static enum error_code pem_read(struct pem_files *files, const char *ca, const char *cert, const char *key, struct error *err)
{
    buffer_init(&files->ca, PEM_MAX_BYTES);
    buffer_init(&files->cert, PEM_MAX_BYTES);
    buffer_init(&files->key, PEM_MAX_BYTES);
    if (!cert != !key)
        return error_set(err, ERROR_INVALID_REQUEST, "TLS needs certificate and key together: %s is missing",
                         cert ? "the key" : "the certificate");
    enum error_code code = ca ? read_pem(ca, &files->ca, err) : ERROR_NONE;
    if (!code && cert)
        code = read_pem(cert, &files->cert, err);
    if (!code && key)
        code = read_pem(key, &files->key, err);
    return code;
}

static void pem_forget(struct pem_files *files)
{
    forget(&files->ca);
    forget(&files->cert);
    forget(&files->key);
}

grpc_server_credentials *core_server_credentials(const char *cert_file, const char *key_file, const char *client_ca_file,
                                                 struct error *err)
{
    if (!cert_file && !key_file && !client_ca_file)
        return grpc_insecure_server_credentials_create();
    if (!cert_file && !key_file) {
        error_set(err, ERROR_INVALID_REQUEST, "a client CA needs the server's own certificate and key");
        return NULL;
    }
    grpc_server_credentials *credentials = NULL;
    struct pem_files files;
    if (pem_read(&files, client_ca_file, cert_file, key_file, err) == ERROR_NONE) {
        grpc_ssl_pem_key_cert_pair pair = {files.key.data, files.cert.data};
        credentials = grpc_ssl_server_credentials_create_ex(
            files.ca.data, &pair, 1,
            client_ca_file ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                           : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            NULL);
        if (!credentials)
            error_set(err, ERROR_INVALID_REQUEST, "%s and %s are no usable certificate and key", cert_file, key_file);
    }
    pem_forget(&files);
    return credentials;
}

grpc_channel_credentials *core_channel_credentials(const char *ca_file, const char *cert_file, const char *key_file,
                                                   struct error *err)
{
    if (!ca_file && !cert_file && !key_file)
        return grpc_insecure_credentials_create();
    grpc_channel_credentials *credentials = NULL;
    struct pem_files files;
    if (pem_read(&files, ca_file, cert_file, key_file, err) == ERROR_NONE) {
        grpc_ssl_pem_key_cert_pair pair = {files.key.data, files.cert.data};
        credentials = grpc_ssl_credentials_create(files.ca.data, cert_file ? &pair : NULL, NULL, NULL);
        if (!credentials)
            error_set(err, ERROR_INVALID_REQUEST, "the TLS files are not usable");
    }
    pem_forget(&files);
    return credentials;
}
