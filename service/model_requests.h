/* model_requests: what is asked of ModelService, checked and as the registry takes it. Errors are VALIDATION_FAILED with the field's name. */
#ifndef SERVICE_MODEL_REQUESTS_H
#define SERVICE_MODEL_REQUESTS_H

#include "bitnet/v1/models.pb-c.h"
#include "service/models.h"

#define MODELS_ALIASES_BYTES (sizeof((struct model_entry *)0)->aliases)

/* `request` is the message of the call. Whether a file or a model is there is left to the registry. */
enum error_code model_check_load(const void *request, struct error *err);
enum error_code model_check_swap(const void *request, struct error *err);
enum error_code model_check_unload(const void *request, struct error *err);
enum error_code model_check_default(const void *request, struct error *err);

/* Of requests that were checked; what they point to is borrowed from the message and `aliases`. */
struct load_request model_load_request(const Bitnet__V1__LoadModelRequest *r, char aliases[MODELS_ALIASES_BYTES]);
struct swap_request model_swap_request(const Bitnet__V1__SwapModelRequest *r);

#endif
