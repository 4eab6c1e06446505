/* The processes that map a RAM file, called one after the other; and who else holds its arena. */
#include "engine/mappers.h"

#include <errno.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mapper.h"
#include "engine/room.h"

/* --- calls into all of them --------------------------------------------------------------------------------- */

unsigned int mappers_each(struct ramfile *file, mappers_fn *fn, void *arg)
{
	struct mapper *mapper, *next;
	unsigned int called = 0;

	lock_get(&file->mappers.lock);
	for (mapper = file->mappers.list; mapper; mapper = next) {
		mapper->users++;
		lock_put(&file->mappers.lock);
		fn(arg, mapper);
		called++;
		lock_get(&file->mappers.lock);
		/* A mapper in use stays in the list, so next is read after the call. */
		next = mapper->next;
		if (--mapper->users == 0)
			pthread_cond_broadcast(&file->mappers.idle);
	}
	lock_put(&file->mappers.lock);
	return called;
}

struct span {
	uint64_t offset, length;
};

static void wake_one(void *arg, struct mapper *mapper)
{
	const struct span *span = arg;

	mapper->ops->wake(mapper, span->offset, span->length);
}

void mappers_wake(struct ramfile *file, uint64_t first, uint64_t count)
{
	struct span span = { .offset = first * file->block_bytes, .length = count * file->block_bytes };

	mappers_each(file, wake_one, &span);
}

struct runs {
	const struct mapper_run *run;
	size_t count;
	bool on;
	uint8_t *used;
	uint32_t block_bytes;
	int err; /* the first one */
};

int mappers_protect_in(struct mapper *mapper, uint64_t offset, uint64_t length, bool on)
{
	int err = mapper->ops->protect(mapper, offset, length, on);

	/* A writer that waits for a protection that stays would wait for ever; woken it comes again. A mapper that does
	 * not answer wakes it when it has recovered. */
	if (err && !on && err != -EBUSY && err != -ETIMEDOUT)
		mapper->ops->wake(mapper, offset, length);
	return err;
}

static void protect_one(void *arg, struct mapper *mapper)
{
	struct runs *runs = arg;
	int err = 0, run_err;

	if (mapper->ops->protect_runs && runs->count > 1)
		err = mapper->ops->protect_runs(mapper, runs->run, runs->count, runs->on);
	/* After an error each for itself: the others go on, and who waits is woken. */
	if (!mapper->ops->protect_runs || runs->count == 1 || (err && err != -EBUSY && err != -ETIMEDOUT)) {
		err = 0;
		for (size_t i = 0; i < runs->count; i++) {
			run_err = mappers_protect_in(mapper, runs->run[i].offset, runs->run[i].length, runs->on);
			err = err ? err : run_err;
		}
	}
	if (err && !runs->err)
		runs->err = err;
}

int mappers_protect_runs(struct ramfile *file, const struct mapper_run *run, size_t count, bool on)
{
	struct runs runs = { .run = run, .count = count, .on = on };

	if (count)
		mappers_each(file, protect_one, &runs);
	return runs.err;
}

int mappers_protect(struct ramfile *file, uint64_t offset, uint64_t length, bool on)
{
	struct mapper_run run = { .offset = offset, .length = length };

	return mappers_protect_runs(file, &run, 1, on);
}

static void look_one(void *arg, struct mapper *mapper)
{
	const struct runs *runs = arg;
	uint8_t *used = runs->used;

	if (mapper->ops->look_runs) {
		mapper->ops->look_runs(mapper, runs->run, runs->count, used);
		return;
	}
	for (size_t i = 0; i < runs->count; i++) {
		uint64_t blocks = runs->run[i].length / runs->block_bytes;

		mapper->ops->look(mapper, runs->run[i].offset / runs->block_bytes, blocks, used);
		used += blocks;
	}
}

void mappers_look_runs(struct ramfile *file, const struct mapper_run *run, size_t count, uint8_t *used)
{
	struct runs runs = { .run = run, .count = count, .used = used, .block_bytes = file->block_bytes };

	if (count)
		mappers_each(file, look_one, &runs);
}

bool mappers_hold(struct ramfile *file, struct mapper *mapper)
{
	LOCK_SCOPE(&file->mappers.lock);

	if (mapper->leaving)
		return false;
	mapper->users++;
	return true;
}

bool mappers_leaves(struct ramfile *file, const struct mapper *mapper)
{
	LOCK_SCOPE(&file->mappers.lock);

	return mapper->leaving;
}

void mappers_drop(struct ramfile *file, struct mapper *mapper)
{
	LOCK_SCOPE(&file->mappers.lock);

	if (--mapper->users == 0)
		pthread_cond_broadcast(&file->mappers.idle);
}

static bool all_zapped(struct ramfile *file, uint64_t round)
{
	LOCK_SCOPE(&file->mappers.lock);

	for (struct mapper *mapper = file->mappers.list; mapper; mapper = mapper->next)
		if (mapper->zapped_round < round)
			return false;
	return true;
}

void mappers_zapped(struct ramfile *file, struct mapper *mapper, uint64_t round)
{
	bool all = false, proof = false;

	if (mapper) {
		lock_get(&file->mappers.lock);
		if (round > mapper->zapped_round)
			mapper->zapped_round = round;
		lock_put(&file->mappers.lock);
	}
	lock_get(&file->lock);
	if (file->rounds.zap_sent && round == file->heat.round + 1 && !file->rounds.zap_done &&
	    all_zapped(file, round)) {
		heat_zapped(&file->heat, clock_ns());
		file->rounds.zap_done = all = true;
		file->rounds.proven_bytes = file->rounds.zap_bytes;
		proof = file->rounds.proof_wanted;
		file->rounds.proof_wanted = false;
	}
	lock_put(&file->lock);
	if (all)
		due_pull(file); /* the look is due a pace after it */
	if (proof)
		room_look_at_limits(file->engine);
}

/* --- who has the arena ----------------------------------------------------------------------------------- */

int mappers_arena_fd(struct ramfile *file, bool writable, int *ret_fd)
{
	if (atomic_load(&file->lost))
		return -EIO;
	atomic_store(&file->watch.wanted, true);
	return arena_share(&file->arena, writable, ret_fd);
}

int mappers_hold_arena(struct ramfile *file, uint64_t holder, int *ret_fd)
{
	if (atomic_load(&file->lost))
		return -EIO;
	return arena_share_held(&file->arena, holder, ret_fd);
}

bool mappers_owns_arena(struct ramfile *file, int fd)
{
	return arena_is(&file->arena, fd);
}

bool mappers_have_arena(const struct ramfile *file)
{
	uint64_t holder;

	return arena_next_holder(&file->arena, 0, &holder) != -ENOENT;
}

bool mappers_is_held_by(const struct ramfile *file, uint64_t holder)
{
	uint64_t found;

	return arena_next_holder(&file->arena, holder, &found) == 0 && found == holder;
}

static bool known_holder(struct ramfile *file, uint64_t holder)
{
	LOCK_SCOPE(&file->mappers.lock);

	for (struct mapper *mapper = file->mappers.list; mapper; mapper = mapper->next)
		if (mapper->holder == holder)
			return true;
	return false;
}

bool mappers_stranger(struct ramfile *file)
{
	uint64_t holder = 0;
	int err;

	while ((err = arena_next_holder(&file->arena, holder, &holder)) == 0) {
		if (!known_holder(file, holder))
			return true;
		holder++;
	}
	return err != -ENOENT;
}

bool mappers_all_end(struct ramfile *file)
{
	LOCK_SCOPE(&file->mappers.lock);

	for (struct mapper *mapper = file->mappers.list; mapper; mapper = mapper->next)
		if (!mapper->leaving && (!mapper->ops->ended || !mapper->ops->ended(mapper)))
			return false;
	return file->mappers.list != NULL;
}

bool mappers_attached(struct ramfile *file)
{
	unsigned int mappers;

	if (file->cache.opens)
		return false;
	if (file->batches.attaching)
		return true;
	lock_get(&file->mappers.lock);
	mappers = file->mappers.count;
	lock_put(&file->mappers.lock);
	return mappers || mappers_have_arena(file);
}
