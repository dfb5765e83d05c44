/* GET /v1/stats. */
#ifndef GATEWAY_STATS_H
#define GATEWAY_STATS_H

#include "gateway/fields.h"

/* The query's parameters. */
extern const struct field stats_fields[];

#endif
