/* bitnet tokenize: text to ids, ids to text. */
#include "tools/command.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct config {
    const char *model, *file;
    bool ids, decode, add_special, parse_special;
};

static const struct option_def defs[] = {
    {.name = "model", .type = OPTION_STRING, .offset = offsetof(struct config, model),
     .help = "GGUF file (a vocabulary-only one too) or tiktoken rank file (required)"},
    {.name = "file", .type = OPTION_STRING, .offset = offsetof(struct config, file), .default_value = "-",
     .help = "text to read; - is standard input"},
    {.name = "ids", .type = OPTION_BOOL, .offset = offsetof(struct config, ids),
     .help = "print only the ids, separated by spaces, on one line"},
    {.name = "decode", .type = OPTION_BOOL, .offset = offsetof(struct config, decode),
     .help = "the input is ids separated by white space; print their text"},
    {.name = "add-special", .type = OPTION_BOOL, .offset = offsetof(struct config, add_special),
     .help = "add BOS and EOS as the model asks"},
    {.name = "parse-special", .type = OPTION_BOOL, .offset = offsetof(struct config, parse_special),
     .help = "read special tokens that stand in the text as such"},
    {.name = NULL}};

static const struct option_table table = {"bitnet tokenize",
                                          "usage: bitnet tokenize --model FILE [--ids] < TEXT\n", defs};

static int print_ids(const struct config *c, const struct tokenizer *t, const struct buffer *text)
{
    struct error err = {0};
    struct token_list list = {0};
    if (tokenizer_encode(t, text->data ? text->data : "", text->n_bytes, c->add_special, c->parse_special, &list, &err)) {
        free(list.ids);
        return command_fail(&err);
    }
    for (size_t i = 0; i < list.n; i++) {
        if (c->ids) {
            printf("%s%" PRIu32, i ? " " : "", list.ids[i]);
            continue;
        }
        size_t n_bytes;
        const char *piece = tokenizer_piece(t, list.ids[i], &n_bytes);
        struct buffer quoted;
        buffer_init(&quoted, 1 << 20);
        buffer_append_json(&quoted, piece ? piece : "", piece ? n_bytes : 0);
        printf("%8" PRIu32 "  \"%s\"\n", list.ids[i], quoted.data ? quoted.data : "");
        buffer_fini(&quoted);
    }
    if (c->ids)
        putchar('\n');
    free(list.ids);
    return 0;
}

static int print_text(const struct tokenizer *t, const struct buffer *input)
{
    struct error err = {0};
    struct buffer text;
    buffer_init(&text, SIZE_MAX / 2);
    int status = 0;
    const char *p = input->data ? input->data : "";
    struct token_list list = {0};
    for (;;) {
        char *end;
        p += strspn(p, " \t\r\n");
        unsigned long id = strtoul(p, &end, 10);
        if (end == p)
            break;
        p = end;
        if (list.n == list.capacity) {
            list.capacity = list.capacity ? 2 * list.capacity : 256;
            list.ids = realloc(list.ids, list.capacity * sizeof *list.ids);
            if (!list.ids)
                abort();
        }
        list.ids[list.n++] = id > UINT32_MAX ? UINT32_MAX : (uint32_t)id;
    }
    if (*p) {
        error_set(&err, ERROR_VALIDATION_FAILED, "expected token ids separated by white space, found \"%.20s\"", p);
        status = command_fail(&err);
    } else if (tokenizer_decode(t, list.ids, list.n, false, &text, &err)) {
        status = command_fail(&err);
    } else if (text.n_bytes) {
        fwrite(text.data, 1, text.n_bytes, stdout);
    }
    free(list.ids);
    buffer_fini(&text);
    return status;
}

int command_tokenize(int argc, char **argv)
{
    static const char *const map[] = {"m", "--model", "f", "--file", NULL};
    struct config c = {0};
    struct option_result result = {0};
    command_expand_short(argc, argv, map);
    command_parse(&table, argc, argv, &c, &result);
    if (!c.model) {
        fputs("bitnet tokenize: --model FILE is required\n", stderr);
        return 2;
    }
    struct error err = {0};
    struct tokenizer *t = NULL;
    struct buffer input;
    buffer_init(&input, SIZE_MAX / 2);
    int status;
    if (tokenizer_open(c.model, &t, &err) || !command_read_file(c.file, &input, &err))
        status = command_fail(&err);
    else
        status = c.decode ? print_text(t, &input) : print_ids(&c, t, &input);
    buffer_fini(&input);
    tokenizer_close(t);
    option_free(&table, &c);
    return status;
}
