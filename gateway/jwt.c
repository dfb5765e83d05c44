/* Verification of tokens: form, header, signature, claims - the cheap before the costly. */
#include "gateway/jwt.h"

#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <rhonabwy.h>
#include <string.h>

#define MAX_HEADER_BYTES 1024 /* as text; names alg, kid, typ */

enum error_code jwt_init(struct error *err)
{
    return r_global_init() == RHN_OK ? ERROR_NONE : error_set(err, ERROR_INTERNAL, "cannot start the token library");
}

void jwt_fini(void)
{
    r_global_close();
}

static enum error_code refuse(struct error *err, const char *message)
{
    return error_set(err, ERROR_AUTHENTICATION_REQUIRED, "%s", message);
}

/* ---- form ---- */

#define BASE64URL "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

bool jwt_has_form(const char *token)
{
    const char *p = token;
    for (int part = 0; part < 3; part++) {
        size_t n = strspn(p, BASE64URL);
        if (n == 0 || n % 4 == 1 || p[n] != (part < 2 ? '.' : '\0'))
            return false;
        p += n + (part < 2);
    }
    return p - token <= JWT_MAX_BYTES;
}

/* The header as JSON, owned by the caller; NULL when it is none. Read here because the library would unpack a compressed
 * payload before anybody could object. */
static json_t *header_of(const char *token)
{
    unsigned char text[MAX_HEADER_BYTES + 4], out[sizeof text];
    size_t n = strcspn(token, "."), n_padded = (n + 3) / 4 * 4;
    if (n > MAX_HEADER_BYTES)
        return NULL;
    for (size_t i = 0; i < n_padded; i++)
        text[i] = i >= n ? '=' : token[i] == '-' ? '+' : token[i] == '_' ? '/' : (unsigned char)token[i];
    int n_out = EVP_DecodeBlock(out, text, (int)n_padded);
    if (n_out < (int)(n_padded - n))
        return NULL;
    return json_loadb((const char *)out, (size_t)n_out - (n_padded - n), JSON_REJECT_DUPLICATES, NULL);
}

/* ---- claims ---- */

/* A NumericDate (RFC 7519 section 2). False when it is there and not a number. */
static bool date_claim(const json_t *claims, const char *name, double *out)
{
    const json_t *v = json_object_get(claims, name);
    *out = NAN;
    if (v && !json_is_number(v))
        return false;
    if (v)
        *out = json_number_value(v);
    return true;
}

static enum error_code check_dates(const json_t *claims, int64_t now_s, int64_t leeway_s, int64_t *expires_s,
                                   struct error *err)
{
    double exp, nbf, iat, now = (double)now_s, leeway = (double)leeway_s;
    if (!date_claim(claims, "exp", &exp) || !date_claim(claims, "nbf", &nbf) || !date_claim(claims, "iat", &iat))
        return refuse(err, "exp, nbf and iat of the token must be numbers of seconds");
    if (isnan(exp))
        return refuse(err, "the token has no exp");
    if (now >= exp + leeway)
        return refuse(err, "the token has expired");
    if (now < nbf - leeway)
        return refuse(err, "the token is not valid yet (nbf)");
    if (now < iat - leeway)
        return refuse(err, "the token was issued in the future (iat)");
    *expires_s = exp + leeway < 9e15 ? (int64_t)(exp + leeway) : INT64_C(9000000000000000);
    return ERROR_NONE;
}

static bool has_audience(const json_t *claims, const char *audience)
{
    const json_t *aud = json_object_get(claims, "aud");
    if (json_is_string(aud))
        return strcmp(json_string_value(aud), audience) == 0;
    for (size_t i = 0; i < json_array_size(aud); i++)
        if (json_is_string(json_array_get(aud, i)) && strcmp(json_string_value(json_array_get(aud, i)), audience) == 0)
            return true;
    return false;
}

static enum error_code check_parties(const json_t *claims, const struct jwt_options *o, struct error *err)
{
    const char *issuer = json_string_value(json_object_get(claims, "iss"));
    if (o->issuer && o->issuer[0] != '\0' && (!issuer || strcmp(issuer, o->issuer) != 0))
        return refuse(err, "the token is from another issuer (iss)");
    if (o->audience && o->audience[0] != '\0' && !has_audience(claims, o->audience))
        return refuse(err, "the token is for another audience (aud)");
    return ERROR_NONE;
}

/* `scopes` or `scope`: an array, or words in a string. What is not known is another server's. */
static unsigned scopes_of(const json_t *claims)
{
    static const char *const names[] = {"scopes", "scope"};
    unsigned found = 0;
    for (size_t k = 0; k < 2; k++) {
        const json_t *v = json_object_get(claims, names[k]);
        if (json_is_string(v))
            found |= scopes_from_list(json_string_value(v), " ", NULL);
        for (size_t i = 0; i < json_array_size(v); i++) {
            const json_t *one = json_array_get(v, i);
            if (json_is_string(one))
                found |= scope_from_name(json_string_value(one), json_string_length(one));
        }
    }
    return found;
}

static enum error_code read_claims(const json_t *claims, const struct jwt_options *o, int64_t now_s,
                                   struct client *client, int64_t *expires_s, struct error *err)
{
    enum error_code code = check_dates(claims, now_s, o->leeway_s, expires_s, err);
    if (code == ERROR_NONE)
        code = check_parties(claims, o, err);
    if (code != ERROR_NONE)
        return code;
    const json_t *named = json_object_get(claims, "client_id"), *id = named ? named : json_object_get(claims, "sub");
    if (!json_is_string(id) || !client_id_valid(json_string_value(id)))
        return refuse(err, "the token names no client: expected client_id or sub of 1 to 128 bytes");
    *client = (struct client){.scopes = scopes_of(claims), .kind = CLIENT_JWT};
    memcpy(client->id, json_string_value(id), json_string_length(id) + 1);
    return ERROR_NONE;
}

/* ---- all of it ---- */

static const struct jwk_key *pick_key(const struct jwt_keys *keys, const char *token, struct error *err)
{
    const struct jwk_key *key = NULL;
    json_t *header = header_of(token);
    const char *alg = json_string_value(json_object_get(header, "alg"));
    const json_t *kid = json_object_get(header, "kid");
    if (!alg || (kid && !json_is_string(kid)))
        refuse(err, "the header of the token cannot be read");
    else if (json_object_get(header, "crit") || json_object_get(header, "zip"))
        refuse(err, "the token uses an extension that is not supported (crit, zip)");
    else if (!(key = jwt_keys_find(keys, alg, json_string_value(kid))))
        refuse(err, "no key of this server fits the token (alg, kid)");
    json_decref(header);
    return key;
}

enum error_code jwt_verify(const struct jwt_options *options, const struct jwt_keys *keys, const char *token,
                           int64_t now_s, struct client *client, int64_t *expires_s, struct error *err)
{
    if (!jwt_has_form(token))
        return refuse(err, "the token is neither a known key nor a signed JWT");
    const struct jwk_key *key = pick_key(keys, token, err);
    if (!key)
        return ERROR_AUTHENTICATION_REQUIRED;
    enum error_code code = ERROR_AUTHENTICATION_REQUIRED;
    jwt_t *jwt = NULL;
    json_t *claims = NULL;
    if (r_jwt_init(&jwt) != RHN_OK)
        code = error_set(err, ERROR_INTERNAL, "out of memory");
    else if (r_jwt_advanced_parse(jwt, token, R_PARSE_NONE, R_FLAG_IGNORE_REMOTE) != RHN_OK)
        refuse(err, "the token cannot be read");
    else if (r_jwt_verify_signature(jwt, jwk_key_handle(key), R_FLAG_IGNORE_REMOTE) != RHN_OK)
        refuse(err, "the signature of the token is not valid");
    else if (!(claims = r_jwt_get_full_claims_json_t(jwt)) || !json_is_object(claims))
        refuse(err, "the token has no claims");
    else
        code = read_claims(claims, options, now_s, client, expires_s, err);
    json_decref(claims);
    r_jwt_free(jwt);
    return code;
}
