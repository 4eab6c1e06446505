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
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/stored.h"
#include "engine/work.h"

#define CLONE_BLOCKS 1024
/* Plain bytes of resident blocks: those who wait for them do not wait long. */
#define CLONE_BYTES (UINT64_C(2) << 20)

struct member {
	enum block_state was;
	struct codec_hotness hotness;
	uint64_t length;  /* bytes of the block that are in the arena */
	uint64_t content; /* of those, bytes that are in the file */
	struct tierfs_ident ident;
	bool partial; /* absent pages are in the stored copy */
	bool damaged;
	size_t item; /* where it is in items, plus 1; 0: nothing to write */
};

struct clone {
	struct ramfile *file;
	uint64_t to;
	struct work *work;
	uint64_t first; /* block */
	size_t count, residents, residents_max;
	bool only_store; /* for ramfile_store(): no other file */
	bool stale;      /* a hole may have a key */
	bool away;       /* some of the content is on another host, and would not come to the clone */
	struct member member[CLONE_BLOCKS];
	struct store_item *item;
	size_t items;
	uint8_t *values; /* a slot of codec_bound() for each resident block */
	struct ramfile_cloned done;
};

/* --- taking and settling --------------------------------------------------------------------------------------- */

/* Under lock, the block is at rest. */
static void take_block(struct clone *clone, uint64_t block)
{
	struct blocks *blocks = &clone->file->blocks;
	struct member *member = &clone->member[clone->count++];

	*member = (struct member){ .was = blocks_state(blocks, block),
				   .hotness = { .generation = heat_age(blocks, block),
						.tier = blocks_tier(blocks, block) },
				   .length = file_block_length(clone->file, block),
				   .content = file_block_content(clone->file, block),
				   .partial = blocks_has(blocks, block, BLOCK_PARTIAL),
				   .damaged = blocks_has(blocks, block, BLOCK_DAMAGED) };
	clone->residents += member->was == BLOCK_RESIDENT;
	clone->stale |= member->was == BLOCK_HOLE && blocks_has(blocks, block, BLOCK_STORED);
	blocks_set_state(blocks, block, BLOCK_UPDATING);
}

/* Up to `end`. Waits for the first block alone: nobody waits while he holds some. */
static void take(struct clone *clone, uint64_t end)
{
	struct ramfile *file = clone->file;
	const struct blocks *blocks = &file->blocks;

	clone->count = clone->residents = clone->items = 0;
	clone->stale = false;
	LOCK_SCOPE(&file->lock);
	while (file->attaching)
		lock_wait(&file->lock, &file->settled);
	file->batches++; /* no mapper comes in from here on */
	file_wait_owner(file, clone->first);
	clone->away = blocks->away > 0;
	for (uint64_t block = clone->first; block < end && block < blocks->count && clone->count < CLONE_BLOCKS;
	     block++) {
		if (blocks_passing(blocks, block) || blocks_has(blocks, block, BLOCK_OWNED) ||
		    clone->residents == clone->residents_max ||
		    (clone->only_store && blocks_state(blocks, block) != BLOCK_RESIDENT))
			break;
		take_block(clone, block);
	}
}

static int each_resident_run(struct clone *clone, bool on)
{
	struct ramfile *file = clone->file;
	int err, first_err = 0;

	for (size_t i = 0, run; i < clone->count; i += run ? run : 1) {
		uint64_t length = 0;

		for (run = 0; i + run < clone->count && clone->member[i + run].was == BLOCK_RESIDENT; run++)
			length += clone->member[i + run].length;
		err = run ? mappers_protect(file, (clone->first + i) * file->block_bytes, length, on) : 0;
		if (err && !first_err)
			first_err = err;
	}
	return first_err;
}

static void settle(struct clone *clone)
{
	struct ramfile *file = clone->file;
	bool waiters = false;

	lock_get(&file->lock);
	for (size_t i = 0; i < clone->count; i++) {
		clone->done.shared_bytes += file->blocks.stored_bytes[clone->first + i];
		waiters |= file_settle(file, clone->first + i, clone->member[i].was);
	}
	file->batches--;
	pthread_cond_broadcast(&file->settled);
	lock_put(&file->lock);
	if (waiters)
		mappers_wake(file, clone->first, clone->count);
}

/* --- resident blocks get a stored copy ------------------------------------------------------------------------- */

static int read_content(struct clone *clone, size_t i)
{
	const struct member *member = &clone->member[i];
	struct ramfile *file = clone->file;
	struct work *work = clone->work;

	int err;

	if (member->damaged)
		return -EIO;
	if (member->partial)
		err = partial_read(file, work, clone->first + i, work->plain);
	else
		err = arena_read(&file->arena, work->plain, member->length, (clone->first + i) * file->block_bytes);
	memset(work->plain + member->content, 0, file->block_bytes - member->content);
	return err;
}

/* Nothing is stored for zeros; what a partial block lacked was zeros, and is so without the key. */
static int forget(struct clone *clone, size_t i)
{
	struct ramfile *file = clone->file;
	int err = stored_forget(file, clone->first + i);

	if (!err) {
		lock_get(&file->lock);
		blocks_clear(&file->blocks, clone->first + i, BLOCK_PARTIAL);
		lock_put(&file->lock);
	}
	return err;
}

static int encode(struct clone *clone, size_t i)
{
	struct ramfile *file = clone->file;
	struct member *member = &clone->member[i];
	struct store_key key = { .ino = file->ino, .block = clone->first + i };
	size_t bound = codec_bound(file->block_bytes), length;
	uint8_t *value = clone->values + clone->items * bound;
	struct work *work = clone->work;
	struct tierfs_ident stored;
	int err = read_content(clone, i);

	if (err)
		return err;
	member->ident = mac_of(work->mac, work->plain, file->block_bytes);
	lock_get(&file->lock);
	stored = blocks_has(&file->blocks, key.block, BLOCK_STORED) ? file->blocks.ident[key.block] : IDENT_NONE;
	lock_put(&file->lock);
	if (ident_same(stored, member->ident))
		return 0;
	if (codec_is_zero(work->plain, file->block_bytes))
		return forget(clone, i);
	err = codec_encode(work->codec, key, member->hotness, work->plain, member->ident, value, bound, &length);
	if (err)
		return err;
	clone->item[clone->items++] = (struct store_item){ key, value, (uint32_t)length };
	member->item = clone->items;
	return 0;
}

static int put(struct clone *clone)
{
	struct ramfile *file = clone->file;
	struct store *store = engine_store(file->engine);
	int err = clone->items ? store->ops->put(store, clone->item, clone->items) : 0;

	/* After an error each is old or new. */
	lock_get(&file->lock);
	for (size_t i = 0; i < clone->count; i++) {
		const struct member *member = &clone->member[i];
		uint32_t length = member->item ? clone->item[member->item - 1].length_bytes : 0;

		if (!member->item)
			continue;
		blocks_set_stored(&file->blocks, clone->first + i, length, err ? IDENT_NONE : member->ident);
		clone->done.stored_bytes += err ? 0 : length;
	}
	lock_put(&file->lock);
	return err;
}

static int make_stored(struct clone *clone)
{
	int err = 0;

	for (size_t i = 0; i < clone->count && !err; i++) {
		if (clone->member[i].was == BLOCK_RESIDENT)
			err = encode(clone, i);
		else if (clone->member[i].was == BLOCK_HOLE)
			err = stored_forget(clone->file, clone->first + i);
	}
	return err ? err : put(clone);
}

static int change(struct clone *clone)
{
	int err;

	if (!clone->residents && !clone->stale)
		return 0;
	err = file_begin_change(clone->file);
	if (err)
		return err;
	err = each_resident_run(clone, true);
	if (!err)
		err = make_stored(clone);
	each_resident_run(clone, false);
	file_end_change(clone->file);
	return err;
}

/* --- sharing --------------------------------------------------------------------------------------------------- */

static void set_age(void *arg, uint64_t block, uint8_t head[static STORE_HEAD_BYTES])
{
	const struct clone *clone = arg;

	codec_set_hotness(head, clone->member[block - clone->first].hotness);
}

static int share(struct clone *clone)
{
	struct store *store = engine_store(clone->file->engine);
	struct store_share share = { .from = clone->file->ino,
				     .to = clone->to,
				     .first = clone->first,
				     .count = clone->count,
				     .edit = set_age,
				     .arg = clone };

	for (size_t i = 0; i < clone->count; i++)
		if (clone->member[i].was != BLOCK_HOLE)
			return store->ops->share(store, &share);
	return 0;
}

static int clone_batch(struct clone *clone, uint64_t end)
{
	int err;

	take(clone, end);
	err = clone->away ? -EREMOTE : 0;
	if (!err && clone->residents && mappers_stranger(clone->file))
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
	struct ramfile *file = clone->file;
	uint64_t size = file_size(file), end = (size + file->block_bytes - 1) / file->block_bytes;
	int err = 0;

	clone->done.size_bytes = size;
	while (!err && clone->first < end) {
		err = clone_batch(clone, end);
		if (!clone->count && !err)
			break; /* it was cut meanwhile: what is gone is a hole */
		clone->first += clone->count;
		if (!err && progress && !progress(arg, clone->first * file->block_bytes, end * file->block_bytes))
			err = -ECANCELED;
	}
	return err;
}

int ramfile_clone(struct ramfile *file, uint64_t to, file_progress_fn *progress, void *arg, struct ramfile_cloned *ret)
{
	CLEANUP_FREE struct clone *clone = calloc(1, sizeof(*clone));
	size_t most = CLONE_BYTES / file->block_bytes;
	CLEANUP_FREE struct store_item *item = calloc(most, sizeof(*item));
	CLEANUP_FREE uint8_t *values = malloc(most * codec_bound(file->block_bytes));
	int err;

	if (!clone || !item || !values)
		return -ENOMEM;
	if (atomic_load(&file->lost))
		return -EIO;
	clone->file = file;
	clone->to = to;
	clone->residents_max = most;
	clone->item = item;
	clone->values = values;
	err = work_get(engine_works(file->engine), &clone->work);
	if (!err)
		err = clone_all(clone, progress, arg);
	work_put(engine_works(file->engine), clone->work);
	if (!err)
		*ret = clone->done;
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
	if (store->count)
		err = make_stored(store);
	settle(store);
	return err;
}

static int store_all(struct clone *store)
{
	int err;

	if (next_resident(store->file, 0) == UINT64_MAX)
		return 0;
	err = file_begin_change(store->file);
	if (err)
		return err;
	while (!err && (store->first = next_resident(store->file, store->first)) != UINT64_MAX) {
		err = store_batch(store);
		store->first += store->count ? store->count : 1; /* none: it was on its way, and is not resident now */
	}
	file_end_change(store->file);
	return err;
}

int ramfile_store(struct ramfile *file)
{
	CLEANUP_FREE struct clone *store = calloc(1, sizeof(*store));
	struct store *into = engine_store(file->engine);
	size_t most = CLONE_BYTES / file->block_bytes;
	CLEANUP_FREE struct store_item *item = calloc(most, sizeof(*item));
	CLEANUP_FREE uint8_t *values = malloc(most * codec_bound(file->block_bytes));
	int err;

	if (!store || !item || !values)
		return -ENOMEM;
	if (atomic_load(&file->lost))
		return -EIO;
	atomic_store(&file->kept, true);
	if (into->ops->keep)
		into->ops->keep(into, file->ino, true);
	store->file = file;
	store->only_store = true;
	store->residents_max = most;
	store->item = item;
	store->values = values;
	err = work_get(engine_works(file->engine), &store->work);
	if (!err)
		err = store_all(store);
	work_put(engine_works(file->engine), store->work);
	return err;
}

void ramfile_set_kept(struct ramfile *file, bool kept)
{
	atomic_store(&file->kept, kept);
}
