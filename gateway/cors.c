/* Origins, compared byte by byte as browsers write them: scheme, host in lower case, port where it is not the default. */
#include "gateway/cors.h"

#include <ctype.h>
#include <string.h>

#define MAX_NAMES_BYTES 1024

static bool origin_valid(const char *text, size_t n)
{
    const char *host = memmem(text, n, "://", 3);
    if (!host || host == text || host + 3 == text + n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!islower((unsigned char)text[i]) && !isdigit((unsigned char)text[i]) && !strchr(".-+:[]_", text[i]) &&
            text + i != host + 1 && text + i != host + 2)
            return false;
    return true;
}

bool cors_any(const char *origins)
{
    return origins && strcmp(origins, "*") == 0;
}

enum error_code cors_check(const char *origins, struct error *err)
{
    if (!origins || cors_any(origins))
        return ERROR_NONE;
    for (const char *p = origins + strspn(origins, " ,"); *p; p += strspn(p, " ,")) {
        size_t n = strcspn(p, " ,");
        if (!origin_valid(p, n))
            return error_set(err, ERROR_VALIDATION_FAILED,
                             "--cors-origins: expected origins such as https://app.example:8443 in lower case, without a "
                             "path, or * alone, found %.*s",
                             (int)(n < 128 ? n : 128), p);
        p += n;
    }
    return ERROR_NONE;
}

bool cors_allows(const char *origins, const char *origin)
{
    size_t n_origin = strlen(origin);
    if (!origins || cors_any(origins))
        return origins != NULL;
    for (const char *p = origins + strspn(origins, " ,"); *p; p += strspn(p, " ,")) {
        size_t n = strcspn(p, " ,");
        if (n == n_origin && memcmp(p, origin, n) == 0)
            return true;
        p += n;
    }
    return false;
}

bool cors_names_valid(const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("-_, ", text[i]))
            return false;
    return n > 0 && n <= MAX_NAMES_BYTES;
}
