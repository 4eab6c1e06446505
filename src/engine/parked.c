/* Faults that found no room. They are a list in the engine; who takes one up again is in fault.c. */
#include "engine/parked.h"

#include <stdlib.h>

#include "engine/ahead.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/retry.h"
#include "engine/room.h"

void parked_add(struct engine *engine, struct ramfile *file, struct mapper *mapper, uint64_t offset,
		enum fault_kind kind, uint64_t arrived_ns)
{
	struct parked *parked = malloc(sizeof(*parked));
	bool limited;

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
		.arrived_ns = arrived_ns,
	};
	/* Whoever gives room looks for parked faults under this lock, so what is allowed is asked under it, too. */
	lock_get(&engine->room.lock);
	limited = !room_allows(file, file->block_bytes, BUDGET_MUST);
	parked->own = limited || !tenant_allows(file, file->block_bytes);
	waits_begin(file, &parked->wait, parked->own ? WAIT_LIMIT : WAIT_ROOM, arrived_ns);
	TAILQ_INSERT_TAIL(&engine->room.parked, parked, link);
	engine->room.parked_count++;
	engine->room.parked_own += parked->own;
	if (limited && engine->room.on_limit)
		engine->room.on_limit(engine->room.on_limit_arg);
	if (!parked->own && engine->room.on_room && budget_free(&engine->budget) >= file->block_bytes)
		engine->room.on_room(engine->room.on_room_arg);
	engine_wake_demoter(engine);
	lock_put(&engine->room.lock);
	/* Who removes the mapper may have looked for parked faults just before, and would wait until there is room. */
	if (mappers_leaves(file, mapper))
		parked_forget(engine, mapper);
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
