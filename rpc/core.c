/* Completion queues with their threads, and the conversions between gRPC's types and ours. See core.h. */
#include "rpc/core.h"

#include "base/clock.h"
#include "base/log.h"

#include <grpc/byte_buffer_reader.h>
#include <stdlib.h>
#include <string.h>

void core_broken(const char *condition, const char *file, int line)
{
    log_error("rpc", "broken invariant", LOG_STR("condition", condition), LOG_STR("file", file), LOG_INT("line", line));
    abort();
}

/* ---- queues ----------------------------------------------------------------------------------------------------- */

void cq_init(struct queue *q)
{
    q->cq = grpc_completion_queue_create_for_next(NULL);
    atomic_init(&q->posted, NULL);
}

/* Runs tags as they come, until `deadline` has passed without one or the queue is shut down. */
static void run_tags(struct queue *q, gpr_timespec deadline)
{
    for (;;) {
        grpc_event event = grpc_completion_queue_next(q->cq, deadline, NULL);
        if (event.type != GRPC_OP_COMPLETE)
            return;
        struct tag *tag = event.tag;
        TAG_ACQUIRE(tag);
        tag->run(tag->owner, event.success != 0);
    }
}

static void *cq_main(void *arg)
{
    accept_for_grpc();
    run_tags(arg, gpr_inf_future(GPR_CLOCK_MONOTONIC));
    return NULL;
}

void cq_turn(struct queue *q)
{
    accept_for_grpc(); /* who looks for tags may find connections of a server in the same process */
    run_tags(q, gpr_inf_past(GPR_CLOCK_MONOTONIC));
}

enum error_code cq_start(struct queue *q, const char *name, struct error *err)
{
    int failed = pthread_create(&q->thread, NULL, cq_main, q);
    if (failed)
        return error_set(err, ERROR_INTERNAL, "cannot start a completion thread: %s", strerror(failed));
    pthread_setname_np(q->thread, name);
    return ERROR_NONE;
}

void cq_fini(struct queue *q, bool started)
{
    grpc_completion_queue_shutdown(q->cq);
    if (started)
        pthread_join(q->thread, NULL);
    else
        while (grpc_completion_queue_next(q->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type != GRPC_QUEUE_SHUTDOWN)
            ;
    grpc_completion_queue_destroy(q->cq);
}

void core_start_batch(grpc_call *call, const grpc_op *ops, size_t n_ops, struct tag *tag)
{
    TAG_RELEASE(tag);
    RPC_ASSERT(grpc_call_start_batch(call, ops, n_ops, tag, NULL) == GRPC_CALL_OK);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

grpc_byte_buffer *core_bytes_copy(const void *data, size_t n_bytes)
{
    grpc_slice slice = grpc_slice_from_copied_buffer(data, n_bytes);
    grpc_byte_buffer *bytes = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return bytes;
}

bool core_bytes_read(grpc_byte_buffer *bytes, grpc_slice *out)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, bytes))
        return false;
    *out = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    return true;
}

char *core_slice_text(grpc_slice slice)
{
    size_t n_bytes = GRPC_SLICE_LENGTH(slice);
    char *text = malloc(n_bytes + 1);
    if (text) {
        memcpy(text, GRPC_SLICE_START_PTR(slice), n_bytes);
        text[n_bytes] = '\0';
    }
    return text;
}

const grpc_slice *core_metadata_find(const grpc_metadata_array *array, const char *key)
{
    for (size_t i = 0; i < array->count; i++)
        if (grpc_slice_str_cmp(array->metadata[i].key, key) == 0)
            return &array->metadata[i].value;
    return NULL;
}

/* ---- time ------------------------------------------------------------------------------------------------------- */

/* By way of what is left, because gRPC's clock need not be ours. */
gpr_timespec core_deadline(int64_t deadline_ns)
{
    if (deadline_ns == CLOCK_NEVER)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    int64_t left_ns = deadline_ns - clock_now_ns();
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(left_ns, GPR_TIMESPAN));
}

int64_t core_deadline_ns(gpr_timespec deadline)
{
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
        return CLOCK_NEVER;
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    int64_t now_ns = clock_now_ns();
    if (left.tv_sec >= (CLOCK_NEVER - now_ns) / CLOCK_NS_PER_S - 1)
        return CLOCK_NEVER;
    if (left.tv_sec <= -now_ns / CLOCK_NS_PER_S)
        return 0;
    return now_ns + left.tv_sec * CLOCK_NS_PER_S + left.tv_nsec;
}
