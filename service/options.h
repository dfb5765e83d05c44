/* options: the engine program's table of options and what follows from the values. */
#ifndef SERVICE_OPTIONS_H
#define SERVICE_OPTIONS_H

#include "base/option.h"
#include "service/service.h"

extern const struct option_table service_options;

/* True when others than this machine can reach `address`, of which only what stands before a comma counts. What is not understood is
 * public. */
bool options_public_address(const char *address);

/* What the table cannot say: a model is given, and public addresses have TLS or the explicit permission to do without. */
enum error_code options_check(const struct service_config *c, struct error *err);

/* What --check-config looks at too: addresses, the device's name, certificate and key, folders, the model file's headers. Takes as long as reading
 * those does. The error names the option. */
enum error_code options_preflight(const struct service_config *c, struct error *err);

/* The strings are borrowed from `c`, and `null` when it asks for the null model. */
struct engine_options options_engine(const struct service_config *c, struct null_options *null);

/* The program `bitnet-engine healthcheck`: 0 when the engine says that it serves, else 1. */
int healthcheck_main(int argc, char **argv);

#endif
