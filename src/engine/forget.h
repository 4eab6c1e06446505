/* engine/forget.h - what the kernel caches of a file that is about to be attached has to go.
 *
 * Thread-safety: all functions, from any thread, without a lock.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/lock.h"

struct engine;

/* Who can have the kernel drop all that it caches of a file, and what of it is mapped: the file is about to be
 * attached. Called on any thread, without a lock. It waits for fills that are under way, which are refused by then. */
typedef void forget_fn(void *arg, uint64_t ino);

/* The engine's part. */
struct forgetting {
	struct lock lock;
	forget_fn *fn; /* under lock, as all of it */
	void *arg;
	unsigned int calls; /* that are under way */
	pthread_cond_t none;
};

void forget_init(struct forgetting *forgetting); /* of zeroed memory */
void forget_fini(struct forgetting *forgetting);

/* NULL: there is nobody any more. */
void forget_on(struct engine *engine, forget_fn *fn, void *arg);
/* Waits until no call is under way, or the deadline; true if so. */
bool forget_wait(struct engine *engine, uint64_t deadline_ns);
/* The kernel drops what it caches of the file, and gives up what it maps of it. */
void forget_ask(struct engine *engine, uint64_t ino);
