/* core/ramfile.h - the content of one RAM file: what every door and every mapping works on.
 *
 * Offsets and lengths are bytes.
 * Thread-safety: all may be called from any thread; none may be called with a lock held. They block on I/O and on
 * blocks in passing states, and, where DRAM is needed, until the demoter made room. 0 or -errno:
 *   -EIO     the block is damaged, the file is lost, or the store failed
 *   -ENOSPC  the store has no room (direct writes only)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/tier.h"

struct mapper;

/* The file comes into being in DRAM: its table is rebuilt from the arena and the store's keys. One struct per inode at
 * a time; core/ns.c sees to that. lost: reads and writes answer EIO until truncated to 0. */
int ramfile_load(struct tier *tier, uint64_t ino, uint64_t size_bytes, bool lost, struct ramfile **ret);
/* Drops the struct from memory; the arena and the store stay as they are. No mapper may be left. */
void ramfile_unload(struct ramfile *file);
/* Removes content everywhere (arena and store) and unloads, also when something could not be removed. */
int ramfile_destroy(struct ramfile *file);

uint64_t ramfile_size(struct ramfile *file);
/* What can be mapped: whole pages. */
uint64_t ramfile_memory_bytes(struct ramfile *file);

/* direct: as O_DIRECT; alignment has been checked by the caller. Short reads at the end of file: *ret_len. */
int ramfile_read(struct ramfile *file, void *buf, size_t len, uint64_t offset, size_t *ret_len);
int ramfile_write(struct ramfile *file, const void *buf, size_t len, uint64_t offset, bool direct);
/* Becomes a hole; edges inside a page are zeroed. Beyond the end: ignored. */
int ramfile_discard(struct ramfile *file, uint64_t offset, uint64_t len);
/* Any size. Growing makes holes, allocates nothing; what a mapping wrote behind the old end becomes zeros. Who changes
 * the size of a file does so alone. */
int ramfile_truncate(struct ramfile *file, uint64_t size_bytes);
/* SEEK_DATA or SEEK_HOLE. -ENXIO as lseek(2). */
int ramfile_seek(struct ramfile *file, uint64_t offset, int whence, uint64_t *ret_offset);
/* What is safe becomes durable. */
int ramfile_sync(struct ramfile *file);
/* What is resident is stored as well, and stays resident; ramfile_sync() then makes it durable. Whoever maps the file
 * goes on: a block that is written meanwhile is stored as old or new. From here on no stored copy goes before a newer
 * one is there. -EIO: the file is lost, or a block is damaged. */
int ramfile_store(struct ramfile *file);
void ramfile_set_kept(struct ramfile *file, bool kept);

/* Called when the first change since the last clean state is about to happen, before it happens, on the thread that
 * makes it; and by the owner (ns) to learn whether the file is clean: all content durable in the store, nothing
 * resident. */
typedef int ramfile_dirty_fn(void *arg, uint64_t ino);
void ramfile_on_dirty(struct ramfile *file, ramfile_dirty_fn *fn, void *arg);
/* 0 and *ret_clean; clean means: nothing resident, and the store was synced since the last change. */
int ramfile_is_clean(struct ramfile *file, bool *ret_clean);
void ramfile_mark_clean(struct ramfile *file);

/* Progress of a long call: returns false to cancel it. */
typedef bool ramfile_progress_fn(void *arg, uint64_t done_bytes, uint64_t total_bytes);

struct ramfile_moved {
	uint64_t moved_bytes;   /* demoted or promoted now */
	uint64_t skipped_bytes; /* resident but in use, pinned, or no room */
};

/* Demotes every block of the range that is idle. A mapped file is zapped first and given min_idle to show what is in
 * use; an unmapped one is demoted at once. */
int ramfile_demote(struct ramfile *file, uint64_t offset, uint64_t len, ramfile_progress_fn *progress, void *arg,
		   struct ramfile_moved *ret);
/* Stores what the arena of a plain file holds: copies of what the kernel wrote back. For the evictor, which
 * ramfile_demote() waits for. Nobody may have the file attached. */
int ramfile_demote_staged(struct ramfile *file);
/* Promotes cold blocks while the budget has room; never waits for room. */
int ramfile_promote(struct ramfile *file, uint64_t offset, uint64_t len, ramfile_progress_fn *progress, void *arg,
		    struct ramfile_moved *ret);
int ramfile_pin(struct ramfile *file, uint64_t offset, uint64_t len, bool on);

struct ramfile_cloned {
	uint64_t size_bytes;   /* of the file when it began */
	uint64_t stored_bytes; /* values that were written, of blocks that were resident and not stored */
	uint64_t shared_bytes; /* values that both files have now */
};

/* The content of the file becomes that of another one, by number, as far as the store goes: nothing is promoted,
 * demoted or forgotten, and resident blocks are stored as well. A block that is written meanwhile is old or new. The
 * other file is empty (size 0), nothing is stored of it, and it must not change size meanwhile; its content shows with
 * ramfile_adopt(). After an error some of it is stored beyond its end. -EBUSY: a process that maps the file has not
 * come back to this daemon yet. -EREMOTE: some of the content is on another host still. */
int ramfile_clone(struct ramfile *file, uint64_t to, ramfile_progress_fn *progress, void *arg,
		  struct ramfile_cloned *ret);
/* An empty file that nobody changes the size of: grows, and what is stored beyond its end is its content. */
int ramfile_adopt(struct ramfile *file, uint64_t size_bytes);

struct ramfile_figures {
	uint64_t size_bytes, block_bytes;
	unsigned int mappers;
	uint64_t resident_bytes, cold_bytes, hole_bytes, stored_bytes, pinned_bytes;
	uint64_t shared_bytes;              /* not by ramfile_figures(): ramfile_shared_bytes() takes its time */
	uint64_t huge_bytes;                /* in units that may be huge pages */
	uint64_t arena_bytes, cached_bytes; /* DRAM in the arena; in blocks of which the kernel caches pages */
	unsigned int cached_opens;          /* > 0: mapped plain, or may be */
	bool cache_unknown;                 /* plain, and the kernel may have written pages in any hole */
	uint64_t promotions, demotions, demotions_aborted; /* blocks */
	uint64_t direct_read_bytes, direct_write_bytes;
	uint64_t fault_count, fault_p50_ns, fault_p99_ns;
	uint64_t away_bytes, wanted_blocks; /* on another host; of those, blocks that somebody waits for */
	uint64_t errors;
	bool lost;
};

void ramfile_figures(struct ramfile *file, struct ramfile_figures *ret);
/* Of stored_bytes: values that other files have, too. Looks at every stored block. */
uint64_t ramfile_shared_bytes(const struct ramfile *file);
/* A limit of its own for what of the file is in DRAM, beside the budget: beyond it the faults of its mappers wait, and
 * no others. Part of it is kept free for them by demoting blocks of the file. UINT64_MAX: none. */
void ramfile_set_limit(struct ramfile *file, uint64_t bytes);
/* Whoever knows what the mappers are up to wants to be asked again (tier_on_limit()) before more than this is there. */
void ramfile_set_growth(struct ramfile *file, uint64_t bytes);
uint64_t ramfile_arena_bytes(struct ramfile *file);
/* A mapper has not answered a zap for so long: nothing of the file can be demoted. */
bool ramfile_is_stuck(struct ramfile *file, uint64_t for_ns);
/* Adds the bytes of an O_DIRECT request that a door served. */
void ramfile_count_direct(struct ramfile *file, uint64_t read_bytes, uint64_t write_bytes);

enum ramfile_run_state { RAMFILE_RUN_HOLE, RAMFILE_RUN_COLD, RAMFILE_RUN_RESIDENT };

struct ramfile_run {
	uint64_t offset, length;
	enum ramfile_run_state state;
	uint8_t generation, tier;
	bool pinned, damaged, away;
};

/* Runs of equal blocks of a range, in order. fn non-zero ends the walk and is returned. */
typedef int ramfile_run_fn(void *arg, const struct ramfile_run *run);
int ramfile_map(struct ramfile *file, uint64_t offset, uint64_t len, ramfile_run_fn *fn, void *arg);

/* --- plain mapping: the kernel caches pages of the file ------------------------------------------------------ */

enum ramfile_cache { RAMFILE_CACHE_NO, RAMFILE_CACHE_FRESH, RAMFILE_CACHE_KEEP };
/* Asks for an open whose content the kernel may cache. NO: the file is attached. FRESH: yes, and nothing that the
 * kernel still holds from before may be used. Each that is not NO is given back by ramfile_close_cached(). */
enum ramfile_cache ramfile_open_cached(struct ramfile *file);
void ramfile_close_cached(struct ramfile *file);
/* After the load. inherited: the kernel goes on with opens that an earlier daemon answered. True: some of them were
 * cached; they count as one, to be given back when the kernel has none any more. */
bool ramfile_inherit(struct ramfile *file, bool inherited);
/* Content for the page cache: as ramfile_read(), and the blocks count as cached from here on. Waits a while for room in
 * the budget, but not for ever: the kernel has taken the pages already. -EINVAL: the file is attached, so that a cached
 * page could become wrong without anybody knowing; it is said at once, whatever state the block is in. */
int ramfile_fill(struct ramfile *file, void *buf, size_t len, uint64_t offset, size_t *ret_len);
/* Dirty pages come back: whole pages, but for the end of the file. Answers after a copy into the arena, without I/O;
 * fails only if the file is lost or truncated, or the host is out of memory. */
int ramfile_write_back(struct ramfile *file, const void *buf, size_t len, uint64_t offset);

struct ramfile_range {
	uint64_t offset, length;
};
/* Ranges of cached blocks to take out of the kernel's cache, the oldest blocks first, at most wanted_bytes and max
 * ranges. Returns how many. */
size_t ramfile_pick_cached(struct ramfile *file, uint64_t offset, uint64_t len, uint64_t wanted_bytes,
			   struct ramfile_range *ret, size_t max);
/* True if somebody waits for all cached blocks to go; ramfile_evicted() says that the evictor did what it can. */
bool ramfile_evict_wanted(struct ramfile *file);
void ramfile_evicted(struct ramfile *file);
/* True while somebody has an open whose content the kernel caches. */
bool ramfile_is_plain(struct ramfile *file);
/* What was measured (cachestat): cached[i] for each block from first on. since: NULL, or marks taken before the
 * measurement: a block that came to the cache since then stays marked. */
void ramfile_set_cached(struct ramfile *file, uint64_t first, uint64_t count, const uint8_t *cached,
			const uint64_t *since);
/* Where, from there on, the kernel may hold something as far as is known; the file's end if nowhere. Not exact: early.
 */
uint64_t ramfile_next_cached(struct ramfile *file, uint64_t offset);
/* All of the file was measured: from here on it is known what the kernel holds. */
void ramfile_measured(struct ramfile *file);
#define RAMFILE_MARKS 256
/* For since: to be taken before what the kernel holds is looked at. */
void ramfile_marks(struct ramfile *file, uint64_t ret[static RAMFILE_MARKS]);

/* --- for the mapping side ---------------------------------------------------------------------------------- */

/* A new descriptor of the arena; the caller closes it. */
int ramfile_arena_fd(struct ramfile *file, bool writable, int *ret_fd);
/* True if fd is this file's arena. */
bool ramfile_owns_arena(struct ramfile *file, int fd);

/* True while any process holds the arena, whether it is a mapper or has yet to come back to a daemon that was
 * restarted. Takes no lock. */
bool ramfile_is_held(const struct ramfile *file);

/* What the kernel caches of the file is dropped first. -EBUSY: the file is mapped plain. */
int ramfile_add_mapper(struct ramfile *file, struct mapper *mapper);
/* Returns when no call into the mapper is running or will be made. */
void ramfile_remove_mapper(struct ramfile *file, struct mapper *mapper);

enum ramfile_fault_kind { RAMFILE_FAULT_MISSING, RAMFILE_FAULT_PROTECTED };

/* A thread of the mapper waits at offset. Not called after or during ramfile_remove_mapper(). Resolves it and wakes the
 * thread, now or later (when there is room). arrived_ns: when the event was read, for the latency figures. Never fails:
 * what cannot be read is poisoned. */
void ramfile_fault(struct ramfile *file, struct mapper *mapper, uint64_t offset, enum ramfile_fault_kind kind,
		   uint64_t arrived_ns);
/* For struct mapper_ops.fill: data for pages that nobody else brings now. Those that the arena has stay as they are. */
int ramfile_put_absent(struct ramfile *file, const void *data, uint64_t length, uint64_t offset);
void ramfile_zapped(struct ramfile *file, struct mapper *mapper, uint64_t round);
