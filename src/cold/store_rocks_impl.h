/* cold/store_rocks_impl.h - what the files of this store share, and nobody else.
 *
 * Order of locks: moving, commit, sync, then the segments' lock, which also guards the table of places.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cold/buffers.h"
#include "cold/careful.h"
#include "cold/headroom.h"
#include "cold/places.h"
#include "cold/rocks.h"
#include "cold/segments.h"
#include "cold/shares.h"
#include "cold/store.h"
#include "cold/store_error.h"

/* Bytes of one transfer, of many values; the largest value fits, with the padding of alignment at both ends. */
#define STORE_TRANSFER_BYTES (1U << 20)

struct store_rocks {
	struct store base;
	char *dir; /* immutable */
	struct rocks *rocks;
	struct headroom headroom;
	struct buffers reads;     /* for one value */
	struct buffers transfers; /* STORE_TRANSFER_BYTES: for puts, walks, collection */
	uint32_t value_max_bytes; /* immutable */

	/* One change of places at a time, so that table and database agree on the order. Held across the database's
	 * write: that is one short append to its log, and the database would queue the writers just the same. */
	pthread_mutex_t commit;
	bool doubtful;           /* under commit: a write failed, so the database may know more than the table */
	int doubtful_error;      /* under commit, and so are the next two: why */
	uint64_t reopened_at_ns; /* last attempt to make sure */
	uint64_t told_at_ns;     /* when the log was told of one */

	pthread_mutex_t sync; /* one sync at a time, so that none returns before what another took over is done */
	bool log_failed;      /* under sync: a sync of the database's log failed, so none is believed before a reopen */

	pthread_mutex_t moving; /* one thread at a time empties segments */

	struct segments segments; /* with the lock */
	struct places places;     /* under segments.lock, and so is the next */
	struct shares shares;     /* values with more than one record, or of another file */
	struct careful careful;   /* under segments.lock */
	uint32_t format;          /* under commit: version of the index, as the database says */

	pthread_t collector;
	bool collector_runs; /* immutable once open */
	pthread_cond_t work; /* with segments.lock: for the collector */
	bool stop;           /* under segments.lock, and so is the next */
	bool hurry;          /* a put was refused: collect what little there is */
	bool minds_dead;     /* the collector will wake up for the dead segments by itself */

	_Atomic uint64_t put_blocks, put_bytes, get_blocks, get_bytes;
	_Atomic bool full;
	struct store_errors errors; /* of changes */
	struct store_errors read_errors;
};

/* Records whose values move at once. A value that has more of them is copied once for each so many. */
#define STORE_MOVE_VALUES 256U

/* Values that move: as a put, but only those that are still where they were. places: one for each item. */
struct store_rocks_move {
	const struct store_item *items;
	const struct place *places; /* NULL: an ordinary put */
	size_t count;
	enum headroom_use use;
};

/* The commit mutex is held for these two. Writes records, after an error once more behind a reopen: -EAGAIN then says
 * that the table was rebuilt and the caller must look again. make_sure: to be called before a look at the table that a
 * change rests on; fails while the database cannot be opened, and within a second after an attempt. */
int store_rocks_write_records(struct store_rocks *store, const struct rocks_change *changes, size_t count,
			      bool durable);
int store_rocks_make_sure(struct store_rocks *store);

/* Keeping count of who names a value: store_rocks_share.c. The segments' lock is held. */
void store_rocks_use(struct store_rocks *store, struct place place);  /* one more record names it */
void store_rocks_drop(struct store_rocks *store, struct place place); /* one less */
/* The file that the checksum of the value under that key is made for. */
uint64_t store_rocks_origin(const struct store_rocks *store, struct store_key key, struct place place);
/* A value as it lies becomes one of the key that it was asked for; one that is not what it should be stays as it is,
 * and fails its checksum. */
void store_rocks_own(void *value, size_t length_bytes, uint64_t origin, struct store_key key);
/* As the contract says. */
int store_rocks_share(struct store *base, const struct store_share *share);
uint64_t store_rocks_shared_bytes(struct store *base, uint64_t ino);
/* Versions of the index. */
#define STORE_FORMAT_FIRST 1U  /* every value has one record */
#define STORE_FORMAT_SHARED 2U /* records may name the values of other files */
#define STORE_FORMAT 3U        /* heads of records are longer: they have identities (index.h) */
/* Before records are written: a program that knows earlier formats alone will not take them for damage. The commit
 * mutex is held, or nobody else is there. */
int store_rocks_upgrade(struct store_rocks *store);

/* Changing: store_rocks_write.c. As the contract says. */
int store_rocks_put(struct store *base, const struct store_item *items, size_t count);
int store_rocks_remove(struct store *base, uint64_t ino, uint64_t first, uint64_t count);
int store_rocks_move(struct store_rocks *store, const struct store_rocks_move *move);
int store_rocks_sync(struct store_rocks *store);
int store_rocks_sync_values(struct store_rocks *store); /* without their records */
/* As headroom_check(), but dead segments are made to go before the answer is no. The commit mutex may be held. */
int store_rocks_room(struct store_rocks *store, enum headroom_use use);

/* Reading: store_rocks_read.c. As the contract says. */
int store_rocks_get(struct store *base, struct store_key key, void *buf, size_t cap, size_t *ret_len);
int store_rocks_walk(struct store *base, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg);
int store_rocks_heads(struct store *base, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg);
/* Reads length bytes at a place of a referenced segment through the buffer; *ret points into it. */
int store_rocks_read(struct store_rocks *store, struct segment *segment, uint32_t offset, uint32_t length, void *buffer,
		     void **ret);

/* Starts and stops the collector's thread. */
int collect_start(struct store_rocks *store);
void collect_stop(struct store_rocks *store);
/* Wakes it if there is something to do. The segments' lock is held. */
void collect_poke(struct store_rocks *store);
/* Moves what lies in suspect segments (segments.h) elsewhere, all that was stored before the call. -EIO: some of it
 * could not be read or written. */
int collect_rescue(struct store_rocks *store);
