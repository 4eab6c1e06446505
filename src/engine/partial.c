/* Blocks of which the arena has a part: a promotion was cut short, or the kernel had written back some pages of a cold
 * block. The other pages are in the stored copy, by the page rule (file.h). */
#include "engine/partial.h"

#include <errno.h>

#include "engine/engine.h"
#include "engine/file.h"
#include "engine/stored.h"
#include "engine/work.h"

/* plain has the content of the stored copy. Pages that the arena has are read over it; or, into_arena, those that the
 * arena lacks are written there. */
static int overlay(struct ramfile *file, uint64_t block, uint8_t *plain, bool into_arena)
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
			err = arena_read(&file->arena, plain + (offset - start), PAGE_BYTES, offset);
		else if (!present && into_arena)
			err = arena_write(&file->arena, plain + (offset - start), PAGE_BYTES, offset);
		if (err)
			return err;
	}
	return 0;
}

int partial_read(struct ramfile *file, struct work *work, uint64_t block, void *plain)
{
	struct codec_info info;
	int err = stored_fetch(file, work, block, plain, &info);

	return err ? err : overlay(file, block, plain, false);
}

int partial_complete(struct ramfile *file, struct work *work, uint64_t block)
{
	struct codec_info info;
	bool stored, whole;
	int err;

	/* At load the flag is not there yet: the table is being made from the page rule. */
	lock_get(&file->lock);
	stored = blocks_has(&file->blocks, block, BLOCK_STORED);
	whole = blocks_passing(&file->blocks, block) && !blocks_has(&file->blocks, block, BLOCK_PARTIAL);
	lock_put(&file->lock);
	if (whole || !stored)
		return 0;
	err = stored_fetch(file, work, block, work->plain, &info);
	if (!err)
		err = overlay(file, block, work->plain, true);
	if (err)
		return err;
	lock_get(&file->lock);
	blocks_clear(&file->blocks, block, BLOCK_PARTIAL);
	lock_put(&file->lock);
	return 0;
}

/* Takes the next partial block at or after *block. */
static bool take_partial(struct ramfile *file, uint64_t *block)
{
	LOCK_SCOPE(&file->lock);

	for (; (*block = blocks_next(&file->blocks, *block, BLOCKS_IN_DRAM)) < file->blocks.count; ++*block) {
		if (!blocks_has(&file->blocks, *block, BLOCK_PARTIAL))
			continue;
		file_wait_owner(file, *block);
		if (*block < file->blocks.count && blocks_has(&file->blocks, *block, BLOCK_PARTIAL) &&
		    blocks_state(&file->blocks, *block) == BLOCK_RESIDENT) {
			blocks_set_state(&file->blocks, *block, BLOCK_UPDATING);
			return true;
		}
	}
	return false;
}

int partial_complete_all(struct ramfile *file)
{
	struct work *work;
	uint64_t block = 0;
	int err = work_get(engine_works(file->engine), &work);

	if (err)
		return err;
	while (!err && take_partial(file, &block)) {
		err = partial_complete(file, work, block);
		file_end_update(file, block, BLOCK_RESIDENT);
		if (err ==
		    -EIO) { /* it stays partial: a fault on a page that it lacks tries again, or is refused alone */
			err = 0;
			block++;
		}
	}
	work_put(engine_works(file->engine), work);
	return err;
}
