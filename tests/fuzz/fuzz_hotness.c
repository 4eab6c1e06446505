/* A hotness file: whatever comes, each record is refused or makes sense, and packs to the bytes that it was. The first
 * byte says whether checksums are made right first, so that what lies behind them is reached. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <tierfs/access.h>
#include <tierfs/hotness.h>

#include "tools/tierctl/curve.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t checksum(uint64_t seed, const uint8_t *bytes, size_t length)
{
	uint64_t sum = 0xcbf29ce484222325U;

	for (unsigned int i = 0; i < 8; i++)
		sum = (sum ^ (uint8_t)(seed >> (8 * i))) * 0x100000001b3U;
	for (size_t i = 0; i < length; i++)
		sum = (sum ^ bytes[i]) * 0x100000001b3U;
	return sum;
}

/* The checksum is the last 8 bytes of a header or a record. */
static void mend(uint64_t seed, uint8_t *bytes, size_t length)
{
	uint64_t sum = checksum(seed, bytes, length - 8);

	for (unsigned int i = 0; i < 8; i++)
		bytes[length - 8 + i] = (uint8_t)(sum >> (8 * i));
}

static void estimate(const struct tierfs_hotness_header *header, const uint64_t *bytes)
{
	struct curve curve;
	bool at_least;

	curve_make(&curve, bytes, header->age_ns);
	if (curve.points < 1 || curve.points > CURVE_POINTS_MAX || !(curve_working_set(&curve, 60, &at_least) >= 0) ||
	    !(curve_budget(&curve, 1000, &at_least) >= 0) || !(curve_rate(&curve, 1e6) >= 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t head[TIERFS_HOTNESS_HEADER_BYTES] = { 0 }, bytes[TIERFS_HOTNESS_RECORD_BYTES],
		again[TIERFS_HOTNESS_HEADER_BYTES];
	uint64_t end = 0, of_generation[TIERFS_HOTNESS_GENERATIONS] = { 0 };
	struct tierfs_hotness_header header;
	bool mends = size && data[0] & 1;
	const char *why = NULL;
	size_t at;

	/* Ages are long and dull: an input has the first 64 bytes and some of them. */
	if (size < 1 + 64 + 64)
		return 0;
	memcpy(head, data + 1, 128);
	at = 129;
	if (mends)
		mend(0, head, sizeof(head));
	if (tierfs_hotness_unpack_header(head, &header, &why)) {
		if (!why)
			abort();
		return 0;
	}
	tierfs_hotness_pack_header(&header, again);
	if (memcmp(head, again, sizeof(head)))
		abort();
	for (uint64_t i = 0; size - at >= sizeof(bytes); i++, at += sizeof(bytes)) {
		struct tierfs_hotness_record record;

		memcpy(bytes, data + at, sizeof(bytes));
		if (mends)
			mend(i, bytes, sizeof(bytes));
		if (tierfs_hotness_unpack_record(i, &header, end, bytes, &record, &why))
			continue;
		if (record.offset < end || record.offset + record.length > header.size_bytes || record.tier > 3)
			abort();
		tierfs_hotness_pack_record(i, &record, again);
		if (memcmp(bytes, again, sizeof(bytes)))
			abort();
		end = record.offset + record.length;
		of_generation[record.generation] += record.length;
	}
	estimate(&header, of_generation);
	return 0;
}
