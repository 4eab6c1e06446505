/* Faults that found no room. They are a list in the engine; who takes one up again is in fault.c. */
#include "engine/parked.h"

#include <stdlib.h>

#include "engine/ahead.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/retry.h"
#include "engine/room.h"

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

/* Under the lock of room.h: somebody is told when it may go on. */
static void tell(struct engine *engine, const struct parked *parked, bool limited)
{
	if (parked->for_turn) {
		flow_wake_at(engine, flow_fault_due(parked->file)); /* as it is now */
		return;
	}
	if (limited && engine->room.on_limit)
		engine->room.on_limit(engine->room.on_limit_arg);
	if (!parked->own && engine->room.on_room && budget_free(&engine->budget) >= engine->config.block_bytes)
		engine->room.on_room(engine->room.on_room_arg);
	engine_wake_demoter(engine);
}

/* Under the lock of room.h. */
static void enqueue(struct engine *engine, struct parked *parked)
{
	struct ramfile *file = parked->file;
	/* Whoever gives room looks for parked faults under this lock, so what is allowed is asked under it, too. */
	bool limited = !parked->for_turn && !room_allows(file, file->block_bytes, BUDGET_MUST);

	parked->own = limited || parked->for_turn || !tenant_allows(file, file->block_bytes);
	waits_begin(file, &parked->wait, parked->own ? WAIT_LIMIT : WAIT_ROOM, parked->arrived_ns);
	TAILQ_INSERT_TAIL(&engine->room.parked, parked, link);
	engine->room.parked_count++;
	engine->room.parked_own += parked->own;
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
		if (!parked->for_turn && !flow_holds_back(parked->file))
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
		TAILQ_REMOVE(&engine->room.parked, parked, link);
		waits_end(parked->file, &parked->wait);
		TAILQ_INSERT_TAIL(&gone, parked, link);
		engine->room.parked_count--;
		engine->room.parked_own -= parked->own;
	}
	lock_put(&engine->room.lock);
	while ((parked = TAILQ_FIRST(&gone))) {
		TAILQ_REMOVE(&gone, parked, link);
		mappers_drop(parked->file, mapper);
		free(parked);
	}
}
