/* engine/engine.h - what all RAM files of a mount share: store, budget, settings, working memory, and the list of the
 * files.
 *
 * An engine is made by policy/tiering.h. The rest of the engine works on single files and asks here for what is common.
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
#include "engine/due.h"
#include "engine/flow.h"
#include "engine/forget.h"
#include "engine/parked.h"
#include "engine/room.h"
#include "engine/stages.h"
#include "engine/tenant.h"
#include "engine/work.h"
#include "mem/budget.h"

struct ahead;
struct crew;
struct demoter;
struct ramfile;
struct retry;

/* Sets held[i] for each page from first_page on that a device holds (the kernel says pins; map/holds.h), so that it may
 * be writing to it now; if referenced is true, also where anybody but the page cache refers to it; and where it is a
 * part of a large page. Exact once the pages are write-protected. What it cannot tell counts as held. */
typedef int engine_holds_fn(void *arg, bool referenced, int arena_fd, uint64_t first_page, uint64_t count,
			    uint8_t *held);

struct engine_config {
	struct store *store;  /* borrowed */
	int arena_dir;        /* directory fd, on tmpfs in production; borrowed */
	uint32_t block_bytes; /* power of two, 4 KiB to 64 KiB */
	uint64_t dram_bytes;  /* budget */
	uint64_t min_idle_ns;
	/* Blocks to whose pages somebody refers are left alone for so long, if that is more than min_idle: it may be a
	 * device, by way of a user that does not pin. Until tiering_set_min_idle(). */
	uint64_t referenced_idle_ns;
	int level;
	uint8_t secret[MAC_KEY_BYTES]; /* of the pool: identities of content are made with it */
	engine_holds_fn *holds; /* NULL: this host cannot tell, min_idle alone protects pinned pages; no huge pages */
	void *holds_arg;
	bool run_demoter;      /* false: the caller (a test) calls demoter_step() itself */
	unsigned int demoters; /* threads that demote at a time; 0: a processor each */
};

TAILQ_HEAD(file_list, ramfile);

enum engine_wait {
	ENGINE_WAIT_OPEN,  /* for mappers whose processes have ended to be gone */
	ENGINE_WAIT_AWAY,  /* for blocks that are on another host */
	ENGINE_WAIT_FILL,  /* fills of plain mappings, for the same */
	ENGINE_WAIT_LIMIT, /* for a limit of what goes to the store, or comes from it */
	ENGINE_WAITS,
};

struct engine {
	struct engine_config config; /* immutable but for what the setters change below */
	_Atomic uint64_t min_idle_ns, referenced_idle_ns;
	struct budget budget;
	struct work_pool works;
	struct stages stages;
	struct crew *crew;             /* immutable; NULL: nobody helps */
	struct ahead *ahead;           /* immutable; NULL: read-ahead is done by who asks */
	struct retry *retry;           /* immutable; NULL: a read that failed is not tried again */
	_Atomic uint64_t demand_bytes; /* what the listed files could have in DRAM */

	struct lock lock;
	struct file_list files;   /* under lock */
	pthread_cond_t unvisited; /* a file's visits became 0 */

	struct dues dues;
	struct room room;
	struct tenants tenants;
	struct forgetting forgetting;
	struct flows flows;

	_Atomic unsigned int waits[ENGINE_WAITS]; /* threads, by what they wait for */
	_Atomic uint64_t scans, visited_blocks;
	struct demoter *demoter; /* of policy/demoter.h */
	bool thread_runs;        /* immutable: there are a scanner and who demotes */
};

/* --- the list of files --- */

typedef void engine_file_fn(void *arg, struct ramfile *file);
/* Calls fn on every file, without a lock. A file that is visited stays. */
void engine_each_file(struct engine *engine, engine_file_fn *fn, void *arg);
/* The same, but for files that have nothing in DRAM now; those cost next to nothing, however large they are. */
void engine_each_resident(struct engine *engine, engine_file_fn *fn, void *arg);
/* The same for files whose arena a process may map (watch.h). */
void engine_each_watched(struct engine *engine, engine_file_fn *fn, void *arg);
/* A visit that lasts, of a file that the caller visits or uses otherwise: it stays until leave(). */
void engine_visit(struct engine *engine, struct ramfile *file);
void engine_leave(struct engine *engine, struct ramfile *file);
/* Round the files that have something in DRAM: the one of that number, or one behind it. It is visited. NULL: there is
 * none. */
struct ramfile *engine_resident_from(struct engine *engine, uint64_t ino);
/* Leaves that one, and visits the next one. *ret_round: it went on from the beginning. */
struct ramfile *engine_resident_after(struct engine *engine, struct ramfile *file, bool *ret_round);
/* All files together cannot use more than the budget. */
static inline bool engine_fits(struct engine *engine)
{
	return atomic_load(&engine->demand_bytes) <= atomic_load(&engine->budget.limit_bytes);
}
/* Under the file's lock: its size has changed, or whether it is mapped plain. */
void engine_set_demand(struct engine *engine, struct ramfile *file);
/* Pins blocks from first on, up to byte end. -ENOMEM, and nothing is pinned: with those that are it would be more than
 * half of the budget, or than the max of a tenant of the file has room for. */
int engine_pin(struct engine *engine, struct ramfile *file, uint64_t first, uint64_t end);
/* The file takes part in scans, demotions and sums from here on. -ENOMEM. */
int engine_add_file(struct engine *engine, struct ramfile *file);
/* It does not any more; waits for visits that are under way. */
void engine_remove_file(struct engine *engine, struct ramfile *file);

/* --- what is common --- */

/* What the mount was made with, and what the threads of the engine share. */
struct store *engine_store(struct engine *engine);
struct budget *engine_budget(struct engine *engine);
struct work_pool *engine_works(struct engine *engine);
struct crew *engine_crew(struct engine *engine); /* NULL in tests */
struct ahead *engine_ahead(struct engine *engine);
struct retry *engine_retry(struct engine *engine); /* NULL: a read that failed is not tried again */
int engine_arena_dir(struct engine *engine);       /* a descriptor */
uint32_t engine_block_bytes(const struct engine *engine);
/* Where the time of faults goes. */
struct stages *engine_stages(struct engine *engine);
/* So long a block must have been idle to be demoted. */
uint64_t engine_min_idle(const struct engine *engine);
uint64_t engine_dram_bytes(struct engine *engine); /* the budget */
/* Counts entries of block tables that the demoter went through. */
void engine_count_visited(struct engine *engine, uint64_t blocks);
/* Sets held[i] for each block of the run that has a pinned page or a part of a large one, or that anybody refers to.
 * Nothing where the host cannot tell. */
void engine_look_holds(struct engine *engine, struct ramfile *file, bool referenced, uint64_t first, uint64_t count,
		       uint8_t *held);
/* Idle for at least so long, a block may go although somebody refers to it; 0: that does not matter. */
uint64_t engine_referenced_idle(const struct engine *engine);
/* This host can tell what devices hold. */
bool engine_sees_holds(const struct engine *engine);
/* Around a wait of a thread that serves others as well. False: as many as that wait already, and this one shall not. It
 * calls end in either case. */
bool engine_begin_wait(struct engine *engine, enum engine_wait what, unsigned int most);
void engine_end_wait(struct engine *engine, enum engine_wait what);
/* With less than this free, the budget is near. */
uint64_t engine_near_bytes(struct engine *engine);
/* The demoter looks at everything again now. */
void engine_kick(struct engine *engine);
void engine_wake_demoter(struct engine *engine); /* the same under the lock of room.h */
/* Under that lock: one of those that make room looks whether somebody is short. */
void engine_wake_reclaim(struct engine *engine);
