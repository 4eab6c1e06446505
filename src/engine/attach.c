/* Mappers come and go. Who comes has what the kernel caches dropped, and joins between two demotion batches: a batch
 * protects the mappers that it began with. */
#include "engine/attach.h"

#include <errno.h>

#include "base/clock.h"
#include "engine/due.h"
#include "engine/file.h"
#include "engine/forget.h"
#include "engine/mappers.h"
#include "engine/parked.h"
#include "engine/partial.h"

#define CLOSING_NS (1 * NS_PER_S)

void attach_await_close(struct ramfile *file)
{
	uint64_t deadline_ns = clock_ns() + CLOSING_NS;

	LOCK_SCOPE(&file->lock);
	while (file->cache.opens && !lock_wait_until(&file->lock, &file->settled, deadline_ns))
		;
}

/* Under lock. What was absent for long may be mapped by the newcomer without a zap in between; also what is just being
 * changed or filled. */
static void doubt_all(struct ramfile *file, uint64_t slept)
{
	for (uint64_t block = 0; (block = blocks_next(&file->blocks, block, BLOCKS_IN_DRAM)) < file->blocks.count;
	     block++) {
		enum block_state state = blocks_state(&file->blocks, block);

		if (state == BLOCK_RESIDENT)
			heat_wake(&file->blocks, block, slept);
		if (state != BLOCK_HOLE && state != BLOCK_COLD)
			heat_doubt(&file->blocks, block);
	}
}

int attach_add(struct ramfile *file, struct mapper *mapper)
{
	uint64_t now, slept;
	int err = file_begin_change(file);

	if (err)
		return err;
	err = partial_complete_all(file);
	if (err) {
		file_end_change(file);
		return err;
	}
	lock_get(&file->lock);
	if (file->cache.opens) {
		lock_put(&file->lock);
		file_end_change(file);
		return -EBUSY;
	}
	file->batches.attaching++;
	file->cache.stale = true;
	pthread_cond_broadcast(&file->settled); /* fills that wait are refused now */
	lock_put(&file->lock);
	forget_ask(file->engine, file->ino);
	/* A batch that began without this mapper has not write-protected it: let it end, and let none begin meanwhile.
	 */
	lock_get(&file->lock);
	while (file->batches.at_work)
		lock_wait(&file->lock, &file->settled);
	now = clock_ns();
	file_visit(file, now);
	slept = due_asleep(file, now);
	lock_get(&file->mappers.lock);
	mapper->users = 0;
	mapper->leaving = false;
	/* Of a round whose zaps are still being sent it gets those that are left, and its end. */
	mapper->zapped_round = file->heat.round + (file->rounds.zapping && file->rounds.zap_sent);
	mapper->next = file->mappers.list;
	file->mappers.list = mapper;
	file->mappers.count++;
	lock_put(&file->mappers.lock);
	doubt_all(file, slept);
	file->batches.attaching--;
	pthread_cond_broadcast(&file->settled);
	lock_put(&file->lock);
	due_look(file);
	return 0;
}

void attach_remove(struct ramfile *file, struct mapper *mapper)
{
	struct mapper **at;
	uint64_t round;

	lock_get(&file->mappers.lock);
	mapper->leaving = true;
	lock_put(&file->mappers.lock);
	parked_forget(file->engine, mapper);
	lock_get(&file->mappers.lock);
	while (mapper->users)
		lock_wait(&file->mappers.lock, &file->mappers.idle);
	for (at = &file->mappers.list; *at != mapper; at = &(*at)->next)
		;
	*at = mapper->next;
	file->mappers.count--;
	lock_put(&file->mappers.lock);
	file_end_change(file);
	/* A zap round may have waited for this one. */
	lock_get(&file->lock);
	round = file->heat.round + 1;
	pthread_cond_broadcast(&file->settled); /* an open may wait for it */
	lock_put(&file->lock);
	mappers_zapped(file, NULL, round);
	due_look(file);
}
