/* What every file of the engine does with a block: lengths, waiting for a passing state and ending it, budget, changes.
 * file.h has the design. */
#include "engine/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/heal.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/room.h"

/* --- sizes ----------------------------------------------------------------------------------------------- */

uint64_t file_block_length(const struct ramfile *file, uint64_t block)
{
	uint64_t left = file_whole_pages(file->size_bytes) - block * file->block_bytes;

	return left < file->block_bytes ? left : file->block_bytes;
}

uint64_t file_block_content(const struct ramfile *file, uint64_t block)
{
	uint64_t left = file->size_bytes - block * file->block_bytes;

	return left < file->block_bytes ? left : file->block_bytes;
}

/* --- states ---------------------------------------------------------------------------------------------- */

void file_wait_block(struct ramfile *file, uint64_t block)
{
	while (block < file->blocks.count && blocks_passing(&file->blocks, block)) {
		blocks_set(&file->blocks, block, BLOCK_WAITERS);
		lock_wait(&file->lock, &file->settled);
	}
}

void file_wait_owner(struct ramfile *file, uint64_t block)
{
	while (block < file->blocks.count &&
	       (blocks_passing(&file->blocks, block) || blocks_has(&file->blocks, block, BLOCK_OWNED))) {
		blocks_set(&file->blocks, block, BLOCK_WAITERS);
		lock_wait(&file->lock, &file->settled);
	}
}

bool file_settle(struct ramfile *file, uint64_t block, enum block_state state)
{
	bool waiters = blocks_has(&file->blocks, block, BLOCK_WAITERS);

	blocks_clear(&file->blocks, block, BLOCK_WAITERS);
	blocks_set_state(&file->blocks, block, state);
	if (state != BLOCK_COLD && !partial_is(file, block))
		heal_soon(file, block);
	if (waiters)
		pthread_cond_broadcast(&file->settled);
	return waiters;
}

void file_end_update(struct ramfile *file, uint64_t block, enum block_state state)
{
	bool waiters;

	lock_get(&file->lock);
	waiters = file_settle(file, block, state);
	lock_put(&file->lock);
	if (waiters)
		mappers_wake(file, block, 1);
}

enum block_state file_begin_update(struct ramfile *file, uint64_t block)
{
	enum block_state state;

	file_wait_owner(file, block);
	state = blocks_state(&file->blocks, block);
	blocks_set_state(&file->blocks, block, BLOCK_UPDATING);
	return state;
}

/* --- length ------------------------------------------------------------------------------------------------- */

bool file_try_resize(struct ramfile *file)
{
	bool free;

	LOCK_SCOPE(&file->lock);
	free = !file->resizing;
	file->resizing = true;
	return free;
}

void file_begin_resize(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);
	while (file->resizing)
		lock_wait(&file->lock, &file->settled);
	file->resizing = true;
}

void file_end_resize(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);
	file->resizing = false;
	pthread_cond_broadcast(&file->settled);
}

/* --- budget and changes ---------------------------------------------------------------------------------- */

bool file_reserve(struct ramfile *file, uint64_t blocks, enum budget_need need)
{
	uint64_t bytes = blocks * file->block_bytes;
	bool near = false;

	if (!room_allows(file, bytes, need) || room_leaves_until(file, bytes, need))
		return false;
	if (!tenant_charge(file, bytes, need, &near))
		return false;
	if (need == BUDGET_OPTIONAL && engine_fits(file->engine))
		need = BUDGET_MUST;
	if (near)
		room_near(file->engine);
	if (!budget_reserve(engine_budget(file->engine), bytes, need)) {
		tenant_discharge(file, bytes);
		return false;
	}
	if (atomic_fetch_add(&file->dram_blocks, blocks) == 0)
		due_look(file);
	room_used(file->engine);
	if (room_missing_of(file) && !atomic_exchange(&file->limit.near, true)) {
		due_pull(file);
		engine_kick(file->engine);
	}
	return true;
}

void file_force(struct ramfile *file, uint64_t blocks)
{
	if (blocks && atomic_fetch_add(&file->dram_blocks, blocks) == 0)
		due_look(file);
	room_force(file, blocks * file->block_bytes);
}

void file_release(struct ramfile *file, uint64_t blocks)
{
	if (!blocks)
		return;
	if (atomic_fetch_sub(&file->dram_blocks, blocks) == blocks)
		due_look(file);
	room_release(file, blocks * file->block_bytes);
}

int file_begin_change(struct ramfile *file)
{
	int err = 0;

	if (atomic_load(&file->lost))
		return -EIO;
	/* Counted first: from here on the file cannot be marked clean. */
	lock_get(&file->lock);
	file->changes.at_work++;
	lock_put(&file->lock);
	if (!atomic_load(&file->dirty)) {
		err = file->on_dirty ? file->on_dirty(file->on_dirty_arg, file->ino) : 0;
		if (!err)
			atomic_store(&file->dirty, true);
	}
	if (err)
		file_end_change(file);
	return err && err != -ENOSPC ? -EIO : err;
}

void file_end_change(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	file->changes.at_work--;
	file->changes.ended++;
}

/* --- small things ---------------------------------------------------------------------------------------- */

uint64_t file_size(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	return file->size_bytes;
}

uint64_t file_memory_bytes(struct ramfile *file)
{
	return file_whole_pages(file_size(file));
}

void file_on_dirty(struct ramfile *file, file_dirty_fn *fn, void *arg)
{
	file->on_dirty = fn;
	file->on_dirty_arg = arg;
}

void file_count_direct(struct ramfile *file, uint64_t read_bytes, uint64_t write_bytes)
{
	atomic_fetch_add(&file->counts.direct_read_bytes, read_bytes);
	atomic_fetch_add(&file->counts.direct_write_bytes, write_bytes);
}

bool file_has_pages(const struct ramfile *file, uint64_t block)
{
	uint64_t offset = block * file->block_bytes, data;
	int err = arena_next_data(&file->arena, offset, &data, NULL);

	return err ? err != -ENXIO : data < offset + file->block_bytes;
}

void file_visit(struct ramfile *file, uint64_t now_ns)
{
	uint64_t rounds = due_slept(file, now_ns);

	if (rounds)
		heat_slept(&file->heat, &file->blocks, rounds);
}

static bool is_mapped(struct ramfile *file)
{
	LOCK_SCOPE(&file->mappers.lock);

	return file->mappers.count > 0;
}

void file_used(struct ramfile *file, uint64_t block)
{
	if (is_mapped(file))
		heat_used(&file->blocks, block);
	else
		heat_begin(&file->blocks, block);
}

void file_promoted(struct ramfile *file, uint64_t block)
{
	heat_promoted(&file->heat, &file->blocks, block);
	if (!is_mapped(file))
		heat_begin(&file->blocks, block);
}

void file_set_age(struct ramfile *file, uint64_t block, uint8_t generation)
{
	bool mapped = is_mapped(file);

	if (!mapped)
		heat_begin(&file->blocks, block);
	if (mapped || generation)
		heat_set_age(&file->blocks, block, generation);
}

bool file_may_be_dirty(const struct ramfile *file, uint64_t block)
{
	return file->cache.opens && (file->cache.unknown || blocks_has(&file->blocks, block, BLOCK_CACHED));
}

/* --- checks ---------------------------------------------------------------------------------------------- */

static void check_failed(const struct ramfile *file, uint64_t block, const char *what)
{
	fprintf(stderr, "tierfs: file %llu: block %llu: %s\n", (unsigned long long)file->ino, (unsigned long long)block,
		what);
	abort();
}

/* By the page rule a page that is present wins: of a block that is a hole or cold it would hide what that is. */
static void check_arena(const struct ramfile *file)
{
	uint64_t offset = 0, start, end;

	while (arena_next_data(&file->arena, offset, &start, &end) == 0) {
		for (uint64_t block = start / file->block_bytes; block * file->block_bytes < end; block++) {
			if (block >= file->blocks.count)
				check_failed(file, block, "pages beyond the end");
			if (blocks_state(&file->blocks, block) < BLOCK_RESIDENT)
				check_failed(file, block, "pages in the arena, and not resident");
		}
		offset = end;
	}
}

void file_check(struct ramfile *file)
{
	const uint64_t *in_state = file->blocks.in_state;

	LOCK_SCOPE(&file->lock);
	blocks_check(&file->blocks);
	for (int mapped = 0; mapped < 2; mapped++)
		heat_check(&file->heat, &file->blocks,
			   &(struct heat_filter){ .now_ns = clock_ns(),
						  .min_idle_ns = engine_min_idle(file->engine),
						  .mapped = mapped });
	if (file->arena.fd >= 0 && file->loaded && !atomic_load(&file->lost))
		check_arena(file);
	if (atomic_load(&file->dram_blocks) < in_state[BLOCK_RESIDENT] + in_state[BLOCK_STORING])
		check_failed(file, 0, "more blocks in DRAM than were reserved");
}

void file_check_idle(struct ramfile *file)
{
	const struct blocks *blocks = &file->blocks;
	uint64_t charged, stored;

	file_check(file);
	LOCK_SCOPE(&file->lock);
	if (blocks->in_state[BLOCK_LOADING] || blocks->in_state[BLOCK_STORING] || blocks->in_state[BLOCK_UPDATING])
		check_failed(file, 0, "a block is in a passing state for ever");
	if (atomic_load(&file->dram_blocks) != blocks->in_state[BLOCK_RESIDENT])
		check_failed(file, 0, "blocks were reserved in DRAM that are not there");
	lock_get(&file->engine->tenants.lock);
	charged = file->charge.bytes;
	stored = file->charge.stored_bytes + file->charge.putting_bytes;
	lock_put(&file->engine->tenants.lock);
	if (stored != blocks->stored_total_bytes)
		check_failed(file, 0, "what is charged as stored is not what is stored");
	if (charged != (atomic_load(&file->dram_blocks) + blocks->cached) * file->block_bytes)
		check_failed(file, 0, "what is charged for it is not what is there");
	if (file->batches.at_work || file->batches.attaching || file->changes.at_work != file->mappers.count)
		check_failed(file, 0, "a change never ended");
}
