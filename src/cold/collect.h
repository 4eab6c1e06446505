/* cold/collect.h - the collector's thread, and the sync that everybody shares with it. */
#pragma once

#include "cold/store_state.h"

/* Starts and stops the thread. It may be started again. */
int collect_start(struct store_rocks *store);
void collect_stop(struct store_rocks *store);
/* What was stored before the call is durable: also moves what must not stay where it is, and reopens the database after
 * a failure. 0 or -errno. Any thread; changes go on meanwhile. */
int collect_sync(struct store_rocks *store);
