/* Management of models: what may be asked (contract, section 2). */
#ifndef GATEWAY_MANAGE_H
#define GATEWAY_MANAGE_H

#include "gateway/change.h"
#include "gateway/fields.h"

struct manage_params {
    struct value model_path, model_id, validation_config, enable_cross_validation, min_accuracy, validation_samples,
        timeout_seconds, device, quantization, cache_config, enable_kv_cache, cache_size_mb;
    struct value new_model_path, target_model_id, strategy, rollback_on_failure, validation_timeout_seconds,
        health_check_config, inference_test_prompts, accuracy_threshold;
};

/* Bodies of POST /v1/models/load and /v1/models/swap; they fill a struct manage_params. */
extern const struct field load_fields[], swap_fields[];

/* ---- the answers (manage_answer.c) ---- */

/* What came of a change, in the contract's words. Of several engines that all did it: times and memory added, the lowest of each score and
 * speed, the rest the first engine's. A failure is that of the engine that failed. */
void manage_loaded(struct request *r, const struct change_answers *answers);
void manage_swapped(struct request *r, const struct change_answers *answers);
void manage_unloaded(struct request *r, const struct change_answers *answers);

#endif
