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
#include "engine/hist.h"
#include "engine/mapper.h"
#include "mem/arena.h"
#include "mem/blocks.h"
#include "mem/budget.h"
#include "mem/heat.h"

struct tier;

#define PAGE_BYTES 4096U
#define PUNCH_SLOTS 256
/* Blocks handled in one go where a range is worked through: bounds stack arrays and lock times. */
#define RUN_BLOCKS 64
#define SCAN_BLOCKS 16384

/* Called when the first change since the last clean state is about to happen, before it happens, on the thread that
 * makes it; and by the owner (ns) to learn whether the file is clean: all content durable in the store, nothing
 * resident. */
typedef int file_dirty_fn(void *arg, uint64_t ino);

struct ramfile {
	struct tier *tier;       /* immutable */
	uint64_t ino;            /* immutable */
	uint32_t block_bytes;    /* immutable */
	struct arena arena;      /* immutable */
	file_dirty_fn *on_dirty; /* set before the file is used */
	void *on_dirty_arg;

	struct lock lock;
	pthread_cond_t settled;      /* a passing state that had waiters ended, or batches became 0, or a look ended */
	uint64_t size_bytes;         /* under lock; the arena's is file_memory_bytes() */
	bool nothing_beyond;         /* owned by who changes the size: the store has no key beyond the end */
	struct blocks blocks;        /* under lock */
	struct heat heat;            /* under lock */
	uint64_t marks[CACHE_MARKS]; /* under lock: counts how often a block of the slot came to the kernel's cache */
	uint64_t punches[PUNCH_SLOTS]; /* under lock: counts how often a block of the slot lost pages of the arena */
	unsigned int batches;          /* under lock: demotion batches at work */
	unsigned int attaching;        /* under lock: mappers that wait for batches to end */
	bool zapping;                  /* under lock: a zap round is out */
	bool zap_sent, zap_done;       /* under lock: all of it is; every mapper has acknowledged it */
	uint64_t scan_marked;          /* under lock: blocks that the zap that is out dropped */
	uint64_t scanned_marked;       /* under lock: the same of the last finished round */
	uint64_t scanned_returned;     /* under lock: of those, blocks that were in use */
	uint64_t zap_sent_ns;          /* under lock: when zap_sent became true */
	uint64_t zap_bytes;            /* under lock: what was in DRAM when the zap that is out began */
	uint64_t proven_bytes;         /* under lock: the same of the last one that every mapper acknowledged */
	bool proof_wanted;             /* under lock: a round shall come soon, for the file's growth waits for one */
	uint64_t loaded_ns;            /* immutable */
	bool loaded;                   /* immutable: the table is what arena and store have */
	uint64_t rest_until_ns;        /* demoter thread only: nothing of it could be demoted, for its own limit */
	uint64_t next_scan_ns;         /* demoter thread only */
	uint64_t visited_ns;           /* under lock: when it was last seen awake */
	enum { SCAN_REST, SCAN_ZAP, SCAN_WAIT, SCAN_LOOK } scan; /* demoter thread only: what the round is at */
	uint64_t scan_block;                                     /* demoter thread only: where its next step begins */
	struct heat_seen scan_seen;                              /* demoter thread only */
	uint64_t hand;                    /* demoter thread only: block from which on the next are picked */
	uint64_t scan_wanted;             /* under lock: how many callers wait for quick rounds */
	unsigned int changing;            /* under lock: changes at work, mappers included */
	uint64_t changes, synced_changes; /* under lock: how many changes ended, and how many of them are durable */

	bool huge_marked;          /* under lock: the arena may have huge pages, and says so to a later daemon */
	uint64_t next_split_ns;    /* demoter thread only */
	unsigned int cached_opens; /* under lock: opens whose content the kernel may cache: the file is mapped plain */
	bool evict_wanted;         /* under lock: the evictor shall take all of it out of the kernel's cache */
	bool cache_stale;          /* under lock: the kernel may hold pages from before the file was attached */
	bool cache_unknown;        /* under lock: loaded under a mount that was taken over, and not measured since: the
				    * kernel may hold any page, and BLOCK_CACHED does not say which */

	struct away away; /* under lock */

	struct lock mapper_lock;
	pthread_cond_t mapper_idle; /* a mapper's users became 0 */
	struct mapper *mappers;     /* under mapper_lock */
	unsigned int mapper_count;  /* under mapper_lock */

	_Atomic bool lost, dirty;
	_Atomic bool was_cached; /* the kernel may hold some of it; set under lock, and cleared there by the demoter */
	_Atomic bool kept;       /* stored copies are what an fsync promised: see ramfile_store() */
	_Atomic uint64_t dram_blocks;  /* reserved in the budget for this file */
	_Atomic uint64_t limit_bytes;  /* room_set_limit() */
	_Atomic uint64_t growth_bytes; /* room_set_growth() */
	_Atomic bool limit_near;       /* the demoter was told that it is */
	uint64_t demand_bytes;         /* under lock: see tier_set_demand() */
	_Atomic uint64_t promotions, demotions, demotions_aborted, clean_demotions;
	_Atomic uint64_t direct_read_bytes, direct_write_bytes, errors;
	struct hist faults;

	TAILQ_ENTRY(ramfile) link; /* under the tier's lock */
	bool listed;               /* under the tier's lock */
	unsigned int visits;       /* under the tier's lock: by the demoter, and by who sums; unload waits for 0 */
};

/* Progress of a long call: returns false to cancel it. */
typedef bool file_progress_fn(void *arg, uint64_t done_bytes, uint64_t total_bytes);

struct file_moved {
	uint64_t moved_bytes;   /* demoted or promoted now */
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
 * lock, release() may not. */
bool file_reserve(struct ramfile *file, uint64_t blocks, enum budget_need need);
void file_release(struct ramfile *file, uint64_t blocks);
/* Around every change of content. begin: -EIO if the file is lost or the mark could not be written, -ENOSPC. */
int file_begin_change(struct ramfile *file);
void file_end_change(struct ramfile *file);
/* Under lock: the file has something in DRAM, or is about to. If it slept, that is if the demoter had no reason to look
 * at it, its cold blocks grow older by the rounds that were left out. */
void file_visit(struct ramfile *file, uint64_t now_ns);
/* Before the file is used. */
void file_on_dirty(struct ramfile *file, file_dirty_fn *fn, void *arg);
/* Adds the bytes of an O_DIRECT request that a door served. */
void file_count_direct(struct ramfile *file, uint64_t read_bytes, uint64_t write_bytes);

/* --- checks --- */

/* Table, arena and budget agree; also while others work on the file. Aborts if not. */
void file_check(struct ramfile *file);
/* While nobody does: nothing is left open either. Debug builds do it before the file is unloaded. */
void file_check_idle(struct ramfile *file);
