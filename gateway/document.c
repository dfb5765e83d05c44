/* GET /openapi.yaml and /openapi.json: the description of the API that this program was built with. */
#include "gateway/assets.h"
#include "gateway/error.h"

#include <stdio.h>
#include <string.h>

#define ETAG_BYTES 20

/* FNV-1a of the bytes: the same file has the same tag in every replica. */
static void tag_of(const struct asset *a, char tag[ETAG_BYTES])
{
    uint64_t hash = 14695981039346656037ULL;
    for (size_t i = 0; i < a->n_bytes; i++)
        hash = (hash ^ a->data[i]) * 1099511628211ULL;
    snprintf(tag, ETAG_BYTES, "\"%016llx\"", (unsigned long long)hash);
}

/* If-None-Match is a list of tags, which may be marked weak, or "*". Tags of ours have no comma in them. */
static bool has_tag(const char *list, const char *tag)
{
    for (const char *p = list; p && *p; p += *p == ',') {
        p += strspn(p, " \t");
        size_t n = strcspn(p, ",");
        const char *own = strncmp(p, "W/", 2) == 0 ? p + 2 : p;
        if (*p == '*' || strncmp(own, tag, strlen(tag)) == 0)
            return true;
        p += n;
    }
    return false;
}

void handle_document(struct request *r)
{
    const char *name = r->route->pattern + 1;
    const struct asset *a = asset_find(name);
    char tag[ETAG_BYTES];
    if (!a) {
        error_answer(r, ERROR_NOT_FOUND, "this build has no %s", name);
        return;
    }
    tag_of(a, tag);
    bool same = has_tag(http_header(r->http, "if-none-match"), tag);
    const struct http_header headers[] = {
        {"content-type", strcmp(name, "openapi.json") == 0 ? "application/json" : "application/yaml"},
        {"etag", tag},
        {"cache-control", "public, max-age=300"},
        {"x-request-id", r->id},
        {NULL, NULL}};
    http_respond(r->x, same ? 304 : 200, headers, same ? (const unsigned char *)"" : a->data, same ? 0 : a->n_bytes);
}
