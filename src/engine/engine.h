/* engine/engine.h - what all RAM files of a mount share: store, budget, settings, working memory, and the list of the
 * files.
 *
 * A tier is made by tier.h. The rest of the engine works on single files and asks here for what is common.
 * Thread-safety: all functions, from any thread. Those that say "under the file's lock" are called with that lock held,
 * the others without any. None fails but by the errors that it names.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "base/lock.h"
#include "cold/mac.h"
#include "cold/store.h"
#include "engine/forget.h"
#include "engine/parked.h"
#include "engine/room.h"
#include "engine/stages.h"
#include "engine/work.h"
#include "mem/budget.h"

struct ahead;
struct crew;
struct demoter;
struct ramfile;
struct retry;

/* Sets held[i] for each page from first_page on that a device may be writing to now (map/pins.h): that is pinned or,
 * if referenced is true, that anybody but the page cache refers to; or that is a part of a large page. Exact once the
 * pages are write-protected. What it cannot tell counts as held. */
typedef int tier_pins_fn(void *arg, bool referenced, int arena_fd, uint64_t first_page, uint64_t count, uint8_t *held);

struct tier_config {
	struct store *store;  /* borrowed */
	int arena_dir;        /* directory fd, on tmpfs in production; borrowed */
	uint32_t block_bytes; /* power of two, 4 KiB to 64 KiB */
	uint64_t dram_bytes;  /* budget */
	uint64_t min_idle_ns;
	/* Blocks to whose pages somebody refers are left alone for so long, if that is more than min_idle: it may be a
	 * device, by way of a user that does not pin. Until tier_set_min_idle(). */
	uint64_t referenced_idle_ns;
	int level;
	uint8_t secret[MAC_KEY_BYTES]; /* of the pool: identities of content are made with it */
	tier_pins_fn *pins; /* NULL: this host cannot tell, min_idle alone protects pinned pages; no huge pages */
	void *pins_arg;
	bool run_demoter; /* false: the caller (a test) calls demoter_step() itself */
};

TAILQ_HEAD(file_list, ramfile);

struct tier {
	struct tier_config config; /* immutable but for what the setters change below */
	_Atomic uint64_t min_idle_ns, referenced_idle_ns;
	struct budget budget;
	struct work_pool works;
	struct stages stages;
	struct crew *crew;   /* immutable; NULL: nobody helps */
	struct ahead *ahead; /* immutable; NULL: read-ahead is done by who asks */
	struct retry *retry; /* immutable; NULL: a read that failed is not tried again */
	room_fn *on_room;    /* under parked_lock, also while it is called */
	void *on_room_arg;
	room_fn *on_limit; /* under parked_lock, also while it is called */
	void *on_limit_arg;

	_Atomic uint64_t demand_bytes; /* what the listed files could have in DRAM */

	struct lock lock;
	struct file_list files;   /* under lock */
	pthread_cond_t unvisited; /* a file's visits became 0 */

	struct lock parked_lock;
	struct parked_list parked; /* under parked_lock */
	uint64_t parked_count;     /* under parked_lock */
	uint64_t parked_own;       /* under parked_lock: of those, faults of a file that is at its own limit */
	uint64_t writing_bytes;    /* under parked_lock: write back that was let in and is not done */
	uint64_t waiting_writes;   /* under parked_lock: requests of it that were not */
	bool write_told;           /* under parked_lock: the log says that some wait */
	pthread_cond_t wakeup;     /* with parked_lock: kicked or stopping */
	bool kicked, stopping;     /* under parked_lock */
	unsigned int room_waiters; /* under parked_lock: threads in room_wait() and room_wait_staged() */
	pthread_cond_t room;       /* with parked_lock: budget was given back */
	pthread_cond_t squeeze;    /* with parked_lock: the reserve may be used, or squeeze_ends */
	bool squeeze_ends;         /* under parked_lock */

	struct lock forget_lock;
	forget_fn *forget; /* under forget_lock */
	void *forget_arg;
	unsigned int forgets; /* under forget_lock: calls that are under way */
	pthread_cond_t forgotten;

	_Atomic bool evictor; /* there is somebody who empties the kernel's cache */
	_Atomic pid_t evictor_tid;
	_Atomic unsigned int away_waits;
	_Atomic bool pressed; /* the demoter was told that the reserve is used */
	_Atomic uint64_t waited_faults, scans, pinned_blocks, visited_blocks;
	struct demoter *demoter; /* its thread's alone */
	bool thread_runs;        /* immutable: there is a demoter's thread */
};

/* --- the list of files --- */

typedef void tier_file_fn(void *arg, struct ramfile *file);
/* Calls fn on every file, without a lock. A file that is visited stays. */
void tier_each_file(struct tier *tier, tier_file_fn *fn, void *arg);
/* The same, but for files that have nothing in DRAM now; those cost next to nothing, however large they are. */
void tier_each_resident(struct tier *tier, tier_file_fn *fn, void *arg);
/* All files together cannot use more than the budget. */
bool tier_fits(struct tier *tier);
/* Under the file's lock: its size has changed, or whether it is mapped plain. */
void tier_set_demand(struct tier *tier, struct ramfile *file);
/* Pins blocks from first on, up to byte end. -ENOMEM, and nothing is pinned: with those that are it would be more than
 * half of the budget. */
int tier_pin(struct tier *tier, struct ramfile *file, uint64_t first, uint64_t end);
/* The file takes part in scans, demotions and sums from here on. Returns 0. */
int tier_add_file(struct tier *tier, struct ramfile *file);
/* It does not any more; waits for visits that are under way. */
void tier_remove_file(struct tier *tier, struct ramfile *file);

/* --- what is common --- */

/* What the mount was made with, and what the threads of the engine share. */
struct store *tier_store(struct tier *tier);
struct budget *tier_budget(struct tier *tier);
struct work_pool *tier_works(struct tier *tier);
struct crew *tier_crew(struct tier *tier); /* NULL in tests */
struct ahead *tier_ahead(struct tier *tier);
struct retry *tier_retry(struct tier *tier); /* NULL: a read that failed is not tried again */
int tier_arena_dir(struct tier *tier);       /* a descriptor */
uint32_t tier_block_bytes(const struct tier *tier);
/* Where the time of faults goes. */
struct stages *tier_stages(struct tier *tier);
/* So long a block must have been idle to be demoted. */
uint64_t tier_min_idle(const struct tier *tier);
uint64_t tier_dram_bytes(struct tier *tier); /* the budget */
/* Counts entries of block tables that the demoter went through. */
void tier_count_visited(struct tier *tier, uint64_t blocks);
/* Sets held[i] for each block of the run that has a pinned page or a part of a large one, or that anybody refers to.
 * Nothing where the host cannot tell. */
void tier_look_pins(struct tier *tier, struct ramfile *file, bool referenced, uint64_t first, uint64_t count,
		    uint8_t *held);
/* Idle for at least so long, a block may go although somebody refers to it; 0: that does not matter. */
uint64_t tier_referenced_idle(const struct tier *tier);
/* This host can tell what is pinned. */
bool tier_sees_pins(const struct tier *tier);
_Atomic unsigned int *tier_away_waits(struct tier *tier); /* threads that wait for blocks that are away */
/* Counts blocks that were not demoted for what tier_look_pins() said. */
void tier_count_pinned(struct tier *tier, uint64_t blocks);
/* With less than this free, the budget is near. */
uint64_t tier_near_bytes(struct tier *tier);
/* The demoter looks at everything again now. */
void tier_kick(struct tier *tier);
void tier_wake_demoter(struct tier *tier); /* the same under parked_lock */
