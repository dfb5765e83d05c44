/* A CPU backend under the name of a GPU, with a table of operations of its own. See fake.h. */
#include "kernels/fake.h"

#include "kernels/machine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FAKES 8
#define DEFAULT_STEP 16
#define LIST_BYTES 128
#define NAME "fake GPU"

enum fake_kind { FAKE_OK, FAKE_OOM, FAKE_FAIL, FAKE_BROKEN };

struct fake {
    struct backend_ops ops; /* first: the backend's table is cast back */
    const struct backend_ops *cpu;
    enum fake_kind kind;
    unsigned long step; /* that does not succeed; 0 = none */
    int ordinal;
    char device[16];
};

/* Of each device, as long as the process lives or the variable is the same: a lost one stays lost. */
static atomic_ulong n_steps[MAX_FAKES];
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static char list[LIST_BYTES]; /* that the steps are of; under list_lock */

const char *fake_gpus(void)
{
    return getenv("BITNET_GPU_FAKE");
}

/* Reads "kind" or "kind:N" of n characters. */
static bool read_kind(const char *word, size_t n, struct fake *f)
{
    static const struct {
        const char *word;
        enum fake_kind kind;
        unsigned long step;
        bool has_step;
    } kinds[] = {{"ok", FAKE_OK, 0, false}, {"oom", FAKE_OOM, 0, true}, {"fail", FAKE_FAIL, DEFAULT_STEP, true}, {"broken", FAKE_BROKEN, 0, false}};
    size_t length = strcspn(word, ":,");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strlen(kinds[i].word) != length || memcmp(kinds[i].word, word, length) != 0)
            continue;
        char *end = (char *)(uintptr_t)word + n;
        f->kind = kinds[i].kind;
        f->step = kinds[i].step;
        if (length < n && kinds[i].has_step)
            f->step = strtoul(word + length + 1, &end, 10);
        return end == word + n && (length == n || (kinds[i].has_step && f->step > 0));
    }
    return false;
}

static enum error_code bad_list(struct error *err)
{
    return error_set_param(err, ERROR_VALIDATION_FAILED, "BITNET_GPU_FAKE",
                           "BITNET_GPU_FAKE: expected none, or up to %d of ok, oom, oom:N, fail, fail:N and broken, separated by commas, found \"%.100s\"",
                           MAX_FAKES, fake_gpus());
}

/* Counts anew when the variable has changed. */
static void note_list(void)
{
    pthread_mutex_lock(&list_lock);
    if (strncmp(list, fake_gpus(), LIST_BYTES - 1) != 0)
        for (size_t i = 0; i < MAX_FAKES; i++)
            atomic_store(&n_steps[i], 0);
    snprintf(list, LIST_BYTES, "%s", fake_gpus());
    pthread_mutex_unlock(&list_lock);
}

static bool is_lost(const struct fake *f)
{
    return f->step && atomic_load(&n_steps[f->ordinal]) >= f->step;
}

/* Reads all of the list into fakes [MAX_FAKES]; how many there are in *n. */
static enum error_code read_list(struct fake *fakes, size_t *n, struct error *err)
{
    const char *at = fake_gpus();
    *n = 0;
    if (strcmp(at, "none") == 0)
        return ERROR_NONE;
    for (;; at++) {
        size_t length = strcspn(at, ",");
        struct fake *f = &fakes[*n];
        if (*n == MAX_FAKES || !read_kind(at, length, f))
            return bad_list(err);
        f->ordinal = (int)(*n)++;
        snprintf(f->device, sizeof f->device, "cuda:%d", f->ordinal);
        at += length;
        if (!*at)
            return ERROR_NONE;
    }
}

size_t fake_list(struct backend_device *out, size_t max, struct error *why)
{
    struct fake fakes[MAX_FAKES] = {0};
    size_t n;
    if (read_list(fakes, &n, why))
        return 0;
    if (n == 0)
        error_set(why, ERROR_DEVICE_UNAVAILABLE, "no GPU: BITNET_GPU_FAKE is none");
    for (size_t i = 0; i < n && i < max; i++) {
        out[i] = (struct backend_device){.memory_bytes = machine_memory_bytes()};
        snprintf(out[i].id, sizeof out[i].id, "%s", fakes[i].device);
        snprintf(out[i].name, sizeof out[i].name, NAME);
        snprintf(out[i].isa, sizeof out[i].isa, "fake");
    }
    return n;
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

static struct fake *fake_of(struct backend *be)
{
    return (struct fake *)(uintptr_t)be->ops;
}

static void fake_close(struct backend *be)
{
    struct fake *f = fake_of(be);
    f->cpu->close(be);
    free(f);
}

/* A GPU has one layout, and a small one no room. */
static enum error_code fake_ternary_open(struct backend *be, const struct ternary_packed *packed, enum ternary_format format, struct ternary **out,
                                         struct error *err)
{
    struct fake *f = fake_of(be);
    (void)format;
    if (f->kind == FAKE_OOM && !f->step)
        return error_set_param(err, ERROR_MEMORY_EXHAUSTED, "device", "no memory on %s (" NAME ") for %zu bytes of weights", f->device,
                               packed->row_bytes * packed->n_rows);
    return f->cpu->ternary_open(be, packed, TERNARY_I2S, out, err);
}

/* A step ends with it. */
static enum error_code fake_sync(struct backend *be, struct error *err)
{
    struct fake *f = fake_of(be);
    enum error_code code = f->cpu->sync(be, err);
    atomic_fetch_add(&n_steps[f->ordinal], 1);
    if (code || !is_lost(f))
        return code;
    return f->kind == FAKE_OOM ? error_set_param(err, ERROR_MEMORY_EXHAUSTED, "device", "%s (" NAME ") failed: out of memory", f->device)
                               : error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "%s (" NAME ") failed: the device is lost", f->device);
}

static enum error_code open_cpu(struct fake *f, const struct backend_options *options, struct backend **out, struct error *err)
{
    struct backend_options cpu = *options;
    cpu.device = "cpu";
    enum error_code code = cpu_open(&cpu, out, err);
    if (code)
        return code;
    f->cpu = (*out)->ops;
    f->ops = *f->cpu;
    f->ops.close = fake_close;
    f->ops.ternary_open = fake_ternary_open;
    f->ops.sync = fake_sync;
    (*out)->ops = &f->ops;
    (*out)->info.device = f->device;
    (*out)->info.name = NAME;
    (*out)->info.auto_format = TERNARY_I2S;
    (*out)->info.auto_reason = "the one layout of this device";
    return ERROR_NONE;
}

enum error_code fake_open(int ordinal, const struct backend_options *options, struct backend **out, struct error *err)
{
    struct fake fakes[MAX_FAKES] = {0};
    size_t n;
    enum error_code code = read_list(fakes, &n, err);
    if (code)
        return code;
    note_list();
    if ((size_t)ordinal >= n)
        return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "cuda:%d is not there: BITNET_GPU_FAKE has %zu devices", ordinal, n);
    if (fakes[ordinal].kind == FAKE_BROKEN)
        return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "cuda:%d (" NAME ") failed its self-test", ordinal);
    if (fakes[ordinal].kind == FAKE_FAIL && is_lost(&fakes[ordinal]))
        return error_set_param(err, ERROR_DEVICE_UNAVAILABLE, "device", "cuda:%d (" NAME ") cannot be opened: the device is lost", ordinal);
    struct fake *f = malloc(sizeof *f);
    if (!f)
        return error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory to open cuda:%d", ordinal);
    *f = fakes[ordinal];
    code = open_cpu(f, options, out, err);
    if (code)
        free(f);
    return code;
}
