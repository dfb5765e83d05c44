/* GET /openapi.yaml and /openapi.json: the description of the API that this program was built with. */
#include "gateway/assets.h"
#include "gateway/error.h"

#include <string.h>

void handle_document(struct request *r)
{
    const char *name = r->route->pattern + 1;
    const struct asset *a = asset_find(name);
    if (!a) {
        error_answer(r, ERROR_NOT_FOUND, "this build has no %s", name);
        return;
    }
    bool same = asset_known(a, http_header(r->http, "if-none-match"));
    const struct http_header headers[] = {
        {"content-type", strcmp(name, "openapi.json") == 0 ? "application/json" : "application/yaml"},
        {"etag", a->etag},
        {"cache-control", "public, max-age=300"},
        {"x-request-id", r->id},
        {NULL, NULL}};
    http_respond(r->x, same ? 304 : 200, headers, same ? (const unsigned char *)"" : a->data, same ? 0 : a->n_bytes);
}
