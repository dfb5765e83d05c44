/* One HTTP/1.0 request over a plain socket. */
#include "gateway/healthcheck.h"

#include "gateway/address.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* The admin port: plain, whatever the clients' addresses speak. */
#define DEFAULT_URL "http://127.0.0.1:9091/health/live"

/* The status, or -1. */
static int get(const char *host, const char *path)
{
    struct address a;
    struct error err = {0};
    char request[640], line[64] = "";
    const struct timeval limit = {3, 0};
    if (address_parse(host, &a, &err) != ERROR_NONE) {
        fprintf(stderr, "healthcheck: %s\n", err.message);
        return -1;
    }
    int fd = socket(a.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), status = -1;
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: healthcheck\r\n\r\n", path);
    if (n > 0 && (size_t)n < sizeof request && connect(fd, (struct sockaddr *)&a.storage, a.n_bytes) == 0 &&
        send(fd, request, (size_t)n, MSG_NOSIGNAL) == n) {
        ssize_t n_line = recv(fd, line, sizeof line - 1, MSG_WAITALL);
        if (n_line <= 0 || sscanf(line, "HTTP/1.%*d %d", &status) != 1)
            status = -1;
    }
    close(fd);
    return status;
}

int healthcheck_main(int argc, char **argv)
{
    const char *url = DEFAULT_URL;
    char host[300];
    if (argc == 3 && strcmp(argv[1], "--url") == 0)
        url = argv[2];
    else if (argc == 2 && strncmp(argv[1], "--url=", 6) == 0)
        url = argv[1] + 6;
    else if (argc != 1) {
        fprintf(stderr, "usage: bitnet-gateway healthcheck [--url %s]\n", DEFAULT_URL);
        return 1;
    }
    if (strncmp(url, "http://", 7) != 0) {
        fprintf(stderr,
                "healthcheck: expected http://HOST:PORT/PATH, found %s; it speaks no TLS: ask an address of "
                "--admin-listen, or one of --listen with http:// in front\n",
                url);
        return 1;
    }
    size_t n = strcspn(url + 7, "/");
    const char *path = url[7 + n] != '\0' ? url + 7 + n : "/";
    snprintf(host, sizeof host, "%.*s%s", n < 290 ? (int)n : 290, url + 7, memchr(url + 7, ':', n) ? "" : ":80");
    int status = get(host, path);
    if (status != 200)
        fprintf(stderr, "healthcheck: %s answered %d\n", url, status);
    return status == 200 ? 0 : 1;
}
