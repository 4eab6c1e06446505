/* Demotion on request: of a range, at once or when what is in use has shown itself.
 *
 * A file that is mapped is zapped first, and what is seen idle at the looks that follow goes, until all blocks have had
 * the time to show that they are in use. What the kernel's page cache has goes before that.
 */
#include "policy/demand.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/huge.h"
#include "engine/room.h"

/* For the evictor of a plain mapping to go through a file. */
#define EVICT_WAIT_NS (30 * NS_PER_S)

struct demand {
	struct ramfile *file;
	uint64_t offset, len;
	uint64_t round; /* the zap of this round, and everything after it, counts */
	bool no_wait;   /* not for a limit of the file's: nothing more is demoted then */
	struct file_done done;
};

static bool is_mapped(struct ramfile *file)
{
	LOCK_SCOPE(&file->mappers.lock);

	return file->mappers.count > 0;
}

/* Under lock: some blocks from *first on that are idle, at most those of one part. False: there is none left. */
static bool demand_pick(const struct demand *demand, uint64_t *first, uint32_t *pick, size_t most, size_t *ret_count)
{
	struct ramfile *file = demand->file;
	uint64_t end = (demand->offset + demand->len + file->block_bytes - 1) / file->block_bytes;
	struct heat_filter filter = { .min_idle_ns = engine_min_idle(file->engine),
				      .now_ns = clock_ns(),
				      .mapped = is_mapped(file) };

	file_visit(file, filter.now_ns);
	filter.slept = due_asleep(file, filter.now_ns);
	if (!heat_next_part(&file->blocks, &filter, 0, *first, SCAN_BLOCKS) || filter.first >= end)
		return false;
	if (filter.count > end - filter.first)
		filter.count = end - filter.first;
	*ret_count = heat_pick(&file->heat, &file->blocks, &filter, 0, pick, most);
	*first = filter.first + filter.count;
	return true;
}

/* In pieces, so that a limit of what may be written is kept. */
static int demote_picked(struct demand *demand, const uint32_t *pick, size_t count)
{
	struct ramfile *file = demand->file;
	int err = 0;

	while (!err && count) {
		size_t piece = count < RUN_BLOCKS ? count : RUN_BLOCKS;
		struct demote_result result;

		if (demand->no_wait && flow_holds_back(file))
			return -EBUSY;
		err = demand->no_wait ? 0 : flow_begin_write(file, piece * file->block_bytes, false);
		if (err)
			return err;
		err = demote_idle(file, pick, piece, demand->no_wait, &result);
		if (!demand->no_wait)
			flow_end_write(file, piece * file->block_bytes);
		demand->done.done_bytes += result.demoted * file->block_bytes;
		pick += piece;
		count -= piece;
	}
	return err;
}

/* Demotes what is idle now in the range. */
static int demand_pass(struct demand *demand, uint32_t *pick, size_t most)
{
	struct ramfile *file = demand->file;
	uint64_t first = demand->offset / file->block_bytes;

	for (;;) {
		size_t count;
		bool more;
		int err;

		lock_get(&file->lock);
		more = demand_pick(demand, &first, pick, most, &count);
		lock_put(&file->lock);
		if (!more)
			return 0;
		if (!count)
			continue;
		err = demote_picked(demand, pick, count);
		if (err)
			return err;
	}
}

/* True when every block that is idle in the sense of the request has had its chance. Waits for the next look otherwise.
 */
static bool demand_met(struct demand *demand, uint64_t deadline_ns)
{
	struct ramfile *file = demand->file;
	uint64_t zapped, now;

	LOCK_SCOPE(&file->lock);
	zapped = file->heat.zap_done_ns[demand->round % HEAT_RING];
	now = clock_ns();
	if (!atomic_load(&file->dram_blocks))
		return true; /* nobody scans it */
	if (!is_mapped(file))
		return true; /* nor does anybody use it */
	if (file->heat.round >= demand->round && now >= zapped + engine_min_idle(file->engine))
		return true;
	lock_wait_until(&file->lock, &file->settled, now + 100 * NS_PER_MS);
	return clock_ns() > deadline_ns;
}

static uint64_t resident_in(struct demand *demand)
{
	struct ramfile *file = demand->file;
	uint64_t bytes = 0;

	LOCK_SCOPE(&file->lock);
	for (uint64_t block = demand->offset / file->block_bytes;
	     (block = blocks_next(&file->blocks, block, BLOCKS_IN_DRAM)) < file->blocks.count &&
	     block * file->block_bytes < demand->offset + demand->len;
	     block++)
		if (blocks_state(&file->blocks, block) == BLOCK_RESIDENT)
			bytes += file->block_bytes;
	return bytes;
}

static void want_scan(struct demand *demand, bool on)
{
	struct ramfile *file = demand->file;

	lock_get(&file->lock);
	if (on) {
		demand->round = file->heat.round + (file->rounds.zapping ? 2 : 1);
		file->rounds.wanted++;
	} else {
		file->rounds.wanted--;
	}
	lock_put(&file->lock);
	if (on)
		due_pull(file);
}

/* Pages in the kernel's cache go first: the evictor is asked, and has come back when it did what it can. Several may
 * wait for that at once. */
static void want_evicted(struct ramfile *file)
{
	uint64_t deadline_ns = clock_ns() + EVICT_WAIT_NS;
	bool late = false;

	assert(!room_is_evictor(file->engine)); /* it would wait for itself */
	lock_get(&file->lock);
	/* Asked under the lock: an evictor that ends has nobody wait afterwards. */
	if (file->blocks.cached && room_has_evictor(file->engine)) {
		file->cache.evict_wanted = true;
		file->cache.evict_waits++;
		lock_put(&file->lock);
		room_end_squeeze(file->engine);
		lock_get(&file->lock);
		while (file->cache.evict_wanted && !late)
			late = lock_wait_until(&file->lock, &file->settled, deadline_ns) != 0;
		if (!--file->cache.evict_waits)
			file->cache.evict_wanted = false;
	}
	lock_put(&file->lock);
}

int demand_demote_staged(struct ramfile *file)
{
	/* One thread does it for all files. */
	struct demand demand = { .file = file, .len = file_size(file), .no_wait = true };
	size_t most = SCAN_BLOCKS;
	CLEANUP_FREE uint32_t *pick = malloc(most * sizeof(*pick));

	if (!pick)
		return -ENOMEM;
	if (atomic_load(&file->lost))
		return -EIO;
	return demand_pass(&demand, pick, most);
}

int demand_demote(struct ramfile *file, uint64_t offset, uint64_t len, file_progress_fn *progress, void *arg,
		  struct file_done *ret)
{
	uint64_t size = file_size(file);
	struct demand demand = { .file = file,
				 .offset = offset,
				 .len = offset < size && len > size - offset ? size - offset : len };
	size_t most = SCAN_BLOCKS;
	CLEANUP_FREE uint32_t *pick = malloc(most * sizeof(*pick));
	uint64_t started_ns = clock_ns(), total;
	bool mapped, done = false;
	int err = 0;

	if (!pick)
		return -ENOMEM;
	if (atomic_load(&file->lost))
		return -EIO;
	want_evicted(file);
	huge_split_units(file, demand.offset / file->block_bytes, demand.len / file->block_bytes + 1, UINT64_MAX);
	total = resident_in(&demand);
	mapped = is_mapped(file);
	if (mapped)
		want_scan(&demand, true);
	while (!err && !done) {
		/* Asked first, so that the last pass comes after the wait. */
		done = !mapped || demand_met(&demand, started_ns + 2 * engine_min_idle(file->engine) + 5 * NS_PER_S);
		if (progress && !progress(arg, demand.done.done_bytes, total))
			err = -ECANCELED;
		if (!err)
			err = demand_pass(&demand, pick, most);
	}
	if (mapped)
		want_scan(&demand, false);
	if (err == -EBUSY) /* a process that is not back yet maps the file: everything counts as in use */
		err = 0;
	demand.done.skipped_bytes = resident_in(&demand);
	*ret = demand.done;
	return err;
}
