/* Ids, usage and chunks of the OpenAI API. */
#include "gateway/openai.h"

#include "base/clock.h"
#include "base/id.h"
#include "base/utf8.h"
#include "gateway/emit.h"
#include "gateway/sse.h"
#include "gateway/tool_params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct openai *openai_open(const struct params *p, bool chat)
{
    struct openai *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->chat = chat;
    o->object = chat ? "chat.completion" : "text_completion";
    o->chunk_object = chat ? "chat.completion.chunk" : "text_completion";
    snprintf(o->id, sizeof o->id, "%s-%016llx%016llx", chat ? "chatcmpl" : "cmpl", (unsigned long long)id_random_u64(),
             (unsigned long long)id_random_u64());
    o->created = clock_wall_ns() / CLOCK_NS_PER_S;
    o->n_choices = p->n.set ? (int)p->n.i : 1;
    o->tools = chat && tool_params_in_use(p);
    o->must_call = o->tools && tool_params_required(p);
    snprintf(o->model, sizeof o->model, "%s", p->model.text ? p->model.text : "");
    o->model[utf8_complete(o->model, strlen(o->model))] = '\0';
    return o;
}

bool openai_stream_options(const struct params *p, bool *include_usage, struct failure *f)
{
    const json_t *options = p->stream_options.json;
    const json_t *usage = json_object_get(options, "include_usage");
    *include_usage = json_is_true(usage);
    if (!options)
        return true;
    if (!json_is_object(options))
        fields_fault(f, ERROR_INVALID_REQUEST, "stream_options", "an object", options);
    else if (usage && !json_is_boolean(usage) && !json_is_null(usage))
        fields_fault(f, ERROR_INVALID_REQUEST, "stream_options.include_usage", "true or false", usage);
    else if (!p->stream.truth)
        failure_add(f, ERROR_VALIDATION_FAILED, "stream_options", "only together with stream", NULL);
    else
        return true;
    return false;
}

static void take(char *to, size_t n_to, const char *from)
{
    if (from[0] != '\0')
        snprintf(to, n_to, "%s", from);
}

void openai_origin(struct openai *o, const char *model, const char *fingerprint)
{
    take(o->model, sizeof o->model, model);
    take(o->fingerprint, sizeof o->fingerprint, fingerprint);
}

void openai_head(struct buffer *b, const struct openai *o, bool chunk)
{
    emit_open(b, '{');
    emit_key(b, "id");
    emit_text(b, o->id);
    emit_key(b, "object");
    emit_text(b, chunk ? o->chunk_object : o->object);
    emit_key(b, "created");
    emit_int(b, o->created);
    emit_key(b, "model");
    emit_text(b, o->model);
    if (o->fingerprint[0] != '\0') {
        emit_key(b, "system_fingerprint");
        emit_text(b, o->fingerprint);
    }
}

void openai_finish_reason(struct buffer *b, int reason, bool called)
{
    emit_key(b, "finish_reason");
    switch (reason) {
    case BITNET__V1__FINISH_REASON__FINISH_REASON_STOP:
        emit_text(b, called ? "tool_calls" : "stop");
        break;
    case BITNET__V1__FINISH_REASON__FINISH_REASON_LENGTH:
    case BITNET__V1__FINISH_REASON__FINISH_REASON_DEADLINE:
    case BITNET__V1__FINISH_REASON__FINISH_REASON_CANCELLED:
        emit_text(b, "length"); /* cut short, and clients know no other word for it */
        break;
    default:
        emit_null(b);
    }
}

void openai_count(struct openai *o, const Bitnet__V1__Usage *usage)
{
    if (!usage)
        return;
    o->prompt_tokens += usage->prompt_tokens;
    o->completion_tokens += usage->completion_tokens;
    o->cached_tokens += usage->cached_prompt_tokens;
}

void openai_usage(struct buffer *b, const struct openai *o)
{
    emit_key(b, "usage");
    emit_open(b, '{');
    emit_key(b, "prompt_tokens");
    emit_uint(b, o->prompt_tokens);
    emit_key(b, "completion_tokens");
    emit_uint(b, o->completion_tokens);
    emit_key(b, "total_tokens");
    emit_uint(b, (uint64_t)o->prompt_tokens + o->completion_tokens);
    emit_key(b, "prompt_tokens_details");
    emit_open(b, '{');
    emit_key(b, "cached_tokens");
    emit_uint(b, o->cached_tokens);
    emit_close(b, '}');
    emit_close(b, '}');
}

/* ---- chunks ---- */

void openai_chunk_begin(struct job *j)
{
    sse_begin(&j->out, NULL, -1);
    openai_head(&j->out, j->state, true);
}

void openai_chunk_end(struct job *j)
{
    const struct openai *o = j->state;
    if (o->include_usage) {
        emit_key(&j->out, "usage");
        emit_null(&j->out);
    }
    emit_close(&j->out, '}');
    sse_end(&j->out);
}

void openai_stream_complete(struct job *j, int call, const Bitnet__V1__GenerateResponse *answer)
{
    (void)call;
    openai_count(j->state, answer->usage);
}

void openai_stream_done(struct job *j)
{
    const struct openai *o = j->state;
    if (o->include_usage) {
        openai_chunk_begin(j);
        emit_key(&j->out, "choices");
        emit_open(&j->out, '[');
        emit_close(&j->out, ']');
        openai_usage(&j->out, o);
        emit_close(&j->out, '}');
        sse_end(&j->out);
    }
    buffer_append_str(&j->out, "data: [DONE]\n\n");
}

void openai_stream_error(struct job *j, const struct failure *f)
{
    sse_begin(&j->out, NULL, -1);
    error_body(&j->out, f, j->r->id);
    sse_end(&j->out);
}
