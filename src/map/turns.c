#include "map/turns.h"

#include <errno.h>
#include <stdlib.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

/* What an event costs a unit of weight 1. */
#define EVENT_COST (UINT64_C(1) << 20)

TAILQ_HEAD(turn_list, turn);

struct turn_key {
	uint64_t tenant;
	uint64_t process;
};

struct turn_unit {
	struct turn_key key;
	unsigned int refs; /* turns that take part, and workers */
	unsigned int workers;
	uint32_t weight;
	uint64_t passed; /* what it has had, by its weight */
	struct turn_list list;
	TAILQ_ENTRY(turn_unit) link; /* if somebody is in the list */
	UT_hash_handle hh;
};

void turns_init(struct turns *turns, unsigned int most)
{
	*turns = (struct turns){ .most = most };
	TAILQ_INIT(&turns->waiting);
}

/* --- units --------------------------------------------------------------------------------------------------- */

static struct turn_key key_of(const struct turn_owner *owner)
{
	return (struct turn_key){ owner->tenant, owner->tenant ? 0 : (uintptr_t)owner->process };
}

static struct turn_unit *unit_get(struct turns *turns, const struct turn_owner *owner)
{
	struct turn_key key = key_of(owner);
	struct turn_unit *unit;

	HASH_FIND(hh, turns->all, &key, sizeof(key), unit);
	if (!unit) {
		unit = calloc(1, sizeof(*unit));
		if (!unit)
			return NULL;
		unit->key = key;
		TAILQ_INIT(&unit->list);
		HASH_ADD(hh, turns->all, key, sizeof(key), unit);
		if (!unit->hh.tbl) {
			free(unit);
			return NULL;
		}
	}
	unit->refs++;
	return unit;
}

static void unit_put(struct turns *turns, struct turn_unit *unit)
{
	if (--unit->refs)
		return;
	HASH_DEL(turns->all, unit);
	free(unit);
}

static void charge(struct turn_unit *unit, unsigned int events)
{
	unit->passed += events * EVENT_COST / (unit->weight ? unit->weight : 1);
}

/* --- turns --------------------------------------------------------------------------------------------------- */

static void take_out(struct turns *turns, struct turn *turn)
{
	struct turn_unit *unit = turn->unit;

	turn->sets = 0;
	TAILQ_REMOVE(&unit->list, turn, link);
	if (TAILQ_EMPTY(&unit->list))
		TAILQ_REMOVE(&turns->waiting, unit, link);
}

int turns_join(struct turns *turns, struct turn *turn, const struct turn_owner *owner)
{
	turn->sets = 0;
	turn->unit = unit_get(turns, owner);
	return turn->unit ? 0 : -ENOMEM;
}

void turns_leave(struct turns *turns, struct turn *turn)
{
	if (turn->sets)
		take_out(turns, turn);
	unit_put(turns, turn->unit);
	turn->unit = NULL;
}

/* Shares are set while there are mappings. Without memory it stays where it was. */
static void follow(struct turns *turns, struct turn *turn, const struct turn_owner *owner)
{
	struct turn_key key = key_of(owner);
	struct turn_unit *unit;

	if (turn->unit->key.tenant == key.tenant && turn->unit->key.process == key.process)
		return;
	unit = unit_get(turns, owner);
	if (!unit)
		return;
	unit_put(turns, turn->unit);
	turn->unit = unit;
}

void turns_wait(struct turns *turns, struct turn *turn, const struct turn_owner *owner, unsigned int set, bool urgent)
{
	uint32_t sets = turn->sets | UINT32_C(1) << set;
	bool waited = turn->sets, first;
	struct turn_unit *unit;

	if (!turn->unit)
		return;
	if (waited && !urgent) {
		turn->sets = sets;
		return;
	}
	if (waited)
		take_out(turns, turn);
	follow(turns, turn, owner);
	unit = turn->unit;
	unit->weight = owner->weight;
	first = TAILQ_EMPTY(&unit->list);
	if (first && !unit->workers && unit->passed < turns->passed)
		unit->passed = turns->passed;
	turn->sets = sets;
	if (urgent)
		TAILQ_INSERT_HEAD(&unit->list, turn, link);
	else
		TAILQ_INSERT_TAIL(&unit->list, turn, link);
	if (first)
		TAILQ_INSERT_TAIL(&turns->waiting, unit, link);
}

static struct turn *first_in(const struct turn_unit *unit, unsigned int set)
{
	struct turn *turn;

	TAILQ_FOREACH(turn, &unit->list, link)
		if (turn->sets & UINT32_C(1) << set)
			return turn;
	return NULL;
}

static struct turn *choose(const struct turns *turns, unsigned int set)
{
	struct turn *turn, *best = NULL;
	struct turn_unit *unit;

	TAILQ_FOREACH(unit, &turns->waiting, link) {
		if (unit->workers >= turns->most || (best && unit->passed >= best->unit->passed))
			continue;
		turn = first_in(unit, set);
		best = turn ? turn : best;
	}
	return best;
}

bool turns_pending(const struct turns *turns, unsigned int set)
{
	return choose(turns, set);
}

struct turn *turns_next(struct turns *turns, unsigned int set, struct turn_unit **ret_unit)
{
	struct turn *turn = choose(turns, set);
	struct turn_unit *unit;
	uint32_t left;

	if (!turn)
		return NULL;
	unit = turn->unit;
	left = turn->sets & ~(UINT32_C(1) << set);
	if (left)
		turn->sets = left;
	else
		take_out(turns, turn);
	if (turns->passed < unit->passed)
		turns->passed = unit->passed;
	charge(unit, 1);
	unit->workers++;
	unit->refs++;
	*ret_unit = unit;
	return turn;
}

void turns_done(struct turns *turns, struct turn_unit *unit, unsigned int events)
{
	if (events > 1)
		charge(unit, events - 1);
	unit->workers--;
	unit_put(turns, unit);
}
