/* Faults that found no room. They are a list in the engine; who takes one up again is in fault.c. */
#include "engine/parked.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/ahead.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/retry.h"
#include "engine/room.h"

/* Files that are looked at for who is next. */
#define LOOK_MOST 256U
/* Of a file. Who makes more of them wait has threads that leave their faults alone. */
#define PARKED_MAX 16384U

/* Under the lock of room.h. */
static bool waits_already(const struct engine *engine, const struct parked *fresh)
{
	const struct parked *parked;

	TAILQ_FOREACH(parked, &engine->room.parked, link)
		if (parked->mapper == fresh->mapper && parked->offset == fresh->offset && parked->kind == fresh->kind)
			return true;
	return false;
}

/* Under the lock of room.h. */
static void count(struct engine *engine, const struct parked *parked, int by)
{
	engine->room.parked_count += (uint64_t)by;
	if (parked->own)
		engine->room.parked_own += (uint64_t)by;
	else
		atomic_fetch_add(&engine->room.queue, (uint64_t)by);
}

/* Under the lock of room.h. */
static void take_out(struct engine *engine, struct parked *parked)
{
	TAILQ_REMOVE(&engine->room.parked, parked, link);
	waits_end(parked->file, &parked->wait);
	count(engine, parked, -1);
}

/* Under the lock of room.h: its turn has come, or it waits for none. */
static bool has_turn(struct engine *engine, const struct parked *parked)
{
	uint64_t due_ns = parked->for_turn ? flow_fault_due(parked->file) : 0;

	if (due_ns <= clock_ns())
		return true;
	flow_wake_at(engine, due_ns);
	return false;
}

/* Under the lock of room.h. */
static bool has_room(struct engine *engine, const struct parked *parked)
{
	struct ramfile *file = parked->file;
	uint64_t until_ns;

	if (!room_allows(file, file->block_bytes, BUDGET_MUST) || !tenant_allows(file, file->block_bytes))
		return false;
	until_ns = room_leaves_until(file, file->block_bytes, fault_needs(parked->kind));
	if (until_ns)
		flow_wake_at(engine, until_ns);
	return !until_ns;
}

/* Under the lock of room.h: of those that wait of one file, the first is looked at; one with many threads has many. */
static bool is_candidate(struct engine *engine, const struct parked *parked)
{
	struct room_look *look = &parked->file->limit.look;

	if (look->number != engine->room.looks)
		*look = (struct room_look){ .number = engine->room.looks };
	if (look->full || look->seen || (parked->for_turn && look->early))
		return false;
	look->early = !has_turn(engine, parked);
	look->full = !look->early && !has_room(engine, parked);
	look->seen = !look->early && !look->full;
	return look->seen;
}

struct parked *parked_next(struct engine *engine)
{
	struct parked *parked, *best = NULL;
	uint64_t least = UINT64_MAX, passed;
	unsigned int files = 0;
	bool more = false;

	LOCK_SCOPE(&engine->room.lock);
	engine->room.looks++;
	TAILQ_FOREACH(parked, &engine->room.parked, link) {
		if (!is_candidate(engine, parked)) {
			more |= parked->file->limit.look.seen;
			continue;
		}
		more |= best != NULL;
		passed = tenant_passed(parked->file);
		if (passed < least) {
			least = passed;
			best = parked;
		}
		if (++files == LOOK_MOST)
			break;
	}
	if (!best)
		return NULL;
	if (least > engine->room.passed)
		engine->room.passed = least;
	tenant_pass(best->file, engine->room.passed);
	take_out(engine, best);
	/* The caller may be held up by the store, or by a process. */
	if (more && engine->room.on_room)
		engine->room.on_room(engine->room.on_room_arg);
	return best;
}

/* Under the lock of room.h: somebody is told when it may go on. */
static void tell(struct engine *engine, const struct parked *parked, bool limited)
{
	if (parked->for_turn) {
		uint64_t due_ns = flow_fault_due(parked->file); /* as it is now */

		if (due_ns > clock_ns())
			flow_wake_at(engine, due_ns);
		else if (engine->room.on_room)
			engine->room.on_room(engine->room.on_room_arg);
		return;
	}
	if (limited && engine->room.on_limit)
		engine->room.on_limit(engine->room.on_limit_arg);
	if (!parked->own && engine->room.on_room && budget_free(&engine->budget) >= engine->config.block_bytes &&
	    has_room(engine, parked))
		engine->room.on_room(engine->room.on_room_arg);
	engine_wake_demoter(engine);
}

/* Under the lock of room.h. An urgent one comes before the others of its file, and nobody else's. */
static void insert(struct engine *engine, struct parked *parked)
{
	struct parked *other = NULL;

	if (parked->kind == FAULT_URGENT) {
		if (!parked->own)
			room_urgent(parked->file);
		TAILQ_FOREACH(other, &engine->room.parked, link)
			if (other->file == parked->file && other->kind != FAULT_URGENT)
				break;
	}
	if (other)
		TAILQ_INSERT_BEFORE(other, parked, link);
	else
		TAILQ_INSERT_TAIL(&engine->room.parked, parked, link);
}

/* Under the lock of room.h. */
static void enqueue(struct engine *engine, struct parked *parked)
{
	struct ramfile *file = parked->file;
	/* Whoever gives room looks for parked faults under this lock, so what is allowed is asked under it, too. */
	bool limited = !parked->for_turn && !room_allows(file, file->block_bytes, BUDGET_MUST);

	parked->own = limited || parked->for_turn || !tenant_allows(file, file->block_bytes);
	waits_begin(file, &parked->wait, parked->own ? WAIT_LIMIT : WAIT_ROOM, parked->arrived_ns);
	insert(engine, parked);
	count(engine, parked, 1);
	tell(engine, parked, limited);
}

void parked_add(struct engine *engine, struct ramfile *file, struct mapper *mapper, uint64_t offset,
		enum fault_kind kind, uint64_t arrived_ns, uint64_t turn_ns)
{
	struct parked *parked = waits_count(file) < PARKED_MAX ? malloc(sizeof(*parked)) : NULL;
	bool again;

	if (!turn_ns)
		atomic_fetch_add(&engine->room.waited_faults, 1);
	if (!parked || !mappers_hold(file, mapper)) { /* let it come again: slower, and right */
		free(parked);
		mapper->ops->wake(mapper, offset - offset % PAGE_BYTES, PAGE_BYTES);
		return;
	}
	*parked = (struct parked){
		.file = file,
		.mapper = mapper,
		.offset = offset,
		.kind = kind,
		.for_turn = turn_ns,
		.arrived_ns = arrived_ns,
	};
	lock_get(&engine->room.lock);
	again = waits_already(engine, parked);
	if (!again)
		enqueue(engine, parked);
	lock_put(&engine->room.lock);
	if (again) {
		mappers_drop(file, mapper);
		free(parked);
	}
	/* Who removes the mapper may have looked for parked faults just before, and would wait until there is room. */
	if (mappers_leaves(file, mapper))
		parked_forget(engine, mapper);
}

bool parked_of_others(struct engine *engine)
{
	const struct parked *parked;

	LOCK_SCOPE(&engine->room.lock);
	TAILQ_FOREACH(parked, &engine->room.parked, link)
		if (!parked->for_turn && !flow_holds_back(parked->file) && !claim_stays(parked->file) &&
		    !room_leaves_until(parked->file, parked->file->block_bytes, fault_needs(parked->kind)))
			return true;
	return false;
}

void parked_forget(struct engine *engine, struct mapper *mapper)
{
	struct parked_list gone = TAILQ_HEAD_INITIALIZER(gone);
	struct parked *parked, *next;

	ahead_forget(engine->ahead, mapper);
	retry_forget(engine->retry, mapper);
	lock_get(&engine->room.lock);
	for (parked = TAILQ_FIRST(&engine->room.parked); parked; parked = next) {
		next = TAILQ_NEXT(parked, link);
		if (parked->mapper != mapper)
			continue;
		take_out(engine, parked);
		TAILQ_INSERT_TAIL(&gone, parked, link);
	}
	lock_put(&engine->room.lock);
	while ((parked = TAILQ_FIRST(&gone))) {
		TAILQ_REMOVE(&gone, parked, link);
		mappers_drop(parked->file, mapper);
		free(parked);
	}
}
