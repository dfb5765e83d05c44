/* formats: a request's response_format and tools as a grammar, from a bounded cache of those that were compiled before. */
#ifndef SERVICE_FORMATS_H
#define SERVICE_FORMATS_H

#include "bitnet/v1/inference.pb-c.h"
#include "engine/engine.h"

#define FORMATS_MAX 128                      /* kept */
#define FORMATS_MAX_BYTES ((size_t)64 << 20) /* of the kept ones together */

struct formats;

struct formats *formats_open(void); /* NULL when memory is out */
void formats_close(struct formats *f);

/* A reference to the grammar of a format, of tools (see tools_grammar) or of both, NULL when there is neither; each may be NULL.
 * VALIDATION_FAILED with the param "response_format" or "tools". What is not in the cache is compiled on the caller's thread. Any thread. */
enum error_code formats_get(struct formats *f, const Bitnet__V1__ResponseFormat *format, const Bitnet__V1__Tools *tools,
                            struct grammar **out, struct error *err);

#endif
