/* Query parameters of a URL against a table of fields: the same checks, names and errors as for bodies. */
#ifndef GATEWAY_QUERY_H
#define GATEWAY_QUERY_H

#include "gateway/fields.h"

#define QUERY_MAX_PARAMS 32

/* Parses the request's query by the table; an unknown parameter, or one that is given twice, is a fault. The texts in `out` live until
 * *holder, a new reference, is given back with json_decref. */
bool query_parse(const struct request *r, const struct field *table, void *out, json_t **holder, struct failure *f);
/* For endpoints without parameters: true when there is none; else the request has been answered. */
bool query_empty(struct request *r);

#endif
