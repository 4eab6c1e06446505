/* policy/demoter.h - the thread that scans what is due, and those that make room (reclaim.h).
 *
 * A scan waits for processes, a batch for the store; neither waits for the other. Where a test runs no threads, a turn
 * is both, one after the other.
 */
#pragma once

#include <pthread.h>
#include <stdint.h>

#include "policy/reclaim.h"
#include "policy/scan.h"

struct engine;

struct demoter {
	struct reclaim reclaim;
	uint64_t next_step_ns; /* when something is due, if ever; the scanner's alone, as what follows */
	struct scan_pace pace; /* at which it was said when files are due, or a slower one */
	uint64_t raised_ns;    /* when all were asked again */
	uint64_t called_ns;    /* when those who make room were told that there may be more that is idle */
	pthread_t scanner;     /* if it scans */
	bool scans;
};

/* Starts the threads, and ends them. start: those of pthread_create(3). stop: if they were started. */
int demoter_start(struct engine *engine);
void demoter_stop(struct engine *engine);
/* One turn: scan what is due, and, if no threads run, demote what is short. For one thread at a time. */
void demoter_step(struct engine *engine);
