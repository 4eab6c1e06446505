/* map/turns.h - whose faults the workers turn to next, when more wait than there are workers.
 *
 * The workers are shared among units. A unit is a tenant (engine/tenant.h), however many processes map its files; where
 * none is set it is a process. A unit has a bounded number of the workers, so that some are left for the others. When
 * several units wait, the one goes next that has had the least for its weight; within a unit, who is urgent does, then
 * who came first. Nobody gains by having waited for nothing: a unit that comes back begins where the others are.
 *
 * What waits is a turn: a mapping that has events. It may wait in several sets of workers, and each takes it once.
 * Nothing but the order is here: no thread, no descriptor. Not thread-safe: under the caller's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct turn_unit;

/* Who it is. tenant 0: none, the process counts. */
struct turn_owner {
	uint64_t tenant;
	const void *process;
	uint32_t weight;
};

struct turn {
	struct turn_unit *unit; /* NULL: it takes no part */
	uint32_t sets;          /* bits: where it waits */
	TAILQ_ENTRY(turn) link; /* if it waits */
};

TAILQ_HEAD(turn_units, turn_unit);

struct turns {
	struct turn_unit *all;     /* uthash */
	struct turn_units waiting; /* those of which a turn waits */
	uint64_t passed;           /* what the one had had that went last */
	unsigned int most;         /* workers of one unit */
};

void turns_init(struct turns *turns, unsigned int most);
/* Takes part. -ENOMEM. */
int turns_join(struct turns *turns, struct turn *turn, const struct turn_owner *owner);
void turns_leave(struct turns *turns, struct turn *turn);
/* It waits in a set (0 to 31), also if it does already. Who its owner is may have changed. Nothing if it has left. */
void turns_wait(struct turns *turns, struct turn *turn, const struct turn_owner *owner, unsigned int set, bool urgent);
/* Somebody waits in the set who may have a worker. */
bool turns_pending(const struct turns *turns, unsigned int set);
/* The next one of the set, which does not wait there any more. Its unit has a worker more until turns_done(). NULL:
 * nobody may have one. */
struct turn *turns_next(struct turns *turns, unsigned int set, struct turn_unit **ret_unit);
/* The worker is back, after so many events. */
void turns_done(struct turns *turns, struct turn_unit *unit, unsigned int events);
