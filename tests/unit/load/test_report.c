/* Tables, JSON and the picture of made-up results: they parse, and hold the numbers. */
#include "tests/suite.h"

#include "tools/load_report.h"

#include <jansson.h>

#define MAX_LEVELS 5

static struct load_level levels[MAX_LEVELS];
static struct load_config config = {.prompt_tokens = 32, .max_tokens = 16, .threads = 1, .channels = 1, .prompts = 4};
static struct load_plan plan = {.config = &config, .target = "h<&\">:1"};
static struct load_report report;
static struct buffer text;

static void fill(size_t n_levels, bool any)
{
    memset(levels, 0, sizeof levels);
    report = (struct load_report){.plan = &plan, .version = "0", .levels = levels, .n_levels = n_levels};
    for (size_t i = 0; i < n_levels; i++) {
        struct load_level *l = &levels[i];
        l->load = (double)(1 << 2 * i);
        l->seconds = any ? 2 : 0;
        for (int k = 0; any && k < 100; k++) {
            load_histogram_add(&l->stats.ttft, 1000000 * (k + 1) * (1 << i), 1);
            load_histogram_add(&l->stats.per_token, 50000 * (k + 1), 2);
        }
        l->stats.n_ended[LOAD_COMPLETED] = l->stats.n_completed = any ? 100 : 0;
        l->stats.n_tokens = any ? 1000 * (i + 1) : 0;
        l->stats.n_good_tokens = l->stats.n_tokens / 2;
    }
    buffer_fini(&text);
    buffer_init(&text, 1 << 20);
}

START_TEST(json_holds_the_numbers)
{
    json_error_t why;
    fill(3, true);
    config.slo_itl_ms = 5;
    levels[1].stats.n_ended[LOAD_REFUSED] = 7;
    levels[1].stats.n_ended[LOAD_FAILED] = 2;
    load_stats_fault(&levels[1].stats, "a \"kind\"", 9);
    load_report_json(&report, &text);
    json_t *root = json_loadb(text.data, text.n_bytes, JSON_REJECT_DUPLICATES, &why);
    ck_assert_msg(root, "%s", why.text);
    ck_assert_int_eq(json_integer_value(json_object_get(root, "errors")), 9);
    json_t *level = json_array_get(json_object_get(root, "levels"), 1), *requests = json_object_get(level, "requests");
    ck_assert(json_integer_value(json_object_get(requests, "ended")) == 109 &&
              json_integer_value(json_object_get(requests, "refused")) == 7);
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(json_object_get(level, "errors"), 0), "kind")),
                     "a \"kind\"");
    ck_assert_double_eq_tol(json_number_value(json_object_get(json_object_get(level, "per_second"), "tokens")), 1000,
                            1e-9);
    ck_assert_double_eq_tol(json_number_value(json_object_get(json_object_get(level, "per_second"), "good_tokens")),
                            500, 1e-9);
    json_t *ttft = json_object_get(level, "time_to_first_token_ms");
    ck_assert_double_eq_tol(json_number_value(json_object_get(ttft, "p50")), 100, 0.5);
    ck_assert_double_eq_tol(json_number_value(json_object_get(ttft, "max")), 200, 1e-9);
    config.allow_refused = true;
    ck_assert_uint_eq(load_report_n_errors(&report), 2);
    config.allow_refused = false;
    json_decref(root);
    buffer_fini(&text);
}
END_TEST

START_TEST(nothing_is_json_too)
{
    for (size_t n = 0; n < 2; n++) {
        fill(n, false);
        load_report_json(&report, &text);
        json_t *root = json_loadb(text.data, text.n_bytes, 0, NULL);
        ck_assert_ptr_nonnull(root);
        json_decref(root);
        load_report_table(&report, &text);
        ck_assert(!text.failed);
    }
    buffer_fini(&text);
}
END_TEST

START_TEST(tables_name_what_went_wrong)
{
    for (size_t n = 1; n < 3; n++) {
        fill(n, true);
        levels[0].stats.n_ended[LOAD_FAILED] = 3;
        load_stats_fault(&levels[0].stats, "UNAVAILABLE", 3);
        load_report_table(&report, &text);
        ck_assert_msg(strstr(text.data, "3 x UNAVAILABLE"), "%s", text.data);
    }
    buffer_fini(&text);
}
END_TEST

/* Enough of XML to see that elements are closed in order, attributes quoted and text escaped. */
static bool well_formed(const char *p)
{
    char open[32][32];
    int depth = 0, n_roots = 0;
    while (*p) {
        if (*p == '&' && strncmp(p, "&lt;", 4) != 0 && strncmp(p, "&gt;", 4) != 0 && strncmp(p, "&amp;", 5) != 0)
            return false;
        if (*p++ != '<')
            continue;
        bool closing = *p == '/';
        p += closing;
        size_t n = strcspn(p, " />");
        if (n == 0 || n >= sizeof open[0] ||
            (closing && (depth == 0 || strlen(open[depth - 1]) != n || memcmp(open[depth - 1], p, n) != 0)))
            return false;
        if (closing)
            depth--;
        else
            snprintf(open[depth++], sizeof open[0], "%.*s", (int)n, p);
        n_roots += depth == 1 && !closing;
        for (p += n; *p && *p != '>'; p++) {
            if (*p == '"' && !(p = strchr(p + 1, '"')))
                return false;
            if (*p == '<')
                return false;
            if (*p == '/' && p[1] == '>')
                depth--;
        }
        if (*p++ != '>' || depth > 30)
            return false;
    }
    return depth == 0 && n_roots == 1;
}

START_TEST(pictures_are_well_formed)
{
    ck_assert(well_formed("<a><b c=\"d\"/>&lt;</a>") && !well_formed("<a><b></a></b>") && !well_formed("<a>&</a>") &&
              !well_formed("<a b=\"></a>"));
    for (size_t n = 1; n <= MAX_LEVELS; n++)
        for (int any = 0; any < 2; any++)
            for (int mode = 0; mode < LOAD_N_MODES; mode++) {
                fill(n, any);
                plan.mode = (enum load_mode)mode;
                load_report_svg(&report, &text);
                ck_assert(!text.failed);
                ck_assert_msg(well_formed(text.data), "%s", text.data);
                ck_assert_msg(!strstr(text.data, "nan") && !strstr(text.data, "inf"), "%s", text.data);
                size_t n_points = 0;
                for (const char *c = text.data; (c = strstr(c, "<circle")); c++)
                    n_points++;
                ck_assert_uint_eq(n_points, n * (config.slo_itl_ms > 0 ? 5 : 4));
            }
    buffer_fini(&text);
}
END_TEST

SUITE("load report", json_holds_the_numbers, nothing_is_json_too, tables_name_what_went_wrong, pictures_are_well_formed)
