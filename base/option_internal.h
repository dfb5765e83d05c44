/* option_internal: what option.c, which sets values, and option_help.c, which shows them, share. */
#ifndef BASE_OPTION_INTERNAL_H
#define BASE_OPTION_INTERNAL_H

#include "base/option.h"

#define OPTION_NAME_BYTES 64
#define OPTION_NUMBER_BYTES 40

static inline bool option_is_text(const struct option_def *def)
{
    return def->type == OPTION_STRING || def->type == OPTION_CHOICE;
}

static inline bool option_has_range(const struct option_def *def)
{
    return def->min != 0 || def->max != 0;
}

/* "queue-limit" -> "BITNET_QUEUE_LIMIT". */
void option_variable(const char *name, char out[OPTION_NAME_BYTES]);

/* As it would be written: the exact size in the largest unit, the shortest number that reads back. */
void option_number(const struct option_def *def, double v, char out[OPTION_NUMBER_BYTES]);

#endif
