/* Faults that found no room. They are a list in the tier; who takes one up again is in fault.c. */
#include "engine/parked.h"

#include <stdlib.h>

#include "engine/ahead.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/retry.h"
#include "engine/room.h"

void parked_add(struct tier *tier, struct ramfile *file, struct mapper *mapper, uint64_t offset, enum fault_kind kind,
		uint64_t arrived_ns)
{
	struct parked *parked = malloc(sizeof(*parked));

	atomic_fetch_add(&tier->waited_faults, 1);
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
		.own = !room_allows(file, file->block_bytes, BUDGET_MUST),
		.arrived_ns = arrived_ns,
	};
	lock_get(&tier->parked_lock);
	TAILQ_INSERT_TAIL(&tier->parked, parked, link);
	tier->parked_count++;
	tier->parked_own += parked->own;
	if (parked->own && tier->on_limit)
		tier->on_limit(tier->on_limit_arg);
	tier_wake_demoter(tier);
	lock_put(&tier->parked_lock);
	/* Who removes the mapper may have looked for parked faults just before, and would wait until there is room. */
	if (mappers_leaves(file, mapper))
		parked_forget(tier, mapper);
}

void parked_forget(struct tier *tier, struct mapper *mapper)
{
	struct parked_list gone = TAILQ_HEAD_INITIALIZER(gone);
	struct parked *parked, *next;

	ahead_forget(tier->ahead, mapper);
	retry_forget(tier->retry, mapper);
	lock_get(&tier->parked_lock);
	for (parked = TAILQ_FIRST(&tier->parked); parked; parked = next) {
		next = TAILQ_NEXT(parked, link);
		if (parked->mapper != mapper)
			continue;
		TAILQ_REMOVE(&tier->parked, parked, link);
		TAILQ_INSERT_TAIL(&gone, parked, link);
		tier->parked_count--;
		tier->parked_own -= parked->own;
	}
	lock_put(&tier->parked_lock);
	while ((parked = TAILQ_FIRST(&gone))) {
		TAILQ_REMOVE(&gone, parked, link);
		mappers_drop(parked->file, mapper);
		free(parked);
	}
}
