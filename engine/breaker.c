/* See breaker.h. */
#include "engine/breaker.h"

enum breaker_state breaker_state(const struct breaker *b, int64_t now_ns)
{
    if (!b->open)
        return BREAKER_CLOSED;
    return b->probing || now_ns >= b->retry_ns ? BREAKER_HALF_OPEN : BREAKER_OPEN;
}

bool breaker_admit(struct breaker *b, int64_t now_ns, int64_t *wait_ns)
{
    if (!b->open)
        return true;
    if (now_ns < b->retry_ns) {
        *wait_ns = b->retry_ns - now_ns;
        return false;
    }
    b->probing = true;
    b->retry_ns = now_ns + b->backoff_ns;
    return true;
}

void breaker_succeeded(struct breaker *b)
{
    *b = (struct breaker){0};
}

void breaker_failed(struct breaker *b, int64_t now_ns)
{
    b->n_failures += b->n_failures < BREAKER_FAILURES;
    if (b->open && !b->probing) /* what was under way when it opened says nothing new */
        return;
    if (!b->open && b->n_failures < BREAKER_FAILURES)
        return;
    int64_t backoff_ns = b->open ? 2 * b->backoff_ns : BREAKER_FIRST_NS;
    b->backoff_ns = backoff_ns < BREAKER_MOST_NS ? backoff_ns : BREAKER_MOST_NS;
    b->retry_ns = now_ns + b->backoff_ns;
    b->open = true;
    b->probing = false;
}
