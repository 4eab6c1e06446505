/* stream.c - see stream.h. Bytes are put one by one, little-endian, so that neither padding nor the host shows. */
#include "stream/stream.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include <xxhash.h>

#include "base/le.h"

#define VERSION '2'

enum {
	AT_TYPE = 0,
	AT_GENERATION = 1,
	AT_TIER = 2,
	AT_RESERVED = 3,
	AT_LENGTH = 4,
	AT_BLOCK = 8,
	AT_VALUE = 16,
	AT_CHECKSUM = 24,
};
_Static_assert(AT_CHECKSUM + 8 == STREAM_HEAD_BYTES, "the checksum ends the head");

static XXH128_hash_t addend(uint64_t block, struct tierfs_ident ident)
{
	uint8_t bytes[8 + IDENT_BYTES];

	if (!ident_known(ident) || stream_is_hole(ident))
		return (XXH128_hash_t){ 0, 0 };
	put_le(bytes, block, 8);
	ident_put(ident, bytes + 8);
	return XXH3_128bits(bytes, sizeof(bytes));
}

void stream_stamp_add(struct tierfs_ident *stamp, uint64_t block, struct tierfs_ident ident)
{
	XXH128_hash_t more = addend(block, ident);

	stamp->word[0] += more.low64;
	stamp->word[1] += more.high64;
}

void stream_stamp_sub(struct tierfs_ident *stamp, uint64_t block, struct tierfs_ident ident)
{
	XXH128_hash_t less = addend(block, ident);

	stamp->word[0] -= less.low64;
	stamp->word[1] -= less.high64;
}

struct tierfs_ident stream_stamp_all(const struct tierfs_ident *idents, uint64_t count)
{
	struct tierfs_ident stamp = IDENT_NONE;

	for (uint64_t block = 0; block < count; block++)
		stream_stamp_add(&stamp, block, idents[block]);
	return stamp;
}

const char *stream_header_check(const struct stream_header *header)
{
	if (header->block_bytes < STREAM_BLOCK_BYTES_MIN || header->block_bytes > STREAM_BLOCK_BYTES_MAX ||
	    (header->block_bytes & (header->block_bytes - 1)))
		return "the block size is not a power of two of 4 KiB to 2 MiB";
	if (header->size_bytes > STREAM_BLOCKS_MAX * header->block_bytes)
		return "the file is larger than a stream may carry";
	return NULL;
}

const char *stream_type_name(enum stream_type type)
{
	switch (type) {
	case STREAM_HEADER:
		return "header";
	case STREAM_PART:
		return "part";
	case STREAM_HOLES:
		return "holes";
	case STREAM_BLOCK:
		return "block";
	case STREAM_END:
		return "end";
	case STREAM_ABORT:
		return "abort";
	case STREAM_HASHES:
		return "hashes";
	case STREAM_RESULT:
		return "result";
	case STREAM_AWAY:
		return "away";
	case STREAM_WANT:
		return "want";
	case STREAM_GONE:
		return "gone";
	}
	return "?";
}

/* --- magic ------------------------------------------------------------------------------------------------------ */

static const char *const magics[] = {
	[STREAM_BLOCKS] = "tierfsS",
	[STREAM_LIST] = "tierfsL",
	[STREAM_WANTS] = "tierfsW",
	[STREAM_REST] = "tierfsR",
};

void stream_put_magic(enum stream_kind kind, uint8_t out[static STREAM_MAGIC_BYTES])
{
	memcpy(out, magics[kind], STREAM_MAGIC_BYTES - 1);
	out[STREAM_MAGIC_BYTES - 1] = VERSION;
}

int stream_check_magic(enum stream_kind kind, const uint8_t in[static STREAM_MAGIC_BYTES])
{
	if (memcmp(in, magics[kind], STREAM_MAGIC_BYTES - 1) != 0)
		return -EBADMSG;
	return in[STREAM_MAGIC_BYTES - 1] == VERSION ? 0 : -EPROTONOSUPPORT;
}

/* --- heads ------------------------------------------------------------------------------------------------------ */

static uint64_t checksum(const uint8_t *head, const void *payload, uint32_t length_bytes, uint64_t number,
			 uint64_t salt)
{
	uint8_t covered[AT_CHECKSUM + 24];

	memcpy(covered, head, AT_CHECKSUM);
	put_le(covered + AT_CHECKSUM, length_bytes ? XXH3_64bits(payload, length_bytes) : 0, 8);
	put_le(covered + AT_CHECKSUM + 8, number, 8);
	put_le(covered + AT_CHECKSUM + 16, salt, 8);
	return XXH3_64bits(covered, sizeof(covered));
}

void stream_put_head(const struct stream_record *record, uint64_t number, uint64_t salt,
		     uint8_t out[static STREAM_HEAD_BYTES])
{
	out[AT_TYPE] = (uint8_t)record->type;
	out[AT_GENERATION] = record->generation;
	out[AT_TIER] = record->tier;
	out[AT_RESERVED] = 0;
	put_le(out + AT_LENGTH, record->length_bytes, 4);
	put_le(out + AT_BLOCK, record->block, 8);
	put_le(out + AT_VALUE, record->value, 8);
	put_le(out + AT_CHECKSUM, checksum(out, record->payload, record->length_bytes, number, salt), 8);
}

int stream_get_head(const uint8_t in[static STREAM_HEAD_BYTES], struct stream_record *ret)
{
	if (in[AT_TYPE] < STREAM_HEADER || in[AT_TYPE] > STREAM_GONE || in[AT_RESERVED])
		return -EBADMSG;
	*ret = (struct stream_record){
		.type = (enum stream_type)in[AT_TYPE],
		.generation = in[AT_GENERATION],
		.tier = in[AT_TIER],
		.length_bytes = (uint32_t)get_le(in + AT_LENGTH, 4),
		.block = get_le(in + AT_BLOCK, 8),
		.value = get_le(in + AT_VALUE, 8),
	};
	return 0;
}

bool stream_verify(const uint8_t in[static STREAM_HEAD_BYTES], const void *payload, uint32_t length_bytes,
		   uint64_t number, uint64_t salt)
{
	return get_le(in + AT_CHECKSUM, 8) == checksum(in, payload, length_bytes, number, salt);
}

/* --- payloads --------------------------------------------------------------------------------------------------- */

void stream_put_header(const struct stream_header *header, uint8_t out[static STREAM_HEADER_BYTES])
{
	put_le(out, header->size_bytes, 8);
	put_le(out + 8, header->block_bytes, 4);
	put_le(out + 12, header->features, 4);
	memcpy(out + 16, header->id, STREAM_ID_BYTES);
	memcpy(out + 32, header->key, STREAM_KEY_BYTES);
	ident_put(header->base, out + 64);
}

void stream_get_header(const uint8_t in[static STREAM_HEADER_BYTES], struct stream_header *ret)
{
	ret->size_bytes = get_le(in, 8);
	ret->block_bytes = (uint32_t)get_le(in + 8, 4);
	ret->features = (uint32_t)get_le(in + 12, 4);
	memcpy(ret->id, in + 16, STREAM_ID_BYTES);
	memcpy(ret->key, in + 32, STREAM_KEY_BYTES);
	ret->base = ident_get(in + 64);
}

void stream_put_totals(const struct stream_totals *totals, uint8_t out[static STREAM_TOTALS_BYTES])
{
	put_le(out, totals->records, 8);
	put_le(out + 8, totals->blocks, 8);
	put_le(out + 16, totals->hole_blocks, 8);
	put_le(out + 24, totals->payload_bytes, 8);
	ident_put(totals->stamp, out + 32);
}

void stream_get_totals(const uint8_t in[static STREAM_TOTALS_BYTES], struct stream_totals *ret)
{
	ret->records = get_le(in, 8);
	ret->blocks = get_le(in + 8, 8);
	ret->hole_blocks = get_le(in + 16, 8);
	ret->payload_bytes = get_le(in + 24, 8);
	ret->stamp = ident_get(in + 32);
}

void stream_put_idents(const struct tierfs_ident *idents, size_t count, uint8_t *out)
{
	for (size_t i = 0; i < count; i++)
		ident_put(idents[i], out + IDENT_BYTES * i);
}

struct tierfs_ident stream_get_ident(const void *payload, size_t index)
{
	return ident_get((const uint8_t *)payload + IDENT_BYTES * index);
}

void stream_put_away(const struct stream_away *away, uint8_t out[static STREAM_AWAY_BYTES])
{
	ident_put(away->ident, out);
	out[IDENT_BYTES] = away->generation;
	out[IDENT_BYTES + 1] = away->tier;
}

struct stream_away stream_get_away(const void *payload, size_t index)
{
	const uint8_t *at = (const uint8_t *)payload + STREAM_AWAY_BYTES * index;

	return (struct stream_away){ .ident = ident_get(at),
				     .generation = at[IDENT_BYTES],
				     .tier = at[IDENT_BYTES + 1] };
}

uint64_t stream_salt(const struct stream_header *header)
{
	return get_le(header->id, 8) ^ get_le(header->id + 8, 8);
}

char *stream_text(const struct stream_record *record, char buf[static STREAM_TEXT_LEN])
{
	uint32_t length = record->length_bytes < STREAM_REASON_MAX ? record->length_bytes : STREAM_REASON_MAX;

	for (uint32_t i = 0; i < length; i++) {
		char c = ((const char *)record->payload)[i];

		buf[i] = (char)(isprint((unsigned char)c) ? c : '?');
	}
	buf[length] = '\0';
	return buf;
}
