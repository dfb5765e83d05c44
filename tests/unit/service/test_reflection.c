/* The index of files and symbols, over the descriptors that the program really has. */
#include "tests/suite.h"

#include "descriptors.h"
#include "service/service.h"

static struct reflection *open_index(void)
{
    struct reflection *r = reflection_open(proto_descriptors, proto_descriptors_n_bytes);
    ck_assert_ptr_nonnull(r);
    return r;
}

START_TEST(finds_symbols_of_every_kind)
{
    static const struct {
        const char *symbol, *file;
    } cases[] = {
        {"bitnet.v1.InferenceService", "bitnet/v1/inference.proto"},
        {"bitnet.v1.InferenceService.StreamGenerate", "bitnet/v1/inference.proto"},
        {"bitnet.v1.GenerateRequest", "bitnet/v1/inference.proto"},
        {"bitnet.v1.GenerateRequest.prompt", "bitnet/v1/inference.proto"},
        {"bitnet.v1.GenerateRequest.input", "bitnet/v1/inference.proto"},
        {"bitnet.v1.FinishReason", "bitnet/v1/inference.proto"},
        {"bitnet.v1.FINISH_REASON_STOP", "bitnet/v1/inference.proto"},
        {"bitnet.v1.ModelService.List", "bitnet/v1/models.proto"},
        {"bitnet.v1.AdminService", "bitnet/v1/admin.proto"},
        {"grpc.health.v1.Health.Watch", "grpc/health/v1/health.proto"},
        {"grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"},
        {"grpc.health.v1.HealthCheckResponse.SERVING", "grpc/health/v1/health.proto"},
        {"grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"},
        {"grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto"},
        {"google.rpc.BadRequest.FieldViolation", "google/rpc/error_details.proto"},
        {"google.protobuf.Any", "google/protobuf/any.proto"},
    };
    struct reflection *r = open_index();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *file = reflection_file_of(r, cases[i].symbol);
        ck_assert_msg(file && strcmp(file, cases[i].file) == 0, "%s: expected %s, found %s", cases[i].symbol,
                      cases[i].file, file ? file : "nothing");
    }
    reflection_close(r);
}
END_TEST

START_TEST(finds_nothing_else)
{
    static const char *const symbols[] = {"",
                                          ".",
                                          "bitnet",
                                          "bitnet.v1",
                                          "bitnet.v1.",
                                          "bitnet.v1.Generate",
                                          "bitnet.v1.GenerateRequestX",
                                          "bitnet.v1.InferenceService.Nothing",
                                          "bitnet.v1.InferenceService.Generate.x",
                                          ".bitnet.v1.InferenceService",
                                          "GenerateRequest"};
    struct reflection *r = open_index();
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        ck_assert_msg(!reflection_file_of(r, symbols[i]), "%s was found", symbols[i]);
    reflection_close(r);
}
END_TEST

/* Whatever the table serves, clients can find out how to call. */
START_TEST(every_method_is_described)
{
    struct service s = {0};
    struct reflection *r = open_index();
    size_t n = 0;
    for (const struct rpc_method *m = service_methods(&s); m->path; m++, n++) {
        char symbol[256];
        snprintf(symbol, sizeof symbol, "%s", m->path + 1);
        *strchr(symbol, '/') = '.';
        ck_assert_msg(reflection_file_of(r, symbol) != NULL, "%s is not described", symbol);
        ck_assert_ptr_eq(m->service, &s);
        ck_assert_ptr_nonnull(m->on_message);
    }
    ck_assert_uint_ge(n, 10);
    reflection_close(r);
}
END_TEST

START_TEST(refuses_what_is_no_descriptor_set)
{
    ck_assert_ptr_null(reflection_open("\x0a\xff\xff\xff\x7f", 5));
    reflection_close(NULL);
}
END_TEST

SUITE("reflection", finds_symbols_of_every_kind, finds_nothing_else, every_method_is_described,
      refuses_what_is_no_descriptor_set)
