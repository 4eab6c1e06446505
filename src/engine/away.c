/* engine/away.c - see away.h. */
#include "engine/away.h"

#include <errno.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/interrupt.h"
#include "engine/mappers.h"

_Static_assert(BLOCK_AWAY_BYTES == CODEC_HEADER_BYTES, "the block table knows such a value by its length");

/* How often somebody who waits looks whether it was interrupted. */
#define LOOK_NS (100 * NS_PER_MS)
/* Calls of programs that wait, at the most. What a mapping needs is not counted: it may not fail, and FUSE has far more
 * workers. */
#define THREADS_MAX 48

/* Under lock. */
static void tell_all(struct away *away)
{
	away->tell_all = true;
	away->next = 0;
}

void away_want(struct ramfile *file, uint64_t block)
{
	struct away *away = &file->away;

	if (blocks_has(&file->blocks, block, BLOCK_WAITERS))
		return;
	blocks_set(&file->blocks, block, BLOCK_WAITERS);
	if (away->waiting < AWAY_RING)
		away->ring[(away->head + away->waiting++) % AWAY_RING] = (uint32_t)block;
	else
		tell_all(away);
	pthread_cond_broadcast(&away->wanted);
}

static void want_all(struct ramfile *file, uint64_t first, uint64_t last)
{
	for (uint64_t block = first; file->blocks.away && block <= last && block < file->blocks.count; block++)
		if (blocks_away(&file->blocks, block) && !blocks_passing(&file->blocks, block))
			away_want(file, block);
}

int away_wait(struct ramfile *file, uint64_t block, enum away_for what)
{
	return away_wait_run(file, block, block, what);
}

int away_wait_run(struct ramfile *file, uint64_t block, uint64_t last, enum away_for what)
{
	int err = 0;

	if (what == AWAY_FOR_CALL && !engine_begin_wait(file->engine, ENGINE_WAIT_AWAY, THREADS_MAX))
		err = -EREMOTE;
	while (!err && block < file->blocks.count &&
	       (blocks_passing(&file->blocks, block) || blocks_away(&file->blocks, block))) {
		if (interrupted()) {
			err = -EINTR;
			break;
		}
		if (what == AWAY_FOR_FILL && mappers_attached(file)) {
			err = -EINVAL;
			break;
		}
		if (blocks_passing(&file->blocks, block))
			blocks_set(&file->blocks, block, BLOCK_WAITERS);
		else
			want_all(file, block, last);
		lock_wait_until(&file->lock, &file->settled, clock_ns() + LOOK_NS);
	}
	if (what == AWAY_FOR_CALL)
		engine_end_wait(file->engine, ENGINE_WAIT_AWAY);
	return err;
}

uint64_t away_count_wanted(const struct ramfile *file)
{
	uint64_t wanted = 0;

	if (!file->blocks.away)
		return 0;
	for (uint64_t block = 0; block < file->blocks.count; block = blocks_next(&file->blocks, block + 1, BLOCKS_USED))
		wanted += blocks_away(&file->blocks, block) && blocks_has(&file->blocks, block, BLOCK_WAITERS);
	return wanted;
}

/* --- the supplier --------------------------------------------------------------------------------------------- */

/* Under lock. What the ring did not hold, or was told to a supplier that is gone, is found in the table. */
static size_t find_wanted(struct ramfile *file, uint64_t *block, size_t most)
{
	struct away *away = &file->away;
	size_t count = 0;

	if (!away->next)
		away->waiting = 0; /* they are in the table, too */
	for (; count < most && away->next < file->blocks.count;
	     away->next = blocks_next(&file->blocks, away->next + 1, BLOCKS_USED))
		if (blocks_away(&file->blocks, away->next) && blocks_has(&file->blocks, away->next, BLOCK_WAITERS))
			block[count++] = away->next;
	away->tell_all = away->next < file->blocks.count;
	if (!away->tell_all)
		away->next = 0;
	return count;
}

static size_t take_wanted(struct ramfile *file, uint64_t *block, size_t most)
{
	struct away *away = &file->away;
	size_t count = 0;

	if (away->tell_all)
		return find_wanted(file, block, most);
	for (; count < most && away->waiting; away->waiting--) {
		uint64_t wanted = away->ring[away->head];

		away->head = (away->head + 1) % AWAY_RING;
		if (wanted < file->blocks.count && blocks_away(&file->blocks, wanted))
			block[count++] = wanted;
	}
	return count;
}

int away_wanted(struct ramfile *file, uint64_t *supplier, uint64_t wait_ns, uint64_t *block, size_t most,
		size_t *ret_count, uint64_t *ret_away)
{
	struct away *away = &file->away;
	uint64_t deadline_ns = clock_ns() + wait_ns;
	size_t count;

	LOCK_SCOPE(&file->lock);
	if (!*supplier) {
		*supplier = away->supplier = ++away->suppliers;
		tell_all(away);
		pthread_cond_broadcast(&away->wanted); /* an older one leaves */
	}
	for (;;) {
		bool late;

		if (away->supplier != *supplier)
			return -EBUSY;
		count = take_wanted(file, block, most);
		if (count || !file->blocks.away)
			break;
		late = lock_wait_until(&file->lock, &away->wanted, deadline_ns);
		if (late)
			break;
	}
	*ret_count = count;
	*ret_away = file->blocks.away;
	return 0;
}

void away_leave(struct ramfile *file, uint64_t supplier)
{
	uint64_t left_bytes = 0;

	lock_get(&file->lock);
	if (supplier && file->away.supplier == supplier) {
		file->away.supplier = 0;
		left_bytes = file->blocks.away * file->block_bytes;
	}
	lock_put(&file->lock);
	if (left_bytes)
		log_warn("file %llu: nobody brings the %llu bytes that are on another host any more; who needs them "
			 "waits; "
			 "go on with tierctl send --resume and recv --resume",
			 (unsigned long long)file->ino, (unsigned long long)left_bytes);
}
