/* Reports: shares of the limits, and JSON there and back. */
#include "tools/bench.h"
#include "tools/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

double bench_read_share(const struct bench_figure *f)
{
    return f->read_bytes_per_s > 0 ? f->steps_per_s * f->bytes_per_step / f->read_bytes_per_s : 0;
}

double bench_int8_share(const struct bench_figure *f)
{
    return f->int8_per_s > 0 ? f->steps_per_s * f->macs_per_step / f->int8_per_s : 0;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void put_string(struct buffer *out, const char *name, const char *value)
{
    buffer_printf(out, "\"%s\":\"", name);
    buffer_append_json(out, value, strlen(value));
    buffer_append_str(out, "\"");
}

static void put_load(struct buffer *out, const struct bench_load *l)
{
    buffer_printf(out, "{\"threads\":%d,\"quantization_asked\":\"%s\",", l->threads, bench_format_names[l->asked]);
    put_string(out, "quantization", l->format);
    buffer_append_char(out, ',');
    put_string(out, "isa", l->isa);
    buffer_printf(out,
                  ",\"load_seconds\":%.4f,\"weight_bytes\":%.0f,\"peak_rss_bytes\":%.0f,\"read_bytes_per_second\":%.0f,"
                  "\"int8_multiply_adds_per_second\":%.0f}",
                  l->load_seconds, l->weight_bytes, l->peak_rss_bytes, l->read_bytes_per_s, l->int8_per_s);
}

static void put_figure(struct buffer *out, const struct bench_figure *f)
{
    const struct bench_test *t = &f->test;
    char name[24];
    buffer_printf(out, "{\"load\":%zu,\"test\":\"%s\",\"batch\":%zu,\"depth\":%zu,\"sampling\":\"%s\",", f->load,
                  bench_test_name(t, name), t->batch, t->depth, bench_sampling_names[t->sampling]);
    buffer_printf(out, "\"tokens_per_second\":%.4f,\"min\":%.4f,\"max\":%.4f,\"runs\":%zu,\"steps_per_second\":%.4f,",
                  f->median, f->min, f->max, f->n_runs, f->steps_per_s);
    buffer_printf(out,
                  "\"bytes_per_step\":%.0f,\"read_bytes_per_second\":%.0f,\"read_share\":%.4f,", f->bytes_per_step,
                  f->read_bytes_per_s, bench_read_share(f));
    buffer_printf(out,
                  "\"multiply_adds_per_step\":%.0f,\"int8_multiply_adds_per_second\":%.0f,\"int8_share\":%.4f}",
                  f->macs_per_step, f->int8_per_s, bench_int8_share(f));
}

void bench_report_write(const struct bench_report *r, struct buffer *out)
{
    buffer_append_char(out, '{');
    put_string(out, "version", r->version);
    buffer_append_str(out, ",\n\"machine\":{");
    put_string(out, "device", r->device);
    buffer_append_char(out, ',');
    put_string(out, "name", r->device_name);
    buffer_printf(out, ",\"cpus\":%d},\n\"model\":{", r->n_cpus);
    put_string(out, "id", r->model);
    buffer_append_char(out, ',');
    put_string(out, "architecture", r->architecture);
    buffer_printf(out, ",\"parameters\":%.0f,\"file_bytes\":%.0f},\n\"loads\":[", r->n_parameters, r->file_bytes);
    for (size_t i = 0; i < r->n_loads; i++) {
        buffer_append_str(out, i ? ",\n" : "\n");
        put_load(out, &r->loads[i]);
    }
    buffer_append_str(out, "\n],\n\"results\":[");
    for (size_t i = 0; i < r->n_figures; i++) {
        buffer_append_str(out, i ? ",\n" : "\n");
        put_figure(out, &r->figures[i]);
    }
    buffer_append_str(out, "\n]}\n");
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Reads members of the object at hand; the first that is not as expected is the error, and what follows does nothing. */
struct members {
    const struct json_value *object;
    char where[40]; /* "results[3]" */
    struct error *err;
    enum error_code code;
};

static void refuse(struct members *m, const char *name, const char *expected)
{
    if (!m->code)
        m->code = error_set(m->err, ERROR_VALIDATION_FAILED, "expected %s as \"%s\" of %s", expected, name, m->where);
}

/* A number from min on. */
static double get_number(struct members *m, const char *name, double min, double max)
{
    const struct json_value *v = json_member(m->object, name);
    if (v && v->type == JSON_NUMBER && v->number >= min && v->number <= max)
        return v->number;
    char expected[64];
    snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
    refuse(m, name, expected);
    return min;
}

static size_t get_count(struct members *m, const char *name, double min, double max)
{
    double v = get_number(m, name, min, max);
    if (v != floor(v))
        refuse(m, name, "a whole number");
    return (size_t)v;
}

static void get_string(struct members *m, const char *name, char *out, size_t n)
{
    const struct json_value *v = json_member(m->object, name);
    out[0] = '\0';
    if (v && v->type == JSON_STRING && strlen(v->string) < n)
        strcpy(out, v->string);
    else
        refuse(m, name, "a short string");
}

static size_t get_word(struct members *m, const char *name, const char *const *names, size_t n_names)
{
    char word[16];
    get_string(m, name, word, sizeof word);
    for (size_t i = 0; i < n_names; i++)
        if (strcmp(word, names[i]) == 0)
            return i;
    refuse(m, name, "a known word");
    return 0;
}

static void read_load(struct members *m, struct bench_load *l)
{
    l->threads = (int)get_count(m, "threads", 1, 1024);
    l->asked = (enum ternary_format)get_word(m, "quantization_asked", bench_format_names, 4);
    get_string(m, "quantization", l->format, sizeof l->format);
    get_string(m, "isa", l->isa, sizeof l->isa);
    l->load_seconds = get_number(m, "load_seconds", 0, 1e9);
    l->weight_bytes = get_number(m, "weight_bytes", 0, 1e18);
    l->peak_rss_bytes = get_number(m, "peak_rss_bytes", 0, 1e18);
    l->read_bytes_per_s = get_number(m, "read_bytes_per_second", 0, 1e18);
    l->int8_per_s = get_number(m, "int8_multiply_adds_per_second", 0, 1e21);
}

/* "pp512" or "tg128". */
static void read_test_name(struct members *m, struct bench_test *t)
{
    char name[24], again[24];
    get_string(m, "test", name, sizeof name);
    t->decode = name[0] == 't';
    t->tokens = 0;
    for (const char *p = name[0] && name[1] ? name + 2 : ""; *p >= '0' && *p <= '9' && t->tokens <= BENCH_MAX_TOKENS;
         p++)
        t->tokens = t->tokens * 10 + (size_t)(*p - '0');
    if (!t->tokens || t->tokens > BENCH_MAX_TOKENS || strcmp(bench_test_name(t, again), name) != 0)
        refuse(m, "test", "pp or tg and a number of tokens");
}

static void read_figure(struct members *m, size_t n_loads, struct bench_figure *f)
{
    f->load = get_count(m, "load", 0, (double)n_loads - 1);
    read_test_name(m, &f->test);
    f->test.batch = get_count(m, "batch", 1, BENCH_MAX_BATCH);
    f->test.depth = get_count(m, "depth", 0, BENCH_MAX_TOKENS);
    f->test.sampling = (enum bench_sampling)get_word(m, "sampling", bench_sampling_names, BENCH_N_SAMPLINGS);
    f->median = get_number(m, "tokens_per_second", 1e-6, 1e12);
    f->min = get_number(m, "min", 1e-6, 1e12);
    f->max = get_number(m, "max", 1e-6, 1e12);
    f->n_runs = get_count(m, "runs", 1, BENCH_MAX_RUNS);
    f->steps_per_s = get_number(m, "steps_per_second", 0, 1e12);
    f->bytes_per_step = get_number(m, "bytes_per_step", 0, 1e18);
    f->macs_per_step = get_number(m, "multiply_adds_per_step", 0, 1e21);
    f->read_bytes_per_s = get_number(m, "read_bytes_per_second", 0, 1e18);
    f->int8_per_s = get_number(m, "int8_multiply_adds_per_second", 0, 1e21);
    if (f->min > f->median || f->median > f->max)
        refuse(m, "tokens_per_second", "a number from min to max");
}

static void read_head(struct members *m, struct bench_report *out)
{
    const struct json_value *root = m->object;
    get_string(m, "version", out->version, sizeof out->version);
    m->object = json_member(root, "machine");
    strcpy(m->where, "machine");
    get_string(m, "device", out->device, sizeof out->device);
    get_string(m, "name", out->device_name, sizeof out->device_name);
    out->n_cpus = (int)get_count(m, "cpus", 0, 1e6);
    m->object = json_member(root, "model");
    strcpy(m->where, "model");
    get_string(m, "id", out->model, sizeof out->model);
    get_string(m, "architecture", out->architecture, sizeof out->architecture);
    out->n_parameters = get_number(m, "parameters", 1, 1e18);
    out->file_bytes = get_number(m, "file_bytes", 1, 1e18);
    m->object = root;
    strcpy(m->where, "the report");
}

/* The items of a list, at least one and at most `max`; NULL with the error set. */
static const struct json_value *get_list(struct members *m, const char *name, size_t max)
{
    const struct json_value *list = json_member(m->object, name);
    if (list && list->type == JSON_ARRAY && list->number >= 1 && list->number <= (double)max)
        return list->first;
    refuse(m, name, "a list that is not empty, nor too long,");
    return NULL;
}

enum error_code bench_report_read(const char *text, size_t n_bytes, struct bench_report *out, struct error *err)
{
    struct json *json;
    enum error_code code = json_open(text, n_bytes, &json, err);
    if (code)
        return code;
    const struct json_value *root = json_root(json), *v;
    struct members m = {.object = root, .where = "the report", .err = err};
    memset(out, 0, sizeof *out);
    read_head(&m, out);
    for (v = get_list(&m, "loads", BENCH_MAX_LOADS); v && !m.code; v = v->next) {
        m.object = v;
        snprintf(m.where, sizeof m.where, "loads[%zu]", out->n_loads);
        read_load(&m, &out->loads[out->n_loads++]);
    }
    m.object = root;
    strcpy(m.where, "the report");
    for (v = get_list(&m, "results", BENCH_MAX_FIGURES); v && !m.code; v = v->next) {
        m.object = v;
        snprintf(m.where, sizeof m.where, "results[%zu]", out->n_figures);
        read_figure(&m, out->n_loads, &out->figures[out->n_figures++]);
    }
    json_close(json);
    return m.code;
}
