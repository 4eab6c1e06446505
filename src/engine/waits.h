/* engine/waits.h - faults that wait: how many, for what, and since when.
 *
 * Whoever makes one wait says so by a struct wait, which is in the list until it goes on. What waits in a mapper, which
 * the engine does not see, is asked of it. A fault that waits for a block that is loaded for somebody else, or that is
 * on another host, is not here.
 * Thread-safety: all functions, from any thread. waits_begin() and waits_end() with any lock held, the others without.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/lock.h"

struct mapper;
struct ramfile;

enum wait_for {
	WAIT_TURN,    /* a fault worker */
	WAIT_ROOM,    /* room in the budget */
	WAIT_LIMIT,   /* a limit of the file's own, or of its tenant */
	WAIT_STORE,   /* the store reads, or is tried again */
	WAIT_PROCESS, /* the process keeps its address space locked */
	WAITS,
};

struct wait {
	TAILQ_ENTRY(wait) link;
	enum wait_for what;
	uint64_t since_ns;
};

TAILQ_HEAD(wait_list, wait);

/* A file's part. */
struct waits {
	struct lock lock;
	struct wait_list list[WAITS]; /* under lock: the oldest first */
	uint64_t count[WAITS];        /* under lock */
	bool told;                    /* owned by who calls waits_tell() */
};

struct waits_sum {
	uint64_t count[WAITS], since_ns[WAITS]; /* since_ns: of the oldest, if there are any */
};

void waits_init(struct waits *waits);
void waits_fini(struct waits *waits);
void waits_begin(struct ramfile *file, struct wait *wait, enum wait_for what, uint64_t since_ns);
void waits_end(struct ramfile *file, struct wait *wait);
/* That the engine knows of. */
uint64_t waits_count(struct ramfile *file);
/* A fault was refused by a mapper whose process keeps its address space locked: it waits until that is over. */
void waits_refused(struct mapper *mapper, uint64_t since_ns);

/* Adds what waits for one thing to a sum. */
void waits_add(struct waits_sum *sum, enum wait_for what, uint64_t count, uint64_t since_ns);
void waits_sum(struct ramfile *file, struct waits_sum *ret);
/* All of them, and since when the oldest waits, for what. */
uint64_t waits_total(const struct waits_sum *sum, uint64_t *ret_since_ns, enum wait_for *ret_what);
/* The log says once that a fault of the file waits for more than a second, and once that none does any more. One
 * caller at a time. */
void waits_tell(struct ramfile *file, uint64_t now_ns);
