/*
 * GET / and what belongs to it: the playground, a page for people who want to try the models, and robots.txt. The files lie
 * in gateway/assets and are part of the program; the page asks nothing but this server's own API.
 */
#include "gateway/assets.h"
#include "gateway/error.h"
#include "gateway/gateway.h"

#include <string.h>

#define JAVASCRIPT "text/javascript; charset=utf-8"
#define PREFIX "/assets/"

/* The page may load scripts, styles and pictures from here alone, ask this server alone, and be framed by nobody. */
#define CONTENT_SECURITY_POLICY                                                                                        \
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "              \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/* What has no row is not served, whatever the program carries. A NULL path stands for PREFIX and the name. */
static const struct {
    const char *path, *name, *type;
} files[] = {
    {"/", "playground.html", "text/html; charset=utf-8"},
    {"/favicon.ico", "favicon.svg", "image/svg+xml"},
    {"/robots.txt", "robots.txt", "text/plain; charset=utf-8"},
    {NULL, "favicon.svg", "image/svg+xml"},
    {NULL, "playground.css", "text/css; charset=utf-8"},
    {NULL, "playground.js", JAVASCRIPT},
    {NULL, "theme.js", JAVASCRIPT},
    {NULL, "settings.js", JAVASCRIPT},
    {NULL, "stream.js", JAVASCRIPT},
    {NULL, "snippets.js", JAVASCRIPT},
    {NULL, "turns.js", JAVASCRIPT},
    {NULL, "live.js", JAVASCRIPT},
};

static const struct asset *find(const char *path, const char **type)
{
    size_t n_prefix = sizeof PREFIX - 1;
    bool prefixed = strncmp(path, PREFIX, n_prefix) == 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        bool same = files[i].path ? strcmp(files[i].path, path) == 0
                                  : prefixed && strcmp(files[i].name, path + n_prefix) == 0;
        if (same) {
            *type = files[i].type;
            return asset_find(files[i].name);
        }
    }
    return NULL;
}

void handle_asset(struct request *r)
{
    const char *type = NULL;
    const struct asset *asset = find(r->http->path, &type);
    const char *mode = r->g->config->playground;
    bool hidden = mode && strcmp(mode, "off") == 0 && strcmp(r->http->path, "/robots.txt") != 0;
    if (!asset || hidden) {
        error_answer(r, ERROR_NOT_FOUND, hidden ? "there is nothing at this path: the playground is off"
                                                : "there is nothing at this path");
        return;
    }
    bool known = asset_known(asset, http_header(r->http, "if-none-match"));
    /* no-cache: may be kept, but is asked for again with the tag, so that page and scripts are of one version. */
    const struct http_header headers[] = {{"content-type", type},
                                          {"etag", asset->etag},
                                          {"cache-control", "no-cache"},
                                          {"content-security-policy", CONTENT_SECURITY_POLICY},
                                          {"x-content-type-options", "nosniff"},
                                          {"x-frame-options", "DENY"},
                                          {"referrer-policy", "no-referrer"},
                                          {"cross-origin-opener-policy", "same-origin"},
                                          {"cross-origin-resource-policy", "same-origin"},
                                          {"x-request-id", r->id},
                                          {NULL, NULL}};
    http_respond(r->x, known ? 304 : 200, headers, known ? "" : (const char *)asset->data, known ? 0 : asset->n_bytes);
}
