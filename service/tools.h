/*
 * tools: functions that an answer may call. How they, the calls that were made and what came of them are told to the model is here; the form
 * that holds an answer to calls is a grammar (tools_grammar.c). The form of both is the one that models trained to call functions know best
 * (Hermes, Qwen); models that know none are told it, and the grammar keeps them to it.
 */
#ifndef SERVICE_TOOLS_H
#define SERVICE_TOOLS_H

#include "bitnet/v1/inference.pb-c.h"
#include "engine/engine.h"

#define TOOLS_MAX 128
#define TOOLS_MAX_CALLS 8 /* of an answer */
#define TOOLS_MAX_NAME 64
#define TOOLS_CALL_BEGIN "<tool_call>"
#define TOOLS_CALL_END "</tool_call>"

/* A chat as the engine takes it. */
struct tools_chat {
    struct chat_message *messages; /* [n] roles and contents are borrowed from the request, or from `texts` */
    size_t n;
    char **texts; /* [n] owned; NULL where nothing had to be written anew */
};

/* There are functions that may be called. */
bool tools_in_use(const Bitnet__V1__Tools *tools);
/* Number, names and mode. VALIDATION_FAILED with the param "tools". `tools` may be NULL. */
enum error_code tools_check(const Bitnet__V1__Tools *tools, struct error *err);
/* Roles that a chat template may lack. */
struct tools_roles {
    bool system, tool;
};
struct tools_roles tools_roles_of(const struct tokenizer *t);
/* The chat's messages with the tools in the system's, and calls and their results as text. Freed with tools_chat_fini, also after an error.
 * Any thread. */
enum error_code tools_render(const Bitnet__V1__Chat *chat, const Bitnet__V1__Tools *tools, struct tools_roles roles,
                             struct tools_chat *out, struct error *err);
void tools_chat_fini(struct tools_chat *c);

/* The answers that the tools, which have been checked and are in use, allow. `format` is what an answer without calls must be; it may be NULL.
 * The caller releases the grammar. VALIDATION_FAILED names the tool and the place in its schema. Any thread. */
enum error_code tools_grammar(const Bitnet__V1__Tools *tools, const Bitnet__V1__ResponseFormat *format,
                              struct grammar **out, struct error *err);

#endif
