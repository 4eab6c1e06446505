/* cold/shares.h - stored values that more than one file has, or that were put by another file than the one that has
 * them: how many records name the value, and whose its checksum says it is.
 *
 * A value that is not in the table belongs to one record, that of the file which put it. The table is in memory and is
 * rebuilt from the database's records when the store opens; 24 bytes an entry, at most three quarters of them used. It
 * grows by doubling, and does not shrink.
 *
 * Thread-safety: none; the store's lock is held by the caller. Nothing here does I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/places.h"

struct share {
	uint64_t word;   /* the place, packed; 0: a free entry */
	uint64_t origin; /* the file that put the value */
	uint32_t refs;   /* records that name it */
};

/* All zero is an empty table. */
struct shares {
	struct share *slot;
	size_t cap; /* a power of two, or 0 */
	size_t count;
};

void shares_clear(struct shares *shares);
/* Room for so many more entries, so that shares_add() of them cannot fail. -ENOMEM. */
int shares_reserve(struct shares *shares, size_t more);
/* The entry of a place; NULL: there is none. Valid until the table changes. */
struct share *shares_find(const struct shares *shares, struct place place);
/* Adds an entry if there is none; room must have been reserved. */
struct share *shares_add(struct shares *shares, struct place place, uint64_t origin, uint32_t refs);
void shares_remove(struct shares *shares, struct share *share);

static inline uint64_t shares_memory_bytes(const struct shares *shares)
{
	return shares->cap * sizeof(struct share);
}
