/*
 * bitnet crossval: does the served path compute what a reference computes?
 *
 * Each model is run as the server runs it (best kernels, chosen layout, no rounding of the head's input) over sequences of tokens: windows of
 * a text behind BOS, greedy answers to these, or those of stored logits. The reference is asked for the same positions. See crossval.h for the parts.
 *
 * Exit status: 0 = all models agree, 1 = one is beyond a limit, 2 = one could not be compared.
 */
#include "tools/command.h"
#include "tools/crossval.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_MODELS = 64, DEFAULT_PROBE_BYTES = 1 << 20 };

struct config {
    struct model_flags flags;
    const char *gguf, *dir, *file, *vectors, *command;
    struct crossval_server_options server;
    struct crossval_limits limits;
    double tie;
    int64_t samples, context, answers, top, timeout_ms;
    bool dry_run, json;
};

#define AT(field) offsetof(struct config, field)
static const struct option_def defs[] = {
    MODEL_FLAGS,
    {.name = "gguf", .type = OPTION_STRING, .offset = AT(gguf), .help = "model files separated by ':', where none is named otherwise"},
    {.name = "dir", .type = OPTION_STRING, .offset = AT(dir), .help = "folder whose *.gguf files are compared, too"},
    {.name = "vectors", .type = OPTION_STRING, .offset = AT(vectors),
     .help = "reference: stored logits, NAME.seqs.txt with NAME.seqI.logits.f32 or NAME.logits.f32, or a folder where NAME is the model's"},
    {.name = "server", .type = OPTION_STRING, .offset = AT(server.url), .help = "reference: a server of the same model, http://HOST:PORT"},
    {.name = "api", .type = OPTION_CHOICE, .offset = AT(server.api), .default_value = "llama", .choices = "llama|llama-whole|openai",
     .help = "of the server: llama.cpp's and its kin, asked for each position, with their cache of prompts or without; or OpenAI's completions with echo and logprobs"},
    {.name = "server-model", .type = OPTION_STRING, .offset = AT(server.model), .default_value = "default",
     .help = "name of the model for a server of OpenAI's API"},
    {.name = "server-key", .type = OPTION_STRING, .offset = AT(server.key), .secret = true, .help = "Bearer token for the server"},
    {.name = "top", .type = OPTION_INT, .offset = AT(top), .default_value = "0", .max = 262144,
     .help = "tokens to ask a llama.cpp server for at each position; 0 = all of a vocabulary of up to 8192, of a larger one 256"},
    {.name = "command", .type = OPTION_STRING, .offset = AT(command),
     .help = "reference: a shell command, token ids on its standard input, a sequence a line, raw f32 logits on its output"},
    {.name = "timeout", .type = OPTION_INT, .offset = AT(timeout_ms), .default_value = "600000", .min = 1, .max = 86400000, .unit = "ms",
     .help = "for one request to the server, or for all of the command"},
    {.name = "file", .type = OPTION_STRING, .offset = AT(file), .help = "text to compare on; a built-in one by default"},
    {.name = "samples", .type = OPTION_INT, .offset = AT(samples), .default_value = "8", .min = 1, .max = 100000,
     .help = "windows of the text, evenly spaced; fewer where the text has fewer"},
    {.name = "context", .type = OPTION_INT, .offset = AT(context), .default_value = "128", .min = 2, .max = 8192, .unit = "tokens",
     .help = "length of a window, BOS included"},
    {.name = "answers", .type = OPTION_INT, .offset = AT(answers), .default_value = "0", .max = 8192, .unit = "tokens",
     .help = "compare along greedy answers to the windows, of so many tokens each, instead of along the windows"},
    {.name = "min-top1", .type = OPTION_FLOAT, .offset = AT(limits.min_top1), .default_value = "0.99", .max = 1,
     .help = "share of positions with the same best token; 0 = any, as in all limits"},
    {.name = "tie", .type = OPTION_FLOAT, .offset = AT(tie), .default_value = "0", .max = 10, .unit = "nats",
     .help = "best tokens that differ but are closer than this, with both, count for min-top1: which is first is rounding's choice"},
    {.name = "min-top5", .type = OPTION_FLOAT, .offset = AT(limits.min_top5), .default_value = "0", .max = 1,
     .help = "mean share of the reference's five best tokens that are among ours"},
    {.name = "min-cosine", .type = OPTION_FLOAT, .offset = AT(limits.min_cosine), .default_value = "0", .max = 1,
     .help = "lowest cosine of two positions' logits"},
    {.name = "max-ppl-difference", .type = OPTION_FLOAT, .offset = AT(limits.max_ppl_difference), .default_value = "0.005", .max = 1000,
     .help = "of perplexities, relative to the reference's"},
    {.name = "max-kl", .type = OPTION_FLOAT, .offset = AT(limits.max_kl), .default_value = "0", .max = 1000, .unit = "nats",
     .help = "mean KL divergence of ours from the reference's distribution"},
    {.name = "min-p", .type = OPTION_FLOAT, .offset = AT(limits.min_p), .default_value = "0", .max = 1,
     .help = "p-value of the paired test"},
    {.name = "dry-run", .type = OPTION_BOOL, .offset = AT(dry_run), .flag_only = true, .help = "say what would be compared, and whether it can be"},
    {.name = "json", .type = OPTION_BOOL, .offset = AT(json), .help = "print one JSON object"},
    {.name = NULL}};

static const struct option_table table = {
    "bitnet crossval", "usage: bitnet crossval MODEL... [--vectors PATH | --server URL | --command COMMAND]\n\n"
    "Without a reference the portable kernels with another layout are the reference. Exit status: 0 agrees, 1 beyond a limit, 2 not compared.\n",
    defs};

static const char builtin_text[] =
#include "tools/crossval_text.h"
    ;

/* ---- what is compared -------------------------------------------------------------------------------------------- */

struct models { char *paths[MAX_MODELS]; size_t n; };

static bool add_model(struct models *m, char *path, struct error *err)
{
    if (m->n == MAX_MODELS || !path) {
        error_set(err, ERROR_VALIDATION_FAILED, "expected up to %d models, found more", MAX_MODELS);
        free(path);
        return false;
    }
    m->paths[m->n++] = path;
    return true;
}

static int is_gguf(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return n > 5 && strcmp(d->d_name + n - 5, ".gguf") == 0;
}

static bool add_folder(struct models *m, const char *dir, struct error *err)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, is_gguf, alphasort);
    bool ok = n > 0;
    if (!ok)
        error_set(err, ERROR_NOT_FOUND, "expected *.gguf files in %s: %s", dir, n < 0 ? strerror(errno) : "found none");
    for (int i = 0; i < n; i++) {
        char *path = NULL;
        if (ok && asprintf(&path, "%s/%s", dir, list[i]->d_name) < 0)
            path = NULL;
        ok = ok && add_model(m, path, err);
        free(list[i]);
    }
    free(list);
    return ok;
}

static bool find_models(const struct config *c, const struct option_result *args, struct models *m, struct error *err)
{
    bool ok = true;
    for (int i = 0; ok && i < args->n_args; i++)
        ok = add_model(m, strdup(args->args[i]), err);
    if (ok && c->flags.model)
        ok = add_model(m, strdup(c->flags.model), err);
    if (ok && c->dir)
        ok = add_folder(m, c->dir, err);
    if (ok && m->n == 0)
        for (const char *p = c->gguf ? c->gguf : ""; ok && *p; p += strspn(p, ":")) {
            size_t n = strcspn(p, ":");
            ok = add_model(m, strndup(p, n), err);
            p += n;
        }
    if (ok && m->n == 0) {
        error_set(err, ERROR_VALIDATION_FAILED, "expected models: arguments, --dir DIR or BITNET_GGUF, found none");
        ok = false;
    }
    return ok;
}

/* PATH as it is, or in a folder NAME.seqs.txt for the model NAME.gguf. Freed by the caller. */
static char *vectors_path(const char *path, const char *model)
{
    struct stat st;
    const char *name = strrchr(model, '/');
    name = name ? name + 1 : model;
    size_t n = strlen(name);
    char *out = NULL;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return strdup(path);
    n -= n > 5 && strcmp(name + n - 5, ".gguf") == 0 ? 5 : 0;
    return asprintf(&out, "%s/%.*s.seqs.txt", path, (int)n, name) < 0 ? NULL : out;
}

/* Windows of the text, evenly spaced, each behind BOS where the model has one. */
static bool cut_text(const struct config *c, const struct tokenizer *t, const struct buffer *text, struct crossval_sequences *out,
                     struct error *err)
{
    struct token_list ids = {0};
    if (tokenizer_encode(t, text->data ? text->data : "", text->n_bytes, false, false, &ids, err))
        return false;
    int64_t bos = tokenizer_bos(t);
    size_t room = (size_t)c->context - (bos >= 0), n_windows = (ids.n + room - 1) / room;
    size_t samples = n_windows < (size_t)c->samples ? n_windows : (size_t)c->samples;
    uint32_t *window = malloc((size_t)c->context * sizeof *window);
    bool ok = window && ids.n >= 2;
    if (!ok)
        error_set(err, ERROR_VALIDATION_FAILED, "the text has %zu tokens, at least 2 are needed", ids.n);
    for (size_t k = 0; ok && k < samples; k++) {
        size_t at = k * n_windows / samples * room, n = ids.n - at < room ? ids.n - at : room, front = bos >= 0;
        if (front)
            window[0] = (uint32_t)bos;
        memcpy(window + front, ids.ids + at, n * sizeof *window);
        ok = crossval_sequences_add(out, window, n + front, 0);
        if (!ok)
            error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the tokens");
    }
    free(window);
    free(ids.ids);
    return ok;
}

static bool read_text(const struct config *c, struct buffer *text, struct error *err)
{
    return c->file ? command_read_file(c->file, text, err) : buffer_append_str(text, builtin_text);
}

/* ---- one model --------------------------------------------------------------------------------------------------- */

static bool prepare(const struct config *c, const char *path, const struct engine_options *options, struct session *s,
                    struct crossval_sequences *q, struct crossval_reference *reference, struct error *err)
{
    const struct engine_model *model = session_model(s);
    struct buffer text;
    buffer_init(&text, (size_t)64 << 20);
    bool ok;
    if (c->vectors) {
        char *sequences = vectors_path(c->vectors, path);
        ok = sequences && crossval_vectors(sequences, model->vocab_size, q, reference, err);
        free(sequences);
    } else {
        ok = read_text(c, &text, err) && cut_text(c, session_tokenizer(s), &text, q, err);
        if (ok && c->answers)
            ok = crossval_answer(s, q, (size_t)c->answers, err);
        if (ok && c->server.url)
            ok = crossval_server(&c->server, session_tokenizer(s), model->vocab_size, reference, err);
        else if (ok && c->command)
            ok = crossval_command(c->command, path, model->vocab_size, (int)c->timeout_ms, q, reference, err);
        else if (ok)
            ok = crossval_portable(options, model, (size_t)(c->context + c->answers), reference, err);
    }
    buffer_fini(&text);
    return ok;
}

/* Our logits of a whole sequence, as served. */
static bool evaluate(struct session *s, const uint32_t *ids, size_t n, size_t chunk, struct session_row *rows, float *logits,
                     struct error *err)
{
    session_reset(s, 0);
    for (size_t at = 0, m; at < n; at += m) {
        m = n - at < chunk ? n - at : chunk;
        for (size_t i = 0; i < m; i++)
            rows[i] = (struct session_row){0, ids[at + i], true};
        if (session_step(s, rows, m, false, logits + at * session_model(s)->vocab_size, err))
            return false;
    }
    return true;
}

static bool compare_all(struct session *s, const struct crossval_sequences *q, size_t chunk, struct crossval_reference *reference,
                        struct crossval_stats *stats, struct error *err)
{
    size_t longest = 0;
    for (size_t i = 0; i < q->n; i++)
        longest = q->n_ids[i] > longest ? q->n_ids[i] : longest;
    if (longest > session_model(s)->context_length) {
        error_set(err, ERROR_VALIDATION_FAILED, "a sequence has %zu tokens, but the model's context is %u", longest,
                  session_model(s)->context_length);
        return false;
    }
    struct session_row *rows = malloc(chunk * sizeof *rows);
    float *logits = malloc(longest * session_model(s)->vocab_size * sizeof *logits);
    struct progress progress = {0};
    bool ok = rows && logits;
    if (!ok)
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the logits of %zu tokens", longest);
    for (size_t i = 0, at = 0; ok && i < q->n; at += q->n_ids[i++]) {
        stats->first = q->first[i];
        ok = evaluate(s, q->ids + at, q->n_ids[i], chunk, rows, logits, err) &&
             reference->compare(reference->state, i, q->ids + at, q->n_ids[i], logits, stats, err);
        progress_show(&progress, "crossval", (double)i + 1, (double)q->n, "sequences");
    }
    progress_end(&progress);
    free(logits);
    free(rows);
    return ok;
}

/* Returns the exit status of one model and appends its report. */
static int run_model(const struct config *c, const char *path, struct buffer *out, struct error *err)
{
    struct engine_options options;
    struct model_flags flags = c->flags;
    struct session *s = NULL;
    struct crossval_sequences q = {0};
    struct crossval_reference reference = {0};
    struct crossval_stats stats = {.tie = c->tie};
    struct crossval_result result;
    struct buffer why;
    flags.model = path;
    command_engine_options(&flags, &options);
    options.max_sequences = 1;
    options.max_batch_tokens = 128;
    buffer_init(&why, 4096);
    bool ok = session_open(&options, &s, err) == ERROR_NONE;
    bool prepared = ok && prepare(c, path, &options, s, &q, &reference, err);
    ok = prepared && compare_all(s, &q, options.max_batch_tokens, &reference, &stats, err);
    int status = 2;
    if (ok) {
        char served[128];
        const struct engine_model *m = session_model(s);
        snprintf(served, sizeof served, "%s on %s, %u threads", m->quantization, m->isa, m->n_threads);
        crossval_finish(&stats, &result);
        status = crossval_judge(&result, &c->limits, &why) ? 0 : 1;
        struct crossval_report report = {path, reference.name, served, &stats, &result, why.data ? why.data : "", q.n};
        (c->json ? crossval_report_json : crossval_report_text)(&report, out);
    }
    if (prepared)
        reference.close(reference.state);
    crossval_sequences_free(&q);
    session_close(s);
    buffer_fini(&why);
    return status;
}

/* Without loading a model: is it one, and what would it be compared with, on what? */
static int dry_run(const struct config *c, const char *path, struct buffer *out, struct error *err)
{
    struct buffer report, text;
    buffer_init(&report, DEFAULT_PROBE_BYTES);
    buffer_init(&text, (size_t)64 << 20);
    bool ok = model_compat_check(path, false, false, false, &report, err) == ERROR_NONE;
    char *sequences = c->vectors ? vectors_path(c->vectors, path) : NULL;
    if (ok && c->vectors) {
        struct crossval_sequences q = {0};
        ok = sequences && crossval_sequences_read(&q, sequences, UINT32_MAX, err);
        crossval_sequences_free(&q);
    } else if (ok) {
        ok = read_text(c, &text, err);
    }
    if (ok && !c->json) {
        const char *kind = c->vectors ? "stored logits " : c->server.url ? "server " : c->command ? "command " : "";
        const char *what = c->vectors ? sequences : c->server.url ? c->server.url : c->command ? c->command
                                                                                              : "portable C with another layout";
        buffer_printf(out, "%s: would be compared with %s%s", path, kind, what);
        if (!c->vectors)
            buffer_printf(out, " on up to %lld windows of %lld tokens of %s (%zu bytes)", (long long)c->samples, (long long)c->context,
                          c->file ? c->file : "the built-in text", text.n_bytes);
        buffer_append_char(out, '\n');
    }
    free(sequences);
    buffer_fini(&text);
    buffer_fini(&report);
    return ok ? 0 : 2;
}

/* Appends what one model gave; in JSON an error is an object of its own. */
static int run_one(const struct config *c, const char *path, bool first, struct buffer *out)
{
    struct error err = {0};
    if (c->json && !first)
        buffer_append_char(out, ',');
    int status = c->dry_run ? dry_run(c, path, out, &err) : run_model(c, path, out, &err);
    if (c->json && (status == 2 || c->dry_run)) {
        buffer_append_str(out, "{\"model\":\"");
        buffer_append_json(out, path, strlen(path));
        if (status == 2) {
            buffer_append_str(out, "\",\"error\":\"");
            buffer_append_json(out, err.message, strlen(err.message));
        }
        buffer_append_str(out, "\"}");
    }
    if (status == 2)
        fprintf(stderr, "bitnet: %s: %s\n", path, err.message[0] ? err.message : "no memory");
    return status;
}

int command_crossval(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", "f", "--file", "c", "--context", "t", "--threads", NULL};
    struct config c = {0};
    struct option_result result = {0};
    struct models models = {0};
    struct error err = {0};
    struct buffer out;
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &c, &result);
    c.server.n_top = (size_t)c.top;
    c.server.timeout_ms = (int)c.timeout_ms;
    buffer_init(&out, SIZE_MAX / 2);
    bool ok = find_models(&c, &result, &models, &err);
    if (ok && (c.vectors != NULL) + (c.server.url != NULL) + (c.command != NULL) > 1) {
        error_set(&err, ERROR_VALIDATION_FAILED, "expected one reference, found several of --vectors, --server and --command");
        ok = false;
    }
    if (ok && c.vectors && c.answers) {
        error_set(&err, ERROR_VALIDATION_FAILED, "expected --answers without --vectors, whose sequences are given");
        ok = false;
    }
    int status = ok ? 0 : 2;
    if (ok && c.json)
        buffer_append_str(&out, c.dry_run ? "{\"dry_run\":true,\"models\":[" : "{\"models\":[");
    for (size_t i = 0; ok && i < models.n; i++) {
        int one = run_one(&c, models.paths[i], i == 0, &out);
        status = one > status ? one : status;
    }
    if (ok && c.json)
        buffer_printf(&out, "],\"status\":%d}\n", status);
    if (!ok)
        command_fail(&err);
    fputs(out.data ? out.data : "", stdout);
    for (size_t i = 0; i < models.n; i++)
        free(models.paths[i]);
    buffer_fini(&out);
    option_free(&table, &c);
    return status;
}
