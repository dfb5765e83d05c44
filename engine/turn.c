#include "engine/turn.h"

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

void turn_take(struct turn *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    uint64_t ticket = t->next++;
    while (t->now != ticket)
        pthread_cond_wait(&t->passed, &t->lock);
    pthread_mutex_unlock(&t->lock);
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
