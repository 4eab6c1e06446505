/* map/chores.h - threads for what the server of attach.sock must not wait for: anything that may sleep in a process
 * that maps a file, on a disk, or for others.
 *
 * There is a thread for each chore that is under way, however many those are: one that hangs holds up no other. The
 * end of a chore is told on the thread of the event loop.
 */
#pragma once

#include <sys/queue.h>

#include "base/loop.h"

struct chores;

typedef void chore_fn(void *arg);

/* Belongs to who sends it, and stays in place until done was called. */
struct chore {
	TAILQ_ENTRY(chore) link;
	chore_fn *go;   /* on a thread of its own */
	chore_fn *done; /* then on the loop's */
	void *arg;
};

/* Before the loop runs. */
int chores_new(struct loop *loop, struct chores **ret);
/* From the loop's thread, or once it has ended. */
void chores_send(struct chores *chores, struct chore *chore);
/* Waits until all that was sent is done, also what was sent on that. Once the loop's thread has ended. */
void chores_finish(struct chores *chores);
/* Finishes, and ends the threads. Takes NULL. */
void chores_free(struct chores *chores);
