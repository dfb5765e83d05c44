/*
 * One question to the engine for one HTTP request: a unary call whose answer is written by a function. The client going
 * away cancels it.
 */
#ifndef GATEWAY_ASK_H
#define GATEWAY_ASK_H

#include "gateway/gateway.h"

#include <stddef.h>

/* Starts it; answers errors itself. `answer` gets the packed message and must end the exchange. */
void ask_engine(struct request *r, const char *path, const void *data, size_t n_bytes, int64_t timeout_ms,
                void (*answer)(struct request *r, const void *data, size_t n_bytes));

#endif
