/* cold/index.c - byte by byte, so that order of bytes is order of keys, and neither the host nor padding shows. */
#include "cold/index.h"

#include <string.h>

#include "base/le.h"

static void put_be64(uint8_t *at, uint64_t number)
{
	for (int i = 0; i < 8; i++)
		at[i] = (uint8_t)(number >> (56 - 8 * i));
}

static uint64_t get_be64(const uint8_t *at)
{
	uint64_t number = 0;

	for (int i = 0; i < 8; i++)
		number = number << 8 | at[i];
	return number;
}

void index_key(struct store_key key, uint8_t at[static INDEX_KEY_BYTES])
{
	put_be64(at, key.ino);
	put_be64(at + 8, key.block);
}

size_t index_pack(struct store_key key, struct place place, uint64_t origin, const void *head, size_t head_len,
		  struct index_record *record)
{
	if (head_len > STORE_HEAD_BYTES)
		head_len = STORE_HEAD_BYTES;
	put_le(record->segment, place.segment, 4);
	put_le(record->offset, place.offset_bytes / PLACE_UNIT_BYTES, 4);
	put_le(record->length, place.length_bytes, 4);
	memset(record->head, 0, sizeof(record->head));
	if (head_len)
		memcpy(record->head, head, head_len);
	record->version = INDEX_VERSION;
	if (origin == key.ino)
		return offsetof(struct index_record, origin);
	put_le(record->origin, origin, 8);
	return sizeof(*record);
}

static bool possible(const struct index_record *record)
{
	return (uint32_t)get_le(record->segment, 4) < PLACE_SEGMENTS &&
	       (uint32_t)get_le(record->offset, 4) < PLACE_OFFSET_LIMIT / PLACE_UNIT_BYTES &&
	       (uint32_t)get_le(record->length, 4) < PLACE_LENGTH_LIMIT;
}

/* Length of the head in a record, and where its origin is, 0 for none. False: no record of ours has that length. */
static bool layout_of(const struct index_record *record, size_t length, size_t *ret_head, size_t *ret_origin)
{
	size_t old_origin = offsetof(struct index_record, head) + INDEX_OLD_HEAD_BYTES;

	if (length == old_origin || length == old_origin + sizeof(record->origin)) {
		*ret_head = INDEX_OLD_HEAD_BYTES;
		*ret_origin = length == old_origin ? 0 : old_origin;
		return true;
	}
	*ret_head = STORE_HEAD_BYTES;
	*ret_origin = length == sizeof(*record) ? offsetof(struct index_record, origin) : 0;
	return (length == sizeof(*record) || length == offsetof(struct index_record, origin)) &&
	       record->version == INDEX_VERSION;
}

bool index_unpack(const void *key, size_t key_len, const void *value, size_t value_len, struct store_key *ret_key,
		  struct place *ret_place, uint64_t *ret_origin)
{
	const struct index_record *record = value;
	size_t head, origin;

	if (key_len != INDEX_KEY_BYTES)
		return false;
	ret_key->ino = get_be64(key);
	ret_key->block = get_be64((const uint8_t *)key + 8);
	*ret_origin = ret_key->ino;
	*ret_place = (struct place){ .segment = PLACE_NOWHERE };
	if (!layout_of(record, value_len, &head, &origin) || !possible(record))
		return true;
	*ret_place = (struct place){
		.segment = (uint32_t)get_le(record->segment, 4),
		.offset_bytes = (uint32_t)get_le(record->offset, 4) * PLACE_UNIT_BYTES,
		.length_bytes = (uint32_t)get_le(record->length, 4),
	};
	if (origin)
		*ret_origin = get_le((const uint8_t *)value + origin, 8);
	return true;
}

void index_head(const void *value, size_t value_len, uint8_t ret[static STORE_HEAD_BYTES])
{
	const struct index_record *record = value;
	size_t head, origin;

	memset(ret, 0, STORE_HEAD_BYTES);
	if (layout_of(record, value_len, &head, &origin) && possible(record))
		memcpy(ret, record->head, head);
}
