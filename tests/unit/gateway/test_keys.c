/* The file of API keys. */
#include "gateway/keys.h"
#include "tests/unit/gateway/tokens.h"

#include <openssl/sha.h>

#define HASH_OF_A "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
#define HASH_OF_B "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"

static struct keys *keys;
static struct client client;
static struct error err;

static bool finds(const char *key)
{
    unsigned char hash[KEYS_HASH_BYTES];
    SHA256((const unsigned char *)key, strlen(key), hash);
    memset(&client, 0, sizeof client);
    return keys_find(keys, hash, &client);
}

START_TEST(reads)
{
    const char *path =
        tokens_text("keys", "# who may\n\n  alice\tsha256:" HASH_OF_A "  model:read,model:manage # admin\r\n"
                            "bob@example.org sha256:" HASH_OF_B);
    ck_assert_msg(keys_load(path, &keys, &err) == ERROR_NONE, "%s", err.message);
    ck_assert_uint_eq(keys_count(keys), 2);
    ck_assert(finds("a"));
    ck_assert_str_eq(client.id, "alice");
    ck_assert_uint_eq(client.scopes, SCOPE_MODEL_READ | SCOPE_MODEL_MANAGE);
    ck_assert_int_eq(client.kind, CLIENT_KEY);
    ck_assert(finds("b"));
    ck_assert_str_eq(client.id, "bob@example.org");
    ck_assert_uint_eq(client.scopes, 0);
    ck_assert(!finds("c"));
    ck_assert(!finds(""));
    ck_assert(!finds(HASH_OF_A));
    keys_free(keys);
}
END_TEST

START_TEST(an_empty_file_lets_nobody_in)
{
    ck_assert_int_eq(keys_load(tokens_text("keys", ""), &keys, &err), ERROR_NONE);
    ck_assert(!finds("a"));
    keys_free(keys);
}
END_TEST

START_TEST(refuses)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"alice\n", "line 1: expected sha256:"},
        {"\nalice " HASH_OF_A "\n", "line 2: expected sha256:"},
        {"alice sha256:CA978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb\n", "lower-case"},
        {"alice sha256:" HASH_OF_A "0\n", "line 1"},
        {"alice sha256:ca97\n", "line 1"},
        {"al\x01ice sha256:" HASH_OF_A "\n", "expected a name"},
        {"alice sha256:" HASH_OF_A " model:reed\n", "expected scopes"},
        {"alice sha256:" HASH_OF_A " model:read model:write\n", "expected scopes as one word"},
        {"alice sha256:" HASH_OF_A "\nbob sha256:" HASH_OF_A "\n", "the same one"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_ne(keys_load(tokens_text("keys", cases[i].text), &keys, &err), ERROR_NONE);
        ck_assert_msg(strstr(err.message, cases[i].why), "%s: %s", cases[i].why, err.message);
        ck_assert_ptr_nonnull(strstr(err.message, tokens_folder));
    }
    ck_assert_int_ne(keys_load(tokens_write("keys", "a\0b", 3), &keys, &err), ERROR_NONE);
    ck_assert_ptr_nonnull(strstr(err.message, "NUL"));
    ck_assert_int_ne(keys_load("/nowhere/keys", &keys, &err), ERROR_NONE);
    ck_assert_ptr_nonnull(strstr(err.message, "/nowhere/keys: No such file"));
}
END_TEST

/* Many keys, each found and none for another. */
START_TEST(makes_keys_that_it_finds)
{
    enum { N = 100 };
    struct buffer made[N], line, file;
    buffer_init(&file, 1 << 20);
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "client-%d", i);
        buffer_init(&made[i], 256);
        buffer_init(&line, 256);
        ck_assert_int_eq(keys_make(name, i % 2 ? "model:read" : "", &made[i], &line, &err), ERROR_NONE);
        ck_assert_uint_ge(made[i].n_bytes, 64);
        ck_assert_ptr_null(strstr(line.data, made[i].data));
        buffer_printf(&file, "%s\n", line.data);
        buffer_fini(&line);
    }
    ck_assert_int_eq(keys_load(tokens_text("keys", file.data), &keys, &err), ERROR_NONE);
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "client-%d", i);
        ck_assert(finds(made[i].data));
        ck_assert_str_eq(client.id, name);
        ck_assert_uint_eq(client.scopes, i % 2 ? SCOPE_MODEL_READ : 0);
        made[i].data[20] = made[i].data[20] == 'a' ? 'b' : 'a';
        ck_assert(!finds(made[i].data));
        buffer_fini(&made[i]);
    }
    buffer_fini(&file);
    keys_free(keys);
    buffer_init(&line, 256);
    ck_assert_int_ne(keys_make("a b", "", &line, &line, &err), ERROR_NONE);
    ck_assert_int_ne(keys_make("a", "model:all", &line, &line, &err), ERROR_NONE);
    buffer_fini(&line);
}
END_TEST

SUITE("keys", reads, an_empty_file_lets_nobody_in, refuses, makes_keys_that_it_finds)
