/* Token streams: what is shown when, the reader's view, bounds, wakes, and the promises about on_ready and close. */
#include "engine/stream.h"
#include "tests/suite.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static struct stream *open_stream(uint32_t n_choices, uint32_t max_tokens, struct waker *waker)
{
    struct stream_options o = {
        .n_choices = n_choices, .max_tokens = max_tokens, .n_top = 2, .max_token_bytes = 16, .waker = waker};
    struct stream *s = stream_open(&o);
    ck_assert_ptr_nonnull(s);
    return s;
}

static void push(struct stream *s, uint32_t choice, uint32_t id, const char *text, uint64_t safe, bool hold)
{
    struct token_logprob top[2] = {{id, -0.5f}, {id + 1, -1.5f}};
    struct stream_token token = {id, -0.5f, top, 2};
    ck_assert(stream_has_room(s, choice));
    stream_push(s, choice, &token, text, strlen(text), safe, hold);
}

static void complete(struct stream *s, enum finish_reason finish)
{
    struct stream_summary summary = {.n_generated_tokens = 3};
    stream_complete(s, finish, NULL, &summary);
    stream_release(s);
}

/* The next event as text: "0@0:a|b" tokens, "end0", "complete", "-". */
static const char *next_event(struct stream *s, size_t max_tokens)
{
    static char out[4096];
    struct stream_event ev;
    stream_read(s, max_tokens, &ev);
    if (ev.type == STREAM_CHOICE_END)
        snprintf(out, sizeof out, "end%u:%d", ev.choice, ev.finish);
    else if (ev.type == STREAM_COMPLETE)
        snprintf(out, sizeof out, "complete:%d", ev.finish);
    else if (ev.type == STREAM_NOTHING)
        return "-";
    else {
        int n = snprintf(out, sizeof out, "%u@%u:", ev.choice, ev.position);
        for (size_t i = 0; i < ev.n_tokens; i++) {
            n += snprintf(out + n, sizeof out - (size_t)n, "%s%.*s", i ? "|" : "", (int)ev.tokens[i].n_bytes,
                          ev.tokens[i].text);
            ck_assert_uint_eq(ev.tokens[i].top[0].id, ev.tokens[i].id);
            ck_assert_uint_eq(ev.tokens[i].top[1].id, ev.tokens[i].id + 1);
        }
    }
    return out;
}

/* A grammar that allows fewer tokens than were asked for: what an earlier token left in the ring is not shown for another. */
START_TEST(test_fewer_alternatives_than_asked_for)
{
    const struct token_logprob top[2] = {{7, -0.5f}, {8, -1.5f}};
    const uint32_t n_tops[6] = {2, 1, 0, 2, 0, 1};
    struct stream *s = open_stream(1, 3, NULL);
    struct stream_event ev;
    for (uint32_t i = 0; i < 6; i++) {
        struct stream_token token = {i, -0.5f, top, n_tops[i]};
        stream_push(s, 0, &token, "", 0, 0, false);
        stream_read(s, 0, &ev);
        ck_assert_uint_eq(ev.n_tokens, 1);
        ck_assert_uint_eq(ev.tokens[0].n_top, n_tops[i]);
        for (uint32_t k = 0; k < n_tops[i]; k++)
            ck_assert_uint_eq(ev.tokens[0].top[k].id, top[k].id);
    }
    complete(s, FINISH_LENGTH);
    stream_close(s);
}
END_TEST

START_TEST(test_tokens_then_end_then_complete)
{
    struct stream *s = open_stream(1, 10, NULL);
    ck_assert_str_eq(next_event(s, 0), "-");
    push(s, 0, 1, "one", 3, false);
    push(s, 0, 2, " two", 7, false);
    push(s, 0, 3, "!", 8, false);
    ck_assert_str_eq(next_event(s, 2), "0@0:one| two");
    ck_assert_str_eq(next_event(s, 0), "0@2:!");
    ck_assert_str_eq(next_event(s, 0), "-");
    stream_end_choice(s, 0, "", 0, UINT64_MAX, FINISH_LENGTH);
    complete(s, FINISH_LENGTH);
    ck_assert(stream_wait(s, 0));
    ck_assert_str_eq(next_event(s, 0), "end0:2");
    ck_assert_str_eq(next_event(s, 0), "complete:2");
    ck_assert_str_eq(next_event(s, 0), "-");
    ck_assert(!stream_wait(s, 0));
    stream_close(s);
}
END_TEST

/* A stop string "ENDE" begins in the second token; the third does not go on with it. */
START_TEST(test_held_back_tokens_come_out_when_decided)
{
    struct stream *s = open_stream(1, 10, NULL);
    push(s, 0, 1, "a", 1, false);
    push(s, 0, 2, "bEN", 2, false);
    ck_assert_str_eq(next_event(s, 0), "0@0:a"); /* a token comes out once, so with all its text */
    push(s, 0, 3, "D", 2, false);
    ck_assert_str_eq(next_event(s, 0), "-");
    push(s, 0, 4, "x", 6, false);
    ck_assert_str_eq(next_event(s, 0), "0@1:bEN|D|x");
    push(s, 0, 5, "END", 6, false);
    push(s, 0, 6, "E", 6, true);
    stream_end_choice(s, 0, "", 0, 6, FINISH_STOP);
    ck_assert_str_eq(next_event(s, 0), "0@4:|"); /* both tokens, without text */
    complete(s, FINISH_STOP);
    stream_close(s);
}
END_TEST

START_TEST(test_stop_string_in_the_middle_of_a_token)
{
    struct stream *s = open_stream(1, 10, NULL);
    push(s, 0, 1, "abEN", 2, false);
    push(s, 0, 2, "Dcd", 2, true);
    stream_end_choice(s, 0, "", 0, 2, FINISH_STOP);
    ck_assert_str_eq(next_event(s, 0), "0@0:ab|");
    complete(s, FINISH_STOP);
    stream_close(s);
}
END_TEST

/* A token that begins a character stays until the character is whole; at the end it takes the replacement. */
START_TEST(test_open_character)
{
    struct stream *s = open_stream(1, 10, NULL);
    push(s, 0, 1, "x", 1, true);
    ck_assert_str_eq(next_event(s, 0), "-");
    push(s, 0, 2, "\xc3\xa9", 3, false);
    ck_assert_str_eq(next_event(s, 0), "0@0:x|\xc3\xa9");
    push(s, 0, 3, "", 3, true);
    stream_end_choice(s, 0, "\xef\xbf\xbd", 3, UINT64_MAX, FINISH_STOP);
    ck_assert_str_eq(next_event(s, 0), "0@2:\xef\xbf\xbd");
    complete(s, FINISH_STOP);
    stream_close(s);
}
END_TEST

/* Held text and then tokens without text, for ever: the oldest go out, their text moves on, nothing is lost. */
START_TEST(test_held_tokens_are_bounded)
{
    struct stream *s = open_stream(1, 1000, NULL);
    size_t n = 0, n_text = 0;
    struct stream_event ev;
    push(s, 0, 1, "held", 1, false);
    for (uint32_t i = 0; i < 300; i++)
        push(s, 0, 2, "", 1, false);
    stream_end_choice(s, 0, "", 0, UINT64_MAX, FINISH_LENGTH);
    char text[16] = "";
    while (stream_read(s, 0, &ev), ev.type == STREAM_TOKENS) {
        for (size_t i = 0; i < ev.n_tokens; i++) {
            memcpy(text + n_text, ev.tokens[i].text, ev.tokens[i].n_bytes);
            n_text += ev.tokens[i].n_bytes;
        }
        n += ev.n_tokens;
    }
    ck_assert_uint_eq(n, 301);
    ck_assert_str_eq(text, "held");
    complete(s, FINISH_LENGTH);
    stream_close(s);
}
END_TEST

START_TEST(test_choices_take_turns)
{
    struct stream *s = open_stream(2, 10, NULL);
    push(s, 0, 1, "a", 1, false);
    push(s, 1, 1, "x", 1, false);
    ck_assert_str_eq(next_event(s, 0), "0@0:a");
    push(s, 0, 1, "b", 2, false);
    ck_assert_str_eq(next_event(s, 0), "1@0:x");
    ck_assert_str_eq(next_event(s, 0), "0@1:b");
    stream_end_choice(s, 1, "", 0, UINT64_MAX, FINISH_STOP);
    ck_assert_str_eq(next_event(s, 0), "end1:1");
    stream_end_choice(s, 0, "", 0, UINT64_MAX, FINISH_LENGTH);
    ck_assert_str_eq(next_event(s, 0), "end0:2");
    complete(s, FINISH_LENGTH);
    stream_close(s);
}
END_TEST

/* A full stream has no room; reading gives room again and wakes the loop. */
START_TEST(test_bound_and_wake)
{
    struct waker waker;
    ck_assert(waker_init(&waker));
    struct stream *s = open_stream(1, 100000, &waker);
    uint32_t n = 0;
    for (; stream_has_room(s, 0); n++)
        push(s, 0, n, "abc", 3 * (uint64_t)(n + 1), false);
    ck_assert_uint_eq(n, STREAM_MAX_UNREAD);
    ck_assert(!waker.awake);
    ck_assert_str_eq(next_event(s, 1), "0@0:abc");
    ck_assert(waker.awake);
    ck_assert(stream_has_room(s, 0));
    /* And when the text is what fills it. */
    for (; stream_has_room(s, 0); n++)
        push(s, 0, n, "0123456789abcdef", UINT64_MAX, false);
    struct stream_event ev;
    stream_read(s, 0, &ev);
    for (n = 0; stream_has_room(s, 0); n++)
        push(s, 0, n, "0123456789abcdef", UINT64_MAX, false);
    ck_assert_uint_lt(n, STREAM_MAX_UNREAD);
    ck_assert_uint_gt(n, 10);
    complete(s, FINISH_CANCELLED);
    stream_close(s);
    waker_fini(&waker);
}
END_TEST

/* ---- two threads ------------------------------------------------------------------------------------------------- */

struct reader {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned n_ready, n_calls;
    atomic_bool closed;
};

static void on_ready(void *user)
{
    struct reader *r = user;
    ck_assert(!atomic_load(&r->closed));
    pthread_mutex_lock(&r->lock);
    r->n_ready++;
    r->n_calls++;
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

struct writer {
    struct stream *s;
    struct waker waker;
    uint32_t n_tokens;
};

static void *write_all(void *arg)
{
    struct writer *w = arg;
    char text[16];
    uint64_t at = 0;
    for (uint32_t i = 0; i < w->n_tokens && !stream_cancelled(w->s);) {
        if (!stream_has_room(w->s, 0)) {
            waker_sleep(&w->waker, clock_now_ns() + 10 * CLOCK_NS_PER_S);
            continue;
        }
        at += (uint64_t)snprintf(text, sizeof text, "%u,", i);
        push(w->s, 0, i, text, i % 7 ? at : at - 1, false);
        i++;
    }
    stream_end_choice(w->s, 0, "", 0, UINT64_MAX, FINISH_LENGTH);
    complete(w->s, FINISH_LENGTH);
    return NULL;
}

static struct stream *start_writer(struct writer *w, struct reader *r, uint32_t n_tokens, pthread_t *thread)
{
    struct stream_options o = {.n_choices = 1,
                               .max_tokens = n_tokens,
                               .n_top = 2,
                               .max_token_bytes = 16,
                               .on_ready = on_ready,
                               .user = r,
                               .waker = &w->waker};
    memset(r, 0, sizeof *r);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    ck_assert(waker_init(&w->waker));
    w->s = stream_open(&o);
    w->n_tokens = n_tokens;
    ck_assert_int_eq(pthread_create(thread, NULL, write_all, w), 0);
    return w->s;
}

/* Driven by on_ready alone: if a call were missed, this would hang; nothing is lost, doubled or out of order. */
START_TEST(test_two_threads)
{
    struct writer w;
    struct reader r;
    pthread_t thread;
    struct stream *s = start_writer(&w, &r, 20000, &thread);
    uint32_t n = 0;
    bool done = false;
    char expected[16];
    while (!done) {
        pthread_mutex_lock(&r.lock);
        while (!r.n_ready)
            pthread_cond_wait(&r.cond, &r.lock);
        r.n_ready = 0;
        pthread_mutex_unlock(&r.lock);
        struct stream_event ev;
        while (stream_read(s, n % 5, &ev), ev.type != STREAM_NOTHING) {
            ck_assert(ev.type != STREAM_TOKENS || ev.position == n);
            for (size_t i = 0; i < ev.n_tokens; i++, n++) {
                int len = snprintf(expected, sizeof expected, "%u,", n);
                ck_assert_uint_eq(ev.tokens[i].id, n);
                ck_assert_uint_eq(ev.tokens[i].n_bytes, (size_t)len);
                ck_assert(!memcmp(ev.tokens[i].text, expected, (size_t)len));
            }
            done = ev.type == STREAM_COMPLETE;
        }
    }
    ck_assert_uint_eq(n, 20000);
    stream_close(s);
    pthread_join(thread, NULL);
    waker_fini(&w.waker);
}
END_TEST

/* Closed at any moment: no call afterwards, and the writer can go on to its end. */
START_TEST(test_close_at_any_moment)
{
    for (unsigned round = 0; round < 200; round++) {
        struct writer w;
        struct reader r;
        pthread_t thread;
        struct stream *s = start_writer(&w, &r, 2000, &thread);
        struct stream_event ev;
        for (unsigned i = 0; i < round % 20; i++)
            stream_read(s, 0, &ev);
        stream_close(s);
        atomic_store(&r.closed, true);
        pthread_join(thread, NULL);
        waker_fini(&w.waker);
    }
}
END_TEST

struct slow {
    atomic_bool inside, closed;
};

static void on_ready_slowly(void *user)
{
    struct slow *w = user;
    atomic_store(&w->inside, true);
    usleep(20000);
    ck_assert(!atomic_load(&w->closed));
}

static void *push_one(void *s)
{
    push(s, 0, 1, "a", 1, false);
    return NULL;
}

/* Closed while a call is under way: close waits for its end. */
START_TEST(test_close_waits_for_the_call)
{
    pthread_t thread;
    struct slow w = {0};
    struct stream_options o = {
        .n_choices = 1, .max_tokens = 10, .n_top = 2, .max_token_bytes = 16, .on_ready = on_ready_slowly, .user = &w};
    struct stream *s = stream_open(&o);
    pthread_create(&thread, NULL, push_one, s);
    while (!atomic_load(&w.inside))
        usleep(100);
    stream_close(s);
    atomic_store(&w.closed, true);
    pthread_join(thread, NULL);
    stream_release(s);
}
END_TEST

START_TEST(test_wait_times_out)
{
    struct stream *s = open_stream(1, 10, NULL);
    int64_t start_ns = clock_now_ns();
    ck_assert(!stream_wait(s, 30 * CLOCK_NS_PER_MS));
    ck_assert_int_ge(clock_now_ns() - start_ns, 30 * CLOCK_NS_PER_MS);
    complete(s, FINISH_ERROR);
    ck_assert(stream_wait(s, CLOCK_NEVER));
    stream_close(s);
}
END_TEST

SUITE("stream", test_tokens_then_end_then_complete, test_fewer_alternatives_than_asked_for, test_held_back_tokens_come_out_when_decided,
      test_stop_string_in_the_middle_of_a_token, test_open_character, test_held_tokens_are_bounded,
      test_choices_take_turns, test_bound_and_wake, test_two_threads, test_close_at_any_moment,
      test_close_waits_for_the_call, test_wait_times_out)
