/* response_format of the OpenAI API: {"type": "text" | "json_object" | "json_schema" | "regex", ...}. */
#ifndef GATEWAY_FORMAT_H
#define GATEWAY_FORMAT_H

#include "bitnet/v1/inference.pb-c.h"
#include "gateway/fields.h"

/* Checks its form; what the schema or the pattern says is the engine's to check. NULL is fine: any text. */
bool format_check(const json_t *format, struct failure *f);
/* Fills a message that is initialised; false when any text will do or memory is out, which *ok tells. Its text, which may be
 * NULL, is freed by the caller after the message was packed. */
bool format_fill(const json_t *format, Bitnet__V1__ResponseFormat *out, char **text, bool *ok);

#endif
