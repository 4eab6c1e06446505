/* cold/places.h - where each stored value lies: a table in memory of (file, block) to (segment, offset, length).
 *
 * Eight bytes a block, in chunks of neighbouring blocks, so that a file is one sorted run and half a thousandth of its
 * memory. The table is a copy of what the database says (its index records); it is rebuilt from there when the store
 * opens.
 *
 * Thread-safety: none; the store's lock is held by the caller. Nothing here does I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/store.h"

/* Values begin at multiples of it. */
#define PLACE_UNIT_BYTES 64U
#define PLACE_SEGMENTS (UINT32_C(1) << 21)     /* limit of segment numbers */
#define PLACE_OFFSET_LIMIT (UINT32_C(1) << 26) /* bytes in a segment */
#define PLACE_LENGTH_LIMIT (UINT32_C(1) << 22) /* bytes of a value, exclusive */

/* No segment has this number: what is said to lie there is damaged. */
#define PLACE_NOWHERE (PLACE_SEGMENTS - 1)

struct place {
	uint32_t segment;
	uint32_t offset_bytes; /* multiple of PLACE_UNIT_BYTES */
	uint32_t length_bytes;
};

struct places_file;

struct places {
	struct places_file *files;
	uint64_t count; /* values */
	uint64_t memory_bytes;
};

/* Bytes that a value takes up in its segment. */
static inline uint32_t place_span(uint32_t length_bytes)
{
	return (length_bytes + PLACE_UNIT_BYTES - 1) & ~(PLACE_UNIT_BYTES - 1);
}

static inline bool place_equal(struct place a, struct place b)
{
	return a.segment == b.segment && a.offset_bytes == b.offset_bytes && a.length_bytes == b.length_bytes;
}

/* A place as one word, which is never 0. */
uint64_t place_pack(struct place place);

/* All zero is an empty table. */
void places_clear(struct places *places);

/* Makes room for key, so that places_set() of it cannot fail. -ENOMEM. */
int places_reserve(struct places *places, struct store_key key);
/* Room must have been reserved. True if there was another place before, which is then in *ret_old. */
bool places_set(struct places *places, struct store_key key, struct place place, struct place *ret_old);
bool places_get(const struct places *places, struct store_key key, struct place *ret);
/* The first value of key.ino at or after key->block and up to last: true, *key and *ret are it. */
bool places_next(const struct places *places, struct store_key *key, uint64_t last, struct place *ret);

typedef void places_fn(void *arg, struct store_key key, struct place place);
/* Forgets the blocks first to last of a file; fn is told each that was there. */
void places_remove(struct places *places, uint64_t ino, uint64_t first, uint64_t last, places_fn *fn, void *arg);
/* A piece of it, from the end of the range. True: there is more, up to *last. */
bool places_remove_some(struct places *places, uint64_t ino, uint64_t first, uint64_t *last, places_fn *fn, void *arg);
/* Every place, in no order of files. fn must not change the table. */
void places_each(const struct places *places, places_fn *fn, void *arg);

/* The same in pieces, for a caller that lets go of the lock in between: the files of a moment, then a number of chunks
 * of one of them from block *from on. False: that was the end of the file. */
int places_files(const struct places *places, uint64_t **ret_inos, size_t *ret_count); /* to be freed */
bool places_some(const struct places *places, uint64_t ino, uint64_t *from, places_fn *fn, void *arg);
