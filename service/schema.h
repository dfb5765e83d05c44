/*
 * JSON Schema to grammars: docs/structured-output.md says which part of it, and what an answer then looks like. What is
 * not understood is refused, never ignored: ERROR_VALIDATION_FAILED with the place as a JSON pointer in the message. An
 * answer of the grammar is valid by the schema; not every valid text is of the grammar. Any thread.
 */
#ifndef SERVICE_SCHEMA_H
#define SERVICE_SCHEMA_H

#include "engine/engine.h"

/* The values of the schema that the text holds. The caller releases the grammar. */
enum error_code schema_compile(const char *text, size_t n_bytes, struct grammar **out, struct error *err);
/* Any JSON object. */
enum error_code schema_any_object(struct grammar **out, struct error *err);

#endif
