/* engine/file.h - one RAM file in memory: its struct, its lock, and what every file of the engine does with a block.
 *
 * The page rule. At every moment, also after kill -9, the content of a page is: the page in the arena if it is present
 * there; else the stored copy if the store has the block's key; else zeros. Every transition keeps it by ordering its
 * steps: a store put before a punch; a key's removal before a punch that shall make zeros. A restart rebuilds the table
 * from that rule alone.
 *
 * "Under lock" is under file->lock. "The caller owns the block" means that it has put the block into a passing state
 * (mem/blocks.h) and is the one that ends it. Thread-safety: all functions, from any thread; those that are not under
 * lock are called without one.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/lock.h"
#include "engine/away.h"
#include "engine/cache.h"
#include "engine/due.h"
#include "engine/flow.h"
#include "engine/hist.h"
#include "engine/huge.h"
#include "engine/mapper.h"
#include "engine/mappers.h"
#include "engine/room.h"
#include "engine/rounds.h"
#include "engine/tenant.h"
#include "engine/waits.h"
#include "engine/watch.h"
#include "mem/arena.h"
#include "mem/blocks.h"
#include "mem/budget.h"
#include "mem/heat.h"

struct engine;

#define PAGE_BYTES 4096U
#define PUNCH_SLOTS 256
/* Blocks handled in one go where a range is worked through: bounds stack arrays and lock times. */
#define RUN_BLOCKS 64
#define SCAN_BLOCKS 16384

/* Called when the first change since the last clean state is about to happen, before it happens, on the thread that
 * makes it; and by the owner (ns) to learn whether the file is clean: all content durable in the store, nothing
 * resident. */
typedef int file_dirty_fn(void *arg, uint64_t ino);

/* Changes of content, and how many of them are durable. All under the file's lock. */
struct file_changes {
	unsigned int at_work; /* mappers included */
	uint64_t ended, synced;
};

/* Batches write-protect every mapper, so none comes in while one is at work. All under the file's lock. */
struct file_batches {
	unsigned int at_work;
	unsigned int attaching; /* mappers that wait for those to end; none begins then */
};

/* What happened to it so far. */
struct file_counts {
	_Atomic uint64_t promotions, demotions, demotions_aborted, clean_demotions;
	_Atomic uint64_t direct_read_bytes, direct_write_bytes, errors;
	_Atomic uint64_t foreign_bytes; /* watch.h */
};

struct ramfile {
	struct engine *engine;   /* immutable */
	uint64_t ino;            /* immutable */
	uint32_t block_bytes;    /* immutable */
	struct arena arena;      /* immutable */
	file_dirty_fn *on_dirty; /* set before the file is used */
	void *on_dirty_arg;
	uint64_t loaded_ns; /* immutable */
	bool loaded;        /* immutable: the table is what arena and store have */

	struct lock lock;
	pthread_cond_t settled; /* a passing state that had waiters ended, or batches became 0, or a look ended */
	uint64_t size_bytes;    /* under lock; the arena's is file_memory_bytes() */
	bool resizing;          /* under lock: somebody changes it, or the arena's length */
	bool nothing_beyond;    /* owned by who changes the size: the store has no key beyond the end */
	struct blocks blocks;   /* under lock */
	struct heat heat;       /* under lock */
	uint64_t punches[PUNCH_SLOTS]; /* under lock: counts how often a block of the slot lost pages of the arena */
	struct file_batches batches;   /* under lock */
	uint64_t demand_bytes;         /* under lock: see engine_set_demand() */
	struct file_changes changes;   /* under lock */
	struct rounds rounds;
	struct due due;
	struct huge huge;
	struct cached cache;
	struct away away; /* under lock */

	struct mappers mappers;
	struct room_limit limit;
	struct charge charge;
	struct flow flow;
	_Atomic uint64_t dram_blocks; /* reserved in the budget for this file */
	_Atomic bool lost, dirty;
	_Atomic bool kept; /* stored copies are what an fsync promised: see ramfile_store() */
	struct file_counts counts;
	struct hist faults;
	struct waits waits;
	struct watch watch;

	TAILQ_ENTRY(ramfile) link; /* under the engine's lock */
	bool listed, leaving;      /* under the engine's lock: in the list; and nobody begins to visit it */
	unsigned int visits;       /* under the engine's lock: by who scans, demotes or sums; unload waits for 0 */
};

/* Progress of a long call: returns false to cancel it. */
typedef bool file_progress_fn(void *arg, uint64_t done_bytes, uint64_t total_bytes);

struct file_done {
	uint64_t done_bytes;    /* demoted or promoted now */
	uint64_t skipped_bytes; /* resident but in use, pinned, or no room */
};

/* --- sizes --- */

static inline uint64_t file_whole_pages(uint64_t bytes)
{
	return (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}
/* Bytes, as stat(2) has it. */
uint64_t file_size(struct ramfile *file);
/* What can be mapped: whole pages. */
uint64_t file_memory_bytes(struct ramfile *file);
/* Under lock: bytes of the block that are in the arena. Whole pages; less than a block for the last one. */
uint64_t file_block_length(const struct ramfile *file, uint64_t block);
/* Under lock: bytes of the block that are in the file. What lies behind them, up to the end of the last page, a process
 * that maps the file may change; nobody else sees it, and what is stored has zeros there. */
uint64_t file_block_content(const struct ramfile *file, uint64_t block);
/* True if the arena has a page of the block. After a fill or a punch that failed half way: what is there is the content
 * from here on, and may have been changed by who was waiting for it, so the block counts as resident; the rest is in
 * the stored copy, or is zeros. */
bool file_has_pages(const struct ramfile *file, uint64_t block);
/* Under lock: the kernel may hold pages of the block that were written and did not come back yet. */
bool file_may_be_dirty(const struct ramfile *file, uint64_t block);

/* --- states --- */

/* Under lock, which is dropped meanwhile: waits until the block is at rest. */
void file_wait_block(struct ramfile *file, uint64_t block);
/* The same, and until no demotion batch holds it: for who changes its key in the store, which the batch is about to
 * write. */
void file_wait_owner(struct ramfile *file, uint64_t block);
/* Under lock: ends a passing state of the caller's. Returns true if somebody waits: call mappers_wake() after dropping
 * the lock. */
bool file_settle(struct ramfile *file, uint64_t block, enum block_state state);
/* Under lock: takes the block for a change. Returns the state that it was in. */
enum block_state file_begin_update(struct ramfile *file, uint64_t block);
/* Ends UPDATING, and wakes who waits. Call without the lock. */
void file_end_update(struct ramfile *file, uint64_t block, enum block_state state);

/* --- budget, age, changes --- */

/* Budget for blocks that enter DRAM, and back when they left. False: there is no room. reserve() may be called under
 * lock, release() may not. force() counts blocks that are there whatever the budget says. */
bool file_reserve(struct ramfile *file, uint64_t blocks, enum budget_need need);
void file_force(struct ramfile *file, uint64_t blocks);
void file_release(struct ramfile *file, uint64_t blocks);
/* Around every change of content. begin: -EIO if the file is lost or the mark could not be written, -ENOSPC. */
int file_begin_change(struct ramfile *file);
void file_end_change(struct ramfile *file);
/* Around a change of the arena's length. Nobody who knows of the other may wait for it meanwhile. */
void file_begin_resize(struct ramfile *file);
void file_end_resize(struct ramfile *file);
/* The same, if nobody else is at it: true. */
bool file_try_resize(struct ramfile *file);
/* Under lock: the ages of its blocks are about to be asked, or to begin anew. If it slept (due.h) they grow older by
 * the rounds that were left out. */
void file_visit(struct ramfile *file, uint64_t now_ns);
/* Under lock, after file_visit(): the daemon brought the block into DRAM, which was a hole, or cold. It counts as used
 * (mem/heat.h); but where nobody maps the file its age begins now, and not with the sleep of the file. */
void file_used(struct ramfile *file, uint64_t block);
void file_promoted(struct ramfile *file, uint64_t block);
void file_set_age(struct ramfile *file, uint64_t block, uint8_t generation);
/* Before the file is used. */
void file_on_dirty(struct ramfile *file, file_dirty_fn *fn, void *arg);
/* Adds the bytes of an O_DIRECT request that a door served. */
void file_count_direct(struct ramfile *file, uint64_t read_bytes, uint64_t write_bytes);

/* --- checks --- */

/* Table, arena and budget agree; also while others work on the file. Aborts if not. */
void file_check(struct ramfile *file);
/* While nobody does: nothing is left open either. Debug builds do it before the file is unloaded. */
void file_check_idle(struct ramfile *file);
