/* Out of DRAM: RESIDENT to COLD, in batches.
 *
 *  1 take     the blocks become STORING; from now on a write fault takes them back
 *  2 protect  in every mapper: readers go on, writers fault
 *  3 look     a block that is mapped again is in use: left alone. So is one into which a device may be writing: a pin
 *             for writing taken before step 2 shows in the page's reference count (map/pins.h), and one that comes
 *             later needs a write fault first. Where the host does not show pins, min_idle stands for it. A block that
 *             is a part of a huge page is split from it now, or stays (huge.c)
 *  4 encode   all zero: will be a hole. Content equal to its stored copy (by its identity): nothing to write. Else
 *             compressed
 *  5 put      one batch; on return it survives kill -9 of the daemon
 *  6 commit   blocks that no write fault took back become COMMITTING: writers that come now wait, and will find the
 *             page missing
 *  7 verify   the content is compared, byte by byte, with what was read in step 4: what a device wrote past the page
 *             tables shows here
 *  8 punch    the pages leave the arena, DRAM is free, the blocks are COLD
 *
 * The order protect, copy, check for write faults, punch loses no write: a writer either faults before step 6 and
 * cancels, or is stopped by the protection until step 8 and then brings the block back. A batch owns its blocks
 * (BLOCK_OWNED) until its end, also those that were taken back, so that nobody else changes their keys while the put is
 * on its way.
 *
 * A process that maps the arena and is not one of our mappers cannot be write-protected. The arena knows every holder,
 * so such a process (it has not come back after a restart of the daemon yet) stops demotion of its file.
 */
#include "engine/demote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/huge.h"
#include "engine/mapper.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/stored.h"
#include "engine/work.h"

#define BATCH_BLOCKS 256
/* Plain bytes of a batch: small enough that somebody who waits for room is served soon. */
#define BATCH_BYTES (UINT64_C(2) << 20)
#define READ_BYTES (128U << 10)

enum plan { PLAN_SKIP, PLAN_ZERO, PLAN_CLEAN, PLAN_STORE };

struct member {
	uint64_t block, length; /* length in bytes: shorter for the last block of the file */
	uint64_t content;       /* of those, bytes that are in the file */
	struct tierfs_ident ident;
	const uint8_t *plain; /* what was read of it, in the batch */
	bool partial;         /* some of it was in the stored copy alone */
	bool rests;           /* left alone, and no less idle for it */
	bool torn;            /* some of its pages may have gone, and are in the stored copy */
	enum plan plan;
	size_t item; /* PLAN_STORE: index in items */
};

struct batch {
	struct ramfile *file;
	struct work *work;
	size_t count;
	struct member member[BATCH_BLOCKS];
	bool soon; /* its blocks may be wanted again soon */
	size_t items, copies;
	struct store_item item[BATCH_BLOCKS];
	struct store_item copy[BATCH_BLOCKS]; /* of PLAN_CLEAN: for the nearer part of the store */
	uint8_t used[BATCH_BLOCKS], held[BATCH_BLOCKS];
	uint8_t *values;
	uint8_t *plain; /* a slot for each block, as it was read in step 4 */
	bool mapped;    /* somebody has the file attached */
};

/* --- steps -------------------------------------------------------------------------------------------------- */

static int take(struct batch *batch, const uint32_t *block, size_t count)
{
	struct ramfile *file = batch->file;
	bool stranger;

	lock_get(&file->lock);
	while (file->attaching)
		lock_wait(&file->lock, &file->settled);
	file->batches++; /* no mapper comes in from here on */
	lock_put(&file->lock);
	stranger = mappers_stranger(file) || huge_is_opaque(file);
	lock_get(&file->mappers.lock);
	batch->mapped = file->mappers.count > 0;
	lock_put(&file->mappers.lock);

	lock_get(&file->lock);
	for (size_t i = 0; i < count && !stranger; i++) {
		struct member *member = &batch->member[batch->count];

		if (block[i] >= file->blocks.count || blocks_state(&file->blocks, block[i]) != BLOCK_RESIDENT ||
		    blocks_has(&file->blocks, block[i], BLOCK_PINNED | BLOCK_OWNED))
			continue;
		blocks_set_state(&file->blocks, block[i], BLOCK_STORING);
		blocks_set(&file->blocks, block[i], BLOCK_OWNED);
		*member = (struct member){ .block = block[i],
					   .length = file_block_length(file, block[i]),
					   .content = file_block_content(file, block[i]),
					   .partial = partial_is(file, block[i]) };
		batch->count++;
	}
	lock_put(&file->lock);
	return stranger ? -EBUSY : 0;
}

typedef int span_fn(struct ramfile *file, uint64_t offset, uint64_t length);

/* Calls fn for each maximal run of neighbouring members: of those that are left alone, or of those that are not. Goes
 * on after an error. Returns the first one. */
static int each_span(struct batch *batch, bool skipped, span_fn *fn)
{
	uint64_t start = 0, length = 0;
	int err = 0, first_err = 0;

	for (size_t i = 0; i < batch->count; i++) {
		const struct member *member = &batch->member[i];
		uint64_t offset = member->block * batch->file->block_bytes;

		if ((member->plan == PLAN_SKIP) != skipped)
			continue;
		if (length && start + length == offset) {
			length += member->length;
			continue;
		}
		if (length)
			err = fn(batch->file, start, length);
		if (err && !first_err)
			first_err = err;
		start = offset;
		length = member->length;
	}
	if (length)
		err = fn(batch->file, start, length);
	return first_err ? first_err : err;
}

/* The same runs as a list. Returns how many; run has room for BATCH_BLOCKS. */
static size_t collect_runs(const struct batch *batch, bool skipped, struct mapper_run *run)
{
	uint64_t block_bytes = batch->file->block_bytes;
	size_t count = 0;

	for (size_t i = 0; i < batch->count; i++) {
		const struct member *member = &batch->member[i];
		uint64_t offset = member->block * block_bytes;

		if ((member->plan == PLAN_SKIP) != skipped)
			continue;
		if (count && run[count - 1].offset + run[count - 1].length == offset)
			run[count - 1].length += member->length;
		else
			run[count++] = (struct mapper_run){ .offset = offset, .length = member->length };
	}
	return count;
}

static int protect_skipped(struct batch *batch, bool on)
{
	struct mapper_run run[BATCH_BLOCKS];

	return mappers_protect_runs(batch->file, run, collect_runs(batch, true, run), on);
}

static int span_punch(struct ramfile *file, uint64_t offset, uint64_t length)
{
	return arena_punch(&file->arena, offset, length);
}

/* How many members from i on are neighbours. */
static size_t neighbours(const struct batch *batch, size_t i)
{
	size_t run = 1;

	while (i + run < batch->count && batch->member[i + run].block == batch->member[i].block + run)
		run++;
	return run;
}

static void look_used(struct batch *batch)
{
	struct mapper_run run[BATCH_BLOCKS];
	size_t runs = 0;

	for (size_t i = 0, count; i < batch->count; i += count) {
		count = neighbours(batch, i);
		run[runs++] = (struct mapper_run){ .offset = batch->member[i].block * batch->file->block_bytes,
						   .length = count * batch->file->block_bytes };
	}
	mappers_look_runs(batch->file, run, runs, batch->used);
}

static void look_referenced(struct batch *batch, uint8_t *referenced)
{
	for (size_t i = 0, run; i < batch->count; i += run) {
		run = neighbours(batch, i);
		engine_look_pins(batch->file->engine, batch->file, true, batch->member[i].block, run, &referenced[i]);
	}
}

/* Where min_idle is short: a block that somebody refers to without a pin is left alone until it has been idle for long.
 */
static void drop_referenced(struct batch *batch)
{
	struct ramfile *file = batch->file;
	uint64_t long_ns = engine_referenced_idle(file->engine);
	uint8_t referenced[BATCH_BLOCKS] = { 0 };
	unsigned int idle_long;

	if (!long_ns || !batch->mapped)
		return;
	look_referenced(batch, referenced);
	lock_get(&file->lock);
	idle_long = heat_idle_generation(&file->heat, long_ns, clock_ns());
	for (size_t i = 0; i < batch->count; i++) {
		struct member *member = &batch->member[i];

		if (member->plan == PLAN_SKIP || !referenced[i] || file->blocks.generation[member->block] >= idle_long)
			continue;
		member->plan = PLAN_SKIP;
		member->rests = true;
	}
	lock_put(&file->lock);
}

/* How many members from i on are neighbours that nobody uses; 0 if somebody uses this one. */
static size_t unused(const struct batch *batch, size_t i)
{
	size_t most = neighbours(batch, i), run = 0;

	while (run < most && !batch->used[i + run])
		run++;
	return run;
}

static void drop_used(struct batch *batch)
{
	uint64_t held = 0;

	memset(batch->used, 0, batch->count);
	memset(batch->held, 0, batch->count);
	look_used(batch);
	for (size_t i = 0, run; i < batch->count; i += run ? run : 1) {
		run = unused(batch, i);
		if (!run)
			continue;
		engine_look_pins(batch->file->engine, batch->file, false, batch->member[i].block, run, &batch->held[i]);
		if (memchr(&batch->held[i], 1, run))
			huge_split_blocks(batch->file, batch->member[i].block, run, &batch->held[i]);
		for (size_t k = i; k < i + run; k++)
			held += batch->held[k];
	}
	for (size_t i = 0; i < batch->count; i++)
		batch->member[i].plan = batch->used[i] || batch->held[i] ? PLAN_SKIP : PLAN_STORE;
	if (held)
		engine_count_pinned(batch->file->engine, held);
	drop_referenced(batch);
}

/* How many members from i on are read at once: neighbours that are whole, as far as a processor's cache takes them. */
static size_t readable(const struct batch *batch, size_t i)
{
	size_t most = neighbours(batch, i), run = 1;

	if (most > READ_BYTES / batch->file->block_bytes)
		most = READ_BYTES / batch->file->block_bytes;
	while (run < most && !batch->member[i].partial && !batch->member[i + run].partial &&
	       batch->member[i + run].plan != PLAN_SKIP)
		run++;
	return run;
}

/* The content of the member and of those that are read with it, a slot for each. ret_count: of how many; also after an
 * error. */
static int read_members(struct batch *batch, size_t i, uint8_t *plain, size_t *ret_count)
{
	struct ramfile *file = batch->file;
	uint64_t block_bytes = file->block_bytes;
	size_t count = *ret_count = readable(batch, i);
	const struct member *first = &batch->member[i], *last = first + count - 1;
	int err;

	if (count == 1)
		return partial_read(file, batch->work, first->block, plain);
	err = arena_read(&file->arena, plain, (count - 1) * block_bytes + last->length, first->block * block_bytes);
	plain += (count - 1) * block_bytes; /* only the file's last block is not all of the file */
	memset(plain + last->content, 0, block_bytes - last->content);
	return err;
}

/* What is known of the block; plan SKIP if it was taken back. */
static void inspect(struct batch *batch, struct member *member, struct tierfs_ident *ret_stored,
		    struct codec_hotness *ret)
{
	struct ramfile *file = batch->file;

	LOCK_SCOPE(&file->lock);
	if (blocks_state(&file->blocks, member->block) != BLOCK_STORING)
		member->plan = PLAN_SKIP;
	*ret_stored = blocks_has(&file->blocks, member->block, BLOCK_STORED) ? file->blocks.ident[member->block]
									     : IDENT_NONE;
	ret->generation = heat_age(&file->blocks, member->block);
	ret->tier = blocks_tier(&file->blocks, member->block);
}

/* What was read of a block, as a value behind those that the batch has made. */
static int encode_plain(struct batch *batch, const struct member *member, struct codec_hotness hotness,
			struct store_item *ret)
{
	struct ramfile *file = batch->file;
	struct store_key key = { .ino = file->ino, .block = member->block };
	size_t bound = codec_bound(file->block_bytes), length;
	uint8_t *value = batch->values + (batch->items + batch->copies) * bound;
	int err = codec_encode(batch->work->codec, key, hotness, member->plain, member->ident, value, bound, &length);

	if (!err)
		*ret = (struct store_item){ .key = key, .value = value, .length_bytes = (uint32_t)length };
	return err;
}

/* The stored copy of a clean block may lie far. If it may be wanted again soon, one is put near. */
static int encode_copy(struct batch *batch, const struct member *member, struct codec_hotness hotness)
{
	struct store *store = engine_store(batch->file->engine);
	int err;

	if (!batch->soon || !store->ops->renew ||
	    store->ops->renew(store, (struct store_key){ batch->file->ino, member->block }))
		return 0;
	err = encode_plain(batch, member, hotness, &batch->copy[batch->copies]);
	if (!err)
		batch->copies++;
	return err;
}

static int encode_member(struct batch *batch, struct member *member, const uint8_t *plain)
{
	uint32_t block_bytes = batch->file->block_bytes;
	struct codec_hotness hotness;
	struct tierfs_ident stored;
	int err;

	inspect(batch, member, &stored, &hotness);
	if (member->plan == PLAN_SKIP)
		return 0;
	member->plain = plain;
	if (codec_is_zero(plain, block_bytes)) {
		member->plan = PLAN_ZERO;
		return 0;
	}
	member->ident = mac_of(batch->work->mac, plain, block_bytes);
	if (ident_same(stored, member->ident)) {
		member->plan = PLAN_CLEAN;
		return encode_copy(batch, member, hotness);
	}
	member->item = batch->items;
	err = encode_plain(batch, member, hotness, &batch->item[member->item]);
	if (!err)
		batch->items++;
	return err;
}

/* The stored copy of a block that is all zero goes while the zeros are still in the arena. */
static int forget_zero(struct batch *batch, struct member *member)
{
	struct ramfile *file = batch->file;
	int err = stored_forget(file, member->block);

	if (!err && member->partial) {
		lock_get(&file->lock);
		partial_end(file, member->block); /* what it lacked was zeros, and is so now */
		lock_put(&file->lock);
		member->partial = false;
	}
	return err;
}

static int encode(struct batch *batch)
{
	size_t block_bytes = batch->file->block_bytes, run;

	for (size_t i = 0; i < batch->count; i += run) {
		uint8_t *plain = batch->plain + i * block_bytes;
		int err;

		run = 1;
		if (batch->member[i].plan == PLAN_SKIP)
			continue;
		err = read_members(batch, i, plain, &run);
		if (err == -EIO && batch->member[i].partial) {
			/* What it lacks cannot be read: it stays, and the others go. */
			batch->member[i].plan = PLAN_SKIP;
			continue;
		}
		for (size_t k = 0; k < run && !err; k++)
			err = encode_member(batch, &batch->member[i + k], plain + k * block_bytes);
		if (err)
			return err;
	}
	return 0;
}

static int write_out(struct batch *batch)
{
	struct ramfile *file = batch->file;
	struct store *store = engine_store(file->engine);
	int err = encode(batch);

	if (err)
		return err;
	if (batch->items)
		err = store->ops->put(store, batch->item, batch->items);
	if (batch->copies)
		store->ops->put_copies(store, batch->copy, batch->copies);
	/* Also for blocks that were taken back meanwhile: the key exists now. After an error it is old or new. */
	lock_get(&file->lock);
	for (size_t i = 0; i < batch->count; i++)
		if (batch->member[i].plan == PLAN_STORE)
			blocks_set_stored(&file->blocks, batch->member[i].block,
					  batch->item[batch->member[i].item].length_bytes,
					  err ? IDENT_NONE : batch->member[i].ident);
	lock_put(&file->lock);
	for (size_t i = 0; i < batch->count && !err; i++)
		if (batch->member[i].plan == PLAN_ZERO)
			err = forget_zero(batch, &batch->member[i]);
	return err;
}

static void commit(struct batch *batch)
{
	struct ramfile *file = batch->file;

	lock_get(&file->lock);
	for (size_t i = 0; i < batch->count; i++) {
		struct member *member = &batch->member[i];

		if (member->plan == PLAN_SKIP)
			continue;
		if (blocks_state(&file->blocks, member->block) == BLOCK_STORING) {
			blocks_set(&file->blocks, member->block, BLOCK_COMMITTING);
			file->punches[member->block % PUNCH_SLOTS]++;
		} else {
			member->plan = PLAN_SKIP;
		}
	}
	lock_put(&file->lock);
}

/* What was encoded is still the content. It is read to where the values were, which are in the store now. */
static void verify(struct batch *batch)
{
	size_t block_bytes = batch->file->block_bytes, run;

	for (size_t i = 0; i < batch->count; i += run) {
		struct member *member = &batch->member[i];
		int err;

		run = 1;
		/* Where nobody maps the arena only the daemon writes to it. */
		if (member->plan == PLAN_SKIP || (!batch->mapped && member->partial))
			continue;
		err = read_members(batch, i, batch->values, &run);
		for (size_t k = 0; k < run; k++)
			if (err || memcmp(batch->values + k * block_bytes, member[k].plain, block_bytes) != 0)
				member[k].plan = PLAN_SKIP;
	}
}

/* Ends the state of every block that is still ours, and the ownership of all. */
static void finish(struct batch *batch, struct demote_result *ret)
{
	struct ramfile *file = batch->file;
	uint64_t aborted = 0, demoted = 0, clean = 0;
	bool waiters = false;

	lock_get(&file->lock);
	for (size_t i = 0; i < batch->count; i++) {
		const struct member *member = &batch->member[i];
		uint64_t block = member->block;

		blocks_clear(&file->blocks, block, BLOCK_OWNED);
		if (blocks_state(&file->blocks, block) != BLOCK_STORING) {
			/* Taken back, and counted, by a write fault; those who wait for the owner go on. */
			if (!blocks_passing(&file->blocks, block) && blocks_has(&file->blocks, block, BLOCK_WAITERS)) {
				blocks_clear(&file->blocks, block, BLOCK_WAITERS);
				waiters = true;
			}
			continue;
		}
		if (member->plan == PLAN_SKIP) {
			if (!member->rests)
				heat_used(&file->blocks, block);
			if (member->torn)
				partial_leave(file, block);
			waiters |= file_settle(file, block, BLOCK_RESIDENT);
			aborted++;
			continue;
		}
		clean += member->plan == PLAN_CLEAN;
		demoted++;
		heat_demoted(&file->blocks, block);
		waiters |= file_settle(file, block, member->plan == PLAN_ZERO ? BLOCK_HOLE : BLOCK_COLD);
	}
	file->batches--;
	file->changes.ended++;
	pthread_cond_broadcast(&file->settled);
	lock_put(&file->lock);
	atomic_fetch_add(&file->counts.demotions, demoted);
	atomic_fetch_add(&file->counts.clean_demotions, clean);
	atomic_fetch_add(&file->counts.demotions_aborted, aborted);
	ret->demoted += demoted;
	ret->aborted += aborted;
	if (waiters)
		mappers_wake(file, batch->member[0].block,
			     batch->member[batch->count - 1].block - batch->member[0].block + 1);
	file_release(file, demoted);
}

/* A batch that fails says nothing about who is in use. */
static void leave(struct member *member)
{
	member->rests |= member->plan != PLAN_SKIP;
	member->plan = PLAN_SKIP;
}

/* A block of which a page is still there is resident. */
static int punch(struct batch *batch)
{
	int err = each_span(batch, false, span_punch);

	if (!err)
		return 0;
	log_error("file %llu: arena cannot be punched: %s", (unsigned long long)batch->file->ino, strerror(-err));
	for (size_t i = 0; i < batch->count; i++) {
		struct member *member = &batch->member[i];

		if (member->plan == PLAN_SKIP || !file_has_pages(batch->file, member->block))
			continue;
		member->torn = member->plan != PLAN_ZERO;
		leave(member);
	}
	return err;
}

/* Blocks that stay: their protection goes while their state is still ours, so that it cannot go later from a newer
 * batch. */
static int run(struct batch *batch)
{
	int err = protect_skipped(batch, true); /* all: plans are SKIP until drop_used() */

	if (err) { /* some mapper could write without our knowledge */
		bool locked = err == -EBUSY || err == -ETIMEDOUT;

		/* Of who does not answer everything counts as in use. */
		for (size_t i = 0; i < batch->count; i++)
			batch->member[i].rests = !locked;
		protect_skipped(batch, false);
		return locked ? 0 : err;
	}
	drop_used(batch);
	err = write_out(batch);
	if (err) {
		for (size_t i = 0; i < batch->count; i++)
			leave(&batch->member[i]);
	} else {
		commit(batch);
		verify(batch);
		err = punch(batch);
	}
	protect_skipped(batch, false);
	return err;
}

static int demote_batch(struct batch *batch, const uint32_t *block, size_t count, struct demote_result *ret)
{
	int err;

	batch->count = 0;
	batch->items = batch->copies = 0;
	err = take(batch, block, count);
	if (!err && batch->count)
		err = run(batch);
	finish(batch, ret);
	return err;
}

int demote_blocks(struct ramfile *file, const uint32_t *block, size_t count, bool soon, struct demote_result *ret)
{
	size_t most = BATCH_BYTES / file->block_bytes;
	CLEANUP_FREE struct batch *batch = malloc(sizeof(*batch));
	struct work_batch *buffers = NULL;
	int err;

	*ret = (struct demote_result){ 0 };
	if (most > BATCH_BLOCKS)
		most = BATCH_BLOCKS;
	if (!batch)
		return -ENOMEM;
	err = work_batch_get(engine_works(file->engine), most, &buffers);
	if (err)
		return err;
	batch->file = file;
	batch->values = buffers->values;
	batch->plain = buffers->plain;
	batch->soon = soon;
	batch->work = NULL;
	err = work_get(engine_works(file->engine), &batch->work);
	while (!err && count) {
		size_t now = count < most ? count : most;

		err = demote_batch(batch, block, now, ret);
		block += now;
		count -= now;
	}
	work_put(engine_works(file->engine), batch->work);
	work_batch_put(engine_works(file->engine), buffers);
	return err;
}
