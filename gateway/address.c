/* Parsing, binding and naming of addresses. */
#include "gateway/address.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum error_code parse_unix(const char *path, struct address *out, struct error *err)
{
    struct sockaddr_un *u = (struct sockaddr_un *)&out->storage;
    if (path[0] == '\0' || strlen(path) >= sizeof u->sun_path)
        return error_set(err, ERROR_VALIDATION_FAILED, "expected unix:/PATH with a path of 1..%zu bytes",
                         sizeof u->sun_path - 1);
    u->sun_family = AF_UNIX;
    strcpy(u->sun_path, path);
    out->n_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
    return ERROR_NONE;
}

/* Splits "host:port" or "[host]:port". */
static int split(const char *text, char host[256], char port[8])
{
    const char *colon = strrchr(text, ':');
    if (!colon || strlen(colon + 1) >= 8 || colon[1] == '\0' || colon[1 + strspn(colon + 1, "0123456789")] != '\0')
        return 0;
    size_t n = (size_t)(colon - text);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    } else if (memchr(text, ':', n)) {
        return 0; /* IPv6 without brackets: where does the port begin? */
    }
    if (n >= 256)
        return 0;
    memcpy(host, text, n);
    host[n] = '\0';
    strcpy(port, colon + 1);
    return 1;
}

enum error_code address_parse(const char *text, struct address *out, struct error *err)
{
    char host[256], port[8];
    struct addrinfo *found = NULL;
    memset(out, 0, sizeof *out);
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(text + 5, out, err);
    if (!split(text, host, port))
        return error_set(err, ERROR_VALIDATION_FAILED, "expected HOST:PORT, [IPv6]:PORT or unix:/PATH, found %s", text);
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    int rc = getaddrinfo(host[0] != '\0' ? host : NULL, port, &hints, &found);
    if (rc != 0)
        return error_set(err, ERROR_VALIDATION_FAILED, "%s: %s", text, gai_strerror(rc));
    memcpy(&out->storage, found->ai_addr, found->ai_addrlen);
    out->n_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return ERROR_NONE;
}

/* True when the path is a socket that refuses connections: its server is gone. */
static int stale(const struct address *a)
{
    const struct sockaddr_un *u = (const struct sockaddr_un *)&a->storage;
    struct stat st;
    if (stat(u->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int refused =
        fd >= 0 && connect(fd, (const struct sockaddr *)&a->storage, a->n_bytes) != 0 && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return refused;
}

enum error_code address_listen(const struct address *a, int *out, struct error *err)
{
    char text[128] = "";
    int on = 1;
    int fd = socket(a->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(err, ERROR_INTERNAL, "cannot make a socket: %s", strerror(errno));
    if (a->storage.ss_family == AF_UNIX && stale(a))
        address_unlink(a);
    if (a->storage.ss_family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (const struct sockaddr *)&a->storage, a->n_bytes) == 0 && listen(fd, ADDRESS_BACKLOG) == 0) {
        *out = fd;
        return ERROR_NONE;
    }
    int why = errno;
    close(fd);
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (a->storage.ss_family == AF_UNIX)
        snprintf(text, sizeof text, "%s", ((const struct sockaddr_un *)&a->storage)->sun_path);
    else if (getnameinfo((const struct sockaddr *)&a->storage, a->n_bytes, host, sizeof host, port, sizeof port,
                         NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(text, sizeof text, "%.100s:%.10s", host, port);
    return error_set(err, ERROR_INTERNAL, "cannot listen on %s: %s", text, strerror(why));
}

int address_bound(int fd, char *out, size_t n_out)
{
    struct address a = {.n_bytes = sizeof a.storage};
    char host[NI_MAXHOST], port[NI_MAXSERV];
    out[0] = '\0';
    if (getsockname(fd, (struct sockaddr *)&a.storage, &a.n_bytes) != 0)
        return 0;
    if (a.storage.ss_family == AF_UNIX) {
        snprintf(out, n_out, "unix:%s", ((const struct sockaddr_un *)&a.storage)->sun_path);
        return 0;
    }
    if (getnameinfo((const struct sockaddr *)&a.storage, a.n_bytes, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return 0;
    snprintf(out, n_out, a.storage.ss_family == AF_INET6 ? "[%.100s]:%.10s" : "%.100s:%.10s", host, port);
    return a.storage.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&a.storage)->sin6_port)
                                           : ntohs(((struct sockaddr_in *)&a.storage)->sin_port);
}

const char *address_text(const struct sockaddr *a, size_t n_bytes, char *out, size_t n_out)
{
    char host[NI_MAXHOST];
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
    if (a->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) { /* an IPv4 client of [::] */
        memcpy(&v4.sin_addr, v6->sin6_addr.s6_addr + 12, sizeof v4.sin_addr);
        a = (const struct sockaddr *)&v4;
        n_bytes = sizeof v4;
    }
    if (a->sa_family == AF_UNIX || getnameinfo(a, (socklen_t)n_bytes, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0)
        snprintf(out, n_out, "unix");
    else
        snprintf(out, n_out, "%.60s", host);
    return out;
}

void address_unlink(const struct address *a)
{
    if (a->storage.ss_family == AF_UNIX)
        unlink(((const struct sockaddr_un *)&a->storage)->sun_path);
}
