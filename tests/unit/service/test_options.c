/* The table's defaults, what becomes of them, and which addresses need TLS. */
#include "tests/suite.h"

#include "service/options.h"

#include "base/clock.h"

static enum error_code parse(struct service_config *c, struct error *err, int argc, char **argv)
{
    struct option_result result = {0};
    *c = (struct service_config){0};
    *err = (struct error){0};
    return option_parse(&service_options, argc, argv, c, &result, err);
}

#define PARSE(c, err, ...)                                                                                             \
    parse(c, err, (int)(sizeof((char *[]){"bitnet-engine", __VA_ARGS__}) / sizeof(char *)),                            \
          (char *[]){"bitnet-engine", __VA_ARGS__, NULL})

START_TEST(defaults)
{
    struct service_config c;
    struct null_options null;
    struct error err;
    ck_assert_int_eq(PARSE(&c, &err, "--model", "m.gguf"), ERROR_NONE);
    ck_assert_int_eq(options_check(&c, &err), ERROR_NONE);
    ck_assert_str_eq(c.listen, "127.0.0.1:50051");
    ck_assert_str_eq(c.admin_listen, "127.0.0.1:9090");
    ck_assert_int_eq(c.drain_timeout_ms, 45000);
    ck_assert_int_eq(c.lame_duck_ms, 300);
    ck_assert_int_eq(c.max_message_size, 4 << 20);
    ck_assert_int_eq(c.seed, -1);
    const struct engine_options o = options_engine(&c, &null);
    ck_assert_str_eq(o.model_path, "m.gguf");
    ck_assert_ptr_null(o.model_id);
    ck_assert_ptr_null(o.isa);
    ck_assert_int_eq(o.format, TERNARY_AUTO);
    ck_assert_ptr_null(o.null_model);
    ck_assert_int_eq(o.i2s_order, -1);
    ck_assert_uint_eq(o.max_sequences, 64);
    ck_assert_uint_eq(o.max_batch_tokens, 512);
    ck_assert_uint_eq(o.queue_limit, 256);
    ck_assert_uint_eq(o.queue_tokens, 0);
    ck_assert_int_eq(o.queue_wait_ns, 0);
    option_free(&service_options, &c);
}
END_TEST

START_TEST(log_levels_are_checked)
{
    struct service_config c;
    struct error err;
    ck_assert_int_eq(PARSE(&c, &err, "--model", "m.gguf", "--log-level", "info,rpc=debug"), ERROR_NONE);
    ck_assert_int_eq(options_check(&c, &err), ERROR_NONE);
    option_free(&service_options, &c);
    ck_assert_int_eq(PARSE(&c, &err, "--model", "m.gguf", "--log-level", "loud"), ERROR_NONE);
    ck_assert_int_eq(options_check(&c, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "\"loud\""));
    option_free(&service_options, &c);
}
END_TEST

START_TEST(values_reach_the_engine)
{
    struct service_config c;
    struct null_options null;
    struct error err;
    ck_assert_int_eq(PARSE(&c, &err, "--model", "m.gguf", "--quantization", "tl2", "--i2s-order", "64",
                           "--kv-cache-size", "2G", "--threads", "3", "--context", "1024", "--default-timeout-ms",
                           "1500", "--device", "cpu", "--isa", "avx2", "--kv-type", "int8", "--queue-tokens",
                           "9000", "--queue-wait-ms", "2500"),
                     ERROR_NONE);
    const struct engine_options o = options_engine(&c, &null);
    ck_assert_int_eq(o.format, TERNARY_TL2);
    ck_assert_int_eq(o.kv_type, KV_INT8);
    ck_assert_int_eq(o.i2s_order, I2S_ORDER_64);
    ck_assert_uint_eq(o.kv_cache_bytes, (size_t)2 << 30);
    ck_assert_int_eq(o.n_threads, 3);
    ck_assert_uint_eq(o.queue_tokens, 9000);
    ck_assert_int_eq(o.queue_wait_ns, 2500 * CLOCK_NS_PER_MS);
    ck_assert_uint_eq(o.context_length, 1024);
    ck_assert_int_eq(o.default_timeout_ns, 1500 * CLOCK_NS_PER_MS);
    ck_assert_str_eq(o.device, "cpu");
    ck_assert_str_eq(o.isa, "avx2");
    option_free(&service_options, &c);
}
END_TEST

START_TEST(environment_pins_the_seed)
{
    struct service_config c;
    struct error err;
    setenv("BITNET_SEED", "17", 1);
    setenv("BITNET_DETERMINISTIC", "1", 1);
    ck_assert_int_eq(PARSE(&c, &err, "--model", "m.gguf"), ERROR_NONE);
    ck_assert_int_eq(c.seed, 17);
    ck_assert(c.deterministic);
    option_free(&service_options, &c);
}
END_TEST

START_TEST(wrong_values_are_named)
{
    struct service_config c;
    struct error err;
    ck_assert_int_ne(PARSE(&c, &err, "--model", "m", "--queue-limit", "0"), ERROR_NONE);
    ck_assert_ptr_nonnull(strstr(err.message, "queue-limit"));
    ck_assert_int_ne(PARSE(&c, &err, "--model", "m", "--quantization", "q4"), ERROR_NONE);
    ck_assert_ptr_nonnull(strstr(err.message, "quantization"));
    ck_assert_int_ne(PARSE(&c, &err, "--modle", "m"), ERROR_NONE);
    ck_assert_ptr_nonnull(strstr(err.message, "modle"));
}
END_TEST

START_TEST(null_model_is_asked_for_by_flag)
{
    struct service_config c;
    struct null_options null;
    struct error err;
    ck_assert_int_eq(PARSE(&c, &err, "--model", "m", "--null-model", "--null-step-us", "250"), ERROR_NONE);
    ck_assert_int_eq(options_check(&c, &err), ERROR_NONE);
    const struct engine_options o = options_engine(&c, &null);
    ck_assert_ptr_eq(o.null_model, &null);
    ck_assert_int_eq(null.step_ns, 250000);
    ck_assert(!null.fails);
    c.model_id = "mine";
    ck_assert_int_eq(options_check(&c, &err), ERROR_VALIDATION_FAILED); /* nobody may take it for another model */
    c.model_id = NULL;
    c.null_model = false;
    ck_assert_int_eq(options_check(&c, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "null-step-us");
    option_free(&service_options, &c);
    setenv("BITNET_NULL_MODEL", "true", 1);
    ck_assert_int_ne(PARSE(&c, &err, "--model", "m"), ERROR_NONE);
}
END_TEST

START_TEST(tells_loopback_from_public)
{
    static const char *const loopback[] = {"127.0.0.1:50051", "127.9.9.9:1",      "localhost:1",
                                           "[::1]:50051",     "unix:/run/x.sock", "127.0.0.1:1,0.0.0.0:2"};
    static const char *const open[] = {"0.0.0.0:50051", "[::]:50051",   "10.0.0.1:1",        "example.org:1",
                                       ":50051",        "127.0.0.1",    "127.0.0.1.host:1",  "localhost.host:1",
                                       "[::1].x:1",     "[::ffff:1]:1", "0.0.0.0:1,[::1]:2", ""};
    for (size_t i = 0; i < sizeof loopback / sizeof *loopback; i++)
        ck_assert_msg(!options_public_address(loopback[i]), "%s is loopback", loopback[i]);
    for (size_t i = 0; i < sizeof open / sizeof *open; i++)
        ck_assert_msg(options_public_address(open[i]), "%s is public", open[i]);
}
END_TEST

START_TEST(public_addresses_need_tls)
{
    struct service_config c = {.model = "m", .listen = "127.0.0.1:1, 0.0.0.0:2"};
    struct error err = {0};
    ck_assert_int_eq(options_check(&c, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "TLS"));
    ck_assert_ptr_nonnull(strstr(err.message, "0.0.0.0:2"));
    ck_assert_str_eq(err.param, "listen");
    c.allow_insecure_public = true;
    ck_assert_int_eq(options_check(&c, &err), ERROR_NONE);
    c.listen = "127.0.0.1:1,8080";
    ck_assert_int_eq(options_check(&c, &err), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "expected HOST:PORT, [IPv6]:PORT or unix:/PATH, found \"8080\""));
    c.listen = "127.0.0.1:1, 0.0.0.0:2";
    c.allow_insecure_public = false;
    c.tls_cert = "c.pem";
    ck_assert_int_eq(options_check(&c, &err), ERROR_VALIDATION_FAILED); /* without its key */
    c.tls_key = "k.pem";
    ck_assert_int_eq(options_check(&c, &err), ERROR_NONE);
}
END_TEST

START_TEST(halves_of_tls_are_refused)
{
    struct service_config c = {.model = "m", .listen = "127.0.0.1:1", .tls_client_ca = "ca.pem"};
    struct error err = {0};
    ck_assert_int_eq(options_check(&c, &err), ERROR_VALIDATION_FAILED);
    c.model = NULL;
    ck_assert_int_eq(options_check(&c, &err), ERROR_VALIDATION_FAILED);
    ck_assert_str_eq(err.param, "model");
}
END_TEST

SUITE("options", defaults, log_levels_are_checked, values_reach_the_engine, environment_pins_the_seed, wrong_values_are_named, null_model_is_asked_for_by_flag,
      tells_loopback_from_public, public_addresses_need_tls, halves_of_tls_are_refused)
