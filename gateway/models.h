/* GET /v1/models. */
#ifndef GATEWAY_MODELS_H
#define GATEWAY_MODELS_H

#include "gateway/fields.h"

/* The query's parameters. */
extern const struct field models_fields[];

#endif
