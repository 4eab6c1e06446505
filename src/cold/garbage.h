/* cold/garbage.h - what of the segments is garbage. The segments' lock is held. */
#pragma once

#include "cold/store_state.h"

bool garbage_enough(const struct store_rocks *store);    /* to empty a segment */
bool garbage_many_dead(const struct store_rocks *store); /* segments, to sync for */
/* The segment that is most worth emptying; NULL: none. In a hurry an eighth of garbage is worth the copy, else a
 * quarter. */
struct segment *garbage_choose(struct store_rocks *store, bool tight);
/* Wakes the collector if there is something to do. */
void garbage_poke(struct store_rocks *store);
