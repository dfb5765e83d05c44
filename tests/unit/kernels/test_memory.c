/* Blocks, weights and mapped files: what is zero, what is aligned, and what the system says is resident. */
#include "kernels/memory.h"

#include "kernels/kernels.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MB ((size_t)1 << 20)

/* A line of /proc/self/smaps for the mapping that holds p, such as "Rss:"; false when there is no such mapping. */
static bool smaps(const void *p, const char *field, char *out, size_t out_bytes)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    unsigned long from, to;
    bool inside = false, found = false;
    ck_assert_ptr_nonnull(f);
    while (!found && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = (uintptr_t)p >= from && (uintptr_t)p < to;
        else if (inside && strncmp(line, field, strlen(field)) == 0) {
            snprintf(out, out_bytes, "%.*s", (int)strcspn(line + strlen(field), "\n"), line + strlen(field));
            found = true;
        }
    }
    fclose(f);
    return found;
}

static size_t resident(const void *p)
{
    char text[64];
    return smaps(p, "Rss:", text, sizeof text) ? strtoul(text, NULL, 10) * 1024 : 0;
}

START_TEST(blocks_are_zeroed_and_aligned)
{
    static const size_t sizes[] = {0, 1, 63, 64, 4096, MB - 1, MB, 3 * MB + 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *p = memory_alloc(sizes[i]);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % 64, 0);
        size_t n_zero = 0;
        while (n_zero < sizes[i] && p[n_zero] == 0)
            n_zero++;
        ck_assert_uint_eq(n_zero, sizes[i]);
        memset(p, 0xff, sizes[i]);
        memory_free(p);
    }
    memory_free(NULL);
    ck_assert_ptr_null(memory_alloc(SIZE_MAX));
    ck_assert_ptr_null(memory_alloc(SIZE_MAX / 4));
}
END_TEST

START_TEST(untouched_pages_take_no_memory)
{
    char *p = memory_alloc(64 * MB);
    ck_assert_ptr_nonnull(p);
    p[40 * MB] = 1;
    ck_assert_uint_lt(resident(p), MB);
    memory_free(p);
}
END_TEST

START_TEST(weights_share_chunks_that_ask_for_huge_pages)
{
    char *a = memory_alloc_weights(NULL, MB), *b = memory_alloc_weights(NULL, MB + 1), *c = memory_alloc_weights(NULL, 100 * MB),
         flags[256];
    char *small = memory_alloc_weights(NULL, 1000);
    ck_assert(a && b && c && small);
    ck_assert_uint_eq((uintptr_t)a % MEMORY_HUGE_PAGE, 0);
    ck_assert_uint_eq((uintptr_t)c % MEMORY_HUGE_PAGE, 0);
    ck_assert_uint_eq((uintptr_t)small % 64, 0);
    ck_assert_ptr_eq(b, a + MB);
    char *d = memory_alloc_weights(NULL, MB); /* in the chunk of a and b, though c's is newer */
    ck_assert_ptr_eq(d, b + MB + 64);
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) == 0) {
        ck_assert(smaps(a, "VmFlags:", flags, sizeof flags));
        ck_assert_msg(strstr(flags, " hg"), "flags of weights are %s", flags);
    }
    memset(a, 1, MB);
    memset(b, 2, MB + 1);
    ck_assert_int_eq(a[MB - 1], 1);
    memory_free_weights(c);
    ck_assert_uint_eq(resident(c), 0);
    memory_free_weights(a);
    memory_free_weights(d);
    ck_assert_int_eq(b[MB], 2); /* the chunk lives as long as one of its blocks */
    memory_free_weights(b);
    ck_assert_uint_eq(resident(a), 0);
    char *other = memory_alloc_weights(&a, MB), *again = memory_alloc_weights(NULL, MB);
    ck_assert_ptr_ne(other + MB, again); /* one owner a chunk */
    memory_free_weights(other);
    ck_assert_uint_eq(resident(other), 0);
    memory_free_weights(again);
    memory_free_weights(small);
    memory_free_weights(NULL);
    ck_assert_ptr_null(memory_alloc_weights(NULL, SIZE_MAX));
    ck_assert_ptr_null(memory_alloc_weights(NULL, SIZE_MAX / 4));
}
END_TEST

/* A mapping of a file of n_bytes, byte i being i / 4096 + 1. */
static unsigned char *map_file(size_t n_bytes, int flags, int *fd)
{
    char path[] = "/tmp/test-memory-XXXXXX";
    *fd = mkstemp(path);
    unsigned char *bytes = malloc(n_bytes);
    ck_assert(*fd >= 0 && bytes);
    unlink(path);
    for (size_t i = 0; i < n_bytes; i++)
        bytes[i] = (unsigned char)(i / 4096 + 1);
    ck_assert_int_eq(write(*fd, bytes, n_bytes), (ssize_t)n_bytes);
    free(bytes);
    unsigned char *p = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE | flags, *fd, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    return p;
}

/* All of it in memory. */
static unsigned char *map_resident(size_t n_bytes)
{
    int fd;
    unsigned char *p = map_file(n_bytes, MAP_POPULATE, &fd);
    close(fd);
    return p;
}

START_TEST(dropped_pages_come_back_from_the_file)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 8 * page;
    unsigned char *p = map_resident(n);
    ck_assert_uint_eq(resident(p), n);
    memory_drop(p + 1, page); /* no whole page */
    ck_assert_uint_eq(resident(p), n);
    memory_drop(p + 1, 3 * page);
    ck_assert_uint_eq(resident(p), n - 2 * page);
    memory_drop(p, n);
    ck_assert_uint_eq(resident(p), 0);
    for (size_t i = 0; i < n; i++)
        ck_assert_uint_eq(p[i], (unsigned char)(i / 4096 + 1));
    munmap(p, n);
}
END_TEST

#define ROWS ((size_t)1200)
#define LARGE_ROWS ((size_t)150000) /* of a table that is too large to be brought into memory by and by */
#define COLS ((size_t)128)

/* Rows of a large file that are read one by one never come into memory; those of other memory are read where they are. */
START_TEST(rows_read_singly_stay_out_of_memory)
{
    int fd;
    size_t n_bytes = LARGE_ROWS * COLS * 2;
    unsigned char *file = map_file(n_bytes, 0, &fd);
    struct backend *be;
    struct dense *table;
    struct error err;
    int32_t ids[1000];
    float *y[2] = {malloc(1000 * COLS * sizeof(float)), malloc(1000 * COLS * sizeof(float))};
    ck_assert(y[0] && y[1]);
    for (size_t i = 0; i < 1000; i++)
        ids[i] = (int32_t)(i * 149);
    for (int mapped = 1; mapped >= 0; mapped--) {
        struct tensor_view view = {
            .type = TENSOR_F16, .data = file, .n_bytes = n_bytes, .n_rows = LARGE_ROWS, .n_cols = COLS, .mapped = mapped, .fd = fd};
        ck_assert(!backend_open(&(struct backend_options){.n_threads = 2}, &be, &err));
        ck_assert(!dense_open(be, &view, &table, &err));
        ck_assert_uint_eq(resident(file), 0);
        op_embed(be, table, ids, 1000, y[mapped]);
        ck_assert_int_eq(resident(file) == 0, mapped);
        dense_close(be, table);
        backend_close(be);
    }
    ck_assert_mem_eq(y[0], y[1], 1000 * COLS * sizeof(float));
    free(y[0]);
    free(y[1]);
    munmap(file, n_bytes);
    close(fd);
}
END_TEST

/* The file's copy of a head that is screened is out of memory when the screen is made. */
START_TEST(a_screened_table_is_dropped)
{
    size_t n_bytes = ROWS * COLS * 2;
    unsigned char *file = map_resident(n_bytes);
    struct tensor_view view = {
        .type = TENSOR_F16, .data = file, .n_bytes = n_bytes, .n_rows = ROWS, .n_cols = COLS, .mapped = true};
    struct backend *be;
    struct dense *table;
    struct error err;
    ck_assert(!backend_open(&(struct backend_options){.n_threads = 2}, &be, &err));
    ck_assert(!dense_open(be, &view, &table, &err));
    ck_assert(dense_screen(be, table));
    ck_assert_uint_le(resident(file), (size_t)4 * 4096); /* a page at the border of two threads' parts */
    dense_close(be, table);
    backend_close(be);
    munmap(file, n_bytes);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels/memory");
    TCase *tcase = tcase_create("memory");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, blocks_are_zeroed_and_aligned);
    tcase_add_test(tcase, untouched_pages_take_no_memory);
    tcase_add_test(tcase, weights_share_chunks_that_ask_for_huge_pages);
    tcase_add_test(tcase, dropped_pages_come_back_from_the_file);
    tcase_add_test(tcase, rows_read_singly_stay_out_of_memory);
    tcase_add_test(tcase, a_screened_table_is_dropped);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? 1 : 0;
}
