/* cold/store_state.h - what the store on RocksDB holds. Its files share it, and nobody else.
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

static inline struct store_rocks *store_rocks_of(struct store *store)
{
	return (struct store_rocks *)store;
}
