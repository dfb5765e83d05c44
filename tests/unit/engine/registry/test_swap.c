/* Swaps: which model a request gets at each moment, what lets one through, what brings the old one back, and what a restart serves after each. */
#include "tests/suite.h"
#include "tests/unit/engine/registry/variants.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define QUICK {.no_cross_validation = true, .timeout_ns = 3600 * CLOCK_NS_PER_S} /* a slow machine is no failure */
#define WATCH_NS (100 * CLOCK_NS_PER_MS)

static bool serves(struct registry *r, const char *path)
{
    struct served *s = acquire(r, "");
    bool same = strcmp(engine_model(served_engine(s))->path, path) == 0;
    served_release(s);
    return same;
}

static enum error_code swap(struct registry *r, struct swap_request q, struct swap_result *out, struct error *err)
{
    q.id = "tales";
    q.watch_ns = WATCH_NS;
    *err = (struct error){0};
    enum error_code code = registry_swap(r, &q, out, err);
    served_release(out->previous.served);
    served_release(out->next.served);
    return code;
}

static bool check_passed(const struct swap_result *s, const char *name)
{
    for (size_t i = 0; i < s->n_checks; i++)
        if (strcmp(s->checks[i].name, name) == 0)
            return s->checks[i].passed;
    ck_abort_msg("no check %s", name);
}

static void expect_memory(struct registry *r, uint64_t expected)
{
    uint64_t used = 0, budget;
    for (int i = 0; i < 2000 && used != expected; i++, usleep(5000))
        registry_memory(r, &used, &budget);
    ck_assert_uint_eq(used, expected);
}

static uint64_t memory_of(struct registry *r)
{
    uint64_t used, budget;
    registry_memory(r, &used, &budget);
    return used;
}

/* ---- requests through swaps ---- */

struct client {
    struct registry *r;
    const char *paths[2];
    uint64_t expected[2][3]; /* hash by model and seed */
    atomic_bool stop;
    atomic_uint n_done, n_of[2];
};

static void *ask_on(void *arg)
{
    struct client *c = arg;
    for (uint32_t seed = 0; !atomic_load(&c->stop); seed = (seed + 1) % 3) {
        struct served *s = acquire(c->r, "tales");
        int which = strcmp(engine_model(served_engine(s))->path, c->paths[1]) == 0; /* else the first, or its copy */
        ck_assert(generate(s, seed, 12) == c->expected[which][seed]);
        served_release(s);
        atomic_fetch_add(&c->n_done, 1);
        atomic_fetch_add(&c->n_of[which], 1);
    }
    return NULL;
}

/* Two models swapped to and fro by each strategy while eight threads ask: each answer is whole, and that of one of them. */
START_TEST(under_load)
{
    struct registry_options o = options();
    struct client c = {.paths = {TALES, variant("b.gguf", surer)}};
    pthread_t threads[8];
    struct swap_result s;
    struct error err;
    o.engine.max_sequences = 8;
    for (int which = 0; which < 2; which++) {
        o.engine.model_path = c.paths[which];
        o.engine.model_id = "tales";
        struct registry *r = open_registry(&o);
        struct served *alone = acquire(r, "");
        for (uint32_t seed = 0; seed < 3; seed++)
            c.expected[which][seed] = generate(alone, seed, 12);
        served_release(alone);
        registry_close(r);
    }
    ck_assert(c.expected[0][0] != c.expected[1][0] || c.expected[0][1] != c.expected[1][1] || c.expected[0][2] != c.expected[1][2]);
    o.engine.model_path = TALES;
    copy_file(TALES, at("a.gguf"));
    struct registry *r = c.r = open_registry(&o);
    uint64_t used = memory_of(r);
    for (int i = 0; i < 8; i++)
        ck_assert(!pthread_create(&threads[i], NULL, ask_on, &c));
    for (int i = 0; i < 3; i++) {
        const enum swap_strategy strategy = (enum swap_strategy)i;
        ck_assert_msg(!swap(r, (struct swap_request){.path = c.paths[1], .strategy = strategy, .validation = QUICK}, &s, &err), "%s", err.message);
        ck_assert_int_eq(s.status, SWAP_COMPLETED);
        ck_assert(s.switch_ms < 1000 && s.validation_ms > 0 && s.health_check_ms > 0 && s.rollback_ms == 0 && s.total_ms >= s.validation_ms);
        ck_assert(check_passed(&s, "prompts") && check_passed(&s, "speed"));
        ck_assert(check_passed(&s, strategy == SWAP_ROLLING ? "error_rate_10" : "error_rate"));
        ck_assert(s.next.tokens_per_second > 0 && s.previous.tokens_per_second > 0 && strlen(s.id) == 36);
        ck_assert(serves(r, c.paths[1]));
        ck_assert_msg(!swap(r, (struct swap_request){.path = at("a.gguf"), .strategy = strategy, .validation = QUICK}, &s, &err), "%s", err.message);
        ck_assert(serves(r, at("a.gguf")));
    }
    atomic_store(&c.stop, true);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_gt(c.n_of[0], 0);
    ck_assert_uint_gt(c.n_of[1], 0);
    expect_memory(r, used);
    registry_close(r);
}
END_TEST

/* One request that began before the switch ends on the old model. */
START_TEST(began_before)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct served *s = acquire(r, "");
    uint64_t used = memory_of(r), hash = generate(s, 1, 30);
    struct swap_result w;
    struct error err;
    const char *path = variant("b.gguf", surer);
    ck_assert(!swap(r, (struct swap_request){.path = path, .validation = QUICK}, &w, &err));
    ck_assert(serves(r, path));
    ck_assert_str_eq(engine_model(served_engine(s))->path, TALES);
    ck_assert(generate(s, 1, 30) == hash);
    ck_assert_uint_gt(memory_of(r), used);
    served_release(s);
    expect_memory(r, used);
    registry_close(r);
}
END_TEST

struct shares {
    struct registry *r;
    const char *next;
    unsigned seen[4], n;
    char last[16];
};

/* At the first look of each watch: 1000 requests one after the other. */
static void count_shares(void *user, const struct model_progress *p)
{
    struct shares *c = user;
    unsigned n_next = 0;
    if (strcmp(p->phase, "watching") != 0 || strncmp(c->last, p->message, 4) == 0)
        return;
    snprintf(c->last, sizeof c->last, "%.4s", p->message);
    for (int i = 0; i < 1000; i++) {
        n_next += serves(c->r, c->next);
        if (i % 100 == 99 && i < 500) /* evenly: in each hundred */
            ck_assert_uint_eq(n_next % 5, 0);
    }
    ck_assert_uint_lt(c->n, 4);
    c->seen[c->n++] = n_next;
}

START_TEST(exact_shares)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct shares c = {.r = r, .next = variant("b.gguf", surer)};
    struct swap_result s;
    struct error err;
    ck_assert(!swap(r, (struct swap_request){.path = c.next, .strategy = SWAP_ROLLING, .validation = QUICK, .on_progress = count_shares, .user = &c}, &s, &err));
    ck_assert_uint_eq(c.n, 4);
    ck_assert(c.seen[0] == 100 && c.seen[1] == 250 && c.seen[2] == 500 && c.seen[3] == 1000);
    registry_close(r);
}
END_TEST

/* ---- what is not let through ---- */

START_TEST(refused_before)
{
    static void (*const changes[])(struct rw_file *) = {wrong, scale_nan, down_exchanged, tensor_missing};
    static const char *const types[] = {"text", "weights", "weights", "structure"};
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    uint64_t used = memory_of(r);
    struct swap_result s;
    struct error err;
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(swap(r, (struct swap_request){.path = variant("b.gguf", changes[i]), .validation = QUICK}, &s, &err), ERROR_MODEL_LOAD_FAILED);
        ck_assert_int_eq(s.status, SWAP_FAILED);
        ck_assert_str_eq(s.validation.failures[0].type, types[i]);
        ck_assert(s.n_checks == 0 && s.switch_ms == 0 && s.rollback_reason[0] == '\0');
        ck_assert(serves(r, TALES));
    }
    ck_assert_int_eq(swap(r, (struct swap_request){.path = "/etc/passwd.gguf"}, &s, &err), ERROR_AUTHORIZATION_FAILED);
    ck_assert_int_eq(registry_swap(r, &(struct swap_request){.path = at("b.gguf"), .id = "none"}, &s, &err), ERROR_MODEL_NOT_FOUND);
    ck_assert_int_eq(registry_swap(r, &(struct swap_request){.path = at("b.gguf"), .id = ""}, &s, &err), ERROR_MODEL_NOT_FOUND);
    ck_assert_int_eq(swap(r, (struct swap_request){.path = at("b.gguf"), .n_prompts = 6}, &s, &err), ERROR_VALIDATION_FAILED);
    ck_assert_int_eq(swap(r, (struct swap_request){.path = at("b.gguf"), .n_prompts = 1, .prompts = {""}}, &s, &err), ERROR_VALIDATION_FAILED);
    expect_memory(r, used);
    expect_listed(r, "*tales:active");
    registry_close(r);
}
END_TEST

static const char long_prompt[] =
    "Once upon a time there was a little fox who lived with his mother at the edge of a green wood. Every morning he ran down to the river to look "
    "for fish, and every evening he came home tired and hungry. You must not go beyond the old bridge, said his mother, for the farmer keeps a dog.";

/* A model that is sound, but whose context does not hold a prompt that it will be asked. */
START_TEST(rolled_back)
{
    struct registry_options o = options();
    o.state_file = at("state");
    struct registry *r = open_registry(&o);
    uint64_t used = memory_of(r);
    struct swap_result s;
    struct error err;
    const char *path = variant("b.gguf", short_context);
    for (int i = 0; i < 3; i++) {
        struct swap_request q = {.path = path, .strategy = (enum swap_strategy)i, .validation = QUICK, .prompts = {"Once", long_prompt}, .n_prompts = 2};
        ck_assert_int_eq(swap(r, q, &s, &err), ERROR_INFERENCE_FAILED);
        ck_assert_int_eq(s.status, SWAP_ROLLED_BACK);
        ck_assert(!check_passed(&s, "prompts"));
        ck_assert_msg(strstr(s.rollback_reason, "prompt 2 of 2 was not answered: expected at most 63 tokens"), "%s", s.rollback_reason);
        ck_assert(strstr(err.message, "rolled back") && s.rollback_ms > 0 && s.rollback_ms < 1000);
        ck_assert(serves(r, TALES));
        expect_memory(r, used);
    }
    struct swap_request q = {.path = path, .no_rollback = true, .validation = QUICK, .prompts = {long_prompt}, .n_prompts = 1};
    ck_assert_int_eq(swap(r, q, &s, &err), ERROR_INFERENCE_FAILED);
    ck_assert_int_eq(s.status, SWAP_FAILED);
    ck_assert(serves(r, path) && s.rollback_reason[0] == '\0');
    registry_close(r);
    r = open_registry(&o);
    ck_assert(serves(r, path));
    registry_close(r);
}
END_TEST

/* The portable reference is asked again about the prompts' answers. */
START_TEST(accuracy)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct swap_result s;
    struct error err;
    ck_assert(!swap(r, (struct swap_request){.path = variant("b.gguf", surer), .validation = {.n_samples = 10}}, &s, &err));
    ck_assert(check_passed(&s, "accuracy") && s.next.accuracy == 1 && s.previous.accuracy < 0);
    ck_assert_msg(strstr(s.checks[1].details, "16 of 16 tokens"), "%s", s.checks[1].details);
    ck_assert(!swap(r, (struct swap_request){.path = tales("c.gguf"), .validation = QUICK}, &s, &err));
    ck_assert(s.previous.accuracy == 1 && s.next.accuracy < 0);
    registry_close(r);
}
END_TEST

static bool fails(void *user)
{
    return atomic_load((atomic_bool *)user);
}

struct saboteur {
    struct registry *r;
    atomic_bool *broken;
    bool done;
};

/* The new model's device fails as soon as it serves. */
static void sabotage(void *user, const struct model_progress *p)
{
    struct saboteur *c = user;
    uint32_t ids[8];
    if (strcmp(p->phase, "watching") != 0 || c->done)
        return;
    c->done = true;
    atomic_store(c->broken, true);
    struct request q = harness_request(1, ids, 8, 4);
    struct served *s = acquire(c->r, "");
    struct harness_answer *a = harness_finish(harness_submit(served_engine(s), &q));
    ck_assert_int_eq(a->finish, FINISH_ERROR);
    free(a);
    served_release(s);
    atomic_store(c->broken, false);
}

START_TEST(failing_requests)
{
    atomic_bool broken = false;
    const struct null_options null = {.step_ns = 10000, .fails = fails, .user = &broken};
    struct registry_options o = options();
    o.engine.null_model = &null;
    struct registry *r = open_registry(&o);
    struct saboteur c = {r, &broken, false};
    struct swap_request q = {.path = tales("b.gguf"), .id = "null-model", .strategy = SWAP_BLUE_GREEN, .watch_ns = WATCH_NS, .on_progress = sabotage, .user = &c};
    struct swap_result s;
    struct error err = {0};
    ck_assert_int_eq(registry_swap(r, &q, &s, &err), ERROR_INFERENCE_FAILED);
    ck_assert_int_eq(s.status, SWAP_ROLLED_BACK);
    ck_assert_msg(strstr(s.rollback_reason, "error_rate: 1 of 2 requests failed"), "%s", s.rollback_reason);
    served_release(s.previous.served);
    served_release(s.next.served);
    q.on_progress = NULL;
    ck_assert_msg(!registry_swap(r, &q, &s, &err), "%s", err.message);
    served_release(s.previous.served);
    served_release(s.next.served);
    registry_close(r);
}
END_TEST

/* ---- one at a time, and the end ---- */

struct other {
    struct registry *r;
    enum error_code swap, unload;
    bool draining;
};

static void disturb(void *user, const struct model_progress *p)
{
    struct other *c = user;
    struct swap_result s;
    struct error err = {0};
    uint64_t freed;
    if (strcmp(p->phase, "watching") != 0 || c->swap)
        return;
    c->swap = registry_swap(c->r, &(struct swap_request){.path = at("b.gguf"), .id = "b"}, &s, &err);
    c->unload = registry_unload(c->r, "b", &freed, &err);
    ck_assert(!registry_set_default(c->r, "b", &err) && !registry_set_default(c->r, "tales", &err));
    if (c->draining)
        registry_drain(c->r, clock_now_ns());
}

START_TEST(one_at_a_time)
{
    struct registry_options o = options();
    struct registry *r = open_registry(&o);
    struct other c = {.r = r};
    struct swap_result s;
    struct error err = {0};
    must_load(r, tales("b.gguf"), "b");
    struct swap_request q = {.path = variant("c.gguf", surer), .id = "b", .strategy = SWAP_BLUE_GREEN, .watch_ns = WATCH_NS, .validation = QUICK, .on_progress = disturb, .user = &c};
    ck_assert(!registry_swap(r, &q, &s, &err));
    ck_assert(c.swap == ERROR_CONFLICT && c.unload == ERROR_CONFLICT);
    served_release(s.previous.served);
    served_release(s.next.served);
    c = (struct other){.r = r, .draining = true};
    q.watch_ns = 600 * CLOCK_NS_PER_S; /* it is not waited for */
    q.path = at("b.gguf");
    ck_assert_int_eq(registry_swap(r, &q, &s, &err), ERROR_SERVICE_UNAVAILABLE);
    ck_assert_int_eq(s.status, SWAP_ROLLED_BACK);
    served_release(s.previous.served);
    served_release(s.next.served);
    registry_close(r);
}
END_TEST

static const char *kill_phase;

static void kill_myself(void *user, const struct model_progress *p)
{
    (void)user;
    if (strcmp(p->phase, kill_phase) == 0)
        kill(getpid(), SIGKILL);
}

/* A process that is killed in a phase of a swap starts again with the old model; once the swap is complete, with the new one. */
START_TEST(killed)
{
    static const char *const phases[] = {"checking", "loading", "validating", "switching", "watching", "draining"};
    struct registry_options o = options();
    const char *path = variant("b.gguf", surer);
    char was[512] = TALES;
    o.state_file = at("state");
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        kill_phase = phases[i];
        pid_t child = fork();
        if (child == 0) {
            struct registry *r = open_registry(&o);
            struct swap_result s;
            struct error err;
            swap(r, (struct swap_request){.path = path, .strategy = SWAP_BLUE_GREEN, .validation = QUICK, .on_progress = kill_myself}, &s, &err);
            _exit(1);
        }
        int status;
        waitpid(child, &status, 0);
        ck_assert_msg(WIFSIGNALED(status), "%s: it was not killed", kill_phase);
        struct registry *r = open_registry(&o);
        ck_assert_msg(serves(r, strcmp(kill_phase, "draining") ? was : path), "%s", kill_phase);
        expect_listed(r, "*tales:active");
        registry_close(r);
    }
}
END_TEST

SUITE("swap", under_load, began_before, exact_shares, refused_before, rolled_back, accuracy, failing_requests, one_at_a_time, killed)
