/* cold/empty.h - segments are emptied, one thread at a time. They block on I/O and on the commit mutex. */
#pragma once

#include "cold/store_state.h"

/* The one that is most worth it. -ENOENT: there is none. */
int empty_best(struct store_rocks *store, bool tight);
/* Moves what lies in suspect segments (segments.h) elsewhere, all that was stored before the call. -EIO: some of it
 * could not be read or written. */
int empty_suspects(struct store_rocks *store);
