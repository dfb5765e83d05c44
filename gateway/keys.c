/*
 * The file of API keys, and the making of one. Lookup is a binary search by the first bytes of the hash - which tell an
 * attacker nothing about a key - and a comparison of all of it in constant time.
 */
#include "gateway/keys.h"

#include "base/file.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE_BYTES (16 << 20)
#define PREFIX "sha256:"
#define SPACE " \t\r"
#define NAME_CHARACTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.@:/"
#define RANDOM_BYTES 32

struct key {
    unsigned char hash[KEYS_HASH_BYTES];
    unsigned scopes;
    char name[CLIENT_ID_BYTES];
};

struct keys {
    struct key *keys; /* sorted by hash; owned */
    size_t n, capacity;
};

static bool name_valid(const char *name, size_t n)
{
    return n > 0 && n < CLIENT_ID_BYTES && strspn(name, NAME_CHARACTERS) >= n;
}

static bool parse_hash(const char *text, size_t n, unsigned char out[KEYS_HASH_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    if (n != strlen(PREFIX) + 2 * KEYS_HASH_BYTES || strncmp(text, PREFIX, strlen(PREFIX)) != 0)
        return false;
    text += strlen(PREFIX);
    for (size_t i = 0; i < KEYS_HASH_BYTES; i++) {
        const char *high = strchr(digits, text[2 * i]), *low = strchr(digits, text[2 * i + 1]);
        if (!high || !low)
            return false;
        out[i] = (unsigned char)((high - digits) << 4 | (low - digits));
    }
    return true;
}

/* One line without its end: NAME, HASH and perhaps scopes. */
static enum error_code parse_line(char *line, struct key *out, struct error *err)
{
    char *rest = NULL, *name = strtok_r(line, SPACE, &rest), *hash = strtok_r(NULL, SPACE, &rest);
    char *scopes = strtok_r(NULL, SPACE, &rest);
    int n_unknown = 0;
    memset(out, 0, sizeof *out);
    if (!name || !name_valid(name, strlen(name)))
        return error_set(err, ERROR_VALIDATION_FAILED, "expected a name of 1 to %d letters, digits or -_.@:/",
                         CLIENT_ID_BYTES - 1);
    if (!hash || !parse_hash(hash, strlen(hash), out->hash))
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "expected sha256: and 64 digits of lower-case hex after the name");
    if (scopes)
        out->scopes = scopes_from_list(scopes, ",", &n_unknown);
    if (n_unknown > 0 || strtok_r(NULL, SPACE, &rest))
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "expected scopes as one word: model:read,model:write,model:manage or some of them");
    strcpy(out->name, name);
    return ERROR_NONE;
}

static bool add(struct keys *k, const struct key *key)
{
    if (k->n == k->capacity) {
        size_t capacity = k->capacity > 0 ? 2 * k->capacity : 16;
        struct key *keys = realloc(k->keys, capacity * sizeof *keys);
        if (!keys)
            return false;
        k->keys = keys;
        k->capacity = capacity;
    }
    k->keys[k->n++] = *key;
    return true;
}

static enum error_code parse(char *text, struct keys *k, struct error *err)
{
    int number = 0;
    for (char *line = text, *end; line; line = end) {
        struct key key;
        end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        number++;
        line[strcspn(line, "#")] = '\0';
        if (line[strspn(line, SPACE)] == '\0')
            continue;
        if (parse_line(line, &key, err) != ERROR_NONE)
            return error_prefix(err, "line %d", number);
        if (!add(k, &key))
            return error_set(err, ERROR_INTERNAL, "out of memory");
    }
    return ERROR_NONE;
}

static int by_hash(const void *a, const void *b)
{
    return memcmp(((const struct key *)a)->hash, ((const struct key *)b)->hash, KEYS_HASH_BYTES);
}

static enum error_code check_unique(const struct keys *k, struct error *err)
{
    for (size_t i = 1; i < k->n; i++)
        if (by_hash(&k->keys[i - 1], &k->keys[i]) == 0)
            return error_set(err, ERROR_VALIDATION_FAILED, "expected different keys, found the same one for %s and %s",
                             k->keys[i - 1].name, k->keys[i].name);
    return ERROR_NONE;
}

enum error_code keys_load(const char *path, struct keys **out, struct error *err)
{
    struct buffer text;
    buffer_init(&text, MAX_FILE_BYTES);
    struct keys *k = calloc(1, sizeof *k);
    enum error_code code = k ? file_read(path, &text, err) : error_set(err, ERROR_INTERNAL, "out of memory");
    if (code == ERROR_NONE && text.n_bytes > 0) {
        code = memchr(text.data, '\0', text.n_bytes)
                   ? error_set(err, ERROR_VALIDATION_FAILED, "expected text, found a NUL")
                   : parse(text.data, k, err);
        if (k->n > 0)
            qsort(k->keys, k->n, sizeof *k->keys, by_hash);
        if (code == ERROR_NONE)
            code = check_unique(k, err);
        if (code != ERROR_NONE)
            error_prefix(err, "%s", path);
    }
    buffer_fini(&text);
    if (code == ERROR_NONE)
        *out = k;
    else
        keys_free(k);
    return code;
}

void keys_free(struct keys *keys)
{
    if (keys)
        free(keys->keys);
    free(keys);
}

size_t keys_count(const struct keys *keys)
{
    return keys->n;
}

static uint64_t head_of(const unsigned char hash[KEYS_HASH_BYTES])
{
    uint64_t head = 0;
    for (int i = 0; i < 8; i++)
        head = head << 8 | hash[i];
    return head;
}

bool keys_find(const struct keys *keys, const unsigned char hash[KEYS_HASH_BYTES], struct client *client)
{
    uint64_t head = head_of(hash);
    size_t low = 0, high = keys->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (head_of(keys->keys[middle].hash) < head)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < keys->n && head_of(keys->keys[low].hash) == head; low++) {
        const struct key *key = &keys->keys[low];
        if (CRYPTO_memcmp(key->hash, hash, KEYS_HASH_BYTES) != 0)
            continue;
        *client = (struct client){.scopes = key->scopes, .kind = CLIENT_KEY};
        memcpy(client->id, key->name, sizeof key->name);
        return true;
    }
    return false;
}

/* ---- making ---- */

enum error_code keys_make(const char *name, const char *scopes, struct buffer *key, struct buffer *line,
                          struct error *err)
{
    unsigned char random[RANDOM_BYTES], hash[KEYS_HASH_BYTES];
    int n_unknown = 0;
    if (!name_valid(name, strlen(name)))
        return error_set(err, ERROR_VALIDATION_FAILED, "expected a name of 1 to %d letters, digits or -_.@:/, found %s",
                         CLIENT_ID_BYTES - 1, name);
    scopes_from_list(scopes, ",", &n_unknown);
    if (n_unknown > 0)
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "expected scopes of model:read,model:write,model:manage, found %s", scopes);
    if (RAND_bytes(random, sizeof random) != 1)
        return error_set(err, ERROR_INTERNAL, "no random bytes are to be had");
    buffer_append_str(key, "bitnet-");
    for (size_t i = 0; i < sizeof random; i++)
        buffer_printf(key, "%02x", random[i]);
    SHA256((const unsigned char *)key->data, key->n_bytes, hash);
    buffer_printf(line, "%s " PREFIX, name);
    for (size_t i = 0; i < sizeof hash; i++)
        buffer_printf(line, "%02x", hash[i]);
    if (scopes[0] != '\0')
        buffer_printf(line, " %s", scopes);
    return key->failed || line->failed ? error_set(err, ERROR_INTERNAL, "out of memory") : ERROR_NONE;
}

int keys_main(int argc, char **argv)
{
    struct buffer key, line;
    struct error err = {0};
    if (argc < 2 || argc > 3 || argv[1][0] == '-') {
        fputs("usage: bitnet-gateway make-key NAME [SCOPE,SCOPE...]\n\n"
              "Prints a new API key, which is shown only here, and the line for the file of --api-keys.\n"
              "Scopes: model:read, model:write, model:manage. Inference needs none.\n",
              stderr);
        return EXIT_FAILURE;
    }
    buffer_init(&key, 1024);
    buffer_init(&line, 1024);
    enum error_code code = keys_make(argv[1], argc > 2 ? argv[2] : "", &key, &line, &err);
    if (code == ERROR_NONE)
        printf("%s\n%s\n", key.data, line.data);
    else
        fprintf(stderr, "bitnet-gateway: %s\n", err.message);
    if (key.data)
        OPENSSL_cleanse(key.data, key.n_bytes);
    buffer_fini(&key);
    buffer_fini(&line);
    return code == ERROR_NONE ? EXIT_SUCCESS : EXIT_FAILURE;
}
