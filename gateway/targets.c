/* Parsing of targets. Numbers stay as they are, everything else behind HOST:PORT is a name. */
#include "gateway/targets.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define EXPECTED "expected HOST:PORT, [IPv6]:PORT, dns:///NAME:PORT or unix:/PATH"

static enum error_code refuse(const char *text, size_t n, struct error *err)
{
    return error_set_param(err, ERROR_VALIDATION_FAILED, "engine", "--engine: " EXPECTED ", found \"%.*s\"",
                           (int)(n < 200 ? n : 200), text);
}

static bool port_valid(const char *port)
{
    long value = strtol(port, NULL, 10);
    return port[0] != '\0' && strlen(port) <= 5 && port[strspn(port, "0123456789")] == '\0' && value > 0 &&
           value <= 65535;
}

static bool name_valid(const char *name)
{
    return name[0] != '\0' && name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")] == '\0';
}

/* "HOST:PORT" or "[IPv6]:PORT". `numbers`: a name will not do. */
static bool parse_host(const char *text, bool numbers, struct target *out)
{
    unsigned char binary[16];
    char host[256];
    const char *colon = strrchr(text, ':');
    if (!colon || !port_valid(colon + 1) || (size_t)(colon - text) >= sizeof host)
        return false;
    snprintf(host, sizeof host, "%.*s", (int)(colon - text), text);
    size_t n = strlen(host);
    if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = '\0';
        return inet_pton(AF_INET6, host + 1, binary) == 1 &&
               snprintf(out->address, sizeof out->address, "%.100s]:%.7s", host, colon + 1) > 0;
    }
    if (inet_pton(AF_INET, host, binary) == 1)
        return snprintf(out->address, sizeof out->address, "%.100s:%.7s", host, colon + 1) > 0;
    if (numbers || !name_valid(host))
        return false;
    snprintf(out->host, sizeof out->host, "%s", host);
    snprintf(out->port, sizeof out->port, "%.7s", colon + 1);
    return true;
}

static bool parse_one(const char *text, struct target *out)
{
    memset(out, 0, sizeof *out);
    if (strncmp(text, "unix:", 5) == 0) {
        /* gRPC's unix:///PATH is unix:/PATH. */
        const char *path = strncmp(text + 5, "///", 3) == 0 ? text + 7 : text + 5;
        return path[0] != '\0' && strlen(path) < sizeof ((struct sockaddr_un *)0)->sun_path &&
               snprintf(out->address, sizeof out->address, "unix:%s", path) < (int)sizeof out->address;
    }
    if (strncmp(text, "ipv4:", 5) == 0 || strncmp(text, "ipv6:", 5) == 0)
        return parse_host(text + 5, true, out);
    if (strncmp(text, "dns:///", 7) == 0)
        return parse_host(text + 7, false, out);
    return parse_host(text, false, out);
}

static bool same(const struct target *a, const struct target *b)
{
    return strcmp(a->address, b->address) == 0 && strcmp(a->host, b->host) == 0 && strcmp(a->port, b->port) == 0;
}

enum error_code targets_parse(const char *text, struct target out[TARGETS_MAX], size_t *n, struct error *err)
{
    char one[512];
    *n = 0;
    for (const char *p = text ? text : "";; p++) {
        p += strspn(p, " ");
        size_t n_one = strcspn(p, ","), n_text = n_one;
        while (n_text > 0 && p[n_text - 1] == ' ')
            n_text--;
        if (*n == TARGETS_MAX)
            return error_set_param(err, ERROR_VALIDATION_FAILED, "engine", "--engine: expected at most %d targets",
                                   TARGETS_MAX);
        snprintf(one, sizeof one, "%.*s", (int)n_text, p);
        if (n_text >= sizeof one || !parse_one(one, &out[*n]))
            return refuse(p, n_text, err);
        for (size_t i = 0; i < *n; i++)
            if (same(&out[i], &out[*n]))
                return error_set_param(err, ERROR_VALIDATION_FAILED, "engine", "--engine: %.200s is named twice", one);
        ++*n;
        p += n_one;
        if (*p == '\0')
            return ERROR_NONE;
    }
}
