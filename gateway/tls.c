/*
 * One SSL_CTX at a time, replaced as a whole: OpenSSL counts references, so that a connection's context lives as long as it.
 *
 * A pair that is replaced one file after the other fails once and is taken when its second file is there.
 */
#include "gateway/tls.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TICKET_KEYS_NS (86400 * CLOCK_NS_PER_S)
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20" /* of TLS 1.2; what HTTP/2 allows (RFC 9113 appendix A) */

#define N_FILES 3

struct tls {
    struct tls_files files;
    struct file_watch watches[N_FILES]; /* the watching thread's */
    int64_t loaded_ns;
    pthread_mutex_t lock; /* guards what follows */
    SSL_CTX *context;
    int64_t expires_s;
};

/* ---- a context ---- */

/* The first of OpenSSL's reasons, and its queue emptied. */
static enum error_code refuse(struct error *err, const char *what, const char *path)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    error_set(err, ERROR_INVALID_REQUEST, "%s %s: %s", what, path, reason ? reason : "not readable");
    ERR_clear_error();
    return ERROR_INVALID_REQUEST;
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *n_out, const unsigned char *in,
                           unsigned n_in, void *user)
{
    static const unsigned char ours[] = "\x02h2\x08http/1.1";
    (void)ssl, (void)user;
    /* The cast is OpenSSL's: it writes a pointer into one of the two lists. */
    return SSL_select_next_proto((unsigned char **)(uintptr_t)out, n_out, ours, sizeof ours - 1, in, n_in) ==
                   OPENSSL_NPN_NEGOTIATED
               ? SSL_TLSEXT_ERR_OK
               : SSL_TLSEXT_ERR_ALERT_FATAL; /* RFC 7301: none in common */
}

static void harden(SSL_CTX *c)
{
    SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION);
    SSL_CTX_set_cipher_list(c, CIPHERS);
    SSL_CTX_set_options(c, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_PRIORITIZE_CHACHA |
                               SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS); /* an idle connection keeps no record buffers */
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_alpn_select_cb(c, choose_protocol, NULL);
}

static enum error_code ask_for_clients(SSL_CTX *c, const char *ca, struct error *err)
{
    static const unsigned char id[] = "bitnet-gateway"; /* a ticket is good for this service only */
    SSL_CTX_set_session_id_context(c, id, sizeof id - 1);
    if (!ca)
        return ERROR_NONE;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(ca);
    if (!names || SSL_CTX_load_verify_locations(c, ca, NULL) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return refuse(err, "client CA", ca);
    }
    SSL_CTX_set_client_CA_list(c, names); /* takes it */
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return ERROR_NONE;
}

static enum error_code fill(SSL_CTX *c, const struct tls_files *f, struct error *err)
{
    harden(c);
    if (SSL_CTX_use_certificate_chain_file(c, f->cert) != 1)
        return refuse(err, "certificate", f->cert);
    if (SSL_CTX_use_PrivateKey_file(c, f->key, SSL_FILETYPE_PEM) != 1)
        return refuse(err, "key", f->key);
    if (SSL_CTX_check_private_key(c) != 1)
        return refuse(err, "key", f->key);
    return ask_for_clients(c, f->client_ca, err);
}

static int64_t expiry(SSL_CTX *c)
{
    struct tm tm;
    const X509 *cert = SSL_CTX_get0_certificate(c);
    return cert && ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

enum error_code tls_reload(struct tls *t, struct error *err)
{
    ERR_clear_error();
    SSL_CTX *c = SSL_CTX_new(TLS_server_method()), *old = NULL;
    if (!c)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    enum error_code code = fill(c, &t->files, err);
    if (code != ERROR_NONE) {
        SSL_CTX_free(c);
        return code;
    }
    pthread_mutex_lock(&t->lock);
    old = t->context;
    t->context = c;
    t->expires_s = expiry(c);
    pthread_mutex_unlock(&t->lock);
    SSL_CTX_free(old);
    return ERROR_NONE;
}

/* ---- watching ---- */

/* Before the files are read, so that a change in between is seen at the next look. */
static void mark(struct tls *t)
{
    for (int i = 0; i < N_FILES; i++)
        file_watch_mark(&t->watches[i]);
}

void tls_watch(struct tls *t, int64_t now_ns, bool now)
{
    struct error err = {0};
    bool changed = now;
    for (int i = 0; i < N_FILES; i++)
        changed |= file_watch_changed(&t->watches[i]);
    if (!changed && now_ns - t->loaded_ns < TICKET_KEYS_NS)
        return;
    mark(t);
    t->loaded_ns = now_ns;
    if (tls_reload(t, &err) != ERROR_NONE)
        log_error("gateway", "certificate not taken, the old one stays", LOG_STR("reason", err.message));
    else if (changed)
        log_info("gateway", "certificate taken", LOG_STR("file", t->files.cert), LOG_INT("expires", tls_expires_s(t)));
}

/* ---- */

enum error_code tls_open(const struct tls_files *files, struct tls **out, struct error *err)
{
    struct tls *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    t->files = *files;
    pthread_mutex_init(&t->lock, NULL);
    t->watches[0].path = files->cert;
    t->watches[1].path = files->key;
    t->watches[2].path = files->client_ca;
    mark(t);
    t->loaded_ns = clock_now_ns();
    enum error_code code = tls_reload(t, err);
    if (code != ERROR_NONE)
        tls_close(t);
    else
        *out = t;
    return code;
}

void tls_close(struct tls *t)
{
    if (!t)
        return;
    SSL_CTX_free(t->context);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

struct ssl_st *tls_session(struct tls *t)
{
    pthread_mutex_lock(&t->lock);
    SSL *ssl = SSL_new(t->context); /* takes a reference of the context */
    pthread_mutex_unlock(&t->lock);
    return ssl;
}

int64_t tls_expires_s(struct tls *t)
{
    pthread_mutex_lock(&t->lock);
    int64_t s = t->expires_s;
    pthread_mutex_unlock(&t->lock);
    return s;
}

/* ---- names of clients ---- */

/* The text, if it has no NUL inside and fits. */
static bool take_name(const unsigned char *text, int n_bytes, char *out, size_t n)
{
    if (n_bytes <= 0 || (size_t)n_bytes >= n || memchr(text, '\0', (size_t)n_bytes))
        return false;
    memcpy(out, text, (size_t)n_bytes);
    out[n_bytes] = '\0';
    return true;
}

static bool common_name(const X509 *cert, char *out, size_t n)
{
    const X509_NAME *subject = X509_get_subject_name(cert);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    unsigned char *text = NULL;
    int n_bytes = at < 0 ? -1 : ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    bool taken = n_bytes > 0 && take_name(text, n_bytes, out, n);
    OPENSSL_free(text);
    return taken;
}

static bool first_uri(const X509 *cert, char *out, size_t n)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool taken = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        const ASN1_IA5STRING *uri = name->d.uniformResourceIdentifier;
        taken = take_name(ASN1_STRING_get0_data(uri), ASN1_STRING_length(uri), out, n);
        break;
    }
    GENERAL_NAMES_free(names);
    return taken;
}

bool tls_client_name(const struct tls *t, const struct ssl_st *ssl, char *out, size_t n)
{
    const char *by = t ? t->files.client_id : NULL;
    X509 *cert = by && strcmp(by, "none") != 0 ? SSL_get0_peer_certificate(ssl) : NULL;
    bool found = cert && (strcmp(by, "uri") == 0 ? first_uri : common_name)(cert, out, n);
    ERR_clear_error();
    return found;
}
