/*
 * Chat templates: messages to ids. Templates are Jinja in the model files; running files' programs on requests is more than a
 * server should do, so the ones that the served models use are rows of a table, chosen by what is distinctive in the file's.
 *
 * A template's own parts are read for special tokens, messages never are. Everything between two special tokens is
 * tokenised as one text, as if the template had been written out first: "User: " and "hello" give " hello", not "hello".
 */
#include "engine/text/vocab.h"

#include "base/log.h"
#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

/* In the parts below: the model's own BOS and EOS. */
#define BOS "\1"
#define EOS "\2"
#define MAX_MARKS 3

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, N_ROLES };
static const char *const ROLE_NAMES[N_ROLES] = {"system", "user", "assistant", "tool"};

struct turn {
    const char *before, *after; /* around the message's text; NULL: the template has no such role */
};

struct chat_template {
    const char *name;
    const char *marks[MAX_MARKS]; /* all of these in tokenizer.chat_template */
    const char *never;            /* and not this one */
    bool bos;                     /* begins with BOS, whatever the model does for plain texts */
    bool trim;                    /* white space around messages is dropped */
    struct turn turns[N_ROLES];
    const char *user_after_system; /* instead of the user's `before` there, when the system's turn stays open */
    const char *answer;            /* what the model continues */
};

#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"

static const struct chat_template TEMPLATES[] = {
    {.name = "chatml",
     .marks = {"<|im_start|>", "<|im_end|>"},
     .turns = {{"<|im_start|>system\n", "<|im_end|>\n"},
               {"<|im_start|>user\n", "<|im_end|>\n"},
               {"<|im_start|>assistant\n", "<|im_end|>\n"},
               {"<|im_start|>tool\n", "<|im_end|>\n"}},
     .answer = "<|im_start|>assistant\n"},
    {.name = "llama3", /* 3.1: tools answer as ipython */
     .marks = {"<|start_header_id|>", "<|end_header_id|>", "ipython"},
     .bos = true,
     .trim = true,
     .turns = {{HEADER("system"), "<|eot_id|>"},
               {HEADER("user"), "<|eot_id|>"},
               {HEADER("assistant"), "<|eot_id|>"},
               {HEADER("ipython"), "<|eot_id|>"}},
     .answer = HEADER("assistant")},
    {.name = "llama3",
     .marks = {"<|start_header_id|>", "<|end_header_id|>"},
     .bos = true,
     .trim = true,
     .turns = {{HEADER("system"), "<|eot_id|>"},
               {HEADER("user"), "<|eot_id|>"},
               {HEADER("assistant"), "<|eot_id|>"},
               {HEADER("tool"), "<|eot_id|>"}},
     .answer = HEADER("assistant")},
    {.name = "bitnet-cpp", /* written into the file by bitnet.cpp's converter, EOS after the prompt included */
     .marks = {"Human: ", "BITNETAssistant: ' + eos_token"},
     .bos = true,
     .turns = {[ROLE_USER] = {"Human: ", "\n\nBITNETAssistant: " EOS}, [ROLE_ASSISTANT] = {"", EOS}},
     .answer = ""},
    {.name = "bitnet-2b4t",
     .marks = {"capitalize", "<|eot_id|>", "Assistant: "},
     .bos = true,
     .trim = true,
     .turns = {{"System: ", "<|eot_id|>"},
               {"User: ", "<|eot_id|>"},
               {"Assistant: ", "<|eot_id|>"},
               {"Tool: ", "<|eot_id|>"}},
     .answer = "Assistant: "},
    {.name = "llama2",
     .marks = {"[INST]", "<<SYS>>"},
     .bos = true,
     .trim = true,
     .turns = {[ROLE_SYSTEM] = {BOS "[INST] <<SYS>>\n", "\n<</SYS>>\n\n"},
               [ROLE_USER] = {BOS "[INST] ", " [/INST]"},
               [ROLE_ASSISTANT] = {" ", " " EOS}},
     .user_after_system = "",
     .answer = ""},
    {.name = "falcon3",
     .marks = {"<|user|>", "<|assistant|>"},
     .never = "<|end|>", /* that would be Phi-3's */
     .turns = {{"<|system|>\n", "\n"},
               {"<|user|>\n", "\n"},
               {"<|assistant|>\n", EOS "\n"},
               {"<|assistant|>\n<tool_response>\n", "\n</tool_response>\n"}},
     .answer = "<|assistant|>\n"},
};
#define N_TEMPLATES (sizeof TEMPLATES / sizeof TEMPLATES[0])

static const struct chat_template *find_template(const char *name)
{
    const struct chat_template *found = NULL;
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (strcmp(TEMPLATES[i].name, name) == 0)
            found = &TEMPLATES[i];
    return found;
}

static bool contains(const char *source, size_t n_bytes, const char *mark)
{
    return memmem(source, n_bytes, mark, strlen(mark)) != NULL;
}

static bool fits(const struct chat_template *c, const char *source, size_t n_bytes)
{
    for (int i = 0; i < MAX_MARKS && c->marks[i] != NULL; i++)
        if (!contains(source, n_bytes, c->marks[i]))
            return false;
    return c->never == NULL || !contains(source, n_bytes, c->never);
}

/* By the special tokens: those of 2B-4T are Llama 3's, so its architecture decides between the two. */
static const struct chat_template *choose_by_vocabulary(const struct tokenizer *t, bool bitnet)
{
    if (bitnet && vocab_special(t, "<|eot_id|>") >= 0)
        return find_template("bitnet-2b4t");
    if (vocab_special(t, "<|start_header_id|>") >= 0 && vocab_special(t, "<|eot_id|>") >= 0)
        return find_template("llama3");
    if (vocab_special(t, "<|im_start|>") >= 0 && vocab_special(t, "<|im_end|>") >= 0)
        return find_template("chatml");
    if (vocab_special(t, "<|user|>") >= 0 && vocab_special(t, "<|assistant|>") >= 0)
        return find_template("falcon3");
    return NULL;
}

const struct chat_template *chat_template_choose(const struct tokenizer *t, const char *source, size_t n_bytes,
                                                 const char *architecture, size_t n_architecture)
{
    if (source == NULL)
        return choose_by_vocabulary(t, n_architecture >= 6 && memcmp(architecture, "bitnet", 6) == 0);
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (fits(&TEMPLATES[i], source, n_bytes))
            return &TEMPLATES[i];
    log_warn("engine", "the model's chat template is not one that is known here: chat is not available");
    return NULL;
}

const char *tokenizer_chat_template(const struct tokenizer *t)
{
    return t->chat == NULL ? NULL : t->chat->name;
}

bool tokenizer_chat_has_role(const struct tokenizer *t, const char *role)
{
    for (int i = 0; t->chat != NULL && i < N_ROLES; i++)
        if (strcmp(ROLE_NAMES[i], role) == 0)
            return t->chat->turns[i].before != NULL;
    return false;
}

/* ---- rendering ---- */

struct render {
    const struct tokenizer *t;
    struct encoder encoder;
    struct buffer run; /* plain text since the last special token */
    size_t begin;      /* where the chat begins in the list */
    struct error *err;
};

static enum error_code flush(struct render *r)
{
    if (r->run.failed)
        return error_set(r->err, ERROR_MEMORY_EXHAUSTED, "no memory for the chat's text");
    enum error_code code = encoder_text(&r->encoder, r->run.data, r->run.n_bytes, false, r->err);
    buffer_clear(&r->run);
    return code;
}

static enum error_code special(struct render *r, int64_t id)
{
    enum error_code code = flush(r);
    return code != ERROR_NONE || id < 0 ? code : encoder_push(&r->encoder, (uint32_t)id, r->err);
}

/* BOS where the template has one; the first may be there already. */
static enum error_code begin_turn(struct render *r)
{
    enum error_code code = flush(r);
    if (code != ERROR_NONE || r->t->bos < 0)
        return code;
    const struct token_list *out = r->encoder.out;
    if (out->n > r->begin && out->ids[out->n - 1] == (uint32_t)r->t->bos)
        return ERROR_NONE;
    return encoder_push(&r->encoder, (uint32_t)r->t->bos, r->err);
}

/* A part of the template: BOS and EOS stand-ins, special tokens of the vocabulary, text. */
static enum error_code part(struct render *r, const char *text)
{
    size_t n_bytes = strlen(text);
    enum error_code code = ERROR_NONE;
    for (size_t from = 0; from < n_bytes && code == ERROR_NONE;) {
        size_t at = n_bytes, own = from + strcspn(text + from, BOS EOS);
        const struct special *s = specials_find(&r->t->specials, text, n_bytes, from, true, &at);
        if (s != NULL && at < own) {
            buffer_append(&r->run, text + from, at - from);
            code = special(r, s->id);
            from = at + s->n_bytes;
        } else {
            buffer_append(&r->run, text + from, own - from);
            if (text[own] == *BOS)
                code = begin_turn(r);
            if (text[own] == *EOS)
                code = special(r, r->t->eos);
            from = own + 1;
        }
    }
    return code;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static enum error_code message(struct render *r, enum role role, const char *content, bool after_system)
{
    const struct chat_template *c = r->t->chat;
    const char *before = c->turns[role].before;
    if (role == ROLE_USER && after_system && c->user_after_system != NULL)
        before = c->user_after_system;
    enum error_code code = part(r, before);
    if (code != ERROR_NONE)
        return code;
    size_t n_bytes = strlen(content);
    while (c->trim && n_bytes > 0 && is_space(*content))
        content++, n_bytes--;
    while (c->trim && n_bytes > 0 && is_space(content[n_bytes - 1]))
        n_bytes--;
    buffer_append(&r->run, content, n_bytes);
    return part(r, c->turns[role].after);
}

/* The message's role, checked together with its text. */
static enum error_code check_message(const struct tokenizer *t, const struct chat_message *m, size_t i, enum role *role,
                                     struct error *err)
{
    char param[64];
    int found = 0;
    while (found < N_ROLES && (m->role == NULL || strcmp(ROLE_NAMES[found], m->role) != 0))
        found++;
    if (found == N_ROLES || t->chat->turns[found].before == NULL) {
        snprintf(param, sizeof param, "messages[%zu].role", i);
        return error_set_param(err, ERROR_VALIDATION_FAILED, param, "%s: the chat template %s has no role \"%.64s\"",
                               param, t->chat->name, m->role == NULL ? "" : m->role);
    }
    *role = (enum role)found;
    size_t bad = 0;
    if (m->content != NULL && utf8_valid(m->content, strlen(m->content), &bad))
        return ERROR_NONE;
    snprintf(param, sizeof param, "messages[%zu].content", i);
    if (m->content == NULL)
        return error_set_param(err, ERROR_VALIDATION_FAILED, param, "%s is missing", param);
    return error_set_param(err, ERROR_VALIDATION_FAILED, param, "%s is not valid UTF-8 at byte %zu", param, bad);
}

static enum error_code render(struct render *r, const struct chat_message *messages, size_t n_messages)
{
    const struct chat_template *c = r->t->chat;
    bool after_system = false;
    enum error_code code = c->bos || r->t->add_bos ? begin_turn(r) : ERROR_NONE;
    for (size_t i = 0; i < n_messages && code == ERROR_NONE; i++) {
        enum role role = ROLE_USER;
        code = check_message(r->t, &messages[i], i, &role, r->err);
        if (code == ERROR_NONE)
            code = message(r, role, messages[i].content, after_system);
        after_system = role == ROLE_SYSTEM;
    }
    if (code == ERROR_NONE)
        code = part(r, c->answer);
    return code == ERROR_NONE ? flush(r) : code;
}

enum error_code tokenizer_encode_chat(const struct tokenizer *t, const struct chat_message *messages, size_t n_messages,
                                      struct token_list *out, struct error *err)
{
    if (t->chat == NULL)
        return error_set(err, ERROR_VALIDATION_FAILED,
                         "the model has no chat template: send a prompt instead of messages");
    if (n_messages == 0)
        return error_set_param(err, ERROR_VALIDATION_FAILED, "messages", "messages: expected at least one");
    struct render r = {.t = t, .begin = out->n, .err = err};
    encoder_init(&r.encoder, t, out);
    buffer_init(&r.run, SIZE_MAX / 2);
    enum error_code code = render(&r, messages, n_messages);
    buffer_fini(&r.run);
    encoder_fini(&r.encoder);
    return code;
}
