/* stream/stream.h - a RAM file, or the list of its blocks' identities, as one run of bytes. Format:
 * docs/format/stream.md.
 *
 * What reader and writer share: record types, limits, heads and checksums. Nothing of a daemon, a store or a socket is
 * in this folder; tierctl brings bytes and takes records. All functions are pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ident.h"

#define STREAM_MAGIC_BYTES 8
#define STREAM_HEAD_BYTES 32
#define STREAM_HEADER_BYTES 80
#define STREAM_TOTALS_BYTES 48
#define STREAM_ID_BYTES 16
#define STREAM_REASON_MAX 200
#define STREAM_HASHES_MAX 8192 /* in one record */
#define STREAM_AWAY_BYTES 18   /* of a block in an AWAY record */
#define STREAM_KEY_BYTES 32
#define STREAM_BLOCK_BYTES_MIN 4096U
#define STREAM_BLOCK_BYTES_MAX (2U << 20)
#define STREAM_BLOCKS_MAX (UINT64_C(1) << 30) /* in a file: 16 TiB of 16 KiB blocks */
#define STREAM_PARTS_MAX 1024
#define STREAM_TIER_MAX 3

enum stream_kind {
	STREAM_BLOCKS, /* content of a file */
	STREAM_LIST,   /* identities of a file's blocks, made for this list: what the receiver has */
	STREAM_WANTS,  /* after a post-copy: what the receiver asks for */
	STREAM_REST,   /* and what it is given */
};

enum stream_type {
	STREAM_HEADER = 1,
	STREAM_PART,
	STREAM_HOLES,
	STREAM_BLOCK,
	STREAM_END,
	STREAM_ABORT,
	STREAM_HASHES,
	STREAM_RESULT,
	STREAM_AWAY,
	STREAM_WANT,
	STREAM_GONE,
};

/* A BLOCK's payload is a stored value under file 0 (docs/format/access.md): a header of this length, and content. */
#define STREAM_VALUE_HEADER_BYTES 32

/* Features of a stream: a reader refuses what it does not know. */
#define STREAM_FEATURE_DELTA (1U << 0)     /* blocks that are not named are as in the base */
#define STREAM_FEATURE_ROUNDS (1U << 1)    /* blocks may come again, in later parts */
#define STREAM_FEATURE_COLD_ONLY (1U << 2) /* only the first part; blocks that are not named did not travel */
#define STREAM_FEATURE_POSTCOPY (1U << 3)  /* what is cold comes after the end, when it is wanted */
#define STREAM_FEATURES_KNOWN 15U

/* The parts of a stream of blocks. Later rounds are 2, 3 and so on. */
#define STREAM_PART_COLD 0U
#define STREAM_PART_RESIDENT 1U

struct stream_header {
	uint64_t size_bytes;
	uint32_t block_bytes;
	uint32_t features;
	uint8_t id[STREAM_ID_BYTES]; /* random: of this transfer */
	/* A list: the key that its identities are made with. DELTA: that of the list that the stream was made for, and
	 * the identity of this list: the receiver must have what it says. */
	uint8_t key[STREAM_KEY_BYTES];
	struct tierfs_ident base;
};

struct stream_totals {
	uint64_t records; /* before the end record */
	uint64_t blocks, hole_blocks, payload_bytes;
	struct tierfs_ident stamp; /* of the content that the receiver should have now, if it is known. Of wants: the
				    * longest wait in nanoseconds, in the first word */
};

struct stream_record {
	enum stream_type type;
	uint8_t generation, tier;
	uint64_t block;      /* BLOCK, HOLES, HASHES, AWAY, WANT, GONE: the first */
	uint64_t value;      /* HOLES: count; PART: its number; RESULT, GONE: errno, 0 is success; WANT: 1 if somebody
			      * waits for it */
	const void *payload; /* BLOCK, HASHES, AWAY, ABORT and RESULT (text, not ended by NUL) */
	uint32_t length_bytes;
	struct stream_totals totals; /* END */
};

/* In a list: a hole, and a block whose identity is not known (damaged, away, or in passing). */
#define STREAM_HOLE ((struct tierfs_ident){ { 1, 0 } })
#define STREAM_UNKNOWN IDENT_NONE

static inline bool stream_is_hole(struct tierfs_ident ident)
{
	return ident_equal(ident, STREAM_HOLE);
}

/* The stamp of a file's content is a sum over all blocks: the order does not matter, and a block that changes is taken
 * out and put in again. Holes and what is not known add nothing. It finds mistakes of either end, no more. */
void stream_stamp_add(struct tierfs_ident *stamp, uint64_t block, struct tierfs_ident ident);
void stream_stamp_sub(struct tierfs_ident *stamp, uint64_t block, struct tierfs_ident ident);
/* Of a list. */
struct tierfs_ident stream_stamp_all(const struct tierfs_ident *idents, uint64_t count);

static inline uint64_t stream_block_count(const struct stream_header *header)
{
	return (header->size_bytes + header->block_bytes - 1) / header->block_bytes;
}

/* NULL: the header is within the limits. Else what is wrong with it, for a person. */
const char *stream_header_check(const struct stream_header *header);

const char *stream_type_name(enum stream_type type);

/* --- bytes ------------------------------------------------------------------------------------------------------ */

void stream_put_magic(enum stream_kind kind, uint8_t out[static STREAM_MAGIC_BYTES]);
/* -EBADMSG: not a stream of that kind. -EPROTONOSUPPORT: of a version that this program does not know. */
int stream_check_magic(enum stream_kind kind, const uint8_t in[static STREAM_MAGIC_BYTES]);

/* The checksum covers head and payload, the number of the record, and whose stream it is (salt). */
void stream_put_head(const struct stream_record *record, uint64_t number, uint64_t salt,
		     uint8_t out[static STREAM_HEAD_BYTES]);
/* Unverified. payload is left alone. -EBADMSG: no such type, or reserved bits. */
int stream_get_head(const uint8_t in[static STREAM_HEAD_BYTES], struct stream_record *ret);
bool stream_verify(const uint8_t in[static STREAM_HEAD_BYTES], const void *payload, uint32_t length_bytes,
		   uint64_t number, uint64_t salt);

void stream_put_header(const struct stream_header *header, uint8_t out[static STREAM_HEADER_BYTES]);
void stream_get_header(const uint8_t in[static STREAM_HEADER_BYTES], struct stream_header *ret);
void stream_put_totals(const struct stream_totals *totals, uint8_t out[static STREAM_TOTALS_BYTES]);
void stream_get_totals(const uint8_t in[static STREAM_TOTALS_BYTES], struct stream_totals *ret);
void stream_put_idents(const struct tierfs_ident *idents, size_t count, uint8_t *out);
struct tierfs_ident stream_get_ident(const void *payload, size_t index);
/* One block of an AWAY record: its identity, and its age. */
struct stream_away {
	struct tierfs_ident ident;
	uint8_t generation, tier;
};

void stream_put_away(const struct stream_away *away, uint8_t out[static STREAM_AWAY_BYTES]);
struct stream_away stream_get_away(const void *payload, size_t index);
uint64_t stream_salt(const struct stream_header *header);

/* The text of an ABORT or RESULT record as one line. It comes from the other side: what is not printable is "?". */
#define STREAM_TEXT_LEN (STREAM_REASON_MAX + 1)
char *stream_text(const struct stream_record *record, char buf[static STREAM_TEXT_LEN]);
