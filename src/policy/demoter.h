/* policy/demoter.h - the thread that scans what is due, and keeps a part of the budget free.
 *
 * Both for one thread at a time, without a lock.
 */
#pragma once

#include <pthread.h>
#include <stdint.h>

#include "policy/choice.h"

struct engine;

/* Of the demoter's thread, or of who calls demoter_step(). */
struct demoter {
	uint64_t retry_ns;      /* no demotion before */
	uint64_t next_step_ns;  /* when something is due */
	uint64_t rest_until_ns; /* nothing can be demoted, kicks or not */
	struct choice choice;
	pthread_t thread; /* if engine->thread_runs */
};

/* One turn of the demoter: scan what is due, demote what the budget asks for. */
void demoter_step(struct engine *engine);
/* The demoter's thread; arg: the engine. */
void *demoter_run(void *arg);
