/* Huge pages: where they are made, and how they are taken apart again.
 *
 * A unit (mem/huge.h) of fresh memory is made huge in its first fault, if the process asked for it (MADV_HUGEPAGE) and
 * the budget is far. It costs nothing to the process as long as it stays, but heat is that of the whole unit: it is
 * mapped or not mapped. So when the budget comes near, units are split, before anything has to be demoted.
 *
 * BLOCK_HUGE of a unit's first block says that it may be huge, no more: the kernel splits one by itself if a part of it
 * is discarded. What counts is what the page cache says (map/holds.h), and a batch asks that of every block, in step 3.
 * Between that and the punch no large page can come into being: only huge_fill() makes any, of units that are holes.
 *
 * A split drops page-table entries without a zap, so a block may then look idle for longer than it was. That is no
 * danger to a device's write: the kernel splits a large page only if nobody but the page tables and the cache hold a
 * reference to any part of it, so what a device had taken before is done, and who comes later shows in the page tables.
 */
#include "engine/huge.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "mem/huge.h"

#define UNIT_BLOCKS_MAX (HUGE_BYTES / PAGE_BYTES)
/* Units that are split in one go: faults may be waiting for the demoter. */
#define SPLIT_UNITS 64
/* A unit that could not be split is tried again after this. */
#define RETRY_NS NS_PER_S

static uint64_t unit_blocks(const struct ramfile *file)
{
	return HUGE_BYTES / file->block_bytes;
}

/* --- making --------------------------------------------------------------------------------------------------- */

/* Under lock: all of the unit is fresh, and the process wants it huge. */
static bool is_wanted(struct ramfile *file, struct mapper *mapper, uint64_t first)
{
	struct budget *budget = engine_budget(file->engine);
	uint64_t start = first * file->block_bytes, end = start + HUGE_BYTES;

	if (start < atomic_load(&mapper->huge_start) || end > atomic_load(&mapper->huge_end) ||
	    end > file->size_bytes || !engine_sees_holds(file->engine) ||
	    budget_free(budget) < engine_near_bytes(file->engine) + HUGE_BYTES)
		return false;
	for (uint64_t block = first; block < first + unit_blocks(file); block++)
		if (blocks_state(&file->blocks, block) != BLOCK_HOLE ||
		    blocks_has(&file->blocks, block, BLOCK_STORED | BLOCK_DAMAGED))
			return false;
	return true;
}

/* A later daemon must know, before it demotes a part of one. */
static bool mark_arena(struct ramfile *file)
{
	if (!file->huge.marked)
		file->huge.marked = arena_set_mark(&file->arena, ARENA_MARK_HUGE, true) == 0;
	return file->huge.marked;
}

bool huge_zero_unit(struct ramfile *file, struct mapper *mapper, uint64_t block)
{
	uint64_t count = unit_blocks(file), first = block - block % count;
	bool huge = false;
	int err;

	if (!is_wanted(file, mapper, first) || !mark_arena(file) ||
	    !file_reserve(file, count - 1, BUDGET_OPTIONAL)) /* the caller has reserved one */
		return false;
	for (uint64_t i = 0; i < count; i++)
		blocks_set_state(&file->blocks, first + i, BLOCK_LOADING);
	mapper->next_block = first + count;
	mapper->window_blocks = (uint32_t)count;
	lock_put(&file->lock);

	err = huge_fill(&file->arena, first * file->block_bytes, &huge);
	if (err)
		log_error("file %llu: fresh memory cannot be given: %s", (unsigned long long)file->ino, strerror(-err));
	lock_get(&file->lock);
	/* Also after an error: a part of it may be there, and a page that is not is given when it is touched. */
	for (uint64_t i = 0; i < count; i++) {
		heat_used(&file->blocks, first + i);
		file_settle(file, first + i, BLOCK_RESIDENT);
	}
	blocks_set_huge(&file->blocks, first, huge);
	lock_put(&file->lock);
	mappers_wake(file, first, count);
	return true;
}

/* --- splitting ------------------------------------------------------------------------------------------------ */

struct span {
	uint64_t offset, length;
	bool thorough;
};

static void split_one(void *arg, struct mapper *mapper)
{
	const struct span *span = arg;

	mapper->ops->split(mapper, span->offset, span->length, span->thorough);
}

static void split_mapped(struct ramfile *file, uint64_t offset, bool thorough)
{
	struct span span = { .offset = offset - offset % HUGE_BYTES, .length = HUGE_BYTES, .thorough = thorough };

	mappers_each(file, split_one, &span);
}

static bool maybe_huge(struct ramfile *file, uint64_t first, uint64_t count)
{
	uint64_t per = unit_blocks(file);
	bool found = false;

	LOCK_SCOPE(&file->lock);
	for (uint64_t unit = first - first % per; !found && unit < first + count; unit += per)
		found = blocks_has(&file->blocks, unit, BLOCK_HUGE);
	return found;
}

void huge_split_blocks(struct ramfile *file, uint64_t first, uint64_t count, uint8_t *held)
{
	uint64_t start = first * file->block_bytes, end = start + count * file->block_bytes;

	/* First as if nobody mapped them, then in the processes that do. What is held and was never huge is pinned. */
	for (int attempt = 0; attempt < (maybe_huge(file, first, count) ? 3 : 1) && memchr(held, 1, count); attempt++) {
		for (uint64_t offset = start; offset < end; offset += HUGE_BYTES - offset % HUGE_BYTES) {
			uint64_t length = HUGE_BYTES - offset % HUGE_BYTES;

			if (attempt > 0)
				split_mapped(file, offset, attempt > 1);
			huge_split(&file->arena, offset, length < end - offset ? length : end - offset);
		}
		memset(held, 0, count);
		engine_look_holds(file->engine, file, false, first, count, held);
	}
}

struct unit {
	uint64_t first, count;
	uint8_t taken[UNIT_BLOCKS_MAX]; /* blocks that are ours */
	uint8_t used[UNIT_BLOCKS_MAX];
	uint8_t held[UNIT_BLOCKS_MAX];
};

/* Under lock. How many blocks were taken; what is left alone is on its way elsewhere. */
static uint64_t take_unit(struct ramfile *file, struct unit *unit)
{
	uint64_t taken = 0;

	for (uint64_t i = 0; i < unit->count; i++) {
		uint64_t block = unit->first + i;

		if (blocks_state(&file->blocks, block) != BLOCK_RESIDENT ||
		    blocks_has(&file->blocks, block, BLOCK_OWNED))
			continue;
		blocks_set_state(&file->blocks, block, BLOCK_UPDATING);
		unit->taken[i] = 1;
		taken++;
	}
	return taken;
}

/* Under lock. */
static bool is_absent(const struct ramfile *file, const struct unit *unit)
{
	for (uint64_t block = unit->first; block < unit->first + unit->count; block++)
		if (blocks_state(&file->blocks, block) != BLOCK_HOLE &&
		    blocks_state(&file->blocks, block) != BLOCK_COLD)
			return false;
	return true;
}

static void look_one(void *arg, struct mapper *mapper)
{
	struct unit *unit = arg;

	mapper->ops->look(mapper, unit->first, unit->count, unit->used);
}

/* Our blocks, run by run. */
static void split_taken(struct ramfile *file, struct unit *unit)
{
	for (uint64_t i = 0, run; i < unit->count; i += run ? run : 1) {
		for (run = 0; i + run < unit->count && unit->taken[i + run]; run++)
			;
		if (run)
			huge_split(&file->arena, (unit->first + i) * file->block_bytes, run * file->block_bytes);
	}
}

static bool is_held(struct ramfile *file, struct unit *unit)
{
	memset(unit->held, 0, unit->count);
	engine_look_holds(file->engine, file, false, unit->first, unit->count, unit->held);
	return memchr(unit->held, 1, unit->count);
}

static void give_back(struct ramfile *file, struct unit *unit, bool held)
{
	bool waiters = false;

	lock_get(&file->lock);
	for (uint64_t i = 0; i < unit->count; i++) {
		if (!unit->taken[i])
			continue;
		if (unit->used[i])
			heat_used(&file->blocks, unit->first + i);
		waiters |= file_settle(file, unit->first + i, BLOCK_RESIDENT);
	}
	if (!held)
		blocks_set_huge(&file->blocks, unit->first, false);
	lock_put(&file->lock);
	if (waiters)
		mappers_wake(file, unit->first, unit->count);
}

/* Called with the lock held; drops it. False: it may be huge still. */
static bool split_unit(struct ramfile *file, uint64_t first)
{
	struct unit unit = { .first = first, .count = unit_blocks(file) };
	bool held = true;

	if (!take_unit(file, &unit)) {
		bool absent = is_absent(file, &unit);

		if (absent)
			blocks_set_huge(&file->blocks, first, false);
		lock_put(&file->lock);
		return absent;
	}
	lock_put(&file->lock);
	mappers_each(file, look_one, &unit);
	for (int attempt = 0; attempt < 2 && held; attempt++) {
		split_mapped(file, first * file->block_bytes, attempt > 0);
		held = is_held(file, &unit);
		if (held) {
			split_taken(file, &unit);
			held = is_held(file, &unit);
		}
	}
	give_back(file, &unit, held);
	return !held;
}

/* Under lock: the first unit from there on that may be huge, or of whose chunk another may. */
static uint64_t next_huge(const struct ramfile *file, uint64_t unit, uint64_t per)
{
	uint64_t block = blocks_next(&file->blocks, unit, BLOCKS_HUGE);

	return block - block % per;
}

uint64_t huge_split_units(struct ramfile *file, uint64_t first, uint64_t count, uint64_t most)
{
	uint64_t per = unit_blocks(file), done = 0;

	lock_get(&file->lock);
	for (uint64_t unit = first - first % per;
	     done < most && (unit = next_huge(file, unit, per)) < first + count && unit + per <= file->blocks.count;
	     unit += per) {
		if (!blocks_has(&file->blocks, unit, BLOCK_HUGE))
			continue;
		done += split_unit(file, unit);
		lock_get(&file->lock);
	}
	lock_put(&file->lock);
	return done;
}

bool huge_split_some(struct ramfile *file, uint64_t now_ns)
{
	uint64_t done;

	if (now_ns < file->huge.next_split_ns)
		return false;
	done = huge_split_units(file, 0, UINT32_MAX, SPLIT_UNITS);
	file->huge.next_split_ns = done == SPLIT_UNITS ? now_ns : now_ns + RETRY_NS;
	return done == SPLIT_UNITS;
}

/* --- after a start -------------------------------------------------------------------------------------------- */

void huge_load(struct ramfile *file)
{
	uint64_t per = unit_blocks(file);

	file->huge.marked = arena_has_mark(&file->arena, ARENA_MARK_HUGE);
	if (!file->huge.marked)
		return;
	for (uint64_t unit = 0; (unit = blocks_next(&file->blocks, unit, BLOCKS_IN_DRAM)) + per <= file->blocks.count;
	     unit += per) {
		bool there = false;

		for (uint64_t block = unit; block < unit + per; block++)
			there |= blocks_state(&file->blocks, block) == BLOCK_RESIDENT;
		blocks_set_huge(&file->blocks, unit, there);
	}
	if (!engine_sees_holds(file->engine))
		log_warn("file %llu: has huge pages of an earlier daemon, and this one cannot see which: it stays in "
			 "DRAM",
			 (unsigned long long)file->ino);
}

bool huge_is_opaque(const struct ramfile *file)
{
	return file->huge.marked && !engine_sees_holds(file->engine);
}
