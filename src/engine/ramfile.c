/* Life of a RAM file: it is loaded and put away; what of it is where. file.h has the design. */
#include "engine/ramfile.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cold/codec.h"
#include "engine/away.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/hist.h"
#include "engine/huge.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/quota.h"
#include "engine/work.h"
#include "mem/huge.h"

#define MAX_BLOCKS UINT64_C(0xffffffff)
/* Debug builds look at all of a smaller table when it goes. */
#define CHECK_BLOCKS_MAX (UINT64_C(1) << 20)

/* --- load ------------------------------------------------------------------------------------------------- */

/* The table knows what is away by a length. Of other values of the old form one may have that as well. */
static uint32_t table_length(const struct codec_info *info, uint32_t length_bytes)
{
	if (info->kind == CODEC_AWAY)
		return BLOCK_AWAY_BYTES;
	return length_bytes == BLOCK_AWAY_BYTES ? length_bytes + 1 : length_bytes;
}

static int load_key(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct blocks *blocks = arg;
	struct codec_info info;
	struct tierfs_ident ident = IDENT_NONE;

	if (key.block >= blocks->count)
		return 0; /* left behind by a truncate that did not finish: removed when the file grows over it */
	blocks_place(blocks, key.block, BLOCK_COLD);
	if (codec_peek(value, length_bytes, &info) == 0 && length_bytes == info.header_bytes + info.payload_bytes) {
		ident = info.ident;
		length_bytes = table_length(&info, length_bytes);
		heat_set_age(blocks, key.block, info.hotness.generation);
		blocks_set_tier(blocks, key.block, info.hotness.tier & HEAT_TIER_MAX);
	} else {
		blocks_set(blocks, key.block, BLOCK_DAMAGED);
		if (length_bytes == BLOCK_AWAY_BYTES)
			length_bytes++;
	}
	blocks_set_stored(blocks, key.block, length_bytes, ident);
	return 0;
}

/* What the store has of the file. */
static int load_keys(struct ramfile *file, struct blocks *blocks)
{
	struct store *store = engine_store(file->engine);

	return store->ops->heads(store, file->ino, 0, UINT64_MAX, load_key, blocks);
}

static int load_arena(struct ramfile *file, struct work *work)
{
	uint64_t offset = 0, start, end;
	int err;

	while ((err = arena_next_data(&file->arena, offset, &start, &end)) == 0) {
		for (uint64_t block = start / file->block_bytes; block * file->block_bytes < end; block++) {
			uint64_t from = block * file->block_bytes;
			bool whole = start <= from && end >= from + file_block_length(file, block);

			if (blocks_state(&file->blocks, block) != BLOCK_RESIDENT) {
				blocks_place(&file->blocks, block, BLOCK_RESIDENT);
				heat_used(&file->blocks, block);
				file_force(file, 1);
			}
			if (blocks_away(&file->blocks, block)) {
				/* A write to DRAM over a key that a failed put had left. The key is of no use. */
				blocks_set_stored(&file->blocks, block, BLOCK_AWAY_BYTES + 1, IDENT_NONE);
				if (!whole)
					blocks_set(&file->blocks, block, BLOCK_DAMAGED);
				continue;
			}
			if (whole)
				blocks_clear(&file->blocks, block, BLOCK_DAMAGED); /* nothing is needed of its key */
			if (whole)
				continue;
			partial_leave(file, block);
			/* A promotion was cut short, or the kernel had written back a part of the block. What cannot be
			 * read now may be readable when it is needed. */
			err = partial_complete(file, work, block);
			if (err && err != -EIO)
				return err;
		}
		offset = end;
	}
	return err == -ENXIO ? 0 : err;
}

static int load_table(struct ramfile *file)
{
	struct work *work;
	int err;

	if (atomic_load(&file->lost))
		return 0;
	err = work_get(engine_works(file->engine), STORE_DIRECT, &work);
	if (err)
		return err;
	err = load_keys(file, &file->blocks);
	if (!err)
		err = load_arena(file, work);
	if (!err)
		huge_load(file);
	work_put(engine_works(file->engine), work);
	return err;
}

static int size_check(const struct ramfile *file, uint64_t size_bytes)
{
	return size_bytes / file->block_bytes < MAX_BLOCKS && size_bytes <= INT64_MAX ? 0 : -EFBIG;
}

int ramfile_load(struct engine *engine, uint64_t ino, uint64_t size_bytes, bool lost, struct ramfile **ret)
{
	struct ramfile *file = calloc(1, sizeof(*file));
	int err;

	if (!file)
		return -ENOMEM;
	file->engine = engine;
	file->ino = ino;
	file->block_bytes = engine_block_bytes(engine);
	file->size_bytes = size_bytes;
	file->loaded_ns = clock_ns();
	atomic_init(&file->lost, lost);
	atomic_init(&file->limit.bytes, UINT64_MAX);
	atomic_init(&file->limit.growth_bytes, UINT64_MAX);
	lock_init(&file->lock, LOCK_RANK_FILE);
	lock_init(&file->mappers.lock, LOCK_RANK_MAPPERS);
	waits_init(&file->waits);
	lock_cond_init(&file->settled);
	lock_cond_init(&file->mappers.idle);
	lock_cond_init(&file->away.wanted);
	file->arena.fd = -1;
	err = size_check(file, size_bytes);
	if (!err)
		err = blocks_init(&file->blocks, (size_bytes + file->block_bytes - 1) / file->block_bytes);
	if (!err)
		err = arena_init(&file->arena, engine_arena_dir(engine), ino, file_whole_pages(size_bytes));
	atomic_store(&file->watch.wanted, !err && !file->arena.created);
	if (!err)
		err = load_table(file);
	if (!err)
		err = engine_add_file(engine, file);
	if (err) {
		ramfile_unload(file);
		return err;
	}
	file->loaded = true;
	lock_get(&file->lock);
	quota_settle(file, 0);
	lock_put(&file->lock);
	*ret = file;
	return 0;
}

/* The table is made apart, so that the content shows at once. */
int ramfile_adopt(struct ramfile *file, uint64_t size_bytes)
{
	struct blocks fresh = { 0 }, old;
	int err = size_check(file, size_bytes);

	if (!err)
		err = blocks_init(&fresh, (size_bytes + file->block_bytes - 1) / file->block_bytes);
	if (!err)
		err = load_keys(file, &fresh);
	file_begin_resize(file);
	if (!err)
		err = arena_resize(&file->arena, file_whole_pages(size_bytes));
	if (err) {
		file_end_resize(file);
		blocks_fini(&fresh);
		return err;
	}
	lock_get(&file->lock);
	assert(!file->blocks.count);
	old = file->blocks;
	file->blocks = fresh;
	file->size_bytes = size_bytes;
	engine_set_demand(file->engine, file);
	quota_settle(file, 0);
	lock_put(&file->lock);
	file_end_resize(file);
	blocks_fini(&old);
	return 0;
}

/* With nothing in it a later load makes a new one; but a process that maps it comes back with this one. What is in it
 * is known when the load has looked at all of it, and of one that did not exist before. */
static bool may_remove_arena(const struct ramfile *file)
{
	if (file->arena.fd < 0 || atomic_load(&file->lost) || mappers_have_arena(file))
		return false;
	return file->loaded ? !file->blocks.in_state[BLOCK_RESIDENT] : file->arena.created;
}

void ramfile_unload(struct ramfile *file)
{
	if (!file)
		return;
	engine_remove_file(file->engine, file);
#ifdef TIERFS_DEBUG
	if (file->loaded && file->arena.fd >= 0 && file->blocks.count <= CHECK_BLOCKS_MAX)
		file_check_idle(file);
#endif
	quota_leave(file);
	room_release(file, (atomic_load(&file->dram_blocks) + file->blocks.cached) * file->block_bytes);
	if (may_remove_arena(file))
		arena_remove(&file->arena);
	arena_fini(&file->arena);
	blocks_fini(&file->blocks);
	pthread_cond_destroy(&file->settled);
	pthread_cond_destroy(&file->mappers.idle);
	pthread_cond_destroy(&file->away.wanted);
	waits_fini(&file->waits);
	lock_fini(&file->mappers.lock);
	lock_fini(&file->lock);
	free(file);
}

void ramfile_abandon(struct ramfile *file)
{
	if (!file)
		return;
	engine_remove_file(file->engine, file);
	arena_remove(&file->arena);
	ramfile_unload(file);
}

int ramfile_destroy(struct ramfile *file)
{
	int err, arena_err;

	engine_remove_file(file->engine, file); /* a batch at work ends: it may be about to put */
	err = engine_store(file->engine)->ops->remove(engine_store(file->engine), file->ino, 0, UINT64_MAX);
	/* Also after an error: nobody needs the content any more, and its DRAM is given back now. */
	arena_err = arena_remove(&file->arena);
	ramfile_unload(file);
	if (!err && arena_err != -ENOENT)
		err = arena_err;
	return err;
}

/* --- figures and small things ----------------------------------------------------------------------------- */

static bool clean_locked(const struct ramfile *file)
{
	const uint64_t *in_state = file->blocks.in_state;

	return !file->changes.at_work && file->changes.ended == file->changes.synced && !in_state[BLOCK_RESIDENT] &&
	       !in_state[BLOCK_LOADING] && !in_state[BLOCK_STORING] && !in_state[BLOCK_UPDATING];
}

int ramfile_is_clean(struct ramfile *file, bool *ret_clean)
{
	unsigned int mappers;
	uint64_t holder;

	lock_get(&file->mappers.lock);
	mappers = file->mappers.count;
	lock_put(&file->mappers.lock);
	lock_get(&file->lock);
	*ret_clean = !mappers && clean_locked(file) && arena_next_holder(&file->arena, 0, &holder) == -ENOENT;
	lock_put(&file->lock);
	return 0;
}

void ramfile_mark_clean(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	if (clean_locked(file))
		atomic_store(&file->dirty, false);
}

int ramfile_sync(struct ramfile *file)
{
	uint64_t changes;
	int err;

	lock_get(&file->lock);
	changes = file->changes.ended;
	lock_put(&file->lock);
	err = store_sync_file(engine_store(file->engine), file->ino);
	if (err)
		return err;
	lock_get(&file->lock);
	if (changes > file->changes.synced)
		file->changes.synced = changes;
	lock_put(&file->lock);
	return 0;
}

uint64_t ramfile_shared_bytes(const struct ramfile *file)
{
	struct store *store = engine_store(file->engine);

	return store->ops->shared_bytes(store, file->ino);
}

/* Under lock. A block is resident if the arena or the kernel has it, else cold if the store has it. The last block may
 * be a part of one; it is counted whole where it is, and the holes are what is left. */
static void count_tiers(const struct ramfile *file, struct ramfile_figures *ret)
{
	uint64_t cold = file->blocks.in_state[BLOCK_COLD], only_cached = 0, whole_bytes;

	for (uint64_t block = 0; (block = blocks_next(&file->blocks, block, BLOCKS_CACHED)) < file->blocks.count;
	     block++) {
		if (!blocks_has(&file->blocks, block, BLOCK_CACHED))
			continue;
		if (blocks_state(&file->blocks, block) == BLOCK_COLD)
			cold--;
		only_cached += blocks_state(&file->blocks, block) <= BLOCK_COLD;
	}
	ret->resident_bytes = ret->arena_bytes + only_cached * file->block_bytes;
	ret->cold_bytes = cold * file->block_bytes;
	whole_bytes = ret->resident_bytes + ret->cold_bytes;
	ret->hole_bytes = file->size_bytes > whole_bytes ? file->size_bytes - whole_bytes : 0;
}

static void count_waits(struct ramfile *file, struct ramfile_figures *ret)
{
	struct waits_sum sum;
	enum wait_for what;
	uint64_t since_ns = 0, now_ns;

	waits_sum(file, &sum);
	ret->waiting_faults = waits_total(&sum, &since_ns, &what);
	ret->waiting_for_turn = sum.count[WAIT_TURN];
	ret->waiting_for_room = sum.count[WAIT_ROOM];
	ret->waiting_for_limit = sum.count[WAIT_LIMIT];
	ret->waiting_for_store = sum.count[WAIT_STORE];
	ret->waiting_for_process = sum.count[WAIT_PROCESS];
	now_ns = clock_ns();
	ret->longest_wait_ns = ret->waiting_faults && now_ns > since_ns ? now_ns - since_ns : 0;
}

void ramfile_figures(struct ramfile *file, struct ramfile_figures *ret)
{
	struct ramfile_figures figures = { .block_bytes = file->block_bytes };
	lock_get(&file->mappers.lock);
	figures.mappers = file->mappers.count;
	for (const struct mapper *mapper = file->mappers.list; mapper; mapper = mapper->next)
		figures.passthrough_mappers += mapper->through;
	lock_put(&file->mappers.lock);
	lock_get(&file->lock);
	figures.size_bytes = file->size_bytes;
	figures.arena_bytes = atomic_load(&file->dram_blocks) * file->block_bytes;
	figures.cached_bytes = file->blocks.cached * file->block_bytes;
	figures.cached_opens = file->cache.opens;
	figures.cache_unknown = file->cache.opens && file->cache.unknown;
	count_tiers(file, &figures);
	figures.stored_bytes = file->blocks.stored_total_bytes;
	figures.pinned_bytes = file->blocks.pinned * file->block_bytes;
	figures.away_bytes = file->blocks.away * file->block_bytes;
	figures.wanted_blocks = away_count_wanted(file);
	figures.huge_bytes = file->blocks.huge * HUGE_BYTES;
	lock_put(&file->lock);
	figures.promotions = atomic_load(&file->counts.promotions);
	figures.demotions = atomic_load(&file->counts.demotions);
	figures.clean_demotions = atomic_load(&file->counts.clean_demotions);
	figures.demotions_aborted = atomic_load(&file->counts.demotions_aborted);
	figures.foreign_bytes = atomic_load(&file->counts.foreign_bytes);
	figures.direct_read_bytes = atomic_load(&file->counts.direct_read_bytes);
	figures.direct_write_bytes = atomic_load(&file->counts.direct_write_bytes);
	figures.errors = atomic_load(&file->counts.errors);
	figures.fault_count = atomic_load(&file->faults.count);
	figures.fault_p50_ns = hist_percentile(&file->faults, 50);
	figures.fault_p99_ns = hist_percentile(&file->faults, 99);
	figures.limit_waits = atomic_load(&file->flow.waited);
	for (int use = 0; use < STORE_USES; use++)
		figures.traffic[use] = store_meter_figures(&file->flow.meter[use]);
	figures.lost = atomic_load(&file->lost);
	count_waits(file, &figures);
	*ret = figures;
}

static void describe(const struct ramfile *file, uint64_t block, struct ramfile_run *ret)
{
	*ret = (struct ramfile_run){
		.offset = block * file->block_bytes,
		.length = file_block_content(file, block),
		.generation = heat_age(&file->blocks, block),
		.tier = blocks_tier(&file->blocks, block),
		.pinned = blocks_has(&file->blocks, block, BLOCK_PINNED),
		.damaged = blocks_has(&file->blocks, block, BLOCK_DAMAGED),
		.away = blocks_away(&file->blocks, block),
	};
	switch (blocks_state(&file->blocks, block)) {
	case BLOCK_HOLE:
		ret->state = blocks_has(&file->blocks, block, BLOCK_CACHED) ? RAMFILE_RUN_RESIDENT : RAMFILE_RUN_HOLE;
		if (ret->state == RAMFILE_RUN_HOLE)
			ret->generation = 0;
		break;
	case BLOCK_COLD:
		ret->state = blocks_has(&file->blocks, block, BLOCK_CACHED) ? RAMFILE_RUN_RESIDENT : RAMFILE_RUN_COLD;
		break;
	case BLOCK_RESIDENT:
	case BLOCK_LOADING:
	case BLOCK_STORING:
	case BLOCK_UPDATING:
		ret->state = RAMFILE_RUN_RESIDENT;
		break;
	}
}

/* Under lock: the run that begins at the block, which is moved behind it. Where nothing is used it is long at once. */
static void next_run(const struct ramfile *file, uint64_t end, uint64_t *block, struct ramfile_run *ret)
{
	uint64_t next = blocks_next(&file->blocks, *block, BLOCKS_USED), stop;

	if (next <= *block) {
		describe(file, (*block)++, ret);
		return;
	}
	*ret = (struct ramfile_run){ .offset = *block * file->block_bytes, .state = RAMFILE_RUN_HOLE };
	stop = next * file->block_bytes < end ? next * file->block_bytes : end + file->block_bytes - 1;
	next = stop / file->block_bytes;
	*block = next < file->blocks.count ? next : file->blocks.count;
	ret->length = *block * file->block_bytes < file->size_bytes ? *block * file->block_bytes : file->size_bytes;
	ret->length -= ret->offset;
}

static bool same_run(const struct ramfile_run *a, const struct ramfile_run *b)
{
	return a->offset + a->length == b->offset && a->state == b->state && a->generation == b->generation &&
	       a->tier == b->tier && a->pinned == b->pinned && a->damaged == b->damaged && a->away == b->away;
}

int ramfile_map(struct ramfile *file, uint64_t offset, uint64_t len, ramfile_run_fn *fn, void *arg)
{
	struct ramfile_run runs[RUN_BLOCKS];
	uint64_t block = offset / file->block_bytes;
	uint64_t end = len > UINT64_MAX - offset ? UINT64_MAX : offset + len;
	bool more = true;

	/* A copy of a few runs at a time is handed out without the lock; a run that goes on is joined with the next
	 * copy. */
	struct ramfile_run pending = { 0 };

	while (more) {
		unsigned int count = 0;

		lock_get(&file->lock);
		for (unsigned int step = 0; step < SCAN_BLOCKS && count < RUN_BLOCKS && block < file->blocks.count &&
					    block * file->block_bytes < end;
		     step++) {
			struct ramfile_run run;

			next_run(file, end, &block, &run);
			if (count && same_run(&runs[count - 1], &run))
				runs[count - 1].length += run.length;
			else
				runs[count++] = run;
		}
		more = block < file->blocks.count && block * file->block_bytes < end;
		lock_put(&file->lock);
		for (unsigned int i = 0; i < count; i++) {
			int err;

			if (pending.length && same_run(&pending, &runs[i])) {
				pending.length += runs[i].length;
				continue;
			}
			err = pending.length ? fn(arg, &pending) : 0;
			if (err)
				return err;
			pending = runs[i];
		}
	}
	return pending.length ? fn(arg, &pending) : 0;
}

int ramfile_pin(struct ramfile *file, uint64_t offset, uint64_t len, bool on)
{
	uint64_t first = offset / file->block_bytes;
	uint64_t end = len > UINT64_MAX - offset ? UINT64_MAX : offset + len;

	/* Pinned memory is out of everybody's reach: all of it together gets half of the budget. Only an unpin may be
	 * of far more blocks than that. */
	if (on)
		return engine_pin(file->engine, file, first, end);
	LOCK_SCOPE(&file->lock);
	for (uint64_t block = blocks_next(&file->blocks, first, BLOCKS_USED);
	     block < file->blocks.count && block * file->block_bytes < end;
	     block = blocks_next(&file->blocks, block + 1, BLOCKS_USED))
		blocks_set_pinned(&file->blocks, block, false);
	return 0;
}
