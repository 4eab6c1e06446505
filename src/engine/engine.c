/* What all files of a mount share, and the list of them. It calls nobody above it: what the demoter does, and who waits
 * for room, is data here. */
#include "engine/engine.h"

#include <errno.h>
#include <string.h>

#include "engine/file.h"

/* With less of them left the budget is near. */
#define NEAR_RESERVES 4

_Atomic unsigned int *tier_away_waits(struct tier *tier)
{
	return &tier->away_waits;
}

/* --- the list of files ----------------------------------------------------------------------------------- */

static void each_file(struct tier *tier, bool resident, tier_file_fn *fn, void *arg)
{
	struct ramfile *file, *next;

	lock_get(&tier->lock);
	for (file = TAILQ_FIRST(&tier->files); file; file = next) {
		if (resident && !atomic_load(&file->dram_blocks) && !atomic_load(&file->was_cached)) {
			next = TAILQ_NEXT(file, link);
			continue;
		}
		file->visits++;
		lock_put(&tier->lock);
		fn(arg, file);
		lock_get(&tier->lock);
		next = TAILQ_NEXT(file, link);
		if (--file->visits == 0)
			pthread_cond_broadcast(&tier->unvisited);
	}
	lock_put(&tier->lock);
}

void tier_each_file(struct tier *tier, tier_file_fn *fn, void *arg)
{
	each_file(tier, false, fn, arg);
}

void tier_each_resident(struct tier *tier, tier_file_fn *fn, void *arg)
{
	each_file(tier, true, fn, arg);
}

int tier_add_file(struct tier *tier, struct ramfile *file)
{
	lock_get(&file->lock);
	tier_set_demand(tier, file);
	lock_put(&file->lock);
	lock_get(&tier->lock);
	TAILQ_INSERT_TAIL(&tier->files, file, link);
	file->listed = true;
	lock_put(&tier->lock);
	tier_kick(tier);
	return 0;
}

int tier_pin(struct tier *tier, struct ramfile *file, uint64_t first, uint64_t end)
{
	uint64_t most = tier_dram_bytes(tier) / 2 / tier->config.block_bytes, pinned = 0;
	struct ramfile *other;
	uint64_t last;

	LOCK_SCOPE(&tier->lock); /* one pin at a time */
	TAILQ_FOREACH(other, &tier->files, link) {
		lock_get(&other->lock);
		pinned += other->blocks.pinned;
		lock_put(&other->lock);
	}
	lock_get(&file->lock);
	last = end / file->block_bytes + (end % file->block_bytes != 0);
	if (last > file->blocks.count)
		last = file->blocks.count;
	if (last > first && last - first > most + file->blocks.pinned) {
		lock_put(&file->lock);
		return -ENOMEM;
	}
	for (uint64_t block = first; block < last; block++)
		pinned += !blocks_has(&file->blocks, block, BLOCK_PINNED);
	for (uint64_t block = first; block < last && pinned <= most; block++)
		blocks_set_pinned(&file->blocks, block, true);
	lock_put(&file->lock);
	return pinned <= most ? 0 : -ENOMEM;
}

void tier_remove_file(struct tier *tier, struct ramfile *file)
{
	lock_get(&tier->lock);
	while (file->visits)
		lock_wait(&tier->lock, &tier->unvisited);
	if (file->listed)
		TAILQ_REMOVE(&tier->files, file, link);
	file->listed = false;
	lock_put(&tier->lock);
	lock_get(&file->lock);
	atomic_fetch_sub(&tier->demand_bytes, file->demand_bytes);
	file->demand_bytes = 0;
	lock_put(&file->lock);
}

/* --- what is common -------------------------------------------------------------------------------------- */

struct store *tier_store(struct tier *tier)
{
	return tier->config.store;
}

struct budget *tier_budget(struct tier *tier)
{
	return &tier->budget;
}

struct work_pool *tier_works(struct tier *tier)
{
	return &tier->works;
}

struct crew *tier_crew(struct tier *tier)
{
	return tier->crew;
}

struct retry *tier_retry(struct tier *tier)
{
	return tier->retry;
}

struct ahead *tier_ahead(struct tier *tier)
{
	return tier->ahead;
}

struct stages *tier_stages(struct tier *tier)
{
	return &tier->stages;
}

bool tier_sees_pins(const struct tier *tier)
{
	return tier->config.pins;
}

void tier_count_pinned(struct tier *tier, uint64_t blocks)
{
	atomic_fetch_add(&tier->pinned_blocks, blocks);
}

void tier_count_visited(struct tier *tier, uint64_t blocks)
{
	atomic_fetch_add(&tier->visited_blocks, blocks);
}

uint64_t tier_near_bytes(struct tier *tier)
{
	return tier_fits(tier) ? 0 : NEAR_RESERVES * budget_reserve_bytes(&tier->budget);
}

void tier_look_pins(struct tier *tier, struct ramfile *file, bool referenced, uint64_t first, uint64_t count,
		    uint8_t *held)
{
	uint8_t pinned[SCAN_BLOCKS];
	uint64_t pages = file->block_bytes / PAGE_BYTES, at_once = SCAN_BLOCKS / pages;

	for (uint64_t done = 0; tier->config.pins && done < count; done += at_once) {
		uint64_t blocks = count - done < at_once ? count - done : at_once;

		if (tier->config.pins(tier->config.pins_arg, referenced, file->arena.fd, (first + done) * pages,
				      blocks * pages, pinned))
			memset(pinned, 1, blocks * pages);
		for (uint64_t page = 0; page < blocks * pages; page++)
			if (pinned[page])
				held[done + page / pages] = 1;
	}
}

int tier_arena_dir(struct tier *tier)
{
	return tier->config.arena_dir;
}

uint32_t tier_block_bytes(const struct tier *tier)
{
	return tier->config.block_bytes;
}

uint64_t tier_dram_bytes(struct tier *tier)
{
	return atomic_load(&tier->budget.limit_bytes);
}

uint64_t tier_min_idle(const struct tier *tier)
{
	return atomic_load(&tier->min_idle_ns);
}

uint64_t tier_referenced_idle(const struct tier *tier)
{
	return atomic_load(&tier->referenced_idle_ns);
}

/* --- what the files want, and the demoter ---------------------------------------------------------------- */

bool tier_fits(struct tier *tier)
{
	return atomic_load(&tier->demand_bytes) <= atomic_load(&tier->budget.limit_bytes);
}

void tier_set_demand(struct tier *tier, struct ramfile *file)
{
	/* What is mapped plain may be in the kernel's cache and, for a while, in the arena too. */
	uint64_t bytes = file->blocks.count * file->block_bytes * (file->cached_opens ? 2 : 1);

	atomic_fetch_add(&tier->demand_bytes, bytes - file->demand_bytes);
	file->demand_bytes = bytes;
}

/* Under parked_lock. */
void tier_wake_demoter(struct tier *tier)
{
	tier->kicked = true;
	pthread_cond_signal(&tier->wakeup);
}

void tier_kick(struct tier *tier)
{
	lock_get(&tier->parked_lock);
	tier_wake_demoter(tier);
	pthread_cond_signal(&tier->squeeze);
	lock_put(&tier->parked_lock);
}
