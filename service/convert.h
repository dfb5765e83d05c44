/* convert: GenerateRequest to the engine's request, and the engine's tokens to messages. */
#ifndef SERVICE_CONVERT_H
#define SERVICE_CONVERT_H

#include "bitnet/v1/inference.pb-c.h"
#include "service/formats.h"
#include "service/service.h"
#include "service/tools.h"

#define CONVERT_MAX_BIAS 300
#define CONVERT_MAX_CHOICES 8

/* The engine's request with what it points to; all else is borrowed from the message. */
struct converted {
    struct request request;
    struct tools_chat chat;        /* owned */
    struct grammar *grammar;       /* a reference */
    struct logit_bias bias[CONVERT_MAX_BIAS];
    bool call_deadline; /* the call's deadline comes before timeout_ms */
};

/* Fills `out`; bounds that the engine checks are left to it. request.n is the number of choices to generate: best_of where that is set,
 * with log-probabilities where it is more than n. What the answer must be is left to convert_form. `t`, of the model that is asked, renders a
 * chat. Freed with convert_fini. */
enum error_code convert_request(const struct service *s, const struct tokenizer *t, const Bitnet__V1__GenerateRequest *r, int64_t rpc_deadline_ns,
                                struct converted *out, struct error *err);
/* Whether the request says what its answer must be; then convert_form compiles it, or finds it compiled, into request.grammar. That may be
 * costly: once it is known that there is a place (engine_admits). */
bool convert_has_form(const Bitnet__V1__GenerateRequest *r);
enum error_code convert_form(const struct service *s, const Bitnet__V1__GenerateRequest *r, struct converted *out,
                             struct error *err);
void convert_fini(struct converted *c);

/* What an answer's tokens depend on beside its request, as a short name: model, program, device. */
#define CONVERT_FINGERPRINT_BYTES 24
void convert_fingerprint(const char *id, const struct engine_model *m, char out[CONVERT_FINGERPRINT_BYTES]);

Bitnet__V1__FinishReason convert_finish(enum finish_reason finish);
Bitnet__V1__Quantization convert_quantization(const char *name);
enum device_wish convert_device(Bitnet__V1__Device device);

#endif
