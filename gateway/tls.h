/*
 * TLS for the listeners: one certificate, key and optional client CA from PEM files, taken anew when the files change. A new
 * set that does not fit together is refused and the old one stays. Connections keep what they began with.
 *
 * TLS 1.2 with forward secrecy and authenticated ciphers only, and TLS 1.3; ALPN h2 and http/1.1; tickets instead of a
 * session cache, under keys that live a day at most; no compression, no renegotiation, no early data.
 */
#ifndef GATEWAY_TLS_H
#define GATEWAY_TLS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ssl_st;
struct tls;

struct tls_files {
    const char *cert, *key; /* PEM; the certificate with its chain */
    const char *client_ca;  /* NULL: clients need no certificate; else one that this CA signed */
    const char *client_id;  /* what of it names the client: "none" (or NULL), "cn" or "uri" */
};

/* Reads the files (borrowed until tls_close). Errors name the file and what is wrong with it. */
enum error_code tls_open(const struct tls_files *files, struct tls **out, struct error *err);
void tls_close(struct tls *t);
/* A server's side of a new connection, the caller's; NULL when memory is out. Any thread. */
struct ssl_st *tls_session(struct tls *t);
/* What names the client of a session whose handshake is over, by files.client_id: the common name, or the first URI among the alternative names.
 * False when there is none, or it does not fit. Any thread. */
bool tls_client_name(const struct tls *t, const struct ssl_st *ssl, char *out, size_t n);
/* Reads the files again; on an error what was stays. Any thread. */
enum error_code tls_reload(struct tls *t, struct error *err);
/* Reloads when a file has changed since the last look, when ticket keys are a day old, or when `now`; logs what it did. One
 * thread. */
void tls_watch(struct tls *t, int64_t now_ns, bool now);
/* When the certificate ends, in seconds since 1970. Any thread. */
int64_t tls_expires_s(struct tls *t);

#endif
