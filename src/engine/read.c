/* Reads by system call, and where data is. None of it changes what is hot.
 *
 * A read takes no passing state. Resident: copy, then look whether a block of the range lost pages meanwhile
 * (punches[]), and if so do it again. The same for a block that is being stored, until the batch commits: whoever
 * stores it may be waiting for the process that maps it, which may be stopped, or worse, and no reader shall wait with
 * it. Cold: one get is one version of the block, and a version that was current when the read began is a right answer.
 */
#include "engine/read.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/away.h"
#include "engine/crew.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/partial.h"
#include "engine/retry.h"
#include "engine/stored.h"
#include "engine/work.h"

/* Large runs are read and expanded in pieces of that much, if there are processors to spare. */
#define PIECE_BYTES (256U << 10)

struct read_run {
	struct ramfile *file;
	enum away_for what;
	struct work *work;
	uint8_t *buf;            /* where offset lands */
	uint64_t offset, length; /* of the request, within one run of blocks */
	uint64_t first, count;
	enum block_state state;
	bool damaged;     /* the first block, which is alone then */
	uint64_t punches; /* sum over the run's slots */
	uint8_t done[RUN_BLOCKS];
	uint64_t piece_blocks; /* while it is read in pieces */
	_Atomic int err;       /* the first one, of any piece */
};

/* One who walks the values of a run, or of a piece of it. */
struct reader {
	struct read_run *run;
	struct work *work;
};

static enum store_use use_of(enum away_for what)
{
	return what == AWAY_FOR_CALL ? STORE_DIRECT : STORE_GUEST;
}

static uint64_t punch_sum(const struct ramfile *file, uint64_t first, uint64_t count)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < count; i++)
		sum += file->punches[(first + i) % PUNCH_SLOTS];
	return sum;
}

/* Under lock. As a read sees it: what is being stored is still there. What the arena has only a part of is not. */
static enum block_state state_of(const struct ramfile *file, uint64_t block)
{
	enum block_state state = blocks_state(&file->blocks, block);

	return state == BLOCK_STORING && !blocks_has(&file->blocks, block, BLOCK_COMMITTING) && !partial_is(file, block)
		       ? BLOCK_RESIDENT
		       : state;
}

/* Under lock: waits until the block can be read, with owned also until no batch holds it. A fill is refused as soon as
 * the file is attached, and therefore waits for no batch that has a mapper to protect: see cache_fill(). */
static int wait_rest(struct read_run *run, uint64_t block, bool owned)
{
	struct ramfile *file = run->file;

	for (;;) {
		if (run->what == AWAY_FOR_FILL && mappers_attached(file))
			return -EINVAL;
		if (block >= file->blocks.count || (state_of(file, block) <= BLOCK_RESIDENT &&
						    !(owned && blocks_has(&file->blocks, block, BLOCK_OWNED))))
			return 0;
		blocks_set(&file->blocks, block, BLOCK_WAITERS);
		lock_wait(&file->lock, &file->settled);
	}
}

/* Finds the longest run of blocks in one state at the start of the request. */
static int begin_read(struct ramfile *file, struct read_run *run, uint64_t len)
{
	uint64_t last;
	int err;

	LOCK_SCOPE(&file->lock);
	run->first = run->offset / file->block_bytes;
	err = wait_rest(run, run->first, false);
	if (!err && run->first < file->blocks.count && blocks_away(&file->blocks, run->first))
		err = away_wait_run(file, run->first, (run->offset + len - 1) / file->block_bytes, run->what);
	if (err)
		return err;
	if (run->offset >= file->size_bytes)
		return -ENODATA;
	if (len > file->size_bytes - run->offset)
		len = file->size_bytes - run->offset;
	last = (run->offset + len - 1) / file->block_bytes;
	run->state = state_of(file, run->first);
	run->count = 1;
	/* A resident block that could not be completed after a crash. */
	run->damaged = blocks_has(&file->blocks, run->first, BLOCK_DAMAGED);
	if (run->state == BLOCK_RESIDENT && partial_is(file, run->first))
		return -EREMCHG;
	if (run->state == BLOCK_RESIDENT && run->damaged)
		return -EIO;
	while (run->first + run->count <= last && run->count < RUN_BLOCKS &&
	       !blocks_has(&file->blocks, run->first + run->count, BLOCK_DAMAGED) &&
	       !partial_is(file, run->first + run->count) && !blocks_away(&file->blocks, run->first + run->count) &&
	       state_of(file, run->first + run->count) == run->state)
		run->count++;
	if (run->first + run->count <= last)
		len = (run->first + run->count) * file->block_bytes - run->offset;
	run->length = len;
	run->punches = punch_sum(file, run->first, run->count);
	return 0;
}

/* Copies the part of a decoded block that the request covers. */
static void copy_piece(struct read_run *run, uint64_t block, const uint8_t *raw)
{
	uint64_t block_start = block * run->file->block_bytes;
	uint64_t from = run->offset > block_start ? run->offset : block_start;
	uint64_t to = block_start + run->file->block_bytes;

	if (to > run->offset + run->length)
		to = run->offset + run->length;
	memcpy(run->buf + (from - run->offset), raw + (from - block_start), to - from);
}

static bool covers(const struct read_run *run, uint64_t block)
{
	uint64_t block_start = block * run->file->block_bytes;

	return run->offset <= block_start && block_start + run->file->block_bytes <= run->offset + run->length;
}

static int read_value(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct reader *reader = arg;
	struct read_run *run = reader->run;
	bool direct = covers(run, key.block);
	uint8_t *raw = direct ? run->buf + (key.block * run->file->block_bytes - run->offset) : reader->work->raw;

	if (stored_decode_value(run->file, reader->work, key.block, value, length_bytes, raw, NULL))
		return 0; /* read again alone, and reported there */
	if (!direct)
		copy_piece(run, key.block, raw);
	run->done[key.block - run->first] = 1;
	return 0;
}

/* A stored copy could not be read. If its block is not cold any more, or not any more what it was, that is no error. */
static int missing_copy(struct read_run *run, uint64_t block)
{
	struct ramfile *file = run->file;
	struct codec_info info;
	bool cold;
	int err;

	lock_get(&file->lock);
	err = wait_rest(run, block, true);
	cold = !err && block < file->blocks.count && blocks_state(&file->blocks, block) == BLOCK_COLD;
	if (cold)
		blocks_set_state(&file->blocks, block, BLOCK_UPDATING); /* ours: now the answer is certain */
	lock_put(&file->lock);
	if (cold) {
		err = stored_fetch(file, run->work, block, run->work->raw, &info);
		file_end_update(file, block, BLOCK_COLD);
	}
	return err && err != -EREMOTE ? err : -EAGAIN; /* -EREMOTE: it became away, begin_read() waits */
}

static void read_piece(void *arg, unsigned int piece)
{
	struct read_run *run = arg;
	struct ramfile *file = run->file;
	struct reader reader = { .run = run };
	uint64_t first = piece * run->piece_blocks, count = run->count - first;
	int none = 0;
	int err = work_get(engine_works(file->engine), use_of(run->what), &reader.work);

	if (count > run->piece_blocks)
		count = run->piece_blocks;
	if (!err)
		err = flow_walk(file, reader.work->use, run->first + first, count, read_value, &reader);
	work_put(engine_works(file->engine), reader.work);
	if (err)
		atomic_compare_exchange_strong(&run->err, &none, err);
}

/* Reads what can be read of many blocks at the same time. */
static int walk_run(struct read_run *run)
{
	struct ramfile *file = run->file;
	struct crew *crew = engine_crew(file->engine);

	run->piece_blocks = PIECE_BYTES / file->block_bytes;
	if (run->count <= run->piece_blocks || !crew_spare(crew))
		run->piece_blocks = run->count;
	atomic_init(&run->err, 0);
	crew_run(crew, (unsigned int)((run->count + run->piece_blocks - 1) / run->piece_blocks), read_piece, run);
	return atomic_load(&run->err);
}

static int read_cold(struct read_run *run)
{
	struct ramfile *file = run->file;
	int err;

	memset(run->done, 0, run->count);
	if (run->count > 1) {
		err = walk_run(run);
		if (err)
			return err;
	}
	for (uint64_t i = 0; i < run->count; i++) {
		size_t length;

		if (run->done[i])
			continue;
		err = stored_get(file, run->work, run->first + i, &length);
		if (!err)
			err = stored_decode(file, run->work, run->first + i, length, run->work->raw, NULL);
		if (err == -ENOENT || err == -EBADMSG || err == -EPROTONOSUPPORT || err == -EREMOTE)
			return missing_copy(run, run->first + i);
		if (err)
			return err;
		copy_piece(run, run->first + i, run->work->raw);
	}
	if (run->damaged)
		stored_readable(file, run->first);
	return 0;
}

/* True if no block of the run lost pages since the read began. */
static bool still_valid(struct ramfile *file, const struct read_run *run)
{
	LOCK_SCOPE(&file->lock);

	return punch_sum(file, run->first, run->count) == run->punches;
}

/* Who waits for a limit keeps no memory meanwhile. A fill has waited before (cache.c). */
static int await_turn(struct read_run *run)
{
	struct ramfile *file = run->file;
	int err;

	if (run->what != AWAY_FOR_CALL || flow_take_read_now(file, run->first, run->count))
		return 0;
	work_put(engine_works(file->engine), run->work);
	run->work = NULL;
	err = flow_wait_read(file, run->first, run->count, false);
	return err ? err : work_get(engine_works(file->engine), use_of(run->what), &run->work);
}

/* One run. -EAGAIN: it changed under us. */
static int read_run(struct ramfile *file, struct read_run *run)
{
	int err = 0;

	switch (run->state) {
	case BLOCK_HOLE:
		memset(run->buf, 0, run->length);
		return 0;
	case BLOCK_COLD:
		err = await_turn(run);
		return err ? err : read_cold(run);
	case BLOCK_RESIDENT:
		err = arena_read(&file->arena, run->buf, run->length, run->offset);
		return still_valid(file, run) ? err : -EAGAIN;
	case BLOCK_LOADING:
	case BLOCK_STORING:
	case BLOCK_UPDATING:
		break;
	}
	return -EAGAIN;
}

/* The first block of the run lacks pages that are in its stored copy. */
static int complete_first(struct ramfile *file, struct read_run *run)
{
	int err;

	lock_get(&file->lock);
	err = wait_rest(run, run->first, true);
	if (err)
		lock_put(&file->lock);
	else
		err = partial_complete_at_rest(file, run->work, run->first);
	return err ? err : -EAGAIN;
}

/* An error of the device passes, perhaps; damage does not. False: it has lasted for long enough. */
static bool wait_for_device(struct ramfile *file, const struct read_run *run, uint64_t *failed_ns)
{
	uint64_t now = clock_ns(), pause;
	bool damaged;

	lock_get(&file->lock);
	damaged = run->first >= file->blocks.count || blocks_has(&file->blocks, run->first, BLOCK_DAMAGED);
	lock_put(&file->lock);
	if (!*failed_ns)
		*failed_ns = now;
	if (damaged || !engine_retry(file->engine) || now - *failed_ns >= RETRY_READ_NS)
		return false;
	pause = retry_pause_ns(now - *failed_ns);
	nanosleep(&(struct timespec){ .tv_sec = (time_t)(pause / NS_PER_S), .tv_nsec = (long)(pause % NS_PER_S) },
		  NULL);
	return true;
}

int read_for(struct ramfile *file, enum away_for what, void *buf, size_t len, uint64_t offset, size_t *ret_len)
{
	struct read_run run = { .file = file, .what = what };
	uint64_t failed_ns = 0;
	size_t done = 0;
	int err;

	if (atomic_load(&file->lost))
		return -EIO;
	err = work_get(engine_works(file->engine), use_of(what), &run.work);
	if (err)
		return err;
	while (done < len) {
		run.buf = (uint8_t *)buf + done;
		run.offset = offset + done;
		err = begin_read(file, &run, len - done);
		if (err == -EREMCHG)
			err = complete_first(file, &run);
		else if (!err)
			err = read_run(file, &run);
		if (err == -EAGAIN || (err == -EIO && wait_for_device(file, &run, &failed_ns)))
			continue;
		if (err)
			break;
		done += run.length;
	}
	work_put(engine_works(file->engine), run.work);
	/* Who does not wait for the rest has what there was. */
	if (err && err != -ENODATA && !(done && (err == -EINTR || err == -EUSERS)))
		return err;
	*ret_len = done;
	return 0;
}

/* --- seek ------------------------------------------------------------------------------------------------- */

/* Under lock. What a plain mapping wrote where there was nothing is data, though only the kernel has it. */
static bool is_hole(const struct ramfile *file, uint64_t block)
{
	return blocks_state(&file->blocks, block) == BLOCK_HOLE && !file_may_be_dirty(file, block);
}

int ramfile_seek(struct ramfile *file, uint64_t offset, int whence, uint64_t *ret_offset)
{
	uint64_t block = offset / file->block_bytes;
	bool want_hole = whence == SEEK_HOLE;

	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	if (atomic_load(&file->lost))
		return -EIO;
	LOCK_SCOPE(&file->lock);
	if (offset >= file->size_bytes)
		return -ENXIO;
	if (want_hole && file->cache.opens && file->cache.unknown)
		block = file->blocks.count;
	while (block < file->blocks.count && is_hole(file, block) != want_hole)
		block = want_hole ? block + 1 : blocks_next(&file->blocks, block + 1, BLOCKS_USED);
	if (block == file->blocks.count) {
		if (!want_hole)
			return -ENXIO;
		*ret_offset = file->size_bytes;
		return 0;
	}
	*ret_offset = block * file->block_bytes > offset ? block * file->block_bytes : offset;
	return 0;
}

int ramfile_read(struct ramfile *file, void *buf, size_t len, uint64_t offset, size_t *ret_len)
{
	return read_for(file, AWAY_FOR_CALL, buf, len, offset, ret_len);
}
