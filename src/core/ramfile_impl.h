/* core/ramfile_impl.h - the inside of a RAM file, shared by the files of core/ that work on it:
 *
 *   ramfile.c   life, figures, waiting and settling
 *   mappers.c   the processes that map it
 *   fault.c     HOLE and COLD to RESIDENT: faults, read-ahead, promotion
 *   read.c      read, seek
 *   write.c     write, discard
 *   resize.c    truncate
 *   demote.c    RESIDENT to COLD
 *   demand.c    the same on request
 *   clone.c     the same content in another file
 *   scan.c      zap and look
 *   access_read.c, access_write.c  blocks where they are, with a result for each
 *   huge.c      huge pages: made, and taken apart
 *   away.c      blocks whose content is on another host
 *   plain.c     what the kernel's page cache holds of it (plain mapping)
 *   forget.c    makes the kernel forget it
 *
 * The page rule. At every moment, also after kill -9, the content of a page is: the page in the arena if it is present
 * there; else the stored copy if the store has the block's key; else zeros. Every transition keeps it by ordering its
 * steps: a store put before a punch; a key's removal before a punch that shall make zeros. A restart rebuilds the table
 * from that rule alone.
 */
#pragma once

#include <stdatomic.h>
#include <sys/queue.h>

#include <tierfs/access.h>

#include "base/lock.h"
#include "core/away.h"
#include "core/crew.h"
#include "core/hist.h"
#include "core/mapper.h"
#include "core/ramfile.h"
#include "core/work.h"
#include "mem/arena.h"
#include "mem/blocks.h"
#include "mem/budget.h"
#include "mem/heat.h"

#define PAGE_BYTES 4096U
#define PUNCH_SLOTS 256
/* Blocks handled in one go where a range is worked through: bounds stack arrays and lock times. */
#define RUN_BLOCKS 64
#define SCAN_BLOCKS 16384

#define AWAY_RING 256U

/* Who wants what is away, and who brings it: away.h. Under the file's lock. */
struct away {
	pthread_cond_t wanted;    /* a block became wanted, or the supplier changed */
	uint32_t ring[AWAY_RING]; /* blocks that are wanted and were not told yet */
	unsigned int head, waiting;
	bool tell_all; /* the table says what is wanted, from next on */
	uint64_t next;
	uint64_t supplier;  /* 0: nobody */
	uint64_t suppliers; /* how many there were */
};

struct ramfile {
	struct tier *tier;          /* immutable */
	uint64_t ino;               /* immutable */
	uint32_t block_bytes;       /* immutable */
	struct arena arena;         /* immutable */
	ramfile_dirty_fn *on_dirty; /* set before the file is used */
	void *on_dirty_arg;

	struct lock lock;
	pthread_cond_t settled; /* a passing state that had waiters ended, or batches became 0, or a look ended */
	uint64_t size_bytes;    /* under lock; the arena's is ramfile_memory_bytes() */
	bool nothing_beyond;    /* owned by who changes the size: the store has no key beyond the end */
	struct blocks blocks;   /* under lock */
	struct heat heat;       /* under lock */
	uint64_t marks[RAMFILE_MARKS]; /* under lock: counts how often a block of the slot came to the kernel's cache */
	uint64_t punches[PUNCH_SLOTS]; /* under lock: counts how often a block of the slot lost pages of the arena */
	unsigned int batches;          /* under lock: demotion batches at work */
	unsigned int attaching;        /* under lock: mappers that wait for batches to end */
	bool zapping;                  /* under lock: a zap round is out */
	bool zap_sent, zap_done;       /* under lock: all of it is; every mapper has acknowledged it */
	uint64_t scan_marked;          /* under lock: blocks that the zap that is out dropped */
	uint64_t scanned_marked;       /* under lock: the same of the last finished round */
	uint64_t scanned_returned;     /* under lock: of those, blocks that were in use */
	uint64_t zap_sent_ns;          /* under lock: when zap_sent became true */
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
	_Atomic uint64_t limit_bytes;  /* ramfile_set_limit() */
	_Atomic uint64_t growth_bytes; /* ramfile_set_growth() */
	_Atomic bool limit_near;       /* the demoter was told that it is */
	uint64_t demand_bytes;         /* under lock: see tier_set_demand() */
	_Atomic uint64_t promotions, demotions, demotions_aborted, clean_demotions;
	_Atomic uint64_t direct_read_bytes, direct_write_bytes, errors;
	struct hist faults;

	TAILQ_ENTRY(ramfile) link; /* under the tier's lock */
	bool listed;               /* under the tier's lock */
	unsigned int pins;         /* under the tier's lock: visits by the demoter; unload waits for 0 */
};

/* A fault that waits for room in the budget. */
struct parked {
	TAILQ_ENTRY(parked) link;
	struct ramfile *file;
	struct mapper *mapper;
	uint64_t offset;
	enum ramfile_fault_kind kind;
	bool own; /* it is the file's own limit that it waits for */
	uint64_t arrived_ns;
};

/* --- ramfile.c --- */
static inline uint64_t ramfile_whole_pages(uint64_t bytes)
{
	return (bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
}
/* Under lock: bytes of the block that are in the arena. Whole pages; less than a block for the last one. */
uint64_t ramfile_block_length(const struct ramfile *file, uint64_t block);
/* Under lock: bytes of the block that are in the file. What lies behind them, up to the end of the last page, a process
 * that maps the file may change; nobody else sees it, and what is stored has zeros there. */
uint64_t ramfile_block_content(const struct ramfile *file, uint64_t block);
/* Waits until the block is at rest. The lock is dropped meanwhile. */
void ramfile_wait_block(struct ramfile *file, uint64_t block);
/* The same, and until no demotion batch holds it: for who changes its key in the store, which the batch is about to
 * write. */
void ramfile_wait_owner(struct ramfile *file, uint64_t block);
/* Ends a passing state. Returns true if somebody waits: call ramfile_wake() after dropping the lock. */
bool ramfile_settle(struct ramfile *file, uint64_t block, enum block_state state);
/* Budget for blocks that enter DRAM, and back when they left. */
bool ramfile_reserve(struct ramfile *file, uint64_t blocks, enum budget_need need);
void ramfile_release(struct ramfile *file, uint64_t blocks);
/* See tier_impl.h. */
uint64_t room_missing_of(struct ramfile *file);
/* The file's own limit allows it. */
bool ramfile_limit_allows(struct ramfile *file, uint64_t bytes, enum budget_need need);
/* Around every change of content. begin: -EIO if the file is lost or the mark could not be written. */
int ramfile_begin_change(struct ramfile *file);
void ramfile_end_change(struct ramfile *file);
/* Table, arena and budget agree; also while others work on the file. Aborts if not. */
void ramfile_check(struct ramfile *file);
/* While nobody does: nothing is left open either. Debug builds do it before the file is unloaded. */
void ramfile_check_idle(struct ramfile *file);

/* --- mappers.c --- */
/* Calls fn on every mapper of the file, without a lock. */
typedef void ramfile_mapper_fn(void *arg, struct mapper *mapper);
unsigned int ramfile_each_mapper(struct ramfile *file, ramfile_mapper_fn *fn, void *arg);
/* For work that outlives the call that began it: counts as a call into the mapper until it is dropped. False: the
 * mapper is leaving. */
bool ramfile_hold_mapper(struct ramfile *file, struct mapper *mapper);
void ramfile_drop_mapper(struct ramfile *file, struct mapper *mapper);
bool ramfile_mapper_leaves(struct ramfile *file, const struct mapper *mapper);
void ramfile_wake(struct ramfile *file, uint64_t first, uint64_t count);
/* In every mapper. on: after an error writers are not stopped, somewhere. Off: who cannot be let go tries again. */
int ramfile_protect(struct ramfile *file, uint64_t offset, uint64_t length, bool on);
int ramfile_protect_in(struct mapper *mapper, uint64_t offset, uint64_t length, bool on); /* in that one */
int ramfile_protect_runs(struct ramfile *file, const struct mapper_run *run, size_t count, bool on);
/* used has an entry for each block of the runs, one behind the other. */
void ramfile_look_runs(struct ramfile *file, const struct mapper_run *run, size_t count, uint8_t *used);

/* --- fault.c --- */
/* Gets the value of a block into work->value. Errors of the store. */
int stored_get(struct ramfile *file, struct work *work, uint64_t block, size_t *ret_length);
/* Checks and expands what stored_get() got. -EBADMSG: damaged, maybe on the way here only; -EREMOTE: it is away. */
int stored_decode(struct ramfile *file, struct work *work, uint64_t block, size_t length, void *plain,
		  struct codec_info *ret);
/* Both once more, after -EBADMSG. */
int stored_get_again(struct ramfile *file, struct work *work, uint64_t block, void *plain, struct codec_info *ret);
/* What becomes of an error of the three above, the last of which got length bytes: it is counted, logged and kept in the
 * table. Returns -ENOMEM, -EREMOTE or -EIO. */
int stored_failed(struct ramfile *file, const struct work *work, uint64_t block, size_t length, int err);
/* Puts the content of a block that the caller owns, and whose pages are all absent, into DRAM. mapper may be NULL. */
int load_place(struct ramfile *file, struct mapper *mapper, uint64_t offset, const void *plain, uint64_t length);
/* Under lock: a load of one block ended. partly: some of its pages are there, the others in the stored copy. Returns true
 * if somebody waits. */
bool load_settle(struct ramfile *file, uint64_t block, const struct codec_info *info, bool partly);
/* Reads and decodes a stored block of the caller's (passing state). -EIO and a log line if it is damaged or missing. */
int ramfile_fetch(struct ramfile *file, struct work *work, uint64_t block, void *plain, struct codec_info *ret);
/* The stored copy of the block was read and is good: it is not damaged any more, and who was poisoned gets it. Without
 * a lock. */
void ramfile_readable(struct ramfile *file, uint64_t block);
/* Brings the run of cold blocks at first into DRAM, as far as there is room; mapper may be NULL. *ret_blocks: how many
 * came. */
int ramfile_load_run(struct ramfile *file, struct mapper *mapper, uint64_t first, uint64_t count, enum budget_need need,
		     uint64_t *ret_blocks);

/* True if the arena has a page of the block. After a fill or a punch that failed half way: what is there is the content
 * from here on, and may have been changed by who was waiting for it, so the block counts as resident; the rest is in
 * the stored copy, or is zeros. */
bool ramfile_has_pages(const struct ramfile *file, uint64_t block);

/* As many blocks as it brings at once. */
uint64_t ramfile_run_blocks(const struct ramfile *file);

/* --- away.c --- */
/* Under lock: the block, which is away and at rest, shall be brought. */
void away_want(struct ramfile *file, uint64_t block);
enum away_for { AWAY_FOR_CALL, AWAY_FOR_FILL, AWAY_FOR_WRITE_BACK };
/* Under lock, which is dropped meanwhile: waits until the block is at rest and not away. -EINTR (away_on_interrupt());
 * -EREMOTE: too many threads wait already for calls, which may fail; -EINVAL: the fill is to be refused now, see
 * ramfile_fill(). */
int away_wait(struct ramfile *file, uint64_t block, enum away_for what);
/* Under lock: blocks that are away and wanted. */
uint64_t away_count_wanted(const struct ramfile *file);

/* --- write_run.c --- */
/* Writes the run of whole cold blocks or holes at the start of the request. *ret_bytes: 0 if there is none. */
int ramfile_write_run(struct ramfile *file, const uint8_t *data, uint64_t offset, size_t len, size_t *ret_bytes);

/* --- plain.c --- */
/* Content of a RESIDENT block with BLOCK_PARTIAL, that the caller owns (passing state). */
int ramfile_read_partial(struct ramfile *file, struct work *work, uint64_t block, void *plain);
/* Fills its absent pages from the stored copy, so that it is not partial any more. The caller owns it. */
int ramfile_complete(struct ramfile *file, struct work *work, uint64_t block);
/* The same for the whole file; a block whose copy cannot be read stays as it is. */
int ramfile_complete_all(struct ramfile *file);

/* Under lock: somebody writes to the arena without the kernel's page cache, or may at any moment. */
bool ramfile_is_attached(struct ramfile *file);
/* Under lock: the kernel may hold pages of the block that were written and did not come back yet. */
bool ramfile_may_be_dirty(const struct ramfile *file, uint64_t block);

/* --- forget.c --- */
/* The kernel drops what it caches of the file, and gives up what it maps of it. */
void tier_forget_cache(struct tier *tier, uint64_t ino);

/* --- huge.c --- */
/* Called with the lock held, the block a HOLE and reserved. True: the unit was filled, maybe by a huge page, and the
 * lock is dropped. False: nothing was done. */
bool ramfile_zero_huge(struct ramfile *file, struct mapper *mapper, uint64_t block);
/* Splits the large pages of a run of blocks that the caller owns. held: what tier_look_pins() said of them, and says
 * then. */
void ramfile_split(struct ramfile *file, uint64_t first, uint64_t count, uint8_t *held);
/* Splits up to most huge units that overlap the range of blocks. Returns how many were. */
uint64_t ramfile_split_units(struct ramfile *file, uint64_t first, uint64_t count, uint64_t most);
/* The same for the file, a part at a time. True: there is more to do at once. Demoter thread only. */
bool ramfile_split_some(struct ramfile *file, uint64_t now_ns);
void ramfile_load_huge(struct ramfile *file); /* after the table was loaded */
/* There may be huge pages in the arena, and nobody could tell: nothing of it may be demoted. */
bool ramfile_is_opaque(const struct ramfile *file);

/* --- write.c --- */
/* Under lock: takes the block for a change. Returns the state that it was in. */
enum block_state ramfile_begin_update(struct ramfile *file, uint64_t block);
/* Removes the stored copy of a block that the caller owns. */
int ramfile_forget_stored(struct ramfile *file, uint64_t block);
/* Before pages of a hole that the caller owns come into the arena: a key that a failed write has left would show
 * through those that are absent after a crash. It is removed; while the store refuses that, the whole block is given
 * pages of zeros, which win over it. */
int ramfile_cover_key(struct ramfile *file, uint64_t block);
/* A put for a block that the caller owns failed, so its key is old or new. A hole shall stay one after a crash, too:
 * its key is removed. If that fails as well the table remembers that there may be a key. */
void ramfile_put_failed(struct ramfile *file, uint64_t block, uint32_t length_bytes);
/* Stores work->plain as the content of a block that the caller owns and that is not in DRAM. */
int ramfile_store_plain(struct ramfile *file, struct work *work, uint64_t block, enum block_state was,
			enum block_state *ret);
/* Whole blocks, up to end, become holes. */
int ramfile_discard_blocks(struct ramfile *file, uint64_t first, uint64_t end);
/* Blocks of the run that a punch left in the arena: a part of a huge page that could not be split just then. It was
 * zeroed instead, so it is right, and stays resident. */
int ramfile_find_left(struct ramfile *file, uint64_t first, uint64_t count, uint8_t *left);
/* Ends UPDATING, and wakes who waits. Call without the lock. */
void ramfile_end_update(struct ramfile *file, uint64_t block, enum block_state state);

/* --- access_read.c --- */
/* Under lock: what an answer says of the block. */
void access_look(const struct ramfile *file, uint64_t block, struct tierfs_access_record *ret);
void access_fail(struct tierfs_access_record *record, int err);
/* A record of a request, read once: what judges the copy does not look at the buffer again. */
struct access_buffer;
struct tierfs_access_record access_copy_record(const struct access_buffer *buffer, size_t i);

/* --- read.c --- */
/* As ramfile_read(), and the same for a fill: ramfile_fill(). */
int ramfile_read_for(struct ramfile *file, enum away_for what, void *buf, size_t len, uint64_t offset, size_t *ret_len);

/* --- demote.c --- */
struct demote_result {
	uint64_t demoted, aborted; /* blocks */
};
/* True while a process holds the arena that is not one of our mappers: nothing can be protected from it. */
bool ramfile_has_stranger(struct ramfile *file);
/* Demotes the given resident blocks (ascending), those in use excepted. soon: to make room, so that some will come
 * back: what needs not be written is put into the nearer part of the store. */
int ramfile_demote_blocks(struct ramfile *file, const uint32_t *block, size_t count, bool soon,
			  struct demote_result *ret);

/* --- scan.c --- */
struct scan_pace {
	uint64_t quick_ns, slow_ns; /* time between zap and look: under pressure, and else */
	bool hurry;                 /* under pressure: scanning may cost the mappers more */
	bool wanted;                /* somebody waits for room, or will soon, which costs more than any scan */
};
/* Under lock: the file has something in DRAM, or is about to. If it slept, that is if the demoter had no reason to look
 * at it, its cold blocks grow older by the rounds that were left out. */
void ramfile_visit(struct ramfile *file, uint64_t now_ns);
/* Goes on with the rounds of the file, by a step: SCAN_BLOCKS at the most. Returns when it wants to be called again. A
 * file of which nothing is in DRAM needs no call. */
uint64_t ramfile_scan(struct ramfile *file, uint64_t now_ns, const struct scan_pace *pace);

/* --- tier.c --- */
typedef void tier_file_fn(void *arg, struct ramfile *file);
/* Calls fn on every file, without a lock. */
void tier_each_file(struct tier *tier, tier_file_fn *fn, void *arg);
/* The same, but for files that have nothing in DRAM now; those cost next to nothing, however large they are. */
void tier_each_resident(struct tier *tier, tier_file_fn *fn, void *arg);
/* Counts entries of block tables that the demoter went through. */
void tier_count_visited(struct tier *tier, uint64_t blocks);
struct store *tier_store(struct tier *tier);
struct budget *tier_budget(struct tier *tier);
struct work_pool *tier_works(struct tier *tier);
struct crew *tier_crew(struct tier *tier); /* NULL in tests */
struct ahead *tier_ahead(struct tier *tier);
struct retry *tier_retry(struct tier *tier); /* NULL: a read that failed is not tried again */
int tier_arena_dir(struct tier *tier);
/* Sets held[i] for each block of the run that has a pinned page or a part of a large one, or that anybody refers to.
 * Nothing where the host cannot tell. */
void tier_look_pins(struct tier *tier, struct ramfile *file, bool referenced, uint64_t first, uint64_t count,
		    uint8_t *held);
/* Idle for at least so long, a block may go although somebody refers to it; 0: that does not matter. */
uint64_t tier_referenced_idle(const struct tier *tier);
bool tier_sees_pins(const struct tier *tier);
_Atomic unsigned int *tier_away_waits(struct tier *tier); /* threads that wait for blocks that are away */
void tier_count_pinned(struct tier *tier, uint64_t blocks);
uint64_t tier_near_bytes(struct tier *tier); /* with less than this free, the budget is near */
bool tier_fits(struct tier *tier);           /* all files together cannot use more than the budget */
/* Under the file's lock: its size has changed, or whether it is mapped plain. */
void tier_set_demand(struct tier *tier, struct ramfile *file);
/* Pins blocks from first on, up to byte end. -ENOMEM, and nothing is pinned: with those that are it would be more than
 * half of the budget. */
int tier_pin(struct tier *tier, struct ramfile *file, uint64_t first, uint64_t end);
int tier_add_file(struct tier *tier, struct ramfile *file);
void tier_remove_file(struct tier *tier, struct ramfile *file);
bool tier_has_evictor(struct tier *tier);
bool tier_is_evictor(struct tier *tier);   /* the calling thread is */
void tier_kick(struct tier *tier);         /* the demoter looks again now */
void tier_wake_demoter(struct tier *tier); /* the same under parked_lock */
/* Waits until that many bytes are free, or the deadline. */
void tier_wait_room(struct tier *tier, uint64_t bytes, uint64_t deadline_ns);
/* Waits while the arenas hold more than a 1/divisor of the budget, or until the deadline. */
void tier_wait_staged(struct tier *tier, unsigned int divisor, uint64_t deadline_ns);
/* A write back of so many bytes waits until the copies that plain mappings have left in the arenas are few enough for
 * it, and begins; without bound while somebody maps the file (held), for a while if not. */
void tier_begin_write_back(struct tier *tier, uint64_t bytes, bool held);
void tier_end_write_back(struct tier *tier, uint64_t bytes);
void tier_pressed(struct tier *tier); /* after a reservation: kicks the demoter if the reserve is used */
void tier_park(struct tier *tier, struct ramfile *file, struct mapper *mapper, uint64_t offset,
	       enum ramfile_fault_kind kind, uint64_t arrived_ns);
void tier_unpark(struct tier *tier, struct mapper *mapper); /* forgets the faults of a mapper */
void tier_release(struct tier *tier, uint64_t bytes);       /* budget given back; wakes who waits */
