/* Cold blocks come into DRAM: runs of neighbours, with one walk of the store and one fill for many, for read-ahead and
 * for promotion on request. fault.c brings single ones that somebody waits for. */
#include "engine/load.h"

#include <errno.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/stored.h"
#include "engine/work.h"

int load_place(struct ramfile *file, struct mapper *mapper, uint64_t offset, const void *raw, uint64_t length)
{
	if (mapper)
		return mapper->ops->fill(mapper, offset, raw, length);
	return arena_write_absent(&file->arena, raw, length, offset);
}

/* A fill that failed half way is tried again, and what came the first time may have been changed since. */
int load_put_absent(struct ramfile *file, const void *data, uint64_t length, uint64_t offset)
{
	return arena_write_absent(&file->arena, data, length, offset);
}

/* --- a run ----------------------------------------------------------------------------------------------- */

struct load {
	struct ramfile *file;
	struct mapper *mapper;
	struct work *work;
	uint64_t first, count, stored_bytes;
	struct codec_info info[RUN_BLOCKS];
	enum { NOT_THERE, DECODED, PLACED, PLACED_PARTLY } step[RUN_BLOCKS];
};

uint64_t load_run_blocks(const struct ramfile *file)
{
	uint64_t blocks = WORK_RUN_BYTES / file->block_bytes;

	return blocks < RUN_BLOCKS ? blocks : RUN_BLOCKS;
}

static int load_value(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct load *load = arg;
	uint64_t i = key.block - load->first;
	uint8_t *raw = load->work->run + i * load->file->block_bytes;

	/* What fails is found again, and reported, by the fault that needs it. */
	if (!stored_decode_value(load->file, load->work, key.block, value, length_bytes, raw, &load->info[i]))
		load->step[i] = DECODED;
	return 0;
}

/* Into the arena: many blocks with one call, and one by one where that fails. The last block of the file may be
 * shorter. */
static void place_run(struct load *load, uint64_t i, uint64_t count, uint64_t last_bytes)
{
	struct ramfile *file = load->file;
	const uint8_t *raw = load->work->run + i * file->block_bytes;
	uint64_t block = load->first + i;
	bool placed = !load_place(file, load->mapper, block * file->block_bytes, raw,
				  (count - 1) * file->block_bytes + last_bytes);

	if (!placed && count > 1) {
		for (uint64_t one = 0; one < count; one++)
			place_run(load, i + one, 1, one + 1 < count ? file->block_bytes : last_bytes);
		return;
	}
	for (uint64_t one = i; one < i + count; one++)
		load->step[one] = placed ? PLACED : file_has_pages(file, block) ? PLACED_PARTLY : NOT_THERE;
}

static void place_decoded(struct load *load, uint64_t last_bytes)
{
	for (uint64_t i = 0, run; i < load->count; i += run ? run : 1) {
		for (run = 0; i + run < load->count && load->step[i + run] == DECODED;)
			run++;
		if (run)
			place_run(load, i, run, i + run == load->count ? last_bytes : load->file->block_bytes);
	}
}

/* Takes the run of cold blocks at first into LOADING. *ret_last_bytes: length of its last block. */
static void begin_load(struct load *load, uint64_t first, uint64_t count, enum budget_need need,
		       uint64_t *ret_last_bytes)
{
	struct ramfile *file = load->file;
	uint64_t most = load_run_blocks(file), taken = 0;

	LOCK_SCOPE(&file->lock);
	file_visit(file, clock_ns());
	while (taken < count && taken < most && first + taken < file->blocks.count &&
	       blocks_state(&file->blocks, first + taken) == BLOCK_COLD &&
	       !blocks_has(&file->blocks, first + taken, BLOCK_DAMAGED) && !blocks_away(&file->blocks, first + taken) &&
	       file_reserve(file, 1, need)) {
		blocks_set_state(&file->blocks, first + taken, BLOCK_LOADING);
		load->stored_bytes += file->blocks.stored_bytes[first + taken];
		*ret_last_bytes = file_block_length(file, first + taken);
		taken++;
	}
	load->first = first;
	load->count = taken;
}

/* Under lock: a load of one block ended. Returns true if somebody waits. */
bool load_settle(struct ramfile *file, uint64_t block, const struct codec_info *info, bool partly)
{
	blocks_set_stored(&file->blocks, block, file->blocks.stored_bytes[block], info->ident);
	blocks_clear(&file->blocks, block, BLOCK_DAMAGED);
	file_promoted(file, block);
	if (partly)
		partial_leave(file, block);
	return file_settle(file, block, BLOCK_RESIDENT);
}

static uint64_t end_load(struct load *load)
{
	struct ramfile *file = load->file;
	uint64_t loaded = 0;
	bool waiters = false;

	lock_get(&file->lock);
	for (uint64_t i = 0; i < load->count; i++) {
		uint64_t block = load->first + i;

		if (load->step[i] < PLACED) {
			waiters |= file_settle(file, block, BLOCK_COLD);
			continue;
		}
		waiters |= load_settle(file, block, &load->info[i], load->step[i] == PLACED_PARTLY);
		loaded++;
	}
	lock_put(&file->lock);
	atomic_fetch_add(&file->counts.promotions, loaded);
	file_release(file, load->count - loaded);
	if (waiters)
		mappers_wake(file, load->first, load->count);
	return loaded;
}

int load_run(struct ramfile *file, struct mapper *mapper, uint64_t first, uint64_t count, enum budget_need need,
	     enum store_use use, uint64_t *ret_blocks)
{
	struct load load = { .file = file, .mapper = mapper };
	uint64_t last_bytes = 0;
	int err;

	err = work_get(engine_works(file->engine), use, &load.work);
	if (err)
		return err;
	err = work_run(load.work);
	if (!err)
		begin_load(&load, first, count, need, &last_bytes);
	if (load.count) {
		if (use == STORE_AHEAD) /* who asked for it has waited for it */
			flow_take_read(file, load.count, load.stored_bytes);
		err = flow_walk(file, use, load.first, load.count, load_value, &load);
		place_decoded(&load, last_bytes);
	}
	*ret_blocks = load.count ? end_load(&load) : 0;
	work_put(engine_works(file->engine), load.work);
	return err;
}

/* --- on request ------------------------------------------------------------------------------------------ */

int load_promote(struct ramfile *file, uint64_t offset, uint64_t len, file_progress_fn *progress, void *arg,
		 struct file_done *ret)
{
	uint64_t size = file_size(file);
	uint64_t end = len > size || offset > size - len ? size : offset + len;
	uint64_t block = offset / file->block_bytes;
	struct file_done done = { 0 };

	if (atomic_load(&file->lost))
		return -EIO;
	while (block * file->block_bytes < end) {
		uint64_t left = (end - block * file->block_bytes + file->block_bytes - 1) / file->block_bytes;
		uint64_t loaded = 0, before = block;
		bool cold;
		int err;

		if (progress && !progress(arg, block * file->block_bytes - offset, end - offset))
			return -ECANCELED;
		flow_wait_read(file, block, left < load_run_blocks(file) ? left : load_run_blocks(file), true);
		err = load_run(file, NULL, block, left, BUDGET_OPTIONAL, STORE_DIRECT, &loaded);
		if (err)
			return err;
		block += loaded;
		done.done_bytes += loaded * file->block_bytes;
		/* The run ended at a block that is not cold, or cannot come: step over it. */
		lock_get(&file->lock);
		file_wait_block(file, block);
		cold = block < file->blocks.count && blocks_state(&file->blocks, block) == BLOCK_COLD;
		lock_put(&file->lock);
		if (cold && block != before)
			continue;
		if (cold && block * file->block_bytes < end)
			done.skipped_bytes += file->block_bytes;
		block++;
	}
	*ret = done;
	return 0;
}
