/* References that give logits. See crossval.h. */
#include "tools/command.h"
#include "tools/crossval.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- sequences --------------------------------------------------------------------------------------------------- */

bool crossval_sequences_add(struct crossval_sequences *q, const uint32_t *ids, size_t n, size_t first)
{
    uint32_t *all = realloc(q->ids, (q->n_tokens + n) * sizeof *all);
    q->ids = all ? all : q->ids;
    size_t *n_ids = realloc(q->n_ids, (q->n + 1) * sizeof *n_ids);
    q->n_ids = n_ids ? n_ids : q->n_ids;
    size_t *firsts = realloc(q->first, (q->n + 1) * sizeof *firsts);
    q->first = firsts ? firsts : q->first;
    if (!all || !n_ids || !firsts)
        return false;
    memcpy(all + q->n_tokens, ids, n * sizeof *ids);
    firsts[q->n] = first;
    n_ids[q->n++] = n;
    q->n_tokens += n;
    return true;
}

void crossval_sequences_free(struct crossval_sequences *q)
{
    free(q->ids);
    free(q->n_ids);
    free(q->first);
    *q = (struct crossval_sequences){0};
}

/* Fills ids with those of one line; returns how many, or SIZE_MAX with *err set. ids has room for one in two bytes of the line. */
static size_t read_line(const char *line, const char *path, size_t number, uint32_t n_vocab, uint32_t *ids, struct error *err)
{
    size_t n = 0;
    for (const char *p = line + strspn(line, " \t\r"); *p; p += strspn(p, " \t\r")) {
        char *end;
        unsigned long long id = strtoull(p, &end, 10);
        if (end == p || id >= n_vocab || *p == '-') {
            error_set(err, ERROR_VALIDATION_FAILED, "%s, line %zu: expected token ids below %u, found \"%.20s\"", path, number, n_vocab, p);
            return SIZE_MAX;
        }
        ids[n++] = (uint32_t)id;
        p = end;
    }
    return n;
}

bool crossval_sequences_read(struct crossval_sequences *q, const char *path, uint32_t n_vocab, struct error *err)
{
    struct buffer text;
    buffer_init(&text, (size_t)64 << 20);
    bool ok = command_read_file(path, &text, err);
    uint32_t *ids = ok ? malloc((text.n_bytes / 2 + 1) * sizeof *ids) : NULL;
    char *line = ok && ids ? text.data : NULL;
    for (size_t number = 1; ok && line; number++) {
        char *next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        size_t n = read_line(line, path, number, n_vocab, ids, err);
        ok = n != SIZE_MAX && (n == 0 || crossval_sequences_add(q, ids, n, 0));
        line = next;
    }
    if (ok && q->n == 0) {
        error_set(err, ERROR_VALIDATION_FAILED, "%s: expected lines of token ids, found none", path);
        ok = false;
    }
    free(ids);
    buffer_fini(&text);
    return ok;
}

/* ---- the portable kernels ---------------------------------------------------------------------------------------- */

enum { CHUNK = 32 }; /* rows whose logits are held at once */

struct portable {
    struct session *session;
    float *logits; /* [CHUNK][n_vocab] */
};

static bool compare_rows(const float *reference, const uint32_t *ids, size_t at, size_t m, size_t n, const float *ours, size_t n_vocab,
                         struct crossval_stats *stats, struct error *err)
{
    for (size_t i = 0; i < m; i++) {
        struct crossval_row row = {.logits = reference + i * n_vocab, .target = NAN};
        bool has_target = at + i + 1 < n;
        if (at + i >= stats->first && !crossval_add(stats, ours + (at + i) * n_vocab, n_vocab, &row, has_target, has_target ? ids[at + i + 1] : 0, err))
            return false;
    }
    return true;
}

static bool portable_compare(void *state, size_t index, const uint32_t *ids, size_t n, const float *ours, struct crossval_stats *stats,
                             struct error *err)
{
    struct portable *p = state;
    struct session_row rows[CHUNK];
    (void)index;
    session_reset(p->session, 0);
    for (size_t at = 0, m; at < n; at += m) {
        m = n - at < CHUNK ? n - at : CHUNK;
        for (size_t i = 0; i < m; i++)
            rows[i] = (struct session_row){0, ids[at + i], true};
        if (session_step(p->session, rows, m, false, p->logits, err) ||
            !compare_rows(p->logits, ids, at, m, n, ours, session_model(p->session)->vocab_size, stats, err))
            return false;
    }
    return true;
}

static void portable_close(void *state)
{
    struct portable *p = state;
    session_close(p->session);
    free(p->logits);
    free(p);
}

bool crossval_portable(const struct engine_options *options, const struct engine_model *served, size_t max_tokens,
                       struct crossval_reference *out, struct error *err)
{
    struct engine_options o = *options;
    struct portable *p = calloc(1, sizeof *p);
    o.device = "cpu";
    o.isa = "portable";
    o.format = strcmp(served->quantization, "i2s") == 0 ? TERNARY_TL2 : TERNARY_I2S;
    o.max_batch_tokens = CHUNK;
    o.kv_positions = max_tokens;
    bool ok = p && (p->logits = malloc(sizeof(float) * CHUNK * served->vocab_size));
    if (!ok)
        error_set(err, ERROR_MEMORY_EXHAUSTED, "no memory for the reference's logits");
    ok = ok && session_open(&o, &p->session, err) == ERROR_NONE;
    *out = (struct crossval_reference){.state = p, .compare = portable_compare, .close = portable_close};
    if (ok)
        snprintf(out->name, sizeof out->name, "%s on portable C", session_model(p->session)->quantization);
    else if (p)
        portable_close(p);
    return ok;
}

/* ---- stored logits ----------------------------------------------------------------------------------------------- */

struct vectors {
    char *prefix;    /* the path without .seqs.txt */
    FILE *all;       /* of PREFIX.logits.f32, or NULL: each sequence has a file */
    size_t *numbers; /* of the sequences that are compared */
    uint32_t n_vocab;
};

/* Opens a file that must hold n tokens' logits; NULL with *err set, or without when it is not there. */
static FILE *open_logits(const char *path, size_t n, uint32_t n_vocab, struct error *err)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f && errno == ENOENT)
        return NULL;
    if (!f || fstat(fileno(f), &st) != 0) {
        error_set(err, ERROR_NOT_FOUND, "cannot read %s: %s", path, strerror(errno));
    } else if ((size_t)st.st_size != n * n_vocab * sizeof(float)) {
        error_set(err, ERROR_VALIDATION_FAILED, "%s: expected %zu bytes, f32 of %zu tokens and a vocabulary of %u, found %lld", path,
                  n * n_vocab * sizeof(float), n, n_vocab, (long long)st.st_size);
        fclose(f);
        f = NULL;
    }
    return f;
}

static FILE *open_sequence(const struct vectors *v, size_t number, size_t n, struct error *err)
{
    char *path;
    if (asprintf(&path, "%s.seq%zu.logits.f32", v->prefix, number) < 0)
        return NULL;
    FILE *f = open_logits(path, n, v->n_vocab, err);
    free(path);
    return f;
}

/* Reads and compares n tokens from `f`. */
static bool compare_file(FILE *f, const uint32_t *ids, size_t n, const float *ours, uint32_t n_vocab, struct crossval_stats *stats,
                         struct error *err)
{
    float *row = malloc(n_vocab * sizeof *row);
    bool ok = row != NULL;
    for (size_t at = 0; ok && at < n; at++) {
        if (fread(row, sizeof *row, n_vocab, f) != n_vocab) {
            error_set(err, ERROR_VALIDATION_FAILED, "the stored logits end at token %zu of %zu", at, n);
            ok = false;
        }
        ok = ok && compare_rows(row, ids, at, 1, n, ours, n_vocab, stats, err);
    }
    free(row);
    return ok;
}

static bool vectors_compare(void *state, size_t index, const uint32_t *ids, size_t n, const float *ours, struct crossval_stats *stats,
                            struct error *err)
{
    struct vectors *v = state;
    FILE *f = v->all ? v->all : open_sequence(v, v->numbers[index], n, err);
    bool ok = f && compare_file(f, ids, n, ours, v->n_vocab, stats, err);
    if (f && f != v->all)
        fclose(f);
    return ok;
}

static void vectors_close(void *state)
{
    struct vectors *v = state;
    if (v->all)
        fclose(v->all);
    free(v->prefix);
    free(v->numbers);
    free(v);
}

/* Keeps the sequences that have a file of their own. */
static bool keep_stored(struct vectors *v, struct crossval_sequences *q, struct error *err)
{
    struct crossval_sequences kept = {0};
    bool ok = (v->numbers = calloc(q->n, sizeof *v->numbers)) != NULL;
    for (size_t i = 0, at = 0; ok && i < q->n; at += q->n_ids[i++]) {
        FILE *f = open_sequence(v, i, q->n_ids[i], err);
        ok = !err->message[0];
        if (!f)
            continue;
        fclose(f);
        v->numbers[kept.n] = i;
        ok = crossval_sequences_add(&kept, q->ids + at, q->n_ids[i], 0);
    }
    if (ok && kept.n == 0) {
        error_set(err, ERROR_NOT_FOUND, "expected %s.seq0.logits.f32, or of other sequences, or %s.logits.f32, found none", v->prefix,
                  v->prefix);
        ok = false;
    }
    crossval_sequences_free(ok ? q : &kept);
    if (ok)
        *q = kept;
    return ok;
}

bool crossval_vectors(const char *sequences_path, uint32_t n_vocab, struct crossval_sequences *sequences,
                      struct crossval_reference *out, struct error *err)
{
    static const char ending[] = ".seqs.txt";
    size_t n = strlen(sequences_path), n_ending = sizeof ending - 1;
    if (n <= n_ending || strcmp(sequences_path + n - n_ending, ending) != 0) {
        error_set(err, ERROR_VALIDATION_FAILED, "expected a file NAME%s of token ids, found %s", ending, sequences_path);
        return false;
    }
    struct vectors *v = calloc(1, sizeof *v);
    char *path = NULL;
    bool ok = v && (v->prefix = strndup(sequences_path, n - n_ending)) && asprintf(&path, "%s.logits.f32", v->prefix) > 0;
    if (ok)
        v->n_vocab = n_vocab;
    ok = ok && crossval_sequences_read(sequences, sequences_path, n_vocab, err);
    if (ok)
        v->all = open_logits(path, sequences->n_tokens, n_vocab, err);
    ok = ok && (v->all || (!err->message[0] && keep_stored(v, sequences, err)));
    *out = (struct crossval_reference){.state = v, .compare = vectors_compare, .close = vectors_close};
    snprintf(out->name, sizeof out->name, "stored logits %.200s", sequences_path);
    free(path);
    if (!ok && v)
        vectors_close(v);
    return ok;
}

/* ---- a command --------------------------------------------------------------------------------------------------- */

struct command {
    pid_t pid;
    int fd;          /* its output */
    size_t n_sequences;
    uint32_t n_vocab;
    float *row;      /* [n_vocab] */
    int64_t deadline_ns;
};

/* Reads up to n_bytes; fewer at the end of the output, or with *err set at the deadline. */
static size_t read_output(struct command *c, void *out, size_t n_bytes, struct error *err)
{
    size_t have = 0;
    while (have < n_bytes) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        int64_t left_ms = (c->deadline_ns - clock_now_ns()) / CLOCK_NS_PER_MS;
        int ready = left_ms > 0 ? poll(&p, 1, left_ms > 60000 ? 60000 : (int)left_ms) : 0;
        if (left_ms <= 0) {
            error_set(err, ERROR_DEADLINE_EXCEEDED, "the command did not end in time");
            break;
        }
        ssize_t n = ready > 0 ? read(c->fd, (char *)out + have, n_bytes - have) : -1;
        if (n == 0 || (n < 0 && ready > 0 && errno != EINTR))
            break;
        have += n > 0 ? (size_t)n : 0;
    }
    return have;
}

/* Behind the last logits: nothing more, and success. */
static bool command_ended(struct command *c, struct error *err)
{
    char more;
    int status = 0;
    if (read_output(c, &more, 1, err) != 0)
        error_set(err, ERROR_VALIDATION_FAILED, "the command wrote more logits than it was given tokens for");
    if (err->message[0])
        return false;
    waitpid(c->pid, &status, 0);
    c->pid = 0;
    if (status != 0)
        error_set(err, ERROR_INFERENCE_FAILED, "the command failed with status %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    return status == 0;
}

static bool command_compare(void *state, size_t index, const uint32_t *ids, size_t n, const float *ours, struct crossval_stats *stats,
                            struct error *err)
{
    struct command *c = state;
    for (size_t at = 0; at < n; at++) {
        size_t want = c->n_vocab * sizeof(float), have = read_output(c, c->row, want, err);
        if (have != want) {
            if (!err->message[0])
                error_set(err, ERROR_VALIDATION_FAILED, "the command: expected logits of %u tokens, raw f32, for each position; its output "
                          "ends in sequence %zu at position %zu of %zu", c->n_vocab, index, at, n);
            return false;
        }
        if (!compare_rows(c->row, ids, at, 1, n, ours, c->n_vocab, stats, err))
            return false;
    }
    return index + 1 < c->n_sequences || command_ended(c, err);
}

static void command_close(void *state)
{
    struct command *c = state;
    if (c->fd >= 0)
        close(c->fd);
    if (c->pid > 0) {
        kill(-c->pid, SIGKILL);
        waitpid(c->pid, NULL, 0);
    }
    free(c->row);
    free(c);
}

/* The child: a process group of its own, so that all of it can be ended. */
static void run_command(const char *command, const char *model_path, int input, int output)
{
    setpgid(0, 0);
    setenv("BITNET_MODEL", model_path, 1);
    if (dup2(input, STDIN_FILENO) >= 0 && dup2(output, STDOUT_FILENO) >= 0)
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* All sequences in an unnamed file, so that the command may read or ignore them without blocking us. */
static FILE *write_input(const struct crossval_sequences *q)
{
    FILE *f = tmpfile();
    for (size_t i = 0, at = 0; f && i < q->n; at += q->n_ids[i++])
        for (size_t k = 0; k < q->n_ids[i]; k++)
            fprintf(f, "%u%c", q->ids[at + k], k + 1 < q->n_ids[i] ? ' ' : '\n');
    if (f && (fflush(f) != 0 || lseek(fileno(f), 0, SEEK_SET) != 0)) {
        fclose(f);
        f = NULL;
    }
    return f;
}

bool crossval_command(const char *command, const char *model_path, uint32_t n_vocab, int timeout_ms,
                      const struct crossval_sequences *sequences, struct crossval_reference *out, struct error *err)
{
    int ends[2] = {-1, -1};
    struct command *c = calloc(1, sizeof *c);
    FILE *input = write_input(sequences);
    bool ok = c && input && (c->row = malloc(n_vocab * sizeof *c->row)) && pipe2(ends, O_CLOEXEC) == 0;
    pid_t pid = ok ? fork() : -1;
    if (pid == 0)
        run_command(command, model_path, fileno(input), ends[1]);
    if (input)
        fclose(input);
    if (ends[1] >= 0)
        close(ends[1]);
    if (c) {
        c->pid = pid > 0 ? pid : 0;
        c->fd = ends[0];
        c->n_sequences = sequences->n;
        c->n_vocab = n_vocab;
        c->deadline_ns = clock_now_ns() + (int64_t)timeout_ms * CLOCK_NS_PER_MS;
    }
    *out = (struct crossval_reference){.state = c, .compare = command_compare, .close = command_close};
    snprintf(out->name, sizeof out->name, "command %.200s", command);
    if (pid > 0) {
        setpgid(pid, pid); /* here too, as the child may not have got there when it must be ended */
        return true;
    }
    error_set(err, ERROR_INTERNAL, "cannot start the command: %s", strerror(errno));
    if (c)
        command_close(c);
    return false;
}
