/* The program's options: the only source of flags, variables, defaults and help. */
#ifndef GATEWAY_OPTIONS_H
#define GATEWAY_OPTIONS_H

#include "base/option.h"

extern const struct option_table gateway_options; /* fills a struct gateway_config */

#endif
