/* What --check-config looks at beyond the options' own values. */
#ifndef GATEWAY_PREFLIGHT_H
#define GATEWAY_PREFLIGHT_H

#include "base/error.h"

struct gateway_config;

/* Checks all that can be without listening or connecting: addresses, the engines' targets, certificates with their keys, files of keys,
 * lists of proxies and origins. Names of listening addresses are resolved. The error names the option. */
enum error_code preflight(const struct gateway_config *c, struct error *err);

#endif
