/* formats: a request's response_format as a grammar, from a bounded cache of those that were compiled before. */
#ifndef SERVICE_FORMATS_H
#define SERVICE_FORMATS_H

#include "bitnet/v1/inference.pb-c.h"
#include "engine/engine.h"

#define FORMATS_MAX 128                      /* kept */
#define FORMATS_MAX_BYTES ((size_t)64 << 20) /* of the kept ones together */

struct formats;

/* Says of an error that it is about `what` in the response_format; returns its code. */
enum error_code formats_fault(struct error *err, const char *what);

struct formats *formats_open(void); /* NULL when memory is out */
void formats_close(struct formats *f);

/* A reference to the format's grammar, NULL when the message has no format. VALIDATION_FAILED with the param "response_format". What is
 * not in the cache is compiled on the caller's thread. Any thread. */
enum error_code formats_get(struct formats *f, const Bitnet__V1__ResponseFormat *format, struct grammar **out,
                            struct error *err);

#endif
