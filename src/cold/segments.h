/* cold/segments.h - the files that hold the values: each is filled from its beginning to its end, and removed as a
 * whole.
 *
 * A segment is a file POOL/store/values/XXXXXXXX. Space in it is reserved under the lock and written without it;
 * nothing is ever overwritten. It counts how many of its bytes are still referred to (live); when it is sealed and
 * nothing is, it is dead. Who refers to what is the caller's knowledge.
 *
 * A dead segment is not unlinked before what made it garbage is durable: after a loss of power the references of before
 * may be there again. So the caller says when its references are synced: segments_cover() before, segments_covered()
 * after, then segments_reap() unlinks. Until then it can come back to life (segments_revive()).
 *
 * A sync that failed is never made good by another one: the kernel tells of a page that it could not write once, and
 * holds it for clean from then on. The segment becomes suspect: it takes no more values, is not synced any more, and
 * what it holds counts as durable only when it was moved to another one.
 *
 * Thread-safety: functions marked (lock) are called with the lock held, all others without; those do I/O. 0 or -errno.
 * Direct I/O is used where the filesystem has it.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "base/lock.h"
#include "cold/use.h"

/* Memory, offset and length of direct I/O: a multiple of every sector size there is. */
#define SEGMENT_ALIGN 4096U

#define SEGMENT_NAME_LEN 9
/* Of segments_read_many(). */
#define SEGMENT_READS_MAX 64U
#define SEGMENT_CONTEXTS_KEPT 4U

enum segment_life {
	SEGMENT_LIVE,    /* values are referred to, or may be */
	SEGMENT_DEAD,    /* none is, but that is not known to be durable; in the list of the dead, as the next two */
	SEGMENT_COVERED, /* the same, since before the sync that is under way */
	SEGMENT_GONE,    /* durably so: to be unlinked */
};

struct segment {
	UT_hash_handle hh;
	uint32_t id;         /* immutable; all else under the lock */
	int fd;              /* -1: not open at the moment */
	uint64_t file_bytes; /* of the file when it was found or made */
	uint64_t end_bytes;  /* reserved so far */
	uint64_t live_bytes;
	uint32_t live_count;       /* values */
	unsigned int refs;         /* readers: it stays while there are any */
	unsigned int pending;      /* reservations whose values are not referred to yet */
	TAILQ_ENTRY(segment) open; /* with a descriptor; who was used last is last */
	bool sealed;               /* takes no more values */
	bool dirty;                /* written since it was last synced */
	bool fresh;                /* its name was not synced so far */
	bool naming;               /* it is being synced */
	bool suspect;              /* a sync failed */
	bool unmovable;            /* some of it cannot be read: left alone */
	bool scarce;               /* made when there was no room for new values: for those that move */
	enum segment_life life;
	struct segment *next_dead;
};

struct segments {
	struct lock lock;
	pthread_mutex_t grow; /* one thread makes a new file; held across I/O, taken before the lock */
	char *dir;
	int dir_fd;
	uint32_t segment_bytes;  /* of new ones */
	struct segment *table;   /* from here on under the lock */
	struct segment *current; /* NULL: none */
	struct segment *dead;    /* those that are not SEGMENT_LIVE */
	uint64_t dead_bytes;     /* files of them; 0: there is none */
	uint64_t dead_since_ns;  /* when the first of them died that no sync covered */
	bool keep_dead;          /* nobody knows what is referred to: nothing is covered */
	uint32_t last_id;
	TAILQ_HEAD(segments_open_files, segment) open;
	unsigned int open_files, open_most;           /* of the list; the latter is immutable */
	uint64_t live_bytes, end_bytes;               /* sums */
	bool dir_dirty;                               /* a file was made since the last sync */
	unsigned long context[SEGMENT_CONTEXTS_KEPT]; /* for asynchronous reads */
	unsigned int contexts;
	struct store_meter meter[STORE_USES]; /* without the lock */
};

/* Opens or makes the directory and lists the segments in it, all of them sealed and with nothing live. segment_bytes is
 * a power of two, at most PLACE_OFFSET_LIMIT. */
int segments_open(struct segments *segments, const char *dir, uint32_t segment_bytes);
/* After all references were counted and made durable, and before any thread runs: removes what nobody refers to, cuts
 * unused ends off. */
void segments_settle(struct segments *segments);
/* Cuts the end off the current segment and closes. What is dead and not durably so stays on the disk; the next open
 * finds it. Takes one that is all zero. */
void segments_close(struct segments *segments);

struct segment *segments_find(struct segments *segments, uint32_t id); /* (lock) NULL: none */

/* Reserves up to want bytes, at least need, at the end of the current segment, rounded up to SEGMENT_ALIGN. Fails with
 * -EAGAIN if it has no room: then segments_grow(). The segment is pending until segments_settled(). (lock) */
int segments_reserve(struct segments *segments, uint64_t need, uint64_t want, struct segment **ret,
		     uint32_t *ret_offset, uint32_t *ret_bytes);
void segments_settled(struct segments *segments, struct segment *segment); /* (lock) */
/* Makes a new segment current, unless another thread just did and it has need bytes. -ENOSPC, -EIO. */
int segments_grow(struct segments *segments, uint64_t need, bool scarce);
/* Nothing more goes to this segment. True: it was the current one, and its end is to be cut off. (lock) */
bool segments_seal(struct segments *segments, struct segment *segment);
/* Cuts the end off one that is sealed, and referenced or pending. */
void segments_trim(struct segments *segments, struct segment *segment);

/* A value of span bytes at offset is referred to, or no more. The last one gone from a sealed segment makes it dead.
 * (lock) */
void segments_add_live(struct segments *segments, struct segment *segment, uint32_t offset, uint32_t span_bytes);
void segments_drop_live(struct segments *segments, struct segment *segment, uint32_t span_bytes);
/* Dead if it is sealed and nothing is live or pending. (lock) */
void segments_check_dead(struct segments *segments, struct segment *segment);
/* Before all references are counted anew: nothing is live, and the dead are not dead. (lock) */
void segments_revive(struct segments *segments);
/* What is dead now is covered by the sync of references that follows, and how that ended. One sync at a time. (lock) */
void segments_cover(struct segments *segments);
void segments_covered(struct segments *segments, bool durable);
/* Unlinks what is durably dead and read by nobody. One that cannot be unlinked is tried again the next time. */
void segments_reap(struct segments *segments);

void segments_ref(struct segments *segments, struct segment *segment); /* (lock) */
void segments_unref(struct segments *segments, struct segment *segment);

/* The segment is referenced or pending. buf, length and offset are aligned. A read beyond the end of the file is short.
 */
int segments_write(struct segments *segments, enum store_use use, struct segment *segment, const void *buf,
		   size_t length, uint32_t offset);
int segments_read(struct segments *segments, enum store_use use, struct segment *segment, void *buf, size_t length,
		  uint32_t offset, size_t *ret_len);

struct segment_read {
	struct segment *segment;
	void *buf;
	size_t length;
	uint32_t offset;
	size_t got; /* filled in, and so is the next */
	int err;
};

/* Up to SEGMENT_READS_MAX reads at the same time; each has its own result. */
void segments_read_many(struct segments *segments, enum store_use use, struct segment_read **reads, size_t count);
void segments_drop_contexts(struct segments *segments); /* at the end, when nobody reads */

/* What was written becomes durable, but for what lies in suspect segments. One at a time. -EIO: it did not; some
 * segments are suspect now. */
int segments_sync(struct segments *segments);
/* A suspect segment with something live in it; NULL: there is none. (lock) */
struct segment *segments_suspect(struct segments *segments);

/* For segments.c and segments_sync.c: segments_io.c knows the files. */
void segments_name(uint32_t id, char name[static SEGMENT_NAME_LEN]);
int segments_open_file(struct segments *segments, uint32_t id, int flags);
/* (lock) It has that descriptor from now on, which others may be closed for; or no more: the descriptor is returned. */
void segments_give_file(struct segments *segments, struct segment *segment, int fd);
int segments_take_file(struct segments *segments, struct segment *segment);
/* Those that rested longest, while more than open_most are open. */
void segments_close_resting(struct segments *segments);
/* How many shall be open at the most: an eighth of what the process may have. */
unsigned int segments_files_most(void);
/* The descriptor of a referenced or pending segment, opened if it must be; it stays open as long. Or -errno. */
int segments_descriptor(struct segments *segments, struct segment *segment);
