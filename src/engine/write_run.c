/* Whole blocks that are not in DRAM, written in batches: compressed by several threads, put together. */
#include "engine/write_run.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/batch.h"
#include "engine/crew.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/quota.h"
#include "engine/work.h"

/* Compressed by one thread at a time: to give away less is not worth waking a thread. */
#define PIECE_BLOCKS 8U

struct write_run {
	struct batch batch; /* neighbours */
	const uint8_t *data;
	unsigned int pieces;
	_Atomic int err; /* of compression: the first one */
};

/* Takes the run of whole blocks at first that are at rest and not in DRAM. */
static void take(struct batch *batch, uint64_t first, uint64_t most)
{
	struct ramfile *file = batch->file;

	LOCK_SCOPE(&file->lock);
	file_visit(file, clock_ns());
	for (uint64_t block = first; block < first + most && batch->count < RUN_BLOCKS; block++) {
		if ((block + 1) * file->block_bytes > file->size_bytes || blocks_passing(&file->blocks, block) ||
		    blocks_has(&file->blocks, block, BLOCK_OWNED) ||
		    blocks_state(&file->blocks, block) == BLOCK_RESIDENT)
			break;
		batch_take(batch, block, BLOCK_UPDATING)->hotness = (struct codec_hotness){ 0 };
	}
}

static int encode_block(struct write_run *run, struct work *work, uint64_t i)
{
	size_t block_bytes = run->batch.file->block_bytes;
	const uint8_t *raw = run->data + i * block_bytes;

	/* The codec reads words, and the caller's buffer may lie anywhere. */
	if ((uintptr_t)raw % sizeof(uint64_t)) {
		memcpy(work->raw, raw, block_bytes);
		raw = work->raw;
	}
	return batch_encode(&run->batch, work, &run->batch.block[i], raw);
}

static void encode_piece(void *arg, unsigned int piece)
{
	struct write_run *run = arg;
	struct work_pool *works = engine_works(run->batch.file->engine);
	uint64_t from = run->batch.count * piece / run->pieces, to = run->batch.count * (piece + 1) / run->pieces;
	struct work *work = NULL;
	int none = 0, err = work_get(works, STORE_DIRECT, &work);

	for (uint64_t i = from; !err && i < to; i++)
		err = encode_block(run, work, i);
	work_put(works, work);
	if (err)
		atomic_compare_exchange_strong(&run->err, &none, err);
}

static int encode(struct write_run *run)
{
	struct crew *crew = engine_crew(run->batch.file->engine);

	run->pieces = crew_spare(crew) ? (unsigned int)((run->batch.count + PIECE_BLOCKS - 1) / PIECE_BLOCKS) : 1;
	atomic_init(&run->err, 0);
	crew_run(crew, run->pieces, encode_piece, run);
	return atomic_load(&run->err);
}

/* What was written shows, whatever became of the rest: the table says what the store has. */
static void settle(struct batch *batch)
{
	lock_get(&batch->file->lock);
	for (size_t i = 0; i < batch->count; i++)
		batch_settle(batch, &batch->block[i], batch_state(&batch->block[i]));
	lock_put(&batch->file->lock);
	batch_wake(batch);
}

static int write_batch(struct write_run *run)
{
	int err = encode(run);

	/* The put takes all of the batch or fails; a removal takes a block. */
	if (!err)
		err = batch_put(&run->batch, STORE_DIRECT);
	if (!err)
		err = batch_forget(&run->batch);
	settle(&run->batch);
	return err;
}

/* --- whether there is room ------------------------------------------------------------------------------------- */

/* What is stored of a block that is, or may be, changed in the store; false: it is changed in DRAM. */
static bool is_stored_anew(struct ramfile *file, uint64_t block, uint64_t *ret_stored)
{
	LOCK_SCOPE(&file->lock);

	*ret_stored = 0;
	if (block >= file->blocks.count)
		return true;
	*ret_stored = file->blocks.stored_bytes[block];
	return blocks_state(&file->blocks, block) != BLOCK_RESIDENT;
}

/* Bytes that the block would take then. data NULL: a part of it is written, and it is not looked at what it is. */
static int stored_then(struct ramfile *file, struct work *work, uint64_t block, const uint8_t *data, size_t *ret_bytes)
{
	struct store_key key = { .ino = file->ino, .block = block };
	struct codec_hotness cold = { 0 };

	*ret_bytes = data ? 0 : codec_bound(file->block_bytes);
	if (!data)
		return 0;
	memcpy(work->raw, data, file->block_bytes); /* the codec reads words */
	if (codec_is_zero(work->raw, file->block_bytes))
		return 0;
	return codec_encode(work->codec, key, cold, work->raw, IDENT_NONE, work->value, work->value_cap, ret_bytes);
}

/* By how much what is stored would grow. It is compressed for that, and once more when it is written: this is for who
 * is near to his limit. */
static int growth_of(struct ramfile *file, const uint8_t *data, uint64_t offset, size_t len, uint64_t *ret_growth)
{
	uint64_t block_bytes = file->block_bytes, end = offset + len, growth = 0, stored;
	struct work *work = NULL;
	int err = work_get(engine_works(file->engine), STORE_DIRECT, &work);

	for (uint64_t block = offset / block_bytes; !err && block * block_bytes < end; block++) {
		uint64_t at = block * block_bytes;
		bool whole = at >= offset && at + block_bytes <= end;
		size_t then = 0;

		if (!is_stored_anew(file, block, &stored))
			continue;
		err = stored_then(file, work, block, whole ? data + (at - offset) : NULL, &then);
		growth += then > stored ? then - stored : 0;
	}
	work_put(engine_works(file->engine), work);
	*ret_growth = growth;
	return err;
}

int write_run_check(struct ramfile *file, const uint8_t *data, uint64_t offset, size_t len)
{
	uint64_t left = quota_left(file), growth = 0;
	int err;

	if (left == UINT64_MAX || left >= (len / file->block_bytes + 2) * codec_bound(file->block_bytes))
		return 0;
	err = growth_of(file, data, offset, len, &growth);
	if (err || growth <= left)
		return err;
	quota_refuse(file, growth);
	return -EDQUOT;
}

int write_run(struct ramfile *file, const uint8_t *data, uint64_t offset, size_t len, size_t *ret_bytes)
{
	struct write_run run = { .data = data };
	int err;

	*ret_bytes = 0;
	if (offset % file->block_bytes || len < 2ULL * file->block_bytes)
		return 0;
	err = batch_init(&run.batch, file, RUN_BLOCKS, RUN_BLOCKS);
	if (!err)
		take(&run.batch, offset / file->block_bytes, len / file->block_bytes);
	if (!err && run.batch.count)
		err = write_batch(&run);
	if (!err)
		*ret_bytes = run.batch.count * file->block_bytes;
	batch_fini(&run.batch);
	return err;
}
