/* engine/crew.h - threads that lend a hand to large requests: several blocks of one request are read, expanded or
 * compressed at the same time.
 *
 * Work is cut into pieces. The caller does them in order, and helpers that have nothing else to do take some; so it
 * never waits for a helper to be free, and a crew of NULL, or a single piece, is for the caller alone. Pieces are
 * independent of each other, and a piece may wait for I/O.
 *
 * Thread-safety: all functions but crew_new() and crew_free().
 */
#pragma once

#include <stdbool.h>

struct crew;

typedef void crew_fn(void *arg, unsigned int piece);

int crew_new(struct crew **ret);   /* -ENOMEM, -EAGAIN */
void crew_free(struct crew *crew); /* nobody may be at work. Takes NULL */

/* True if there are processors that no caller keeps busy: worth cutting work into pieces. False for NULL. */
bool crew_spare(struct crew *crew);
/* Calls fn for each piece, and returns when all are done. Call without a lock. */
void crew_run(struct crew *crew, unsigned int pieces, crew_fn *fn, void *arg);
