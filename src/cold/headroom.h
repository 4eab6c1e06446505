/* cold/headroom.h - how much of the disk must stay free, so that the database never meets a full one.
 *
 * The database may abort the process when a write of its own finds no space. So everything that makes it write asks
 * first. What frees space, and the small records, may go further down than new values may.
 *
 * Thread-safety: headroom_check() from any thread.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

enum headroom_use {
	HEADROOM_VALUES,  /* new content */
	HEADROOM_RECORDS, /* metadata, removals: the way out of a full disk */
	HEADROOM_MOVES,   /* a segment for what the collector copies, and the records of it */
};

struct headroom {
	int dir_fd;            /* on the filesystem; borrowed */
	uint64_t buffer_bytes; /* memtables of the database */
	uint64_t segment_bytes;
	_Atomic uint64_t index_bytes; /* size of the database now: one compaction may need it again */
};

/* Sizes that suit a filesystem of this size. */
struct headroom_scale {
	uint64_t buffer_bytes;
	uint32_t segment_bytes;
};

int headroom_scale(const char *dir, struct headroom_scale *ret);

/* -ENOSPC if less would be free than must be. */
int headroom_check(struct headroom *headroom, enum headroom_use use);
/* True when collecting garbage is worth more than usual. */
_Bool headroom_tight(struct headroom *headroom);
