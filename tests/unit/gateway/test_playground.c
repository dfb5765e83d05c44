/* The files that the gateway carries: types, tags, headers, and what is not served. */
#include "tests/suite.h"
#include "tests/unit/gateway/app.h"

#include "gateway/assets.h"

static struct app app;

static void get(const char *method, const char *path, const char *headers)
{
    app_request(&app, method, path, headers, "");
}

static bool sent(const char *text)
{
    return strstr(app_sent(&app), text) != NULL;
}

static const struct {
    const char *path, *name, *type;
} files[] = {
    {"/", "playground.html", "text/html; charset=utf-8"},
    {"/assets/playground.css", "playground.css", "text/css; charset=utf-8"},
    {"/assets/playground.js", "playground.js", "text/javascript; charset=utf-8"},
    {"/assets/theme.js", "theme.js", "text/javascript; charset=utf-8"},
    {"/assets/favicon.svg", "favicon.svg", "image/svg+xml"},
    {"/favicon.ico", "favicon.svg", "image/svg+xml"},
    {"/robots.txt", "robots.txt", "text/plain; charset=utf-8"},
};

START_TEST(serves)
{
    app_open(&app);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const struct asset *a = asset_find(files[i].name);
        char line[128];
        get("GET", files[i].path, "");
        ck_assert_msg(app_status(&app) == 200, "%s", files[i].path);
        snprintf(line, sizeof line, "content-type: %s\r\n", files[i].type);
        ck_assert_msg(sent(line), "%s: %s", files[i].path, app_sent(&app));
        ck_assert_msg(strlen(app_body(&app)) == a->n_bytes && memcmp(app_body(&app), a->data, a->n_bytes) == 0, "%s",
                      files[i].path);
    }
    app_close(&app);
}
END_TEST

/* Every file that is carried has a row, or nobody could load it. */
START_TEST(serves_all)
{
    app_open(&app);
    for (const struct asset *a = assets; a->name; a++) {
        char path[128];
        bool top = strcmp(a->name, "robots.txt") == 0 || strcmp(a->name, "playground.html") == 0;
        if (strncmp(a->name, "openapi", 7) == 0)
            continue;
        snprintf(path, sizeof path, "/assets/%s", a->name);
        get("GET", path, "");
        ck_assert_msg(app_status(&app) == (top ? 404 : 200), "%s", path);
    }
    app_close(&app);
}
END_TEST

START_TEST(policy)
{
    app_open(&app);
    get("GET", "/", "");
    ck_assert(sent("content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; "
                   "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
                   "frame-ancestors 'none'\r\n"));
    ck_assert(sent("x-content-type-options: nosniff\r\n"));
    ck_assert(sent("referrer-policy: no-referrer\r\n"));
    ck_assert(sent("cache-control: no-cache\r\n"));
    ck_assert(sent("x-request-id: rid\r\n"));
    app_close(&app);
}
END_TEST

START_TEST(head)
{
    char line[64];
    app_open(&app);
    get("HEAD", "/", "");
    ck_assert_int_eq(app_status(&app), 200);
    snprintf(line, sizeof line, "content-length: %zu\r\n", asset_find("playground.html")->n_bytes);
    ck_assert(sent(line));
    ck_assert_str_eq(app_body(&app), "");
    app_close(&app);
}
END_TEST

START_TEST(not_modified)
{
    static const char *const known[] = {"If-None-Match: *\r\n", "If-None-Match: %s\r\n", "If-None-Match: \"a\", %s\r\n"};
    char header[128];
    app_open(&app);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        snprintf(header, sizeof header, known[i], asset_find("playground.css")->etag);
        get("GET", "/assets/playground.css", header);
        ck_assert_int_eq(app_status(&app), 304);
        ck_assert(sent("etag: W/\""));
        ck_assert(!sent("content-length"));
        ck_assert_str_eq(app_body(&app), "");
    }
    snprintf(header, sizeof header, known[1], asset_find("theme.js")->etag);
    get("GET", "/assets/playground.css", header);
    ck_assert_int_eq(app_status(&app), 200);
    app_close(&app);
}
END_TEST

START_TEST(nothing_else)
{
    static const char *const paths[] = {"/assets/", "/assets/robots.txt", "/assets/playground.html", "/assets/nothing.js",
                                        "/playground.js", "/assets/..%2Fgateway.h", "/assets/theme%2Ejs"};
    app_open(&app);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        get("GET", paths[i], "");
        ck_assert_msg(app_status(&app) == 404, "%s", paths[i]);
    }
    get("POST", "/", "");
    ck_assert_int_eq(app_status(&app), 405);
    app_close(&app);
}
END_TEST

START_TEST(off)
{
    app_open(&app);
    app.config.playground = "off";
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        get("GET", files[i].path, "");
        ck_assert_msg(app_status(&app) == (strcmp(files[i].path, "/robots.txt") == 0 ? 200 : 404), "%s", files[i].path);
    }
    app_close(&app);
}
END_TEST

SUITE("playground", serves, serves_all, policy, head, not_modified, nothing_else, off)
