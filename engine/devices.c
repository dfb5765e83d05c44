/* The order of devices, and the opening of the first one that takes what is to be loaded. See devices.h. */
#include "engine/devices.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool device_is_gpu(const char *id)
{
    return strncmp(id, "cuda:", 5) == 0;
}

static bool is_one_of(const char *device, const char *a, const char *b)
{
    return strcmp(device, a) == 0 || strcmp(device, b) == 0;
}

/* Where to begin. An instruction set is a CPU's: where one is asked for, auto means the CPU. */
static void first_device(const struct engine_options *o, char id[DEVICE_ID_BYTES])
{
    const char *device = o->device ? o->device : "auto";
    if (strcmp(device, "auto") == 0 && o->isa)
        device = "cpu";
    snprintf(id, DEVICE_ID_BYTES, "%s", is_one_of(device, "auto", "gpu") ? "cuda:0" : device);
}

/* The one behind it; false when there is none. */
static bool next_device(char id[DEVICE_ID_BYTES])
{
    if (!device_is_gpu(id))
        return false;
    unsigned next = (unsigned)atoi(id + 5) % 256 + 1;
    if (next < backend_gpus(NULL, 0, NULL))
        snprintf(id, DEVICE_ID_BYTES, "cuda:%u", next);
    else
        snprintf(id, DEVICE_ID_BYTES, "cpu");
    return true;
}

static enum error_code open_backend(const struct engine_options *o, const char *device, struct backend **out, struct error *err)
{
    const struct backend_options wanted = {.device = device,
                                           .n_threads = o->n_threads,
                                           .isa = device_is_gpu(device) ? NULL : o->isa,
                                           .pin = o->pin,
                                           .numa = o->numa,
                                           .idle_priority = o->idle_priority};
    return o->null_model ? backend_open_null(o->null_model, out, err) : backend_open(&wanted, out, err);
}

static enum error_code open_on(const struct engine_options *o, const char *device, const struct device_load *load, struct backend **out, struct error *err)
{
    enum error_code code = open_backend(o, device, out, err);
    if (code || !(code = load->open(load->user, *out, err)))
        return code;
    if (load->close)
        load->close(load->user);
    backend_close(*out);
    *out = NULL;
    return code;
}

/* Appends what one device said. */
static void add_reason(char reason[DEVICE_REASON_BYTES], const char *device, const char *why)
{
    size_t n = strlen(reason);
    snprintf(reason + n, DEVICE_REASON_BYTES - n, "%s%s%s%s", n ? "; " : "", strstr(why, device) ? "" : device, strstr(why, device) ? "" : ": ", why);
}

enum error_code devices_open(const struct engine_options *o, const char *after, const struct device_load *load, struct backend **out,
                             char reason[DEVICE_REASON_BYTES], struct error *err)
{
    const char *asked = o->device ? o->device : "auto";
    char device[DEVICE_ID_BYTES];
    struct error unused = {0};
    err = err ? err : &unused;
    *out = NULL;
    reason[0] = '\0';
    if (!o->null_model && !is_one_of(asked, "auto", "gpu") && strcmp(asked, "cpu") != 0 && !device_is_gpu(asked))
        return error_set_param(err, ERROR_VALIDATION_FAILED, "device", "device: expected auto, cpu, gpu or cuda:N, found %.64s", asked);
    if (after) {
        snprintf(device, sizeof device, "%s", after);
        next_device(device);
    } else {
        first_device(o, device);
    }
    bool goes_on = after || (is_one_of(asked, "auto", "gpu") && !o->null_model);
    for (;;) {
        enum error_code code = open_on(o, device, load, out, err);
        bool of_device = code == ERROR_DEVICE_UNAVAILABLE || code == ERROR_MEMORY_EXHAUSTED;
        if (!code || !goes_on || !of_device || !device_is_gpu(device))
            return code;
        add_reason(reason, device, err->message);
        LOG_AT(after || strcmp(asked, "gpu") == 0 ? LOG_WARN : LOG_INFO, "engine", "a device is passed by", LOG_STR("device", device),
               LOG_STR("reason", err->message));
        *err = (struct error){0};
        next_device(device);
    }
}
