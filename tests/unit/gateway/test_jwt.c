/* Tokens: what is taken, and all that is not. */
#include "gateway/jwt.h"
#include "tests/unit/gateway/tokens.h"

#define NOW 1700000000
#define SECRET "0123456789abcdef0123456789abcdef"
#define GOOD "{\"sub\":\"me\",\"exp\":1700000100}"

static struct jwt_options options = {.alg = "auto", .leeway_s = 30};
static struct jwt_keys *keys;
static struct client client;
static int64_t expires;
static struct error err;

static void open_keys(const char *file, const char *set, const char *alg)
{
    ck_assert_int_eq(jwt_init(&err), ERROR_NONE);
    options.key_file = file;
    options.jwks_file = set;
    options.alg = alg;
    ck_assert_msg(jwt_keys_load(&options, &keys, &err) == ERROR_NONE, "%s", err.message);
}

static bool takes(const char *token)
{
    memset(&client, 0, sizeof client);
    return jwt_verify(&options, keys, token, NOW, &client, &expires, &err) == ERROR_NONE;
}

static void refused(const char *token, const char *why)
{
    ck_assert_msg(!takes(token), "taken, though: %s", why);
    ck_assert_int_eq(err.code, ERROR_AUTHENTICATION_REQUIRED);
    ck_assert_msg(strstr(err.message, why), "%s: %s", why, err.message);
    ck_assert_ptr_null(strpbrk(err.message, "\"\\"));
}

static struct tokens_pair open_secret(void)
{
    open_keys(tokens_text("secret", SECRET "\n"), NULL, "HS256");
    return tokens_secret(SECRET);
}

START_TEST(takes_each_algorithm)
{
    static const struct {
        const char *name;
        jwa_alg alg;
        int type;
        unsigned bits;
    } kinds[] = {
        {"RS256", R_JWA_ALG_RS256, R_KEY_TYPE_RSA, 2048},
        {"ES256", R_JWA_ALG_ES256, R_KEY_TYPE_EC, 256},
        {"EdDSA", R_JWA_ALG_EDDSA, R_KEY_TYPE_EDDSA, 256},
    };
    for (size_t i = 0; i < 3; i++) {
        struct tokens_pair p = tokens_pair(kinds[i].type, kinds[i].bits, "k");
        char *token = tokens_sign(&p, kinds[i].alg, NULL, GOOD);
        open_keys(tokens_pem(kinds[i].name, p.public), NULL, i == 0 ? "auto" : kinds[i].name);
        ck_assert_msg(takes(token), "%s: %s", kinds[i].name, err.message);
        ck_assert_str_eq(client.id, "me");
        ck_assert_int_eq(client.kind, CLIENT_JWT);
        ck_assert_int_eq(expires, 1700000130);
        jwt_keys_free(keys);
        jwk_t *set[] = {p.public, NULL};
        open_keys(NULL, tokens_jwks("set", set), "auto");
        ck_assert_msg(takes(token), "%s of a set: %s", kinds[i].name, err.message);
        /* One bit of the signature. */
        char *last = token + strlen(token) - 10;
        *last = *last == 'A' ? 'B' : 'A';
        refused(token, "signature");
        jwt_keys_free(keys);
        r_free(token);
        tokens_pair_free(&p);
    }
    struct tokens_pair p = open_secret();
    char *token = tokens_sign(&p, R_JWA_ALG_HS256, "any kid", GOOD);
    ck_assert_msg(takes(token), "%s", err.message);
    r_free(token);
    tokens_pair_free(&p);
    jwt_keys_free(keys);
}
END_TEST

/* `none` in every spelling, and a signature that is no signature. */
START_TEST(none_does_not_exist)
{
    struct tokens_pair p = open_secret();
    static const char *const names[] = {"none", "None", "NONE", "nOnE", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char header[64];
        snprintf(header, sizeof header, "{\"alg\":\"%s\"}", names[i]);
        refused(tokens_forge(header, GOOD, NULL, ""), "neither");
        refused(tokens_forge(header, GOOD, NULL, "AAAA"), "no key");
        refused(tokens_forge(header, GOOD, SECRET, NULL), "no key");
    }
    refused(tokens_forge("{\"typ\":\"JWT\"}", GOOD, SECRET, NULL), "header");
    refused(tokens_forge("{\"alg\":1}", GOOD, SECRET, NULL), "header");
    refused(tokens_forge("{\"alg\":\"HS256\",\"alg\":\"none\"}", GOOD, SECRET, NULL), "header");
    tokens_pair_free(&p);
    jwt_keys_free(keys);
}
END_TEST

/* A public key is no secret, whatever a token says of its algorithm. */
START_TEST(public_key_is_no_secret)
{
    struct tokens_pair p = tokens_pair(R_KEY_TYPE_RSA, 2048, "k");
    const char *pem = tokens_pem("rsa", p.public);
    char text[8192] = "";
    FILE *f = fopen(pem, "r");
    ck_assert_uint_gt(fread(text, 1, sizeof text - 1, f), 0);
    fclose(f);
    open_keys(pem, NULL, "auto");
    refused(tokens_forge("{\"alg\":\"HS256\"}", GOOD, text, NULL), "no key");
    refused(tokens_forge("{\"alg\":\"RS256\"}", GOOD, text, NULL), "signature");
    text[strlen(text) - 1] = '\0';
    refused(tokens_forge("{\"alg\":\"HS256\",\"kid\":\"k\"}", GOOD, text, NULL), "no key");
    static const jwa_alg others[] = {R_JWA_ALG_RS384, R_JWA_ALG_RS512, R_JWA_ALG_PS256};
    for (size_t i = 0; i < 3; i++) {
        char *token = tokens_sign(&p, others[i], NULL, GOOD);
        refused(token, "no key");
        r_free(token);
    }
    jwt_keys_free(keys);
    ck_assert_int_ne(jwt_keys_load(&(struct jwt_options){.key_file = pem, .alg = "HS256"}, &keys, &err), ERROR_NONE);
    ck_assert_ptr_nonnull(strstr(err.message, "PEM"));
    tokens_pair_free(&p);
}
END_TEST

START_TEST(claims)
{
    static const struct {
        const char *payload, *why; /* NULL: taken */
    } cases[] = {
        {GOOD, NULL},
        {"{\"sub\":\"me\",\"exp\":1699999971}", NULL},
        {"{\"sub\":\"me\",\"exp\":1699999970}", "expired"},
        {"{\"sub\":\"me\",\"exp\":1699999970.5}", NULL},
        {"{\"sub\":\"me\",\"exp\":1e300}", NULL},
        {"{\"sub\":\"me\",\"exp\":-1}", "expired"},
        {"{\"sub\":\"me\"}", "no exp"},
        {"{\"sub\":\"me\",\"exp\":\"1700000100\"}", "numbers"},
        {"{\"sub\":\"me\",\"exp\":null}", "numbers"},
        {"{\"sub\":\"me\",\"exp\":true}", "numbers"},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"nbf\":1700000030}", NULL},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"nbf\":1700000031}", "nbf"},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"nbf\":[]}", "numbers"},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"iat\":1700000030}", NULL},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"iat\":1700000031}", "iat"},
        {"{\"exp\":1700000100}", "no client"},
        {"{\"sub\":7,\"exp\":1700000100}", "no client"},
        {"{\"sub\":\"\",\"exp\":1700000100}", "no client"},
        {"{\"sub\":\"a\\nb\",\"exp\":1700000100}", "no client"},
        {"{\"sub\":\"me\",\"client_id\":null,\"exp\":1700000100}", "no client"},
        {"{\"sub\":\"a\\u0000b\",\"exp\":1700000100}", "read"},
        {"[]", "claims"},
        {"null", "claims"},
        {"{", "read"},
    };
    struct tokens_pair p = open_secret();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *token = tokens_forge("{\"alg\":\"HS256\"}", cases[i].payload, SECRET, NULL);
        if (cases[i].why && strcmp(cases[i].why, "read") != 0 && strcmp(cases[i].why, "claims") != 0)
            refused(token, cases[i].why);
        else
            ck_assert_msg(takes(token) == !cases[i].why, "%s: %s", cases[i].payload, err.message);
    }
    tokens_pair_free(&p);
    jwt_keys_free(keys);
}
END_TEST

START_TEST(names_and_scopes)
{
    static const struct {
        const char *payload, *id;
        unsigned scopes;
    } cases[] = {
        {"{\"sub\":\"me\",\"client_id\":\"app\",\"exp\":1700000100}", "app", 0},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"scopes\":[\"model:read\",\"model:manage\",3,\"other\"]}", "me",
         SCOPE_MODEL_READ | SCOPE_MODEL_MANAGE},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"scope\":\"openid model:write  model:read\"}", "me",
         SCOPE_MODEL_READ | SCOPE_MODEL_WRITE},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"scopes\":\"model:read\",\"scope\":\"model:manage\"}", "me",
         SCOPE_MODEL_READ | SCOPE_MODEL_MANAGE},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"scopes\":{\"model:read\":true}}", "me", 0},
        {"{\"sub\":\"me\",\"exp\":1700000100,\"scopes\":\"model:reader model:\"}", "me", 0},
    };
    struct tokens_pair p = open_secret();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert(takes(tokens_forge("{\"alg\":\"HS256\"}", cases[i].payload, SECRET, NULL)));
        ck_assert_str_eq(client.id, cases[i].id);
        ck_assert_uint_eq(client.scopes, cases[i].scopes);
    }
    tokens_pair_free(&p);
    jwt_keys_free(keys);
}
END_TEST

START_TEST(issuer_and_audience)
{
    struct tokens_pair p = open_secret();
    options.issuer = "https://issuer";
    options.audience = "bitnet";
#define PARTIES(iss, aud)                                                                                              \
    tokens_forge("{\"alg\":\"HS256\"}", "{\"sub\":\"me\",\"exp\":1700000100" iss aud "}", SECRET, NULL)
    ck_assert(takes(PARTIES(",\"iss\":\"https://issuer\"", ",\"aud\":\"bitnet\"")));
    ck_assert(takes(PARTIES(",\"iss\":\"https://issuer\"", ",\"aud\":[1,\"x\",\"bitnet\"]")));
    refused(PARTIES("", ",\"aud\":\"bitnet\""), "issuer");
    refused(PARTIES(",\"iss\":\"https://issuer/\"", ",\"aud\":\"bitnet\""), "issuer");
    refused(PARTIES(",\"iss\":[\"https://issuer\"]", ",\"aud\":\"bitnet\""), "issuer");
    refused(PARTIES(",\"iss\":\"https://issuer\"", ""), "audience");
    refused(PARTIES(",\"iss\":\"https://issuer\"", ",\"aud\":[\"bitnetd\"]"), "audience");
    refused(PARTIES(",\"iss\":\"https://issuer\"", ",\"aud\":{\"bitnet\":1}"), "audience");
    options.issuer = options.audience = NULL;
    tokens_pair_free(&p);
    jwt_keys_free(keys);
}
END_TEST

START_TEST(kid_picks_the_key)
{
    struct tokens_pair a = tokens_pair(R_KEY_TYPE_EC, 256, "a"), b = tokens_pair(R_KEY_TYPE_EC, 256, "b");
    jwk_t *both[] = {a.public, b.public, NULL}, *one[] = {a.public, NULL};
    char *of_a = tokens_sign(&a, R_JWA_ALG_ES256, "a", GOOD), *of_b = tokens_sign(&b, R_JWA_ALG_ES256, "b", GOOD);
    char *wrong = tokens_sign(&a, R_JWA_ALG_ES256, "b", GOOD), *unknown = tokens_sign(&a, R_JWA_ALG_ES256, "c", GOOD);
    struct tokens_pair nameless = {r_jwk_copy(a.private), r_jwk_copy(a.public)};
    r_jwk_delete_property_str(nameless.private, "kid");
    char *bare = tokens_sign(&nameless, R_JWA_ALG_ES256, NULL, GOOD);
    open_keys(NULL, tokens_jwks("both", both), "ES256");
    ck_assert_uint_eq(jwt_keys_count(keys), 2);
    ck_assert(takes(of_a));
    ck_assert(takes(of_b));
    refused(wrong, "signature");
    refused(unknown, "no key");
    refused(bare, "no key");
    refused(tokens_forge("{\"alg\":\"ES256\",\"kid\":[\"a\"]}", GOOD, NULL, "AAAA"), "header");
    jwt_keys_free(keys);
    open_keys(NULL, tokens_jwks("one", one), "ES256");
    ck_assert(takes(bare));
    refused(of_b, "no key");
    jwt_keys_free(keys);
    r_free(of_a), r_free(of_b), r_free(wrong), r_free(unknown), r_free(bare);
    tokens_pair_free(&a);
    tokens_pair_free(&b);
    tokens_pair_free(&nameless);
}
END_TEST

/* A key that the token brings along is not looked at. */
START_TEST(embedded_keys_are_ignored)
{
    struct tokens_pair ours = tokens_pair(R_KEY_TYPE_EC, 256, "k"), theirs = tokens_pair(R_KEY_TYPE_EC, 256, "k");
    open_keys(tokens_pem("ec", ours.public), NULL, "ES256");
    jwt_t *jwt;
    r_jwt_init(&jwt);
    r_jwt_set_sign_alg(jwt, R_JWA_ALG_ES256);
    r_jwt_set_full_claims_json_str(jwt, GOOD);
    json_t *embedded = r_jwk_export_to_json_t(theirs.public);
    r_jwt_set_header_json_t_value(jwt, "jwk", embedded);
    r_jwt_set_header_str_value(jwt, "jku", "http://127.0.0.1:9/keys");
    char *token = r_jwt_serialize_signed(jwt, theirs.private, R_FLAG_IGNORE_REMOTE);
    refused(token, "signature");
    json_decref(embedded);
    r_free(token);
    r_jwt_free(jwt);
    jwt_keys_free(keys);
    tokens_pair_free(&ours);
    tokens_pair_free(&theirs);
}
END_TEST

START_TEST(form)
{
    struct tokens_pair p = open_secret();
    char *token = strdup(tokens_forge("{\"alg\":\"HS256\"}", GOOD, SECRET, NULL));
    char text[16384];
    ck_assert(jwt_has_form(token));
    static const char *const forms[] = {
        "",       ".",         "..",         "a.b",      "a.b.c.d",  "aa.bb.cc.dd.ee", "aa..cc", "aa.bb.",
        ".bb.cc", "aa.b b.cc", "aa.bb.cc\n", "aa.b+.cc", "aa.b=.cc", "\xC3\xA9.bb.cc", "{}"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        refused(forms[i], "neither");
    for (size_t i = 0; token[i]; i++) { /* every character counts */
        strcpy(text, token);
        text[i] = text[i] == '.' ? 'A' : text[i] == 'Q' ? 'Z' : 'Q';
        ck_assert_msg(!takes(text) || i == strlen(token) - 1, "changed at %zu", i);
    }
    memset(text, 'A', sizeof text);
    strcpy(text + JWT_MAX_BYTES, ".bb.cc");
    refused(text, "neither");
    memset(text, 'A', JWT_MAX_BYTES);
    strcpy(text + JWT_MAX_BYTES - 6, ".bb.cc");
    refused(text, "header");
    refused(tokens_forge("{\"alg\":\"HS256\",\"crit\":[\"exp\"]}", GOOD, SECRET, NULL), "extension");
    refused(tokens_forge("{\"alg\":\"HS256\",\"zip\":\"DEF\"}", GOOD, SECRET, NULL), "extension");
    free(token);
    tokens_pair_free(&p);
    jwt_keys_free(keys);
}
END_TEST

static void bad_keys(const char *file, const char *set, const char *alg, const char *why)
{
    const struct jwt_options o = {.key_file = file, .jwks_file = set, .alg = alg};
    ck_assert_msg(jwt_keys_load(&o, &keys, &err) != ERROR_NONE, "%s", why);
    ck_assert_msg(strstr(err.message, why), "%s: %s", why, err.message);
}

START_TEST(key_files)
{
    struct tokens_pair ec = tokens_pair(R_KEY_TYPE_EC, 256, "k"), p384 = tokens_pair(R_KEY_TYPE_EC, 384, "k");
    struct tokens_pair small = tokens_pair(R_KEY_TYPE_RSA, 1024, "k"), secret = tokens_secret("too short");
    jwk_t *useless[] = {p384.public, small.public, ec.private, secret.public, NULL};
    jwk_t *mixed[] = {p384.public, ec.public, NULL};
    jwt_init(&err);
    bad_keys(tokens_path("nothing"), NULL, "auto", "nothing: No such file");
    bad_keys(tokens_folder, NULL, "auto", "expected a file");
    bad_keys(tokens_text("empty", ""), NULL, "auto", "public key in PEM");
    bad_keys(tokens_text("text", SECRET), NULL, "auto", "jwt-alg HS256");
    bad_keys(tokens_text("short", "too short"), NULL, "HS256", "at least 32 bytes, found 9");
    bad_keys(tokens_pem("ec", ec.public), NULL, "RS256", "expected a key for RS256, found one for ES256");
    bad_keys(tokens_pem("ec", ec.private), NULL, "auto", "public key");
    bad_keys(tokens_pem("p384", p384.public), NULL, "auto", "P-256");
    bad_keys(tokens_pem("small", small.public), NULL, "auto", "2048 bits");
    bad_keys("a", "b", "auto", "found both");
    bad_keys(NULL, tokens_text("json", "{\"keys\":"), "auto", ":1:");
    bad_keys(NULL, tokens_text("json", "[]"), "auto", "expected {\"keys\": [...]}");
    bad_keys(NULL, tokens_text("json", "{\"keys\":[7]}"), "auto", "keys[0]");
    bad_keys(NULL, tokens_text("json", "{\"keys\":[{\"kty\":\"RSA\"}]}"), "auto", "keys[0]");
    bad_keys(NULL, tokens_text("json", "{\"keys\":[]}"), "auto", "at least one key");
    bad_keys(NULL, tokens_jwks("json", useless), "auto", "at least one key");
    bad_keys(NULL, tokens_jwks("json", mixed), "RS256", "at least one key");
    open_keys(NULL, tokens_jwks("json", mixed), "auto");
    ck_assert_uint_eq(jwt_keys_count(keys), 1);
    jwt_keys_free(keys);
    tokens_pair_free(&ec), tokens_pair_free(&p384), tokens_pair_free(&small), tokens_pair_free(&secret);
}
END_TEST

SUITE("jwt", takes_each_algorithm, none_does_not_exist, public_key_is_no_secret, claims, names_and_scopes,
      issuer_and_audience, kid_picks_the_key, embedded_keys_are_ignored, form, key_files)
