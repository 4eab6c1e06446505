/* engine/ramfile.h - one RAM file as a whole: it comes and goes, becomes durable, and says what of it is where.
 *
 * What is done with its content has headers of its own: read.h, write.h, resize.h, clone.h; fault.h and attach.h for
 * who maps it, cache.h for plain mappings; load.h and demand.h move it on request.
 *
 * Offsets and lengths are bytes.
 * Thread-safety: all may be called from any thread; none may be called with a lock held. They block on I/O and on
 * blocks in passing states, and, where DRAM is needed, until the demoter made room. 0 or -errno:
 *   -EIO     the block is damaged, the file is lost, or the store failed
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/use.h"

struct ramfile;
struct engine;

/* The file comes into being in DRAM: its table is rebuilt from the arena and the store's keys. One struct per inode at
 * a time; names/ sees to that. lost: reads and writes answer EIO until truncated to 0. */
int ramfile_load(struct engine *engine, uint64_t ino, uint64_t size_bytes, bool lost, struct ramfile **ret);
/* Drops the struct from memory; the arena and the store stay as they are. No mapper may be left. */
void ramfile_unload(struct ramfile *file);
/* Gives back its DRAM and unloads; what is stored stays. For a file that is to be removed later. Takes NULL. */
void ramfile_abandon(struct ramfile *file);
/* Removes content everywhere (arena and store) and unloads, also when something could not be removed. */
int ramfile_destroy(struct ramfile *file);

/* What is safe becomes durable. Errors of the store. */
int ramfile_sync(struct ramfile *file);

/* 0 and *ret_clean; clean means: nothing resident, and the store was synced since the last change. */
int ramfile_is_clean(struct ramfile *file, bool *ret_clean);
/* If it is clean still. The next change calls file_dirty_fn again. */
void ramfile_mark_clean(struct ramfile *file);

/* Pinned blocks are never demoted; those that are cold stay cold. on: -ENOMEM as of engine_pin(). */
int ramfile_pin(struct ramfile *file, uint64_t offset, uint64_t len, bool on);

/* An empty file that nobody changes the size of: grows, and what is stored beyond its end is its content. */
int ramfile_adopt(struct ramfile *file, uint64_t size_bytes);

struct ramfile_figures {
	uint64_t size_bytes, block_bytes, mappers;
	uint64_t resident_bytes, cold_bytes, hole_bytes, stored_bytes, pinned_bytes;
	uint64_t shared_bytes;              /* not by ramfile_figures(): ramfile_shared_bytes() takes its time */
	uint64_t huge_bytes;                /* in units that may be huge pages */
	uint64_t arena_bytes, cached_bytes; /* DRAM in the arena; in blocks of which the kernel caches pages */
	unsigned int cached_opens;          /* > 0: mapped plain, or may be */
	bool cache_unknown;                 /* plain, and the kernel may have written pages in any hole */
	uint64_t promotions, demotions, clean_demotions, demotions_aborted; /* blocks */
	uint64_t direct_read_bytes, direct_write_bytes;
	uint64_t fault_count, fault_p50_ns, fault_p99_ns;
	uint64_t away_bytes, wanted_blocks; /* on another host; of those, blocks that somebody waits for */
	uint64_t waiting_faults;            /* now; and of these, for what (engine/waits.h) */
	uint64_t waiting_for_turn, waiting_for_room, waiting_for_limit, waiting_for_store, waiting_for_process;
	uint64_t longest_wait_ns; /* of those that wait now */
	uint64_t errors;
	uint64_t passthrough_mappers;             /* of the mappers, those that have no descriptor of the arena */
	uint64_t foreign_bytes;                   /* made in the arena by who may not (watch.h), and taken away */
	uint64_t limit_waits;                     /* faults and calls that waited for a limit (flow.h) */
	struct store_traffic traffic[STORE_USES]; /* values and their bytes, from the store and to it */
	bool lost;
};

/* What is known without I/O. It walks what the kernel caches and what is away. */
void ramfile_figures(struct ramfile *file, struct ramfile_figures *ret);
/* Of stored_bytes: values that other files have, too. Looks at every stored block. */
uint64_t ramfile_shared_bytes(const struct ramfile *file);

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
