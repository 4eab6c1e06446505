/* cold/warm_state.h - between the files of the warm store: warm.c (the contract), warm_index.c (what lies where),
 * warm_log.c (the files), warm_load.c (found again), warm_move.c (the way below), warm_walk.c.
 *
 * Locks, in the order in which they are taken:
 *   mover   one thread at a time moves values below or removes files
 *   guard   which values are on their way below, and what is being removed; not held across calls of below
 *   commit  every change of the log and of the index, so that both have the same order. Held while the log is written:
 *           that is a copy to memory, which cannot wait for a device
 *   shard   one part of the index, for readers
 * guard and shard are of the same rank and never held together.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "base/lock.h"
#include "cold/places.h"
#include "cold/warm.h"

#define WARM_SHARDS 16U
#define WARM_RUN 256U   /* records written at once */
#define WARM_BATCH 512U /* values that go below at once */
#define WARM_RECORD_LIMIT(segment_bytes) ((segment_bytes)-WARM_HEADER_BYTES - sizeof(struct warm_record))

/* --- the files: docs/format/store.md --- */

#define WARM_MAGIC "tierfsW1"
#define WARM_HEADER_BYTES PLACE_UNIT_BYTES
#define WARM_NAME_LEN 17

enum warm_kind {
	WARM_VALUE = 1,
	WARM_REMOVED = 2, /* no value; count blocks from key on are gone */
	WARM_COPY = 3,    /* a value whose content is below as well: it never goes there */
};

struct warm_header {
	char magic[8];
	uint64_t id;
	uint64_t checksum; /* of what is before it */
};

/* Before each value; at a multiple of PLACE_UNIT_BYTES. */
struct warm_record {
	uint64_t checksum; /* of the rest of the record */
	uint64_t sequence; /* greater than that of any record before it */
	struct store_key key;
	uint64_t extra; /* value, copy: codec_checksum() of it; removal: count */
	uint32_t length_bytes;
	uint32_t kind;
};

static inline uint32_t warm_span(uint32_t length_bytes)
{
	return place_span((uint32_t)sizeof(struct warm_record) + length_bytes);
}

/* --- the parts --- */

struct warm_segment {
	TAILQ_ENTRY(warm_segment) link; /* under commit */
	uint64_t id;                    /* immutable; the order of segments is that of their numbers */
	uint32_t slot;                  /* immutable: what a place calls it */
	int fd;                         /* immutable */
	_Atomic unsigned int refs;      /* one of the list, one of each reader */
	_Atomic uint32_t live_bytes;    /* spans of the values that the index names */
	uint32_t end_bytes;             /* under commit: of whole records */
	bool removals;                  /* under commit: it has some, so it goes only when it is the oldest */
	uint32_t below_bytes;           /* under mover: live values before it are below, too */
};

TAILQ_HEAD(warm_segments, warm_segment);

struct warm_shard {
	struct lock lock;
	struct places places; /* changed under commit and the lock, so that either will do to read it */
} __attribute__((aligned(64)));

/* Records on their way into the log. */
struct warm_run {
	struct warm_record record[WARM_RUN];
	struct iovec piece[3 * WARM_RUN];
	unsigned int records, pieces;
	uint32_t bytes;
};

/* A range on its way out, in the stack of who removes it. */
struct warm_removal {
	LIST_ENTRY(warm_removal) link;
	uint64_t ino, first, last;
};

struct warm {
	struct store base;
	struct store *below; /* immutable, and so are the next */
	int dir_fd;
	uint32_t segment_bytes;
	uint64_t bytes;       /* the bound */
	uint64_t start_bytes; /* above: values are moved */
	uint64_t limit_bytes; /* above: puts wait */
	uint32_t slots;

	struct warm_shard shard[WARM_SHARDS];
	struct warm_segment **slot; /* an entry is read under the shard of a place that names it */

	pthread_mutex_t commit; /* guards what follows */
	struct warm_segments segments;
	struct warm_segment *current; /* the last one, or NULL */
	uint64_t last_id, sequence;
	struct warm_run run;
	bool dropping; /* the records of a segment are not in the index any more, and the file is still there */
	pthread_cond_t room, work;
	uint64_t wanted;   /* puts that found no room */
	uint64_t failures; /* moves that failed */
	int move_error;    /* of the last one */
	bool told;         /* the log was told of it */
	bool stop;
	unsigned int
		sweeps; /* changed under mover, too; while one goes on, values that are not below stay where they are */

	pthread_mutex_t mover;

	struct lock guard; /* guards what follows */
	pthread_cond_t guard_changed;
	LIST_HEAD(, warm_removal) removals;
	const struct store_item *moving; /* sorted */
	size_t moving_count;

	_Atomic uint64_t total_bytes; /* changed under commit */
	_Atomic uint64_t put_blocks, put_bytes, get_blocks, get_bytes, hits, moved_blocks, kept_blocks, errors;
	_Atomic bool full;
	pthread_t writer;
	bool writer_started;
};

static inline struct warm *warm_of(struct store *store)
{
	return (struct warm *)store;
}

/* The last block of a range that is not empty. */
static inline uint64_t warm_last(uint64_t first, uint64_t count)
{
	return count - 1 > UINT64_MAX - first ? UINT64_MAX : first + count - 1;
}

/* --- warm_index.c --- */

void warm_index_init(struct warm *warm);
void warm_index_fini(struct warm *warm);
void warm_index_figures(struct warm *warm, uint64_t *ret_count, uint64_t *ret_memory_bytes);

/* Under commit. Reserve, then set: nothing may be dropped in between. */
int warm_index_reserve(struct warm *warm, struct store_key key);
void warm_index_set(struct warm *warm, struct store_key key, struct place place);
bool warm_index_drop(struct warm *warm, struct store_key key, struct place place); /* if that is where it lies */
void warm_index_remove(struct warm *warm, uint64_t ino, uint64_t first, uint64_t last);

bool warm_index_any(struct warm *warm, uint64_t ino, uint64_t first, uint64_t last);
bool warm_index_is(struct warm *warm, struct store_key key, struct place place);

/* The segment is referenced. */
bool warm_index_ref(struct warm *warm, struct store_key key, struct place *ret, struct warm_segment **ret_segment);

struct warm_found {
	uint64_t block;
	struct place place;
	struct warm_segment *segment; /* referenced */
};

/* The first values of a range, in order, up to cap. */
size_t warm_index_collect(struct warm *warm, uint64_t ino, uint64_t first, uint64_t last, struct warm_found *found,
			  size_t cap);

/* --- warm_log.c --- */

void warm_segment_name(uint64_t id, char name[static WARM_NAME_LEN]);
int warm_segment_add(struct warm *warm, uint64_t id, int fd, struct warm_segment **ret); /* takes fd on success */
void warm_segment_unref(struct warm_segment *segment);
void warm_segment_remove(struct warm *warm, struct warm_segment *segment); /* under commit; the file, too */
int warm_segment_read(const struct warm_segment *segment, struct place place, void *buf, size_t length);

/* Under commit. Appends as many of the items as one write takes and enters them in the index; at least one. */
int warm_log_put(struct warm *warm, enum warm_kind kind, const struct store_item *items, size_t count,
		 size_t *ret_done);
/* Under commit. */
int warm_log_remove(struct warm *warm, uint64_t ino, uint64_t first, uint64_t count);

/* The records of a segment, as they lie in memory. */
struct warm_view {
	const uint8_t *at;
	size_t bytes;
};

int warm_view_open(const struct warm_segment *segment, size_t bytes, struct warm_view *ret);
void warm_view_close(struct warm_view *view);
const struct warm_record *warm_view_record(const struct warm_view *view, uint32_t offset); /* NULL: that was the end */
static inline const void *warm_record_value(const struct warm_record *record)
{
	return record + 1;
}

static inline bool warm_has_value(const struct warm_record *record)
{
	return record->kind == WARM_VALUE || record->kind == WARM_COPY;
}

bool warm_record_valid(const struct warm_record *record);
void warm_header_make(uint64_t id, struct warm_header *ret);

/* --- warm_load.c --- */

/* Before any thread runs. */
int warm_load(struct warm *warm);

/* --- warm_move.c --- */

int warm_move_start(struct warm *warm);
void warm_move_stop(struct warm *warm);
/* All that was put before goes below; it stays here as well. */
int warm_move_all(struct warm *warm);
/* Under commit, which is let go: until a put may go on. */
int warm_move_wait(struct warm *warm);
void warm_removal_begin(struct warm *warm, struct warm_removal *removal);
void warm_removal_end(struct warm *warm, struct warm_removal *removal);

/* --- warm_walk.c --- */

int warm_walk(struct store *store, enum store_use use, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn,
	      void *arg);
int warm_heads(struct store *store, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg);
