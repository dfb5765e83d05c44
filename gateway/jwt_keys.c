/* Loading of key files and key sets. */
#include "gateway/jwt_keys.h"

#include "base/file.h"
#include "base/log.h"

#include <jansson.h>
#include <rhonabwy.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES (1 << 20)
#define MAX_KEYS 64
#define MIN_RSA_BITS 2048
#define MIN_SECRET_BYTES 32 /* RFC 7518 section 3.2: as long as the hash */

struct jwk_key {
    jwk_t *jwk;      /* owned */
    const char *alg; /* the one it takes */
    const char *kid; /* of jwk, or NULL */
};

struct jwt_keys {
    struct jwk_key keys[MAX_KEYS];
    size_t n;
    bool set; /* from a JWKS: the kid decides */
};

static bool given(const char *text)
{
    return text && text[0] != '\0';
}

static bool same(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

/* The algorithm of a public key or a secret, by its type; NULL with the reason in `why`. */
static const char *alg_of(jwk_t *jwk, const char **why)
{
    unsigned bits = 0;
    int type = r_jwk_key_type(jwk, &bits, R_FLAG_IGNORE_REMOTE);
    const char *curve = r_jwk_get_property_str(jwk, "crv");
    *why = "expected RSA, EC P-256 or Ed25519";
    if (type & R_KEY_TYPE_PRIVATE)
        *why = "expected a public key, found a private one";
    else if (type & R_KEY_TYPE_HMAC)
        return "HS256";
    else if (type & R_KEY_TYPE_RSA && bits < MIN_RSA_BITS)
        *why = "expected at least 2048 bits of RSA";
    else if (type & R_KEY_TYPE_RSA)
        return "RS256";
    else if (type & R_KEY_TYPE_EC && same(curve, "P-256"))
        return "ES256";
    else if (type & R_KEY_TYPE_EDDSA && same(curve, "Ed25519"))
        return "EdDSA";
    return NULL;
}

static size_t secret_bytes(jwk_t *jwk)
{
    const char *base64 = r_jwk_get_property_str(jwk, "k");
    return base64 ? strlen(base64) * 3 / 4 : 0;
}

/* ---- a file with one key ---- */

static enum error_code load_secret(const char *path, struct buffer *text, jwk_t *jwk, struct error *err)
{
    while (text->n_bytes > 0 && (text->data[text->n_bytes - 1] == '\n' || text->data[text->n_bytes - 1] == '\r'))
        text->n_bytes--; /* as an editor leaves it */
    if (memmem(text->data ? text->data : "", text->n_bytes, "-----BEGIN", 10))
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: expected the secret of HS256, found a PEM key", path);
    if (text->n_bytes < MIN_SECRET_BYTES)
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: expected a secret of at least %d bytes, found %zu", path,
                         MIN_SECRET_BYTES, text->n_bytes);
    return r_jwk_import_from_symmetric_key(jwk, (const unsigned char *)text->data, text->n_bytes) == RHN_OK
               ? ERROR_NONE
               : error_set(err, ERROR_INTERNAL, "%s: the secret cannot be used", path);
}

static enum error_code load_pem(const struct jwt_options *o, const struct buffer *text, struct jwk_key *key,
                                struct error *err)
{
    const char *why;
    if (r_jwk_import_from_pem_der(key->jwk, R_X509_TYPE_PUBKEY, R_FORMAT_PEM,
                                  (const unsigned char *)(text->data ? text->data : ""), text->n_bytes) != RHN_OK)
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "%s: expected a public key in PEM (a secret needs jwt-alg HS256)", o->key_file);
    key->alg = alg_of(key->jwk, &why);
    if (!key->alg)
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: %s", o->key_file, why);
    if (!same(o->alg, "auto") && !same(o->alg, key->alg))
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: expected a key for %s, found one for %s", o->key_file,
                         o->alg, key->alg);
    return ERROR_NONE;
}

static enum error_code load_one(const struct jwt_options *o, struct jwt_keys *keys, struct error *err)
{
    struct jwk_key *key = &keys->keys[0];
    struct buffer text;
    buffer_init(&text, MAX_FILE_BYTES);
    enum error_code code = file_read(o->key_file, &text, err);
    if (code == ERROR_NONE && r_jwk_init(&key->jwk) != RHN_OK)
        code = error_set(err, ERROR_INTERNAL, "out of memory");
    if (code == ERROR_NONE) {
        keys->n = 1;
        key->alg = "HS256";
        code = same(o->alg, "HS256") ? load_secret(o->key_file, &text, key->jwk, err) : load_pem(o, &text, key, err);
    }
    buffer_fini(&text);
    return code;
}

/* ---- a set ---- */

/* Whether this key of a set is for us, and then for which algorithm. */
static const char *usable(const struct jwt_options *o, jwk_t *jwk, const char **why)
{
    const char *use = r_jwk_get_property_str(jwk, "use"), *named = r_jwk_get_property_str(jwk, "alg");
    const char *alg = alg_of(jwk, why);
    if (use && !same(use, "sig"))
        *why = "not for signatures";
    else if (alg && named && !same(named, alg))
        *why = "for an algorithm that is not supported";
    else if (alg && !same(o->alg, "auto") && !same(o->alg, alg))
        *why = "for another algorithm than jwt-alg";
    else if (same(alg, "HS256") && secret_bytes(jwk) < MIN_SECRET_BYTES)
        *why = "expected a secret of at least 32 bytes";
    else
        return alg;
    return NULL;
}

static enum error_code add_key(const struct jwt_options *o, struct jwt_keys *keys, size_t index, const json_t *json,
                               struct error *err)
{
    jwk_t *jwk = NULL;
    const char *why = NULL;
    if (r_jwk_init(&jwk) != RHN_OK)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    if (!json_is_object(json) || r_jwk_import_from_json_t(jwk, (json_t *)(uintptr_t)json) != RHN_OK) {
        r_jwk_free(jwk);
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: expected a JSON Web Key in keys[%zu]", o->jwks_file, index);
    }
    const char *alg = usable(o, jwk, &why);
    if (!alg) {
        log_warn("gateway", "a key of the set is left out", LOG_STR("file", o->jwks_file), LOG_INT("index", index),
                 LOG_STR("reason", why));
        r_jwk_free(jwk);
        return ERROR_NONE;
    }
    if (keys->n == MAX_KEYS) {
        r_jwk_free(jwk);
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: expected at most %d keys", o->jwks_file, MAX_KEYS);
    }
    keys->keys[keys->n++] = (struct jwk_key){jwk, alg, r_jwk_get_property_str(jwk, "kid")};
    return ERROR_NONE;
}

static enum error_code load_set(const struct jwt_options *o, struct jwt_keys *keys, struct error *err)
{
    struct buffer text;
    json_error_t where;
    buffer_init(&text, MAX_FILE_BYTES);
    keys->set = true;
    enum error_code code = file_read(o->jwks_file, &text, err);
    json_t *set = code == ERROR_NONE
                      ? json_loadb(text.data ? text.data : "", text.n_bytes, JSON_REJECT_DUPLICATES, &where)
                      : NULL;
    const json_t *list = json_object_get(set, "keys");
    if (code == ERROR_NONE && !set)
        code = error_set(err, ERROR_VALIDATION_FAILED, "%s:%d: %s", o->jwks_file, where.line, where.text);
    else if (code == ERROR_NONE && !json_is_array(list))
        code = error_set(err, ERROR_VALIDATION_FAILED, "%s: expected {\"keys\": [...]}", o->jwks_file);
    for (size_t i = 0; code == ERROR_NONE && i < json_array_size(list); i++)
        code = add_key(o, keys, i, json_array_get(list, i), err);
    if (code == ERROR_NONE && keys->n == 0)
        code = error_set(err, ERROR_VALIDATION_FAILED, "%s: expected at least one key that can verify a token",
                         o->jwks_file);
    json_decref(set);
    buffer_fini(&text);
    return code;
}

enum error_code jwt_keys_load(const struct jwt_options *options, struct jwt_keys **out, struct error *err)
{
    if (given(options->key_file) && given(options->jwks_file))
        return error_set(err, ERROR_VALIDATION_FAILED, "expected jwt-key or jwt-jwks, found both");
    struct jwt_keys *keys = calloc(1, sizeof *keys);
    if (!keys)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    enum error_code code = given(options->jwks_file) ? load_set(options, keys, err) : load_one(options, keys, err);
    if (code == ERROR_NONE)
        *out = keys;
    else
        jwt_keys_free(keys);
    return code;
}

void jwt_keys_free(struct jwt_keys *keys)
{
    for (size_t i = 0; keys && i < keys->n; i++)
        r_jwk_free(keys->keys[i].jwk);
    free(keys);
}

size_t jwt_keys_count(const struct jwt_keys *keys)
{
    return keys->n;
}

const struct jwk_key *jwt_keys_find(const struct jwt_keys *keys, const char *alg, const char *kid)
{
    const struct jwk_key *found = NULL;
    for (size_t i = 0; i < keys->n; i++) {
        const struct jwk_key *key = &keys->keys[i];
        if (!same(key->alg, alg) || (keys->set && kid && !same(key->kid, kid)))
            continue;
        if (found)
            return keys->set && kid ? found : NULL; /* which one is not said */
        found = key;
    }
    return found;
}

void *jwk_key_handle(const struct jwk_key *key)
{
    return key->jwk;
}
