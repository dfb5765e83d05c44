#include "tools/command.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void command_expand_short(int argc, char **argv, const char *const *map)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (argv[i][0] != '-' || argv[i][1] == '\0' || argv[i][2] != '\0')
            continue;
        for (size_t k = 0; map[k]; k += 2)
            if (argv[i][1] == map[k][0])
                argv[i] = (char *)(uintptr_t)map[k + 1];
    }
}

void command_parse(const struct option_table *table, int argc, char **argv, void *config, struct option_result *result)
{
    struct error err = {0};
    if (option_parse(table, argc, argv, config, result, &err)) {
        fprintf(stderr, "%s: %s\nTry: %s --help\n", table->program, err.message, table->program);
        exit(2);
    }
    if (!result->help)
        return;
    struct buffer text;
    buffer_init(&text, 1 << 20);
    option_help(table, result->help, &text);
    fputs(text.data ? text.data : "", stdout);
    buffer_fini(&text);
    exit(0);
}

static enum ternary_format format_from_name(const char *name)
{
    if (!name || strcmp(name, "auto") == 0)
        return TERNARY_AUTO;
    return strcmp(name, "tl1") == 0 ? TERNARY_TL1 : strcmp(name, "tl2") == 0 ? TERNARY_TL2 : TERNARY_I2S;
}

void command_engine_options(const struct model_flags *flags, struct engine_options *out)
{
    if (!flags->model) {
        fputs("bitnet: --model FILE is required\n", stderr);
        exit(2);
    }
    memset(out, 0, sizeof *out);
    out->model_path = flags->model;
    out->device = flags->device;
    out->isa = flags->isa;
    out->n_threads = (int)flags->threads;
    out->pin = flags->pin;
    out->numa = flags->numa;
    out->format = format_from_name(flags->quantization);
    out->kv_type = flags->kv_type && strcmp(flags->kv_type, "int8") == 0 ? KV_INT8 : KV_F16;
    out->i2s_order = -1;
    if (flags->i2s_order && strcmp(flags->i2s_order, "auto") != 0)
        out->i2s_order = strcmp(flags->i2s_order, "64") == 0 ? I2S_ORDER_64 : I2S_ORDER_128;
}

int command_fail(const struct error *err)
{
    fprintf(stderr, "bitnet: %s\n", err->message[0] ? err->message : error_info(err->code)->name);
    return 1;
}

bool command_read_file(const char *path, struct buffer *out, struct error *err)
{
    bool is_stdin = !path || strcmp(path, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(path, "rb");
    if (!f) {
        error_set(err, ERROR_NOT_FOUND, "cannot open %s: %s", path, strerror(errno));
        return false;
    }
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        buffer_append(out, chunk, n);
    bool bad = ferror(f) != 0 || out->failed;
    if (bad)
        error_set(err, ERROR_INTERNAL, "cannot read %s: %s", is_stdin ? "standard input" : path,
                  out->failed ? "it is larger than this command takes" : strerror(errno));
    if (!is_stdin)
        fclose(f);
    return !bad;
}

void progress_show(struct progress *p, const char *what, double done, double total, const char *unit)
{
    int64_t now = clock_now_ns();
    if (!p->start_ns)
        p->start_ns = now;
    if (!isatty(STDERR_FILENO) || (p->last_ns && now - p->last_ns < CLOCK_NS_PER_S / 10 && done < total))
        return;
    p->last_ns = now;
    p->shown = true;
    double seconds = (double)(now - p->start_ns) / 1e9, rate = seconds > 0 ? done / seconds : 0;
    if (total <= 0) {
        fprintf(stderr, "\r\033[K%s %.0f %s, %.1f/s", what, done, unit, rate);
        return;
    }
    char bar[31];
    int filled = (int)(30 * done / total);
    for (int i = 0; i < 30; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[30] = '\0';
    fprintf(stderr, "\r\033[K%s [%s] %3.0f %% %.0f/%.0f %s, %.0f s left", what, bar, 100 * done / total, done, total, unit,
            rate > 0 ? (total - done) / rate : 0.0);
}

void progress_end(struct progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}
