/* What all files of a mount share, and the list of them. It calls nobody above it: what the demoter does, and who waits
 * for room, is data here. */
#include "engine/engine.h"

#include <errno.h>
#include <string.h>

#include "engine/file.h"

/* With less of them left the budget is near. */
#define NEAR_RESERVES 4

bool engine_begin_wait(struct engine *engine, enum engine_wait what, unsigned int most)
{
	return atomic_fetch_add(&engine->waits[what], 1) < most;
}

void engine_end_wait(struct engine *engine, enum engine_wait what)
{
	atomic_fetch_sub(&engine->waits[what], 1);
}

/* --- the list of files ----------------------------------------------------------------------------------- */

static bool has_dram(struct ramfile *file)
{
	return atomic_load(&file->dram_blocks) || atomic_load(&file->cache.was_cached);
}

static bool is_any(struct ramfile *file)
{
	(void)file;
	return true;
}

static bool is_watched(struct ramfile *file)
{
	return atomic_load(&file->watch.wanted);
}

/* Under the lock. */
static void end_visit(struct engine *engine, struct ramfile *file)
{
	if (--file->visits == 0)
		pthread_cond_broadcast(&engine->unvisited);
}

static void each_file(struct engine *engine, bool (*wanted)(struct ramfile *file), engine_file_fn *fn, void *arg)
{
	struct ramfile *file, *next;

	lock_get(&engine->lock);
	for (file = TAILQ_FIRST(&engine->files); file; file = next) {
		if (file->leaving || !wanted(file)) {
			next = TAILQ_NEXT(file, link);
			continue;
		}
		file->visits++;
		lock_put(&engine->lock);
		fn(arg, file);
		lock_get(&engine->lock);
		next = TAILQ_NEXT(file, link);
		end_visit(engine, file);
	}
	lock_put(&engine->lock);
}

void engine_visit(struct engine *engine, struct ramfile *file)
{
	LOCK_SCOPE(&engine->lock);

	file->visits++;
}

void engine_leave(struct engine *engine, struct ramfile *file)
{
	LOCK_SCOPE(&engine->lock);

	end_visit(engine, file);
}

/* Under the lock: the file, or the next one behind it up to the end, that has something in DRAM. */
static struct ramfile *resident_from(struct ramfile *file)
{
	while (file && (file->leaving || !has_dram(file)))
		file = TAILQ_NEXT(file, link);
	if (file)
		file->visits++;
	return file;
}

struct ramfile *engine_resident_from(struct engine *engine, uint64_t ino)
{
	struct ramfile *file;

	LOCK_SCOPE(&engine->lock);
	TAILQ_FOREACH(file, &engine->files, link)
		if (file->ino == ino)
			break;
	file = resident_from(file);
	return file ? file : resident_from(TAILQ_FIRST(&engine->files));
}

struct ramfile *engine_resident_after(struct engine *engine, struct ramfile *file, bool *ret_round)
{
	struct ramfile *next;

	LOCK_SCOPE(&engine->lock);
	next = resident_from(TAILQ_NEXT(file, link));
	*ret_round = !next;
	if (!next)
		next = resident_from(TAILQ_FIRST(&engine->files));
	end_visit(engine, file);
	return next;
}

void engine_each_file(struct engine *engine, engine_file_fn *fn, void *arg)
{
	each_file(engine, is_any, fn, arg);
}

void engine_each_resident(struct engine *engine, engine_file_fn *fn, void *arg)
{
	each_file(engine, has_dram, fn, arg);
}

void engine_each_watched(struct engine *engine, engine_file_fn *fn, void *arg)
{
	each_file(engine, is_watched, fn, arg);
}

int engine_add_file(struct engine *engine, struct ramfile *file)
{
	int err = due_add(file);

	if (err)
		return err;
	lock_get(&file->lock);
	engine_set_demand(engine, file);
	lock_put(&file->lock);
	lock_get(&engine->lock);
	TAILQ_INSERT_TAIL(&engine->files, file, link);
	file->listed = true;
	lock_put(&engine->lock);
	engine_kick(engine);
	return 0;
}

/* Under the lock: blocks that are pinned, of all files that are charged to the tenant. */
static uint64_t count_pins(struct engine *engine, uint64_t tenant)
{
	struct ramfile *file;
	uint64_t pinned = 0;

	TAILQ_FOREACH(file, &engine->files, link) {
		if (!tenant_covers(engine, tenant, file))
			continue;
		lock_get(&file->lock);
		pinned += file->blocks.pinned;
		lock_put(&file->lock);
	}
	return pinned;
}

/* Under the lock: blocks of the file that may be pinned more, by the budget and by each tenant it is charged to. */
static uint64_t pins_left(struct engine *engine, struct ramfile *file)
{
	uint64_t most = engine_dram_bytes(engine) / 2 / engine->config.block_bytes, left, max_bytes, tenant = 0;
	uint64_t pinned = count_pins(engine, 0);

	left = most > pinned ? most - pinned : 0;
	while (tenant_above(file, &tenant, &max_bytes)) {
		uint64_t kept = tenant_kept_of(max_bytes);

		most = max_bytes > kept ? (max_bytes - kept) / engine->config.block_bytes : 0;
		pinned = count_pins(engine, tenant);
		if ((most > pinned ? most - pinned : 0) < left)
			left = most > pinned ? most - pinned : 0;
	}
	return left;
}

int engine_pin(struct engine *engine, struct ramfile *file, uint64_t first, uint64_t end)
{
	uint64_t left, wanted = 0, last;

	LOCK_SCOPE(&engine->lock); /* one pin at a time */
	left = pins_left(engine, file);
	LOCK_SCOPE(&file->lock);
	last = end / file->block_bytes + (end % file->block_bytes != 0);
	if (last > file->blocks.count)
		last = file->blocks.count;
	if (last > first && last - first > left + file->blocks.pinned)
		return -ENOMEM;
	for (uint64_t block = first; block < last; block++)
		wanted += !blocks_has(&file->blocks, block, BLOCK_PINNED);
	if (wanted > left)
		return -ENOMEM;
	for (uint64_t block = first; block < last; block++)
		blocks_set_pinned(&file->blocks, block, true);
	return 0;
}

void engine_remove_file(struct engine *engine, struct ramfile *file)
{
	lock_get(&engine->lock);
	file->leaving = true;
	due_remove(file);
	while (file->visits)
		lock_wait(&engine->lock, &engine->unvisited);
	if (file->listed)
		TAILQ_REMOVE(&engine->files, file, link);
	file->listed = false;
	lock_put(&engine->lock);
	if (atomic_exchange(&file->limit.bytes, UINT64_MAX) != UINT64_MAX)
		atomic_fetch_sub(&engine->room.limited, 1);
	lock_get(&file->lock);
	atomic_fetch_sub(&engine->demand_bytes, file->demand_bytes);
	file->demand_bytes = 0;
	lock_put(&file->lock);
}

/* --- what is common -------------------------------------------------------------------------------------- */

struct store *engine_store(struct engine *engine)
{
	return engine->config.store;
}

struct budget *engine_budget(struct engine *engine)
{
	return &engine->budget;
}

struct work_pool *engine_works(struct engine *engine)
{
	return &engine->works;
}

struct crew *engine_crew(struct engine *engine)
{
	return engine->crew;
}

struct retry *engine_retry(struct engine *engine)
{
	return engine->retry;
}

struct ahead *engine_ahead(struct engine *engine)
{
	return engine->ahead;
}

struct stages *engine_stages(struct engine *engine)
{
	return &engine->stages;
}

bool engine_sees_holds(const struct engine *engine)
{
	return engine->config.holds;
}

void engine_count_visited(struct engine *engine, uint64_t blocks)
{
	atomic_fetch_add(&engine->visited_blocks, blocks);
}

uint64_t engine_near_bytes(struct engine *engine)
{
	return engine_fits(engine) ? 0 : NEAR_RESERVES * budget_reserve_bytes(&engine->budget);
}

void engine_look_holds(struct engine *engine, struct ramfile *file, bool referenced, uint64_t first, uint64_t count,
		       uint8_t *held)
{
	uint8_t held_pages[SCAN_BLOCKS];
	uint64_t pages = file->block_bytes / PAGE_BYTES, at_once = SCAN_BLOCKS / pages;

	for (uint64_t done = 0; engine->config.holds && done < count; done += at_once) {
		uint64_t blocks = count - done < at_once ? count - done : at_once;

		if (engine->config.holds(engine->config.holds_arg, referenced, file->arena.fd, (first + done) * pages,
					 blocks * pages, held_pages))
			memset(held_pages, 1, blocks * pages);
		for (uint64_t page = 0; page < blocks * pages; page++)
			if (held_pages[page])
				held[done + page / pages] = 1;
	}
}

int engine_arena_dir(struct engine *engine)
{
	return engine->config.arena_dir;
}

uint32_t engine_block_bytes(const struct engine *engine)
{
	return engine->config.block_bytes;
}

uint64_t engine_dram_bytes(struct engine *engine)
{
	return atomic_load(&engine->budget.limit_bytes);
}

uint64_t engine_min_idle(const struct engine *engine)
{
	return atomic_load(&engine->min_idle_ns);
}

uint64_t engine_referenced_idle(const struct engine *engine)
{
	return atomic_load(&engine->referenced_idle_ns);
}

/* --- what the files want, and the demoter ---------------------------------------------------------------- */

void engine_set_demand(struct engine *engine, struct ramfile *file)
{
	/* What is mapped plain may be in the kernel's cache and, for a while, in the arena too. */
	uint64_t bytes = file->blocks.count * file->block_bytes * (file->cache.opens ? 2 : 1);

	atomic_fetch_add(&engine->demand_bytes, bytes - file->demand_bytes);
	file->demand_bytes = bytes;
}

/* Under the lock of room.h. */
void engine_wake_demoter(struct engine *engine)
{
	engine->room.kicked = true;
	pthread_cond_signal(&engine->room.wakeup);
	engine_wake_reclaim(engine);
}

void engine_wake_reclaim(struct engine *engine)
{
	engine->room.calls++;
	pthread_cond_signal(&engine->room.reclaim);
}

void engine_kick(struct engine *engine)
{
	lock_get(&engine->room.lock);
	engine_wake_demoter(engine);
	pthread_cond_signal(&engine->room.squeeze);
	lock_put(&engine->room.lock);
}
