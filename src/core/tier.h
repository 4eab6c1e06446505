/* core/tier.h - the tier engine of one mount: budget, demoter, and the RAM files.
 *
 * Wired together by tierfs.c: a store, a directory for arenas, a configuration. The doors (front/) use ramfile.h for
 * content and ns.h for names; the mapping code (map/) brings mappers and faults.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "cold/mac.h"
#include "cold/store.h"
#include "core/stages.h"

struct tier;
struct ramfile;

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
	bool run_demoter; /* false: the caller (a test) calls tier_step() itself */
};

struct tier_figures {
	uint64_t dram_bytes; /* the budget */
	uint64_t resident_bytes;
	uint64_t metadata_bytes; /* tables and buffers of the engine */
	uint64_t waiting_faults; /* faults that wait for room now */
	uint64_t waited_faults;  /* faults that had to wait, ever */
	uint64_t waiting_writes; /* write back of plain mappings that waits for the store */
	uint64_t scans;
	uint64_t visited_blocks; /* entries of block tables that the demoter went through, ever */
	uint64_t pinned_blocks;  /* blocks that were not demoted because a device might write to them, or because they
				  * are a part of a huge page that could not be split; ever */
};

int tier_new(const struct tier_config *config, struct tier **ret);
/* Stops the threads. All RAM files must have been put. Takes NULL. */
void tier_free(struct tier *tier);

/* Called, on any thread, when a fault that waits for room may go on: somebody shall call tier_resume_fault() until it
 * returns false. fn must not block. */
typedef void tier_room_fn(void *arg);
void tier_on_room(struct tier *tier, tier_room_fn *fn, void *arg);
bool tier_resume_fault(struct tier *tier);
/* Called, on any thread, when a fault waits for a limit of its file's own. fn must not block. */
void tier_on_limit(struct tier *tier, tier_room_fn *fn, void *arg);
/* A thread of read-ahead does not come back from a mapper (late), and another one shall take its place; or is back. */
void tier_ahead_late(struct tier *tier, bool late);

/* One turn of the demoter: scan what is due, demote what the budget asks for. */
void tier_step(struct tier *tier);

/* For the evictor of plain mappings: waits until less than the reserve of the budget is free, or the deadline. Returns
 * the bytes that are missing. */
uint64_t tier_wait_squeeze(struct tier *tier, uint64_t deadline_ns);
/* The evictor says that it is there, and that it ends. */
void tier_set_evictor(struct tier *tier, bool on);
/* Ends tier_wait_squeeze() early. */
void tier_end_squeeze(struct tier *tier);
/* Inode numbers of the files that the kernel caches pages of, or may. Returns how many, at most max. */
size_t tier_plain_files(struct tier *tier, uint64_t *ret_ino, size_t max);

/* Who can have the kernel drop all that it caches of a file, and what of it is mapped: the file is about to be
 * attached. Called on any thread, without a lock. It waits for fills that are under way, which are refused by then. */
typedef void tier_forget_fn(void *arg, uint64_t ino);
/* NULL: there is nobody any more. */
void tier_on_forget(struct tier *tier, tier_forget_fn *fn, void *arg);
/* Waits until no call is under way, or the deadline; true if so. */
bool tier_wait_forgotten(struct tier *tier, uint64_t deadline_ns);

uint32_t tier_block_bytes(const struct tier *tier);
void tier_figures(struct tier *tier, struct tier_figures *ret);
/* Where the time of faults goes. */
struct stages *tier_stages(struct tier *tier);

/* Settings that may change while mounted. -EINVAL: out of range. */
int tier_set_dram(struct tier *tier, uint64_t bytes);
/* Given explicitly, it is what protects pages that are referenced and not pinned. */
int tier_set_min_idle(struct tier *tier, uint64_t ns);
uint64_t tier_min_idle(const struct tier *tier);
uint64_t tier_dram_bytes(struct tier *tier); /* the budget */
