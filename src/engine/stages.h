/* engine/stages.h - where the time of a fault goes: one histogram for each stage, of all files of a mount together.
 *
 * Always on: a stage costs one reading of the clock and two additions to atomic counters. At the same places there are
 * static probes (USDT, provider "tierfs"), which are a no-op instruction until somebody attaches to them. What the
 * kernel does before the event can be read, and after the wake until the toucher runs, is not seen from here.
 */
#pragma once

#include <stdint.h>

#include "engine/hist.h"

enum stage {
	STAGE_EVENT,  /* a worker woke up -> it has read the event */
	STAGE_QUEUE,  /* the event was read -> the block is taken: mapping, locks, budget */
	STAGE_ROOM,   /* of those that found no room: the event was read -> there is room */
	STAGE_READ,   /* the value comes from the store */
	STAGE_DECODE, /* it is verified and expanded */
	STAGE_COPY,   /* into the arena and the page tables; ends with the wake */
	STAGE_TOTAL,  /* the event was read -> the toucher was woken */
	STAGE_AHEAD,  /* one piece of read-ahead, which nobody waits for */
};
#define STAGES 8

struct stages {
	struct hist hist[STAGES];
};

const char *stage_name(enum stage stage);

/* The stage that began at start_ns ends now, and the time is returned: where the next one begins. */
uint64_t stage_end(struct stages *stages, enum stage stage, uint64_t ino, uint64_t block, uint64_t start_ns);
