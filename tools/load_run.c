/* A level from its beginning to its end: workers and their threads, arrivals, and the wait for the last answer. */
#include "tools/load_run.h"

#include "base/clock.h"
#include "tools/load_random.h"
#include "tools/load_slot.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define DRAW_GAP (UINT64_C(2) << 32) /* and the worker's number */

/* ---- slots --------------------------------------------------------------------------------------------------------- */

static struct load_slot *slot_open(struct load_worker *w)
{
    struct load_slot *s = calloc(1, sizeof *s);
    if (!s)
        load_no_memory();
    s->worker = w;
    s->due_ns = CLOCK_NEVER;
    buffer_init(&s->body, SIZE_MAX / 2);
    s->timer = evtimer_new(w->base, load_slot_on_timer, s);
    if (!s->timer || !w->run->transport->slot_open(s))
        load_no_memory();
    w->slots[w->n_slots++] = s;
    return s;
}

static void slot_close(struct load_slot *s)
{
    s->worker->run->transport->slot_close(s);
    event_free(s->timer);
    buffer_fini(&s->body);
    free(s);
}

static size_t max_slots(const struct load_run *r)
{
    size_t n = r->n_clients ? r->n_clients : (size_t)r->plan->config->max_in_flight;
    return (n + (size_t)r->n_workers - 1) / (size_t)r->n_workers;
}

/* ---- arrivals, on the worker's loop ---------------------------------------------------------------------------------- */

/* When this worker's next request is due. Workers share a Poisson process as processes of their own with a part of the rate, and a
 * trace line by line. False when the trace is over. */
static bool schedule(struct load_worker *w)
{
    struct load_run *r = w->run;
    if (r->plan->mode == LOAD_TRACE) {
        uint64_t line = w->n_arrivals * (uint64_t)r->n_workers + (uint64_t)w->number;
        if (line >= r->plan->trace.n_arrivals)
            return false;
        w->next_ns = r->begin_ns + (int64_t)(r->plan->trace.arrivals[line].time_s / r->level * 1e9);
        return true;
    }
    double gap =
        load_random_exponential((uint64_t)r->plan->config->seed, w->n_arrivals, DRAW_GAP + (uint64_t)w->number);
    w->next_ns += (int64_t)(gap * (double)r->n_workers / r->level * 1e9);
    return true;
}

/* Sends what is due, however late it is. False when no more is to be sent. */
static bool arrive(struct load_worker *w)
{
    struct load_run *r = w->run;
    uint64_t index;
    if (!load_run_take(r, w->next_ns, &index))
        return false;
    atomic_fetch_add(&r->n_running, 1);
    if (r->plan->mode == LOAD_TRACE)
        index = w->n_arrivals * (uint64_t)r->n_workers + (uint64_t)w->number;
    struct load_slot *s = w->idle;
    if (s)
        w->idle = s->next_idle;
    else if (w->n_slots < max_slots(r))
        s = slot_open(w);
    if (s) {
        load_slot_begin(s, index, w->next_ns);
        return true;
    }
    w->stats.n_ended[LOAD_FAILED]++;
    load_stats_fault(&w->stats, "client: --max-in-flight reached", 1);
    load_run_leave(r);
    return true;
}

/* Once: what is to come no longer keeps the run from its end. */
static void end_arrivals(struct load_worker *w)
{
    if (w->arriving)
        load_run_leave(w->run);
    w->arriving = false;
}

static void on_arrival(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct load_worker *w = user;
    pthread_mutex_lock(&w->lock);
    int64_t now_ns = clock_now_ns();
    bool more = w->arriving;
    while (more && w->next_ns <= now_ns) {
        more = arrive(w);
        w->n_arrivals++;
        more = more && schedule(w);
    }
    int64_t us = (w->next_ns - now_ns + 999) / 1000;
    const struct timeval after = {us / 1000000, us % 1000000};
    if (more && w->next_ns < w->run->end_ns)
        event_add(w->arrival, &after);
    else
        end_arrivals(w);
    pthread_mutex_unlock(&w->lock);
}

static void begin_clients(struct load_worker *w)
{
    struct load_run *r = w->run;
    for (size_t i = (size_t)w->number; i < r->n_clients; i += (size_t)r->n_workers) {
        uint64_t index;
        struct load_slot *s = slot_open(w);
        atomic_fetch_add(&r->n_running, 1);
        int64_t now_ns = clock_now_ns();
        if (load_run_take(r, now_ns, &index))
            load_slot_begin(s, index, now_ns);
        else
            load_run_leave(r);
    }
}

static void *work(void *user)
{
    struct load_worker *w = user;
    pthread_mutex_lock(&w->lock);
    if (w->run->n_clients)
        begin_clients(w);
    if (w->run->n_clients == 0 && schedule(w))
        event_active(w->arrival, 0, 0);
    else
        end_arrivals(w);
    pthread_mutex_unlock(&w->lock);
    event_base_loop(w->base, EVLOOP_NO_EXIT_ON_EMPTY);
    return NULL;
}

static void on_stop(evutil_socket_t fd, short what, void *user)
{
    (void)fd, (void)what;
    struct load_worker *w = user;
    pthread_mutex_lock(&w->lock);
    end_arrivals(w);
    for (size_t i = 0; i < w->n_slots; i++)
        if (w->slots[i]->state == SLOT_RUNNING && !w->slots[i]->cancelled) {
            w->slots[i]->interrupted = true;
            load_slot_cancel(w->slots[i]);
        }
    pthread_mutex_unlock(&w->lock);
}

/* ---- workers --------------------------------------------------------------------------------------------------------- */

static enum error_code worker_open(struct load_worker *w, struct load_run *r, int number, struct error *err)
{
    w->run = r;
    w->number = number;
    pthread_mutex_init(&w->lock, NULL);
    struct event_config *config = event_config_new();
    if (config)
        event_config_set_flag(config, EVENT_BASE_FLAG_PRECISE_TIMER);
    w->base = config ? event_base_new_with_config(config) : NULL;
    if (config)
        event_config_free(config);
    w->slots = calloc(max_slots(r), sizeof *w->slots);
    w->arrival = w->base ? evtimer_new(w->base, on_arrival, w) : NULL;
    w->stop = w->base ? event_new(w->base, -1, 0, on_stop, w) : NULL;
    if (!w->slots || !w->arrival || !w->stop)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for a worker");
    return r->transport->open(w, err);
}

/* The thread, if there was one, has ended. */
static void worker_close(struct load_worker *w)
{
    if (w->transport)
        w->run->transport->close(w);
    for (size_t i = 0; i < w->n_slots; i++)
        slot_close(w->slots[i]);
    free(w->slots);
    if (w->arrival)
        event_free(w->arrival);
    if (w->stop)
        event_free(w->stop);
    if (w->base)
        event_base_free(w->base);
    pthread_mutex_destroy(&w->lock);
}

static bool open_workers(struct load_run *r, struct error *err)
{
    int n_wanted = (int)r->plan->config->threads;
    if (r->n_clients && (size_t)n_wanted > r->n_clients)
        n_wanted = (int)r->n_clients;
    r->wake_fd = eventfd(0, EFD_CLOEXEC);
    r->workers = calloc((size_t)n_wanted, sizeof *r->workers);
    if (r->wake_fd < 0 || !r->workers) {
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for workers");
        return false;
    }
    r->n_workers = n_wanted;
    for (int i = 0; i < n_wanted; i++)
        if (worker_open(&r->workers[i], r, i, err)) {
            r->n_workers = i + 1;
            return false;
        }
    return true;
}

static bool start_threads(struct load_run *r, int *n_started, struct error *err)
{
    for (*n_started = 0; *n_started < r->n_workers; ++*n_started) {
        struct load_worker *w = &r->workers[*n_started];
        atomic_fetch_add(&r->n_running, 1);
        w->arriving = true;
        w->next_ns = r->begin_ns;
        if (pthread_create(&w->thread, NULL, work, w) == 0)
            continue;
        atomic_fetch_sub(&r->n_running, 1);
        atomic_store(&r->stopping, true);
        error_set(err, ERROR_INTERNAL, "cannot start a thread");
        return false;
    }
    return true;
}

/* ---- the wait -------------------------------------------------------------------------------------------------------- */

static bool is_over(struct load_run *r)
{
    bool none_left = atomic_load(&r->stopping) || clock_now_ns() >= r->end_ns ||
                     (r->n_requests && atomic_load(&r->n_sent) >= r->n_requests);
    return none_left && atomic_load(&r->n_running) == 0;
}

static void stop_all(struct load_run *r)
{
    atomic_store(&r->stopping, true);
    for (int i = 0; i < r->n_workers; i++)
        event_active(r->workers[i].stop, 0, 0);
}

static void show_progress(struct load_run *r, int64_t now_ns)
{
    uint64_t n_ended = 0, n_tokens = 0;
    for (int i = 0; i < r->n_workers; i++) {
        struct load_worker *w = &r->workers[i];
        pthread_mutex_lock(&w->lock);
        n_ended += load_stats_n_ended(&w->stats);
        n_tokens += w->stats.n_tokens;
        pthread_mutex_unlock(&w->lock);
    }
    fprintf(stderr, "\r\033[K%.0f s: %llu requests ended, %llu running, %llu tokens",
            (double)(now_ns - r->begin_ns) / 1e9, (unsigned long long)n_ended,
            (unsigned long long)atomic_load(&r->n_running), (unsigned long long)n_tokens);
}

static void wait_for_end(struct load_run *r, int stop_fd, bool *interrupted)
{
    bool terminal = isatty(STDERR_FILENO);
    struct pollfd fds[2] = {{.fd = r->wake_fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
    int64_t limit_ns = r->end_ns == CLOCK_NEVER ? CLOCK_NEVER : r->end_ns + (int64_t)(r->plan->config->drain_s * 1e9);
    while (!is_over(r)) {
        int64_t now_ns = clock_now_ns(), next_ns = now_ns + CLOCK_NS_PER_S / (terminal ? 2 : 1);
        if (now_ns < r->end_ns && r->end_ns < next_ns)
            next_ns = r->end_ns;
        if (now_ns >= limit_ns && !atomic_load(&r->stopping))
            stop_all(r);
        if (terminal)
            show_progress(r, now_ns);
        uint64_t count;
        if (poll(fds, stop_fd >= 0 && !*interrupted ? 2 : 1, (int)((next_ns - now_ns) / CLOCK_NS_PER_MS) + 1) <= 0)
            continue;
        if (fds[0].revents && read(r->wake_fd, &count, sizeof count) != sizeof count)
            abort(); /* it was readable, and nobody else reads it */
        if (!*interrupted && fds[1].revents) {
            *interrupted = true;
            stop_all(r);
        }
    }
    if (terminal)
        fputs("\r\033[K", stderr);
}

/* ---- a level ---------------------------------------------------------------------------------------------------------- */

static void settle(struct load_run *r, int64_t over_ns, bool interrupted)
{
    int64_t end_ns = over_ns < r->end_ns ? over_ns : r->end_ns;
    r->seconds = end_ns > r->window_ns ? (double)(end_ns - r->window_ns) / 1e9 : 0;
    for (int i = 0; i < r->n_workers; i++)
        load_stats_merge(&r->stats, &r->workers[i].stats);
    uint64_t unfinished = r->stats.n_ended[LOAD_INTERRUPTED];
    if (!interrupted && unfinished) {
        r->stats.n_ended[LOAD_INTERRUPTED] = 0;
        r->stats.n_ended[LOAD_FAILED] += unfinished;
        load_stats_fault(&r->stats, "client: unfinished after --drain-s", unfinished);
    }
}

bool load_run_level(struct load_run *r, int stop_fd, bool *interrupted, struct error *err)
{
    const struct load_config *c = r->plan->config;
    int n_started = 0;
    r->wake_fd = -1;
    if (!open_workers(r, err))
        return false;
    r->begin_ns = clock_now_ns();
    r->window_ns = r->begin_ns + (r->alone ? 0 : (int64_t)(c->warmup_s * 1e9));
    r->end_ns = c->duration_s > 0 && !r->alone ? r->window_ns + (int64_t)(c->duration_s * 1e9) : CLOCK_NEVER;
    bool ok = start_threads(r, &n_started, err);
    if (!ok)
        stop_all(r);
    wait_for_end(r, stop_fd, interrupted);
    int64_t over_ns = clock_now_ns();
    for (int i = 0; i < n_started; i++) {
        event_base_loopexit(r->workers[i].base, NULL); /* works even before the loop begins */
        pthread_join(r->workers[i].thread, NULL);
    }
    settle(r, over_ns, *interrupted);
    return ok;
}

void load_run_free(struct load_run *r)
{
    for (int i = 0; i < r->n_workers; i++)
        worker_close(&r->workers[i]);
    free(r->workers);
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    r->workers = NULL;
    r->n_workers = 0;
}
