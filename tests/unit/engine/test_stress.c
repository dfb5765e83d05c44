/* Many threads at one engine over the null model: all that callers may do at once, until it drains and closes under their hands. Says most under the
 * thread sanitizer (tests/race.sh). */
#include "tests/suite.h"
#include "tests/unit/engine/harness.h"

#include <pthread.h>
#include <stdatomic.h>

#define N_THREADS 8
#define N_REQUESTS 60 /* of a thread */

struct stress {
    struct engine *e;
    atomic_uint n_steps, n_ended, n_refused, n_ready;
    atomic_bool over;
};

struct worker {
    struct stress *stress;
    uint32_t random;
    pthread_t thread;
};

static uint32_t draw(struct worker *w, uint32_t n)
{
    w->random = w->random * 1664525u + 1013904223u;
    return (w->random >> 8) % n;
}

/* Now and then, never three in a row: requests go on to be let through. */
static bool fails(void *user)
{
    struct stress *s = user;
    return atomic_fetch_add(&s->n_steps, 1) % 97 == 96;
}

static void on_ready(void *user)
{
    atomic_fetch_add(&((struct stress *)user)->n_ready, 1);
}

static bool read_some(struct stream *s, uint32_t n_events)
{
    struct stream_event ev;
    for (uint32_t i = 0; i < n_events; i++) {
        if (!stream_wait(s, 20 * CLOCK_NS_PER_S))
            ck_abort_msg("a stream stands still");
        stream_read(s, 5, &ev);
        if (ev.type == STREAM_COMPLETE)
            return false;
    }
    return true;
}

static void *cancel_elsewhere(void *user)
{
    stream_cancel(user);
    return NULL;
}

static void use(struct worker *w, struct stream *s)
{
    pthread_t other;
    switch (draw(w, 6)) {
    case 0: /* goes away */
        break;
    case 1: /* reads some, goes away */
        read_some(s, draw(w, 20));
        break;
    case 2: /* cancelled by another thread while it reads */
        ck_assert_int_eq(pthread_create(&other, NULL, cancel_elsewhere, s), 0);
        read_some(s, UINT32_MAX);
        pthread_join(other, NULL);
        break;
    case 3: /* stalls */
        usleep(draw(w, 5000));
        stream_stalled(s);
        break;
    default:
        read_some(s, UINT32_MAX);
    }
    stream_close(s);
}

static void *work(void *user)
{
    struct worker *w = user;
    struct stress *stress = w->stress;
    uint32_t ids[64];
    for (int i = 0; i < N_REQUESTS; i++) {
        struct request r = harness_request(draw(w, 5), ids, 1 + draw(w, 64), 1 + draw(w, 300));
        struct stream *s;
        struct error err = {0};
        r.n = 1 + draw(w, 3);
        r.priority = (enum priority)draw(w, 3);
        r.on_ready = on_ready;
        r.user = stress;
        if (draw(w, 4) == 0)
            r.deadline_ns = clock_now_ns() + draw(w, 20) * CLOCK_NS_PER_MS;
        if (engine_submit(stress->e, &r, &s, &err)) {
            ck_assert(err.code == ERROR_SERVICE_UNAVAILABLE || err.code == ERROR_DEVICE_UNAVAILABLE);
            atomic_fetch_add(&stress->n_refused, 1);
            usleep(500);
        } else {
            use(w, s);
            atomic_fetch_add(&stress->n_ended, 1);
        }
    }
    return NULL;
}

static void *watch(void *user)
{
    struct stress *stress = user;
    struct engine_stats st;
    while (!atomic_load(&stress->over)) {
        engine_stats(stress->e, &st);
        ck_assert_uint_le(st.n_kv_blocks_used, st.n_kv_blocks);
        usleep(300);
    }
    return NULL;
}

static void run(bool drain_meanwhile)
{
    struct stress stress = {0};
    struct worker workers[N_THREADS];
    const struct null_options null = {.step_ns = 50000, .fails = fails, .user = &stress};
    pthread_t watcher;
    stress.e = harness_open((struct engine_options){.model_path = "models/tales.gguf",
                                                    .null_model = &null,
                                                    .max_sequences = 6,
                                                    .max_batch_tokens = 48,
                                                    .queue_limit = 16,
                                                    .stall_timeout_ns = 2 * CLOCK_NS_PER_MS});
    pthread_create(&watcher, NULL, watch, &stress);
    for (uint32_t i = 0; i < N_THREADS; i++) {
        workers[i] = (struct worker){.stress = &stress, .random = i + 1};
        ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    if (drain_meanwhile) {
        usleep(100000);
        engine_drain(stress.e, clock_now_ns() + 20 * CLOCK_NS_PER_MS);
    }
    for (uint32_t i = 0; i < N_THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    atomic_store(&stress.over, true);
    pthread_join(watcher, NULL);
    ck_assert_uint_eq(atomic_load(&stress.n_ended) + atomic_load(&stress.n_refused), N_THREADS * N_REQUESTS);
    ck_assert_uint_gt(atomic_load(&stress.n_ended), 0);
    harness_await(stress.e, harness_idle);
    engine_close(stress.e);
}

START_TEST(test_all_at_once)
{
    run(false);
}
END_TEST

START_TEST(test_drain_under_load)
{
    run(true);
}
END_TEST

/* Streams that are still open when the engine closes stay readable. */
START_TEST(test_close_with_open_streams)
{
    const struct null_options null = {.step_ns = 50000};
    struct stream *streams[12];
    uint32_t ids[20];
    struct engine *e =
        harness_open((struct engine_options){.model_path = "models/tales.gguf", .null_model = &null, .max_sequences = 4});
    struct request r = harness_request(1, ids, 20, 400);
    for (size_t i = 0; i < 12; i++)
        streams[i] = harness_submit(e, &r);
    usleep(3000);
    engine_close(e);
    for (size_t i = 0; i < 12; i++) {
        struct harness_answer *a = harness_finish(streams[i]);
        ck_assert_int_eq(a->finish, FINISH_ERROR);
        free(a);
    }
}
END_TEST

SUITE("stress", test_all_at_once, test_drain_under_load, test_close_with_open_streams)
