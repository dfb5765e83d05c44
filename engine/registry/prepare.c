#include "engine/registry/prepare.h"

#include "base/clock.h"
#include "engine/background.h"
#include "engine/loop.h"
#include "engine/registry/allow.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* For who asks how the model stands. */
static void note_in_entry(const struct preparation *p, const char *phase, double share, const char *message)
{
    pthread_mutex_lock(&p->r->lock);
    struct entry *e = entry_find(p->r, p->id);
    if (e)
        snprintf(e->message, sizeof e->message, "is being %s: %s, %.0f %%%s%s", e->status == MODEL_LOADING ? "loaded" : "swapped", phase,
                 100 * (share < 1 ? share : 1), *message ? ", " : "", message);
    pthread_mutex_unlock(&p->r->lock);
}

void prepare_progress(const struct preparation *p, const char *phase, double share, const char *message)
{
    note_in_entry(p, phase, share, message);
    const struct model_progress progress = {phase, share, message, (double)(clock_now_ns() - p->start_ns) / (double)CLOCK_NS_PER_MS};
    if (p->on_progress)
        p->on_progress(p->user, &progress);
}

static bool goes_on(const struct preparation *p)
{
    return clock_now_ns() < p->deadline_ns && !atomic_load(&p->r->draining);
}

static bool on_load(void *user, double share)
{
    const struct preparation *p = user;
    prepare_progress(p, "loading", share, "");
    return goes_on(p);
}

static bool on_validation(void *user, double share)
{
    const struct preparation *p = user;
    prepare_progress(p, "validating", share, "");
    return goes_on(p);
}

/* A failure whose error says it all. What it names is a part of the file, not a field of the request. */
static enum error_code note(struct preparation *p, const char *type, const char *expected)
{
    const enum error_code code = p->err->code;
    const struct error why = *p->err;
    p->err->param[0] = '\0';
    validation_fail(p->results, NULL, code, type, expected, "%s", why.message);
    return code;
}

static enum error_code late(struct preparation *p)
{
    return validation_fail(p->results, p->err, ERROR_MODEL_LOAD_FAILED, "timeout", "to be loaded in time", "that the %lld s were over",
                           (long long)(p->asked.timeout_ns / CLOCK_NS_PER_S));
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static int open_pinned(void *user, const char *path, struct error *err)
{
    const struct preparation *p = user;
    if (strcmp(path, p->source.path) != 0) /* another part */
        return allow_open(p->r->options.allowed_dirs, path, err);
    int fd = fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        error_set(err, ERROR_MODEL_LOAD_FAILED, "no descriptor to open %.256s", path);
    return fd;
}

static enum error_code open_file(struct preparation *p)
{
    const char *dirs = p->r->options.allowed_dirs;
    enum error_code code = allow_resolve(dirs, p->path, p->source.path, sizeof p->source.path, p->err);
    if (code)
        return code;
    p->fd = allow_open(dirs, p->source.path, p->err);
    p->opener = (struct file_opener){open_pinned, p};
    return p->fd < 0 ? p->err->code : ERROR_NONE;
}

static void check_file(void *arg)
{
    struct preparation *p = arg;
    char message[CHECK_MESSAGE_BYTES];
    p->file = (struct file_checks){.path = p->source.path, .opener = &p->opener, .i2s_order = p->r->options.engine.i2s_order};
    prepare_progress(p, "checking", 0, "structure and tokenizer");
    if ((p->code = file_check_structure(&p->file, message, p->err))) {
        note(p, "structure", "a GGUF file of a model that can be served");
        return;
    }
    p->results->format_valid = true;
    p->results->gguf_version = gguf_version(p->file.gguf);
    p->results->n_tensors = gguf_n_tensors(p->file.gguf);
    if ((p->code = file_check_tokenizer(&p->file, message, p->err))) {
        note(p, "tokenizer", "a tokenizer that gives a text back");
        return;
    }
    prepare_progress(p, "checking", 0.2, "weights");
    if (!p->r->options.engine.null_model && (p->code = file_check_weights(&p->file, message, p->err)))
        note(p, "weights", "weights as training leaves them");
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static enum error_code load(struct preparation *p)
{
    struct instance_how how = {.opener = &p->opener, .on_load = on_load, .user = p, .background = true};
    how.reserved_bytes = p->results->memory_bytes = instance_estimate(p->r, &p->source, p->file.gguf, &p->file.shape);
    enum error_code code = room_take(p->r, p->id, how.reserved_bytes, p->r->options.evict, p->err);
    if (code == ERROR_MEMORY_EXHAUSTED)
        note(p, "memory", "room for the model");
    if (code)
        return code;
    prepare_progress(p, "loading", 0, "");
    code = instance_open(p->r, p->id, &p->source, &how, &p->served, p->err);
    if (code == ERROR_CANCELLED)
        return late(p);
    if (code == ERROR_VALIDATION_FAILED) /* an option: the device, the cache's size */
        return code;
    if (code)
        return note(p, code == ERROR_MEMORY_EXHAUSTED ? "memory" : code == ERROR_DEVICE_UNAVAILABLE ? "device" : "structure",
                    "a model that loads");
    const char *device = engine_model(p->served->engine)->device;
    p->results->memory_bytes = p->served->memory_bytes;
    snprintf(p->results->devices, sizeof p->results->devices, "%s%s", device, strncmp(device, "cuda", 4) == 0 ? ",cpu" : "");
    return ERROR_NONE;
}

static void validate(void *arg)
{
    struct preparation *p = arg;
    struct validation v = {.engine = p->served->engine,
                           .ids = &p->file.ids,
                           .asked = p->asked,
                           .deadline_ns = p->deadline_ns,
                           .go_on = on_validation,
                           .user = p,
                           .results = p->results};
    p->code = validation_run(&v, p->err);
}

static enum error_code prepare_in_slot(struct preparation *p)
{
    enum error_code code = open_file(p);
    if (code)
        return code;
    background_run(check_file, p);
    if (p->code)
        return p->code;
    if (!goes_on(p))
        return late(p);
    if ((code = load(p)) || p->r->options.engine.null_model)
        return code;
    background_run(validate, p);
    if (p->code)
        return p->code;
    engine_forget(p->served->engine);
    p->served->accuracy = p->results->accuracy;
    return ERROR_NONE;
}

enum error_code prepare(struct preparation *p, struct served **out, struct error *err)
{
    p->err = err;
    p->fd = -1;
    validation_clear(p->results);
    enum error_code code = validation_check(&p->asked, &p->asked, err);
    if (!code)
        code = slot_take(p->r, err);
    if (code)
        return code;
    p->deadline_ns = clock_now_ns() + p->asked.timeout_ns;
    code = prepare_in_slot(p);
    slot_give(p->r);
    file_checks_fini(&p->file);
    if (p->fd >= 0)
        close(p->fd);
    if (!code) {
        *out = p->served;
        return ERROR_NONE;
    }
    served_release(p->served);
    return atomic_load(&p->r->draining) ? registry_shutting_down(err) : code;
}
