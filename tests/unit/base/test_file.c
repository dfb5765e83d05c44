/* Files that are read again: how much of one is read, and what counts as a change. */
#include "base/file.h"
#include "tests/suite.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file of this process with the text, always at the same path: the one before is gone. */
static const char *put(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/bitnet-file-%d", (int)getpid());
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
    return path;
}

START_TEST(reads_files_up_to_a_size)
{
    struct buffer text;
    struct error err;
    const char *path = put("1234");
    buffer_init(&text, 4);
    ck_assert_int_eq(file_read(path, &text, &err), ERROR_NONE);
    ck_assert_uint_eq(text.n_bytes, 4);
    buffer_fini(&text);
    buffer_init(&text, 3);
    ck_assert_int_ne(file_read(path, &text, &err), ERROR_NONE);
    ck_assert_ptr_nonnull(strstr(err.message, ": expected at most 3 bytes"));
    ck_assert_int_ne(file_read("/nowhere", &text, &err), ERROR_NONE);
    ck_assert_str_eq(err.message, "/nowhere: No such file or directory");
    ck_assert_int_ne(file_read("/tmp", &text, &err), ERROR_NONE);
    ck_assert_str_eq(err.message, "/tmp: expected a file");
    buffer_fini(&text);
    unlink(path);
}
END_TEST

START_TEST(sees_what_has_changed)
{
    struct file_watch w = {.path = put("1")}, none = {.path = NULL};
    ck_assert(file_watch_changed(&w)); /* never looked at */
    file_watch_mark(&w);
    ck_assert(!file_watch_changed(&w));
    put("12");
    ck_assert(file_watch_changed(&w));
    file_watch_mark(&w);
    ck_assert_int_eq(unlink(w.path), 0);
    ck_assert(!file_watch_changed(&w)); /* what was read goes on */
    put("12");
    ck_assert(file_watch_changed(&w));
    file_watch_mark(&none);
    ck_assert(!file_watch_changed(&none));
    unlink(w.path);
}
END_TEST

/* As `cp -p` and archives leave it: another file of the same size and modification time. */
START_TEST(a_kept_modification_time_hides_nothing)
{
    struct file_watch w = {.path = put("1")};
    struct stat before;
    ck_assert_int_eq(stat(w.path, &before), 0);
    file_watch_mark(&w);
    usleep(20000); /* the clock of the file system ticks that often */
    put("2");
    const struct timespec times[2] = {before.st_atim, before.st_mtim};
    ck_assert_int_eq(utimensat(AT_FDCWD, w.path, times, 0), 0);
    ck_assert(file_watch_changed(&w));
    unlink(w.path);
}
END_TEST

SUITE("file", reads_files_up_to_a_size, sees_what_has_changed, a_kept_modification_time_hides_nothing)
