/* Start and end of gRPC in this process, and its log lines in ours. */
#include "rpc/core.h"

#include "base/log.h"

#include <grpc/support/log.h>
#include <stdlib.h>

/* gRPC calls ordinary things errors (a refused connection, a client that spoke nonsense), so its errors are our warnings; what it
 * says at its lower levels helps nobody but its authors. */
static void log_from_grpc(gpr_log_func_args *args)
{
    enum log_level level = args->severity == GPR_LOG_SEVERITY_ERROR ? LOG_WARN : LOG_DEBUG;
    LOG_AT(level, "grpc", args->message, LOG_STR("file", args->file), LOG_INT("line", args->line));
}

void rpc_init(void)
{
    gpr_set_log_function(log_from_grpc);
    if (!getenv("GRPC_VERBOSITY"))
        gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
    grpc_init();
}

void rpc_fini(void)
{
    grpc_shutdown_blocking();
}

const char *rpc_status_name(int code)
{
    static const char *const names[] = {"OK",
                                        "CANCELLED",
                                        "UNKNOWN",
                                        "INVALID_ARGUMENT",
                                        "DEADLINE_EXCEEDED",
                                        "NOT_FOUND",
                                        "ALREADY_EXISTS",
                                        "PERMISSION_DENIED",
                                        "RESOURCE_EXHAUSTED",
                                        "FAILED_PRECONDITION",
                                        "ABORTED",
                                        "OUT_OF_RANGE",
                                        "UNIMPLEMENTED",
                                        "INTERNAL",
                                        "UNAVAILABLE",
                                        "DATA_LOSS",
                                        "UNAUTHENTICATED"};
    return code >= 0 && (size_t)code < sizeof names / sizeof *names ? names[code] : "UNKNOWN";
}
