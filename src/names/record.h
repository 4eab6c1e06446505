/* names/record.h - the namespace as it lies in the store's metadata: keys, inode records, batches.
 * docs/format/namespace.md.
 *
 * Pure functions, but for record_batch_put(). 0 or -errno: -EBADMSG for a malformed key or record, -EPROTONOSUPPORT for
 * a record of a version that this program does not know.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "cold/meta.h"
#include "names/share.h"

/* What of an inode persists. */
struct record_inode {
	mode_t mode;
	uid_t uid;
	gid_t gid;
	uint32_t nlink; /* 0: an orphan, removed at its last close or at the next load */
	uint64_t size_bytes;
	uint64_t stored_bytes; /* cold, compressed, when the file was last put away: for st_blocks */
	struct timespec atime, mtime, ctime;
	bool dirty;     /* some of its content may be in DRAM only */
	bool lost;      /* that content is gone */
	bool kept;      /* an fsync has made a base durable: what came later may be gone, and the rest is whole */
	bool fell_back; /* dirty when the host went down, and back at that base since */
};

/* What was written for a tenant in the last day: of the hour that ran, and of the 24 before it. */
#define RECORD_DAY_HOURS 25
struct record_day {
	int64_t saved_s; /* CLOCK_REALTIME */
	uint64_t into_hour_ns;
	uint64_t bytes[RECORD_DAY_HOURS];
};

#define RECORD_PREFIX_INODE 'I'
#define RECORD_PREFIX_ENTRY 'D'
#define RECORD_PREFIX_SUPER 'S'
#define RECORD_PREFIX_OUTCOME 'R'
#define RECORD_PREFIX_SHARE 'H'
#define RECORD_PREFIX_PLACE 'W' /* cold/stores.h, which has 'N' as well */
#define RECORD_PREFIX_DAY 'Y'

#define RECORD_INODE_LEN 80
#define RECORD_SUPER_LEN 16
#define RECORD_OUTCOME_LEN 24
#define RECORD_SHARE_MAX (8 + 16 * SHARE_COUNT)
#define RECORD_DAY_LEN (24 + 8 * RECORD_DAY_HOURS)
#define RECORD_VALUE_MAX (RECORD_SHARE_MAX > RECORD_DAY_LEN ? RECORD_SHARE_MAX : RECORD_DAY_LEN)
#define RECORD_KEY_MAX (1 + 8 + NAME_MAX)
#define RECORD_BATCH_MAX 8

/* One atomic change of the namespace. Zeroed is empty. */
struct record_batch {
	struct meta_change change[RECORD_BATCH_MAX];
	uint8_t key[RECORD_BATCH_MAX][RECORD_KEY_MAX];
	uint8_t value[RECORD_BATCH_MAX][RECORD_VALUE_MAX];
	size_t count;
};

void record_batch_inode(struct record_batch *batch, uint64_t ino, const struct record_inode *inode);
void record_batch_drop_inode(struct record_batch *batch, uint64_t ino);
void record_batch_entry(struct record_batch *batch, uint64_t parent, const char *name, uint64_t child);
void record_batch_drop_entry(struct record_batch *batch, uint64_t parent, const char *name);
/* many: files may be in another store than the pool's own, so programs from before those must refuse the pool. */
void record_batch_super(struct record_batch *batch, uint64_t next_ino, bool many);
/* A new file begins in that store (cold/stores.h). */
void record_batch_place(struct record_batch *batch, uint64_t ino, unsigned int store);
void record_batch_outcome(struct record_batch *batch, uint32_t session, uint16_t slot, uint64_t request, uint64_t ino);
void record_batch_drop_outcome(struct record_batch *batch, uint32_t session, uint16_t slot);
/* Drops it if the share says nothing. */
void record_batch_share(struct record_batch *batch, uint64_t ino, const struct share *share);
/* NULL drops it. */
void record_batch_day(struct record_batch *batch, uint64_t ino, const struct record_day *day);
int record_batch_put(const struct record_batch *batch, struct store *store, bool durable);

int record_parse_inode(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_ino,
		       struct record_inode *ret);
int record_parse_entry(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_parent,
		       char ret_name[static NAME_MAX + 1], uint64_t *ret_child);
int record_parse_super(const void *value, size_t value_len, uint64_t *ret_next_ino, bool *ret_many);
int record_parse_outcome(const void *key, size_t key_len, const void *value, size_t value_len, uint32_t *ret_session,
			 uint16_t *ret_slot, uint64_t *ret_request, uint64_t *ret_ino);
/* *ret_ino also with an error, if the key has the length of one. */
int record_parse_day(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_ino,
		     struct record_day *ret);
int record_parse_share(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_ino,
		       struct share *ret);
