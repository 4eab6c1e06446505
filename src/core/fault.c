/* Into DRAM: faults, zero fill, promotion, read-ahead.
 *
 * A fault is resolved by whoever reads its event. The block is put into a passing state under the lock, the work is
 * done without it, and the end of the state wakes everybody who came meanwhile; their threads touch the page again, and
 * either find it or bring a new event that meets a block at rest. So no event is ever queued for a block, except when
 * DRAM is short: then it is parked until the demoter has made room.
 *
 * Every call into a mapper that could make or unprotect a page is made while the block is in a passing state. Without
 * that, a late answer could put a zero page over a block that was demoted meanwhile, or lift the write-protection of a
 * block that is being stored.
 */
#include "core/ramfile_impl.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

/* Fresh memory is given in growing pieces while at least this part of the budget is free. */
#define FAR_DIVISOR 4
#define ZERO_WINDOW_BYTES (UINT64_C(2) << 20)
#define READ_AHEAD_BYTES (UINT64_C(1) << 20)

/* Gets the value of a block into work->value. */
static int get_value(struct ramfile *file, struct work *work, uint64_t block, size_t *ret_length)
{
	struct store *store = tier_store(file->tier);

	return store->ops->get(store, (struct store_key){ file->ino, block }, work->value, work->value_cap, ret_length);
}

static int decode_value(struct ramfile *file, struct work *work, uint64_t block, size_t length, void *plain,
			struct codec_info *ret)
{
	return codec_decode(work->codec, (struct store_key){ file->ino, block }, work->value, length, plain, ret);
}

/* What becomes of an error of the two above. */
static int fetch_failed(struct ramfile *file, uint64_t block, int err)
{
	if (err == -ENOMEM)
		return err;
	if (err == -ENOENT || err == -EBADMSG || err == -EPROTONOSUPPORT) {
		lock_get(&file->lock);
		blocks_set(&file->blocks, block, BLOCK_DAMAGED);
		lock_put(&file->lock);
	}
	log_error("file %llu: block %llu cannot be read from the store: %s", (unsigned long long)file->ino,
		  (unsigned long long)block, strerror(-err));
	atomic_fetch_add(&file->errors, 1);
	return -EIO;
}

int ramfile_fetch(struct ramfile *file, struct work *work, uint64_t block, void *plain, struct codec_info *ret)
{
	size_t length;
	int err = get_value(file, work, block, &length);

	if (!err)
		err = decode_value(file, work, block, length, plain, ret);
	return err ? fetch_failed(file, block, err) : 0;
}

/* Puts the content of a block whose pages are all absent into DRAM. */
static int place(struct ramfile *file, struct mapper *mapper, uint64_t offset, const void *plain, uint64_t length)
{
	if (mapper)
		return mapper->ops->fill(mapper, offset, plain, length);
	return arena_write(&file->arena, plain, length, offset);
}

int ramfile_put_absent(struct ramfile *file, const void *data, uint64_t length, uint64_t offset)
{
	return arena_write(&file->arena, data, length, offset);
}

/* --- cold ------------------------------------------------------------------------------------------------- */

struct load {
	struct ramfile *file;
	struct mapper *mapper;
	struct work *work;
	uint64_t first, count;
	uint64_t length[RUN_BLOCKS]; /* of each block */
	struct codec_info info[RUN_BLOCKS];
	uint8_t done[RUN_BLOCKS];
};

static int load_value(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct load *load = arg;
	uint64_t i = key.block - load->first;
	struct ramfile *file = load->file;

	if (codec_decode(load->work->codec, key, value, length_bytes, load->work->plain, &load->info[i]))
		return 0; /* found again, and reported, by the fault that needs it */
	if (place(file, load->mapper, key.block * file->block_bytes, load->work->plain, load->length[i]) == 0)
		load->done[i] = 1;
	return 0;
}

/* Under lock: takes the run of cold blocks at first into LOADING. Returns its length. */
static uint64_t begin_load(struct ramfile *file, struct load *load, uint64_t first, uint64_t count,
			   enum budget_need need)
{
	uint64_t taken = 0;

	while (taken < count && taken < RUN_BLOCKS && first + taken < file->blocks.count &&
	       blocks_state(&file->blocks, first + taken) == BLOCK_COLD &&
	       !blocks_has(&file->blocks, first + taken, BLOCK_DAMAGED) && ramfile_reserve(file, 1, need)) {
		blocks_set_state(&file->blocks, first + taken, BLOCK_LOADING);
		load->length[taken] = ramfile_block_length(file, first + taken);
		taken++;
	}
	load->first = first;
	load->count = taken;
	return taken;
}

static uint64_t end_load(struct ramfile *file, struct load *load)
{
	uint64_t loaded = 0;
	bool waiters = false;

	lock_get(&file->lock);
	for (uint64_t i = 0; i < load->count; i++) {
		uint64_t block = load->first + i;

		if (load->done[i]) {
			blocks_set_stored(&file->blocks, block, file->blocks.stored_bytes[block],
					  load->info[i].content_hash);
			heat_promoted(&file->heat, &file->blocks, block);
			loaded++;
		}
		waiters |= ramfile_settle(file, block, load->done[i] ? BLOCK_RESIDENT : BLOCK_COLD);
	}
	lock_put(&file->lock);
	atomic_fetch_add(&file->promotions, loaded);
	ramfile_release(file, load->count - loaded);
	if (waiters)
		ramfile_wake(file, load->first, load->count);
	return loaded;
}

int ramfile_load_run(struct ramfile *file, struct mapper *mapper, uint64_t first, uint64_t count, enum budget_need need,
		     uint64_t *ret_blocks)
{
	struct store *store = tier_store(file->tier);
	struct load load = { .file = file, .mapper = mapper };
	int err;

	err = work_get(tier_works(file->tier), &load.work);
	if (err)
		return err;
	lock_get(&file->lock);
	begin_load(file, &load, first, count, need);
	lock_put(&file->lock);
	if (load.count)
		err = store->ops->walk(store, file->ino, load.first, load.count, load_value, &load);
	*ret_blocks = load.count ? end_load(file, &load) : 0;
	work_put(tier_works(file->tier), load.work);
	return err;
}

/* The page can not be given: the toucher gets SIGBUS, not zeros. */
static void poison(struct ramfile *file, struct mapper *mapper, uint64_t offset, uint64_t length)
{
	int err = mapper ? mapper->ops->poison(mapper, offset, length) : 0;

	if (err)
		log_error("file %llu: offset %llu is damaged and this kernel cannot poison it (%s): who touches it "
			  "waits; end that process",
			  (unsigned long long)file->ino, (unsigned long long)offset, strerror(-err));
}

/* The three stages of a cold fault, of a block that the caller owns: get, decode, copy. */
static int bring(struct ramfile *file, struct mapper *mapper, struct work *work, uint64_t block, uint64_t length,
		 struct codec_info *ret)
{
	struct stages *stages = tier_stages(file->tier);
	uint64_t at = clock_ns();
	size_t value_length;
	int err = get_value(file, work, block, &value_length);

	if (!err) {
		at = stage_end(stages, STAGE_READ, file->ino, block, at);
		err = decode_value(file, work, block, value_length, work->plain, ret);
	}
	if (err)
		return fetch_failed(file, block, err);
	at = stage_end(stages, STAGE_DECODE, file->ino, block, at);
	err = place(file, mapper, block * file->block_bytes, work->plain, length);
	if (!err)
		stage_end(stages, STAGE_COPY, file->ino, block, at);
	return err;
}

/* Called with the lock held, the block COLD and reserved; drops the lock. */
static void load_one(struct ramfile *file, struct mapper *mapper, uint64_t block)
{
	uint64_t length = ramfile_block_length(file, block);
	struct codec_info info = { 0 };
	struct work *work = NULL;
	bool waiters;
	int err;

	blocks_set_state(&file->blocks, block, BLOCK_LOADING);
	lock_put(&file->lock);
	err = work_get(tier_works(file->tier), &work);
	if (!err)
		err = bring(file, mapper, work, block, length, &info);
	work_put(tier_works(file->tier), work);
	lock_get(&file->lock);
	if (!err) {
		blocks_set_stored(&file->blocks, block, file->blocks.stored_bytes[block], info.content_hash);
		heat_promoted(&file->heat, &file->blocks, block);
	}
	waiters = ramfile_settle(file, block, err ? BLOCK_COLD : BLOCK_RESIDENT);
	lock_put(&file->lock);
	if (err)
		ramfile_release(file, 1);
	else
		atomic_fetch_add(&file->promotions, 1);
	if (err == -EIO)
		poison(file, mapper, block * file->block_bytes, length);
	if (waiters || (err && err != -EIO))
		ramfile_wake(file, block, 1);
}

/* Sequential faults pull the following blocks too: the window doubles with every hit and is forgotten at the first
 * miss. */
static uint64_t read_ahead_window(struct ramfile *file, struct mapper *mapper, uint64_t block)
{
	uint64_t most = READ_AHEAD_BYTES / file->block_bytes;

	if (most > RUN_BLOCKS)
		most = RUN_BLOCKS;
	if (block != mapper->next_block)
		mapper->window_blocks = 0;
	else
		mapper->window_blocks = mapper->window_blocks ? mapper->window_blocks * 2 : 2;
	if (mapper->window_blocks > most)
		mapper->window_blocks = (uint32_t)most;
	mapper->next_block = block + 1 + mapper->window_blocks;
	return mapper->window_blocks;
}

/* --- holes ------------------------------------------------------------------------------------------------ */

/* Called with the lock held, the block a HOLE and reserved; drops the lock. Fresh memory is usually touched in order,
 * so the piece that is filled at once doubles with every hit, while the budget is far. */
static void zero_run(struct ramfile *file, struct mapper *mapper, uint64_t block)
{
	struct budget *budget = tier_budget(file->tier);
	bool far = budget_free(budget) > atomic_load(&budget->limit_bytes) / FAR_DIVISOR;
	uint64_t most = far ? ZERO_WINDOW_BYTES / file->block_bytes : 1;
	uint64_t window, count = 1, length;
	bool waiters = false;
	int err;

	window = block == mapper->next_block && mapper->window_blocks ? mapper->window_blocks * 2U : 1;
	if (window > most)
		window = most;
	while (count < window && block + count < file->blocks.count &&
	       blocks_state(&file->blocks, block + count) == BLOCK_HOLE && ramfile_reserve(file, 1, BUDGET_OPTIONAL))
		count++;
	for (uint64_t i = 0; i < count; i++)
		blocks_set_state(&file->blocks, block + i, BLOCK_LOADING);
	length = (count - 1) * file->block_bytes + ramfile_block_length(file, block + count - 1);
	mapper->next_block = block + count;
	mapper->window_blocks = (uint32_t)count;
	lock_put(&file->lock);

	err = mapper->ops->fill_zero(mapper, block * file->block_bytes, length);
	lock_get(&file->lock);
	for (uint64_t i = 0; i < count; i++) {
		if (!err)
			heat_used(&file->blocks, block + i);
		waiters |= ramfile_settle(file, block + i, err ? BLOCK_HOLE : BLOCK_RESIDENT);
	}
	lock_put(&file->lock);
	if (err) {
		log_error("file %llu: fresh memory cannot be given: %s", (unsigned long long)file->ino, strerror(-err));
		atomic_fetch_add(&file->errors, 1);
		ramfile_release(file, count);
	}
	if (waiters || err)
		ramfile_wake(file, block, count);
}

/* --- resident --------------------------------------------------------------------------------------------- */

/* Called with the lock held and the block RESIDENT, or STORING and to be cancelled; drops the lock. The event is late
 * (the page came meanwhile), or the page was discarded out of its block, or a protection was left over. */
static void refresh(struct ramfile *file, struct mapper *mapper, uint64_t block, uint64_t offset,
		    enum ramfile_fault_kind kind)
{
	uint64_t length = ramfile_block_length(file, block);
	bool cancelled = blocks_state(&file->blocks, block) == BLOCK_STORING;
	bool waiters;

	blocks_set_state(&file->blocks, block, BLOCK_UPDATING);
	lock_put(&file->lock);
	if (kind == RAMFILE_FAULT_MISSING)
		mapper->ops->fill_zero(mapper, offset, PAGE_BYTES);
	if (cancelled) {
		atomic_fetch_add(&file->demotions_aborted, 1);
		ramfile_protect(file, block * file->block_bytes, length, false);
	} else if (kind == RAMFILE_FAULT_PROTECTED) {
		mapper->ops->protect(mapper, block * file->block_bytes, length, false);
	}
	lock_get(&file->lock);
	heat_used(&file->blocks, block);
	waiters = ramfile_settle(file, block, BLOCK_RESIDENT);
	lock_put(&file->lock);
	if (waiters)
		ramfile_wake(file, block, 1);
}

/* --- the fault -------------------------------------------------------------------------------------------- */

/* Returns true when the fault was resolved here (and counts), false when it waits for somebody else. Drops the lock. */
static bool resolve(struct ramfile *file, struct mapper *mapper, uint64_t block, uint64_t offset,
		    enum ramfile_fault_kind kind, uint64_t arrived_ns)
{
	struct stages *stages = tier_stages(file->tier);
	uint64_t window;

	switch (blocks_state(&file->blocks, block)) {
	case BLOCK_HOLE:
	case BLOCK_COLD:
		if (blocks_has(&file->blocks, block, BLOCK_DAMAGED)) {
			uint64_t length = ramfile_block_length(file, block);

			lock_put(&file->lock);
			poison(file, mapper, block * file->block_bytes, length);
			return true;
		}
		if (!ramfile_reserve(file, 1, BUDGET_MUST)) {
			lock_put(&file->lock);
			tier_park(file->tier, file, mapper, offset, kind, arrived_ns);
			return false;
		}
		if (blocks_state(&file->blocks, block) == BLOCK_HOLE) {
			zero_run(file, mapper, block);
			return true;
		}
		window = read_ahead_window(file, mapper, block);
		stage_end(stages, STAGE_QUEUE, file->ino, block, arrived_ns);
		load_one(file, mapper, block);
		hist_add(&file->faults, stage_end(stages, STAGE_TOTAL, file->ino, block, arrived_ns) - arrived_ns);
		if (window)
			ramfile_load_run(file, mapper, block + 1, window, BUDGET_OPTIONAL, &window);
		return false;
	case BLOCK_STORING:
		if (blocks_has(&file->blocks, block, BLOCK_COMMITTING)) {
			blocks_set(&file->blocks, block, BLOCK_WAITERS);
			lock_put(&file->lock);
			return false;
		}
		refresh(file, mapper, block, offset, kind);
		return true;
	case BLOCK_RESIDENT:
		if (blocks_has(&file->blocks, block, BLOCK_DAMAGED) && kind == RAMFILE_FAULT_MISSING) {
			lock_put(&file->lock);
			poison(file, mapper, offset, PAGE_BYTES);
			return true;
		}
		refresh(file, mapper, block, offset, kind);
		return true;
	case BLOCK_LOADING:
	case BLOCK_UPDATING:
		blocks_set(&file->blocks, block, BLOCK_WAITERS);
		lock_put(&file->lock);
		return false;
	}
	lock_put(&file->lock);
	return false;
}

void ramfile_fault(struct ramfile *file, struct mapper *mapper, uint64_t offset, enum ramfile_fault_kind kind,
		   uint64_t arrived_ns)
{
	uint64_t block = offset / file->block_bytes;

	offset -= offset % PAGE_BYTES;
	lock_get(&file->lock);
	if (offset >= file->size_bytes) {
		lock_put(&file->lock);
		mapper->ops->wake(mapper, offset, PAGE_BYTES); /* beyond the end: the kernel raises SIGBUS */
		return;
	}
	if (resolve(file, mapper, block, offset, kind, arrived_ns))
		hist_add(&file->faults, clock_ns() - arrived_ns);
}

/* --- promotion on request --------------------------------------------------------------------------------- */

int ramfile_promote(struct ramfile *file, uint64_t offset, uint64_t len, ramfile_progress_fn *progress, void *arg,
		    struct ramfile_moved *ret)
{
	uint64_t size = ramfile_size(file);
	uint64_t end = len > size || offset > size - len ? size : offset + len;
	uint64_t block = offset / file->block_bytes;
	struct ramfile_moved moved = { 0 };

	if (atomic_load(&file->lost))
		return -EIO;
	while (block * file->block_bytes < end) {
		uint64_t left = (end - block * file->block_bytes + file->block_bytes - 1) / file->block_bytes;
		uint64_t loaded = 0, before = block;
		bool cold;
		int err;

		if (progress && !progress(arg, block * file->block_bytes - offset, end - offset))
			return -ECANCELED;
		err = ramfile_load_run(file, NULL, block, left, BUDGET_OPTIONAL, &loaded);
		if (err)
			return err;
		block += loaded;
		moved.moved_bytes += loaded * file->block_bytes;
		/* The run ended at a block that is not cold, or cannot come: step over it. */
		lock_get(&file->lock);
		ramfile_wait_block(file, block);
		cold = block < file->blocks.count && blocks_state(&file->blocks, block) == BLOCK_COLD;
		lock_put(&file->lock);
		if (cold && block != before)
			continue;
		if (cold && block * file->block_bytes < end)
			moved.skipped_bytes += file->block_bytes;
		block++;
	}
	*ret = moved;
	return 0;
}
