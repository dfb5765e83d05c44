/*
 * devices: on which one a model is, and which come next when that is not to be: cuda:N -> the GPUs behind it -> the CPU. A device is passed by
 * when it is not there, fails its self-test, has too little memory, or is lost while it computes.
 */
#ifndef ENGINE_DEVICES_H
#define ENGINE_DEVICES_H

#include "engine/engine.h"

#define DEVICE_ID_BYTES 16
#define DEVICE_REASON_BYTES 256

/* What goes onto a device. */
struct device_load {
    enum error_code (*open)(void *user, struct backend *be, struct error *err);
    void (*close)(void *user); /* what an open that failed has left; NULL: nothing */
    void *user;
};

/* Opens a backend, and on it what `load` says. Which: behind the device `after`, or with NULL as options->device says: "auto" (or NULL) and "gpu"
 * begin with cuda:0, "cpu" and "cuda:N" are opened or are an error. `reason` says why those before it were not taken (and it is logged), else it
 * is "". Returns the error of the last one, or one that no other device would mend; ERROR_VALIDATION_FAILED (param "device") for other words. With
 * a null model its backend is opened. The caller closes *out. Any thread. */
enum error_code devices_open(const struct engine_options *options, const char *after, const struct device_load *load, struct backend **out,
                             char reason[DEVICE_REASON_BYTES], struct error *err);

/* Whether another device may go on when this one fails. */
bool device_is_gpu(const char *id);

#endif
