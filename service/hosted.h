/*
 * hosted: what the service keeps of each loaded model, made when the registry opens it and freed when its last user has gone: served_user() of a
 * served model is its struct hosted.
 */
#ifndef SERVICE_HOSTED_H
#define SERVICE_HOSTED_H

#include "service/metrics.h"

struct hosted {
    struct service *service;
    struct model_metrics *metrics; /* NULL when memory was out */
};

/* For registry_open. `s` has its metrics and outlives the registry. */
struct registry_observer hosted_observer(struct service *s);
/* Never NULL; zeroes where memory was out when the model was opened. Valid as long as `served`. */
const struct hosted *hosted_of(const struct served *served);

#endif
