/* Keys, tokens and the memory of verified tokens, with the files behind them. */
#include "gateway/auth.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "gateway/keys.h"

#include <openssl/sha.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_SETS 256
#define CACHE_WAYS 4
#define LOOK_NS CLOCK_NS_PER_S

/* A verified token. */
struct verified {
    unsigned char hash[SHA256_DIGEST_LENGTH];
    int64_t expires_s; /* 0: empty */
    struct client client;
};

/* Keys of tokens that a verification may still use after they were replaced. */
struct jwt_set {
    struct jwt_keys *keys;
    int n_users; /* under auth.lock */
};

struct auth {
    struct jwt_options options;
    bool enabled;
    pthread_mutex_t lock; /* of all below */
    struct file_watch jwt_file, keys_file;
    struct jwt_set *jwt; /* NULL: tokens are not taken */
    struct keys *keys;   /* NULL: API keys are not taken */
    uint64_t generation; /* of the files; what began with an older one is not remembered */
    int64_t looked_ns;
    struct verified cache[CACHE_SETS][CACHE_WAYS];
};

static bool given(const char *text)
{
    return text && text[0] != '\0';
}

/* ---- files; under the lock ---- */

static void jwt_set_put(struct jwt_set *set)
{
    if (set && --set->n_users == 0) {
        jwt_keys_free(set->keys);
        free(set);
    }
}

static void forget(struct auth *a)
{
    a->generation++;
    memset(a->cache, 0, sizeof a->cache);
}

static enum error_code load_jwt(struct auth *a, struct error *err)
{
    struct jwt_set *set = calloc(1, sizeof *set);
    file_watch_mark(&a->jwt_file);
    enum error_code code =
        set ? jwt_keys_load(&a->options, &set->keys, err) : error_set(err, ERROR_INTERNAL, "out of memory");
    if (code != ERROR_NONE) {
        free(set);
        return code;
    }
    set->n_users = 1;
    jwt_set_put(a->jwt);
    a->jwt = set;
    forget(a);
    log_info("gateway", "token keys read", LOG_STR("file", a->jwt_file.path),
             LOG_INT("keys", jwt_keys_count(set->keys)));
    return ERROR_NONE;
}

static enum error_code load_keys(struct auth *a, struct error *err)
{
    struct keys *keys;
    file_watch_mark(&a->keys_file);
    enum error_code code = keys_load(a->keys_file.path, &keys, err);
    if (code != ERROR_NONE)
        return code;
    keys_free(a->keys);
    a->keys = keys;
    log_info("gateway", "API keys read", LOG_STR("file", a->keys_file.path), LOG_INT("keys", keys_count(keys)));
    return ERROR_NONE;
}

static void reload(struct auth *a, bool all)
{
    struct error err;
    if (a->jwt_file.path && (all || file_watch_changed(&a->jwt_file)) && load_jwt(a, &err) != ERROR_NONE)
        log_error("gateway", "token keys kept: the file cannot be used", LOG_STR("reason", err.message));
    if (a->keys_file.path && (all || file_watch_changed(&a->keys_file)) && load_keys(a, &err) != ERROR_NONE)
        log_error("gateway", "API keys kept: the file cannot be used", LOG_STR("reason", err.message));
}

enum error_code auth_open(const struct jwt_options *jwt, const char *api_keys, struct auth **out, struct error *err)
{
    struct auth *a = calloc(1, sizeof *a);
    if (!a)
        return error_set(err, ERROR_INTERNAL, "out of memory");
    enum error_code code = jwt_init(err);
    if (code != ERROR_NONE) {
        free(a);
        return code;
    }
    pthread_mutex_init(&a->lock, NULL);
    a->options = *jwt;
    a->jwt_file.path = given(jwt->jwks_file) ? jwt->jwks_file : given(jwt->key_file) ? jwt->key_file : NULL;
    a->keys_file.path = given(api_keys) ? api_keys : NULL;
    a->enabled = a->jwt_file.path || a->keys_file.path;
    if (a->jwt_file.path && (code = load_jwt(a, err)) != ERROR_NONE)
        error_prefix(err, given(jwt->jwks_file) ? "--jwt-jwks" : "--jwt-key");
    if (code == ERROR_NONE && a->keys_file.path && (code = load_keys(a, err)) != ERROR_NONE)
        error_prefix(err, "--api-keys");
    if (code == ERROR_NONE)
        *out = a;
    else
        auth_close(a);
    return code;
}

void auth_close(struct auth *a)
{
    if (!a)
        return;
    jwt_set_put(a->jwt);
    keys_free(a->keys);
    pthread_mutex_destroy(&a->lock);
    free(a);
    jwt_fini();
}

bool auth_enabled(const struct auth *a)
{
    return a->enabled;
}

void auth_reload(struct auth *a)
{
    pthread_mutex_lock(&a->lock);
    reload(a, true);
    pthread_mutex_unlock(&a->lock);
}

void auth_refresh(struct auth *a, int64_t now_ns)
{
    pthread_mutex_lock(&a->lock);
    if (now_ns - a->looked_ns >= LOOK_NS || a->looked_ns == 0) {
        a->looked_ns = now_ns;
        reload(a, false);
    }
    pthread_mutex_unlock(&a->lock);
}

/* ---- credentials ---- */

static struct verified *set_of(struct auth *a, const unsigned char *hash)
{
    return a->cache[hash[0] % CACHE_SETS];
}

static bool cached(struct auth *a, const unsigned char *hash, int64_t now_s, struct client *out)
{
    struct verified *set = set_of(a, hash);
    for (int i = 0; i < CACHE_WAYS; i++)
        if (set[i].expires_s > now_s && memcmp(set[i].hash, hash, SHA256_DIGEST_LENGTH) == 0) {
            *out = set[i].client;
            return true;
        }
    return false;
}

/* In place of the one that expires first. */
static void remember(struct auth *a, const unsigned char *hash, int64_t expires_s, const struct client *client)
{
    struct verified *set = set_of(a, hash), *first = set;
    for (int i = 1; i < CACHE_WAYS; i++)
        if (set[i].expires_s < first->expires_s)
            first = &set[i];
    memcpy(first->hash, hash, SHA256_DIGEST_LENGTH);
    first->expires_s = expires_s;
    first->client = *client;
}

bool auth_lookup(struct auth *a, const char *credential, int64_t now_s, struct client *out)
{
    unsigned char hash[SHA256_DIGEST_LENGTH];
    size_t n = strlen(credential);
    if (n == 0 || n > JWT_MAX_BYTES)
        return false;
    SHA256((const unsigned char *)credential, n, hash);
    pthread_mutex_lock(&a->lock);
    bool found =
        (a->keys && n <= KEYS_MAX_BYTES && keys_find(a->keys, hash, out)) || (a->jwt && cached(a, hash, now_s, out));
    pthread_mutex_unlock(&a->lock);
    return found;
}

enum error_code auth_verify(struct auth *a, const char *token, int64_t now_s, struct client *out, struct error *err)
{
    unsigned char hash[SHA256_DIGEST_LENGTH];
    int64_t expires_s;
    pthread_mutex_lock(&a->lock);
    struct jwt_set *set = a->jwt;
    uint64_t generation = a->generation;
    if (set)
        set->n_users++;
    pthread_mutex_unlock(&a->lock);
    if (!set)
        return error_set(err, ERROR_AUTHENTICATION_REQUIRED, "the API key is not known");
    enum error_code code = jwt_verify(&a->options, set->keys, token, now_s, out, &expires_s, err);
    if (code == ERROR_NONE)
        SHA256((const unsigned char *)token, strlen(token), hash);
    pthread_mutex_lock(&a->lock);
    if (code == ERROR_NONE && generation == a->generation)
        remember(a, hash, expires_s, out);
    jwt_set_put(set);
    pthread_mutex_unlock(&a->lock);
    return code;
}
