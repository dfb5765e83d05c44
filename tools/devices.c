/* bitnet devices: what models can be served on here. Each device is opened, so that its self-test has spoken. Exit status 0 = all work. */
#include "tools/command.h"

#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>

#define MAX_GPUS 64

struct config { bool json; };

static const struct option_def defs[] = {
    {.name = "json", .type = OPTION_BOOL, .offset = offsetof(struct config, json), .help = "print one JSON object"}, {.name = NULL}};

static const struct option_table table = {
    "bitnet devices",
    "usage: bitnet devices [--json]\n\nLists GPUs and the CPU in the order in which `--device auto` tries them. Exit status: 0 = each passed its\nself-test, 1 = one did not.\n",
    defs};

/* A device as it was found, and what became of opening it. */
struct seen {
    struct backend_device device;
    int n_threads;
    struct error error; /* code 0: it works */
};

static void look(struct seen *s)
{
    const struct backend_options options = {.device = s->device.id};
    struct backend *be;
    if (backend_open(&options, &be, &s->error))
        return;
    const struct backend_info *info = backend_info(be);
    snprintf(s->device.name, sizeof s->device.name, "%s", info->name);
    snprintf(s->device.isa, sizeof s->device.isa, "%s", info->isa);
    s->device.memory_bytes = info->memory_bytes;
    s->n_threads = info->n_threads;
    backend_close(be);
}

static void put_text(const struct seen *s, struct buffer *out)
{
    const struct backend_device *d = &s->device;
    buffer_printf(out, "%-8s %-32s %-10s %8.1f GiB  %s\n", d->id, d->name, d->isa, (double)d->memory_bytes / (1 << 30),
                  s->error.code ? s->error.message : "works");
}

static void put_member(struct buffer *out, const char *name, const char *value)
{
    buffer_printf(out, ",\"%s\":\"", name);
    buffer_append_json(out, value, strlen(value));
    buffer_append_char(out, '"');
}

static void put_json(const struct seen *s, struct buffer *out)
{
    buffer_printf(out, "{\"works\":%s", s->error.code ? "false" : "true");
    put_member(out, "id", s->device.id);
    put_member(out, "name", s->device.name);
    put_member(out, "kernels", s->device.isa);
    buffer_printf(out, ",\"memory_bytes\":%zu", s->device.memory_bytes);
    if (s->n_threads)
        buffer_printf(out, ",\"threads\":%d", s->n_threads);
    if (s->error.code)
        put_member(out, "error", s->error.message);
    buffer_append_char(out, '}');
}

int command_devices(int argc, char **argv)
{
    static struct backend_device gpus[MAX_GPUS];
    struct config c = {0};
    struct option_result result = {0};
    struct error why = {0};
    struct buffer out;
    command_parse(&table, argc, argv, &c, &result);
    buffer_init(&out, 1 << 20);
    size_t n = backend_gpus(gpus, MAX_GPUS, &why);
    n = n < MAX_GPUS ? n : MAX_GPUS;
    int status = 0;
    if (c.json)
        buffer_append_str(&out, "{\"devices\":[");
    for (size_t i = 0; i <= n; i++) {
        struct seen s = {.device = i < n ? gpus[i] : (struct backend_device){.id = "cpu"}};
        look(&s);
        status |= s.error.code != ERROR_NONE;
        if (c.json && i)
            buffer_append_char(&out, ',');
        (c.json ? put_json : put_text)(&s, &out);
    }
    if (c.json) {
        buffer_append_char(&out, ']');
        if (!n)
            put_member(&out, "no_gpu", why.message);
        buffer_append_str(&out, "}\n");
    } else if (!n) {
        buffer_printf(&out, "no GPU: %s\n", why.message);
    }
    fputs(out.data ? out.data : "", stdout);
    buffer_fini(&out);
    option_free(&table, &c);
    return status;
}
