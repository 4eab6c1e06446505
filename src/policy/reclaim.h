/* policy/reclaim.h - who makes room: threads that demote, a batch at a time, while the mount, a tenant or a file is
 * short.
 *
 * What is next is chosen by one thread at a time (choice.h), and batches are at work side by side, of several files or
 * of one. One thread keeps the reserve free. The others come in when somebody waits, or soon will: who is idle is not
 * worth the processors of who is not. A thread that a store or a process keeps for long is replaced.
 *
 * Thread-safety: all functions, from any thread, without a lock; but for start and stop.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"
#include "policy/choice.h"

struct engine;

/* With those that were replaced. */
#define RECLAIM_THREADS GOING_MOST

struct reclaim {
	struct lock lock;
	struct choice choice;   /* under lock, as all that follows */
	bool refilling;         /* the reserve, up to its end */
	unsigned int turn;      /* who is served first */
	unsigned int refused;   /* batches in a row that the store did not take */
	uint64_t retry_ns;      /* no demotion before */
	uint64_t rest_until_ns; /* nothing could be demoted: not for the mount before */
	bool watched;           /* the scanner comes by: it replaces who is late */
	unsigned int most;      /* immutable: threads at work, without those that are late */
	unsigned int threads;   /* by who starts, replaces and stops them */
	pthread_t thread[RECLAIM_THREADS];
};

/* Of zeroed memory. most: threads at work; 0: a processor each. */
void reclaim_init(struct reclaim *reclaim, unsigned int most);
void reclaim_fini(struct reclaim *reclaim);
/* Those of pthread_create(3); then some may be there. */
int reclaim_start(struct engine *engine);
/* engine->room.stopping is set. */
void reclaim_stop(struct engine *engine);
/* If some are late. By the thread that starts and stops them, or while no other does. */
void reclaim_replace(struct engine *engine);

/* When the thread that replaces has to come by again, while a batch is at work; UINT64_MAX: it is told. */
uint64_t reclaim_watch(struct engine *engine);

/* Makes room by one batch, if somebody is short. False: nobody is, or there is nothing to demote; *due_ns becomes less
 * if it may be different before. */
bool reclaim_some(struct engine *engine, uint64_t *due_ns);
