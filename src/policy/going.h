/* policy/going.h - what is on its way out of DRAM: batches that were chosen and have not ended. They count as room to
 * come, so that several who demote do not demote more than is missing. One that is late, because a store or a process
 * does not answer, counts no more, and its file is left alone until it ends.
 *
 * Without a lock of its own: under that of reclaim.h.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

struct engine;
struct ramfile;

#define GOING_MOST 16
#define GOING_LATE_NS (250 * NS_PER_MS)

struct going {
	struct going_batch {
		struct ramfile *file; /* NULL: none */
		uint64_t bytes, since_ns;
	} batch[GOING_MOST];
};

/* NULL: there are as many as there may be. */
struct going_batch *going_begin(struct going *going, struct ramfile *file, uint64_t bytes, uint64_t now_ns);
void going_end(struct going_batch *batch);
/* Of the files that are charged to a tenant (0: of all), and of the one of that number (0: of any). */
uint64_t going_bytes(const struct going *going, struct engine *engine, uint64_t tenant, uint64_t file, uint64_t now_ns);
bool going_is_late(const struct going *going, const struct ramfile *file, uint64_t now_ns);
/* How many there are that are late, or that are not. */
unsigned int going_count(const struct going *going, bool late, uint64_t now_ns);
