/* See latency.h. */
#include "service/latency.h"

#include "base/clock.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define SAMPLE_NS (10 * CLOCK_NS_PER_MS) /* so that steps of microseconds do not pay for it */
#define LINE_NS CLOCK_NS_PER_S

static atomic_llong slow_step_ms, slow_request_ms;

/* One line a second. */
struct pace {
    _Atomic int64_t last_ns;
    atomic_uint n_left_out;
};
static struct pace step_pace, request_pace;

/* What a thread has used so far. */
struct usage {
    int64_t at_ns, cpu_ns;
    int64_t wait_ns; /* that it could have run and did not; 0 where the kernel does not tell */
    long n_major_faults, n_minor_faults, n_preempted;
};

void latency_limits(int64_t step_ms, int64_t request_ms)
{
    atomic_store(&slow_step_ms, step_ms);
    atomic_store(&slow_request_ms, request_ms);
    atomic_store(&step_pace.last_ns, 0);
    atomic_store(&request_pace.last_ns, 0);
}

/* Whether a line may be written now; then *n_left_out were not since the last one. */
static bool may_log(struct pace *p, unsigned *n_left_out)
{
    int64_t now_ns = clock_now_ns(), last_ns = atomic_load(&p->last_ns);
    if ((last_ns && now_ns - last_ns < LINE_NS) || !atomic_compare_exchange_strong(&p->last_ns, &last_ns, now_ns)) {
        atomic_fetch_add(&p->n_left_out, 1);
        return false;
    }
    *n_left_out = atomic_exchange(&p->n_left_out, 0);
    return true;
}

/* The second number of schedstat: nanoseconds on a run queue. */
static int64_t wait_ns_now(void)
{
    char text[96];
    unsigned long long ran, waited;
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    return sscanf(text, "%llu %llu", &ran, &waited) == 2 ? (int64_t)waited : 0;
}

static struct usage usage_now(int64_t now_ns)
{
    struct rusage r;
    struct timespec cpu;
    getrusage(RUSAGE_THREAD, &r);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu); /* rusage's is up to a tick behind */
    return (struct usage){.at_ns = now_ns,
                          .cpu_ns = cpu.tv_sec * CLOCK_NS_PER_S + cpu.tv_nsec,
                          .wait_ns = wait_ns_now(),
                          .n_major_faults = r.ru_majflt,
                          .n_minor_faults = r.ru_minflt,
                          .n_preempted = r.ru_nivcsw};
}

/* The first that applies; a thread's first step has nothing to compare with. Rows beyond two for each sequence are those of prompts. */
static const char *step_cause(const struct usage *was, const struct usage *is, size_t n_rows, size_t n_sequences, int64_t step_ns)
{
    if (was->at_ns && is->n_major_faults > was->n_major_faults)
        return "pages read from disk";
    if (was->at_ns && is->wait_ns - was->wait_ns > step_ns / 2)
        return "no CPU to run on";
    if (was->at_ns && is->cpu_ns - was->cpu_ns < step_ns / 2)
        return "waited for the device or for other threads";
    if (n_rows > 2 * n_sequences)
        return "prefill";
    return n_sequences > 1 ? "batch" : "compute";
}

void latency_step(size_t n_rows, size_t n_sequences, double seconds)
{
    static _Thread_local struct usage last;
    int64_t limit_ms = atomic_load_explicit(&slow_step_ms, memory_order_relaxed), now_ns, step_ns = (int64_t)(seconds * 1e9);
    unsigned n_left_out;
    if (!limit_ms)
        return;
    bool slow = step_ns >= limit_ms * CLOCK_NS_PER_MS;
    now_ns = clock_now_ns();
    if (!slow && now_ns - last.at_ns < SAMPLE_NS)
        return;
    struct usage was = last;
    last = usage_now(now_ns);
    if (!was.at_ns) {
        was = last; /* differences of 0 */
        was.at_ns = 0;
    }
    if (!slow || !may_log(&step_pace, &n_left_out))
        return;
    log_warn("latency", "slow step", LOG_FLOAT("ms", seconds * 1e3), LOG_STR("cause", step_cause(&was, &last, n_rows, n_sequences, step_ns)),
             LOG_INT("rows", n_rows), LOG_INT("sequences", n_sequences), LOG_FLOAT("cpu_ms", (double)(last.cpu_ns - was.cpu_ns) / 1e6),
             LOG_FLOAT("wait_ms", (double)(last.wait_ns - was.wait_ns) / 1e6), LOG_INT("major_faults", last.n_major_faults - was.n_major_faults),
             LOG_INT("minor_faults", last.n_minor_faults - was.n_minor_faults), LOG_INT("preempted", last.n_preempted - was.n_preempted),
             LOG_INT("left_out", n_left_out));
}

void latency_request(const char *request_id, const char *trace_id, const struct stream_summary *s)
{
    int64_t limit_ms = atomic_load_explicit(&slow_request_ms, memory_order_relaxed);
    unsigned n_left_out;
    if (!limit_ms || s->total_ms < (double)limit_ms || !may_log(&request_pace, &n_left_out))
        return;
    double queue_ms = s->queue_ms, prefill_ms = s->admitted ? (s->first_token_ms > 0 ? s->first_token_ms : s->total_ms) - queue_ms : 0;
    double decode_ms = s->first_token_ms > 0 ? s->total_ms - s->first_token_ms : 0;
    const char *cause = queue_ms >= prefill_ms && queue_ms >= decode_ms ? "queue" : prefill_ms >= decode_ms ? "prefill" : "decode";
    log_warn("latency", "slow request", LOG_STR("request_id", request_id), LOG_STR("trace_id", trace_id), LOG_FLOAT("ms", s->total_ms),
             LOG_STR("cause", cause), LOG_FLOAT("queue_ms", queue_ms), LOG_FLOAT("prefill_ms", prefill_ms), LOG_FLOAT("decode_ms", decode_ms),
             LOG_INT("prompt_tokens", s->n_prompt_tokens), LOG_INT("cached_tokens", s->n_cached_tokens),
             LOG_INT("generated_tokens", s->n_generated_tokens), LOG_FLOAT("batch_size", s->mean_batch_size), LOG_INT("left_out", n_left_out));
}
