/*
 * The change of the device. What a lost device computed is lost with it, but not what was drawn: a sequence that runs goes back to the queue with its
 * tokens, as one that is preempted does, and computes them anew as a prompt where the model is next. Its reader sees a pause of the
 * time that the weights take. On a device of the same arithmetic its tokens are what they would have been.
 */
#include "engine/loop.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

static void put_all_back(struct engine *e)
{
    int64_t now_ns = clock_now_ns();
    while (e->loop.n_running)
        loop_put_back(e, e->loop.running[e->loop.n_running - 1], now_ns); /* so that the first is in front in the end */
    e->loop.n_out = 0;
}

/* Leaves the device for the next one that takes the model. */
static enum error_code change_device(struct engine *e, const char *from, char reason[DEVICE_REASON_BYTES], struct error *err)
{
    pthread_mutex_lock(&e->model_lock);
    enum error_code code = engine_to_device(e, from, reason, err);
    pthread_mutex_unlock(&e->model_lock);
    return code;
}

/* Notes where the model is now: for requests that have started, for those who ask, and for the loop. */
static void settle(struct engine *e, const char *from, const char *reason, double seconds)
{
    struct loop *l = &e->loop;
    struct error err = {0};
    if (engine_describe(e, reason, from, seconds, &err))
        log_error("engine", "the model's description is that of the device before", LOG_STR("error", err.message));
    const struct engine_model *m = engine_model(e);
    for (struct job *j = l->jobs; j; j = j->next) {
        size_t n = strlen(j->devices);
        snprintf(j->devices + n, sizeof j->devices - n, ",%s", m->device);
    }
    backend_adopt_thread(e->backend);
    e->turn = strcmp(m->device, "cpu") == 0 ? e->options.turn : NULL;
    l->scheduler = (struct scheduler){.max_rows = l->scheduler.max_rows, .target_ns = l->scheduler.target_ns};
    l->draft_row_ns = 0;
    pthread_mutex_lock(&e->stats_lock);
    e->stats.n_moves++;
    e->stats.n_kv_blocks = l->kvcache.n_blocks;
    breaker_succeeded(&e->breaker);
    pthread_mutex_unlock(&e->stats_lock);
    const struct engine_observer *observer = loop_observer(e);
    if (observer && observer->on_move)
        observer->on_move(observer->user);
    log_warn("engine", "the model has moved to another device", LOG_STR("model", m->id), LOG_STR("from", from), LOG_STR("to", m->device),
             LOG_FLOAT("seconds", seconds));
}

static void end_all(struct engine *e, const struct error *cause)
{
    struct error err = *cause;
    error_prefix(&err, "no device is left");
    err.code = ERROR_INFERENCE_FAILED;
    while (e->loop.jobs)
        loop_abort_job(e, e->loop.jobs, FINISH_ERROR, &err);
}

/* False when no device takes the model; then *err says why. */
static bool move_from(struct engine *e, const char *from, const char *why, struct error *err)
{
    char passed_by[DEVICE_REASON_BYTES], reason[2 * DEVICE_REASON_BYTES];
    int64_t start_ns = clock_now_ns();
    e->loop.no_device = change_device(e, from, passed_by, err) != ERROR_NONE;
    if (e->loop.no_device) {
        log_error("engine", "no device is left that computes", LOG_STR("error", err->message));
        return false;
    }
    snprintf(reason, sizeof reason, "%.250s%s%s", why, passed_by[0] ? "; " : "", passed_by);
    settle(e, from, reason, (double)(clock_now_ns() - start_ns) / (double)CLOCK_NS_PER_S);
    return true;
}

bool loop_move(struct engine *e, const struct error *why)
{
    char from[DEVICE_ID_BYTES];
    struct error err = {0};
    snprintf(from, sizeof from, "%s", engine_model(e)->device);
    if (!device_is_gpu(from))
        return false;
    log_error("engine", "the device failed", LOG_STR("model", engine_model(e)->id), LOG_STR("device", from), LOG_STR("error", why->message),
              LOG_INT("running", e->loop.n_running));
    put_all_back(e);
    if (!move_from(e, from, why->message, &err))
        end_all(e, &err);
    return true;
}

bool loop_find_device(struct engine *e)
{
    struct error err = {0};
    bool found = move_from(e, engine_model(e)->device, "the device failed", &err);
    if (!found)
        loop_note_device(e, false);
    return found;
}
