#include "base/buffer.h"
#include "base/log.h"
#include "base/utf8.h"
#include "tests/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <unistd.h>

/* stderr goes into a file for the length of a test; each test is a process of its own. */
static FILE *captured;

static void capture(enum log_level level, enum log_format format)
{
    captured = tmpfile();
    ck_assert_ptr_nonnull(captured);
    ck_assert_int_ge(dup2(fileno(captured), STDERR_FILENO), 0);
    log_init(level, format);
}

/* What was written since capture. */
static const char *written(void)
{
    static char text[1 << 20];
    fflush(captured);
    off_t n_bytes = lseek(fileno(captured), 0, SEEK_END);
    ssize_t n = pread(fileno(captured), text, sizeof text - 1, 0);
    ck_assert_int_eq(n, n_bytes);
    text[n] = '\0';
    return text;
}

/* The line behind its time stamp, whose form is checked. `head` is what stands in front of it. */
static const char *behind_ts(const char *line, const char *head)
{
    ck_assert_msg(strncmp(line, head, strlen(head)) == 0, "%s", line);
    const char *ts = line + strlen(head), *form = "dddd-dd-ddTdd:dd:dd.dddZ";
    for (size_t i = 0; form[i]; i++)
        ck_assert_msg(form[i] == 'd' ? ts[i] >= '0' && ts[i] <= '9' : ts[i] == form[i], "%s", line);
    return ts + strlen(form);
}

START_TEST(json_line)
{
    capture(LOG_INFO, LOG_FORMAT_JSON);
    log_info("engine", "model \"a\" loaded", LOG_STR("model", "t\n"), LOG_INT("load_ms", -12), LOG_FLOAT("ratio", 0.5),
             LOG_BOOL("mapped", true));
    ck_assert_str_eq(behind_ts(written(), "{\"ts\":\""),
                     "\",\"level\":\"info\",\"component\":\"engine\",\"msg\":\"model \\\"a\\\" loaded\","
                     "\"model\":\"t\\n\",\"load_ms\":-12,\"ratio\":0.5,\"mapped\":true}\n");
}
END_TEST

START_TEST(fields_are_optional)
{
    capture(LOG_INFO, LOG_FORMAT_JSON);
    log_warn("rpc", "bare");
    ck_assert_str_eq(behind_ts(written(), "{\"ts\":\""),
                     "\",\"level\":\"warn\",\"component\":\"rpc\",\"msg\":\"bare\"}\n");
}
END_TEST

START_TEST(null_string_is_left_out)
{
    capture(LOG_INFO, LOG_FORMAT_JSON);
    log_info("rpc", "x", LOG_STR("request_id", NULL), LOG_INT("n", 1));
    ck_assert_ptr_null(strstr(written(), "request_id"));
    ck_assert_ptr_nonnull(strstr(written(), ",\"n\":1}"));
}
END_TEST

START_TEST(numbers_that_json_lacks_are_null)
{
    capture(LOG_INFO, LOG_FORMAT_JSON);
    log_info("x", "y", LOG_FLOAT("a", NAN), LOG_FLOAT("b", INFINITY), LOG_FLOAT("c", -INFINITY));
    ck_assert_ptr_nonnull(strstr(written(), "\"a\":null,\"b\":null,\"c\":null}"));
}
END_TEST

START_TEST(text_line_quotes_what_is_no_word)
{
    capture(LOG_INFO, LOG_FORMAT_TEXT);
    log_error("engine", "bad\nthing", LOG_STR("a", "word"), LOG_STR("b", "two words"), LOG_STR("c", ""),
              LOG_STR("d", "x=\"1\""), LOG_STR("e", "\x1B[31m"), LOG_STR("f", "\xC3\xA9"), LOG_INT("n", 7));
    ck_assert_str_eq(behind_ts(written(), ""), " error engine: bad\\nthing a=word b=\"two words\" c=\"\" "
                                               "d=\"x=\\\"1\\\"\" e=\"\\u001b[31m\" f=\"\xC3\xA9\" n=7\n");
}
END_TEST

START_TEST(auto_is_json_off_a_terminal)
{
    capture(LOG_INFO, LOG_FORMAT_AUTO);
    log_info("x", "y");
    ck_assert_int_eq(written()[0], '{');
}
END_TEST

START_TEST(lower_levels_are_not_written)
{
    capture(LOG_WARN, LOG_FORMAT_JSON);
    log_debug("x", "y");
    log_info("x", "y");
    ck_assert_str_eq(written(), "");
    log_warn("x", "y");
    ck_assert_str_ne(written(), "");
}
END_TEST

START_TEST(off_writes_nothing)
{
    capture(LOG_OFF, LOG_FORMAT_JSON);
    log_error("x", "y");
    ck_assert(!log_enabled(LOG_OFF, "x"));
    ck_assert_str_eq(written(), "");
}
END_TEST

/* A field's expression costs nothing where the line is not written. */
START_TEST(fields_of_unwritten_lines_are_not_computed)
{
    capture(LOG_INFO, LOG_FORMAT_JSON);
    int n = 0;
    log_debug("x", "y", LOG_INT("n", ++n));
    ck_assert_int_eq(n, 0);
}
END_TEST

START_TEST(components_have_their_own_level)
{
    log_init(LOG_INFO, LOG_FORMAT_JSON);
    ck_assert(log_set_level("engine", LOG_DEBUG));
    ck_assert(log_enabled(LOG_DEBUG, "engine"));
    ck_assert(!log_enabled(LOG_DEBUG, "rpc"));
    ck_assert(log_set_level(NULL, LOG_ERROR));
    ck_assert(!log_enabled(LOG_WARN, "rpc"));
    ck_assert(log_enabled(LOG_DEBUG, "engine"));
    ck_assert(log_set_level("", LOG_DEBUG));
    ck_assert(log_enabled(LOG_DEBUG, "rpc"));
    ck_assert(log_set_level("engine", LOG_ERROR));
    ck_assert(!log_enabled(LOG_WARN, "engine"));
}
END_TEST

START_TEST(component_table_has_an_end)
{
    char name[40];
    ck_assert(!log_set_level("a-name-of-more-than-thirty-two-by", LOG_DEBUG));
    for (int i = 0; i < 32; i++) {
        snprintf(name, sizeof name, "component-%d", i);
        ck_assert(log_set_level(name, LOG_DEBUG));
    }
    ck_assert(!log_set_level("one more", LOG_DEBUG));
    ck_assert(log_set_level("component-31", LOG_ERROR));
}
END_TEST

START_TEST(level_names)
{
    static const char *const names[] = {"debug", "info", "warn", "error", "off"};
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(log_level_from_name(names[i]), i);
    ck_assert_int_eq(log_level_from_name("INFO"), -1);
    ck_assert_int_eq(log_level_from_name(""), -1);
    ck_assert_int_eq(log_level_from_name(NULL), -1);
}
END_TEST

START_TEST(field_that_does_not_fit_is_left_out_whole)
{
    static char big[40000];
    memset(big, 'x', sizeof big - 1);
    capture(LOG_INFO, LOG_FORMAT_JSON);
    log_info("x", "y", LOG_STR("big", big), LOG_INT("n", 3));
    ck_assert_str_eq(behind_ts(written(), "{\"ts\":\""),
                     "\",\"level\":\"info\",\"component\":\"x\",\"msg\":\"y\",\"n\":3,\"truncated\":true}\n");
}
END_TEST

START_TEST(message_that_does_not_fit_is_named)
{
    static char big[40000];
    memset(big, 'x', sizeof big - 1);
    capture(LOG_INFO, LOG_FORMAT_JSON);
    log_info("x", big, LOG_INT("n", 3));
    ck_assert_ptr_nonnull(strstr(written(), "\"msg\":\"message too long\",\"n\":3}\n"));
}
END_TEST

START_TEST(errno_is_kept)
{
    capture(LOG_INFO, LOG_FORMAT_JSON);
    close(STDERR_FILENO);
    errno = ENOENT;
    log_info("x", "y");
    ck_assert_int_eq(errno, ENOENT);
}
END_TEST

static void *write_lines(void *name)
{
    for (int i = 0; i < 500; i++)
        log_info(name, "line", LOG_INT("i", i));
    return NULL;
}

START_TEST(a_pipe_that_nobody_reads_holds_nothing_up)
{
    static char text[1 << 20];
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_ge(dup2(ends[1], STDERR_FILENO), 0);
    log_init(LOG_INFO, LOG_FORMAT_JSON);
    const int n_lines = 5000; /* far more than a pipe holds; without the look for room this would never end */
    for (int i = 0; i < n_lines; i++)
        log_info("test", "a line", LOG_INT("i", i));
    ssize_t n = read(ends[0], text, sizeof text - 1);
    ck_assert_int_gt(n, 0);
    text[n] = '\0';
    ck_assert_int_eq(text[n - 1], '\n');
    int n_kept = 0;
    for (const char *line = text; (line = strchr(line, '\n')); line++)
        n_kept++;
    log_info("test", "the next one");
    n = read(ends[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    char expected[64];
    snprintf(expected, sizeof expected, "\"lines\":%d}\n", n_lines - n_kept);
    ck_assert_msg(strstr(text, expected), "%s %s", expected, text);
    ck_assert_ptr_nonnull(strstr(text, "the next one"));
}
END_TEST

START_TEST(a_line_that_is_longer_than_the_room_holds_nothing_up)
{
    static char field[20000], text[65536];
    int ends[2];
    memset(field, 'x', sizeof field - 1);
    ck_assert_int_eq(pipe(ends), 0);
    ck_assert_int_eq(fcntl(ends[1], F_SETPIPE_SZ, 8192), 8192);
    ck_assert_int_ge(dup2(ends[1], STDERR_FILENO), 0);
    log_init(LOG_INFO, LOG_FORMAT_JSON);
    log_info("test", "a long one", LOG_STR("field", field));
    ck_assert_int_eq(read(ends[0], text, sizeof text), 8192);
    log_info("test", "the next one");
    ssize_t n = read(ends[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    ck_assert_msg(strncmp(text, "\n{", 2) == 0, "%s", text);
    ck_assert_ptr_nonnull(strstr(text, "\"lines\":1}\n"));
    ck_assert_ptr_nonnull(strstr(text, "\"the next one\"}\n"));
}
END_TEST

START_TEST(lines_of_threads_do_not_mix)
{
    capture(LOG_INFO, LOG_FORMAT_JSON);
    static char names[4][2] = {"a", "b", "c", "d"};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_lines, names[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    int n = 0;
    for (const char *line = written(); *line; line = strchr(line, '\n') + 1, n++) {
        const char *rest = behind_ts(line, "{\"ts\":\"");
        char component;
        int i, length = 0;
        ck_assert_int_eq(sscanf(rest, "\",\"level\":\"info\",\"component\":\"%c\",\"msg\":\"line\",\"i\":%d}%n",
                                &component, &i, &length),
                         2);
        ck_assert_int_eq(rest[length], '\n');
    }
    ck_assert_int_eq(n, 2000);
}
END_TEST

/* The levels as a list; lives until the next call. */
static const char *levels(void)
{
    static struct buffer out = {.max_bytes = 4096};
    buffer_clear(&out);
    log_write_levels(&out);
    return out.data;
}

START_TEST(a_list_sets_all_levels)
{
    struct error err = {0};
    log_init(LOG_ERROR, LOG_FORMAT_JSON);
    ck_assert(log_set_level("old", LOG_DEBUG));
    ck_assert_int_eq(log_set_levels("warn,rpc=debug,grpc=off", &err), ERROR_NONE);
    ck_assert_str_eq(levels(), "warn,rpc=debug,grpc=off");
    ck_assert(!log_enabled(LOG_INFO, "old") && log_enabled(LOG_WARN, "old"));
    ck_assert(log_enabled(LOG_DEBUG, "rpc") && !log_enabled(LOG_ERROR, "grpc"));
    ck_assert_int_eq(log_set_levels("rpc=warn", &err), ERROR_NONE);
    ck_assert_str_eq(levels(), "info,rpc=warn");
}
END_TEST

START_TEST(a_wrong_list_changes_nothing)
{
    static const char *const wrong[] = {"", "loud", "info,", "info,debug", "=info", "rpc=", "rpc=info,,grpc=info", "rpc info",
                                        "a23456789012345678901234567890123=info", "debugdebug", "info,engin=debug"};
    log_init(LOG_WARN, LOG_FORMAT_JSON);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct error err = {0};
        ck_assert_msg(log_check_levels(wrong[i], &err) == ERROR_VALIDATION_FAILED, "%s", wrong[i]);
        ck_assert_int_eq(log_set_levels(wrong[i], NULL), ERROR_VALIDATION_FAILED);
        ck_assert_msg(strstr(err.message, "expected") != NULL, "%s", err.message);
        ck_assert_str_eq(levels(), "warn");
    }
}
END_TEST

SUITE("log", a_pipe_that_nobody_reads_holds_nothing_up, a_line_that_is_longer_than_the_room_holds_nothing_up, json_line, fields_are_optional, null_string_is_left_out, numbers_that_json_lacks_are_null,
      text_line_quotes_what_is_no_word, auto_is_json_off_a_terminal, lower_levels_are_not_written, off_writes_nothing,
      fields_of_unwritten_lines_are_not_computed, components_have_their_own_level, component_table_has_an_end,
      level_names, a_list_sets_all_levels, a_wrong_list_changes_nothing, field_that_does_not_fit_is_left_out_whole, message_that_does_not_fit_is_named, errno_is_kept,
      lines_of_threads_do_not_mix)
