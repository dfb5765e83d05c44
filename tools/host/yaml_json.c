/*
 * yaml_json FILE: writes a YAML document as JSON. For the build, on the machine that builds. Understood is what an API's description
 * needs: mappings, sequences, and scalars by YAML 1.2's core schema; an alias is written out, and keys that are no scalars are refused.
 */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MAX_DEPTH 100

static yaml_document_t document;
static const char *file_name;

static void fail(const yaml_mark_t *at, const char *why)
{
    fprintf(stderr, "%s:%lu: %s\n", file_name, at ? (unsigned long)at->line + 1 : 0, why);
    exit(EXIT_FAILURE);
}

static void put_string(const unsigned char *text, size_t n)
{
    putchar('"');
    for (size_t i = 0; i < n; i++)
        if (text[i] == '"' || text[i] == '\\')
            printf("\\%c", text[i]);
        else if (text[i] < 0x20)
            printf("\\u%04x", text[i]);
        else
            putchar(text[i]);
    putchar('"');
}

/* What JSON writes for a number too: the core schema's hexadecimal, octal, .inf and .nan are not. */
static bool is_number(const char *text)
{
    const char *p = text + (*text == '-');
    if (*p == '0' ? isdigit((unsigned char)p[1]) : !isdigit((unsigned char)*p))
        return false;
    p += strspn(p, "0123456789");
    if (*p == '.') {
        size_t n = strspn(++p, "0123456789");
        if (n == 0)
            return false;
        p += n;
    }
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t n = strspn(p, "0123456789");
        if (n == 0)
            return false;
        p += n;
    }
    return *p == '\0';
}

static void put_scalar(const yaml_node_t *node)
{
    const char *text = (const char *)node->data.scalar.value;
    bool plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (plain && (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
        fputs("null", stdout);
    else if (plain && (strcmp(text, "true") == 0 || strcmp(text, "false") == 0 || is_number(text)))
        fputs(text, stdout);
    else
        put_string(node->data.scalar.value, node->data.scalar.length);
}

static void put_node(int index, int depth);

static void put_mapping(const yaml_node_t *node, int depth)
{
    putchar('{');
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(&document, p->key);
        if (key->type != YAML_SCALAR_NODE)
            fail(&key->start_mark, "expected a scalar as a key");
        for (yaml_node_pair_t *q = node->data.mapping.pairs.start; q < p; q++)
            if (strcmp((char *)yaml_document_get_node(&document, q->key)->data.scalar.value,
                       (char *)key->data.scalar.value) == 0)
                fail(&key->start_mark, "this key stands twice");
        if (p != node->data.mapping.pairs.start)
            putchar(',');
        put_string(key->data.scalar.value, key->data.scalar.length);
        putchar(':');
        put_node(p->value, depth);
    }
    putchar('}');
}

static void put_node(int index, int depth)
{
    const yaml_node_t *node = yaml_document_get_node(&document, index);
    if (depth > MAX_DEPTH)
        fail(&node->start_mark, "nested too deep, or an alias of what it is in");
    if (node->type == YAML_SCALAR_NODE) {
        put_scalar(node);
    } else if (node->type == YAML_MAPPING_NODE) {
        put_mapping(node, depth + 1);
    } else {
        putchar('[');
        for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
            if (i != node->data.sequence.items.start)
                putchar(',');
            put_node(*i, depth + 1);
        }
        putchar(']');
    }
}

int main(int argc, char **argv)
{
    yaml_parser_t parser;
    if (argc != 2) {
        fprintf(stderr, "usage: yaml_json FILE\n");
        return EXIT_FAILURE;
    }
    file_name = argv[1];
    FILE *f = fopen(file_name, "rb");
    if (!f || !yaml_parser_initialize(&parser))
        fail(NULL, "cannot be opened");
    yaml_parser_set_input_file(&parser, f);
    if (!yaml_parser_load(&parser, &document))
        fail(&parser.problem_mark, parser.problem);
    if (!yaml_document_get_root_node(&document))
        fail(NULL, "expected a document, found none");
    put_node(1, 0);
    putchar('\n');
    yaml_document_delete(&document);
    yaml_parser_delete(&parser);
    fclose(f);
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
}
