/*
 * Calls in the text of an answer, as it comes: text in, words and calls out. The engine holds the text to
 *
 *   words  <tool_call>\n{"name": "NAME", "arguments": VALUE}\n</tool_call>  \n  <tool_call>...
 *
 *   TEXT --marker--> HEAD --", "arguments": --> ARGUMENTS --} that closes the call--> TAIL --end marker--> TEXT
 *
 * so nothing is guessed here; a text that is cut ends in any state. White space in front of a call belongs to it and is dropped, and what may
 * become a marker is held until it is decided. A parser is a pure state machine, one for each choice; zeroed it is at the beginning.
 */
#ifndef GATEWAY_TOOLS_H
#define GATEWAY_TOOLS_H

#include <stdbool.h>
#include <stddef.h>

#define TOOLS_MAX_NAME 64
#define TOOLS_HELD_BYTES 128 /* room for the head of a call; longer white space is not held */

enum tool_event_type {
    TOOL_TEXT,      /* words */
    TOOL_CALL,      /* a call begins; `text` is its name */
    TOOL_ARGUMENTS, /* a piece of the arguments' JSON text */
};

struct tool_event {
    enum tool_event_type type;
    int call; /* number of the call, from 0 */
    const char *text;
    size_t n_bytes;
};

struct tool_parser {
    enum { TOOLS_TEXT, TOOLS_HEAD, TOOLS_ARGUMENTS, TOOLS_TAIL } state;
    char held[TOOLS_HELD_BYTES];
    size_t n_held, n_matched; /* n_matched: bytes of the marker at hand */
    int n_calls, depth;       /* depth: of brackets in the arguments */
    bool in_string, escaped;
};

/* Takes the next bytes, which end with a character. `on_event` is called for what is decided, at most once for each change of state. */
void tool_parser_push(struct tool_parser *p, const char *text, size_t n_bytes,
                      void (*on_event)(void *user, const struct tool_event *e), void *user);
/* The text has ended: words that were held back come out. */
void tool_parser_finish(struct tool_parser *p, void (*on_event)(void *user, const struct tool_event *e), void *user);

#endif
