/*
 * Embeddings: of a model that pools, a request is a prompt of which the normalised hidden states become one vector. It goes through queue,
 * batch and KV cache like any prompt; here is what its rows are wanted for.
 *
 * Sums are in double precision and in the order of positions, so a vector does not depend on how its text was cut into steps.
 */
#include "engine/loop.h"

#include <math.h>

bool embed_wants(const struct engine *e, const struct sequence *q, uint32_t position)
{
    switch (e->model->shape.pooling) {
    case POOLING_MEAN:
        return true;
    case POOLING_CLS:
        return position == 0;
    case POOLING_LAST:
        return position + 1 == q->job->n_prompt;
    case POOLING_NONE:
        break;
    }
    return false;
}

/* In the order of admission, each as a whole: none is longer than a step. */
size_t embed_plan(struct loop *l)
{
    size_t n_rows = 0;
    for (size_t i = 0; i < l->n_running; i++) {
        struct scheduler_item *item = &l->items[i];
        item->n_rows = !item->paused && item->n_left <= l->scheduler.max_rows - n_rows ? item->n_left : 0;
        n_rows += item->n_rows;
    }
    return n_rows;
}

/* A sequence that starts again begins at position 0 again. */
static void take(struct job *j, const float *hidden, size_t dim, bool first)
{
    for (size_t i = 0; i < dim; i++)
        j->pooled[i] = first ? (double)hidden[i] : j->pooled[i] + (double)hidden[i];
}

/* The vector at length 1: what of a mean is divided by does not matter. One of zeros, or that is not finite, stays as it is. */
static void give(struct engine *e, struct job *j)
{
    size_t dim = e->limits.embedding_size;
    float *out = e->loop.logits; /* its rows have been taken */
    double square = 0;
    for (size_t i = 0; i < dim; i++)
        square += j->pooled[i] * j->pooled[i];
    double length = square > 0 ? sqrt(square) : 1;
    for (size_t i = 0; i < dim; i++)
        out[i] = (float)(j->pooled[i] / length);
    stream_embed(j->stream, out);
}

void embed_all(struct engine *e)
{
    struct loop *l = &e->loop;
    size_t dim = e->limits.embedding_size;
    for (size_t i = 0; i < l->n_out; i++) {
        const struct sequence *q = l->out_sequences[i];
        uint32_t position = (uint32_t)l->positions[l->out_rows[i]];
        if (q)
            take(q->job, l->logits + i * dim, dim, position == 0 || e->model->shape.pooling == POOLING_LAST);
    }
    l->n_out = 0;
    for (size_t i = 0; i < l->n_running;) {
        struct sequence *q = l->running[i];
        if (q->n_fed < q->job->n_prompt) {
            i++;
            continue;
        }
        give(e, q->job);
        loop_end_sequence(e, q, FINISH_STOP, false);
    }
}
