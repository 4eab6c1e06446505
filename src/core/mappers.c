/* The processes that map a RAM file: they come, they go, and are called one after the other. */
#include "core/mappers.h"

#include <errno.h>

#include "core/attach.h"
#include "core/file.h"
#include "core/forget.h"
#include "core/mapper.h"
#include "core/parked.h"
#include "core/partial.h"


/* --- calls into all of them --------------------------------------------------------------------------------- */

unsigned int ramfile_each_mapper(struct ramfile *file, ramfile_mapper_fn *fn, void *arg)
{
	struct mapper *mapper, *next;
	unsigned int called = 0;

	lock_get(&file->mapper_lock);
	for (mapper = file->mappers; mapper; mapper = next) {
		mapper->users++;
		lock_put(&file->mapper_lock);
		fn(arg, mapper);
		called++;
		lock_get(&file->mapper_lock);
		/* A mapper in use stays in the list, so next is read after the call. */
		next = mapper->next;
		if (--mapper->users == 0)
			pthread_cond_broadcast(&file->mapper_idle);
	}
	lock_put(&file->mapper_lock);
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

void ramfile_wake(struct ramfile *file, uint64_t first, uint64_t count)
{
	struct span span = { .offset = first * file->block_bytes, .length = count * file->block_bytes };

	ramfile_each_mapper(file, wake_one, &span);
}

struct runs {
	const struct mapper_run *run;
	size_t count;
	bool on;
	uint8_t *used;
	uint32_t block_bytes;
	int err; /* the first one */
};

int ramfile_protect_in(struct mapper *mapper, uint64_t offset, uint64_t length, bool on)
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
			run_err = ramfile_protect_in(mapper, runs->run[i].offset, runs->run[i].length, runs->on);
			err = err ? err : run_err;
		}
	}
	if (err && !runs->err)
		runs->err = err;
}

int ramfile_protect_runs(struct ramfile *file, const struct mapper_run *run, size_t count, bool on)
{
	struct runs runs = { .run = run, .count = count, .on = on };

	if (count)
		ramfile_each_mapper(file, protect_one, &runs);
	return runs.err;
}

int ramfile_protect(struct ramfile *file, uint64_t offset, uint64_t length, bool on)
{
	struct mapper_run run = { .offset = offset, .length = length };

	return ramfile_protect_runs(file, &run, 1, on);
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

void ramfile_look_runs(struct ramfile *file, const struct mapper_run *run, size_t count, uint8_t *used)
{
	struct runs runs = { .run = run, .count = count, .used = used, .block_bytes = file->block_bytes };

	if (count)
		ramfile_each_mapper(file, look_one, &runs);
}

/* --- coming and going --------------------------------------------------------------------------------------- */

int ramfile_arena_fd(struct ramfile *file, bool writable, int *ret_fd)
{
	if (atomic_load(&file->lost))
		return -EIO;
	return arena_share(&file->arena, writable, ret_fd);
}

bool ramfile_owns_arena(struct ramfile *file, int fd)
{
	return arena_is(&file->arena, fd);
}

bool ramfile_is_held(const struct ramfile *file)
{
	uint64_t holder;

	return arena_next_holder(&file->arena, 0, &holder) != -ENOENT;
}

int ramfile_add_mapper(struct ramfile *file, struct mapper *mapper)
{
	int err = ramfile_begin_change(file);

	if (err)
		return err;
	err = ramfile_complete_all(file);
	if (err) {
		ramfile_end_change(file);
		return err;
	}
	lock_get(&file->lock);
	if (file->cached_opens) {
		lock_put(&file->lock);
		ramfile_end_change(file);
		return -EBUSY;
	}
	file->attaching++;
	file->cache_stale = true;
	pthread_cond_broadcast(&file->settled); /* fills that wait are refused now */
	lock_put(&file->lock);
	tier_forget_cache(file->tier, file->ino);
	/* A batch that began without this mapper has not write-protected it: let it end, and let none begin meanwhile.
	 */
	lock_get(&file->lock);
	while (file->batches)
		lock_wait(&file->lock, &file->settled);
	lock_get(&file->mapper_lock);
	mapper->users = 0;
	mapper->leaving = false;
	/* Of a round whose zaps are still being sent it gets those that are left, and its end. */
	mapper->zapped_round = file->heat.round + (file->zapping && file->zap_sent);
	mapper->next = file->mappers;
	file->mappers = mapper;
	file->mapper_count++;
	lock_put(&file->mapper_lock);
	/* What was absent for long may be mapped by the newcomer without a zap in between. */
	for (uint64_t block = 0; (block = blocks_next(&file->blocks, block, BLOCKS_IN_DRAM)) < file->blocks.count;
	     block++)
		if (blocks_state(&file->blocks, block) == BLOCK_RESIDENT)
			heat_doubt(&file->blocks, block);
	file->attaching--;
	pthread_cond_broadcast(&file->settled);
	lock_put(&file->lock);
	return 0;
}

bool ramfile_hold_mapper(struct ramfile *file, struct mapper *mapper)
{
	LOCK_SCOPE(&file->mapper_lock);

	if (mapper->leaving)
		return false;
	mapper->users++;
	return true;
}

bool ramfile_mapper_leaves(struct ramfile *file, const struct mapper *mapper)
{
	LOCK_SCOPE(&file->mapper_lock);

	return mapper->leaving;
}

void ramfile_drop_mapper(struct ramfile *file, struct mapper *mapper)
{
	LOCK_SCOPE(&file->mapper_lock);

	if (--mapper->users == 0)
		pthread_cond_broadcast(&file->mapper_idle);
}

void ramfile_remove_mapper(struct ramfile *file, struct mapper *mapper)
{
	struct mapper **at;
	uint64_t round;

	lock_get(&file->mapper_lock);
	mapper->leaving = true;
	lock_put(&file->mapper_lock);
	tier_unpark(file->tier, mapper);
	lock_get(&file->mapper_lock);
	while (mapper->users)
		lock_wait(&file->mapper_lock, &file->mapper_idle);
	for (at = &file->mappers; *at != mapper; at = &(*at)->next)
		;
	*at = mapper->next;
	file->mapper_count--;
	lock_put(&file->mapper_lock);
	ramfile_end_change(file);
	/* A zap round may have waited for this one. */
	lock_get(&file->lock);
	round = file->heat.round + 1;
	lock_put(&file->lock);
	ramfile_zapped(file, NULL, round);
}
