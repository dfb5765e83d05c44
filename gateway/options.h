/* The program's options: the only source of flags, variables, defaults and help. */
#ifndef GATEWAY_OPTIONS_H
#define GATEWAY_OPTIONS_H

#include "base/option.h"

struct gateway_config;

extern const struct option_table gateway_options; /* fills a struct gateway_config */

/* Refuses what does not go together; the error names the option. */
enum error_code gateway_options_check(const struct gateway_config *c, struct error *err);

#endif
