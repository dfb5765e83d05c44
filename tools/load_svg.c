/*
 * The picture, written by hand: two panels over the same axis of load. Latency has a logarithmic axis, throughput a linear one from 0.
 * Colours follow the reader's light or dark scheme.
 */
#include "tools/load_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDTH 860
#define HEIGHT 640
#define LEFT 84
#define RIGHT 836
#define LOG_SPREAD 8 /* levels further apart than this stand on a logarithmic axis */

struct panel {
    double top, bottom; /* on the page */
    double low, high;   /* of the values: exponents of ten on a logarithmic one */
    bool log;
};

struct axis { /* of load */
    double low, high;
    bool log;
};

typedef double value_fn(const struct load_level *l);

static double at_ms(const struct load_histogram *h, double q)
{
    return (double)load_histogram_at(h, q) / 1e6;
}

static double ttft_p50(const struct load_level *l)
{
    return at_ms(&l->stats.ttft, 0.5);
}

static double ttft_p99(const struct load_level *l)
{
    return at_ms(&l->stats.ttft, 0.99);
}

static double itl_p99(const struct load_level *l)
{
    return at_ms(&l->stats.per_token, 0.99);
}

static double tokens(const struct load_level *l)
{
    return l->seconds > 0 ? (double)l->stats.n_tokens / l->seconds : 0;
}

static double good_tokens(const struct load_level *l)
{
    return l->seconds > 0 ? (double)l->stats.n_good_tokens / l->seconds : 0;
}

static const struct series {
    const char *class, *label;
    value_fn *value;
} latencies[] = {{"a", "first token p50", ttft_p50},
                 {"b", "first token p99", ttft_p99},
                 {"c", "between tokens p99", itl_p99}},
  throughputs[] = {{"d", "tokens/s", tokens}, {"e", "within the latency target", good_tokens}};

static const char style[] =
    "<style>\n"
    ":root{color-scheme:light dark}\n"
    "text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:16px;font-weight:600}.name{font-weight:600}\n"
    ".paper{fill:#fff}.grid{stroke:#ddd}.axis{stroke:#888}polyline{fill:none;stroke-width:2.2;stroke-linejoin:round}\n"
    "polyline.a{stroke:#1f6fd6}polyline.b{stroke:#c2410c}polyline.c{stroke:#15803d}polyline.d{stroke:#7c3aed}\n"
    "polyline.e{stroke:#7c3aed;stroke-dasharray:6 4}\n"
    "circle.a{fill:#1f6fd6}circle.b{fill:#c2410c}circle.c{fill:#15803d}circle.d,circle.e{fill:#7c3aed}\n"
    "@media (prefers-color-scheme:dark){\n"
    "text{fill:#ddd}.paper{fill:#16181d}.grid{stroke:#343840}.axis{stroke:#7a808c}\n"
    "polyline.a{stroke:#6cabff}polyline.b{stroke:#ff9a5c}polyline.c{stroke:#5fd38a}polyline.d,polyline.e{stroke:#"
    "b79bff}\n"
    "circle.a{fill:#6cabff}circle.b{fill:#ff9a5c}circle.c{fill:#5fd38a}circle.d,circle.e{fill:#b79bff}}\n"
    "</style>\n";

/* ---- axes ---------------------------------------------------------------------------------------------------------------- */

static struct axis load_axis(const struct load_report *r)
{
    struct axis a = {r->levels[0].load, r->levels[0].load, false};
    for (size_t i = 1; i < r->n_levels; i++) {
        a.low = fmin(a.low, r->levels[i].load);
        a.high = fmax(a.high, r->levels[i].load);
    }
    a.log = a.high >= LOG_SPREAD * a.low;
    return a;
}

static double x_of(const struct axis *a, double load)
{
    double at = a->high <= a->low ? 0.5
                : a->log          ? log(load / a->low) / log(a->high / a->low)
                                  : (load - a->low) / (a->high - a->low);
    return LEFT + 28 + at * (RIGHT - LEFT - 56);
}

static double y_of(const struct panel *p, double v)
{
    double at = p->log ? (v > 0 ? log10(v) : p->low) : v;
    double share = (at - p->low) / (p->high - p->low);
    return p->bottom - fmin(fmax(share, 0), 1) * (p->bottom - p->top);
}

/* 1, 2 or 5 times a power of ten, at least v. */
static double nice(double v)
{
    static const double steps[] = {1, 2, 5};
    double ten = pow(10, floor(log10(v)));
    for (size_t i = 0; i < 3; i++)
        if (steps[i] * ten >= v * (1 - 1e-9))
            return steps[i] * ten;
    return 10 * ten;
}

static void put_line(struct buffer *out, const char *class, double x1, double y1, double x2, double y2)
{
    buffer_printf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, x1, y1, x2, y2);
}

static void put_tick(struct buffer *out, const struct panel *p, double v)
{
    double y = y_of(p, v);
    put_line(out, "grid", LEFT, y, RIGHT, y);
    buffer_printf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.12g</text>\n", LEFT - 8, y + 4.5, v);
}

static void put_ticks(struct buffer *out, const struct panel *p)
{
    if (!p->log) {
        double step = nice(p->high / 6);
        for (int i = 0; i * step <= p->high * (1 + 1e-9); i++)
            put_tick(out, p, i * step);
        return;
    }
    bool close = p->high - p->low <= 2;
    for (int e = (int)p->low; e <= (int)p->high; e++) {
        put_tick(out, p, pow(10, e));
        for (int m = 2; close && e < (int)p->high && m <= 5; m += 3)
            put_tick(out, p, m * pow(10, e));
    }
}

/* ---- panels --------------------------------------------------------------------------------------------------------------- */

static void put_series(const struct load_report *r, const struct axis *a, const struct panel *p, const struct series *s,
                       struct buffer *out)
{
    buffer_printf(out, "<polyline class=\"%s\" points=\"", s->class);
    for (size_t i = 0; i < r->n_levels; i++)
        buffer_printf(out, "%s%.1f,%.1f", i ? " " : "", x_of(a, r->levels[i].load), y_of(p, s->value(&r->levels[i])));
    buffer_append_str(out, "\"/>\n");
    for (size_t i = 0; i < r->n_levels; i++) {
        double v = s->value(&r->levels[i]);
        buffer_printf(out,
                      "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>%s at %g: %.3f</title></circle>\n",
                      s->class, x_of(a, r->levels[i].load), y_of(p, v), s->label, r->levels[i].load, v);
    }
}

static void put_legend(struct buffer *out, const struct panel *p, const char *title, const struct series *s, size_t n)
{
    double x = LEFT + 130, y = p->top - 12;
    buffer_printf(out, "<text x=\"%d\" y=\"%.1f\" class=\"name\">%s</text>\n", LEFT, y, title);
    for (size_t i = 0; i < n; i++) {
        buffer_printf(out, "<polyline class=\"%s\" points=\"%.1f,%.1f %.1f,%.1f\"/>\n", s[i].class, x, y - 4.5, x + 26,
                      y - 4.5);
        buffer_printf(out, "<text x=\"%.1f\" y=\"%.1f\">%s</text>\n", x + 33, y, s[i].label);
        x += 60 + 7.6 * (double)strlen(s[i].label);
    }
}

/* The range of all values. */
static void range(const struct load_report *r, const struct series *s, size_t n, double *low, double *high)
{
    *low = INFINITY;
    *high = 0;
    for (size_t i = 0; i < n * r->n_levels; i++) {
        double v = s[i / r->n_levels].value(&r->levels[i % r->n_levels]);
        if (v > 0) /* nothing was measured where there is none */
            *low = fmin(*low, v);
        *high = fmax(*high, v);
    }
}

static void put_panel(const struct load_report *r, const struct axis *a, struct panel *p, const char *title,
                      const struct series *s, size_t n, struct buffer *out)
{
    double low, high;
    range(r, s, n, &low, &high);
    if (p->log) {
        p->low = high > 0 ? floor(log10(low)) : 0;
        p->high = high > 0 ? fmax(ceil(log10(high)), p->low + 1) : 1;
    } else {
        double step = high > 0 ? nice(high / 6) : 1;
        p->low = 0;
        p->high = fmax(step, ceil(high / step - 1e-9) * step);
    }
    put_ticks(out, p);
    put_legend(out, p, title, s, n);
    put_line(out, "axis", LEFT, p->top, LEFT, p->bottom);
    put_line(out, "axis", LEFT, p->bottom, RIGHT, p->bottom);
    for (size_t i = 0; i < n; i++)
        put_series(r, a, p, &s[i], out);
}

static void put_loads(const struct load_report *r, const struct axis *a, const struct panel *p, struct buffer *out)
{
    static const char *const names[LOAD_N_MODES] = {"clients", "requests a second offered",
                                                    "times the speed of the trace"};
    double last = -INFINITY;
    for (size_t i = 0; i < r->n_levels; i++) {
        double x = x_of(a, r->levels[i].load);
        put_line(out, "axis", x, p->bottom, x, p->bottom + 5);
        if (fabs(x - last) >= 34) { /* or labels would overlap */
            buffer_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n", x, p->bottom + 20,
                          r->levels[i].load);
            last = x;
        }
    }
    buffer_printf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", (LEFT + RIGHT) / 2,
                  p->bottom + 42, names[r->plan->mode]);
}

/* Text inside an element. */
static void put_escaped(struct buffer *out, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<':
            buffer_append_str(out, "&lt;");
            break;
        case '>':
            buffer_append_str(out, "&gt;");
            break;
        case '&':
            buffer_append_str(out, "&amp;");
            break;
        default:
            buffer_append_char(out, *text);
        }
}

void load_report_svg(const struct load_report *r, struct buffer *out)
{
    const struct load_plan *p = r->plan;
    struct axis a = load_axis(r);
    struct panel latency = {.top = 92, .bottom = 322, .log = true}, throughput = {.top = 384, .bottom = 578};
    bool slo = p->config->slo_ttft_ms > 0 || p->config->slo_itl_ms > 0;
    buffer_printf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\">\n",
        WIDTH, HEIGHT, WIDTH, HEIGHT);
    buffer_append_str(out, "<title>Latency and throughput over load</title>\n");
    buffer_append_str(out, style);
    buffer_printf(out, "<rect class=\"paper\" width=\"%d\" height=\"%d\"/>\n<text class=\"title\" x=\"%d\" y=\"34\">",
                  WIDTH, HEIGHT, LEFT);
    put_escaped(out, load_api_names[p->api]);
    buffer_append_char(out, ' ');
    put_escaped(out, p->target);
    if (p->mode != LOAD_TRACE)
        buffer_printf(out, ", %lld + %lld tokens", (long long)p->config->prompt_tokens,
                      (long long)p->config->max_tokens);
    buffer_append_str(out, "</text>\n");
    put_panel(r, &a, &latency, "latency, ms", latencies, 3, out);
    put_panel(r, &a, &throughput, "throughput", throughputs, slo ? 2 : 1, out);
    put_loads(r, &a, &throughput, out);
    buffer_append_str(out, "</svg>\n");
}
