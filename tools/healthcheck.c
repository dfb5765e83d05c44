/*
 * bitnet healthcheck: whether engines and gateways are well, for probes of containers that have no shell. Without a URL it asks the admin
 * ports where they are by default, so that one image has one probe, whichever of the two runs in it.
 */
#include "tools/command.h"
#include "tools/http_client.h"

#include <stdio.h>

#define PAGE_MAX_BYTES (1 << 20)

struct config {
    int64_t timeout_ms;
};

static const struct option_def defs[] = {{.name = "timeout-ms",
                                          .type = OPTION_INT,
                                          .offset = offsetof(struct config, timeout_ms),
                                          .default_value = "3000",
                                          .min = 1,
                                          .max = 60000,
                                          .unit = "ms",
                                          .help = "that each answer may take"},
                                         {.name = NULL}};

static const struct option_table table = {"bitnet healthcheck",
                                          "usage: bitnet healthcheck [URL...] [options]\n\n"
                                          "Asks each URL, such as http://127.0.0.1:9090/health/ready, and wants the "
                                          "status 200. Without a URL it asks /health/live of the ports "
                                          "9090 and 9091\nof this host, the engine's and the gateway's: one must "
                                          "answer, and none with another status. No TLS.\n"
                                          "Exit status: 0 = well, 1 = not, 2 = wrong usage.\n",
                                          defs};

enum answer { ANSWER_WELL, ANSWER_ILL, ANSWER_NONE };

static enum answer ask(const char *text, int timeout_ms, struct error *err)
{
    struct http_url url;
    struct buffer page;
    int status = 0;
    if (!http_url_parse(text, &url, err))
        return ANSWER_ILL;
    buffer_init(&page, PAGE_MAX_BYTES);
    bool answered = http_get(&url, "", timeout_ms, &status, &page, err);
    buffer_fini(&page);
    if (!answered)
        return ANSWER_NONE;
    if (status == 200)
        return ANSWER_WELL;
    error_set(err, ERROR_SERVICE_UNAVAILABLE, "%.300s: expected 200, found %d", text, status);
    return ANSWER_ILL;
}

int command_healthcheck(int argc, char **argv)
{
    static char *const places[] = {"http://127.0.0.1:9090/health/live", "http://127.0.0.1:9091/health/live"};
    struct config c = {0};
    struct option_result result = {0};
    command_parse(&table, argc, argv, &c, &result);
    bool named = result.n_args > 0;
    char *const *urls = named ? result.args : places;
    int n = named ? result.n_args : (int)(sizeof places / sizeof *places), n_well = 0;
    for (int i = 0; i < n; i++) {
        struct error err = {0};
        enum answer answer = ask(urls[i], (int)c.timeout_ms, &err);
        n_well += answer == ANSWER_WELL;
        if (answer == ANSWER_ILL || (answer == ANSWER_NONE && named))
            return command_fail(&err);
    }
    if (n_well > 0)
        return 0;
    fprintf(stderr, "bitnet: healthcheck: neither %s nor %s answered\n", places[0], places[1]);
    return 1;
}
