/* Reading and checking of PEM files. */
#include "rpc/pem.h"

#include "base/file.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>

#define PEM_MAX_BYTES (1024 * 1024) /* certificates and keys are small; what is larger is not one */

static enum error_code read_text(const char *path, struct buffer *out, struct error *err)
{
    if (!path)
        return ERROR_NONE;
    enum error_code code = file_read(path, out, err);
    return code || buffer_append_char(out, '\0') ? code : error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for %s", path);
}

/* A key with a password is none: nobody could type it. */
static int no_password(char *out, int n_bytes, int writing, void *user)
{
    (void)out, (void)n_bytes, (void)writing, (void)user;
    return 0;
}

static X509 *certificate_in(const struct buffer *text, const char *path, struct error *err)
{
    BIO *bio = BIO_new_mem_buf(text->data, -1);
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    if (!cert)
        error_set(err, ERROR_VALIDATION_FAILED, "%s: expected a certificate in PEM", path);
    return cert;
}

static EVP_PKEY *key_in(const struct buffer *text, const char *path, struct error *err)
{
    BIO *bio = BIO_new_mem_buf(text->data, -1);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    if (!key)
        error_set(err, ERROR_VALIDATION_FAILED, "%s: expected a private key in PEM without a password", path);
    return key;
}

static enum error_code check_pair(const struct pem_files *files, const struct pem_paths *paths, struct error *err)
{
    X509 *cert = certificate_in(&files->cert, paths->cert, err);
    EVP_PKEY *key = cert ? key_in(&files->key, paths->key, err) : NULL;
    enum error_code code = cert && key ? ERROR_NONE : ERROR_VALIDATION_FAILED;
    if (!code && X509_check_private_key(cert, key) != 1)
        code = error_set(err, ERROR_VALIDATION_FAILED, "%s: expected the key of the certificate in %s, found another one",
                         paths->key, paths->cert);
    EVP_PKEY_free(key);
    X509_free(cert);
    return code;
}

static enum error_code check_ca(const struct pem_files *files, const struct pem_paths *paths, struct error *err)
{
    X509 *cert = certificate_in(&files->ca, paths->ca, err);
    X509_free(cert);
    return cert ? ERROR_NONE : ERROR_VALIDATION_FAILED;
}

enum error_code pem_read(struct pem_files *out, const struct pem_paths *paths, struct error *err)
{
    buffer_init(&out->ca, PEM_MAX_BYTES);
    buffer_init(&out->cert, PEM_MAX_BYTES);
    buffer_init(&out->key, PEM_MAX_BYTES);
    if (!paths->cert != !paths->key)
        return error_set(err, ERROR_VALIDATION_FAILED, "TLS needs certificate and key together: %s is missing",
                         paths->cert ? "the key" : "the certificate");
    enum error_code code = read_text(paths->ca, &out->ca, err);
    if (!code)
        code = read_text(paths->cert, &out->cert, err);
    if (!code)
        code = read_text(paths->key, &out->key, err);
    if (!code && paths->ca)
        code = check_ca(out, paths, err);
    if (!code && paths->cert)
        code = check_pair(out, paths, err);
    ERR_clear_error();
    return code;
}

static void forget(struct buffer *b)
{
    if (b->data)
        explicit_bzero(b->data, b->n_bytes);
    buffer_fini(b);
}

void pem_forget(struct pem_files *files)
{
    forget(&files->ca);
    forget(&files->cert);
    forget(&files->key);
}
