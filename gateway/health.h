/* What the gateway knows of its engines' health: one round of questions at a time, its answer good for a second. */
#ifndef GATEWAY_HEALTH_H
#define GATEWAY_HEALTH_H

#include "gateway/gateway.h"

/* NULL when memory is out. */
struct health *health_open(struct gateway *g);
/* No request may be waiting any more. */
void health_close(struct health *h);

#endif
