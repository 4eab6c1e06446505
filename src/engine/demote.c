/* Out of DRAM: RESIDENT to COLD, in batches.
 *
 *  1 take     the blocks become STORING; from now on a write fault takes them back
 *  2 protect  in every mapper: readers go on, writers fault
 *  3 look     a block that is mapped again is in use: left alone. So is one into which a device may be writing: a pin
 *             for writing taken before step 2 shows in the page's reference count (map/holds.h), and one that comes
 *             later needs a write fault first. Where the host does not show pins, min_idle stands for it. A block that
 *             is a part of a huge page is split from it now, or stays (huge.c)
 *  4 encode   all zero: will be a hole. Content equal to its stored copy (by its identity): nothing to write. Else
 *             compressed
 *  5 put      one batch; on return it survives kill -9 of the daemon
 *  6 commit   blocks that no write fault took back become COMMITTING: writers that come now wait, and will find the
 *             page missing
 *  7 verify   the content is compared, byte by byte, with what was read in step 4: what a device wrote past the page
 *             tables shows here
 *  8 punch    the pages leave the arena, DRAM is free, the blocks are COLD
 *
 * The order protect, copy, check for write faults, punch loses no write: a writer either faults before step 6 and
 * cancels, or is stopped by the protection until step 8 and then brings the block back. A batch owns its blocks
 * (BLOCK_OWNED) until its end, also those that were taken back, so that nobody else changes their keys while the put is
 * on its way.
 *
 * A process that maps the arena and is not one of our mappers cannot be write-protected. The arena knows every holder,
 * so such a process (it has not come back after a restart of the daemon yet) stops demotion of its file.
 */
#include "engine/demote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/huge.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/work.h"

#define BATCH_BLOCKS DEMOTE_BLOCKS
/* Raw bytes of a batch: small enough that somebody who waits for room is served soon. */
#define BATCH_BYTES (UINT64_C(2) << 20)
#define READ_BYTES (128U << 10)

/* What a demotion knows of a block beyond what every batch does. */
struct member {
	const uint8_t *raw; /* what was read of it */
	bool rests;         /* left alone, and no less idle for it */
	bool torn;          /* some of its pages may have gone, and are in the stored copy */
};

struct demotion {
	struct batch batch; /* BATCH_LEFT: the block stays. Until it is encoded the others are BATCH_STORE */
	struct work *work;
	struct member member[BATCH_BLOCKS];   /* of each block of the batch */
	bool soon;                            /* demote.h */
	struct store_item copy[BATCH_BLOCKS]; /* of BATCH_SAME: for the nearer part of the store */
	uint8_t used[BATCH_BLOCKS], held[BATCH_BLOCKS];
	uint8_t *raw; /* a slot for each block, as it was read in step 4 */
	bool mapped;  /* somebody has the file attached */
	bool idle;    /* those that were not idle for long are left alone then */
};

static bool is_left(const struct batch_block *one)
{
	return one->verdict == BATCH_LEFT;
}

static bool goes(const struct batch_block *one)
{
	return one->verdict != BATCH_LEFT;
}

/* --- steps -------------------------------------------------------------------------------------------------- */

static int take(struct demotion *demotion, const uint32_t *block, size_t count)
{
	struct batch *batch = &demotion->batch;
	struct ramfile *file = batch->file;
	unsigned int youngest = 0;
	bool stranger;

	lock_get(&file->lock);
	batch_begin(batch); /* nobody attaches from here on */
	lock_put(&file->lock);
	stranger = mappers_stranger(file) || huge_is_opaque(file);
	lock_get(&file->mappers.lock);
	demotion->mapped = file->mappers.count > 0;
	lock_put(&file->mappers.lock);

	lock_get(&file->lock);
	if (demotion->idle && demotion->mapped)
		youngest = heat_idle_generation(&file->heat, &file->blocks, engine_min_idle(file->engine), clock_ns());
	for (size_t i = 0; i < count && !stranger; i++) {
		if (block[i] >= file->blocks.count || blocks_state(&file->blocks, block[i]) != BLOCK_RESIDENT ||
		    blocks_has(&file->blocks, block[i], BLOCK_PINNED | BLOCK_OWNED | BLOCK_DAMAGED) ||
		    blocks_generation(&file->blocks, block[i]) < youngest)
			continue;
		demotion->member[batch->count] = (struct member){ 0 };
		batch_take(batch, block[i], BLOCK_STORING);
	}
	lock_put(&file->lock);
	return stranger ? -EBUSY : 0;
}

/* How many blocks from i on are neighbours. */
static size_t neighbours(const struct batch *batch, size_t i)
{
	size_t run = 1;

	while (i + run < batch->count && batch->block[i + run].block == batch->block[i].block + run)
		run++;
	return run;
}

static void look_used(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	size_t runs = 0;

	for (size_t i = 0, count; i < batch->count; i += count) {
		count = neighbours(batch, i);
		batch->run[runs++] = (struct mapper_run){ .offset = batch->block[i].block * batch->file->block_bytes,
							  .length = count * batch->file->block_bytes };
	}
	mappers_look_runs(batch->file, batch->run, runs, demotion->used);
}

static void look_referenced(struct batch *batch, uint8_t *referenced)
{
	for (size_t i = 0, run; i < batch->count; i += run) {
		run = neighbours(batch, i);
		engine_look_holds(batch->file->engine, batch->file, true, batch->block[i].block, run, &referenced[i]);
	}
}

/* Where min_idle is short: a block that somebody refers to without a pin is left alone until it has been idle for long.
 */
static void drop_referenced(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	struct ramfile *file = batch->file;
	uint64_t long_ns = engine_referenced_idle(file->engine);
	uint8_t referenced[BATCH_BLOCKS] = { 0 };
	unsigned int idle_long;

	if (!long_ns || !demotion->mapped)
		return;
	look_referenced(batch, referenced);
	lock_get(&file->lock);
	idle_long = heat_idle_generation(&file->heat, &file->blocks, long_ns, clock_ns());
	for (size_t i = 0; i < batch->count; i++) {
		struct batch_block *one = &batch->block[i];

		if (is_left(one) || !referenced[i] || blocks_generation(&file->blocks, one->block) >= idle_long)
			continue;
		one->verdict = BATCH_LEFT;
		demotion->member[i].rests = true;
	}
	lock_put(&file->lock);
}

/* How many blocks from i on are neighbours that nobody uses; 0 if somebody uses this one. */
static size_t unused(const struct demotion *demotion, size_t i)
{
	size_t most = neighbours(&demotion->batch, i), run = 0;

	while (run < most && !demotion->used[i + run])
		run++;
	return run;
}

static void drop_used(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	struct ramfile *file = batch->file;
	uint8_t *held = demotion->held;

	memset(demotion->used, 0, batch->count);
	memset(held, 0, batch->count);
	look_used(demotion);
	for (size_t i = 0, run; i < batch->count; i += run ? run : 1) {
		run = unused(demotion, i);
		if (!run)
			continue;
		engine_look_holds(file->engine, file, false, batch->block[i].block, run, &held[i]);
		if (memchr(&held[i], 1, run))
			huge_split_blocks(file, batch->block[i].block, run, &held[i]);
	}
	for (size_t i = 0; i < batch->count; i++)
		batch->block[i].verdict = demotion->used[i] || held[i] ? BATCH_LEFT : BATCH_STORE;
	drop_referenced(demotion);
}

/* How many blocks from i on are read at once: neighbours that are whole, as far as a processor's cache takes them. */
static size_t readable(const struct batch *batch, size_t i)
{
	size_t most = neighbours(batch, i), run = 1;

	if (most > READ_BYTES / batch->file->block_bytes)
		most = READ_BYTES / batch->file->block_bytes;
	while (run < most && !batch->block[i].partial && !batch->block[i + run].partial && goes(&batch->block[i + run]))
		run++;
	return run;
}

/* The content of the block and of those that are read with it, a slot for each. ret_count: of how many; also after an
 * error. */
static int read_run(struct demotion *demotion, size_t i, uint8_t *raw, size_t *ret_count)
{
	struct batch *batch = &demotion->batch;
	uint64_t block_bytes = batch->file->block_bytes;
	size_t count = *ret_count = readable(batch, i);
	const struct batch_block *first = &batch->block[i], *last = first + count - 1;
	int err;

	if (count == 1)
		return batch_read(batch, demotion->work, first, raw);
	err = arena_read(&batch->file->arena, raw, (count - 1) * block_bytes + last->length,
			 first->block * block_bytes);
	raw += (count - 1) * block_bytes; /* only the file's last block is not all of the file */
	memset(raw + last->content, 0, block_bytes - last->content);
	return err;
}

/* The stored copy of a clean block may lie far. If it may be wanted again soon, one is put near. */
static int make_copy(struct demotion *demotion, struct batch_block *one, const uint8_t *raw)
{
	struct ramfile *file = demotion->batch.file;
	struct store *store = engine_store(file->engine);

	if (!demotion->soon || !store->ops->renew ||
	    store->ops->renew(store, (struct store_key){ file->ino, one->block }))
		return 0;
	return batch_make_value(&demotion->batch, demotion->work, one, raw);
}

static int encode_block(struct demotion *demotion, size_t i, const uint8_t *raw)
{
	struct batch_block *one = &demotion->batch.block[i];
	struct ramfile *file = demotion->batch.file;
	int err;

	demotion->member[i].raw = raw;
	lock_get(&file->lock);
	if (blocks_state(&file->blocks, one->block) != BLOCK_STORING)
		one->verdict = BATCH_LEFT; /* it was taken back */
	lock_put(&file->lock);
	if (is_left(one))
		return 0;
	err = batch_encode(&demotion->batch, demotion->work, one, raw);
	return err || one->verdict != BATCH_SAME ? err : make_copy(demotion, one, raw);
}

static int encode(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	size_t block_bytes = batch->file->block_bytes, run;

	for (size_t i = 0; i < batch->count; i += run) {
		uint8_t *raw = demotion->raw + i * block_bytes;
		int err;

		run = 1;
		if (is_left(&batch->block[i]))
			continue;
		err = read_run(demotion, i, raw, &run);
		if (err == -EIO && batch->block[i].partial) {
			batch->block[i].verdict =
				BATCH_LEFT; /* what it lacks cannot be read: it stays, and the others go */
			continue;
		}
		for (size_t k = 0; k < run && !err; k++)
			err = encode_block(demotion, i + k, raw + k * block_bytes);
		if (err)
			return err;
	}
	return 0;
}

static void put_copies(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	struct store *store = engine_store(batch->file->engine);
	size_t copies = 0;

	for (size_t i = 0; i < batch->count; i++) {
		const struct batch_block *one = &batch->block[i];

		if (one->verdict == BATCH_SAME && one->value_bytes)
			demotion->copy[copies++] = (struct store_item){ .key = { batch->file->ino, one->block },
									.value = one->value,
									.length_bytes = one->value_bytes };
	}
	if (copies)
		store->ops->put_copies(store, demotion->copy, copies);
}

/* A batch that fails says nothing about who is in use. */
static void leave(struct demotion *demotion, size_t i)
{
	demotion->member[i].rests |= goes(&demotion->batch.block[i]);
	demotion->batch.block[i].verdict = BATCH_LEFT;
}

static int put(struct demotion *demotion)
{
	int err = encode(demotion);

	if (!err) {
		err = batch_put(&demotion->batch, STORE_DEMOTION);
		put_copies(demotion);
	}
	return err ? err : batch_forget(&demotion->batch);
}

/* Also for blocks that were taken back meanwhile: the key exists then. The stored copy of a block that is all zero goes
 * while the zeros are still in the arena. What the store is moving stays if room is wanted: who makes it serves all
 * files. */
static int write_out(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	struct store *store = engine_store(batch->file->engine);
	struct store_hold hold;
	int err;

	if (!demotion->soon)
		return put(demotion);
	store_hold(store, batch->file->ino, &hold);
	for (size_t i = 0; i < batch->count; i++)
		if (store_is_busy(&hold, batch->block[i].block))
			leave(demotion, i);
	err = put(demotion);
	store_let_go(store, &hold);
	return err;
}

static void commit(struct batch *batch)
{
	struct ramfile *file = batch->file;

	LOCK_SCOPE(&file->lock);
	for (size_t i = 0; i < batch->count; i++) {
		struct batch_block *one = &batch->block[i];

		if (is_left(one))
			continue;
		if (blocks_state(&file->blocks, one->block) == BLOCK_STORING) {
			blocks_set(&file->blocks, one->block, BLOCK_COMMITTING);
			file->punches[one->block % PUNCH_SLOTS]++;
		} else {
			one->verdict = BATCH_LEFT;
		}
	}
}

/* What was encoded is still the content. It is read to where the values were, which are in the store now. */
static void verify(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	size_t block_bytes = batch->file->block_bytes, run;

	for (size_t i = 0; i < batch->count; i += run) {
		struct batch_block *one = &batch->block[i];
		int err;

		run = 1;
		/* Where nobody maps the arena only the daemon writes to it. */
		if (is_left(one) || (!demotion->mapped && one->partial))
			continue;
		err = read_run(demotion, i, batch->values, &run);
		for (size_t k = 0; k < run; k++)
			if (err ||
			    memcmp(batch->values + k * block_bytes, demotion->member[i + k].raw, block_bytes) != 0)
				one[k].verdict = BATCH_LEFT;
	}
}

/* Under lock: the block ends in the state that became of it, if it is still ours. */
static void settle(struct demotion *demotion, size_t i, struct demote_result *ret)
{
	struct batch *batch = &demotion->batch;
	struct batch_block *one = &batch->block[i];
	struct ramfile *file = batch->file;

	blocks_clear(&file->blocks, one->block, BLOCK_OWNED);
	if (blocks_state(&file->blocks, one->block) != BLOCK_STORING) {
		/* Taken back, and counted, by a write fault; those who wait for the owner go on. */
		one->waiters = !blocks_passing(&file->blocks, one->block) &&
			       blocks_has(&file->blocks, one->block, BLOCK_WAITERS);
		if (one->waiters)
			blocks_clear(&file->blocks, one->block, BLOCK_WAITERS);
	} else if (is_left(one)) {
		if (one->refused || one->young) /* not again before it was idle for another round */
			heat_doubt(&file->blocks, one->block);
		else if (!demotion->member[i].rests)
			file_used(file, one->block);
		if (demotion->member[i].torn)
			partial_leave(file, one->block);
		batch_settle(batch, one, BLOCK_RESIDENT);
		ret->aborted += !one->refused && !one->young;
		ret->refused += one->refused;
	} else {
		batch_settle(batch, one, one->verdict == BATCH_ZERO ? BLOCK_HOLE : BLOCK_COLD);
		ret->demoted++;
		ret->clean += one->verdict == BATCH_SAME;
	}
}

static void finish(struct demotion *demotion, struct demote_result *ret)
{
	struct batch *batch = &demotion->batch;
	struct ramfile *file = batch->file;
	struct demote_result now = { 0 };

	lock_get(&file->lock);
	for (size_t i = 0; i < batch->count; i++)
		settle(demotion, i, &now);
	file->changes.ended++;
	batch_end(batch);
	lock_put(&file->lock);
	atomic_fetch_add(&file->counts.demotions, now.demoted);
	atomic_fetch_add(&file->counts.clean_demotions, now.clean);
	atomic_fetch_add(&file->counts.demotions_aborted, now.aborted);
	ret->demoted += now.demoted;
	ret->clean += now.clean;
	ret->aborted += now.aborted;
	ret->refused += now.refused;
	batch_wake(batch);
	file_release(file, now.demoted);
}

/* A block of which a page is still there is resident. */
static int punch(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	struct ramfile *file = batch->file;
	size_t runs = batch_runs(batch, goes, batch->run);
	int err, first_err = 0;

	for (size_t i = 0; i < runs; i++) {
		err = arena_punch(&file->arena, batch->run[i].offset, batch->run[i].length);
		first_err = first_err ? first_err : err;
	}
	if (!first_err)
		return 0;
	log_error("file %llu: arena cannot be punched: %s", (unsigned long long)file->ino, strerror(-first_err));
	for (size_t i = 0; i < batch->count; i++) {
		const struct batch_block *one = &batch->block[i];

		if (is_left(one) || !file_has_pages(file, one->block))
			continue;
		demotion->member[i].torn = one->verdict != BATCH_ZERO;
		leave(demotion, i);
	}
	return first_err;
}

/* Blocks that stay: their protection goes while their state is still ours, so that it cannot go later from a newer
 * batch. */
static int run(struct demotion *demotion)
{
	struct batch *batch = &demotion->batch;
	int err = batch_protect(batch, is_left, true); /* all of them, until drop_used() */

	if (err) { /* some mapper could write without our knowledge */
		bool locked = err == -EBUSY || err == -ETIMEDOUT;

		/* Of who does not answer everything counts as in use. */
		for (size_t i = 0; i < batch->count; i++)
			demotion->member[i].rests = !locked;
		batch_protect(batch, is_left, false);
		return locked ? 0 : err;
	}
	drop_used(demotion);
	err = write_out(demotion);
	if (err) {
		for (size_t i = 0; i < batch->count; i++)
			leave(demotion, i);
	} else {
		commit(batch);
		verify(demotion);
		err = punch(demotion);
	}
	batch_protect(batch, is_left, false);
	return err;
}

static int demote_batch(struct demotion *demotion, const uint32_t *block, size_t count, struct demote_result *ret)
{
	int err;

	batch_clear(&demotion->batch);
	err = take(demotion, block, count);
	if (!err && demotion->batch.count)
		err = run(demotion);
	finish(demotion, ret);
	return err;
}

size_t demote_at_once(const struct ramfile *file)
{
	size_t most = BATCH_BYTES / file->block_bytes;

	return most < BATCH_BLOCKS ? most : BATCH_BLOCKS;
}

static int demote(struct ramfile *file, const uint32_t *block, size_t count, bool soon, bool idle,
		  struct demote_result *ret)
{
	struct work_pool *works = engine_works(file->engine);
	CLEANUP_FREE struct demotion *demotion = calloc(1, sizeof(*demotion));
	struct work_batch *buffers = NULL;
	size_t most = demote_at_once(file);
	int err;

	*ret = (struct demote_result){ 0 };
	if (!demotion)
		return -ENOMEM;
	err = work_batch_get(works, most, &buffers);
	if (err)
		return err;
	demotion->raw = buffers->raw;
	demotion->soon = soon;
	demotion->idle = idle;
	err = batch_init_in(&demotion->batch, file, most, most, buffers->values);
	if (!err)
		err = work_get(works, STORE_DEMOTION, &demotion->work);
	while (!err && count) {
		size_t now = count < most ? count : most;

		err = demote_batch(demotion, block, now, ret);
		block += now;
		count -= now;
	}
	work_put(works, demotion->work);
	batch_fini(&demotion->batch);
	work_batch_put(works, buffers);
	return err;
}

int demote_blocks(struct ramfile *file, const uint32_t *block, size_t count, bool soon, struct demote_result *ret)
{
	return demote(file, block, count, soon, false, ret);
}

int demote_idle(struct ramfile *file, const uint32_t *block, size_t count, bool soon, struct demote_result *ret)
{
	return demote(file, block, count, soon, true, ret);
}
