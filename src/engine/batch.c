/* The steps of who stores content. batch.h has the design. */
#include "engine/batch.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "engine/file.h"
#include "engine/heal.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/quota.h"
#include "engine/stored.h"

int batch_init_in(struct batch *batch, struct ramfile *file, size_t blocks, size_t values, uint8_t *buffer)
{
	*batch = (struct batch){
		.file = file, .most = blocks, .most_values = values, .values = buffer, .lent = buffer != NULL
	};
	batch->block = calloc(blocks, sizeof(*batch->block));
	batch->run = calloc(blocks, sizeof(*batch->run));
	batch->item = calloc(values, sizeof(*batch->item));
	return batch->block && batch->run && batch->item ? 0 : -ENOMEM;
}

int batch_init(struct batch *batch, struct ramfile *file, size_t blocks, size_t values)
{
	int err = batch_init_in(batch, file, blocks, values, NULL);

	if (!err)
		batch->values = malloc(values * codec_bound(file->block_bytes));
	return err || batch->values ? err : -ENOMEM;
}

void batch_fini(struct batch *batch)
{
	free(batch->block);
	free(batch->run);
	free(batch->item);
	if (!batch->lent)
		free(batch->values);
}

void batch_clear(struct batch *batch)
{
	batch->count = 0;
	atomic_store(&batch->values_used, 0);
}

/* --- taking ------------------------------------------------------------------------------------------------- */

void batch_begin(struct batch *batch)
{
	struct ramfile *file = batch->file;

	while (file->batches.attaching)
		lock_wait(&file->lock, &file->settled);
	file->batches.at_work++;
}

void batch_end(struct batch *batch)
{
	batch->file->batches.at_work--;
	pthread_cond_broadcast(&batch->file->settled);
}

struct batch_block *batch_take(struct batch *batch, uint64_t block, enum block_state passing)
{
	struct ramfile *file = batch->file;
	struct blocks *blocks = &file->blocks;
	struct batch_block *one = &batch->block[batch->count];
	bool in_dram = blocks_state(blocks, block) == BLOCK_RESIDENT;

	assert(batch->count < batch->most && !blocks_passing(blocks, block) && !blocks_has(blocks, block, BLOCK_OWNED));
	batch->count++;
	*one = (struct batch_block){ .block = block,
				     .length = file_block_length(file, block),
				     .content = file_block_content(file, block),
				     .was = blocks_state(blocks, block),
				     .hotness = { .generation = heat_age(blocks, block),
						  .tier = blocks_tier(blocks, block) },
				     .partial = partial_is(batch->file, block),
				     .damaged = blocks_has(blocks, block, BLOCK_DAMAGED) };
	if (in_dram && blocks_has(blocks, block, BLOCK_STORED))
		one->stored = blocks->ident[block];
	blocks_set_state(blocks, block, passing);
	if (passing == BLOCK_STORING)
		blocks_set(blocks, block, BLOCK_OWNED);
	return one;
}

size_t batch_runs(const struct batch *batch, batch_pick *pick, struct mapper_run *run)
{
	size_t count = 0;

	for (size_t i = 0; i < batch->count; i++) {
		const struct batch_block *one = &batch->block[i];
		uint64_t offset = one->block * batch->file->block_bytes;

		if (!pick(one))
			continue;
		if (count && run[count - 1].offset + run[count - 1].length == offset)
			run[count - 1].length += one->length;
		else
			run[count++] = (struct mapper_run){ .offset = offset, .length = one->length };
	}
	return count;
}

int batch_protect(struct batch *batch, batch_pick *pick, bool on)
{
	return mappers_protect_runs(batch->file, batch->run, batch_runs(batch, pick, batch->run), on);
}

/* --- content ------------------------------------------------------------------------------------------------ */

int batch_read(struct batch *batch, struct work *work, const struct batch_block *one, uint8_t *raw)
{
	return partial_read(batch->file, work, one->block, raw);
}

uint8_t *batch_slot(struct batch *batch, struct batch_block *one)
{
	size_t slot;

	if (one->value)
		return one->value;
	slot = atomic_fetch_add(&batch->values_used, 1);
	assert(slot < batch->most_values);
	one->value = batch->values + slot * codec_bound(batch->file->block_bytes);
	return one->value;
}

int batch_make_value(struct batch *batch, struct work *work, struct batch_block *one, const uint8_t *raw)
{
	struct store_key key = { .ino = batch->file->ino, .block = one->block };
	size_t length = 0;
	int err = codec_encode(work->codec, key, one->hotness, raw, one->ident, batch_slot(batch, one),
			       codec_bound(batch->file->block_bytes), &length);

	one->value_bytes = (uint32_t)length;
	return err;
}

int batch_encode(struct batch *batch, struct work *work, struct batch_block *one, const uint8_t *raw)
{
	uint32_t block_bytes = batch->file->block_bytes;
	int err;

	if (codec_is_zero(raw, block_bytes)) {
		one->verdict = BATCH_ZERO;
		return 0;
	}
	one->ident = mac_of(work->mac, raw, block_bytes);
	if (ident_same(one->stored, one->ident)) {
		one->verdict = BATCH_SAME;
		return 0;
	}
	err = batch_make_value(batch, work, one, raw);
	if (!err)
		one->verdict = BATCH_STORE;
	return err;
}

/* --- the store ---------------------------------------------------------------------------------------------- */

/* Under lock. Of a block that is not in DRAM an error is noted by stored_put_failed(). */
static void note_put(struct batch *batch, struct batch_block *one, int err)
{
	struct blocks *blocks = &batch->file->blocks;

	one->done = !err;
	one->err = err;
	if (!err || one->was == BLOCK_RESIDENT)
		blocks_set_stored(blocks, one->block, one->value_bytes, err ? IDENT_NONE : one->ident);
	if (!err)
		blocks_clear(blocks, one->block, BLOCK_DAMAGED);
}

/* By how much what is stored may grow: of a value that becomes shorter nothing is taken off, as it may not be put. */
static uint64_t growth_of(struct batch *batch, const struct batch_block *one)
{
	uint32_t before;

	LOCK_SCOPE(&batch->file->lock);
	before = batch->file->blocks.stored_bytes[one->block];
	return one->value_bytes > before ? one->value_bytes - before : 0;
}

/* What has a stored copy was chosen as if it were clean (mem/heat.h): if it has to be written, it has to be as old as
 * the others. */
static bool is_too_young(struct batch *batch, const struct batch_block *one, unsigned int older)
{
	struct ramfile *file = batch->file;
	unsigned int generation;
	bool mapped;

	if (!older || one->was != BLOCK_RESIDENT || !blocks_has(&file->blocks, one->block, BLOCK_STORED))
		return false;
	lock_get(&file->mappers.lock);
	mapped = file->mappers.count > 0;
	lock_put(&file->mappers.lock);
	generation = blocks_generation(&file->blocks, one->block);
	return mapped && generation < heat_idle_generation(&file->heat, &file->blocks, engine_min_idle(file->engine),
							   clock_ns()) +
					      older;
}

/* Of a demotion each block by itself: what is refused stays. */
static uint64_t admit_each(struct batch *batch)
{
	unsigned int older = quota_choice(batch->file).older;
	uint64_t taken, all = 0;

	for (size_t i = 0; i < batch->count; i++) {
		struct batch_block *one = &batch->block[i];

		if (one->verdict != BATCH_STORE)
			continue;
		lock_get(&batch->file->lock);
		one->young = is_too_young(batch, one, older);
		lock_put(&batch->file->lock);
		if (one->young) {
			one->verdict = BATCH_LEFT;
			continue;
		}
		one->refused = quota_take(batch->file, QUOTA_DEMOTION, growth_of(batch, one), one->value_bytes, &taken);
		if (one->refused)
			one->verdict = BATCH_LEFT;
		all += taken;
	}
	return all;
}

/* Those that are put anyway, or all others or none of them. */
static int admit_those(struct batch *batch, bool anyway, uint64_t *taken)
{
	uint64_t growth = 0, put = 0, one_taken;
	enum quota_need need = anyway ? QUOTA_ANYWAY : QUOTA_COPY;
	int err;

	for (size_t i = 0; i < batch->count; i++) {
		const struct batch_block *one = &batch->block[i];

		if (one->verdict != BATCH_STORE || one->anyway != anyway)
			continue;
		growth += growth_of(batch, one);
		put += one->value_bytes;
		if (!anyway && one->was != BLOCK_RESIDENT)
			need = QUOTA_CALL;
	}
	err = quota_take(batch->file, need, growth, put, &one_taken);
	*taken += one_taken;
	for (size_t i = 0; i < batch->count && err; i++) {
		struct batch_block *one = &batch->block[i];

		if (one->verdict != BATCH_STORE || one->anyway != anyway)
			continue;
		one->err = err;
		one->refused = true;
	}
	return err;
}

static int admit(struct batch *batch, enum store_use use, uint64_t *ret_taken)
{
	*ret_taken = 0;
	if (!atomic_load(&batch->file->engine->tenants.quotas))
		return 0;
	if (use == STORE_DEMOTION) {
		*ret_taken = admit_each(batch);
		return 0;
	}
	admit_those(batch, true, ret_taken);
	return admit_those(batch, false, ret_taken);
}

static bool is_put(const struct batch_block *one)
{
	return one->verdict == BATCH_STORE && !one->refused;
}

int batch_put(struct batch *batch, enum store_use use)
{
	struct ramfile *file = batch->file;
	uint64_t taken;
	size_t items = 0;
	int refused = admit(batch, use, &taken), err;

	for (size_t i = 0; i < batch->count; i++) {
		const struct batch_block *one = &batch->block[i];

		if (is_put(one))
			batch->item[items++] = (struct store_item){ .key = { .ino = file->ino, .block = one->block },
								    .value = one->value,
								    .length_bytes = one->value_bytes };
	}
	err = items ? flow_put(file, use, batch->item, items) : 0;
	lock_get(&file->lock);
	for (size_t i = 0; i < batch->count; i++)
		if (is_put(&batch->block[i]))
			note_put(batch, &batch->block[i], err);
	quota_settle(file, taken);
	lock_put(&file->lock);
	for (size_t i = 0; i < batch->count && err; i++)
		if (is_put(&batch->block[i]) && batch->block[i].was != BLOCK_RESIDENT)
			stored_put_failed(file, batch->block[i].block, batch->block[i].value_bytes);
	return err ? err : refused;
}

int batch_forget_one(struct batch *batch, struct batch_block *one)
{
	struct ramfile *file = batch->file;

	one->err = stored_forget(file, one->block);
	one->done = !one->err;
	if (one->done && one->partial) { /* what it lacked was zeros, and is so without the key */
		lock_get(&file->lock);
		partial_end(file, one->block);
		lock_put(&file->lock);
		one->partial = false;
	}
	return one->err;
}

int batch_forget(struct batch *batch)
{
	int err = 0;

	for (size_t i = 0; i < batch->count && !err; i++)
		if (batch->block[i].verdict == BATCH_ZERO)
			err = batch_forget_one(batch, &batch->block[i]);
	return err;
}

/* --- settling ----------------------------------------------------------------------------------------------- */

enum block_state batch_state(const struct batch_block *one)
{
	if (!one->done)
		return one->was;
	return one->verdict == BATCH_ZERO ? BLOCK_HOLE : BLOCK_COLD;
}

void batch_settle(struct batch *batch, struct batch_block *one, enum block_state now)
{
	one->waiters = file_settle(batch->file, one->block, now);
	/* New content that lies in the store alone: nothing else tells who was poisoned. */
	if (one->done && now == BLOCK_COLD && one->was != BLOCK_RESIDENT)
		heal_soon(batch->file, one->block);
}

void batch_wake(const struct batch *batch)
{
	for (size_t i = 0, run; i < batch->count; i += run ? run : 1) {
		const struct batch_block *one = &batch->block[i];

		for (run = 0; i + run < batch->count && one[run].waiters && one[run].block == one->block + run; run++)
			;
		if (run)
			mappers_wake(batch->file, one->block, run);
	}
}

int batch_store_one(struct ramfile *file, struct work *work, uint64_t block, enum block_state was, bool anyway,
		    enum block_state *ret)
{
	struct batch_block one = { .block = block, .was = was, .anyway = anyway };
	struct store_item item;
	struct batch batch = { .file = file,
			       .count = 1,
			       .most = 1,
			       .block = &one,
			       .most_values = 1,
			       .item = &item,
			       .values = work->value };
	int err;

	lock_get(&file->lock);
	one.hotness = (struct codec_hotness){ .generation = heat_age(&file->blocks, block),
					      .tier = blocks_tier(&file->blocks, block) };
	lock_put(&file->lock);
	err = batch_encode(&batch, work, &one, work->raw);
	if (!err)
		err = one.verdict == BATCH_ZERO ? batch_forget(&batch) : batch_put(&batch, work->use);
	*ret = batch_state(&one);
	return err;
}
