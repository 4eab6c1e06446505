#include "engine/partial.h"

#include <errno.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/stored.h"

/* raw has the content of the stored copy. Pages that the arena has are read over it; or, into_arena, those that the
 * arena lacks are written there. */
static int overlay(struct ramfile *file, uint64_t block, uint8_t *raw, bool into_arena)
{
	uint64_t start = block * file->block_bytes, end;

	lock_get(&file->lock);
	end = start + file_block_length(file, block);
	lock_put(&file->lock);
	for (uint64_t offset = start; offset < end; offset += PAGE_BYTES) {
		uint64_t data = UINT64_MAX;
		int err = arena_next_data(&file->arena, offset, &data, NULL);
		bool present;

		if (err && err != -ENXIO)
			return err;
		present = !err && data <= offset;
		err = 0;
		if (present && !into_arena)
			err = arena_read(&file->arena, raw + (offset - start), PAGE_BYTES, offset);
		else if (!present && into_arena)
			err = arena_write(&file->arena, raw + (offset - start), PAGE_BYTES, offset);
		if (err)
			return err;
	}
	return 0;
}

void partial_leave(struct ramfile *file, uint64_t block)
{
	if (blocks_has(&file->blocks, block, BLOCK_STORED))
		blocks_set(&file->blocks, block, BLOCK_PARTIAL);
}

void partial_end(struct ramfile *file, uint64_t block)
{
	blocks_clear(&file->blocks, block, BLOCK_PARTIAL);
}

int partial_read(struct ramfile *file, struct work *work, uint64_t block, void *raw)
{
	uint64_t length, content;
	struct codec_info info;
	bool partial;
	int err;

	lock_get(&file->lock);
	partial = partial_is(file, block);
	length = file_block_length(file, block);
	content = file_block_content(file, block);
	lock_put(&file->lock);
	if (partial) {
		flow_take_read(file, 1, file->block_bytes / 2); /* nobody waits for that; so much or less */
		err = stored_fetch(file, work, block, raw, &info);
		if (!err)
			err = overlay(file, block, raw, false);
	} else {
		err = arena_read(&file->arena, raw, length, block * file->block_bytes);
	}
	memset((uint8_t *)raw + content, 0, file->block_bytes - content);
	return err;
}

int partial_complete(struct ramfile *file, struct work *work, uint64_t block)
{
	struct codec_info info;
	bool partial;
	int err;

	lock_get(&file->lock);
	partial = partial_is(file, block);
	lock_put(&file->lock);
	if (!partial)
		return 0;
	flow_take_read(file, 1, file->block_bytes / 2);
	err = stored_fetch(file, work, block, work->raw, &info);
	if (!err)
		err = overlay(file, block, work->raw, true);
	if (err)
		return err;
	lock_get(&file->lock);
	partial_end(file, block);
	lock_put(&file->lock);
	return 0;
}

int partial_complete_at_rest(struct ramfile *file, struct work *work, uint64_t block)
{
	bool mine = block < file->blocks.count && partial_is(file, block) &&
		    blocks_state(&file->blocks, block) == BLOCK_RESIDENT;
	int err;

	if (mine)
		blocks_set_state(&file->blocks, block, BLOCK_UPDATING);
	lock_put(&file->lock);
	if (!mine)
		return 0;
	err = partial_complete(file, work, block);
	file_end_update(file, block, BLOCK_RESIDENT);
	return err;
}

/* Under lock: waits for the next partial block at or after *block. False: there is none. */
static bool next_partial(struct ramfile *file, uint64_t *block)
{
	for (; (*block = blocks_next(&file->blocks, *block, BLOCKS_IN_DRAM)) < file->blocks.count; ++*block) {
		if (!partial_is(file, *block))
			continue;
		file_wait_owner(file, *block);
		if (*block < file->blocks.count && partial_is(file, *block))
			return true;
	}
	return false;
}

int partial_complete_all(struct ramfile *file)
{
	struct work *work;
	uint64_t block = 0;
	int err = work_get(engine_works(file->engine), STORE_DIRECT, &work);

	if (err)
		return err;
	lock_get(&file->lock);
	for (; !err && next_partial(file, &block); block++) {
		err = partial_complete_at_rest(file, work, block);
		if (err == -EIO) /* a fault on a page that it lacks tries again, or is refused alone */
			err = 0;
		lock_get(&file->lock);
	}
	lock_put(&file->lock);
	work_put(engine_works(file->engine), work);
	return err;
}
