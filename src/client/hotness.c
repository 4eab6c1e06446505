/* client/hotness.c - the bytes of a hotness file: include/tierfs/hotness.h, docs/format/hotness.md.
 *
 * The checksum is FNV-1a of 64 bits: every step is a bijection, so a change of any one byte changes it, and that is all
 * that is asked of it. libtierfs depends on nothing, so it has no better one at hand.
 */
#include <tierfs/hotness.h>

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include <tierfs/access.h>

#define EXPORT __attribute__((visibility("default")))
#define PAGE 4096U
#define MAGIC "tierhot\n"

/* Offsets. */
enum {
	HEAD_MAGIC = 0,
	HEAD_VERSION = 8,
	HEAD_BLOCK_BYTES = 12,
	HEAD_SIZE_BYTES = 16,
	HEAD_RECORDS = 24,
	HEAD_SCANS = 32,
	HEAD_TIME = 40,
	HEAD_RESERVED = 48, /* 16 bytes, 0 */
	HEAD_AGES = 64,
	HEAD_CHECKSUM = HEAD_AGES + 8 * TIERFS_HOTNESS_GENERATIONS,
	RECORD_OFFSET = 0,
	RECORD_LENGTH = 8,
	RECORD_STATE = 16,
	RECORD_GENERATION = 17,
	RECORD_TIER = 18,
	RECORD_FLAGS = 19,
	RECORD_COPY = 20,
	RECORD_RESERVED = 21, /* 3 bytes, 0 */
	RECORD_CHECKSUM = 24,
};
_Static_assert(HEAD_CHECKSUM + 8 == TIERFS_HOTNESS_HEADER_BYTES, "the checksum ends the header");
_Static_assert(RECORD_CHECKSUM + 8 == TIERFS_HOTNESS_RECORD_BYTES, "the checksum ends the record");
_Static_assert(TIERFS_HOTNESS_GENERATIONS == TIERFS_GENERATIONS, "one age for each generation");

static void put_le(uint8_t *at, uint64_t number, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(number >> (8 * i));
}

static uint64_t get_le(const uint8_t *at, unsigned int bytes)
{
	uint64_t number = 0;

	for (unsigned int i = 0; i < bytes; i++)
		number |= (uint64_t)at[i] << (8 * i);
	return number;
}

static uint64_t checksum(uint64_t seed, const uint8_t *bytes, size_t length)
{
	uint64_t sum = 0xcbf29ce484222325U;

	for (unsigned int i = 0; i < 8; i++)
		sum = (sum ^ (uint8_t)(seed >> (8 * i))) * 0x100000001b3U;
	for (size_t i = 0; i < length; i++)
		sum = (sum ^ bytes[i]) * 0x100000001b3U;
	return sum;
}

EXPORT void tierfs_hotness_pack_header(const struct tierfs_hotness_header *header,
				       uint8_t ret[TIERFS_HOTNESS_HEADER_BYTES])
{
	memset(ret, 0, TIERFS_HOTNESS_HEADER_BYTES);
	memcpy(ret + HEAD_MAGIC, MAGIC, 8);
	put_le(ret + HEAD_VERSION, TIERFS_HOTNESS_VERSION, 4);
	put_le(ret + HEAD_BLOCK_BYTES, header->block_bytes, 4);
	put_le(ret + HEAD_SIZE_BYTES, header->size_bytes, 8);
	put_le(ret + HEAD_RECORDS, header->records, 8);
	put_le(ret + HEAD_SCANS, header->scans, 8);
	put_le(ret + HEAD_TIME, header->time_s, 8);
	for (size_t g = 0; g < TIERFS_HOTNESS_GENERATIONS; g++)
		put_le(ret + HEAD_AGES + 8 * g, header->age_ns[g], 8);
	put_le(ret + HEAD_CHECKSUM, checksum(0, ret, HEAD_CHECKSUM), 8);
}

EXPORT void tierfs_hotness_pack_record(uint64_t number, const struct tierfs_hotness_record *record,
				       uint8_t ret[TIERFS_HOTNESS_RECORD_BYTES])
{
	memset(ret, 0, TIERFS_HOTNESS_RECORD_BYTES);
	put_le(ret + RECORD_OFFSET, record->offset, 8);
	put_le(ret + RECORD_LENGTH, record->length, 8);
	ret[RECORD_STATE] = record->state;
	ret[RECORD_GENERATION] = record->generation;
	ret[RECORD_TIER] = record->tier;
	ret[RECORD_FLAGS] = record->flags;
	ret[RECORD_COPY] = record->copy;
	put_le(ret + RECORD_CHECKSUM, checksum(number, ret, RECORD_CHECKSUM), 8);
}

static int bad(const char **ret_why, const char *why)
{
	*ret_why = why;
	return -EBADMSG;
}

static bool all_zero(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (bytes[i])
			return false;
	return true;
}

static bool good_block_bytes(uint64_t bytes)
{
	return bytes >= PAGE && bytes <= UINT32_C(2) << 20 && (bytes & (bytes - 1)) == 0;
}

EXPORT int tierfs_hotness_unpack_header(const uint8_t bytes[TIERFS_HOTNESS_HEADER_BYTES],
					struct tierfs_hotness_header *ret, const char **ret_why)
{
	struct tierfs_hotness_header header;
	uint64_t last_ns = 0;

	if (memcmp(bytes + HEAD_MAGIC, MAGIC, 8))
		return bad(ret_why, "not a hotness file");
	if (get_le(bytes + HEAD_VERSION, 4) != TIERFS_HOTNESS_VERSION) {
		*ret_why = "a version that this program does not know";
		return -EPROTONOSUPPORT;
	}
	if (get_le(bytes + HEAD_CHECKSUM, 8) != checksum(0, bytes, HEAD_CHECKSUM))
		return bad(ret_why, "the checksum is wrong");
	header.block_bytes = (uint32_t)get_le(bytes + HEAD_BLOCK_BYTES, 4);
	header.size_bytes = get_le(bytes + HEAD_SIZE_BYTES, 8);
	header.records = get_le(bytes + HEAD_RECORDS, 8);
	header.scans = get_le(bytes + HEAD_SCANS, 8);
	header.time_s = get_le(bytes + HEAD_TIME, 8);
	if (!good_block_bytes(header.block_bytes))
		return bad(ret_why, "not a block size");
	if (header.size_bytes % PAGE || header.size_bytes > INT64_MAX)
		return bad(ret_why, "not a file size");
	if (header.records > header.size_bytes / PAGE)
		return bad(ret_why, "more records than pages");
	if (!all_zero(bytes + HEAD_RESERVED, HEAD_AGES - HEAD_RESERVED))
		return bad(ret_why, "reserved bytes are not zero");
	for (size_t g = 0; g < TIERFS_HOTNESS_GENERATIONS; g++) {
		header.age_ns[g] = get_le(bytes + HEAD_AGES + 8 * g, 8);
		if (header.age_ns[g] && header.age_ns[g] < last_ns)
			return bad(ret_why, "an older generation is younger");
		if (header.age_ns[g])
			last_ns = header.age_ns[g];
	}
	*ret = header;
	return 0;
}

EXPORT int tierfs_hotness_unpack_record(uint64_t number, const struct tierfs_hotness_header *header, uint64_t end,
					const uint8_t bytes[TIERFS_HOTNESS_RECORD_BYTES],
					struct tierfs_hotness_record *ret, const char **ret_why)
{
	struct tierfs_hotness_record record = {
		.offset = get_le(bytes + RECORD_OFFSET, 8),
		.length = get_le(bytes + RECORD_LENGTH, 8),
		.state = bytes[RECORD_STATE],
		.generation = bytes[RECORD_GENERATION],
		.tier = bytes[RECORD_TIER],
		.flags = bytes[RECORD_FLAGS],
		.copy = bytes[RECORD_COPY],
	};

	if (get_le(bytes + RECORD_CHECKSUM, 8) != checksum(number, bytes, RECORD_CHECKSUM))
		return bad(ret_why, "the checksum is wrong");
	if (record.offset % PAGE || record.length % PAGE || !record.length)
		return bad(ret_why, "not whole pages");
	if (record.offset < end)
		return bad(ret_why, "it begins before the one before it ends");
	if (record.offset > header->size_bytes || record.length > header->size_bytes - record.offset)
		return bad(ret_why, "it ends beyond the file");
	if (record.state > TIERFS_STATE_PASSING || record.tier > 3 || record.copy > TIERFS_COPY_UNKNOWN ||
	    record.flags & ~(TIERFS_BLOCK_PINNED | TIERFS_BLOCK_DAMAGED | TIERFS_BLOCK_CACHED) ||
	    !all_zero(bytes + RECORD_RESERVED, RECORD_CHECKSUM - RECORD_RESERVED))
		return bad(ret_why, "a field has a value that does not exist");
	*ret = record;
	return 0;
}
