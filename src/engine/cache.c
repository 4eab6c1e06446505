/* Plain mapping: the kernel's page cache holds the hot pages, and the arena only what the kernel has written back.
 *
 * Three places may know a page then, in this order: the kernel's cache, the arena, the store. The engine sees the two
 * lower ones, and the page rule (file.h) holds for them as ever. The kernel reads a page from here when it has
 * none (fill), and brings a dirty one back before it drops it (write back). So a block can be COLD here and cached
 * there.
 *
 * Write back is on the path of whoever dirties memory, so it is a copy into the arena and nothing else. The kernel
 * writes pages, not blocks: a cold block of which some pages come back becomes RESIDENT and PARTIAL, its other pages
 * stay in the stored copy, which is what the page rule says anyway. Reading or storing such a block merges the two.
 *
 * The kernel takes pages without asking, and tells nobody when it drops one. BLOCK_CACHED marks what it may hold: set
 * by a fill or a write back, cleared by a measurement. Cached blocks count in the budget like resident ones.
 *
 * A page in the kernel's cache is right only while every write goes through that cache, or is seen by it. Writes to an
 * attached mapping are not. So the two exclude each other, and not by the opens alone: the kernel fills its cache for
 * any open, also one that it was told to cache nothing for (a private mapping, sendfile(2), splice(2)). A fill is
 * refused while the file is attached, and whoever attaches has the kernel forget what it has. Refused means at once: a
 * fill has locked a page, for which a thread of the mapper may wait with its memory map locked (mmap(2) of such a file
 * does), and a batch that has a mapper to protect needs that memory map. A fill that waits for such a batch would never
 * end.
 */
#include "engine/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "engine/away.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/hist.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/read.h"
#include "engine/room.h"
#include "engine/stored.h"
#include "engine/write.h"

/* How long a fill waits for room: long enough for the evictor to make some, short enough not to stall a guest for
 * nothing. */
#define FILL_WAIT_NS (200 * NS_PER_MS)
/* A write back waits while this part of the budget is in copies that are not stored yet. */
#define STAGED_DIVISOR 4
#define STAGED_WAIT_NS (2 * NS_PER_S)
/* How long an open waits for mappers whose processes have ended: longer than it takes to look at those that have no
 * agent. And how many opens may do so at a time. */
#define ENDING_NS (3 * NS_PER_S)
#define ENDING_MAX 16
/* The kernel tells of a close after it: longer than it takes that word to come. */
#define CLOSE_NS (20 * NS_PER_MS)

/* --- opens --------------------------------------------------------------------------------------------------- */

/* Under lock. That a process has ended is seen here later than by who waited for it. */
static void await_end(struct ramfile *file)
{
	uint64_t deadline_ns = clock_ns() + ENDING_NS;

	if (engine_begin_wait(file->engine, ENGINE_WAIT_OPEN, ENDING_MAX))
		while (mappers_all_end(file) && !lock_wait_until(&file->lock, &file->settled, deadline_ns))
			;
	engine_end_wait(file->engine, ENGINE_WAIT_OPEN);
}

enum cache_kind cache_open_file(struct ramfile *file)
{
	enum cache_kind answer;
	unsigned int mappers;

	LOCK_SCOPE(&file->lock);
	await_end(file);
	lock_get(&file->mappers.lock);
	mappers = file->mappers.count;
	lock_put(&file->mappers.lock);
	/* One that has not come back to a daemon that was restarted counts, too: it would be refused then. */
	if (mappers || file->batches.attaching || (!file->cache.opens && mappers_have_arena(file)))
		return CACHE_NO;
	if (!file->cache.opens && arena_set_mark(&file->arena, ARENA_MARK_PLAIN, true) < 0)
		return CACHE_NO;
	answer = file->cache.opens || !file->cache.stale ? CACHE_KEEP : CACHE_FRESH;
	file->cache.opens++;
	engine_set_demand(file->engine, file);
	file->cache.stale = false;
	return answer;
}

void cache_close_file(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	if (file->cache.opens && --file->cache.opens == 0) {
		engine_set_demand(file->engine, file);
		/* Left behind, it keeps others from attaching, and no more. */
		arena_set_mark(&file->arena, ARENA_MARK_PLAIN, false);
		pthread_cond_broadcast(&file->settled); /* who attaches waits for it */
	}
}

bool cache_inherit(struct ramfile *file, bool inherited)
{
	bool plain = inherited && arena_has_mark(&file->arena, ARENA_MARK_PLAIN);

	LOCK_SCOPE(&file->lock);
	if (plain) {
		file->cache.opens = 1;
		engine_set_demand(file->engine, file);
	} else
		arena_set_mark(&file->arena, ARENA_MARK_PLAIN, false);
	/* Whatever the kernel has cached of a file that nobody had open for it: an attached mapping may have come
	 * since. */
	file->cache.stale = inherited && !plain;
	file->cache.unknown = inherited;
	return plain;
}

/* --- fill and write back ------------------------------------------------------------------------------------- */

/* Under lock: from here on it is seen how old it is. What was young when the file began to sleep is as old as its sleep
 * (due.h). */
static void begin_cached(struct ramfile *file)
{
	uint64_t slept;

	if (atomic_exchange(&file->cache.was_cached, true))
		return;
	slept = due_asleep(file, clock_ns());
	for (uint64_t block = 0;
	     slept && (block = blocks_next(&file->blocks, block, BLOCKS_IN_DRAM)) < file->blocks.count; block++)
		if (blocks_state(&file->blocks, block) == BLOCK_RESIDENT)
			heat_wake(&file->blocks, block, slept);
	due_look(file);
}

static void mark_cached(struct ramfile *file, uint64_t block)
{
	file->cache.marks[block % CACHE_MARKS]++;
	if (!blocks_has(&file->blocks, block, BLOCK_CACHED)) {
		blocks_set_cached(&file->blocks, block, true);
		file_visit(file, clock_ns()); /* before it wakes */
		begin_cached(file);
		room_force(file, file->block_bytes);
		if (blocks_state(&file->blocks, block) == BLOCK_COLD) {
			heat_promoted(&file->heat, &file->blocks, block);
			atomic_fetch_add(&file->counts.promotions, 1);
		}
	}
	heat_used(&file->blocks, block);
}

int cache_fill(struct ramfile *file, void *buf, size_t len, uint64_t offset, size_t *ret_len)
{
	uint64_t started_ns = clock_ns();
	uint64_t first = offset / file->block_bytes;
	bool refused;
	int err;

	room_wait(file, len, started_ns + FILL_WAIT_NS);
	flow_wait_fill(file, first, len / file->block_bytes + 1);
	lock_get(&file->lock);
	refused = mappers_attached(file);
	for (uint64_t block = first; !refused && block < file->blocks.count && block * file->block_bytes < offset + len;
	     block++)
		mark_cached(file, block);
	lock_put(&file->lock);
	if (refused)
		return -EINVAL;
	room_used(file->engine);
	err = read_for(file, AWAY_FOR_FILL, buf, len, offset, ret_len);
	hist_add(&file->faults, clock_ns() - started_ns);
	return err;
}

/* Takes a block that pages come back to; a batch that is storing it loses it. Returns what it was, or -EFBIG. */
static int take_for_write_back(struct ramfile *file, uint64_t block)
{
	enum block_state state;

	LOCK_SCOPE(&file->lock);
	for (;;) {
		if (block >= file->blocks.count)
			return -EFBIG;
		state = blocks_state(&file->blocks, block);
		if (state == BLOCK_STORING && !blocks_has(&file->blocks, block, BLOCK_COMMITTING)) {
			atomic_fetch_add(&file->counts.demotions_aborted, 1);
			state = BLOCK_RESIDENT;
			break;
		}
		if (!blocks_passing(&file->blocks, block) && !blocks_away(&file->blocks, block))
			break;
		away_wait(file, block, AWAY_FOR_WRITE_BACK);
	}
	blocks_set_state(&file->blocks, block, BLOCK_UPDATING);
	return (int)state;
}

static int write_back_block(struct ramfile *file, uint64_t block, const uint8_t *data, uint64_t length, uint64_t offset)
{
	int was = take_for_write_back(file, block);
	bool waiters, there;
	int err = 0;

	if (was < 0)
		return was;
	if (was != BLOCK_RESIDENT)
		file_force(file, 1);
	if (was == BLOCK_HOLE)
		err = stored_cover_key(file, block);
	if (!err)
		err = arena_write(&file->arena, data, length, offset);
	there = !err || was == BLOCK_RESIDENT || file_has_pages(file, block);
	lock_get(&file->lock);
	if (offset % file->block_bytes == 0 && length >= file_block_content(file, block) && !err)
		partial_end(file, block);
	else if (was == BLOCK_COLD && there)
		partial_leave(file, block);
	mark_cached(file, block);
	waiters = file_settle(file, block, there ? BLOCK_RESIDENT : (enum block_state)was);
	lock_put(&file->lock);
	if (!there)
		file_release(file, 1);
	if (waiters)
		mappers_wake(file, block, 1);
	return err;
}

int cache_write_back(struct ramfile *file, const void *buf, size_t len, uint64_t offset)
{
	const uint8_t *data = buf;
	const size_t written = len;
	size_t odd = (offset + len) % PAGE_BYTES;
	int err;

	/* The last page ends where the kernel believes that the file does. If it has grown meanwhile, the rest of the
	 * page is content. */
	if (odd && odd <= len && offset % PAGE_BYTES == 0 && offset + len < file_size(file)) {
		err = len > odd ? cache_write_back(file, buf, len - odd, offset) : 0;
		return err ? err : write_anyway(file, data + (len - odd), odd, offset + (len - odd));
	}
	if (offset % PAGE_BYTES)
		return write_anyway(file, buf, len, offset);
	err = file_begin_change(file);
	if (err)
		return err;
	room_wait_staged(file->engine, STAGED_DIVISOR, clock_ns() + STAGED_WAIT_NS);
	room_begin_write_back(file, written, cache_is_plain(file));
	while (!err && len) {
		uint64_t block = offset / file->block_bytes;
		uint64_t length = (block + 1) * file->block_bytes - offset;

		if (length > len)
			length = len;
		err = write_back_block(file, block, data, length, offset);
		data += length;
		offset += length;
		len -= length;
	}
	room_end_write_back(file->engine, written);
	file_end_change(file);
	room_used(file->engine);
	return err;
}

/* --- what the kernel holds ----------------------------------------------------------------------------------- */

/* Under lock: moves the filter on to the next part, before end, of which the kernel may hold something. */
static bool next_cached(struct ramfile *file, struct heat_filter *filter, uint64_t end)
{
	if (!blocks_next_part(&file->blocks, filter->first + filter->count, BLOCKS_CACHED, SCAN_BLOCKS, &filter->first,
			      &filter->count) ||
	    filter->first >= end)
		return false;
	if (filter->count > end - filter->first)
		filter->count = end - filter->first;
	return true;
}

size_t cache_pick(struct ramfile *file, uint64_t offset, uint64_t len, uint64_t wanted_bytes, struct cache_range *ret,
		  size_t max)
{
	CLEANUP_FREE uint64_t *in_class = calloc(HEAT_CLASSES, sizeof(*in_class));
	size_t most = wanted_bytes / file->block_bytes + 1, picked = 0, ranges = 0;
	CLEANUP_FREE uint32_t *pick = malloc(most * sizeof(*pick));
	struct heat_filter filter = { .cached = true, .first = offset / file->block_bytes };
	uint64_t end = len > UINT64_MAX - offset ? UINT64_MAX : offset + len;
	unsigned int lowest_class;

	if (!in_class || !pick)
		return 0;
	LOCK_SCOPE(&file->lock);
	if (end > file->size_bytes)
		end = file->size_bytes;
	if (filter.first * file->block_bytes >= end)
		return 0;
	end = (end + file->block_bytes - 1) / file->block_bytes;
	for (filter.count = 0; next_cached(file, &filter, end);)
		heat_count(&file->heat, &file->blocks, &filter, in_class);
	lowest_class = heat_threshold(in_class, most);
	filter.first = offset / file->block_bytes;
	for (filter.count = 0; picked < most && next_cached(file, &filter, end);)
		picked += heat_pick(&file->heat, &file->blocks, &filter, lowest_class, pick + picked, most - picked);
	for (size_t i = 0; i < picked; i++) {
		uint64_t start = (uint64_t)pick[i] * file->block_bytes, length = file_block_length(file, pick[i]);

		if (ranges && ret[ranges - 1].offset + ret[ranges - 1].length == start)
			ret[ranges - 1].length += length;
		else if (ranges < max)
			ret[ranges++] = (struct cache_range){ .offset = start, .length = length };
		else
			break;
	}
	return ranges;
}

uint64_t cache_next(struct ramfile *file, uint64_t offset)
{
	LOCK_SCOPE(&file->lock);

	return blocks_next(&file->blocks, offset / file->block_bytes, BLOCKS_CACHED) * file->block_bytes;
}

void cache_marks(struct ramfile *file, uint64_t ret[static CACHE_MARKS])
{
	LOCK_SCOPE(&file->lock);

	memcpy(ret, file->cache.marks, sizeof(file->cache.marks));
}

void cache_set(struct ramfile *file, uint64_t first, uint64_t count, const uint8_t *cached, const uint64_t *since)
{
	uint64_t gone = 0, found = 0;

	lock_get(&file->lock);
	file_visit(file, clock_ns()); /* before it wakes */
	for (uint64_t i = 0; i < count && first + i < file->blocks.count; i++) {
		bool was = blocks_has(&file->blocks, first + i, BLOCK_CACHED);
		uint64_t slot = (first + i) % CACHE_MARKS;

		if (cached[i] && !since)
			file->cache.marks[slot]++;
		if (was == (bool)cached[i] || (was && since && since[slot] != file->cache.marks[slot]))
			continue;
		blocks_set_cached(&file->blocks, first + i, cached[i]);
		gone += was;
		found += !was;
		if (!was)
			begin_cached(file);
		/* Left the kernel's cache: demoted, if it is not in the arena. */
		if (was && blocks_state(&file->blocks, first + i) == BLOCK_COLD)
			atomic_fetch_add(&file->counts.demotions, 1);
	}
	room_force(file, found * file->block_bytes); /* before anybody can release it */
	lock_put(&file->lock);
	room_release(file, gone * file->block_bytes);
}

void cache_measured(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	file->cache.unknown = false;
}

bool cache_evict_wanted(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	return file->cache.evict_wanted;
}

void cache_evicted(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	file->cache.evict_wanted = false;
	pthread_cond_broadcast(&file->settled);
}

static void end_evict(void *arg, struct ramfile *file)
{
	const uint64_t *ino = arg;

	if (!*ino || file->ino == *ino)
		cache_evicted(file);
}

void cache_evict_failed(struct engine *engine, uint64_t ino)
{
	engine_each_file(engine, end_evict, &ino);
}

bool cache_is_plain(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	return file->cache.opens > 0;
}

bool cache_stays_plain(struct ramfile *file)
{
	uint64_t deadline_ns = clock_ns() + CLOSE_NS;

	LOCK_SCOPE(&file->lock);
	if (!file->cache.opens)
		return false;
	if (engine_begin_wait(file->engine, ENGINE_WAIT_OPEN, ENDING_MAX))
		while (file->cache.opens && !lock_wait_until(&file->lock, &file->settled, deadline_ns))
			;
	engine_end_wait(file->engine, ENGINE_WAIT_OPEN);
	return file->cache.opens > 0;
}
