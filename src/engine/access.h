/* engine/access.h - cold access: blocks are read and written where they are, with one result for each.
 *
 * Records, flags and results are those of include/tierfs/access.h. None of these calls promotes a block, changes a
 * generation or engine, or counts as a use of memory, but for those that are asked to set an age.
 *
 * Records and payload may lie in memory that somebody else writes to at the same time: every record is read once and
 * copied, payload is copied before it is judged, and what is written there is never read back.
 *
 * Thread-safety: any thread, no lock held; they block on I/O. 0 or -errno; what happens to a single block is in its
 * record.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <tierfs/access.h>

#include "engine/file.h"

/* The shared buffer of a call. */
struct access_buffer {
	uint8_t *base; /* payload_at of a record counts from here */
	size_t bytes;
	struct tierfs_access_record *record; /* in it, aligned to 8 */
	size_t records;
	size_t payload_at, payload_bytes; /* reads: where payload may be put */
};

/* Blocks of [first, first + count) as far as records and payload reach. *ret_records: how many answers; *ret_next: the
 * first block without one. -ENOBUFS: no room for the payload of a single block. */
int access_read(struct ramfile *file, uint32_t flags, uint64_t first, uint64_t count,
		const struct access_buffer *buffer, size_t *ret_records, uint64_t *ret_next);
/* The blocks that the records name; each answers in its record. write: their content, set: generation and engine. */
int access_read_list(struct ramfile *file, uint32_t flags, const struct access_buffer *buffer);
int access_write(struct ramfile *file, uint32_t flags, const struct access_buffer *buffer);
int access_set(struct ramfile *file, uint32_t flags, const struct access_buffer *buffer);
/* Of each record the identity of its raw payload, as if that were the block: for who read it another way. */
int access_identify(struct ramfile *file, const struct access_buffer *buffer);
/* What a generation is in time. */
void access_ages(struct ramfile *file, struct tierfs_access_ages *ret);

/* The largest payload of a block, in either form. */
size_t access_payload_max(struct ramfile *file);

/* --- for access_read.c and access_write.c --- */

/* Under lock: what an answer says of the block. */
void access_look(const struct ramfile *file, uint64_t block, struct tierfs_access_record *ret);
/* The record says so. */
void access_fail(struct tierfs_access_record *record, int err);
/* A record of a request, read once: what judges the copy does not look at the buffer again. */
struct tierfs_access_record access_copy_record(const struct access_buffer *buffer, size_t i);
