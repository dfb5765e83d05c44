/* The tables of /tokenize and /detokenize, for their tests. */
#ifndef GATEWAY_TOKENIZE_H
#define GATEWAY_TOKENIZE_H

#include "gateway/fields.h"

extern const struct field tokenize_fields[], detokenize_fields[];

#endif
