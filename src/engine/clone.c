/* A file of its own with the same content: what is stored is shared (store.h), nothing is read that is cold.
 *
 * The file is worked through in batches of neighbouring blocks, all of which are taken (UPDATING): whoever would change
 * one waits for the end of its batch.
 *
 *  1 take     from the first block on, up to one that is on its way; what is resident counts most, by its size
 *  2 protect  resident blocks, in every mapper: readers go on, writers wait
 *  3 encode   resident blocks that differ from their stored copy. They stay resident, with their age; as their copy is
 *             then equal, a later demotion has nothing to write
 *  4 put      one batch. A hole, or a block of zeros, loses a key that it may have
 *  5 share    the keys of the batch become those of the other file, with the age that each block has now
 *  6 settle   every block as it was
 *
 * The other file has no size meanwhile, so what it has lies beyond its end, where nobody looks and the next growth
 * removes it: after a kill it is empty. ramfile_adopt() makes the content visible, all at once.
 */
#include "engine/clone.h"

#include <errno.h>

#include "engine/batch.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/work.h"

#define CLONE_BLOCKS 1024
/* Raw bytes of resident blocks: those who wait for them do not wait long. */
#define CLONE_BYTES (UINT64_C(2) << 20)

struct clone {
	struct batch batch; /* neighbours, from first on */
	uint64_t to;
	struct work *work;
	uint64_t first; /* block */
	size_t residents;
	bool only_store; /* for ramfile_store(): no other file */
	bool stale;      /* a hole may have a key */
	bool away;       /* some of the content is on another host, and would not come to the clone */
	struct ramfile_cloned done;
};

/* --- taking and settling --------------------------------------------------------------------------------------- */

/* Under lock, the block is at rest. */
static void take_block(struct clone *clone, uint64_t block)
{
	bool has_key = blocks_has(&clone->batch.file->blocks, block, BLOCK_STORED);
	struct batch_block *one = batch_take(&clone->batch, block, BLOCK_UPDATING);

	clone->residents += one->was == BLOCK_RESIDENT;
	if (one->was != BLOCK_HOLE)
		return;
	one->verdict = BATCH_ZERO;
	clone->stale |= has_key;
}

/* Up to `end`. Waits for the first block alone: nobody waits while he holds some. */
static void take(struct clone *clone, uint64_t end)
{
	struct batch *batch = &clone->batch;
	struct ramfile *file = batch->file;
	const struct blocks *blocks = &file->blocks;

	batch_clear(batch);
	clone->residents = 0;
	clone->stale = false;
	LOCK_SCOPE(&file->lock);
	batch_begin(batch);
	file_wait_owner(file, clone->first);
	clone->away = blocks->away > 0;
	for (uint64_t block = clone->first; block < end && block < blocks->count && batch->count < batch->most;
	     block++) {
		if (blocks_passing(blocks, block) || blocks_has(blocks, block, BLOCK_OWNED) ||
		    clone->residents == batch->most_values ||
		    (clone->only_store && blocks_state(blocks, block) != BLOCK_RESIDENT))
			break;
		take_block(clone, block);
	}
}

static bool is_resident(const struct batch_block *one)
{
	return one->was == BLOCK_RESIDENT;
}

static void settle(struct clone *clone)
{
	struct batch *batch = &clone->batch;
	struct ramfile *file = batch->file;

	lock_get(&file->lock);
	for (size_t i = 0; i < batch->count; i++) {
		struct batch_block *one = &batch->block[i];

		clone->done.shared_bytes += file->blocks.stored_bytes[one->block];
		if (one->verdict == BATCH_STORE && one->done)
			clone->done.stored_bytes += one->value_bytes;
		batch_settle(batch, one, one->was);
	}
	batch_end(batch);
	lock_put(&file->lock);
	batch_wake(batch);
}

/* --- resident blocks get a stored copy ------------------------------------------------------------------------- */

static int encode(struct clone *clone, struct batch_block *one)
{
	uint8_t *raw = clone->work->raw;
	int err = one->damaged ? -EIO : batch_read(&clone->batch, clone->work, one, raw);

	return err ? err : batch_encode(&clone->batch, clone->work, one, raw);
}

static int make_stored(struct clone *clone)
{
	struct batch *batch = &clone->batch;
	int err = 0;

	for (size_t i = 0; i < batch->count && !err; i++)
		if (is_resident(&batch->block[i]))
			err = encode(clone, &batch->block[i]);
	if (!err)
		err = batch_put(batch, STORE_DIRECT);
	return err ? err : batch_forget(batch);
}

static int change(struct clone *clone)
{
	struct ramfile *file = clone->batch.file;
	int err;

	if (!clone->residents && !clone->stale)
		return 0;
	err = file_begin_change(file);
	if (err)
		return err;
	err = batch_protect(&clone->batch, is_resident, true);
	if (!err)
		err = make_stored(clone);
	batch_protect(&clone->batch, is_resident, false);
	file_end_change(file);
	return err;
}

/* --- sharing --------------------------------------------------------------------------------------------------- */

static void set_age(void *arg, uint64_t block, uint8_t head[static STORE_HEAD_BYTES])
{
	const struct clone *clone = arg;

	codec_set_hotness(head, clone->batch.block[block - clone->first].hotness);
}

static int share(struct clone *clone)
{
	const struct batch *batch = &clone->batch;
	struct store *store = engine_store(batch->file->engine);
	struct store_share share = { .from = batch->file->ino,
				     .to = clone->to,
				     .first = clone->first,
				     .count = batch->count,
				     .edit = set_age,
				     .arg = clone };

	for (size_t i = 0; i < batch->count; i++)
		if (batch->block[i].was != BLOCK_HOLE)
			return store->ops->share(store, &share);
	return 0;
}

static int clone_batch(struct clone *clone, uint64_t end)
{
	int err;

	take(clone, end);
	err = clone->away ? -EREMOTE : 0;
	if (!err && clone->residents && mappers_stranger(clone->batch.file))
		err = -EBUSY;
	if (!err)
		err = change(clone);
	if (!err)
		err = share(clone);
	settle(clone);
	return err;
}

static int clone_all(struct clone *clone, file_progress_fn *progress, void *arg)
{
	struct ramfile *file = clone->batch.file;
	uint64_t size = file_size(file), end = (size + file->block_bytes - 1) / file->block_bytes;
	int err = 0;

	clone->done.size_bytes = size;
	while (!err && clone->first < end) {
		err = flow_begin_write(file, CLONE_BYTES, false);
		if (err)
			break;
		err = clone_batch(clone, end);
		flow_end_write(file, CLONE_BYTES);
		if (!clone->batch.count && !err)
			break; /* it was cut meanwhile: what is gone is a hole */
		clone->first += clone->batch.count;
		if (!err && progress && !progress(arg, clone->first * file->block_bytes, end * file->block_bytes))
			err = -ECANCELED;
	}
	return err;
}

/* Room for CLONE_BYTES of resident blocks, among up to `most` others. */
static int clone_init(struct clone *clone, struct ramfile *file, size_t most)
{
	size_t residents = CLONE_BYTES / file->block_bytes;
	int err = batch_init(&clone->batch, file, most > residents ? most : residents, residents);

	return err ? err : work_get(engine_works(file->engine), STORE_DIRECT, &clone->work);
}

static void clone_fini(struct clone *clone)
{
	work_put(engine_works(clone->batch.file->engine), clone->work);
	batch_fini(&clone->batch);
}

int ramfile_clone(struct ramfile *file, uint64_t to, file_progress_fn *progress, void *arg, struct ramfile_cloned *ret)
{
	struct clone clone = { .to = to };
	int err;

	if (atomic_load(&file->lost))
		return -EIO;
	err = clone_init(&clone, file, CLONE_BLOCKS);
	if (!err)
		err = clone_all(&clone, progress, arg);
	clone_fini(&clone);
	if (!err)
		*ret = clone.done;
	return err;
}

/* --- fsync ------------------------------------------------------------------------------------------------------ */

/* The next block that is not in the store for certain: those at rest that are cold or holes are skipped. */
static uint64_t next_resident(struct ramfile *file, uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	block = blocks_next(&file->blocks, block, BLOCKS_IN_DRAM);
	while (block < file->blocks.count && blocks_state(&file->blocks, block) <= BLOCK_COLD)
		block = blocks_next(&file->blocks, block + 1, BLOCKS_IN_DRAM);
	return block < file->blocks.count ? block : UINT64_MAX;
}

/* Nobody is write-protected: a block that is written while it is read is stored as old or new, with a hash that differs
 * from what it is then, so a demotion stores it again. What was written before is in memory, and is read. */
static int store_batch(struct clone *store)
{
	int err = 0;

	take(store, UINT64_MAX);
	if (store->batch.count)
		err = make_stored(store);
	settle(store);
	return err;
}

static int store_all(struct clone *store)
{
	struct ramfile *file = store->batch.file;
	bool waited;
	int err;

	if (next_resident(file, 0) == UINT64_MAX)
		return 0;
	err = file_begin_change(file);
	if (err)
		return err;
	while (!err && (store->first = next_resident(file, store->first)) != UINT64_MAX) {
		err = flow_begin_write(file, CLONE_BYTES, false);
		if (err == -EINTR)
			break;
		waited = !err; /* with too many who wait it goes on */
		err = store_batch(store);
		if (waited)
			flow_end_write(file, CLONE_BYTES);
		/* None: it was on its way, and is not resident now. */
		store->first += store->batch.count ? store->batch.count : 1;
	}
	file_end_change(file);
	return err;
}

int ramfile_store(struct ramfile *file)
{
	struct store *into = engine_store(file->engine);
	struct clone store = { .only_store = true };
	int err;

	if (atomic_load(&file->lost))
		return -EIO;
	err = clone_init(&store, file, 0);
	if (!err) {
		atomic_store(&file->kept, true);
		if (into->ops->keep)
			into->ops->keep(into, file->ino, true);
		err = store_all(&store);
	}
	clone_fini(&store);
	return err;
}

void ramfile_set_kept(struct ramfile *file, bool kept)
{
	atomic_store(&file->kept, kept);
}
