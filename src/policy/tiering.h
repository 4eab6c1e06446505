/* policy/tiering.h - the engine of one mount with its threads: budget, demoter, and the RAM files.
 *
 * Wired together by tierfs.c: a store, a directory for arenas, a configuration. The doors (front/) use names.h for
 * names and ramfile.h, with the headers that it names, for content; the mapping code (map/) brings mappers and faults.
 * Thread-safety: all functions but tiering_new() and tiering_free(), without a lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

struct tiering_figures {
	uint64_t dram_bytes; /* the budget */
	uint64_t resident_bytes;
	uint64_t metadata_bytes; /* tables and buffers of the engine */
	uint64_t waiting_faults; /* faults that wait for room now */
	uint64_t waited_faults;  /* faults that had to wait, ever */
	uint64_t waiting_writes; /* write back of plain mappings that waits for the store */
	uint64_t scans;
	uint64_t visited_blocks; /* entries of block tables that the demoter went through, ever */
};

/* Starts the threads. -EINVAL: a configuration out of range; -ENOMEM; those of a thread that cannot be made. */
int tiering_new(const struct engine_config *config, struct engine **ret);
/* Stops the threads. All RAM files must have been put. Takes NULL. */
void tiering_free(struct engine *engine);

/* A thread of read-ahead does not come back from a mapper (late), and another one shall take its place; or is back. */
void tiering_ahead_late(struct engine *engine, bool late);

/* What is known without I/O. */
void tiering_figures(struct engine *engine, struct tiering_figures *ret);

/* Settings that may change while mounted. -EINVAL: out of range. dram: the budget. */
int tiering_set_dram(struct engine *engine, uint64_t bytes);
/* The mount ends: who waits for a limit of what goes to the store goes on. */
void tiering_lift_limits(struct engine *engine);
/* Given explicitly, it is what protects pages that are referenced and not pinned. */
int tiering_set_min_idle(struct engine *engine, uint64_t ns);
