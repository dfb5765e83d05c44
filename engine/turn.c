#include "engine/turn.h"

#include "base/clock.h"

#define LATELY_NS CLOCK_NS_PER_S

bool turn_init(struct turn *t)
{
    *t = (struct turn){0};
    if (pthread_mutex_init(&t->lock, NULL))
        return false;
    if (!pthread_cond_init(&t->passed, NULL))
        return true;
    pthread_mutex_destroy(&t->lock);
    return false;
}

void turn_fini(struct turn *t)
{
    pthread_cond_destroy(&t->passed);
    pthread_mutex_destroy(&t->lock);
}

void turn_take(struct turn *t, const void *who)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    uint64_t ticket = t->next++;
    while (t->now != ticket)
        pthread_cond_wait(&t->passed, &t->lock);
    if (t->last != who) {
        t->shared_ns = t->last ? clock_now_ns() : 0;
        t->last = who;
    }
    pthread_mutex_unlock(&t->lock);
}

bool turn_is_shared(struct turn *t, const void *who, int64_t now_ns)
{
    if (!t)
        return false;
    pthread_mutex_lock(&t->lock);
    bool shared = t->next != t->now || (t->last && t->last != who) || (t->shared_ns && now_ns - t->shared_ns < LATELY_NS);
    pthread_mutex_unlock(&t->lock);
    return shared;
}

void turn_give(struct turn *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    bool waited_for = ++t->now != t->next;
    pthread_mutex_unlock(&t->lock);
    if (waited_for)
        pthread_cond_broadcast(&t->passed);
}
