/* The table of POST /v1/inference, for its tests. */
#ifndef GATEWAY_INFERENCE_H
#define GATEWAY_INFERENCE_H

#include "gateway/fields.h"

extern const struct field inference_fields[]; /* fills a struct params */

#endif
