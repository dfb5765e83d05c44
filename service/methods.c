/* The table of methods: what the process serves. */
#include "service/service.h"

#define INFERENCE "/bitnet.v1.InferenceService/"
#define MODELS "/bitnet.v1.ModelService/"

static struct rpc_method table[] = {
    {.path = INFERENCE "Generate", .kind = RPC_UNARY, .on_message = inference_generate, .on_done = inference_done},
    {.path = INFERENCE "StreamGenerate",
     .kind = RPC_SERVER_STREAM,
     .on_message = inference_stream,
     .on_sent = inference_sent,
     .on_done = inference_done},
    {.path = INFERENCE "Embed", .kind = RPC_UNARY, .on_message = embed_call, .on_done = embed_done},
    {.path = INFERENCE "Tokenize", .kind = RPC_UNARY, .on_message = tokens_tokenize},
    {.path = INFERENCE "Detokenize", .kind = RPC_UNARY, .on_message = tokens_detokenize},
    {.path = MODELS "List", .kind = RPC_UNARY, .on_message = models_list},
    {.path = MODELS "Get", .kind = RPC_UNARY, .on_message = models_get},
    {.path = MODELS "Load", .kind = RPC_SERVER_STREAM, .on_message = models_load, .on_sent = change_sent, .on_done = change_done},
    {.path = MODELS "Unload", .kind = RPC_UNARY, .on_message = models_unload, .on_done = change_done},
    {.path = MODELS "Swap", .kind = RPC_SERVER_STREAM, .on_message = models_swap, .on_sent = change_sent, .on_done = change_done},
    {.path = MODELS "SetDefault", .kind = RPC_UNARY, .on_message = models_set_default, .on_done = change_done},
    {.path = "/bitnet.v1.AdminService/Health", .kind = RPC_UNARY, .on_message = admin_health},
    {.path = "/bitnet.v1.AdminService/Devices", .kind = RPC_UNARY, .on_message = admin_devices},
    {.path = "/bitnet.v1.AdminService/Stats", .kind = RPC_UNARY, .on_message = admin_stats},
    {.path = "/grpc.health.v1.Health/Check", .kind = RPC_UNARY, .on_message = health_check},
    {.path = "/grpc.health.v1.Health/Watch",
     .kind = RPC_SERVER_STREAM,
     .on_message = health_watch,
     .on_sent = health_sent,
     .on_done = health_done},
    /* The two versions of reflection are the same on the wire. */
    {.path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
     .kind = RPC_BIDI,
     .on_message = reflection_request,
     .on_half_close = reflection_half_close,
     .on_sent = reflection_sent},
    {.path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
     .kind = RPC_BIDI,
     .on_message = reflection_request,
     .on_half_close = reflection_half_close,
     .on_sent = reflection_sent},
    {.path = NULL}};

const struct rpc_method *service_methods(struct service *s)
{
    for (struct rpc_method *m = table; m->path; m++)
        if (m->service != s) /* the first call is before there are threads; later ones only read */
            m->service = s;
    return table;
}
