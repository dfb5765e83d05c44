/* Keys of conversations. What is malformed here is refused elsewhere; it gets any key. */
#include "gateway/affinity.h"

#include "gateway/balance.h"

#include <string.h>

#define MAX_IDS (AFFINITY_BYTES / 4)

static uint64_t add_text(uint64_t h, const char *text, size_t n)
{
    return balance_hash(h, text, n < AFFINITY_BYTES ? n : AFFINITY_BYTES);
}

static uint64_t add_string(uint64_t h, const json_t *string)
{
    return add_text(h, json_string_value(string), json_string_length(string));
}

/* A message's content: a string, or parts with text. */
static uint64_t add_content(uint64_t h, const json_t *content)
{
    size_t i;
    const json_t *part;
    if (json_is_string(content))
        return add_string(h, content);
    json_array_foreach(content, i, part) if (json_is_string(json_object_get(part, "text"))) h =
        add_string(h, json_object_get(part, "text"));
    return h;
}

static uint64_t add_messages(uint64_t h, const json_t *messages)
{
    size_t i;
    const json_t *message;
    json_array_foreach(messages, i, message)
    {
        const char *role = json_string_value(json_object_get(message, "role"));
        h = add_content(h, json_object_get(message, "content"));
        if (role && strcmp(role, "user") == 0)
            break;
    }
    return h;
}

static uint64_t add_prompt(uint64_t h, const json_t *prompt)
{
    const json_t *first = json_array_get(prompt, 0);
    size_t i;
    const json_t *id;
    if (json_is_string(prompt))
        return add_string(h, prompt);
    if (json_is_string(first))
        return add_string(h, first);
    json_array_foreach(json_is_array(first) ? first : prompt, i, id)
    {
        json_int_t value = json_integer_value(id);
        if (i == MAX_IDS)
            break;
        h = balance_hash(h, &value, sizeof value);
    }
    return h;
}

uint64_t affinity_key(const json_t *root)
{
    static const char *const told[] = {"prompt_cache_key", "user"};
    const json_t *model = json_object_get(root, "model"), *messages = json_object_get(root, "messages"),
                 *prompt = json_object_get(root, "prompt");
    uint64_t h = json_is_string(model) ? add_string(0, model) : balance_hash(0, "", 0);
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        const json_t *key = json_object_get(root, told[i]);
        if (json_string_length(key) > 0)
            return balance_hash(h, json_string_value(key), json_string_length(key));
    }
    return messages ? add_messages(h, messages) : prompt ? add_prompt(h, prompt) : 0;
}
