/* A thread of a mapper waits for a page: cold blocks, fresh memory, late events; and what to read ahead.
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
#include "engine/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/ahead.h"
#include "engine/away.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/heal.h"
#include "engine/hist.h"
#include "engine/huge.h"
#include "engine/load.h"
#include "engine/mappers.h"
#include "engine/parked.h"
#include "engine/partial.h"
#include "engine/retry.h"
#include "engine/room.h"
#include "engine/sequence.h"
#include "engine/stages.h"
#include "engine/stored.h"
#include "engine/work.h"

/* Fresh memory is given in growing pieces while at least this part of the budget is free. */
#define FAR_DIVISOR 4
#define ZERO_WINDOW_BYTES (UINT64_C(2) << 20)
/* And out of order what lies around: little, for nobody may come for it; more where everything fits. */
#define ZERO_AROUND_BYTES (UINT64_C(64) << 10)
#define ZERO_AROUND_FITS_BYTES (UINT64_C(256) << 10)
/* Read-ahead of one sequence: a part of the budget, within these bounds. */
#define AHEAD_DIVISOR 32
#define AHEAD_MIN_BYTES (UINT64_C(2) << 20)
#define AHEAD_MAX_BYTES (UINT64_C(8) << 20)

/* The page can not be given: the toucher gets SIGBUS, not zeros. */
static void poison(struct ramfile *file, struct mapper *mapper, uint64_t offset, uint64_t length)
{
	int err = mapper ? mapper->ops->poison(mapper, offset, length) : 0;

	if (err)
		log_error("file %llu: offset %llu is damaged and this kernel cannot poison it (%s): who touches it "
			  "waits; end that process",
			  (unsigned long long)file->ino, (unsigned long long)offset, strerror(-err));
}

/* Zeros, put by the mapper, for a fault. */
static int fill_zero(struct ramfile *file, struct mapper *mapper, uint64_t offset, uint64_t length)
{
	uint64_t now_ns = clock_ns();
	struct wait wait;
	int err;

	waits_begin(file, &wait, WAIT_PROCESS, now_ns);
	err = mapper->ops->fill_zero(mapper, offset, length);
	waits_end(file, &wait);
	if (err == -EBUSY)
		waits_refused(mapper, now_ns);
	return err;
}

static void tell_waiting(struct mapper *mapper, bool on)
{
	if (mapper->ops->waiting)
		mapper->ops->waiting(mapper, on);
}

/* The three stages of a cold fault, of a block that the caller owns: get, decode, copy. */
static int bring(struct ramfile *file, struct mapper *mapper, struct work *work, uint64_t block, uint64_t length,
		 struct codec_info *ret)
{
	struct stages *stages = engine_stages(file->engine);
	uint64_t at = clock_ns();
	size_t value_length = 0;
	struct wait wait;
	int err;

	tell_waiting(mapper, true);
	waits_begin(file, &wait, WAIT_STORE, at);
	err = stored_get(file, work, block, &value_length);
	waits_end(file, &wait);
	tell_waiting(mapper, false);
	if (!err) {
		at = stage_end(stages, STAGE_READ, file->ino, block, at);
		err = stored_decode(file, work, block, value_length, work->raw, ret);
	}
	if (err == -EBADMSG)
		err = stored_get_again(file, work, block, work->raw, ret);
	if (err)
		return stored_failed(file, work, block, value_length, err);
	at = stage_end(stages, STAGE_DECODE, file->ino, block, at);
	waits_begin(file, &wait, WAIT_PROCESS, at);
	err = load_place(file, mapper, block * file->block_bytes, work->raw, length);
	waits_end(file, &wait);
	if (!err)
		stage_end(stages, STAGE_COPY, file->ino, block, at);
	return err;
}

/* --- read-ahead ------------------------------------------------------------------------------------------- */

/* Two ranges: what lies before the mark, and what lies behind it. */
static void read_ahead(struct ramfile *file, struct mapper *mapper, const struct sequence_plan *plan)
{
	struct ahead *ahead = engine_ahead(file->engine);
	uint64_t end = plan->first + plan->count;
	uint64_t mark = plan->mark < end ? plan->mark : end;

	ahead_bring(ahead, file, mapper, plan->first, mark - plan->first);
	if (mark < end)
		ahead_bring(ahead, file, mapper, mark + 1, end - mark - 1);
}

static uint32_t ahead_blocks(const struct ramfile *file)
{
	uint64_t bytes = atomic_load(&engine_budget(file->engine)->limit_bytes) / AHEAD_DIVISOR;

	if (bytes < AHEAD_MIN_BYTES)
		bytes = AHEAD_MIN_BYTES;
	if (bytes > AHEAD_MAX_BYTES)
		bytes = AHEAD_MAX_BYTES;
	return (uint32_t)(bytes / file->block_bytes);
}

/* --- one cold block --------------------------------------------------------------------------------------- */

/* A read said EIO. Who touches the range waits, and it is tried again; but it is poisoned if its copy is damaged, or
 * could not be read for long enough. True: it was. The block is the caller's. */
static bool try_later(struct ramfile *file, struct mapper *mapper, uint64_t offset, uint64_t length,
		      uint64_t arrived_ns)
{
	uint64_t block = offset / file->block_bytes;
	bool damaged;

	lock_get(&file->lock);
	damaged = block < file->blocks.count && blocks_has(&file->blocks, block, BLOCK_DAMAGED);
	lock_put(&file->lock);
	if (!damaged && retry_later(engine_retry(file->engine), file, mapper, offset, arrived_ns))
		return false;
	if (!damaged)
		log_error("file %llu: block %llu cannot be read from the store for now: who touches it gets SIGBUS",
			  (unsigned long long)file->ino, (unsigned long long)block);
	poison(file, mapper, offset, length);
	return true;
}

/* The block is LOADING and reserved. */
static void load_one(struct ramfile *file, struct mapper *mapper, uint64_t block, uint64_t arrived_ns)
{
	uint64_t length = file_block_length(file, block);
	struct codec_info info = { 0 };
	struct work *work = NULL;
	bool waiters, there = true, poisoned;
	int err;

	err = work_get(engine_works(file->engine), STORE_GUEST, &work);
	if (!err)
		err = bring(file, mapper, work, block, length, &info);
	work_put(engine_works(file->engine), work);
	if (err)
		there = info.block_bytes && file_has_pages(file, block);
	poisoned = err == -EIO && try_later(file, mapper, block * file->block_bytes, length, arrived_ns);
	lock_get(&file->lock);
	waiters = there ? load_settle(file, block, &info, err != 0) : file_settle(file, block, BLOCK_COLD);
	if (poisoned)
		blocks_set(&file->blocks, block, BLOCK_POISONED);
	lock_put(&file->lock);
	if (there)
		atomic_fetch_add(&file->counts.promotions, 1);
	else
		file_release(file, 1);
	if (waiters || (err && err != -EIO))
		mappers_wake(file, block, 1);
}

/* Called with the lock held, the block COLD and reserved; drops the lock. Long windows are asked for before the block
 * itself: who touched it has come to the end of what was brought, or waits there, and the threads have run dry. */
static void cold_fault(struct ramfile *file, struct mapper *mapper, uint64_t block, uint64_t arrived_ns)
{
	struct stages *stages = engine_stages(file->engine);
	struct sequence_plan plan = { 0 };
	bool ahead = sequences_touch(&mapper->cold, block, ahead_blocks(file), &plan);
	bool ahead_first = ahead && plan.mark != SEQUENCE_NO_MARK;

	blocks_set_state(&file->blocks, block, BLOCK_LOADING);
	lock_put(&file->lock);
	stage_end(stages, STAGE_QUEUE, file->ino, block, arrived_ns);
	if (ahead_first)
		read_ahead(file, mapper, &plan);
	load_one(file, mapper, block, arrived_ns);
	hist_add(&file->faults, stage_end(stages, STAGE_TOTAL, file->ino, block, arrived_ns) - arrived_ns);
	if (ahead && !ahead_first)
		read_ahead(file, mapper, &plan);
}

/* --- holes ------------------------------------------------------------------------------------------------ */

/* Blocks that are given at once, of which the first is reserved. */
struct fresh {
	uint64_t first, count;
};

/* Under lock. */
static bool take_fresh(struct ramfile *file, uint64_t block)
{
	return blocks_empty(&file->blocks, block) && file_reserve(file, 1, BUDGET_OPTIONAL);
}

/* Under lock, the block a HOLE and reserved: what is given with it. Fresh memory is usually touched in order, so the
 * piece doubles with every hit, while the budget is far. Who touches it out of order is likely to come back to what
 * lies around. */
static struct fresh plan_fresh(struct ramfile *file, struct mapper *mapper, uint64_t block)
{
	struct budget *budget = engine_budget(file->engine);
	bool fits = engine_fits(file->engine);
	bool far = fits || budget_free(budget) > atomic_load(&budget->limit_bytes) / FAR_DIVISOR;
	uint64_t around = (fits ? ZERO_AROUND_FITS_BYTES : ZERO_AROUND_BYTES) / file->block_bytes;
	struct fresh fresh = { .first = block, .count = 1 };
	uint64_t begin = block, end = block + 1;

	if (blocks_has(&file->blocks, block, BLOCK_STORED)) /* its key has to be covered first */
		return fresh;
	if (far && block == mapper->next_block && mapper->window_blocks) {
		end = block + mapper->window_blocks * 2U;
		if (end > block + ZERO_WINDOW_BYTES / file->block_bytes)
			end = block + ZERO_WINDOW_BYTES / file->block_bytes;
	} else if (far) {
		begin = block - block % around;
		end = begin + around;
	}
	if (end > file->blocks.count)
		end = file->blocks.count;
	while (fresh.first > begin && take_fresh(file, fresh.first - 1)) {
		fresh.first--;
		fresh.count++;
	}
	while (fresh.first + fresh.count < end && take_fresh(file, fresh.first + fresh.count))
		fresh.count++;
	return fresh;
}

/* Called with the lock held, the block a HOLE and reserved; drops the lock. */
static void zero_run(struct ramfile *file, struct mapper *mapper, uint64_t block)
{
	struct fresh fresh;
	uint64_t count, length, failed = 0;
	bool waiters = false, key_left;
	int err = 0;

	if (huge_zero_unit(file, mapper, block))
		return;
	key_left = blocks_has(&file->blocks, block, BLOCK_STORED);
	fresh = plan_fresh(file, mapper, block);
	block = fresh.first;
	count = fresh.count;
	for (uint64_t i = 0; i < count; i++)
		blocks_set_state(&file->blocks, block + i, BLOCK_LOADING);
	length = (count - 1) * file->block_bytes + file_block_length(file, block + count - 1);
	mapper->next_block = block + count;
	mapper->window_blocks = (uint32_t)count;
	lock_put(&file->lock);

	tell_waiting(mapper, count > 1 || key_left);
	if (key_left)
		err = stored_cover_key(file, block);
	if (!err)
		err = fill_zero(file, mapper, block * file->block_bytes, length);
	lock_get(&file->lock);
	for (uint64_t i = 0; i < count; i++) {
		bool there = !err || file_has_pages(file, block + i);

		if (there)
			heat_used(&file->blocks, block + i);
		failed += !there;
		waiters |= file_settle(file, block + i, there ? BLOCK_RESIDENT : BLOCK_HOLE);
	}
	lock_put(&file->lock);
	file_release(file, failed);
	if (err && err != -EBUSY) {
		log_error("file %llu: fresh memory cannot be given: %s", (unsigned long long)file->ino, strerror(-err));
		atomic_fetch_add(&file->counts.errors, 1);
	}
	/* After -EBUSY the mapper wakes who waits in it when it has recovered. */
	if (waiters || (err && err != -EBUSY))
		mappers_wake(file, block, count);
}

/* --- resident --------------------------------------------------------------------------------------------- */

static bool page_is_there(const struct ramfile *file, uint64_t offset)
{
	uint64_t data;

	return !arena_next_data(&file->arena, offset, &data, NULL) && data < offset + PAGE_BYTES;
}

/* An absent page of a resident block that the caller owns and that is not partial: it was discarded, or has come
 * meanwhile. If the block is damaged nobody knows what belongs there. True: it was poisoned. */
static bool refill_zero(struct ramfile *file, struct mapper *mapper, uint64_t offset, bool damaged)
{
	if (damaged && !page_is_there(file, offset)) {
		poison(file, mapper, offset, PAGE_BYTES);
		return true;
	}
	if (fill_zero(file, mapper, offset, PAGE_BYTES))
		mapper->ops->wake(mapper, offset, PAGE_BYTES); /* it comes again */
	return false;
}

/* Of a partial one it is in the stored copy, which may be readable now. True: it was poisoned. */
static bool refill_stored(struct ramfile *file, struct mapper *mapper, uint64_t block, uint64_t offset,
			  uint64_t arrived_ns)
{
	struct work *work = NULL;
	int err;

	err = work_get(engine_works(file->engine), STORE_GUEST, &work);
	if (!err)
		err = partial_complete(file, work, block);
	work_put(engine_works(file->engine), work);
	if (err == -EIO)
		return try_later(file, mapper, offset, PAGE_BYTES, arrived_ns);
	mapper->ops->wake(mapper, offset, PAGE_BYTES);
	return false;
}

/* Called with the lock held and the block RESIDENT, or STORING and to be cancelled; drops the lock. The event is late
 * (the page came meanwhile), or the page is absent in its block, or a protection was left over. */
static void refresh(struct ramfile *file, struct mapper *mapper, uint64_t block, uint64_t offset, enum fault_kind kind,
		    uint64_t arrived_ns)
{
	uint64_t length = file_block_length(file, block);
	bool cancelled = blocks_state(&file->blocks, block) == BLOCK_STORING;
	bool partial = partial_is(file, block);
	bool damaged = blocks_has(&file->blocks, block, BLOCK_DAMAGED);
	bool was_poisoned = blocks_has(&file->blocks, block, BLOCK_POISONED);
	bool waiters, poisoned = false;
	int heal_err;

	blocks_set_state(&file->blocks, block, BLOCK_UPDATING);
	blocks_clear(&file->blocks, block, BLOCK_POISONED);
	lock_put(&file->lock);
	if (kind != FAULT_PROTECTED)
		poisoned = partial ? refill_stored(file, mapper, block, offset, arrived_ns)
				   : refill_zero(file, mapper, offset, damaged);
	heal_err = was_poisoned ? heal_now(file, block, length) : 0;
	if (cancelled) {
		atomic_fetch_add(&file->counts.demotions_aborted, 1);
		mappers_protect(file, block * file->block_bytes, length, false);
	} else if (kind == FAULT_PROTECTED) {
		mappers_protect_in(mapper, block * file->block_bytes, length, false);
	}
	lock_get(&file->lock);
	heat_used(&file->blocks, block);
	waiters = file_settle(file, block, BLOCK_RESIDENT);
	if (poisoned || heal_err)
		blocks_set(&file->blocks, block, BLOCK_POISONED);
	if (heal_err == -EAGAIN)
		heal_later(file, mapper, block);
	lock_put(&file->lock);
	if (waiters)
		mappers_wake(file, block, 1);
}

/* --- the fault -------------------------------------------------------------------------------------------- */

/* Returns true when the fault was resolved here (and counts), false when it waits for somebody else. Drops the lock. */
static bool resolve(struct ramfile *file, struct mapper *mapper, uint64_t block, uint64_t offset, enum fault_kind kind,
		    uint64_t arrived_ns, bool is_next)
{
	uint64_t turn_ns = 0, stored_bytes;
	bool waits;

	switch (blocks_state(&file->blocks, block)) {
	case BLOCK_HOLE:
	case BLOCK_COLD: /* if it is damaged, too: it may be readable now */
		if (blocks_away(&file->blocks, block)) {
			away_want(file, block);
			lock_put(&file->lock);
			return false;
		}
		stored_bytes = blocks_state(&file->blocks, block) == BLOCK_COLD ? file->blocks.stored_bytes[block] : 0;
		if (stored_bytes)
			turn_ns = flow_take_fault(file, stored_bytes);
		if (!turn_ns && !atomic_load(&file->dram_blocks))
			file_visit(file, clock_ns());
		/* Who waits already is not passed by. */
		waits = turn_ns || (!is_next && atomic_load(&file->engine->room.queue));
		if (waits || !file_reserve(file, 1, fault_needs(kind))) {
			lock_put(&file->lock);
			if (stored_bytes && !turn_ns)
				flow_return_fault(file, stored_bytes);
			parked_add(file->engine, file, mapper, offset, kind, arrived_ns, turn_ns);
			return false;
		}
		if (blocks_state(&file->blocks, block) == BLOCK_HOLE) {
			zero_run(file, mapper, block);
			return true;
		}
		cold_fault(file, mapper, block, arrived_ns);
		return false;
	case BLOCK_STORING:
		if (blocks_has(&file->blocks, block, BLOCK_COMMITTING)) {
			blocks_set(&file->blocks, block, BLOCK_WAITERS);
			lock_put(&file->lock);
			return false;
		}
		refresh(file, mapper, block, offset, kind, arrived_ns);
		return true;
	case BLOCK_RESIDENT:
		refresh(file, mapper, block, offset, kind, arrived_ns);
		return true;
	case BLOCK_LOADING:
	case BLOCK_UPDATING:
		blocks_set(&file->blocks, block, BLOCK_WAITERS);
		heal_later(file, mapper, block);
		lock_put(&file->lock);
		return false;
	}
	lock_put(&file->lock);
	return false;
}

static void serve(struct ramfile *file, struct mapper *mapper, uint64_t offset, enum fault_kind kind,
		  uint64_t arrived_ns, bool is_next)
{
	uint64_t block = offset / file->block_bytes;

	offset -= offset % PAGE_BYTES;
	lock_get(&file->lock);
	if (offset >= file->size_bytes) {
		lock_put(&file->lock);
		mapper->ops->wake(mapper, offset, PAGE_BYTES); /* beyond the end: the kernel raises SIGBUS */
		return;
	}
	if (resolve(file, mapper, block, offset, kind, arrived_ns, is_next))
		hist_add(&file->faults, clock_ns() - arrived_ns);
}

bool fault_favour(struct ramfile *file, uint64_t offset)
{
	LOCK_SCOPE(&file->lock);

	return offset < file->size_bytes && heat_favour(&file->blocks, offset / file->block_bytes);
}

void fault_serve(struct ramfile *file, struct mapper *mapper, uint64_t offset, enum fault_kind kind,
		 uint64_t arrived_ns)
{
	serve(file, mapper, offset, kind, arrived_ns, false);
}

bool fault_resume(struct engine *engine)
{
	struct parked *parked;

	if (budget_free(&engine->budget) < engine->config.block_bytes)
		return false;
	parked = parked_next(engine);
	if (!parked)
		return false;
	if (!parked->for_turn)
		stage_end(&engine->stages, STAGE_ROOM, parked->file->ino, parked->offset / engine->config.block_bytes,
			  parked->arrived_ns);
	serve(parked->file, parked->mapper, parked->offset, parked->kind, parked->arrived_ns, true);
	mappers_drop(parked->file, parked->mapper);
	free(parked);
	return true;
}
