#include "base/option.h"
#include "tests/suite.h"

#include <unistd.h>

struct config {
    const char *listen, *mode, *key, *note;
    int64_t queue_limit, cache, offset, span;
    double ratio, rate;
    bool limits, toy;
};

#define FIELD(f) .offset = offsetof(struct config, f)
static const struct option_def defs[] = {
    {.name = "listen", .type = OPTION_STRING, FIELD(listen), .default_value = "127.0.0.1:1", .help = "Address."},
    {.name = "mode",
     .type = OPTION_CHOICE,
     FIELD(mode),
     .default_value = "auto",
     .choices = "auto|on|off",
     .help = "Mode."},
    {.name = "toy", .type = OPTION_BOOL, FIELD(toy), .flag_only = true, .help = "Toy."},
    {.name = "key", .type = OPTION_STRING, FIELD(key), .secret = true, .help = "Key."},
    {.name = "note", .type = OPTION_STRING, FIELD(note), .help = "Note."},
    {.name = "queue-limit",
     .type = OPTION_INT,
     FIELD(queue_limit),
     .default_value = "64",
     .min = 1,
     .max = 4096,
     .unit = "requests",
     .help = "Waiting requests."},
    {.name = "cache",
     .type = OPTION_SIZE,
     FIELD(cache),
     .default_value = "1M",
     .min = 0,
     .max = 1e12,
     .help = "Cache."},
    {.name = "offset", .type = OPTION_INT, FIELD(offset), .help = "Any integer."},
    {.name = "ratio", .type = OPTION_FLOAT, FIELD(ratio), .default_value = "0.5", .min = 0, .max = 1, .help = "Ratio."},
    {.name = "span", .type = OPTION_SIZE, FIELD(span), .help = "Any size."},
    {.name = "rate", .type = OPTION_FLOAT, FIELD(rate), .help = "Any number."},
    {.name = "limits", .type = OPTION_BOOL, FIELD(limits), .help = "Limits."},
    {0},
};
static const struct option_table table = {.program = "prog", .usage = "usage: prog\n", .defs = defs};

static struct config config;
static struct option_result result;
static struct error err;

/* Parses a command line that is written with one space between its words. */
static enum error_code parse(const char *line)
{
    static char text[1024], *argv[64];
    int argc = 0;
    snprintf(text, sizeof text, "prog %s", line);
    for (char *rest = text, *word; (word = strsep(&rest, " "));)
        if (*word)
            argv[argc++] = word;
    option_free(&table, &config);
    memset(&config, 0, sizeof config);
    memset(&err, 0, sizeof err);
    return option_parse(&table, argc, argv, &config, &result, &err);
}

/* A configuration file with this text; its name lives as long as the test. */
static const char *file_with(const char *text)
{
    static char path[] = "/tmp/test_option_XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

START_TEST(defaults)
{
    ck_assert_msg(parse("") == ERROR_NONE, "%s", err.message);
    ck_assert_str_eq(config.listen, "127.0.0.1:1");
    ck_assert_str_eq(config.mode, "auto");
    ck_assert_ptr_null(config.key);
    ck_assert_ptr_null(config.note);
    ck_assert_int_eq(config.queue_limit, 64);
    ck_assert_int_eq(config.cache, 1 << 20);
    ck_assert_int_eq(config.offset, 0);
    ck_assert_double_eq(config.ratio, 0.5);
    ck_assert(!config.limits);
    option_free(&table, &config);
    ck_assert_ptr_null(config.listen);
}
END_TEST

START_TEST(flags_in_both_forms)
{
    ck_assert_msg(parse("--listen unix:/x --queue-limit=7 --ratio 0.25 --limits --mode=on --offset -3 --note=--x") == 0,
                  "%s", err.message);
    ck_assert_str_eq(config.listen, "unix:/x");
    ck_assert_int_eq(config.queue_limit, 7);
    ck_assert_double_eq(config.ratio, 0.25);
    ck_assert(config.limits);
    ck_assert_str_eq(config.mode, "on");
    ck_assert_int_eq(config.offset, -3);
    ck_assert_str_eq(config.note, "--x");
}
END_TEST

START_TEST(precedence)
{
    char line[256];
    const char *path = file_with("queue-limit = 2\nratio = 0.2\noffset = 2\n");
    snprintf(line, sizeof line, "--queue-limit 4 --config %s", path);
    setenv("BITNET_QUEUE_LIMIT", "3", 1);
    setenv("BITNET_RATIO", "0.3", 1);
    ck_assert_msg(parse(line) == 0, "%s", err.message);
    ck_assert_int_eq(config.queue_limit, 4);
    ck_assert_double_eq(config.ratio, 0.3);
    ck_assert_int_eq(config.offset, 2);
    ck_assert_int_eq(config.cache, 1 << 20);
    unlink(path);
}
END_TEST

START_TEST(file_from_the_environment)
{
    const char *path = file_with("offset = 5\n");
    setenv("BITNET_CONFIG", path, 1);
    ck_assert_msg(parse("") == 0, "%s", err.message);
    ck_assert_int_eq(config.offset, 5);
    unlink(path);
}
END_TEST

START_TEST(file_syntax)
{
    char line[256];
    const char *path =
        file_with("# comment\n\n  queue-limit=9  \r\nnote = \" two  words # = \"\nlisten =\nlimits = true\n"
                  "key = secret\nmode = off");
    snprintf(line, sizeof line, "--config=%s", path);
    ck_assert_msg(parse(line) == 0, "%s", err.message);
    ck_assert_int_eq(config.queue_limit, 9);
    ck_assert_str_eq(config.note, " two  words # = ");
    ck_assert_str_eq(config.listen, "");
    ck_assert_str_eq(config.key, "secret");
    ck_assert_str_eq(config.mode, "off");
    ck_assert(config.limits);
    unlink(path);
}
END_TEST

START_TEST(empty_variable_counts_as_unset)
{
    setenv("BITNET_QUEUE_LIMIT", "", 1);
    ck_assert_msg(parse("") == 0, "%s", err.message);
    ck_assert_int_eq(config.queue_limit, 64);
}
END_TEST

START_TEST(bool_words)
{
    static const struct {
        const char *text;
        int value; /* -1: refused */
    } cases[] = {{"true", 1}, {"1", 1},  {"yes", 1}, {"on", 1},    {"false", 0},
                 {"0", 0},    {"no", 0}, {"off", 0}, {"TRUE", -1}, {"2", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("BITNET_LIMITS", cases[i].text, 1);
        enum error_code code = parse("");
        ck_assert_msg(code == (cases[i].value < 0 ? ERROR_VALIDATION_FAILED : ERROR_NONE), "%s", cases[i].text);
        if (!code)
            ck_assert_msg(config.limits == cases[i].value, "%s", cases[i].text);
    }
}
END_TEST

START_TEST(sizes)
{
    static const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } cases[] = {{"0", 0},
                 {"17", 17},
                 {"1K", 1024},
                 {"1KiB", 1024},
                 {"3M", 3 << 20},
                 {"3MiB", 3 << 20},
                 {"2G", INT64_C(2) << 30},
                 {"2GiB", INT64_C(2) << 30},
                 {"1k", -1},
                 {"1MB", -1},
                 {"1.5M", -1},
                 {"-1", -1},
                 {"M", -1},
                 {"1 M", -1},
                 {"1000G", -1},
                 {"99999999999999999999", -1},
                 {"9007199254740992G", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("BITNET_CACHE", cases[i].text, 1);
        enum error_code code = parse("");
        ck_assert_msg(code == (cases[i].bytes < 0 ? ERROR_VALIDATION_FAILED : ERROR_NONE), "%s", cases[i].text);
        if (!code)
            ck_assert_msg(config.cache == cases[i].bytes, "%s", cases[i].text);
    }
}
END_TEST

/* Each error names the option and says what was expected and found. */
START_TEST(errors)
{
    static const struct {
        const char *line, *param, *message;
    } cases[] = {
        {"--queue-limit 0", "queue-limit", "--queue-limit: expected an integer from 1 to 4096, found '0'"},
        {"--queue-limit=4097", "queue-limit", "found '4097'"},
        {"--queue-limit 1x", "queue-limit", "found '1x'"},
        {"--queue-limit=", "queue-limit", "found ''"},
        {"--queue-limit 99999999999999999999", "queue-limit", "expected an integer"},
        {"--offset 1.5", "offset", "--offset: expected an integer, found '1.5'"},
        {"--ratio nan", "ratio", "expected a number from 0 to 1, found 'nan'"},
        {"--ratio 1.01", "ratio", "found '1.01'"},
        {"--ratio inf", "ratio", "found 'inf'"},
        {"--rate inf", "rate", "--rate: expected a number, found 'inf'"},
        {"--span -1K", "span", "--span: expected a size in bytes or with K, M or G, found '-1K'"},
        {"--mode o", "mode", "expected one of auto|on|off, found 'o'"},
        {"--mode on|off", "mode", "found 'on|off'"},
        {"--limits=maybe", "limits", "expected true or false, found 'maybe'"},
        {"--note=a\x01", "note", "expected a string without control characters"},
        {"--listen", "listen", "--listen: expected a value after it"},
        {"--listen --limits", "listen", "--listen: expected a value after it"},
        {"--bogus=3", "--bogus=3", "there is no option '--bogus'"},
        {"-x", "-x", "there is no option '-x'"},
        {"--key=hunter2", "key", "--key is a secret: expected it in BITNET_KEY"},
        {"--config /nonexistent/file", "config", "cannot open /nonexistent/file: No such file"},
        {"--config", "config", "--config: expected a value after it"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_msg(parse(cases[i].line) == ERROR_VALIDATION_FAILED, "%s: accepted", cases[i].line);
        ck_assert_msg(strstr(err.message, cases[i].message), "%s: %s", cases[i].line, err.message);
        ck_assert_str_eq(err.param, cases[i].param);
        ck_assert_ptr_null(config.listen); /* nothing is left to free */
    }
}
END_TEST

START_TEST(file_errors_name_the_line)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"offset = 1\nqueue-limit = x\n", ":2: queue-limit: expected an integer from 1 to 4096, found 'x'"},
        {"\n\nno-such = 1\n", ":3: there is no option 'no-such'"},
        {"offset 1\n", ":1: expected 'name = value'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[] = "/tmp/test_option_XXXXXX", line[256];
        int fd = mkstemp(path);
        ck_assert_int_eq(write(fd, cases[i].text, strlen(cases[i].text)), (ssize_t)strlen(cases[i].text));
        close(fd);
        snprintf(line, sizeof line, "--config %s", path);
        ck_assert_int_eq(parse(line), ERROR_VALIDATION_FAILED);
        ck_assert_msg(strstr(err.message, cases[i].message), "%s", err.message);
        unlink(path);
    }
}
END_TEST

START_TEST(wrong_value_is_an_error_where_it_is_hidden_too)
{
    setenv("BITNET_QUEUE_LIMIT", "x", 1);
    ck_assert_int_eq(parse("--queue-limit 4"), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, "BITNET_QUEUE_LIMIT: expected"), "%s", err.message);
}
END_TEST

START_TEST(secret_comes_from_the_environment_and_is_not_shown)
{
    struct buffer out;
    buffer_init(&out, 10000);
    setenv("BITNET_KEY", "hunter2", 1);
    ck_assert_int_eq(parse(""), ERROR_NONE);
    ck_assert_str_eq(config.key, "hunter2");
    option_dump(&table, &config, &out);
    ck_assert_ptr_nonnull(strstr(out.data, "# key = (set)\n"));
    ck_assert_ptr_null(strstr(out.data, "hunter2"));
    setenv("BITNET_KEY", "hunter\x01", 1);
    ck_assert_int_eq(parse(""), ERROR_VALIDATION_FAILED);
    ck_assert_ptr_null(strstr(err.message, "hunter"));
    buffer_fini(&out);
}
END_TEST

START_TEST(flag_only_comes_from_nowhere_else)
{
    struct buffer out;
    buffer_init(&out, 100000);
    ck_assert_int_eq(parse("--toy"), ERROR_NONE);
    ck_assert(config.toy);
    option_dump(&table, &config, &out);
    ck_assert_ptr_nonnull(strstr(out.data, "# flag only: toy = true\n"));
    setenv("BITNET_TOY", "true", 1);
    ck_assert_int_eq(parse("--toy"), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, "BITNET_TOY: expected --toy on the command line"), "%s", err.message);
    unsetenv("BITNET_TOY");
    char line[256];
    const char *path = file_with("toy = true\n");
    snprintf(line, sizeof line, "--config %s", path);
    ck_assert_int_eq(parse(line), ERROR_VALIDATION_FAILED);
    ck_assert_msg(strstr(err.message, ":1: toy: expected --toy on the command line"), "%s", err.message);
    unlink(path);
    buffer_fini(&out);
}
END_TEST

START_TEST(arguments_are_kept_in_order)
{
    ck_assert_int_eq(parse("run --offset 1 a - -- --limits -x"), ERROR_NONE);
    static const char *const expected[] = {"run", "a", "-", "--limits", "-x"};
    ck_assert_int_eq(result.n_args, 5);
    for (int i = 0; i < 5; i++)
        ck_assert_str_eq(result.args[i], expected[i]);
    ck_assert(!config.limits);
}
END_TEST

START_TEST(arguments_are_bounded)
{
    char line[200] = "";
    for (int i = 0; i < 32; i++)
        strcat(line, "a ");
    ck_assert_int_eq(parse(line), ERROR_NONE);
    ck_assert_int_eq(result.n_args, 32);
    strcat(line, "a");
    ck_assert_int_eq(parse(line), ERROR_VALIDATION_FAILED);
}
END_TEST

START_TEST(common_switches)
{
    ck_assert_int_eq(parse("--check-config"), ERROR_NONE);
    ck_assert(result.check_config && !result.help && !result.version);
    ck_assert_int_eq(parse("--version"), ERROR_NONE);
    ck_assert(result.version);
    ck_assert_int_eq(parse("--help --bogus"), ERROR_NONE);
    ck_assert(result.help);
    setenv("BITNET_QUEUE_LIMIT", "x", 1); /* help must come even where the environment is wrong */
    ck_assert_int_eq(parse("-h"), ERROR_NONE);
    ck_assert(result.help);
}
END_TEST

/* Strings that trimming or quotes could change. */
START_TEST(dump_reads_back_as_it_was)
{
    static const char *const notes[] = {" x", "x ", "\"x\"", "\"", "", "a = b # c", "\" x"};
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++) {
        char path[] = "/tmp/test_option_XXXXXX", line[256];
        struct buffer out;
        buffer_init(&out, 10000);
        ck_assert_int_eq(parse("--cache 3M --ratio 0.1 --limits --offset -12 --mode off"), ERROR_NONE);
        config.note = strdup(notes[i]);
        option_dump(&table, &config, &out);
        int fd = mkstemp(path);
        ck_assert_int_eq(write(fd, out.data, out.n_bytes), (ssize_t)out.n_bytes);
        close(fd);
        snprintf(line, sizeof line, "--config %s", path);
        ck_assert_msg(parse(line) == ERROR_NONE, "%s", err.message);
        ck_assert_str_eq(config.note, notes[i]);
        ck_assert_str_eq(config.mode, "off");
        ck_assert_int_eq(config.cache, 3 << 20);
        ck_assert_int_eq(config.offset, -12);
        ck_assert_double_eq(config.ratio, 0.1);
        ck_assert(config.limits);
        buffer_fini(&out);
        unlink(path);
    }
}
END_TEST

START_TEST(dump_is_a_configuration_file)
{
    struct buffer out;
    buffer_init(&out, 10000);
    ck_assert_int_eq(parse(""), ERROR_NONE);
    option_dump(&table, &config, &out);
    ck_assert_str_eq(out.data,
                     "listen = 127.0.0.1:1\nmode = auto\n# flag only: toy = false\n# key = (unset)\n# note =\nqueue-limit = 64\ncache = 1M\n"
                     "offset = 0\nratio = 0.5\nspan = 0\nrate = 0\nlimits = false\n");
    buffer_fini(&out);
}
END_TEST

START_TEST(help_names_every_option)
{
    struct buffer out;
    buffer_init(&out, 100000);
    option_help(&table, OPTION_HELP_TEXT, &out);
    ck_assert_msg(strncmp(out.data, "usage: prog\n", 12) == 0, "%s", out.data);
    for (const struct option_def *def = defs; def->name; def++) {
        ck_assert_msg(strstr(out.data, def->name), "%s", def->name);
        ck_assert_msg(strstr(out.data, def->help), "%s", def->name);
    }
    ck_assert_ptr_nonnull(strstr(out.data, "--queue-limit N\n        Waiting requests.\n"
                                           "        [requests; 1..4096; default 64; BITNET_QUEUE_LIMIT]\n"));
    ck_assert_ptr_nonnull(strstr(out.data, "--mode auto|on|off\n"));
    ck_assert_ptr_null(strstr(out.data, "--key"));
    ck_assert_ptr_nonnull(strstr(out.data, "--check-config"));
    buffer_fini(&out);
}
END_TEST

START_TEST(help_as_a_sample_file)
{
    struct buffer out;
    buffer_init(&out, 100000);
    ck_assert_int_eq(parse("--help=config --bogus"), ERROR_NONE);
    ck_assert_int_eq(result.help, OPTION_HELP_CONFIG);
    option_help(&table, result.help, &out);
    ck_assert_ptr_nonnull(strstr(out.data, "\n# Waiting requests.\n# [requests; 1..4096; default 64; BITNET_QUEUE_LIMIT]\n#queue-limit = 64\n"));
    ck_assert_ptr_nonnull(strstr(out.data, "\n# Mode.\n# [auto|on|off; default auto; BITNET_MODE]\n#mode = auto\n"));
    ck_assert_ptr_nonnull(strstr(out.data, "\n#limits = false\n"));
    ck_assert_ptr_nonnull(strstr(out.data, "\n#note =\n"));
    ck_assert_ptr_nonnull(strstr(out.data, "\n#key =\n")); /* a secret may come from a file */
    ck_assert_ptr_null(strstr(out.data, "toy"));             /* flag only */
    for (const char *line = out.data; *line; line += strcspn(line, "\n") + 1)
        ck_assert_msg(*line == '#' || *line == '\n', "%.40s", line);
    buffer_fini(&out);
}
END_TEST

START_TEST(help_as_a_manual_page)
{
    static const struct option_def roff_defs[] = {
        {.name = "a-b", .type = OPTION_INT, .offset = offsetof(struct config, offset), .help = ".so C:\\x\n'quoted' well-known"}, {0}};
    static const struct option_table roff_table = {"prog", "usage: prog --a\n       prog sub [--b]\n\nDoes -x.\n", roff_defs};
    struct buffer out;
    buffer_init(&out, 100000);
    ck_assert_int_eq(parse("--help=man"), ERROR_NONE);
    option_man_title("prog sub", 8, "does it - well", "1.0", &out);
    option_help(&roff_table, result.help, &out);
    ck_assert_ptr_eq(strstr(out.data, ".TH \"PROG-SUB\" 8 \"\" \"bitnetd 1.0\" \"bitnetd\"\n.SH NAME\nprog\\-sub \\- does it \\- well\n"), out.data);
    ck_assert_ptr_nonnull(strstr(out.data, ".SH SYNOPSIS\n.nf\nprog \\-\\-a\nprog sub [\\-\\-b]\n.fi\n.SH DESCRIPTION\nDoes \\-x.\n.SH OPTIONS\n"));
    /* No line of text is taken for a request. */
    ck_assert_ptr_nonnull(strstr(out.data, "\\fB\\-\\-a\\-b\\fR\\fI N\\fR\n\\&.so C:\\ex\n\\&'quoted' well\\-known\n.br\n[BITNET_A_B]\n"));
    ck_assert_ptr_nonnull(strstr(out.data, "BITNET_CONFIG"));
    buffer_fini(&out);
}
END_TEST

SUITE("option", defaults, flags_in_both_forms, precedence, file_from_the_environment, file_syntax,
      empty_variable_counts_as_unset, bool_words, sizes, errors, file_errors_name_the_line,
      wrong_value_is_an_error_where_it_is_hidden_too, secret_comes_from_the_environment_and_is_not_shown,
      flag_only_comes_from_nowhere_else, arguments_are_kept_in_order, arguments_are_bounded, common_switches, dump_reads_back_as_it_was,
      dump_is_a_configuration_file, help_names_every_option, help_as_a_sample_file, help_as_a_manual_page)
