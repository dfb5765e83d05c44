/*
 * An engine that computes nothing, for tests of what talks to one: StreamGenerate on a free port of loopback. It answers with max_tokens
 * tokens "t0 t1 .." in messages of a given number of tokens, and what the members say.
 */
#ifndef TESTS_UNIT_LOAD_SERVER_H
#define TESTS_UNIT_LOAD_SERVER_H

#include "rpc/rpc.h"

#include <stdatomic.h>

struct fake {
    uint32_t tokens_a_message;
    int refuse_every; /* each so-manieth request is refused with RetryInfo of retry_ms; 0 = none */
    int64_t retry_ms;
    bool differ; /* each request gets another text */
    bool lose;   /* one token less than it says */
    bool fail;   /* INTERNAL after the first message */
    bool silent; /* nothing after the first message */
    atomic_int n_requests, n_cancelled, max_running, n_running;
    struct rpc_method methods[2];
    struct rpc_server *server;
    char target[64]; /* "127.0.0.1:PORT" */
};

/* rpc_init comes first. */
void fake_open(struct fake *f);
void fake_close(struct fake *f);

#endif
