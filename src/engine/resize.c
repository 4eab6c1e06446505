/* The size of a RAM file: any number of bytes. The arena has whole pages, and a block of content in the store has zeros
 * behind the end. Who changes the size does so alone; mappers, demotions and accesses go on.
 */
#include "engine/resize.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/partial.h"
#include "engine/quota.h"
#include "engine/room.h"
#include "engine/stored.h"
#include "engine/work.h"
#include "engine/write.h"
#include "mem/huge.h"

/* Under lock: cuts the table if everything from there on is a hole at rest. *ret_cached: blocks that the kernel's cache
 * had, and that go with it. */
static bool cut_table(struct ramfile *file, uint64_t size_bytes, uint64_t count, uint64_t *ret_cached)
{
	uint64_t cached = file->blocks.cached;

	for (uint64_t block = blocks_next(&file->blocks, count, BLOCKS_USED); block < file->blocks.count;
	     block = blocks_next(&file->blocks, block + 1, BLOCKS_USED)) {
		file_wait_owner(file, block);
		if (block >= file->blocks.count)
			break;
		if (blocks_state(&file->blocks, block) != BLOCK_HOLE)
			return false;
		if (blocks_has(&file->blocks, block, BLOCK_STORED))
			blocks_set_stored(&file->blocks, block, 0,
					  IDENT_NONE); /* removed when the file grows over it */
	}
	quota_settle(file, 0);
	blocks_resize(&file->blocks, count);
	*ret_cached = cached - file->blocks.cached;
	file->size_bytes = size_bytes;
	engine_set_demand(file->engine, file);
	return true;
}

/* After an error the arena is as long as the file again: mappers of it fault where the file is, and nowhere else. */
static void give_back_length(struct ramfile *file, uint64_t size_bytes)
{
	int err = arena_resize(&file->arena, file_whole_pages(size_bytes));

	if (err)
		log_error("file %llu: the arena keeps a length that is not the file's: %s",
			  (unsigned long long)file->ino, strerror(-err));
}

static int shrink(struct ramfile *file, uint64_t size_bytes)
{
	uint64_t old = file_size(file);
	uint64_t first_gone = (size_bytes + file->block_bytes - 1) / file->block_bytes;
	uint64_t end = (old + file->block_bytes - 1) / file->block_bytes, cached = 0;
	bool cut = false;
	int err;

	file->nothing_beyond = false;
	/* Stored copies go while the file still has its size, so that a crash leaves a longer file with holes. Then the
	 * arena shrinks, which stops the mappers, and what they wrote in between is cleared away. */
	err = ramfile_discard(file, size_bytes, old - size_bytes);
	if (err)
		return err;
	err = arena_resize(&file->arena, file_whole_pages(size_bytes));
	if (err)
		return err;
	while (!err && !cut) {
		err = write_discard_blocks(file, first_gone, end);
		lock_get(&file->lock);
		cut = !err && cut_table(file, size_bytes, first_gone, &cached);
		lock_put(&file->lock);
	}
	if (err)
		give_back_length(file, old);
	room_release(file, cached * file->block_bytes);
	return err;
}

/* The last block of an odd size, before the file grows over it: a process that maps it may have written behind the end.
 * The caller owns the block, which was in the state given, and is in the one returned afterwards. */
static int clear_tail(struct ramfile *file, struct work *work, uint64_t block, enum block_state was,
		      enum block_state *ret)
{
	uint64_t end = file_size(file), tail = file_whole_pages(end) - end, data;
	size_t start = end % file->block_bytes;
	struct codec_info info;
	int err;

	*ret = was;
	if (was == BLOCK_HOLE)
		return 0;
	if (was == BLOCK_RESIDENT) {
		err = partial_complete(file, work, block);
		if (!err && tail)
			err = arena_next_data(&file->arena, end - end % PAGE_BYTES, &data, NULL);
		if (err || !tail || data > end)
			return err == -ENXIO ? 0 : err;
		memset(work->raw, 0, tail);
		return arena_write(&file->arena, work->raw, tail, end);
	}
	/* What is stored has zeros there, unless a change of the size was on its way when it was put. A block that
	 * cannot be read cannot be read later either. */
	err = stored_fetch(file, work, block, work->raw, &info);
	if (err)
		return err == -ENOMEM ? err : 0;
	for (size_t at = start; at < file->block_bytes; at++) {
		if (work->raw[at]) {
			memset(work->raw + start, 0, file->block_bytes - start);
			return batch_store_one(file, work, block, was, true, ret);
		}
	}
	return 0;
}

/* Room for a larger file: no key and no page lies beyond the old end. left: blocks that the arena has all the same. */
static int make_room(struct ramfile *file, uint64_t size_bytes, uint64_t fresh, uint8_t *left)
{
	uint64_t old_blocks = (file_size(file) + file->block_bytes - 1) / file->block_bytes;
	struct store *store = engine_store(file->engine);
	int err = 0;

	/* A truncate that was cut short may have left keys beyond the end. */
	if (!file->nothing_beyond)
		err = store->ops->remove(store, file->ino, old_blocks, UINT64_MAX - old_blocks);
	if (err)
		return err;
	file->nothing_beyond = true;
	err = arena_resize(&file->arena, file_whole_pages(size_bytes));
	/* What was cut off a huge page that could not be split then is there again, as zeros. */
	if (!err && fresh)
		err = arena_punch(&file->arena, old_blocks * file->block_bytes, fresh * file->block_bytes);
	if (!err && fresh)
		err = write_find_left(file, old_blocks, fresh, left);
	return err;
}

/* The table follows. */
static int grow_table(struct ramfile *file, uint64_t size_bytes, uint64_t fresh, const uint8_t *left)
{
	uint64_t old_blocks = file->blocks.count;
	int err;

	LOCK_SCOPE(&file->lock);
	err = blocks_resize(&file->blocks, (size_bytes + file->block_bytes - 1) / file->block_bytes);
	if (err)
		return err;
	file->size_bytes = size_bytes;
	engine_set_demand(file->engine, file);
	file_visit(file, clock_ns());
	for (uint64_t i = 0; i < fresh; i++) {
		if (!left[i])
			continue;
		blocks_place(&file->blocks, old_blocks + i, BLOCK_RESIDENT);
		file_used(file, old_blocks + i);
		file_force(file, 1);
	}
	return 0;
}

static int extend_owned(struct ramfile *file, uint64_t size_bytes)
{
	uint64_t old = file_size(file), old_blocks = (old + file->block_bytes - 1) / file->block_bytes;
	uint64_t new_blocks = (size_bytes + file->block_bytes - 1) / file->block_bytes;
	uint64_t most = HUGE_BYTES / file->block_bytes;
	uint64_t fresh = new_blocks - old_blocks < most ? new_blocks - old_blocks : most;
	uint8_t left[HUGE_BYTES / PAGE_BYTES] = { 0 };
	int err = make_room(file, size_bytes, fresh, left);

	if (!err)
		err = grow_table(file, size_bytes, fresh, left);
	if (err)
		give_back_length(file, old);
	return err;
}

/* The last block, if it has less than a block of content, is taken from before its tail is cleared until the file has
 * its new size. */
static int extend(struct ramfile *file, uint64_t size_bytes)
{
	uint64_t old = file_size(file), block = old / file->block_bytes;
	enum block_state was, now;
	struct work *work;
	bool away;
	int err;

	if (old % file->block_bytes == 0)
		return extend_owned(file, size_bytes);
	err = work_get(engine_works(file->engine), STORE_DIRECT, &work);
	if (err)
		return err;
	lock_get(&file->lock);
	was = file_begin_update(file, block);
	away = blocks_away(&file->blocks, block); /* what comes has zeros there */
	lock_put(&file->lock);
	now = was;
	err = away ? 0 : clear_tail(file, work, block, was, &now);
	if (!err)
		err = extend_owned(file, size_bytes);
	file_end_update(file, block, now);
	work_put(engine_works(file->engine), work);
	return err;
}

static int change_size(struct ramfile *file, uint64_t old, uint64_t size_bytes)
{
	int err;

	if (size_bytes == old)
		return 0;
	err = file_begin_change(file);
	if (err)
		return err;
	file_begin_resize(file);
	err = size_bytes < old ? shrink(file, size_bytes) : extend(file, size_bytes);
	file_end_resize(file);
	file_end_change(file);
	return err;
}

/* Nothing of the old content is left to be read as zeros, or it is lost still. */
static int truncate_lost(struct ramfile *file)
{
	struct store *store = engine_store(file->engine);
	int err = store->ops->remove(store, file->ino, 0, UINT64_MAX);

	if (err)
		return err;
	atomic_store(&file->lost, false);
	err = change_size(file, file_size(file), 0);
	if (err)
		atomic_store(&file->lost, true);
	return err;
}

int ramfile_truncate(struct ramfile *file, uint64_t size_bytes)
{
	if (!size_bytes)
		file->nothing_beyond = false; /* a clone may put keys there now */
	if (size_bytes > INT64_MAX || size_bytes / file->block_bytes >= UINT32_MAX)
		return -EFBIG;
	if (atomic_load(&file->lost))
		return size_bytes ? -EIO : truncate_lost(file);
	return change_size(file, file_size(file), size_bytes);
}
