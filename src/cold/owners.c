/* cold/owners.c - who names a value, and whose it is: records, the table of shares and the segment agree on it. */
#include "cold/owners.h"

#include "cold/codec.h"

void owners_use(struct store_rocks *store, struct place place)
{
	struct share *share = shares_find(&store->shares, place);
	struct segment *segment = segments_find(&store->segments, place.segment);

	if (share && share->refs++)
		return;
	if (segment) /* else it is gone, and a get will say that the value is damaged */
		segments_add_live(&store->segments, segment, place.offset_bytes, place_span(place.length_bytes));
}

void owners_drop(struct store_rocks *store, struct place place)
{
	struct share *share = shares_find(&store->shares, place);
	struct segment *segment = segments_find(&store->segments, place.segment);

	if (share && --share->refs)
		return;
	if (share)
		shares_remove(&store->shares, share);
	if (segment)
		segments_drop_live(&store->segments, segment, place_span(place.length_bytes));
}

uint64_t owners_origin(const struct store_rocks *store, struct store_key key, struct place place)
{
	const struct share *share = shares_find(&store->shares, place);

	return share ? share->origin : key.ino;
}

void owners_rekey(void *value, size_t length_bytes, uint64_t origin, struct store_key key)
{
	if (origin != key.ino)
		codec_rekey(value, length_bytes, (struct store_key){ origin, key.block }, key, NULL);
}
