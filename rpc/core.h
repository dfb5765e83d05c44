/*
 * core: what the files of rpc share: completion queues with their thread, tags, and the conversions between gRPC's types and
 * ours. Nobody outside rpc/ includes this.
 *
 *   grpc_completion_queue_next -> struct tag -> tag.run(tag.owner, ok)      on the queue's one thread
 *
 * Every call belongs to one queue for life and every queue has one thread: that alone serialises the callbacks of a call.
 */
#ifndef RPC_CORE_H
#define RPC_CORE_H

#include "rpc/rpc.h"

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdatomic.h>

/* gRPC's queues synchronise with absl::Mutex in a library that the thread sanitizer does not see: tell it that what was written
 * before a tag was handed in is visible where the tag comes out. */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define TAG_RELEASE(tag) __tsan_release(tag)
#define TAG_ACQUIRE(tag) __tsan_acquire(tag)
#else
#define TAG_RELEASE(tag) ((void)(tag))
#define TAG_ACQUIRE(tag) ((void)(tag))
#endif

/* Stops the process when a rule of gRPC's own API was broken by us: never caused by a peer. */
#define RPC_ASSERT(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            core_broken(#condition, __FILE__, __LINE__);                                                               \
    } while (0)
_Noreturn void core_broken(const char *condition, const char *file, int line);

/* What a completion queue gives back; lives inside its owner. */
struct tag {
    void (*run)(void *owner, bool ok);
    void *owner;
};

struct rpc_call;

struct queue {
    grpc_completion_queue *cq;
    pthread_t thread;
    /* The server's: calls with something posted, the last one first. Release by who adds, acquire by the queue's thread, which takes all. */
    _Atomic(struct rpc_call *) posted;
};

/* From now on accept4 of this thread, one of gRPC's, has no error that ends a listener (accept.c). */
void accept_for_grpc(void);

/* Makes the queue, without its thread. */
void cq_init(struct queue *q);
/* Starts the thread that runs the tags. `name` shows in ps. */
enum error_code cq_start(struct queue *q, const char *name, struct error *err);
/* Runs the tags that are there, of a queue without its thread. */
void cq_turn(struct queue *q);
/* Shuts the queue down, waits until its thread has run the last tag (when it was started) and frees it. */
void cq_fini(struct queue *q, bool started);

/* Starts a batch; the tag comes out of the call's queue later. An empty batch comes out at once: that is rpc_post. */
void core_start_batch(grpc_call *call, const grpc_op *ops, size_t n_ops, struct tag *tag);

/* A buffer with a copy of the bytes. */
grpc_byte_buffer *core_bytes_copy(const void *data, size_t n_bytes);
/* All bytes of a received buffer as one slice, to be unreferenced. False when it cannot be read. */
bool core_bytes_read(grpc_byte_buffer *bytes, grpc_slice *out);
/* The slice's text, NUL-terminated, to be freed. NULL when memory is out. */
char *core_slice_text(grpc_slice slice);
/* The first value of `key` in the array, or NULL. */
const grpc_slice *core_metadata_find(const grpc_metadata_array *array, const char *key);

/* Deadlines: clock_now_ns terms to gRPC's and back; CLOCK_NEVER is the infinite future. */
gpr_timespec core_deadline(int64_t deadline_ns);
int64_t core_deadline_ns(gpr_timespec deadline);

struct certificate;

/* Credentials for one address, from the options' PEM files; without files plain text. With them `*list` gets a certificate in front, which
 * must outlive the server. NULL and `err` when a file is not usable. */
grpc_server_credentials *core_server_credentials(const struct rpc_server_options *o, struct certificate **list, struct error *err);
void core_certificates_free(struct certificate *list);
/* Borrowed. */
grpc_channel_credentials *core_channel_credentials(const struct rpc_tls *tls);

#endif
