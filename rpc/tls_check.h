/* Whether PEM files are what TLS needs, said before anything listens or connects. gRPC itself tells no reasons. */
#ifndef RPC_TLS_CHECK_H
#define RPC_TLS_CHECK_H

#include "base/error.h"

/* The files' option names, for errors: "tls-cert". */
struct tls_check {
    const char *cert_name, *cert; /* PEM file of a certificate with its chain; NULL: none */
    const char *key_name, *key;   /* of its key; not NULL with cert */
    const char *ca_name, *ca;     /* of the CA that the other side is verified with; NULL: none */
};

/* Reads the files: each must be there, the key must be the certificate's, the CA a certificate. Any thread. */
enum error_code tls_check(const struct tls_check *files, struct error *err);

#endif
