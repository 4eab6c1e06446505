/* cold/index.h - records of the database that say where a value lies. Format: docs/format/store.md. Pure functions. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/places.h"
#include "cold/store.h"

#define INDEX_KEY_BYTES 16

struct index_record {
	uint8_t segment[4], offset[4], length[4]; /* little-endian; the offset is in units of PLACE_UNIT_BYTES */
	uint8_t head[STORE_HEAD_BYTES];
	uint8_t version;   /* INDEX_VERSION; records of before there was one are known by their length */
	uint8_t origin[8]; /* little-endian: the file that put the value. Not there if it is that of the key */
};
_Static_assert(sizeof(struct index_record) == 12 + STORE_HEAD_BYTES + 1 + 8, "no padding");
#define INDEX_VERSION 3

/* Of stores of the formats 1 and 2. They are read, and never written. */
#define INDEX_OLD_HEAD_BYTES 16

void index_key(struct store_key key, uint8_t at[static INDEX_KEY_BYTES]);
/* Returns the length of the record. */
size_t index_pack(struct store_key key, struct place place, uint64_t origin, const void *head, size_t head_len,
		  struct index_record *record);
/* False: not the record of a value. One that this program cannot have written is a value that lies nowhere: its block
 * is damaged, not a hole. */
bool index_unpack(const void *key, size_t key_len, const void *value, size_t value_len, struct store_key *ret_key,
		  struct place *ret_place, uint64_t *ret_origin);
/* The first bytes of the value, as far as a record has them, then zeros. All zero for one that lies nowhere. */
void index_head(const void *value, size_t value_len, uint8_t ret[static STORE_HEAD_BYTES]);
