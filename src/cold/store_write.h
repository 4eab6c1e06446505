/* cold/store_write.h - changing what is stored. put, remove: as store.h says. */
#pragma once

#include "cold/store_state.h"

/* Records whose values move at once. A value that has more of them is copied once for each so many. */
#define STORE_WRITE_VALUES 256U

/* Values that move: as a put, but only those that are still where they were. places: one for each item. */
struct store_write {
	const struct store_item *items;
	const struct place *places; /* NULL: an ordinary put */
	size_t count;
	enum headroom_use room;
	enum store_use use;
};

int store_write_put(struct store *base, enum store_use use, const struct store_item *items, size_t count);
int store_write_remove(struct store *base, uint64_t ino, uint64_t first, uint64_t count);
int store_write_move(struct store_rocks *store, const struct store_write *move);
