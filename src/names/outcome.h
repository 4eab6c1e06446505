/* names/outcome.h - which requests have changed names. Written in the batch of the change itself, so that a daemon
 * which takes over a mount can tell what was done for a request that nobody answered.
 *
 * A thread works on one request at a time and answers it before it begins the next. So one record for each thread is
 * enough, and is written over by its next change: it has a slot, from its first change to its end. Records of earlier
 * daemons are other keys (of their sessions), and go when OUTCOME_SESSIONS daemons have come after.
 *
 * outcomes_serve() and outcomes_add() are for any thread; outcomes are immutable once they are loaded.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/store.h"
#include "names/record.h"

#define OUTCOME_SESSIONS 8

struct outcome {
	uint64_t request, ino;
};

struct outcomes {
	uint32_t session;
	struct outcome *list;
	size_t count, cap;
};

/* Those of earlier daemons of this mount; session 0: there are none, and what is in the store is of another mount.
 * Removes what is too old. Zeroed outcomes; outcomes_fini() also after an error. */
int outcomes_load(struct outcomes *outcomes, struct store *store, uint32_t session);
void outcomes_fini(struct outcomes *outcomes);

/* The request that the calling thread works on from now on. 0: none. */
void outcomes_serve(uint64_t request);
/* The change of names in the batch is what that request asked for; ino: the inode it is about. Once for a request. */
void outcomes_add(const struct outcomes *outcomes, struct record_batch *batch, uint64_t ino);
/* Whether an earlier daemon made the change that a request asks for. */
bool outcomes_find(const struct outcomes *outcomes, uint64_t request, uint64_t *ret_ino);
