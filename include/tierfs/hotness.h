/* tierfs/hotness.h - the hotness of a RAM file as a file: docs/format/hotness.md.
 *
 * A header, then records: runs of bytes of one age, in order of their offsets. Everything is little-endian and carries
 * checksums; these functions are the only ones that know the bytes. They do no I/O, keep no state, and may be called
 * from any thread. What they unpack is hostile input: every field is checked.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TIERFS_HOTNESS_VERSION 1
#define TIERFS_HOTNESS_HEADER_BYTES 2120
#define TIERFS_HOTNESS_RECORD_BYTES 32
#define TIERFS_HOTNESS_GENERATIONS 256

struct tierfs_hotness_header {
	uint64_t size_bytes;  /* of the RAM file */
	uint32_t block_bytes; /* that the ages were measured in */
	uint64_t records;
	uint64_t scans;                              /* of the file, when it was exported */
	uint64_t time_s;                             /* since the epoch, when it was exported */
	uint64_t age_ns[TIERFS_HOTNESS_GENERATIONS]; /* as in struct tierfs_access_ages */
};

struct tierfs_hotness_record {
	uint64_t offset, length; /* bytes, multiples of 4096 */
	uint8_t state;           /* enum tierfs_access_state */
	uint8_t generation;
	uint8_t tier;
	uint8_t flags; /* TIERFS_BLOCK_PINNED, _DAMAGED, _CACHED */
	uint8_t copy;  /* enum tierfs_access_copy */
};

void tierfs_hotness_pack_header(const struct tierfs_hotness_header *header, uint8_t ret[TIERFS_HOTNESS_HEADER_BYTES]);
/* number: of the record, from 0; it is a part of the checksum. */
void tierfs_hotness_pack_record(uint64_t number, const struct tierfs_hotness_record *record,
				uint8_t ret[TIERFS_HOTNESS_RECORD_BYTES]);

/* 0, or -EBADMSG (-EPROTONOSUPPORT: another version) and in *ret_why a few words for a person. */
int tierfs_hotness_unpack_header(const uint8_t bytes[TIERFS_HOTNESS_HEADER_BYTES], struct tierfs_hotness_header *ret,
				 const char **ret_why);
/* end: where the record before ended, 0 for the first. */
int tierfs_hotness_unpack_record(uint64_t number, const struct tierfs_hotness_header *header, uint64_t end,
				 const uint8_t bytes[TIERFS_HOTNESS_RECORD_BYTES], struct tierfs_hotness_record *ret,
				 const char **ret_why);

#ifdef __cplusplus
}
#endif
