/* engine/flow.h - what goes between the engine and the store: counted for its file by what it is for (cold/use.h), and
 * within the limits of the tenants that the file is charged to (cold.read_iops, cold.read_bps, cold.write_bps).
 *
 * A limit is a rate (rate.h) of a tenant, and holds for all of its files together. Who waits for it:
 *
 *   a fault       parked, until the clock of its tenants has come so far; it costs no thread (parked.h)
 *   read-ahead    does not wait: it is left out
 *   a call        its thread sleeps, before it takes any block. Nobody else's does
 *   demotion      does not wait: the demoter passes over the file, and the tenant gets no more DRAM meanwhile if
 *                 that is short (tenant.h)
 *
 * What is read is taken before, by what the table says of its length. What is written is taken by its length before it
 * is compressed, and that is given back when what became of it was taken. What may not wait (a block that is completed,
 * a fill for longer than a second, a clone) goes on and is taken as well. Values are what is counted here; what the
 * device had of them is in store_figures.
 *
 * Thread-safety: all functions, from any thread; those that wait hold no lock.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/store.h"
#include "cold/use.h"

struct engine;
struct ramfile;
struct tenant;

enum flow_limit { FLOW_READ_OPS, FLOW_READ_BYTES, FLOW_WRITE_BYTES, FLOW_LIMITS };

/* A file's part. */
struct flow {
	struct store_meter meter[STORE_USES]; /* values and their bytes */
	_Atomic unsigned int waiting;         /* calls that do */
	_Atomic uint64_t waited;              /* faults and calls that did */
};

/* The engine's part. */
struct flows {
	_Atomic bool lifted;
	_Atomic uint64_t held_ns;  /* flow_next_held() */
	_Atomic uint64_t guest_ns; /* when a fault read from the store last */
	pthread_t thread;          /* tells who serves faults that the turn of one has come */
	bool thread_runs;          /* immutable */
	pthread_cond_t news;       /* with the lock of room.h, which guards the next two */
	bool stopping;
	uint64_t due_ns; /* the next turn of a fault that is parked; 0: none */
};

/* Of zeroed memory. start: with its thread. fini also after a start that failed. */
void flows_init(struct flows *flows);
int flows_start(struct engine *engine);
void flows_fini(struct engine *engine);

/* --- calls of the store, see store.h; the caller owns the blocks --- */

int flow_get(struct ramfile *file, enum store_use use, uint64_t block, void *buf, size_t cap, size_t *ret_len);
int flow_walk(struct ramfile *file, enum store_use use, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg);
int flow_put(struct ramfile *file, enum store_use use, const struct store_item *items, size_t count);

/* --- limits --- */

/* For a fault: one value of so many bytes is taken if it may be read now. Returns 0, or when to ask again. */
uint64_t flow_take_fault(struct ramfile *file, uint64_t bytes);
/* What was taken so was not read. */
void flow_return_fault(struct ramfile *file, uint64_t bytes);
/* When a fault of the file may be read; up to now: at once. */
uint64_t flow_fault_due(struct ramfile *file);
/* Read-ahead may read now. */
bool flow_may_ahead(struct ramfile *file);
/* What is read now, and was not taken before. */
void flow_take_read(struct ramfile *file, uint64_t values, uint64_t bytes);
/* Takes the cold blocks of the range, if they may be read now. */
bool flow_take_read_now(struct ramfile *file, uint64_t first, uint64_t count);
/* Waits until they may, and takes them. -EINTR: the request was given up (interrupt_on()); -EUSERS: too many calls
 * wait already. Whoever is patient gets neither. */
int flow_wait_read(struct ramfile *file, uint64_t first, uint64_t count, bool patient);
/* Waits until so many bytes, which are not compressed yet, may be written. Errors as above; 0: to be ended. */
int flow_begin_write(struct ramfile *file, uint64_t bytes, bool patient);
void flow_end_write(struct ramfile *file, uint64_t bytes);
/* The same for a fill of a plain mapping, for which a thread waits as in a fault: nothing goes before it. */
void flow_wait_fill(struct ramfile *file, uint64_t first, uint64_t count);
/* Values of a file, or of one that is not loaded, are about to move from one store to another: taken from what its
 * tenant (NULL: none) may read and write, after all others, if they may now. Returns 0, or how long to wait, in ns. */
uint64_t flow_take_move(struct engine *engine, struct tenant *tenant, uint64_t values, uint64_t bytes);
/* The demoter is to pass over the file: it has written as much as it may for now. */
bool flow_holds_back(struct ramfile *file);
/* When the first of those that were passed over may write again. UINT64_MAX: none was. */
uint64_t flow_next_held(struct engine *engine);
/* Under the lock of room.h: a fault was parked whose turn comes then. */
void flow_wake_at(struct engine *engine, uint64_t due_ns);
/* No limit holds any more. Calls that wait go on; for faults room_look_again() is to follow. */
void flow_lift(struct engine *engine);
