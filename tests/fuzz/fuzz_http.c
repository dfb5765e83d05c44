/*
 * Bytes of a network through a connection, either protocol by its first bytes, into the routes and their tables. The first
 * byte of the input says in which pieces the rest comes, the second how much the transport has not passed on yet. The
 * engine behind it says what it is made to say: every second call gets a token, every third an error.
 */
#include "tests/unit/gateway/app.h"

#include <assert.h>
#include <stdint.h>

#define MEMORY_BYTES 16384 /* of all requests at a time: a few are refused */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void answer_calls(void)
{
    for (int i = 0; i < app_n_calls; i++) {
        if (app_calls[i].over)
            continue;
        bool stream = strstr(app_calls[i].options.path, "StreamGenerate") != NULL;
        bool whole = strstr(app_calls[i].options.path, "InferenceService/Generate") != NULL;
        if (i % 3 == 2)
            app_end(i, i % 17, "fuzz");
        else if (stream && i % 2 == 0)
            app_token(i, 0, 0, 1, "token", -1.0f);
        else if (stream || whole)
            app_answer(i, stream, "text");
        if (!app_calls[i].over && i % 2 == 1)
            app_end(i, 0, "");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static struct app app;
    if (n_bytes < 2)
        return 0;
    app_open(&app);
    app.m.pending = (size_t)data[1] * 512;
    app.g.request_memory.max_bytes = MEMORY_BYTES;
    app.g.main_http.memory = &app.g.request_memory;
    size_t n_piece = data[0] == 0 ? n_bytes : data[0];
    for (size_t at = 2; at < n_bytes && app_n_calls + 16 < APP_MAX_CALLS; at += n_piece) {
        size_t n = n_bytes - at < n_piece ? n_bytes - at : n_piece;
        if (!memory_input(&app.m, (const char *)data + at, n, 0))
            break;
        answer_calls();
        app.m.pending /= 2;
        http_conn_output(app.m.conn, &app.m.out);
    }
    app_close(&app);
    assert(app.g.request_memory.n_bytes == 0);
    return 0;
}
