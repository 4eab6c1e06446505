/* engine/retry.h - cold faults whose device failed: they are tried again for a while, and nobody waits for them.
 *
 * A path that fails over, a thin pool that is extended, a cable: a read says EIO and is well some seconds later. The
 * block stays cold, its toucher goes on waiting, and the fault comes here. A thread of its own takes it up again, so a
 * device that answers slowly or not at all holds up no fault worker. What is known to be damaged never comes here.
 *
 * A fault that waits counts as a call into its mapper. One for each mapper and block: who else touches the block waits
 * for that one.
 *
 * Thread-safety: retry_later() and retry_forget() from any thread, without a lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "engine/parked.h"

struct ramfile;

/* So long after it began to wait a fault is given up: the block is poisoned. It is looked at again from time to time,
 * and is well as soon as it can be read. */
#define RETRY_FAULT_NS (30 * NS_PER_S)
#define RETRY_HEAL_NS (60 * NS_PER_S)
/* A read of the daemon (read(2), O_DIRECT) is tried again for so long: its caller waits, and nobody else. */
#define RETRY_READ_NS (5 * NS_PER_S)
#define RETRY_FIRST_NS (50 * NS_PER_MS)
#define RETRY_MOST_NS (2 * NS_PER_S)
/* No more of them wait. */
#define RETRY_MAX 4096U

struct mapper;
struct retry;

/* Takes a fault up again: fault_serve(). Called without a lock, by retry_run(). */
typedef void retry_fn(struct ramfile *file, struct mapper *mapper, uint64_t offset, enum fault_kind kind,
		      uint64_t arrived_ns);

/* thread: false for tests, which call retry_run(). */
int retry_new(retry_fn *fault, bool thread, struct retry **ret);
void retry_free(struct retry *retry); /* no mapper may be left. Takes NULL */

/* True: the fault waits here, and its toucher with it. False: it is given up, the mapper leaves, or there is no memory.
 * With retry NULL every one is given up. */
bool retry_later(struct retry *retry, struct ramfile *file, struct mapper *mapper, uint64_t offset,
		 uint64_t arrived_ns);
/* Forgets the faults of a mapper that is leaving. Takes NULL. */
void retry_forget(struct retry *retry, struct mapper *mapper);
/* Somebody who was poisoned may be given the block: it is served as a fault after the pause. Takes NULL. A file's lock
 * may be held. */
void retry_heal(struct retry *retry, struct ramfile *file, struct mapper *mapper, uint64_t offset, uint64_t pause_ns);
/* Takes up again what is due at that time. Returns when the next one is; 0: there is none. */
uint64_t retry_run(struct retry *retry, uint64_t now_ns);
/* How long to wait after a failure, so long after the first one. */
uint64_t retry_pause_ns(uint64_t since_ns);
