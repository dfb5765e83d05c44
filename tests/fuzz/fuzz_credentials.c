/*
 * What strangers write into the headers that admission reads. The first byte says which: a token as it is, a header and a
 * payload that are really signed, X-Forwarded-For, Forwarded, or the file of API keys.
 */
#include "gateway/cors.h"
#include "gateway/jwt.h"
#include "gateway/keys.h"
#include "gateway/proxies.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECRET "0123456789abcdef0123456789abcdef"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* A file with this text; static name for each call site's own use. */
static const char *file_of(const char *name, const void *data, size_t n_bytes)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/bitnet-fuzz-%d-%s", (int)getpid(), name);
    FILE *f = fopen(path, "w");
    if (!f || fwrite(data, 1, n_bytes, f) != n_bytes || fclose(f) != 0)
        abort();
    return path;
}

static void verify(const char *token)
{
    static struct jwt_options options = {.alg = "HS256", .issuer = "i", .audience = "a", .leeway_s = 30};
    static struct jwt_keys *keys;
    struct client client;
    struct error err;
    int64_t expires_s;
    if (!keys) {
        options.key_file = file_of("secret", SECRET, sizeof SECRET - 1);
        if (jwt_init(&err) != ERROR_NONE || jwt_keys_load(&options, &keys, &err) != ERROR_NONE)
            abort();
        unlink(options.key_file);
    }
    if (jwt_verify(&options, keys, token, 1700000000, &client, &expires_s, &err) == ERROR_NONE &&
        (!client_id_valid(client.id) || expires_s <= 1700000000))
        abort();
}

static void base64url(const void *data, size_t n, char *out)
{
    int length = EVP_EncodeBlock((unsigned char *)out, data, (int)n);
    for (int i = 0; i < length; i++)
        out[i] = out[i] == '+' ? '-' : out[i] == '/' ? '_' : out[i];
    out[strcspn(out, "=")] = '\0';
}

/* Header and payload are separated by a line feed. */
static void verify_signed(const char *text, size_t n)
{
    const char *feed = memchr(text, '\n', n);
    size_t n_header = feed ? (size_t)(feed - text) : n;
    char *token = malloc(3 * n + 100);
    unsigned char mac[32];
    if (!token)
        abort();
    base64url(text, n_header, token);
    strcat(token, ".");
    if (feed)
        base64url(feed + 1, n - n_header - 1, token + strlen(token));
    HMAC(EVP_sha256(), SECRET, sizeof SECRET - 1, (const unsigned char *)token, strlen(token), mac, NULL);
    strcat(token, ".");
    base64url(mac, sizeof mac, token + strlen(token));
    verify(token);
    free(token);
}

static void walk(const char *value, bool forwarded)
{
    const struct http_header headers[] = {{forwarded ? "forwarded" : "x-forwarded-for", value}};
    const struct http_request r = {.headers = headers, .n_headers = 1, .peer = "10.0.0.1"};
    struct proxies *p;
    struct error err;
    char address[PROXIES_ADDRESS_BYTES], id[CLIENT_ID_BYTES];
    if (proxies_open("10.0.0.0/8, ::/1", forwarded, &p, &err) != ERROR_NONE)
        abort();
    proxies_address(p, &r, address);
    proxies_client(address, id, sizeof id);
    proxies_close(p);
    if (!client_id_valid(id) || strpbrk(address, "%, \""))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (n_bytes < 1)
        return 0;
    size_t n = n_bytes - 1;
    char *text = malloc(n + 1);
    if (!text)
        abort();
    memcpy(text, data + 1, n);
    text[n] = '\0';
    struct error err;
    struct keys *keys;
    switch (data[0] % 5) {
    case 0:
        verify(text);
        break;
    case 1:
        verify_signed(text, n);
        break;
    case 2:
    case 3:
        walk(text, data[0] % 5 == 3);
        break;
    default:
        cors_names_valid(text);
        if (keys_load(file_of("keys", text, n), &keys, &err) == ERROR_NONE)
            keys_free(keys);
    }
    free(text);
    return 0;
}
