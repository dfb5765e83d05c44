/* Whose a credential is, and files that change while the server runs. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/auth.h"
#include "gateway/keys.h"
#include "tests/unit/gateway/tokens.h"

#include <pthread.h>
#include <stdatomic.h>

#define NOW 1700000000
#define SECRET "0123456789abcdef0123456789abcdef"
#define OTHER "another secret of thirty-two bytes"
#define GOOD "{\"sub\":\"me\",\"exp\":1700000100}"
#define HASH_OF_A "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
#define HASH_OF_B "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"

static struct auth *auth;
static struct client client;
static struct error err;

static void open_both(void)
{
    log_init(LOG_OFF, LOG_FORMAT_JSON);
    static struct jwt_options jwt;
    jwt = (struct jwt_options){.key_file = tokens_text("secret", SECRET), .alg = "HS256"};
    ck_assert_msg(auth_open(&jwt, tokens_text("keys", "alice sha256:" HASH_OF_A "\n"), &auth, &err) == ERROR_NONE, "%s",
                  err.message);
}

static const char *token_of(const char *secret, const char *payload)
{
    return tokens_forge("{\"alg\":\"HS256\"}", payload, secret, NULL);
}

START_TEST(keys_and_tokens)
{
    open_both();
    ck_assert(auth_enabled(auth));
    ck_assert(auth_lookup(auth, "a", NOW, &client));
    ck_assert_str_eq(client.id, "alice");
    ck_assert(!auth_lookup(auth, "b", NOW, &client));
    ck_assert(!auth_lookup(auth, "", NOW, &client));
    ck_assert_int_ne(auth_verify(auth, "b", NOW, &client, &err), ERROR_NONE);
    const char *token = token_of(SECRET, GOOD);
    ck_assert(!auth_lookup(auth, token, NOW, &client));
    ck_assert_int_eq(auth_verify(auth, token, NOW, &client, &err), ERROR_NONE);
    memset(&client, 0, sizeof client);
    ck_assert(auth_lookup(auth, token, NOW, &client));
    ck_assert_str_eq(client.id, "me");
    ck_assert(auth_lookup(auth, token, 1700000099, &client));
    ck_assert(!auth_lookup(auth, token, 1700000100, &client)); /* expired meanwhile */
    auth_close(auth);
}
END_TEST

START_TEST(what_failed_is_not_remembered)
{
    open_both();
    const char *token = token_of(OTHER, GOOD);
    ck_assert_int_ne(auth_verify(auth, token, NOW, &client, &err), ERROR_NONE);
    ck_assert(!auth_lookup(auth, token, NOW, &client));
    auth_close(auth);
}
END_TEST

/* More tokens than are remembered: each is still its own. */
START_TEST(memory_is_bounded)
{
    open_both();
    for (int i = 0; i < 3000; i++) {
        char payload[64], id[16];
        snprintf(id, sizeof id, "c%d", i);
        snprintf(payload, sizeof payload, "{\"sub\":\"%s\",\"exp\":1700000100}", id);
        const char *token = token_of(SECRET, payload);
        ck_assert_int_eq(auth_verify(auth, token, NOW, &client, &err), ERROR_NONE);
        ck_assert(auth_lookup(auth, token, NOW, &client));
        ck_assert_str_eq(client.id, id);
    }
    auth_close(auth);
}
END_TEST

START_TEST(without_keys_nobody_is_known)
{
    const struct jwt_options none = {.alg = "auto", .key_file = "", .jwks_file = ""};
    ck_assert_int_eq(auth_open(&none, "", &auth, &err), ERROR_NONE);
    ck_assert(!auth_enabled(auth));
    ck_assert(!auth_lookup(auth, "a", NOW, &client));
    ck_assert_int_ne(auth_verify(auth, token_of(SECRET, GOOD), NOW, &client, &err), ERROR_NONE);
    auth_close(auth);
}
END_TEST

START_TEST(changed_files_are_read)
{
    open_both();
    char *token = strdup(token_of(SECRET, GOOD)), *other = strdup(token_of(OTHER, GOOD));
    int64_t now = 100 * CLOCK_NS_PER_S;
    ck_assert_int_eq(auth_verify(auth, token, NOW, &client, &err), ERROR_NONE);
    auth_refresh(auth, now);
    tokens_text("keys", "bob sha256:" HASH_OF_B "\n# longer\n");
    tokens_text("secret", OTHER);
    auth_refresh(auth, now + CLOCK_NS_PER_S - 1); /* not looked at yet */
    ck_assert(auth_lookup(auth, "a", NOW, &client));
    auth_refresh(auth, now + CLOCK_NS_PER_S);
    ck_assert(!auth_lookup(auth, "a", NOW, &client));
    ck_assert(auth_lookup(auth, "b", NOW, &client));
    ck_assert(!auth_lookup(auth, token, NOW, &client)); /* verified with a key that is gone */
    ck_assert_int_ne(auth_verify(auth, token, NOW, &client, &err), ERROR_NONE);
    ck_assert_int_eq(auth_verify(auth, other, NOW, &client, &err), ERROR_NONE);
    free(token);
    free(other);
    auth_close(auth);
}
END_TEST

START_TEST(broken_files_keep_what_was_there)
{
    open_both();
    const char *token = token_of(SECRET, GOOD);
    tokens_text("keys", "nonsense\n");
    tokens_text("secret", "short");
    auth_reload(auth);
    ck_assert(auth_lookup(auth, "a", NOW, &client));
    ck_assert_int_eq(auth_verify(auth, token, NOW, &client, &err), ERROR_NONE);
    unlink(tokens_path("keys"));
    unlink(tokens_path("secret"));
    auth_reload(auth);
    ck_assert(auth_lookup(auth, "a", NOW, &client));
    ck_assert(auth_lookup(auth, token, NOW, &client));
    auth_close(auth);
}
END_TEST

START_TEST(broken_files_do_not_start)
{
    const struct jwt_options jwt = {.alg = "HS256", .key_file = tokens_text("secret", "short")};
    ck_assert_int_ne(auth_open(&jwt, "", &auth, &err), ERROR_NONE);
    const struct jwt_options none = {.alg = "auto"};
    ck_assert_int_ne(auth_open(&none, tokens_text("keys", "x\n"), &auth, &err), ERROR_NONE);
}
END_TEST

static char *shared_token;
static atomic_int n_bad;

static void *verifier(void *user)
{
    (void)user;
    struct client mine;
    struct error why;
    for (int i = 0; i < 200; i++)
        if (!auth_lookup(auth, shared_token, NOW, &mine) &&
            auth_verify(auth, shared_token, NOW, &mine, &why) != ERROR_NONE)
            n_bad++;
    return NULL;
}

/* Loops verify while the files are read again. */
START_TEST(verifying_while_reading)
{
    open_both();
    pthread_t threads[3];
    shared_token = strdup(token_of(SECRET, GOOD));
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, verifier, NULL);
    for (int i = 0; i < 50; i++)
        auth_reload(auth);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(n_bad, 0);
    free(shared_token);
    auth_close(auth);
}
END_TEST

SUITE("auth", keys_and_tokens, what_failed_is_not_remembered, memory_is_bounded, without_keys_nobody_is_known,
      changed_files_are_read, broken_files_keep_what_was_there, broken_files_do_not_start, verifying_while_reading)
