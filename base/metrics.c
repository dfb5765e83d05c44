/*
 * Metrics. Families and their series are linked lists that only grow, under the registry's lock; a series' values are
 * atomics that are updated without it. Doubles are kept as their bits, since C11 has no fetch_add for them.
 */
#include "base/metrics.h"

#include "base/clock.h"
#include "base/utf8.h"

#include <assert.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_SERIES 1000
#define N_CHAINS 64
#define MAX_HOOKS 8
#define MAX_NAME_BYTES 64

#define TRACE_ID_BYTES 33

/* The last value of a bucket that was measured in a trace. */
struct exemplar {
    char trace_id[TRACE_ID_BYTES]; /* "" = none */
    double value, at_s;            /* at_s: seconds since 1970 */
};

struct metrics_series {
    struct metrics_family *family;     /* NULL for `lost` */
    struct metrics_series *next;       /* in order of making */
    struct metrics_series *chain_next; /* with the same hash */
    char *values;                      /* owned; a NUL, then the label values, each with its NUL */
    size_t n_value_bytes;
    bool gone;                                        /* metrics_hide; under the registry's lock */
    struct exemplar *exemplars;                       /* [n_buckets + 1], owned; NULL until there is one; under the registry's lock */
    _Atomic uint64_t value;                           /* bits of a double: the value, or a histogram's sum */
    _Atomic uint64_t counts[METRICS_MAX_BUCKETS + 1]; /* of each bucket alone; the last is above all bounds */
};

struct metrics_family {
    struct metrics *registry;
    struct metrics_family *next;
    enum metrics_type type;
    const char *name, *help;
    char labels[METRICS_MAX_LABELS][MAX_NAME_BYTES];
    size_t n_labels;
    double buckets[METRICS_MAX_BUCKETS];
    size_t n_buckets;
    struct metrics_series *first, **last;
    struct metrics_series *chains[N_CHAINS];
    size_t n_series;
    struct metrics_series hidden; /* stands for all series beyond MAX_SERIES; not shown */
};

struct process {
    struct metrics_series *cpu, *resident, *virtual, *open_fds, *max_fds, *threads, *start;
};

struct metrics {
    pthread_mutex_t lock; /* the lists; not the values */
    struct metrics_family *first, **last;
    struct {
        void (*collect)(void *user);
        void *user;
    } hooks[MAX_HOOKS];
    size_t n_hooks;
    bool has_process;
    struct process process;
};

/* What metrics_get returns for a family that could not be made. */
static struct metrics_series lost;

/* ---- values ---- */

static double load(const _Atomic uint64_t *bits)
{
    uint64_t u = atomic_load_explicit(bits, memory_order_relaxed);
    double v;
    memcpy(&v, &u, sizeof v);
    return v;
}

static void store(_Atomic uint64_t *bits, double v)
{
    uint64_t u;
    memcpy(&u, &v, sizeof u);
    atomic_store_explicit(bits, u, memory_order_relaxed);
}

static void add(_Atomic uint64_t *bits, double v)
{
    uint64_t old = atomic_load_explicit(bits, memory_order_relaxed), new;
    do {
        double sum;
        memcpy(&sum, &old, sizeof sum);
        sum += v;
        memcpy(&new, &sum, sizeof new);
    } while (!atomic_compare_exchange_weak_explicit(bits, &old, new, memory_order_relaxed, memory_order_relaxed));
}

void metrics_inc(struct metrics_series *s, double v)
{
    /* A counter that fell would read as a restart: what cannot be counted is left out. */
    if (s->family && s->family->type == METRICS_COUNTER && !(v >= 0))
        return;
    add(&s->value, v);
}

void metrics_set(struct metrics_series *s, double v)
{
    store(&s->value, v);
}

static size_t bucket_of(const struct metrics_family *f, double v)
{
    size_t i = 0;
    while (i < f->n_buckets && v > f->buckets[i])
        i++;
    return i;
}

void metrics_observe(struct metrics_series *s, double v)
{
    if (!s->family || isnan(v))
        return;
    atomic_fetch_add_explicit(&s->counts[bucket_of(s->family, v)], 1, memory_order_relaxed);
    add(&s->value, v);
}

void metrics_observe_traced(struct metrics_series *s, double v, const char *trace_id)
{
    metrics_observe(s, v);
    if (!s->family || isnan(v) || !trace_id || strlen(trace_id) >= TRACE_ID_BYTES)
        return;
    if (pthread_mutex_trylock(&s->family->registry->lock) != 0)
        return;
    if (!s->exemplars)
        s->exemplars = calloc(s->family->n_buckets + 1, sizeof *s->exemplars);
    if (s->exemplars) {
        struct exemplar *e = &s->exemplars[bucket_of(s->family, v)];
        strcpy(e->trace_id, trace_id);
        e->value = v;
        e->at_s = (double)clock_wall_ns() / (double)CLOCK_NS_PER_S;
    }
    pthread_mutex_unlock(&s->family->registry->lock);
}

static uint64_t count(const struct metrics_series *s)
{
    uint64_t n = 0;
    for (size_t i = 0; i <= s->family->n_buckets; i++)
        n += atomic_load_explicit(&s->counts[i], memory_order_relaxed);
    return n;
}

double metrics_value(const struct metrics_series *s)
{
    if (s->family && s->family->type == METRICS_HISTOGRAM)
        return (double)count(s);
    return load(&s->value);
}

/* ---- families and series ---- */

struct metrics *metrics_open(void)
{
    struct metrics *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->last = &m->first;
    return m;
}

static void family_free(struct metrics_family *f)
{
    for (struct metrics_series *s = f->first, *next; s; s = next) {
        next = s->next;
        free(s->values);
        free(s->exemplars);
        free(s);
    }
    free(f->hidden.exemplars);
    free(f);
}

void metrics_close(struct metrics *m)
{
    if (!m)
        return;
    for (struct metrics_family *f = m->first, *next; f; f = next) {
        next = f->next;
        family_free(f);
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void parse_labels(struct metrics_family *f, const char *labels)
{
    while (labels && *labels) {
        size_t n = strcspn(labels, ",");
        assert(f->n_labels < METRICS_MAX_LABELS && n > 0 && n < MAX_NAME_BYTES && "metrics: label list");
        memcpy(f->labels[f->n_labels++], labels, n);
        labels += n + (labels[n] == ',');
    }
}

static struct metrics_family *find_family(struct metrics *m, const char *name)
{
    struct metrics_family *f = m->first;
    while (f && strcmp(f->name, name) != 0)
        f = f->next;
    return f;
}

struct metrics_family *metrics_add(struct metrics *m, enum metrics_type type, const char *name, const char *help,
                                   const char *labels, const double *buckets, size_t n_buckets)
{
    assert(n_buckets <= METRICS_MAX_BUCKETS && "metrics: too many buckets");
    pthread_mutex_lock(&m->lock);
    struct metrics_family *f = find_family(m, name);
    if (!f && (f = calloc(1, sizeof *f))) {
        *f = (struct metrics_family){.registry = m, .type = type, .name = name, .help = help, .n_buckets = n_buckets};
        f->hidden.family = f;
        f->last = &f->first;
        if (n_buckets)
            memcpy(f->buckets, buckets, n_buckets * sizeof *buckets);
        parse_labels(f, labels);
        *m->last = f;
        m->last = &f->next;
    }
    pthread_mutex_unlock(&m->lock);
    return f;
}

/* FNV-1a over the values and the NULs between them. */
static uint32_t hash(const char *values, size_t n_bytes)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n_bytes; i++)
        h = (h ^ (unsigned char)values[i]) * 16777619u;
    return h;
}

/* New series with these values (taken), in the family's lists; NULL when it may not be or memory is out. Locked. */
static struct metrics_series *new_series(struct metrics_family *f, char *values, size_t n_bytes,
                                         struct metrics_series **chain)
{
    struct metrics_series *s = f->n_series < MAX_SERIES ? calloc(1, sizeof *s) : NULL;
    if (!s) {
        free(values);
        return NULL;
    }
    s->family = f;
    s->values = values;
    s->n_value_bytes = n_bytes;
    s->chain_next = *chain;
    *chain = s;
    *f->last = s;
    f->last = &s->next;
    f->n_series++;
    return s;
}

/* The series whose values are `values` (taken; n_bytes with their NULs). */
static struct metrics_series *get_series(struct metrics_family *f, char *values, size_t n_bytes)
{
    pthread_mutex_lock(&f->registry->lock);
    struct metrics_series **chain = &f->chains[hash(values, n_bytes) % N_CHAINS], *s = *chain;
    while (s && (s->n_value_bytes != n_bytes || memcmp(s->values, values, n_bytes) != 0))
        s = s->chain_next;
    if (s)
        free(values);
    else
        s = new_series(f, values, n_bytes, chain);
    if (s)
        s->gone = false;
    pthread_mutex_unlock(&f->registry->lock);
    return s ? s : &f->hidden;
}

struct metrics_series *metrics_get(struct metrics_family *family, ...)
{
    if (!family)
        return &lost;
    struct buffer values;
    buffer_init(&values, 4096);
    buffer_append(&values, "", 1); /* so that it is never empty */
    va_list args;
    va_start(args, family);
    for (size_t i = 0; i < family->n_labels; i++) {
        const char *value = va_arg(args, const char *);
        buffer_append(&values, value ? value : "", value ? strlen(value) + 1 : 1);
    }
    va_end(args);
    if (values.failed) {
        buffer_fini(&values);
        return &family->hidden;
    }
    size_t n_bytes = values.n_bytes;
    return get_series(family, buffer_steal(&values), n_bytes);
}

static void set_gone(struct metrics_series *s, bool gone)
{
    if (!s->family)
        return;
    pthread_mutex_lock(&s->family->registry->lock);
    s->gone = gone;
    pthread_mutex_unlock(&s->family->registry->lock);
}

void metrics_hide(struct metrics_series *s)
{
    set_gone(s, true);
}

void metrics_show(struct metrics_series *s)
{
    set_gone(s, false);
}

void metrics_on_collect(struct metrics *m, void (*collect)(void *user), void *user)
{
    assert(m->n_hooks < MAX_HOOKS && "metrics: too many collect hooks");
    m->hooks[m->n_hooks].collect = collect;
    m->hooks[m->n_hooks++].user = user;
}

/* ---- the page ---- */

static void write_number(struct buffer *out, double v)
{
    if (isnan(v)) {
        buffer_append_str(out, "NaN");
    } else if (isinf(v)) {
        buffer_append_str(out, v > 0 ? "+Inf" : "-Inf");
    } else {
        char text[32];
        snprintf(text, sizeof text, "%.15g", v);
        if (strtod(text, NULL) != v)
            snprintf(text, sizeof text, "%.17g", v);
        buffer_append_str(out, text);
    }
}

/* A bucket's bound; OpenMetrics wants it to look like a float. */
static void write_bound(struct buffer *out, double v, bool openmetrics)
{
    size_t before = out->n_bytes;
    write_number(out, v);
    if (openmetrics && isfinite(v) && !out->failed && !strpbrk(out->data + before, ".e"))
        buffer_append_str(out, ".0");
}

static void write_escaped(struct buffer *out, const char *text, bool quotes)
{
    size_t n_bytes = strlen(text);
    for (size_t i = 0; i < n_bytes;) {
        uint32_t code_point;
        size_t n = utf8_decode(text + i, n_bytes - i, &code_point);
        if (text[i] == '\n')
            buffer_append_str(out, "\\n");
        else if (text[i] == '\\')
            buffer_append_str(out, "\\\\");
        else if (text[i] == '"' && quotes)
            buffer_append_str(out, "\\\"");
        else if (n == 0)
            buffer_append_str(out, "\xEF\xBF\xBD");
        else
            buffer_append(out, text + i, n);
        i += n ? n : 1;
    }
}

/* {a="x",le="0.5"}; `bound` is NULL but for a histogram's buckets. */
static void write_labels(struct buffer *out, const struct metrics_series *s, const double *bound, bool openmetrics)
{
    const struct metrics_family *f = s->family;
    if (f->n_labels == 0 && !bound)
        return;
    char before = '{';
    const char *value = s->values + 1;
    for (size_t i = 0; i < f->n_labels; i++, value += strlen(value) + 1) {
        buffer_printf(out, "%c%s=\"", before, f->labels[i]);
        write_escaped(out, value, true);
        buffer_append_char(out, '"');
        before = ',';
    }
    if (bound) {
        buffer_printf(out, "%cle=\"", before);
        write_bound(out, *bound, openmetrics);
        buffer_append_char(out, '"');
    }
    buffer_append_char(out, '}');
}

static void write_exemplar(struct buffer *out, const struct exemplar *e)
{
    if (e->trace_id[0] == '\0')
        return;
    buffer_printf(out, " # {trace_id=\"%s\"} ", e->trace_id);
    write_number(out, e->value);
    buffer_printf(out, " %.3f", e->at_s);
}

static void write_histogram(struct buffer *out, const struct metrics_series *s, bool openmetrics)
{
    const struct metrics_family *f = s->family;
    uint64_t total = 0; /* of the counts as read here, so that +Inf and _count agree while others observe */
    for (size_t i = 0; i <= f->n_buckets; i++) {
        double bound = i < f->n_buckets ? f->buckets[i] : INFINITY;
        total += atomic_load_explicit(&s->counts[i], memory_order_relaxed);
        buffer_printf(out, "%s_bucket", f->name);
        write_labels(out, s, &bound, openmetrics);
        buffer_printf(out, " %llu", (unsigned long long)total);
        if (openmetrics && s->exemplars)
            write_exemplar(out, &s->exemplars[i]);
        buffer_append_char(out, '\n');
    }
    buffer_printf(out, "%s_sum", f->name);
    write_labels(out, s, NULL, openmetrics);
    buffer_append_char(out, ' ');
    write_number(out, load(&s->value));
    buffer_printf(out, "\n%s_count", f->name);
    write_labels(out, s, NULL, openmetrics);
    buffer_printf(out, " %llu\n", (unsigned long long)total);
}

/* OpenMetrics names a counter without _total in its head and with it in its samples; the older format has one name. */
static void write_family(struct buffer *out, const struct metrics_family *f, bool openmetrics)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    size_t n_name = strlen(f->name);
    const char *suffix = "";
    if (openmetrics && f->type == METRICS_COUNTER) {
        if (n_name > 6 && strcmp(f->name + n_name - 6, "_total") == 0)
            n_name -= 6;
        suffix = "_total";
    }
    buffer_printf(out, "# HELP %.*s ", (int)n_name, f->name);
    write_escaped(out, f->help, openmetrics);
    buffer_printf(out, "\n# TYPE %.*s %s\n", (int)n_name, f->name, types[f->type]);
    for (const struct metrics_series *s = f->first; s; s = s->next) {
        if (s->gone)
            continue;
        if (f->type == METRICS_HISTOGRAM) {
            write_histogram(out, s, openmetrics);
            continue;
        }
        buffer_printf(out, "%.*s%s", (int)n_name, f->name, suffix);
        write_labels(out, s, NULL, openmetrics);
        buffer_append_char(out, ' ');
        write_number(out, load(&s->value));
        buffer_append_char(out, '\n');
    }
}

static void process_collect(struct process *p);

void metrics_write(struct metrics *m, struct buffer *out, int openmetrics)
{
    if (m->has_process)
        process_collect(&m->process);
    for (size_t i = 0; i < m->n_hooks; i++)
        m->hooks[i].collect(m->hooks[i].user);
    pthread_mutex_lock(&m->lock);
    for (const struct metrics_family *f = m->first; f; f = f->next)
        write_family(out, f, openmetrics);
    pthread_mutex_unlock(&m->lock);
    if (openmetrics)
        buffer_append_str(out, "# EOF\n");
}

/* ---- the process collector ---- */

/* Fields of /proc/self/stat behind the command's name, which may itself hold spaces and parentheses (proc(5)). */
struct proc_stat {
    unsigned long long threads, start_ticks, virtual_bytes;
    long long resident_pages;
};

static bool read_stat(struct proc_stat *stat)
{
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "re");
    if (!file)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    const char *rest = strrchr(text, ')');
    return rest &&
           sscanf(rest + 1,
                  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %llu %*d %llu %llu %lld",
                  &stat->threads, &stat->start_ticks, &stat->virtual_bytes, &stat->resident_pages) == 4;
}

/* Boot time in seconds since 1970 (the btime line of /proc/stat), or 0. */
static double boot_time(void)
{
    char line[256];
    unsigned long long seconds = 0;
    FILE *file = fopen("/proc/stat", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "btime %llu", &seconds) == 1)
            break;
    if (file)
        fclose(file);
    return (double)seconds;
}

static size_t count_fds(void)
{
    size_t n = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    for (const struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n - 1; /* the directory itself was open */
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

static void process_collect(struct process *p)
{
    struct proc_stat stat;
    if (read_stat(&stat)) {
        metrics_set(p->resident, (double)stat.resident_pages * (double)sysconf(_SC_PAGESIZE));
        metrics_set(p->virtual, (double)stat.virtual_bytes);
        metrics_set(p->threads, (double)stat.threads);
        metrics_set(p->start, boot_time() + (double)stat.start_ticks / (double)sysconf(_SC_CLK_TCK));
    }
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        metrics_set(p->cpu, seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime));
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        metrics_set(p->max_fds, (double)limit.rlim_cur);
    metrics_set(p->open_fds, (double)count_fds());
}

static struct metrics_series *add_one(struct metrics *m, enum metrics_type type, const char *name, const char *help)
{
    return metrics_get(metrics_add(m, type, name, help, "", NULL, 0));
}

void metrics_add_process(struct metrics *m)
{
    struct process *p = &m->process;
    p->cpu = add_one(m, METRICS_COUNTER, "bitnet_process_cpu_seconds_total", "User and system CPU time spent.");
    p->resident = add_one(m, METRICS_GAUGE, "bitnet_process_resident_memory_bytes", "Resident memory.");
    p->virtual = add_one(m, METRICS_GAUGE, "bitnet_process_virtual_memory_bytes", "Virtual memory.");
    p->open_fds = add_one(m, METRICS_GAUGE, "bitnet_process_open_fds", "Open file descriptors.");
    p->max_fds = add_one(m, METRICS_GAUGE, "bitnet_process_max_fds", "Limit of open file descriptors.");
    p->threads = add_one(m, METRICS_GAUGE, "bitnet_process_threads", "Threads of the process.");
    p->start = add_one(m, METRICS_GAUGE, "bitnet_process_start_time_seconds", "Start, in seconds since 1970.");
    m->has_process = true;
}
