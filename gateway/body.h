/* The body of a request as JSON. */
#ifndef GATEWAY_BODY_H
#define GATEWAY_BODY_H

#include "gateway/fields.h"

/* The JSON object of the body (new reference), or NULL and why: content type, emptiness, form. */
json_t *body_json(struct request *r, struct failure *f);
/* True when `type` is application/json, with or without parameters; one that is absent is taken as JSON. */
bool body_type_is_json(const char *type);

#endif
