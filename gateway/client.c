/* Names of clients and scopes. */
#include "gateway/client.h"

#include "base/utf8.h"

#include <string.h>

static const struct {
    const char *name;
    unsigned scope;
} scopes[] = {
    {"model:read", SCOPE_MODEL_READ},
    {"model:write", SCOPE_MODEL_WRITE},
    {"model:manage", SCOPE_MODEL_MANAGE},
};

#define N_SCOPES (sizeof scopes / sizeof *scopes)

const char *client_kind_name(enum client_kind kind)
{
    static const char *const names[CLIENT_N_KINDS] = {"anyone", "key", "jwt", "certificate"};
    return names[kind];
}

bool client_id_valid(const char *id)
{
    size_t n = strlen(id);
    for (const unsigned char *c = (const unsigned char *)id; *c; c++)
        if (*c < 0x20 || *c == 0x7F)
            return false;
    return n > 0 && n < CLIENT_ID_BYTES && utf8_valid(id, n, NULL);
}

unsigned scope_from_name(const char *name, size_t n_bytes)
{
    for (size_t i = 0; i < N_SCOPES; i++)
        if (strlen(scopes[i].name) == n_bytes && memcmp(scopes[i].name, name, n_bytes) == 0)
            return scopes[i].scope;
    return 0;
}

unsigned scopes_from_list(const char *text, const char *separators, int *n_unknown)
{
    unsigned found = 0;
    for (const char *p = text + strspn(text, separators); *p; p += strspn(p, separators)) {
        size_t n = strcspn(p, separators);
        unsigned scope = scope_from_name(p, n);
        if (scope == 0 && n_unknown)
            ++*n_unknown;
        found |= scope;
        p += n;
    }
    return found;
}

const char *scope_name(unsigned scope)
{
    for (size_t i = 0; i < N_SCOPES; i++)
        if (scopes[i].scope == scope)
            return scopes[i].name;
    return "";
}
