/* engine/room.h - room in the budget: whether there is enough, who waits for it, and who is told when there is some.
 *
 * Two limits count: the budget of the mount, and a limit that a file may have of its own. Part of each is kept free for
 * faults. Threads of the daemon wait here, faults wait parked (parked.h); the demoter is kicked by all of them.
 * Bytes, and deadlines as of clock_ns().
 * Thread-safety: all functions, from any thread; those that wait hold no lock meanwhile.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/lock.h"
#include "engine/parked.h"
#include "mem/budget.h"

struct ramfile;
struct engine;

/* Called, on any thread, when a fault that waits for room may go on: somebody shall call fault_resume() until it
 * returns false. fn must not block. */
typedef void room_fn(void *arg);

/* The engine's part: who waits, and who is told. */
struct room {
	struct lock lock;
	room_fn *on_room; /* under lock, also while it is called, and so is on_limit */
	void *on_room_arg;
	room_fn *on_limit;
	void *on_limit_arg;
	struct parked_list parked; /* under lock */
	uint64_t parked_count;     /* under lock */
	uint64_t parked_own;       /* under lock: of those, faults of a file that is at its own limit */
	uint64_t looks;            /* under lock: times that somebody looked for who is next */
	uint64_t passed;           /* under lock: what who was served last had had (tenant_passed()) */
	_Atomic uint64_t queue;    /* parked_count without parked_own */
	uint64_t writing_bytes;    /* under lock: write back that was let in and is not done */
	uint64_t waiting_writes;   /* under lock: requests of it that were not */
	bool write_told;           /* under lock: the log says that some wait */
	_Atomic uint64_t staged_looks;
	pthread_cond_t wakeup;    /* with lock, of the scanner: kicked or stopping */
	pthread_cond_t reclaim;   /* with lock, of who makes room: called or stopping */
	uint64_t calls;           /* under lock */
	bool kicked, stopping;    /* under lock */
	unsigned int waiters;     /* under lock: threads in room_wait() and room_wait_staged() */
	unsigned int own_waiters; /* under lock: the same, for whose file's tenant alone there is no room */
	pthread_cond_t freed;     /* with lock: budget was given back */
	pthread_cond_t squeeze;   /* with lock: the reserve may be used, or squeeze_ends */
	bool squeeze_ends;        /* under lock */

	_Atomic bool evictor; /* there is somebody who empties the kernel's cache */
	_Atomic pid_t evictor_tid;
	_Atomic uint64_t limited; /* files with a limit of their own */
	_Atomic bool pressed;     /* the demoter was told that the reserve is used */
	_Atomic bool near;        /* the scanner was told that the budget is */
	_Atomic uint64_t waited_faults;
};

/* parked_next() has looked at the file, and why it is passed over. Under lock. */
struct room_look {
	uint64_t number;
	bool full, early, seen;
};

/* A file's part: limits of its own, beside the budget. */
struct room_limit {
	_Atomic uint64_t bytes;           /* room_set_limit() */
	_Atomic uint64_t growth_bytes;    /* room_set_growth() */
	_Atomic bool near;                /* the demoter was told that it is */
	_Atomic uint64_t urgent_until_ns; /* room_urgent() */
	struct room_look look;
};

/* Of zeroed memory. fini: nobody waits; faults that are parked are forgotten. */
void room_init(struct room *room);
void room_fini(struct room *room);

/* NULL: nobody is told. */
void room_on_room(struct engine *engine, room_fn *fn, void *arg);
/* The same when a fault waits for a limit of its file's own. fn must not block. */
void room_on_limit(struct engine *engine, room_fn *fn, void *arg);

/* --- is there enough --- */

/* Half of the reserve is used, or somebody waits: room has to be made. */
bool room_pressed(struct engine *engine);
/* Somebody waits, or will soon: of the reserve less than a quarter is left. */
bool room_wanted(struct engine *engine);
/* Somebody waits for a limit of his file's own, or of its tenant. */
bool room_own_wanted(struct engine *engine);
/* Faults that wait now, and requests of write back that do. */
uint64_t room_parked(struct engine *engine);
uint64_t room_waiting_writes(struct engine *engine);
/* Some was made: parked faults may go on. */
void room_announce(struct engine *engine);
/* A tenant has come near to its max: its files are scanned soon, and the demoter is told, and who empties the kernel's
 * cache. */
void room_near(struct engine *engine);
/* Limits have changed, or who is charged for what: whoever waits looks again, and as room_near(). */
void room_look_again(struct engine *engine, bool less);
/* Waits until that many bytes are free for the file, or the deadline. Returns at once if no demoter runs. */
void room_wait(struct ramfile *file, uint64_t bytes, uint64_t deadline_ns);
/* After a reservation: kicks the demoter if half of the reserve is used. */
void room_used(struct engine *engine);
/* Counts bytes of the file that are in DRAM whatever limits say. May be called under its lock. */
void room_force(struct ramfile *file, uint64_t bytes);
/* Gives back budget of the file's, and wakes who waits. */
void room_release(struct ramfile *file, uint64_t bytes);

/* --- a file's own limit --- */

/* A limit of its own for what of the file is in DRAM, beside the budget: beyond it the faults of its mappers wait, and
 * no others. Part of it is kept free for them by demoting blocks of the file. UINT64_MAX: none. */
void room_set_limit(struct ramfile *file, uint64_t bytes);
/* Whoever knows what the mappers are up to wants to be asked again (room_on_limit()) before more than this is there. */
void room_set_growth(struct ramfile *file, uint64_t bytes);
/* Who asked is asked again, if a fault waits for its file's own limit, which may be more now. */
void room_look_at_limits(struct engine *engine);
/* What of the file is in DRAM, or reserved for it. */
uint64_t room_taken_by(struct ramfile *file);
/* The file's own limit, and its growth, allow so many bytes more. Reserves nothing, and asks no tenant. */
bool room_allows(struct ramfile *file, uint64_t bytes, enum budget_need need);
/* 0, or until when the file may not use what is free of the budget, which it has to leave to others if it changes
 * nothing: who pays (tenant.h) leaves them the last part of the reserve, and the other faults of a file a little of it
 * to urgent ones of the same file. */
uint64_t room_leaves_until(struct ramfile *file, uint64_t bytes, enum budget_need need);
/* An urgent fault of the file has to wait for room. */
void room_urgent(struct ramfile *file);
/* Bytes that a file must give up of its own, because it has come near to its own limit; 0: it has not. */
uint64_t room_missing_of(struct ramfile *file);

/* --- plain mappings: copies in the arena, and the evictor --- */

/* There is somebody who empties the kernel's cache; the calling thread is that. */
bool room_has_evictor(struct engine *engine);
bool room_is_evictor(struct engine *engine);
/* Waits while the arenas hold more than a 1/divisor of the budget, or until the deadline. */
void room_wait_staged(struct engine *engine, unsigned int divisor, uint64_t deadline_ns);
/* A write back of so many bytes waits until the copies that plain mappings have left in the arenas are few enough for
 * it, and begins; without bound while somebody maps the file (mapped), for a while if not. Tenants that may not write
 * to the store (flow.h, quota.h) do not count for each other, nor for the others, and none breaks a promise
 * (claim.h). */
void room_begin_write_back(struct ramfile *file, uint64_t bytes, bool mapped);
/* It is done. */
void room_end_write_back(struct engine *engine, uint64_t bytes);
/* For the evictor of plain mappings: waits until less than the reserve of the budget is free, or the deadline. Returns
 * the bytes that are missing. */
uint64_t room_wait_squeeze(struct engine *engine, uint64_t deadline_ns);
/* The evictor says that it is there, and that it ends. */
void room_set_evictor(struct engine *engine, bool on);
/* Ends room_wait_squeeze() early. */
void room_end_squeeze(struct engine *engine);
/* Inode numbers of the files that the kernel caches pages of, or may; those first for which somebody waits, then those
 * whose tenant has come near to its max. Returns how many, at most max. A file that changes meanwhile may be there
 * twice. */
size_t room_plain_files(struct engine *engine, uint64_t *ret_ino, size_t max);
