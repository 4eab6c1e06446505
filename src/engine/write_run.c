/* Whole blocks that are not in DRAM, written in batches: compressed by several threads, put together. */
#include "engine/write_run.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "engine/crew.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/heal.h"
#include "engine/mappers.h"
#include "engine/stored.h"
#include "engine/work.h"

/* Compressed by one thread at a time: to give away less is not worth waking a thread. */
#define PIECE_BLOCKS 8U

struct write_batch {
	struct ramfile *file;
	const uint8_t *data; /* of the first block */
	uint64_t first, count;
	enum block_state was[RUN_BLOCKS];
	struct store_item item[RUN_BLOCKS];
	struct tierfs_ident ident[RUN_BLOCKS];
	uint8_t zero[RUN_BLOCKS];
	uint8_t written[RUN_BLOCKS]; /* the store has it */
	uint8_t *values;             /* codec_bound() for each block */
	uint32_t length[RUN_BLOCKS]; /* of the value; of zeros none */
	unsigned int pieces;
	_Atomic int error; /* of compression: the first one */
};

/* Takes the run of whole blocks at first that are at rest and not in DRAM. */
static void begin_batch(struct ramfile *file, struct write_batch *batch, uint64_t first, uint64_t most)
{
	LOCK_SCOPE(&file->lock);

	batch->first = first;
	batch->count = 0;
	while (batch->count < most && batch->count < RUN_BLOCKS) {
		uint64_t block = first + batch->count;

		if ((block + 1) * file->block_bytes > file->size_bytes || blocks_passing(&file->blocks, block) ||
		    blocks_has(&file->blocks, block, BLOCK_OWNED) ||
		    blocks_state(&file->blocks, block) == BLOCK_RESIDENT)
			break;
		batch->was[batch->count++] = file_begin_update(file, block);
	}
}

static int encode_block(struct write_batch *batch, struct work *work, uint64_t i)
{
	struct ramfile *file = batch->file;
	struct store_key key = { .ino = file->ino, .block = batch->first + i };
	const uint8_t *plain = batch->data + i * file->block_bytes;
	size_t bound = codec_bound(file->block_bytes), length;
	struct codec_hotness hotness = { 0 };
	int err;

	/* The codec reads words, and the caller's buffer may lie anywhere. */
	if ((uintptr_t)plain % sizeof(uint64_t)) {
		memcpy(work->plain, plain, file->block_bytes);
		plain = work->plain;
	}
	batch->zero[i] = codec_is_zero(plain, file->block_bytes);
	if (batch->zero[i])
		return 0;
	batch->ident[i] = mac_of(work->mac, plain, file->block_bytes);
	err = codec_encode(work->codec, key, hotness, plain, batch->ident[i], batch->values + i * bound, bound,
			   &length);
	if (!err)
		batch->length[i] = (uint32_t)length;
	return err;
}

static void encode_piece(void *arg, unsigned int piece)
{
	struct write_batch *batch = arg;
	uint64_t from = batch->count * piece / batch->pieces, to = batch->count * (piece + 1) / batch->pieces;
	struct work *work = NULL;
	int none = 0, err = work_get(engine_works(batch->file->engine), &work);

	for (uint64_t i = from; !err && i < to; i++)
		err = encode_block(batch, work, i);
	work_put(engine_works(batch->file->engine), work);
	if (err)
		atomic_compare_exchange_strong(&batch->error, &none, err);
}

static int encode_batch(struct write_batch *batch, size_t *ret_items)
{
	struct crew *crew = engine_crew(batch->file->engine);
	size_t bound = codec_bound(batch->file->block_bytes), items = 0;
	int err;

	batch->pieces = crew_spare(crew) ? (unsigned int)((batch->count + PIECE_BLOCKS - 1) / PIECE_BLOCKS) : 1;
	atomic_init(&batch->error, 0);
	crew_run(crew, batch->pieces, encode_piece, batch);
	err = atomic_load(&batch->error);
	if (err)
		return err;
	for (uint64_t i = 0; i < batch->count; i++)
		if (!batch->zero[i])
			batch->item[items++] = (struct store_item){
				.key = { .ino = batch->file->ino, .block = batch->first + i },
				.value = batch->values + i * bound,
				.length_bytes = batch->length[i],
			};
	*ret_items = items;
	return 0;
}

/* The put takes all of the batch or fails; a removal takes a block. What was written shows, whatever became of the
 * rest: the table says what the store has. */
static int write_batch(struct ramfile *file, struct write_batch *batch, size_t items)
{
	struct store *store = engine_store(file->engine);
	int err = items ? store->ops->put(store, batch->item, items) : 0;

	if (err) {
		for (size_t item = 0; item < items; item++)
			stored_put_failed(file, batch->item[item].key.block, batch->item[item].length_bytes);
		return err;
	}
	for (uint64_t i = 0; i < batch->count; i++)
		batch->written[i] = !batch->zero[i];
	for (uint64_t i = 0; !err && i < batch->count; i++) {
		if (!batch->zero[i])
			continue;
		err = stored_forget(file, batch->first + i);
		batch->written[i] = !err;
	}
	return err;
}

static void end_batch(struct ramfile *file, struct write_batch *batch)
{
	bool waiters = false;

	lock_get(&file->lock);
	for (uint64_t i = 0; i < batch->count; i++) {
		uint64_t block = batch->first + i;
		enum block_state now = batch->was[i];

		if (batch->written[i] && batch->zero[i]) {
			now = BLOCK_HOLE;
		} else if (batch->written[i]) {
			blocks_set_stored(&file->blocks, block, batch->length[i], batch->ident[i]);
			blocks_clear(&file->blocks, block, BLOCK_DAMAGED);
			now = BLOCK_COLD;
		}
		waiters |= file_settle(file, block, now);
		if (batch->written[i])
			heal_soon(file, block);
	}
	lock_put(&file->lock);
	if (waiters)
		mappers_wake(file, batch->first, batch->count);
}

int write_run(struct ramfile *file, const uint8_t *data, uint64_t offset, size_t len, size_t *ret_bytes)
{
	CLEANUP_FREE struct write_batch *batch = NULL;
	CLEANUP_FREE uint8_t *values = NULL;
	size_t items = 0;
	int err;

	*ret_bytes = 0;
	if (offset % file->block_bytes || len < 2ULL * file->block_bytes)
		return 0;
	batch = calloc(1, sizeof(*batch));
	values = malloc(RUN_BLOCKS * codec_bound(file->block_bytes));
	if (!batch || !values)
		return -ENOMEM;
	batch->file = file;
	batch->data = data;
	batch->values = values;
	begin_batch(file, batch, offset / file->block_bytes, len / file->block_bytes);
	if (!batch->count)
		return 0;
	err = encode_batch(batch, &items);
	if (!err)
		err = write_batch(file, batch, items);
	end_batch(file, batch);
	if (!err)
		*ret_bytes = batch->count * file->block_bytes;
	return err;
}
