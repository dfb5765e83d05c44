/*
 * The turns, the places and the thread of live accuracy. See accuracy.h.
 *
 * The thread may be kept from the CPU for long at any point, so it never holds a lock that another thread waits for: a place is handed over by its
 * state, and the figures are atomics.
 */
#include "engine/accuracy.h"

#include "engine/loop.h"
#include "engine/reference.h"

#include "base/clock.h"
#include "base/log.h"

#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_THRESHOLD 0.99
#define N_PLACES 4
#define LOWEST_PRIORITY 19
#define REST 59                        /* times as long as it has computed, while requests run */
#define LOOK_NS (50 * CLOCK_NS_PER_MS) /* how often it looks whether they still do */
#define QUIET_NS CLOCK_NS_PER_S        /* after such a time without requests */
#define BURST_NS (10 * CLOCK_NS_PER_S) /* it leaves so long to those that come, which are likely to be over then */

/* What a comparison needs of a request that is gone. */
struct place {
    atomic_bool full; /* set by the loop with release, cleared by the thread */
    uint32_t n_prompt, n; /* tokens of the prompt; of all */
    uint32_t tokens[ACCURACY_MAX_PROMPT + ACCURACY_MAX_TOKENS];
    struct sampling sampling; /* its bias points to the one here */
    struct logit_bias bias[REQUEST_MAX_BIAS];
};

/* Tokens of one or more requests; fits an atomic. */
struct counts { uint32_t n_compared, n_same; };

struct accuracy {
    struct engine *engine;
    double threshold;
    bool idle;
    pthread_t thread;
    sem_t work; /* posted for each place that is filled, and by close */
    atomic_bool closing;
    struct place places[N_PLACES];
    /* Of the loop's thread: */
    uint64_t period, n_to_pass; /* requests that pass before the next turn */
    size_t next_free;
    /* Of the thread: */
    struct reference *reference;
    int64_t cpu_ns;        /* that it had used when it last rested */
    int64_t idle_since_ns; /* that the engine was seen to be; 0: it was busy when last looked at */
    struct counts window[ACCURACY_WINDOW];
    size_t n_window;
    /* Figures, of which the thread writes all but n_dropped: */
    atomic_bool failed, degraded;
    _Atomic uint64_t n_requests, n_compared, n_same, n_violations, n_dropped;
    _Atomic struct counts recent, lowest; /* n_compared of 0: none yet */
};

static double ratio(struct counts c)
{
    return c.n_compared ? (double)c.n_same / (double)c.n_compared : -1;
}

/* ---- the loop's side --------------------------------------------------------------------------------------------- */

static void fill(struct place *p, const struct job *j)
{
    const struct sequence *q = &j->sequences[0];
    uint32_t n = q->n_drawn < ACCURACY_MAX_TOKENS ? q->n_drawn : ACCURACY_MAX_TOKENS;
    p->n_prompt = j->n_prompt;
    p->n = j->n_prompt + n;
    memcpy(p->tokens, j->prompt, j->n_prompt * sizeof *p->tokens);
    memcpy(p->tokens + j->n_prompt, q->generated, n * sizeof *p->tokens);
    if (j->sampling.n_bias)
        memcpy(p->bias, j->bias, j->sampling.n_bias * sizeof *p->bias);
    p->sampling = j->sampling;
    p->sampling.bias = p->bias;
}

void accuracy_offer(struct accuracy *a, const struct job *j)
{
    if (!j->sequences[0].n_drawn || atomic_load_explicit(&a->failed, memory_order_relaxed))
        return;
    if (a->n_to_pass) {
        a->n_to_pass--;
        return;
    }
    if (j->grammar || j->n_prompt > ACCURACY_MAX_PROMPT)
        return; /* the next one has the turn */
    a->n_to_pass = a->period - 1;
    struct place *p = &a->places[a->next_free];
    if (atomic_load_explicit(&p->full, memory_order_acquire)) {
        atomic_fetch_add_explicit(&a->n_dropped, 1, memory_order_relaxed);
        return;
    }
    fill(p, j);
    atomic_store_explicit(&p->full, true, memory_order_release);
    a->next_free = (a->next_free + 1) % N_PLACES;
    sem_post(&a->work);
}

/* ---- the thread's side ------------------------------------------------------------------------------------------- */

static int64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * CLOCK_NS_PER_S + t.tv_nsec;
}

static bool closing(const struct accuracy *a)
{
    return atomic_load_explicit(&a->closing, memory_order_acquire);
}

/* Requests run, which this thread slows. */
static bool in_the_way(const struct accuracy *a)
{
    return !closing(a) && !atomic_load_explicit(&a->engine->idle, memory_order_relaxed);
}

/* Each millisecond of computing: rests while requests run. The priority alone is not enough: the system lets a thread end a turn that began while
 * a compute thread waited for another one, and both wait. */
static void pace(void *user)
{
    struct accuracy *a = user;
    const struct timespec look = {.tv_nsec = LOOK_NS};
    int64_t now_ns = clock_now_ns(), rest_ns;
    if (!in_the_way(a)) {
        a->idle_since_ns = a->idle_since_ns ? a->idle_since_ns : now_ns;
        return;
    }
    if (a->idle_since_ns)
        rest_ns = now_ns - a->idle_since_ns > QUIET_NS ? BURST_NS : 0;
    else
        rest_ns = REST * (thread_cpu_ns() - a->cpu_ns);
    while (in_the_way(a) && clock_now_ns() < now_ns + rest_ns)
        nanosleep(&look, NULL);
    a->cpu_ns = thread_cpu_ns();
    a->idle_since_ns = 0;
}

static bool go_on(void *user) { return !closing(user); }

static void note_level(struct accuracy *a, struct counts recent)
{
    bool degraded = ratio(recent) < a->threshold;
    if (degraded == atomic_exchange_explicit(&a->degraded, degraded, memory_order_relaxed))
        return;
    if (degraded)
        log_error("engine", "tokens are not those of the reference: kernels, memory or the CPU are at fault",
                  LOG_STR("model", engine_model(a->engine)->id), LOG_FLOAT("accuracy", ratio(recent)),
                  LOG_FLOAT("threshold", a->threshold), LOG_STR("isa", engine_model(a->engine)->isa));
    else
        log_info("engine", "tokens are those of the reference again", LOG_STR("model", engine_model(a->engine)->id),
                 LOG_FLOAT("accuracy", ratio(recent)));
}

static void note(struct accuracy *a, struct counts c)
{
    struct counts recent = {0}, lowest = atomic_load(&a->lowest);
    a->window[a->n_window++ % ACCURACY_WINDOW] = c;
    for (size_t i = 0; i < ACCURACY_WINDOW; i++) {
        recent.n_compared += a->window[i].n_compared;
        recent.n_same += a->window[i].n_same;
    }
    atomic_store(&a->recent, recent);
    if (!lowest.n_compared || ratio(c) < ratio(lowest))
        atomic_store(&a->lowest, c);
    atomic_fetch_add(&a->n_requests, 1);
    atomic_fetch_add(&a->n_compared, c.n_compared); /* first, so that a reader never finds more that are the same */
    atomic_fetch_add(&a->n_same, c.n_same);
    if (ratio(c) < a->threshold)
        atomic_fetch_add(&a->n_violations, 1);
    note_level(a, recent);
}

static void give_up(struct accuracy *a, const struct error *err)
{
    atomic_store(&a->failed, true);
    log_warn("engine", "accuracy is not measured", LOG_STR("model", engine_model(a->engine)->id), LOG_STR("reason", err->message));
}

/* The first request opens the reference. */
static void compare(struct accuracy *a, const struct place *p)
{
    const struct reference_options options = {
        .n_positions = ACCURACY_MAX_PROMPT + ACCURACY_MAX_TOKENS, .load = true, .pace = pace, .pace_user = a};
    struct error err = {0};
    struct agreement agreement = {0};
    enum error_code code = ERROR_NONE;
    if (!a->reference)
        code = reference_open(a->engine, &options, &a->reference, &err);
    if (!code)
        code = reference_compare(a->reference, p->tokens, p->n_prompt, p->n, &p->sampling, go_on, a, &agreement, &err);
    if (code)
        give_up(a, &err);
    else if (agreement.n_compared)
        note(a, (struct counts){(uint32_t)agreement.n_compared, (uint32_t)agreement.n_same});
}

static void *accuracy_main(void *arg)
{
    struct accuracy *a = arg;
    pthread_setname_np(pthread_self(), "accuracy");
    if (a->idle) /* as what computes is */
        sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0});
    else /* at idle priority it would never get to run on a machine that is busy */
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), LOWEST_PRIORITY);
    for (size_t i = 0;; i = (i + 1) % N_PLACES) {
        while (sem_wait(&a->work) != 0)
            ;
        if (closing(a))
            break;
        struct place *p = &a->places[i];
        if (atomic_load_explicit(&p->full, memory_order_acquire) && !atomic_load(&a->failed))
            compare(a, p);
        atomic_store_explicit(&p->full, false, memory_order_release);
    }
    reference_close(a->reference);
    return NULL;
}

/* ---- open, close, read ------------------------------------------------------------------------------------------- */

enum error_code accuracy_open(struct engine *e, double share, double threshold, bool idle, struct accuracy **out, struct error *err)
{
    struct accuracy *a = calloc(1, sizeof *a);
    if (!a)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the requests that are computed again");
    a->engine = e;
    a->idle = idle;
    a->threshold = threshold > 0 ? threshold : DEFAULT_THRESHOLD;
    a->period = share < 1 ? (uint64_t)(1 / share + 0.5) : 1;
    if (!sem_init(&a->work, 0, 0)) {
        if (waker_thread_start(&a->thread, accuracy_main, a)) {
            *out = a;
            return ERROR_NONE;
        }
        sem_destroy(&a->work);
    }
    free(a);
    return error_set(err, ERROR_MEMORY_EXHAUSTED, "no thread to compute requests again");
}

void accuracy_close(struct accuracy *a)
{
    if (!a)
        return;
    atomic_store_explicit(&a->closing, true, memory_order_release);
    pthread_setschedparam(a->thread, SCHED_OTHER, &(struct sched_param){0}); /* where it is allowed: somebody waits now */
    sem_post(&a->work);
    pthread_join(a->thread, NULL);
    sem_destroy(&a->work);
    free(a);
}

void accuracy_read(struct accuracy *a, struct engine_accuracy *out)
{
    *out = (struct engine_accuracy){.n_same = atomic_load(&a->n_same),
                                    .n_compared = atomic_load(&a->n_compared),
                                    .n_requests = atomic_load(&a->n_requests),
                                    .n_violations = atomic_load(&a->n_violations),
                                    .n_dropped = atomic_load(&a->n_dropped),
                                    .recent = ratio(atomic_load(&a->recent)),
                                    .lowest = ratio(atomic_load(&a->lowest)),
                                    .threshold = a->threshold,
                                    .degraded = atomic_load(&a->degraded)};
}
