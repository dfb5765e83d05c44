/*
 * One question for one HTTP request, to one engine or to all: a unary call whose answer is written by a function. The client
 * going away cancels it.
 */
#ifndef GATEWAY_ASK_H
#define GATEWAY_ASK_H

#include "gateway/ask_all.h"
#include "gateway/gateway.h"

#include <stddef.h>

/* Asks one engine; answers errors itself. `answer` gets the packed message and must end the exchange. When an engine fails
 * before its answer is there, another one is asked, so the call may be carried out more than once: for those that only read.
 * It is never with two engines at a time (hedged). */
void ask_engine(struct request *r, const char *path, const void *data, size_t n_bytes, int64_t timeout_ms,
                void (*answer)(struct request *r, const void *data, size_t n_bytes));

/* Asks every engine that is up; answers the error itself when none of them answers. Else `answer` gets what came, at least
 * one message of `type`, and must end the exchange. */
void ask_engines(struct request *r, const char *path, const void *data, size_t n_bytes, int64_t timeout_ms,
                 const ProtobufCMessageDescriptor *type,
                 void (*answer)(struct request *r, const struct ask_all_answers *answers));

#endif
