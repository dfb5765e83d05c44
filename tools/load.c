/*
 * bitnet-load: puts load on an engine over gRPC, or on a gateway or another server over HTTP, and reports what the clients saw.
 *
 * Ctrl-C ends the level that runs, cancels its requests and reports what there is; a second one ends at once.
 */
#include "tools/load_report.h"
#include "tools/load_run.h"

#include "base/clock.h"
#include "base/log.h"
#include "rpc/rpc.h"

#include "version.h"

#include <errno.h>
#include <event2/thread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define VERIFY_KEYS (1 << 17) /* prompts whose texts are kept as hashes */
#define MAX_REPORT_BYTES (64 << 20)

enum { EXIT_PLANNED = 0, EXIT_ERRORS = 1, EXIT_USAGE = 2 };

struct program {
    struct load_plan plan;
    struct load_verify *verify;
    struct load_report report;
    uint64_t n_before;
    int signal_fd;
    bool is_second_fatal;
};

static int fail(const struct error *err, int status)
{
    fprintf(stderr, "bitnet-load: %s\n", err->message[0] ? err->message : error_info(err->code)->name);
    return status;
}

/* Before any thread, so that none takes them: they are read in the wait of a level. */
static int block_signals(void)
{
    sigset_t set;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The first signal was seen: the next one ends the process. */
static void unblock_signals(struct program *p)
{
    struct signalfd_siginfo seen;
    sigset_t set;
    if (p->is_second_fatal || read(p->signal_fd, &seen, sizeof seen) < 0)
        return;
    p->is_second_fatal = true;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* As many sockets as the system lets us have. */
static void raise_limits(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* ---- levels -------------------------------------------------------------------------------------------------------------- */

static void prepare(struct program *p, double load, bool alone, struct load_run *r)
{
    const struct load_config *c = p->plan.config;
    *r = (struct load_run){.plan = &p->plan,
                           .level = load,
                           .transport = p->plan.api == LOAD_GRPC ? &load_grpc : &load_http,
                           .verify = p->verify,
                           .n_before = p->n_before,
                           .n_requests = (uint64_t)c->requests,
                           .alone = alone};
    if (alone) {
        r->n_requests = (uint64_t)c->prompts;
        r->n_clients = 1;
    } else if (p->plan.mode == LOAD_CLOSED) {
        r->n_clients = (size_t)load;
    } else if (p->plan.mode == LOAD_TRACE && (r->n_requests == 0 || r->n_requests > p->plan.trace.n_arrivals)) {
        r->n_requests = p->plan.trace.n_arrivals;
    }
}

static bool run_level(struct program *p, double load, bool alone, struct load_level *out, struct error *err)
{
    static struct load_run r; /* it holds histograms */
    prepare(p, load, alone, &r);
    bool ok = load_run_level(&r, p->signal_fd, &p->report.interrupted, err);
    if (p->report.interrupted)
        unblock_signals(p);
    *out = (struct load_level){.load = load, .seconds = r.seconds, .stats = r.stats};
    p->n_before += load_stats_n_ended(&r.stats);
    load_run_free(&r);
    return ok;
}

static bool run_all(struct program *p, struct error *err)
{
    struct load_report *r = &p->report;
    if (p->plan.config->verify_alone) {
        r->alone = calloc(1, sizeof *r->alone);
        if (!r->alone || !run_level(p, 1, true, r->alone, err))
            return false;
    }
    while (r->n_levels < p->plan.n_levels && !r->interrupted) {
        if (!run_level(p, p->plan.levels[r->n_levels], false, &r->levels[r->n_levels], err))
            return false;
        r->n_levels++;
    }
    return true;
}

/* ---- the report ------------------------------------------------------------------------------------------------------------ */

static bool write_svg(const struct load_report *r, const char *path)
{
    struct buffer svg;
    buffer_init(&svg, MAX_REPORT_BYTES);
    load_report_svg(r, &svg);
    FILE *f = fopen(path, "we");
    bool ok = f && !svg.failed && fwrite(svg.data, 1, svg.n_bytes, f) == svg.n_bytes;
    if (f && fclose(f) != 0)
        ok = false;
    if (!ok)
        fprintf(stderr, "bitnet-load: cannot write %s: %s\n", path, strerror(errno));
    buffer_fini(&svg);
    return ok;
}

static int report(const struct load_report *r)
{
    const struct load_config *c = r->plan->config;
    struct buffer text;
    buffer_init(&text, MAX_REPORT_BYTES);
    if (c->json)
        load_report_json(r, &text);
    else
        load_report_table(r, &text);
    bool ok = !text.failed && fwrite(text.data, 1, text.n_bytes, stdout) == text.n_bytes && fflush(stdout) == 0;
    buffer_fini(&text);
    if (c->svg && r->n_levels > 0)
        ok &= write_svg(r, c->svg);
    return ok && load_report_n_errors(r) <= (uint64_t)c->allow_errors && load_report_n_mismatched(r) == 0 ? EXIT_PLANNED
                                                                                                          : EXIT_ERRORS;
}

static int load(const struct load_config *config, const char *url)
{
    static struct program p;
    struct error err = {0};
    int status = EXIT_USAGE;
    p.signal_fd = block_signals();
    raise_limits();
    evthread_use_pthreads();
    rpc_init();
    if (load_plan_open(config, url, &p.plan, &err)) {
        fail(&err, EXIT_USAGE);
    } else {
        p.verify = config->verify || config->verify_alone ? load_verify_open(VERIFY_KEYS) : NULL;
        p.report = (struct load_report){.plan = &p.plan, .version = BITNET_VERSION};
        p.report.levels = calloc(p.plan.n_levels, sizeof *p.report.levels);
        bool ok = p.report.levels && run_all(&p, &err);
        status = ok ? report(&p.report) : fail(&err, EXIT_ERRORS);
    }
    free(p.report.levels);
    free(p.report.alone);
    load_verify_close(p.verify);
    load_plan_free(&p.plan);
    rpc_fini();
    return status;
}

/* ---- usage ------------------------------------------------------------------------------------------------------------------ */

static int print(struct buffer *text)
{
    fputs(text->data ? text->data : "", stdout);
    buffer_fini(text);
    return EXIT_PLANNED;
}

int main(int argc, char **argv)
{
    struct load_config config = {0};
    struct option_result result;
    struct error err = {0};
    struct buffer text;
    int status = EXIT_USAGE;
    buffer_init(&text, 1 << 20);
    log_init(LOG_WARN, LOG_FORMAT_TEXT);
    enum error_code code = option_parse(&load_options, argc, argv, &config, &result, &err);
    if (code == ERROR_NONE && result.help) {
        if (result.help == OPTION_HELP_MAN)
            option_man_title("bitnet-load", 1, "puts load on a language model's server and measures it", BITNET_VERSION, &text);
        option_help(&load_options, result.help, &text);
        status = print(&text);
    } else if (code == ERROR_NONE && result.version) {
        buffer_append_str(&text, "bitnet-load " BITNET_VERSION " (" BITNET_GIT_SHA ")\n");
        status = print(&text);
    } else if (code == ERROR_NONE && result.check_config) {
        option_dump(&load_options, &config, &text);
        status = print(&text);
    } else if (code != ERROR_NONE) {
        fail(&err, status);
    } else if (result.n_args > 1) {
        fprintf(stderr, "bitnet-load: expected one URL, found %s too\n", result.args[1]);
    } else if (config.duration_s == 0 && config.requests == 0 && !config.trace) {
        fputs("bitnet-load: expected --duration, --requests or a --trace\n", stderr);
    } else {
        status = load(&config, result.n_args ? result.args[0] : NULL);
    }
    option_free(&load_options, &config);
    return status;
}
