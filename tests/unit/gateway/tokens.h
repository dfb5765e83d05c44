/*
 * Keys and tokens for tests, and the files that hold them, in a folder that goes with the process. Include it in one file
 * of a program only.
 */
#ifndef TESTS_UNIT_GATEWAY_TOKENS_H
#define TESTS_UNIT_GATEWAY_TOKENS_H

#include "tests/suite.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <rhonabwy.h>
#include <sys/stat.h>
#include <unistd.h>

static char tokens_folder[] = "/tmp/bitnet-tokens-XXXXXX";

static inline void tokens_remove(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", tokens_folder);
    if (system(command) != 0)
        perror(command);
}

/* Path of a file of this name; a static buffer for each name used at a time. */
static inline const char *tokens_path(const char *name)
{
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    if (strstr(tokens_folder, "XXXXXX")) {
        ck_assert_ptr_nonnull(mkdtemp(tokens_folder));
        atexit(tokens_remove);
    }
    snprintf(path, sizeof paths[0], "%s/%s", tokens_folder, name);
    return path;
}

static inline const char *tokens_write(const char *name, const char *text, size_t n)
{
    const char *path = tokens_path(name);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(text, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
    return path;
}

static inline const char *tokens_text(const char *name, const char *text)
{
    return tokens_write(name, text, strlen(text));
}

struct tokens_pair {
    jwk_t *private, *public;
};

/* type R_KEY_TYPE_RSA, _EC or _EDDSA. */
static inline struct tokens_pair tokens_pair(int type, unsigned bits, const char *kid)
{
    struct tokens_pair p;
    ck_assert_int_eq(r_jwk_init(&p.private), RHN_OK);
    ck_assert_int_eq(r_jwk_init(&p.public), RHN_OK);
    ck_assert_int_eq(r_jwk_generate_key_pair(p.private, p.public, type, bits, kid), RHN_OK);
    return p;
}

static inline struct tokens_pair tokens_secret(const char *secret)
{
    struct tokens_pair p;
    ck_assert_int_eq(r_jwk_init(&p.private), RHN_OK);
    ck_assert_int_eq(r_jwk_import_from_symmetric_key(p.private, (const unsigned char *)secret, strlen(secret)), RHN_OK);
    p.public = r_jwk_copy(p.private);
    return p;
}

static inline void tokens_pair_free(struct tokens_pair *p)
{
    r_jwk_free(p->private);
    r_jwk_free(p->public);
}

static inline const char *tokens_pem(const char *name, jwk_t *key)
{
    unsigned char pem[8192];
    size_t n = sizeof pem;
    ck_assert_int_eq(r_jwk_export_to_pem_der(key, R_FORMAT_PEM, pem, &n, R_FLAG_IGNORE_REMOTE), RHN_OK);
    return tokens_write(name, (const char *)pem, n);
}

/* A set of these keys (ends with NULL). */
static inline const char *tokens_jwks(const char *name, jwk_t *const *keys)
{
    char text[32768] = "{\"keys\":[";
    for (int i = 0; keys[i]; i++) {
        char *one = r_jwk_export_to_json_str(keys[i], 0);
        strcat(strcat(text, i > 0 ? "," : ""), one);
        r_free(one);
    }
    return tokens_text(name, strcat(text, "]}"));
}

/* A token with these claims (JSON); kid may be NULL. To be freed with r_free. */
static inline char *tokens_sign(const struct tokens_pair *p, jwa_alg alg, const char *kid, const char *claims)
{
    jwt_t *jwt;
    ck_assert_int_eq(r_jwt_init(&jwt), RHN_OK);
    ck_assert_int_eq(r_jwt_set_sign_alg(jwt, alg), RHN_OK);
    ck_assert_int_eq(r_jwt_set_full_claims_json_str(jwt, claims), RHN_OK);
    if (kid)
        ck_assert_int_eq(r_jwt_set_header_str_value(jwt, "kid", kid), RHN_OK);
    char *token = r_jwt_serialize_signed(jwt, p->private, R_FLAG_IGNORE_REMOTE);
    ck_assert_ptr_nonnull(token);
    r_jwt_free(jwt);
    return token;
}

static inline void tokens_base64url(const void *data, size_t n, char *out)
{
    int length = EVP_EncodeBlock((unsigned char *)out, data, (int)n);
    for (int i = 0; i < length; i++)
        out[i] = out[i] == '+' ? '-' : out[i] == '/' ? '_' : out[i];
    out[strcspn(out, "=")] = '\0';
}

/* A token with any header and payload; `secret` NULL leaves `signature` as it is given. A static buffer. */
static inline char *tokens_forge(const char *header, const char *payload, const char *secret, const char *signature)
{
    static char token[65536];
    unsigned char mac[32];
    tokens_base64url(header, strlen(header), token);
    strcat(token, ".");
    tokens_base64url(payload, strlen(payload), token + strlen(token));
    if (secret) {
        HMAC(EVP_sha256(), secret, (int)strlen(secret), (const unsigned char *)token, strlen(token), mac, NULL);
        strcat(token, ".");
        tokens_base64url(mac, sizeof mac, token + strlen(token));
    } else if (signature) {
        strcat(strcat(token, "."), signature);
    }
    return token;
}

#endif
