/* See trie.h. Sorted by their bytes, tokens are in the order of the walk. */
#include "engine/grammar/trie.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH UINT16_MAX

struct piece {
    const char *bytes;
    size_t n_bytes;
    uint32_t id;
};

static int by_bytes(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    size_t n = x->n_bytes < y->n_bytes ? x->n_bytes : y->n_bytes;
    int order = memcmp(x->bytes, y->bytes, n);
    if (order)
        return order;
    if (x->n_bytes != y->n_bytes)
        return x->n_bytes < y->n_bytes ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Fills order[] and ends[]; returns the pieces of order[], NULL when memory is out. */
static struct piece *sort(struct trie *trie, const struct tokenizer *t, uint32_t n_vocab)
{
    struct piece *pieces = calloc((size_t)n_vocab + 1, sizeof *pieces);
    trie->order = calloc((size_t)n_vocab + 1, sizeof *trie->order);
    trie->ends = calloc((size_t)n_vocab + 1, sizeof *trie->ends);
    if (!pieces || !trie->order || !trie->ends) {
        free(pieces);
        return NULL;
    }
    for (uint32_t id = 0; id < n_vocab; id++) {
        struct piece p = {.id = id};
        if (tokenizer_is_eog(t, id))
            trie->ends[trie->n_ends++] = id;
        else if ((p.bytes = tokenizer_text(t, id, &p.n_bytes)) && p.n_bytes > 0 && p.n_bytes <= MAX_DEPTH)
            pieces[trie->n_tokens++] = p;
    }
    qsort(pieces, trie->n_tokens, sizeof *pieces, by_bytes);
    for (uint32_t i = 0; i < trie->n_tokens; i++)
        trie->order[i] = pieces[i].id;
    return pieces;
}

/* Bytes that two pieces begin with alike. */
static size_t common(const struct piece *a, const struct piece *b)
{
    size_t n = 0;
    while (n < a->n_bytes && n < b->n_bytes && a->bytes[n] == b->bytes[n])
        n++;
    return n;
}

static bool build(struct trie *trie, const struct piece *pieces)
{
    size_t n_nodes = 0, n = 0;
    for (uint32_t i = 0; i < trie->n_tokens; i++)
        n_nodes += pieces[i].n_bytes - (i ? common(&pieces[i - 1], &pieces[i]) : 0);
    trie->nodes = calloc(n_nodes + 1, sizeof *trie->nodes);
    uint32_t *path = calloc(MAX_DEPTH + 1, sizeof *path); /* the nodes that lead to the last piece; 0 is not used */
    if (!trie->nodes || !path || n_nodes > UINT32_MAX) {
        free(path);
        return false;
    }
    size_t depth = 0;
    for (uint32_t i = 0; i < trie->n_tokens; i++) {
        size_t shared = i ? common(&pieces[i - 1], &pieces[i]) : 0;
        for (; depth > shared; depth--)
            trie->nodes[path[depth]].skip = (uint32_t)n;
        for (; depth < pieces[i].n_bytes; n++) {
            uint8_t byte = (uint8_t)pieces[i].bytes[depth++];
            trie->nodes[n] = (struct trie_node){0, i, (uint16_t)depth, byte};
            path[depth] = (uint32_t)n;
        }
        trie->max_depth = depth > trie->max_depth ? (uint32_t)depth : trie->max_depth;
    }
    for (; depth > 0; depth--)
        trie->nodes[path[depth]].skip = (uint32_t)n;
    trie->nodes[n].first_token = trie->n_tokens;
    trie->n_nodes = (uint32_t)n;
    free(path);
    return true;
}

bool trie_open(struct trie *trie, const struct tokenizer *t, uint32_t n_vocab)
{
    *trie = (struct trie){0};
    struct piece *pieces = sort(trie, t, n_vocab);
    bool ok = pieces && build(trie, pieces);
    free(pieces);
    if (!ok)
        trie_close(trie);
    return ok;
}

void trie_close(struct trie *trie)
{
    free(trie->nodes);
    free(trie->order);
    free(trie->ends);
    *trie = (struct trie){0};
}
