/* See hosted.h. */
#include "service/hosted.h"

#include <stdlib.h>

static const struct hosted nothing;

static void *on_open(void *user, const char *id, struct engine *e)
{
    struct service *s = user;
    struct hosted *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->service = s;
    h->metrics = model_metrics_open(s->metrics, id, e);
    return h;
}

static void on_close(void *user, void *served_user)
{
    struct hosted *h = served_user;
    (void)user;
    if (!h)
        return;
    model_metrics_close(h->metrics);
    free(h);
}

static void on_load_failed(void *user, const char *id, const struct error *err)
{
    (void)id, (void)err; /* the registry has logged it */
    service_metrics_load_failed(((struct service *)user)->metrics);
}

static void on_swap(void *user, const char *id, const char *result)
{
    (void)id;
    service_metrics_swap(((struct service *)user)->metrics, result);
}

struct registry_observer hosted_observer(struct service *s)
{
    return (struct registry_observer){
        .user = s, .on_open = on_open, .on_close = on_close, .on_load_failed = on_load_failed, .on_swap = on_swap};
}

const struct hosted *hosted_of(const struct served *served)
{
    const struct hosted *h = served_user(served);
    return h ? h : &nothing;
}
