/* cold/index.c - byte by byte, so that order of bytes is order of keys, and neither the host nor padding shows. */
#include "cold/index.h"

#include <string.h>

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

static void put_le32(uint8_t *at, uint32_t number)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(number >> (8 * i));
}

static uint32_t get_le32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
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
	put_le32(record->segment, place.segment);
	put_le32(record->offset, place.offset_bytes / PLACE_UNIT_BYTES);
	put_le32(record->length, place.length_bytes);
	memset(record->head, 0, sizeof(record->head));
	if (head_len)
		memcpy(record->head, head, head_len);
	if (origin == key.ino)
		return offsetof(struct index_record, origin);
	put_le32(record->origin, (uint32_t)origin);
	put_le32(record->origin + 4, (uint32_t)(origin >> 32));
	return sizeof(*record);
}

static bool possible(const struct index_record *record)
{
	return get_le32(record->segment) < PLACE_SEGMENTS &&
	       get_le32(record->offset) < PLACE_OFFSET_LIMIT / PLACE_UNIT_BYTES &&
	       get_le32(record->length) < PLACE_LENGTH_LIMIT;
}

bool index_unpack(const void *key, size_t key_len, const void *value, size_t value_len, struct store_key *ret_key,
		  struct place *ret_place, uint64_t *ret_origin)
{
	const struct index_record *record = value;

	if (key_len != INDEX_KEY_BYTES)
		return false;
	ret_key->ino = get_be64(key);
	ret_key->block = get_be64((const uint8_t *)key + 8);
	*ret_origin = ret_key->ino;
	*ret_place = (struct place){ .segment = PLACE_NOWHERE };
	if (value_len != sizeof(*record) && value_len != offsetof(struct index_record, origin))
		return true;
	if (!possible(record))
		return true;
	*ret_place = (struct place){
		.segment = get_le32(record->segment),
		.offset_bytes = get_le32(record->offset) * PLACE_UNIT_BYTES,
		.length_bytes = get_le32(record->length),
	};
	if (value_len == sizeof(*record))
		*ret_origin = get_le32(record->origin) | (uint64_t)get_le32(record->origin + 4) << 32;
	return true;
}
