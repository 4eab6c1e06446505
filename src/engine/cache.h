/* engine/cache.h - plain mapping: what the kernel's page cache holds of a RAM file.
 *
 * Offsets and lengths are bytes. Thread-safety: any thread, no lock held. cache_fill() and cache_write_back() block
 * on room, the others do not block for long.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;
struct ramfile;

enum cache_kind { CACHE_NO, CACHE_FRESH, CACHE_KEEP };

#define CACHE_MARKS 256 /* blocks share a mark by their number */

/* A file's part. Under its lock. */
struct cached {
	uint64_t marks[CACHE_MARKS]; /* counts how often a block of the slot came to the kernel's cache */
	unsigned int opens;          /* whose content the kernel may cache: the file is mapped plain */
	bool evict_wanted;           /* the evictor shall take all of it out of the kernel's cache */
	unsigned int evict_waits;    /* who waits for that */
	bool stale;                  /* the kernel may hold pages from before the file was attached */
	bool unknown; /* loaded under a mount that was taken over, and not measured since: the kernel may hold any page,
		       * and BLOCK_CACHED does not say which */
	_Atomic bool was_cached; /* the kernel may hold some of it; cleared by the demoter */
};

/* Asks for an open whose content the kernel may cache. NO: the file is attached. FRESH: yes, and nothing that the
 * kernel still holds from before may be used. Each that is not NO is given back by cache_close_file(). */
enum cache_kind cache_open_file(struct ramfile *file);
void cache_close_file(struct ramfile *file);
/* After the load. inherited: the kernel goes on with opens that an earlier daemon answered. True: some of them were
 * cached; they count as one, to be given back when the kernel has none any more. */
bool cache_inherit(struct ramfile *file, bool inherited);
/* Content for the page cache: as ramfile_read(), and the blocks count as cached from here on. Waits a while for room in
 * the budget, but not for ever: the kernel has taken the pages already. -EINVAL: the file is attached, so that a cached
 * page could become wrong without anybody knowing; it is said at once, whatever state the block is in. */
int cache_fill(struct ramfile *file, void *buf, size_t len, uint64_t offset, size_t *ret_len);
/* Dirty pages come back: whole pages, but for the end of the file. Answers after a copy into the arena, without I/O;
 * fails only if the file is lost or truncated, or the host is out of memory. */
int cache_write_back(struct ramfile *file, const void *buf, size_t len, uint64_t offset);

struct cache_range {
	uint64_t offset, length;
};

/* Ranges of cached blocks to take out of the kernel's cache, the oldest blocks first, at most wanted_bytes and max
 * ranges. Returns how many. */
size_t cache_pick(struct ramfile *file, uint64_t offset, uint64_t len, uint64_t wanted_bytes, struct cache_range *ret,
		  size_t max);
/* True if somebody waits for all cached blocks to go; cache_evicted() says that the evictor did what it can. */
bool cache_evict_wanted(struct ramfile *file);
void cache_evicted(struct ramfile *file);
/* The evictor cannot get at the file of that number; 0: at none, it ends. Nobody waits on for it. */
void cache_evict_failed(struct engine *engine, uint64_t ino);
/* True while somebody has an open whose content the kernel caches. */
bool cache_is_plain(struct ramfile *file);
/* The same for who comes right behind a close of which the kernel has not told yet: waits for that, some milliseconds.
 */
bool cache_stays_plain(struct ramfile *file);
/* What was measured (cachestat): cached[i] for each block from first on. since: NULL, or marks taken before the
 * measurement: a block that came to the cache since then stays marked. */
void cache_set(struct ramfile *file, uint64_t first, uint64_t count, const uint8_t *cached, const uint64_t *since);
/* Where, from there on, the kernel may hold something as far as is known; the file's end if nowhere. Not exact: early.
 */
uint64_t cache_next(struct ramfile *file, uint64_t offset);
/* All of the file was measured: from here on it is known what the kernel holds. */
void cache_measured(struct ramfile *file);

/* For since: to be taken before what the kernel holds is looked at. */
void cache_marks(struct ramfile *file, uint64_t ret[static CACHE_MARKS]);
