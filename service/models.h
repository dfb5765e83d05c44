/* models: what the registry says of models, as messages. */
#ifndef SERVICE_MODELS_H
#define SERVICE_MODELS_H

#include "bitnet/v1/models.pb-c.h"
#include "service/service.h"

#define MODELS_MAX_ALIASES 16
#define MODELS_MAX_DEVICES 4

/* Strings are borrowed from what it was filled with. */
struct model_message {
    Bitnet__V1__Model model;
    char aliases[sizeof((struct model_entry *)0)->aliases], *list[MODELS_MAX_ALIASES];
};

/* From an entry of the registry's list; as long as that. */
void models_fill(const struct model_entry *e, struct model_message *out);
/* Of a loaded model alone, as ACTIVE and without aliases; as long as it is held. */
void models_fill_served(const struct served *served, Bitnet__V1__Model *out);
/* The entry with this id, or alias; NULL when there is none. "" = the default. */
const struct model_entry *models_find(const struct service *s, const struct model_entry *list, size_t n,
                                      const char *name);

struct results_message {
    Bitnet__V1__ValidationResults results;
    Bitnet__V1__ValidationFailure failures[VALIDATION_MAX_FAILURES], *list[VALIDATION_MAX_FAILURES];
    char device_text[sizeof((struct validation_results *)0)->devices], *devices[MODELS_MAX_DEVICES];
};
/* As long as `v`. */
void models_fill_results(const struct validation_results *v, struct results_message *out);

/* Cuts `text` at its commas, in place, into at most `max` parts that are not empty; returns their number. */
size_t models_split(char *text, char **parts, size_t max);

#endif
