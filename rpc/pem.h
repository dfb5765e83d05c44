/* pem: certificates and keys in PEM files, checked before gRPC gets them: it says little of what it does not like. Nobody outside rpc/
 * includes this. */
#ifndef RPC_PEM_H
#define RPC_PEM_H

#include "base/buffer.h"
#include "base/error.h"

/* Borrowed; NULL = none. Certificate and key come together. */
struct pem_paths {
    const char *ca, *cert, *key;
};

/* The files' texts, NUL-terminated; data is NULL where there is none. */
struct pem_files {
    struct buffer ca, cert, key;
};

/* Reads the files. An error says which file is no certificate or key, or which key is not the certificate's. `out` is to be given to
 * pem_forget in either case. Any thread. */
enum error_code pem_read(struct pem_files *out, const struct pem_paths *paths, struct error *err);
/* Frees; a private key does not stay behind in freed memory. */
void pem_forget(struct pem_files *files);

#endif
