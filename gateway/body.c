/* Content-Type and JSON of a request's body. */
#include "gateway/body.h"

#include "gateway/affinity.h"

#include <string.h>
#include <strings.h>

bool body_type_is_json(const char *type)
{
    static const char json[] = "application/json";
    if (!type)
        return true;
    size_t n = strcspn(type, "; \t");
    return n == sizeof json - 1 && strncasecmp(type, json, n) == 0;
}

json_t *body_json(struct request *r, struct failure *f)
{
    const char *type = http_header(r->http, "content-type");
    json_t *root = NULL;
    if (!body_type_is_json(type)) {
        error_set(&f->error, ERROR_UNSUPPORTED_MEDIA_TYPE, "expected Content-Type: application/json, found %.100s", type);
        return NULL;
    }
    if (r->http->n_body == 0) {
        error_set(&f->error, ERROR_INVALID_REQUEST, "the body is empty: expected a JSON object");
        return NULL;
    }
    fields_object(r->http->body, r->http->n_body, &root, f);
    if (root && r->g->config->affinity && strcmp(r->g->config->affinity, "prefix") == 0)
        r->affinity = affinity_key(root);
    return root;
}
