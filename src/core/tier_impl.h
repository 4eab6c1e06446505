/* core/tier_impl.h - the tier engine's struct, for the files that make it up: tier.c (files, demoter, settings) and
 * room.c (who waits for room, and who is told that there is some), forget.c (what the kernel caches).
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "core/ahead.h"
#include "core/choice.h"
#include "core/ramfile_impl.h"
#include "core/retry.h"
#include "core/tier.h"

TAILQ_HEAD(file_list, ramfile);
TAILQ_HEAD(parked_list, parked);

struct tier {
	struct tier_config config; /* immutable but for what the setters change below */
	_Atomic uint64_t min_idle_ns, referenced_idle_ns;
	struct budget budget;
	struct work_pool works;
	struct stages stages;
	struct crew *crew;     /* immutable; NULL: nobody helps */
	struct ahead *ahead;   /* immutable; NULL: read-ahead is done by who asks */
	struct retry *retry;   /* immutable; NULL: a read that failed is not tried again */
	tier_room_fn *on_room; /* under parked_lock, also while it is called */
	void *on_room_arg;
	tier_room_fn *on_limit; /* under parked_lock, also while it is called */
	void *on_limit_arg;

	_Atomic uint64_t demand_bytes; /* what the listed files could have in DRAM */

	struct lock lock;
	struct file_list files;  /* under lock */
	pthread_cond_t unpinned; /* a file's pins became 0 */

	struct lock parked_lock;
	struct parked_list parked; /* under parked_lock */
	uint64_t parked_count;     /* under parked_lock */
	uint64_t parked_own;       /* under parked_lock: of those, faults of a file that is at its own limit */
	uint64_t writing_bytes;    /* under parked_lock: write back that was let in and is not done */
	uint64_t waiting_writes;   /* under parked_lock: requests of it that were not */
	bool write_told;           /* under parked_lock: the log says that some wait */
	pthread_cond_t wakeup;     /* with parked_lock: kicked or stopping */
	bool kicked, stopping;     /* under parked_lock */
	unsigned int room_waiters; /* under parked_lock: threads in tier_wait_room() and tier_wait_staged() */
	pthread_cond_t room;       /* with parked_lock: budget was given back */
	pthread_cond_t squeeze;    /* with parked_lock: the reserve may be used, or squeeze_ends */
	bool squeeze_ends;         /* under parked_lock */

	struct lock forget_lock;
	tier_forget_fn *forget; /* under forget_lock */
	void *forget_arg;
	unsigned int forgets; /* under forget_lock: calls that are under way */
	pthread_cond_t forgotten;

	_Atomic bool evictor; /* there is somebody who empties the kernel's cache */
	_Atomic pid_t evictor_tid;
	_Atomic unsigned int away_waits;
	_Atomic bool pressed; /* the demoter was told that the reserve is used */
	_Atomic uint64_t waited_faults, scans, pinned_blocks, visited_blocks;
	uint64_t retry_ns;      /* demoter thread only: no demotion before */
	uint64_t next_step_ns;  /* demoter thread only: when something is due */
	uint64_t rest_until_ns; /* demoter thread only: nothing can be demoted, kicks or not */
	struct choice choice;   /* demoter thread only */
	pthread_t thread;
	bool thread_runs;
};

/* The demoter's thread; arg: the tier. */
void *demoter_run(void *arg);

/* room.c. The caller holds no lock of the tier. */
/* Half of the reserve is used, or somebody waits: room has to be made. */
bool room_pressed(struct tier *tier);
/* Somebody waits, or will soon: of the reserve less than a quarter is left. */
bool room_wanted(struct tier *tier);
uint64_t room_parked(struct tier *tier);
uint64_t room_waiting_writes(struct tier *tier);
/* Bytes that a file must give up of its own, because it has come near to its own limit; 0: it has not. */
uint64_t room_missing_of(struct ramfile *file);
/* Some was made: parked faults may go on. */
void room_announce(struct tier *tier);
