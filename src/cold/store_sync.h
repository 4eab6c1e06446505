/* cold/store_sync.h - syncs, and the room that they make. 0 or -errno. Any thread. */
#pragma once

#include "cold/store_state.h"

int store_sync_values(struct store_rocks *store); /* without their records */
/* Values, then the log; dead segments that no durable record names any more are unlinked. -EIO: a sync of something in
 * it failed before (collect_sync() mends that). Changes go on meanwhile. */
int store_sync_all(struct store_rocks *store);
/* As headroom_check(), but dead segments are made to go before the answer is no. The commit mutex may be held. */
int store_sync_room(struct store_rocks *store, enum headroom_use use);
