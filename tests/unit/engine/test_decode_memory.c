/*
 * A decode step allocates nothing: this program's own malloc and its kin count calls while `counting` is set. Sanitizers have an
 * allocator of their own, so these cases are not for them.
 */
#include "tests/unit/engine/harness.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define N_STEPS 100
#define N_SEQUENCES 5

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

START_TEST(steps_allocate_nothing)
{
    printf("skip steps_allocate_nothing the sanitizer has the allocator\n");
}
END_TEST

#else

static atomic_bool counting;
static atomic_int n_calls;

static void note(void)
{
    if (atomic_load(&counting))
        atomic_fetch_add(&n_calls, 1);
}

/* The names by which glibc's allocator can be reached when its public ones are taken. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t alignment, size_t n);

void *malloc(size_t n)
{
    note();
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    note();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    note();
    return __libc_realloc(p, n);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    note();
    return __libc_memalign(alignment, n);
}

void *mmap(void *p, size_t n, int protection, int flags, int fd, off_t offset)
{
    note();
    return (void *)syscall(SYS_mmap, p, n, protection, flags, fd, offset);
}

/* False when a step fails: Check's own assertions allocate. */
static bool decode(struct session *s, const struct sampling *sampling, size_t n_steps)
{
    static uint32_t ids[N_SEQUENCES];
    static float logits[N_SEQUENCES * HARNESS_VOCAB];
    struct error err = {0};
    for (size_t step = 0; step < n_steps; step++) {
        struct session_row rows[N_SEQUENCES];
        for (uint32_t i = 0; i < N_SEQUENCES; i++)
            rows[i] = (struct session_row){.sequence = i, .token = ids[i], .want_logits = true};
        if (sampling ? session_sample(s, rows, N_SEQUENCES, sampling, ids, &err)
                     : session_step(s, rows, N_SEQUENCES, false, logits, &err))
            return false;
        if (!sampling)
            for (size_t i = 0; i < N_SEQUENCES; i++)
                ids[i] = (ids[i] + 17 * (uint32_t)i + 1) % HARNESS_VOCAB;
    }
    return true;
}

static struct session *open_session(void)
{
    struct session *s;
    struct error err = {0};
    struct engine_options options = {.model_path = harness_model(),
                                     .device = "cpu",
                                     .i2s_order = -1,
                                     .n_threads = 2,
                                     .max_sequences = N_SEQUENCES,
                                     .sampling = true};
    log_init(LOG_OFF, LOG_FORMAT_TEXT);
    ck_assert_msg(!session_open(&options, &s, &err), "%s", err.message);
    return s;
}

static const struct sampling samplings[] = {
    {.temperature = 0},
    {.temperature = 0.7f, .top_k = 50, .top_p = 0.9f, .seed = 3},
    {.temperature = 1, .top_p = 1, .seed = 4},
};

START_TEST(steps_allocate_nothing)
{
    struct session *s = open_session();
    for (size_t i = 0; i <= sizeof samplings / sizeof *samplings; i++) {
        const struct sampling *sampling = i ? &samplings[i - 1] : NULL; /* NULL: all logits, nothing drawn */
        bool ok = decode(s, sampling, 3);
        atomic_store(&counting, true);
        ok = ok && decode(s, sampling, N_STEPS);
        atomic_store(&counting, false);
        ck_assert(ok);
        ck_assert_msg(atomic_load(&n_calls) == 0, "sampling %zu: %d allocations", i, atomic_load(&n_calls));
    }
    session_close(s);
}
END_TEST

/* The counting itself: what an open session allocated is seen. */
START_TEST(allocations_are_counted)
{
    atomic_store(&counting, true);
    struct session *s = open_session();
    atomic_store(&counting, false);
    ck_assert_int_gt(atomic_load(&n_calls), 10);
    session_close(s);
}
END_TEST

#endif

int main(void)
{
    Suite *suite = suite_create("decode memory");
    TCase *tcase = tcase_create("decode memory");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, steps_allocate_nothing);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    tcase_add_test(tcase, allocations_are_counted);
#endif
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}
