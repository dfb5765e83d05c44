/* What the loops of a run do with slots. The worker's lock is held in all of them but the timer's callback. */
#ifndef TOOLS_LOAD_SLOT_H
#define TOOLS_LOAD_SLOT_H

#include "tools/load_run.h"

/* Takes the number of the next request, which is due at due_ns; false when no more is to be sent. The caller counts in n_running
 * already, itself or by arrivals. */
bool load_run_take(struct load_run *r, int64_t due_ns, uint64_t *index);
/* One less in n_running; wakes the run when it was the last. */
void load_run_leave(struct load_run *r);
/* Sends request `index`, which was due at due_ns. */
void load_slot_begin(struct load_slot *s, uint64_t index, int64_t due_ns);
/* Ends what the slot runs, once. */
void load_slot_cancel(struct load_slot *s);
void load_slot_on_timer(evutil_socket_t fd, short what, void *slot);

/* Memory has run out: ends the process. */
_Noreturn void load_no_memory(void);

#endif
