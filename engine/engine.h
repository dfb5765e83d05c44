/*
 * engine: inference of ternary language models. No gRPC, no HTTP, no JSON.
 *
 *   engine_open -> engine_submit -> stream_read ... -> stream_close -> engine_drain -> engine_close
 *
 * One thread inside, the loop, owns the model's state, the KV cache and the batch. engine_submit may be called from any
 * thread: it takes a place in the bounded queue first, then tokenises on the caller's thread, then hands the request to the
 * loop. Each request is answered through a stream: a bounded buffer between the loop and one reader. A reader that
 * does not read pauses its own sequence, nothing else.
 *
 * The tokens of a request depend on model, prompt, parameters and seed only.
 *
 * Errors: functions that can fail return an enum error_code and fill `struct error`. Strings are UTF-8.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/buffer.h"
#include "base/error.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- engine ----------------------------------------------------------------------------------------------------- */

struct engine;
struct turn;

/* Gives a descriptor of a file for reading, which the callee closes, or -1 and *err (not NULL). */
struct file_opener {
    int (*open)(void *user, const char *path, struct error *err);
    void *user;
};

struct engine_options {
    const char *model_path;      /* GGUF file */
    const char *model_id;        /* NULL = the file's name without .gguf, other characters than A-Z a-z 0-9 _ - turned into - */
    const char *device;          /* "auto" (or NULL), "cpu", "gpu", "cuda:N"; auto and gpu take the first that works of all GPUs and the CPU, see
                                  * engine/devices.h */
    const char *isa;             /* see backend_options; NULL = best */
    int n_threads;               /* 0 = automatic */
    bool pin, idle_priority;     /* see backend_options */
    const char *numa;
    enum ternary_format format;
    int i2s_order;               /* enum i2s_order, or -1 = by the weights, which tell it when they are trained; else I2S_ORDER_128 */
    size_t context_length;       /* positions a sequence may have; 0 = the model's, at most */
    enum kv_type kv_type;        /* of the KV cache; int8 takes about half of F16's memory */
    size_t kv_cache_bytes;       /* 0 = automatic: room for max_sequences of average length, at most a quarter of memory */
    size_t max_sequences;        /* in the batch at once; 0 = 64 */
    size_t max_batch_tokens;     /* rows of a step: decodes first, then prefill chunks; 0 = 512 */
    int64_t target_step_ns;      /* of a step with decodes, which prompts fill up to it: the time between two tokens; 0 = less than twice
                                  * what it will be once the prompts decode too */
    size_t queue_limit;          /* requests that wait; 0 = 256 */
    uint64_t queue_tokens;       /* of prompts that wait and of the answers they ask for, by estimate until a prompt is tokenised; 0 = no bound */
    int64_t queue_wait_ns;       /* a request that would wait longer, by estimate, is refused, and one that did without starting ends as refused; 0 = no bound */
    int64_t default_timeout_ns;  /* for requests without their own; 0 = none */
    int64_t stall_timeout_ns;    /* a request whose stream is full, and of which nothing was read, for this long ends with READER_STALLED; 0 = never */
    bool no_speculation;         /* one token of a sequence a step; see engine/draft.h. The tokens are the same */
    bool no_prefix_cache;        /* every prompt is computed whole, nothing is kept of one request for another */
    double accuracy_share;       /* of requests that are computed again in idle time; see engine_accuracy. 0 = none, 1 = all */
    double accuracy_threshold;   /* share of tokens that must be the same, up to 1; 0 = 0.99 */
    struct turn *turn;           /* engines that have the same one make their steps in turns, when they are on the CPU (engine/turn.h); NULL = none */
    const struct file_opener *opener; /* opens the model's files; NULL = open(2) by their paths. Until engine_open returns */
    bool load_in_background;     /* what loads gives way to what serves; the engine itself has the caller's priority */
    bool (*on_load)(void *user, double share); /* asked as loading goes on, share 0..1, on one thread: false ends it with CANCELLED; or NULL */
    void *on_load_user;
    const struct null_options *null_model; /* not NULL: nothing is computed (see backend_open_null), the id is "null-model", the device "null";
                                  * answers are plain text that never ends by itself. The file gives tokenizer and shape */
    /* Of session_open only: */
    bool sampling;               /* prepares what session_sample needs, as engine_open does */
    size_t kv_positions;         /* of all sequences together; 0 = the whole context for each */
};

/* Loads the model and starts the loop. The caller closes it. Errors name the file, key or tensor at fault. */
enum error_code engine_open(const struct engine_options *options, struct engine **out, struct error *err);

/* No new request is accepted (SERVICE_UNAVAILABLE); those that have not started end with SERVICE_UNAVAILABLE at once, running ones go on until they
 * finish or `deadline_ns` (clock_now_ns) passes, when they end with SERVICE_UNAVAILABLE. Returns when none is left. Any thread. */
void engine_drain(struct engine *e, int64_t deadline_ns);
/* Begins what engine_drain waits for. Any thread. */
void engine_refuse(struct engine *e, int64_t deadline_ns);

/* Ends what still runs and stops the loop: when it returns nobody is observed or called any more, and what the engine has counted is final. May
 * be called once more. */
void engine_stop(struct engine *e);
/* Stops the engine, unless that has been done, and frees all. Streams that are still open stay readable until they are closed. */
void engine_close(struct engine *e);

/* What is served; strings live as long as the engine. Any thread. */
struct engine_model {
    const char *id, *path, *architecture, *device, *device_name, *isa;
    const char *quantization;    /* "i2s": layout that the kernels read */
    const char *quantization_reason; /* "asked for", or why another serves, or why auto chose it */
    const char *chat_template;   /* name of the chat template in use, NULL when the model has none */
    uint64_t n_parameters, file_bytes, weight_bytes, kv_bytes, scratch_bytes;
    uint64_t device_memory_bytes; /* of the device; for a CPU what the process may use */
    uint32_t n_threads;          /* that compute */
    uint32_t vocab_size, context_length, n_kv_blocks, kv_block_size;
    uint32_t embedding_size;     /* of the vectors of a model that computes embeddings, and generates nothing; 0 = it generates */
    int64_t created_unix;
    double load_seconds;
    const char *fallback_reason; /* why the devices before it are not used; NULL when it is the one that was asked for */
    const char *lost_device;     /* where it was served before, until that device failed; NULL = it never moved */
};
/* Of now: a model moves to the next device when its own fails. What was returned before stays valid, too. */
const struct engine_model *engine_model(const struct engine *e);

/* Whether the device is known to fail (see engine/breaker.h): OPEN refuses new requests, HALF_OPEN lets one through to see. */
enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };

/* Keeps the calling thread, and those that it will make, off the CPUs that pinned compute threads have (see backend_spare_thread). */
void engine_spare_thread(const struct engine *e);

/* Counters since start and gauges of now. Any thread; a consistent copy. */
struct engine_stats {
    uint64_t n_requests, n_finished_stop, n_finished_length, n_cancelled, n_deadline, n_failed, n_rejected;
    uint64_t n_device_failures;  /* steps that the device did not make */
    uint64_t n_moves;            /* to another device, as the one before had failed */
    enum breaker_state breaker;
    uint64_t n_stalled;          /* of n_failed: their readers had stopped */
    uint64_t n_prompt_tokens, n_generated_tokens, n_steps, n_step_rows;
    uint64_t n_preempted;        /* sequences that gave way to a request of high priority, and went on later */
    uint64_t n_waiting_tokens;   /* of the queue, as queue_tokens bounds it */
    uint64_t n_drafted, n_draft_accepted; /* tokens that were tried ahead, and that stood */
    uint64_t n_prefix_queries, n_prefix_hits; /* tokens of prompts that began, of each choice; of these, found in the KV cache */
    uint32_t n_waiting, n_running, n_kv_blocks_used, n_kv_blocks, batch_size;
    uint32_t n_kv_blocks_kept;   /* held by nobody, kept for prompts that begin alike; may be taken at any time */
    int64_t last_turn_ns;        /* clock_now_ns of the loop's last turn; an idle loop turns every second */
    double busy_seconds;         /* time spent in steps */
};
void engine_stats(struct engine *e, struct engine_stats *out);

/* Live accuracy: a share of the requests is computed again by the portable kernels, on the same weights, by a thread of the lowest priority, and
 * compared token by token; as results do not depend on the kernels, all are the same unless something is broken. Which ones: see
 * engine/accuracy.h. Since start, but for `recent`. */
struct engine_accuracy {
    uint64_t n_requests, n_compared, n_same; /* requests; tokens */
    uint64_t n_violations;       /* requests of whose tokens less than the threshold were the same */
    uint64_t n_dropped;          /* requests whose turn it was while too many waited for theirs */
    double recent, lowest;       /* share of tokens that were the same: of the last 32 such requests, the lowest of one */
    double threshold;
    bool degraded;               /* `recent` is below the threshold */
};
/* False when nothing has been compared so far; then only n_dropped and threshold say anything, and nothing at all when the share is 0. Any thread. */
bool engine_accuracy(struct engine *e, struct engine_accuracy *out);

/* Called on the loop thread for each finished request, for histograms; must not block. */
struct engine_observation {
    int finish;                  /* enum finish_reason */
    double queue_s, first_token_s, total_s; /* negative = it did not come so far */
    uint32_t n_prompt_tokens, n_generated_tokens;
    const char *trace_id;        /* the request's, valid during the call; NULL = none */
};
/* And for each step: rows in it, sequences in it, its seconds. And for each gap between two tokens of a sequence. */
struct engine_observer {
    void *user;
    void (*on_finish)(void *user, const struct engine_observation *o);
    void (*on_step)(void *user, size_t n_rows, size_t n_sequences, double seconds);
    void (*on_token_gap)(void *user, double seconds);
    void (*on_move)(void *user); /* engine_model is another one; or NULL */
};
/* Once; from then on until engine_stop returns. What happened before is not told. */
void engine_observe(struct engine *e, const struct engine_observer *observer);

/* ---- grammars: what an answer must be -------------------------------------------------------------------------- */

/* Immutable once compiled, counted; any thread. A request that has one gets only tokens with which its answer can still become a text of
 * the grammar; where the grammar allows no more, the answer ends. */
struct grammar;
struct grammar *grammar_ref(struct grammar *g); /* one more reference; returns g */
void grammar_release(struct grammar *g);        /* one less; NULL is ignored */
size_t grammar_memory_bytes(const struct grammar *g);
/* What a text is to a grammar: none of it, the beginning of one, or a whole one. NO too when memory is out. */
enum grammar_match { GRAMMAR_NO, GRAMMAR_BEGINS, GRAMMAR_WHOLE };
enum grammar_match grammar_match(struct grammar *g, const char *text, size_t n_bytes);

/* A grammar is built of expressions, which are numbers, each usable any number of times. What goes wrong on the way (memory, bounds) is
 * kept and told by grammar_compile, so that the calls between need no checks. One thread. */
#define GRAMMAR_EMPTY 0u              /* the expression of the empty text */
#define GRAMMAR_UNBOUNDED UINT32_MAX
struct grammar_builder;
struct char_range { uint32_t first, last; }; /* code points, both included */

struct grammar_builder *grammar_builder_open(void); /* NULL when memory is out */
void grammar_builder_close(struct grammar_builder *b);
uint32_t grammar_text(struct grammar_builder *b, const char *bytes, size_t n_bytes);
/* One character of the ranges, or of all others (`except`). in_json: as it stands inside of a JSON string, where " and \ and control
 * characters are escaped; then all characters together may also be written as \uXXXX. U+0000 and surrogates are never meant. */
uint32_t grammar_chars(struct grammar_builder *b, const struct char_range *ranges, size_t n, bool except, bool in_json);
uint32_t grammar_sequence(struct grammar_builder *b, uint32_t first, uint32_t second);
uint32_t grammar_choice(struct grammar_builder *b, uint32_t first, uint32_t second);
/* min to max times; max GRAMMAR_UNBOUNDED: no end. Costs memory in proportion to `max`. */
uint32_t grammar_repeat(struct grammar_builder *b, uint32_t what, uint32_t min, uint32_t max);
/* A rule stands for an expression that is given later, so that it may contain itself, but not at its own beginning. */
uint32_t grammar_rule(struct grammar_builder *b);
void grammar_rule_set(struct grammar_builder *b, uint32_t rule, uint32_t what);
uint32_t grammar_call(struct grammar_builder *b, uint32_t rule);
/* A regular expression as ECMA 262 writes them (flag u), without look-around, back-references, word borders and \p; ^ and $ only at the
 * ends of the whole or of an alternative that is not in brackets. search: the text must contain a match, else be one. VALIDATION_FAILED
 * names what is not understood and its offset. */
enum error_code grammar_regex(struct grammar_builder *b, const char *pattern, size_t n_bytes, bool search, bool in_json,
                              uint32_t *out, struct error *err);
/* The texts of rule `start`. VALIDATION_FAILED: a bound was passed, a rule begins with itself, or no text is possible. */
enum error_code grammar_compile(struct grammar_builder *b, uint32_t start, struct grammar **out, struct error *err);

/* ---- requests --------------------------------------------------------------------------------------------------- */

struct sampling {
    float temperature;           /* 0 = greedy; 0..2 */
    uint32_t top_k;              /* 0 = off */
    float top_p;                 /* 0..1, 1 = off; 0 keeps the best token */
    float min_p;                 /* 0..1, 0 = off */
    float repetition_penalty;    /* 1 = off; 0..2, 0 counts as 1 */
    float presence_penalty, frequency_penalty; /* -2..2 */
    uint64_t seed;
    const struct logit_bias { uint32_t id; float bias; } *bias; /* [n_bias], at most 300 */
    size_t n_bias;
};
/* temperature 0.7, top_k 50, top_p 0.9, all else off, seed 0. */
struct sampling sampling_defaults(void);

struct chat_message { const char *role, *content; };

enum priority { PRIORITY_NORMAL, PRIORITY_LOW, PRIORITY_HIGH };

struct request {
    const char *id;              /* for logs; may be NULL */
    const char *trace_id;        /* 32 hexadecimal digits, for observers; NULL = none */
    const char *client_id;       /* requests of one client wait for each other, those of several take turns; NULL or "" = one shared client */
    /* Exactly one of the three inputs. */
    const char *prompt;          size_t prompt_bytes;      /* text; BOS is added as the model asks */
    const struct chat_message *messages; size_t n_messages; /* rendered by the model's chat template */
    const uint32_t *tokens;      size_t n_tokens;          /* as they are */
    uint32_t max_tokens;         /* at least 1, or 0 with prompt_logprobs and one choice: nothing is generated; cut to what the context leaves */
    struct sampling sampling;
    const char *const *stop;     size_t n_stop;            /* at most 16 of 1..256 bytes */
    uint32_t n;                  /* choices, 1..8; 0 = 1 */
    bool logprobs;
    uint32_t top_logprobs;       /* 0..20 */
    bool prompt_logprobs;        /* those of the prompt's tokens too, with `logprobs`; all of the prompt is computed then, none is taken from the cache */
    bool ignore_eos;
    bool embed;                  /* the vector of the text is asked for, of a model with an embedding_size; max_tokens, stop, n, logprobs, grammar stay 0 */
    struct grammar *grammar;     /* what the answer must be, or NULL; not together with ignore_eos. A reference is taken */
    enum priority priority;
    int64_t deadline_ns;         /* clock_now_ns; 0 = the engine's default, CLOCK_NEVER = none */
    /* Called when a stream that had nothing to read has something, and when one ends with an error. On the loop thread; must not block or call the engine. */
    void (*on_ready)(void *user);
    void *user;
};

enum finish_reason { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_DEADLINE, FINISH_ERROR };

struct stream;

/* Why a request is not admitted: err->reason of SERVICE_UNAVAILABLE and DEVICE_UNAVAILABLE. */
#define REFUSED_QUEUE_FULL "queue_full"     /* queue_limit */
#define REFUSED_QUEUE_TOKENS "queue_tokens" /* queue_tokens */
#define REFUSED_QUEUE_WAIT "queue_wait"     /* queue_wait_ns, at once or when it has passed */
#define REFUSED_PRIORITY "priority"         /* what is left of either is for higher priorities */
#define REFUSED_DEADLINE "deadline"         /* it would pass while the request waits */
#define REFUSED_DRAINING "draining"
#define REFUSED_DEVICE "device"             /* of DEVICE_UNAVAILABLE: it failed a few times in a row */

/* Checks, queues and returns a stream that the caller closes. All of `r` is copied. Errors: VALIDATION_FAILED (bounds, prompt
 * over context, invalid UTF-8; err->param names the field), SERVICE_UNAVAILABLE (not admitted), DEVICE_UNAVAILABLE (it fails); both set
 * reason and retry_after_ms. What can be refused is refused before the prompt is tokenised. */
enum error_code engine_submit(struct engine *e, const struct request *r, struct stream **out, struct error *err);
/* Whether there is a place for such a request now, else engine_submit's refusal, which counts as one; or what is wrong with it. To be asked
 * before what is costly to prepare, as a grammar is. Takes no place. Any thread. */
enum error_code engine_admits(struct engine *e, const struct request *r, struct error *err);

struct token_logprob { uint32_t id; float logprob; };

/* One generated token. */
struct token {
    uint32_t id;
    const char *text;            /* whole characters; may be empty while a character or a stop string is still open */
    size_t n_bytes;
    float logprob;               /* of the distribution before temperature and truncation, after penalties and bias; 0 if not asked */
    const struct token_logprob *top; /* [n_top], descending, or NULL */
    uint32_t n_top;              /* top_logprobs of the request; fewer where a grammar allows, or the vocabulary has, no more */
};

/* What stream_read takes out: the tokens of one choice that were waiting, or its end, or the end of all. Where prompt_logprobs were asked for
 * the first is PROMPT: the prompt's tokens, without texts, as they are by the model alone, without penalties and bias; the first token's
 * logprob is NaN, as nothing is before it. */
enum stream_event_type { STREAM_NOTHING, STREAM_PROMPT, STREAM_TOKENS, STREAM_CHOICE_END, STREAM_COMPLETE };
struct stream_event {
    enum stream_event_type type;
    uint32_t choice;
    uint32_t position;           /* index of tokens[0] among the choice's generated tokens */
    const struct token *tokens;  /* valid until the next stream_read or stream_close; those of PROMPT until stream_close */
    size_t n_tokens;
    enum finish_reason finish;   /* CHOICE_END and COMPLETE (of choice 0) */
    struct error error;          /* COMPLETE with FINISH_ERROR; also when the request never started */
    struct stream_summary {      /* COMPLETE */
        uint32_t n_prompt_tokens, n_generated_tokens, n_cached_tokens;
        double queue_ms, first_token_ms, total_ms, tokens_per_second, mean_batch_size;
        int64_t arrival_ns;      /* clock_now_ns; the times count from here */
        bool admitted;           /* false: it never started, and queue_ms is all of its time */
        char devices[32];        /* that computed it, "cuda:0", or "cuda:0,cpu" when the first one failed; "" = it never started */
    } summary;
    const float *embedding;      /* COMPLETE of `embed`, when it went well: the pooled vector, of length 1; valid until stream_close */
    size_t n_embedding;          /* embedding_size */
};

/* Takes what is there without waiting; NOTHING when there is nothing yet. At most max_tokens tokens (0 = all). After
 * COMPLETE it gives NOTHING for ever. One reader at a time, any thread. */
void stream_read(struct stream *s, size_t max_tokens, struct stream_event *out);
/* Waits until stream_read would give something, or timeout_ns passed (CLOCK_NEVER = for ever); true when there is something. */
bool stream_wait(struct stream *s, int64_t timeout_ns);
/* True once the request has ended with READER_STALLED; on_ready is called then, though the stream was full. What was not read can be read
 * still. Any thread. */
bool stream_stalled(const struct stream *s);
/* Asks the loop to end the request; it frees the sequence before its next step and completes with FINISH_CANCELLED. Any thread. */
void stream_cancel(struct stream *s);
/* Cancels when needed and frees; the engine keeps no reference to `on_ready` after this returns. */
void stream_close(struct stream *s);

/* ---- text ------------------------------------------------------------------------------------------------------- */

struct tokenizer;

/* Opens the tokenizer of a GGUF file (a vocabulary-only one too) or of a tiktoken rank file (base64 token and rank a line:
 * the Llama-3 vocabulary, with its pattern and its 256 special tokens). */
enum error_code tokenizer_open(const char *path, struct tokenizer **out, struct error *err);
void tokenizer_close(struct tokenizer *t);
const struct tokenizer *engine_tokenizer(const struct engine *e); /* borrowed; as long as the engine */

struct token_list { uint32_t *ids; size_t n, capacity; }; /* zeroed = empty; ids freed with free() */

/* Appends the ids of `text`. add_special: BOS and EOS as the model asks. parse_special: special tokens written in the text
 * are read as such. Invalid UTF-8 is ERROR_VALIDATION_FAILED with its offset. Any thread. */
enum error_code tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, bool add_special,
                                 bool parse_special, struct token_list *out, struct error *err);
/* Appends the bytes of the ids; control tokens are left out when skip_special. Unknown ids are an error. Any thread. */
enum error_code tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, bool skip_special,
                                 struct buffer *out, struct error *err);
uint32_t tokenizer_n_tokens(const struct tokenizer *t);
/* The bytes of one token (borrowed), NULL when there is no such id. */
const char *tokenizer_piece(const struct tokenizer *t, uint32_t id, size_t *n_bytes);
bool tokenizer_is_eog(const struct tokenizer *t, uint32_t id); /* ends a generation */
int64_t tokenizer_bos(const struct tokenizer *t);              /* -1 = none */
bool tokenizer_is_silent(const struct tokenizer *t, uint32_t id); /* a control token: it adds nothing to a text */
bool tokenizer_chat_has_role(const struct tokenizer *t, const char *role); /* the chat template has messages of this role */
/* Messages to token ids by the model's chat template, ending where the assistant's answer begins. Text of messages is never read
 * as special tokens. ERROR_VALIDATION_FAILED when there is no template or a role that it does not know. */
enum error_code tokenizer_encode_chat(const struct tokenizer *t, const struct chat_message *messages, size_t n_messages,
                                      struct token_list *out, struct error *err);

/* ---- direct evaluation: for tools, one model driven by the caller's thread, without queue and loop -------------- */

struct session;

/* Loads the model as engine_open does. max_sequences sequences of up to context_length positions each. */
enum error_code session_open(const struct engine_options *options, struct session **out, struct error *err);
void session_close(struct session *s);
const struct engine_model *session_model(const struct session *s);
const struct tokenizer *session_tokenizer(const struct session *s);

/* One row of a step: appends `token` to sequence `sequence`. Rows of one sequence follow each other in order. */
struct session_row { uint32_t sequence, token; bool want_logits; };
/* Evaluates n_rows (at most max_batch_tokens) rows; logits (host, may be NULL when none is wanted) get vocab_size f32 for each row
 * that wants them, in order. round_head_f16: see op_logits. */
enum error_code session_step(struct session *s, const struct session_row *rows, size_t n_rows, bool round_head_f16,
                             float *logits, struct error *err);
/* As session_step, and draws the next token of each row that wants logits into ids[], in order, by the code that serves requests: only
 * the logits that are read get computed. The token is that of a request's choice number `sequence`. At most max_sequences rows may
 * want logits. The session was opened for sampling. Penalties are refused, as a session keeps no tokens. */
enum error_code session_sample(struct session *s, const struct session_row *rows, size_t n_rows, const struct sampling *sampling,
                               uint32_t *ids, struct error *err);
/* Forgets the tokens of a sequence, or those from position n_tokens on. */
void session_reset(struct session *s, uint32_t sequence);
void session_truncate(struct session *s, uint32_t sequence, size_t n_tokens);

/* What a step must read and multiply, for benchmarks. */
struct session_work {
    uint64_t weight_bytes;       /* matrices of the layers as the kernels read them, norms */
    uint64_t head_bytes;         /* of the LM head: its screen where that serves, or all of it */
    uint64_t kv_bytes;           /* keys and values */
    uint64_t multiply_adds;      /* of int8 activations and ternary weights */
};
/* Of n_rows rows that attend to n_positions positions, of all sequences together; tokens are drawn with `sampling`, NULL: all
 * logits are computed. */
void session_work(const struct session *s, size_t n_rows, size_t n_positions, const struct sampling *sampling,
                  struct session_work *out);

/* What a session's device does at most with its threads and instruction set (see backend_measure); 0 = not known. */
struct engine_limits {
    double read_bytes_per_s, int8_per_s; /* int8_per_s: multiply-adds */
    int n_threads;
    char device[16], device_name[64], isa[16];
};
/* Takes some hundred ms and, meanwhile, 256 MB or more. Of the session's thread. */
void session_measure(struct session *s, struct engine_limits *out);

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* Reads a GGUF file's structure without loading it and says what would be served, or why it would not: text for people (json
 * false) or one JSON object; show_keys lists all keys. OK when it can be served; strict: and nothing about it is guessed or missing. */
enum error_code model_compat_check(const char *path, bool json, bool show_keys, bool strict, struct buffer *out,
                                   struct error *err);

/* Reads and runs a whole file: structure, tokenizer, every weight, the same results from all kernels, and that it predicts a plain text.
 * A report in `out`, text or one JSON object; OK when all of it holds, else the first thing that does not. Takes the memory of the loaded
 * model. i2s_order as in engine_options. */
enum error_code model_verify(const char *path, int i2s_order, bool json, struct buffer *out, struct error *err);

/* How a file's I2_S tensors are packed, by its weights; I2S_ORDER_128 when they do not tell. */
enum error_code model_file_order(const char *path, enum i2s_order *out, struct error *err);

#endif
