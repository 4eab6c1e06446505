/* engine/access_write.c - writing blocks where they are, and setting their age: see access.h.
 *
 * A batch of blocks that are cold or holes, or resident if that is asked for, is taken (UPDATING), all of its payload
 * is copied, checked and made ready, one put writes what goes to the store, and the blocks settle. Other blocks that
 * are resident, and those on their way, are not taken. A batch waits for nobody while it holds blocks: it ends before
 * the block that it would wait for, so that two of them cannot wait for each other.
 */
#include "engine/access.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/partial.h"
#include "engine/stored.h"
#include "engine/work.h"

#define RECORD_FLAGS_IN (TIERFS_BLOCK_SET_AGE | TIERFS_BLOCK_TO_DRAM | TIERFS_BLOCK_IN_PLACE | TIERFS_BLOCK_AWAY)

#define TAIL_ALIGN 64U

/* A block that is ours. */
struct target {
	struct tierfs_access_record record; /* a copy of the request, then the answer */
	size_t index;                       /* of the record in the buffer */
	struct batch_block *block;
	struct tierfs_ident away_ident; /* what must come, if it is known: of the pool that has it */
	struct tierfs_ident said;       /* what has come, as who brings it says; of the same pool */
	bool away;
	int err;
};

struct writer {
	struct ramfile *file;
	struct work *work;
	uint32_t flags;
	const struct access_buffer *buffer;
	struct batch batch;
	struct target target[RUN_BLOCKS]; /* of each block of the batch */
};

/* --- taking ---------------------------------------------------------------------------------------------------- */

static int check_record(const struct writer *writer, const struct tierfs_access_record *record)
{
	if (record->form > TIERFS_FORM_AWAY || record->tier > HEAT_TIER_MAX || record->flags & ~RECORD_FLAGS_IN)
		return -EINVAL;
	if (record->form == TIERFS_FORM_AWAY && (!ident_known(record->ident) || record->flags & TIERFS_BLOCK_IN_PLACE))
		return -EINVAL;
	if (record->flags & TIERFS_BLOCK_AWAY && record->form != TIERFS_FORM_STORED &&
	    record->form != TIERFS_FORM_PLAIN)
		return -EINVAL;
	if (record->form == TIERFS_FORM_NONE || record->form == TIERFS_FORM_AWAY)
		return record->payload_bytes ? -EINVAL : 0;
	if (record->payload_bytes > writer->buffer->bytes ||
	    record->payload_at > writer->buffer->bytes - record->payload_bytes)
		return -EINVAL;
	return 0;
}

enum took { TOOK, ANSWERED, NOT_NOW };

/* Under lock: a block at rest that a write may not touch. */
static bool is_left_alone(const struct ramfile *file, const struct tierfs_access_record *record)
{
	const struct blocks *blocks = &file->blocks;

	/* The kernel may be about to cache a block that is away: it waits for it. */
	if (record->flags & TIERFS_BLOCK_AWAY)
		return !blocks_away(blocks, record->block);
	return blocks_has(blocks, record->block, BLOCK_CACHED) || file->cache.unknown ||
	       (blocks_state(blocks, record->block) == BLOCK_RESIDENT && !(record->flags & TIERFS_BLOCK_IN_PLACE));
}

/* Under lock: what a block at rest will have for its age. */
static struct codec_hotness hotness_of(const struct blocks *blocks, const struct tierfs_access_record *record)
{
	if (record->flags & TIERFS_BLOCK_SET_AGE)
		return (struct codec_hotness){ .generation = record->generation, .tier = record->tier };
	if (blocks_state(blocks, record->block) == BLOCK_COLD)
		return (struct codec_hotness){ .generation = blocks_generation(blocks, record->block),
					       .tier = blocks_tier(blocks, record->block) };
	return (struct codec_hotness){ 0 };
}

/* Under lock, which is dropped where it waits. */
static enum took take_locked(struct writer *writer, struct tierfs_access_record *record, struct target *target)
{
	struct ramfile *file = writer->file;
	const struct blocks *blocks = &file->blocks;
	uint64_t block = record->block;
	struct codec_hotness hotness;

	if (block < blocks->count && (blocks_passing(blocks, block) || blocks_has(blocks, block, BLOCK_OWNED))) {
		for (size_t i = 0; i < writer->batch.count; i++)
			if (writer->batch.block[i].block == block)
				return NOT_NOW; /* named twice */
		if (writer->flags & TIERFS_ACCESS_WAIT) {
			if (writer->batch.count)
				return NOT_NOW;
			file_wait_owner(file, block);
		}
	}
	if (block >= blocks->count) {
		access_fail(record, -ENXIO);
		return ANSWERED;
	}
	if (blocks_passing(blocks, block) || blocks_has(blocks, block, BLOCK_OWNED) || is_left_alone(file, record)) {
		bool owned = blocks_has(blocks, block, BLOCK_OWNED);

		access_look(file, block, record);
		if (owned)
			record->result = TIERFS_ACCESS_BUSY;
		return ANSWERED;
	}
	*target = (struct target){ .record = *record,
				   .away = blocks_away(blocks, block),
				   .away_ident = record->flags & TIERFS_BLOCK_AWAY ? blocks->ident[block]
										   : IDENT_NONE };
	hotness = hotness_of(blocks, record);
	target->block = batch_take(&writer->batch, block, BLOCK_UPDATING);
	target->block->hotness = hotness;
	/* Somebody may wait for it: a limit of what is stored refuses what is said to be away, not what comes. */
	target->block->anyway = target->away;
	return TOOK;
}

/* The request at index i: taken, answered at once, or left for the next batch. */
static enum took take(struct writer *writer, size_t i)
{
	struct tierfs_access_record record = access_copy_record(writer->buffer, i);
	struct target *target = &writer->target[writer->batch.count];
	enum took took = ANSWERED;
	int err;

	record = (struct tierfs_access_record){ .block = record.block,
						.count = 1,
						.ident = record.ident,
						.payload_at = record.payload_at,
						.payload_bytes = record.payload_bytes,
						.generation = record.generation,
						.tier = record.tier,
						.form = record.form,
						.flags = record.flags };
	err = check_record(writer, &record);
	if (err) {
		access_fail(&record, err);
	} else {
		LOCK_SCOPE(&writer->file->lock);
		file_visit(writer->file, clock_ns());
		took = take_locked(writer, &record, target);
	}
	if (took == ANSWERED)
		writer->buffer->record[i] = record;
	if (took == TOOK)
		target->index = i;
	return took;
}

/* --- making ready ---------------------------------------------------------------------------------------------- */

static bool tail_is_zero(const struct writer *writer, const struct target *target)
{
	const uint8_t *raw = writer->work->raw;
	size_t block_bytes = writer->file->block_bytes, at = target->block->content;

	/* The codec looks at whole words, and several at a time. */
	while (at < block_bytes && at % TAIL_ALIGN && !raw[at])
		at++;
	return at == block_bytes || (at % TAIL_ALIGN == 0 && codec_is_zero(raw + at, block_bytes - at));
}

/* A block that is resident keeps what it has of the budget, and its stored copy: pages of the arena win over it. */
static int write_resident(struct writer *writer, struct target *target)
{
	struct ramfile *file = writer->file;

	return arena_write(&file->arena, writer->work->raw, target->block->content,
			   target->block->block * file->block_bytes);
}

/* The content into work->raw; a value that came as stored is checked as a whole, and stays in its slot. */
static int read_payload(struct writer *writer, struct target *target)
{
	const struct tierfs_access_record *record = &target->record;
	struct batch_block *one = target->block;
	const uint8_t *payload = writer->buffer->base + record->payload_at;
	struct work *work = writer->work;
	uint32_t block_bytes = writer->file->block_bytes;
	struct store_key away = { .ino = 0, .block = record->block };
	struct codec_info info;
	uint8_t *slot;
	int err;

	if (record->form == TIERFS_FORM_PLAIN) {
		if (record->payload_bytes != one->content)
			return -EINVAL;
		memcpy(work->raw, payload, one->content);
		memset(work->raw + one->content, 0, block_bytes - one->content);
		target->said = record->ident;
		one->ident = mac_of(work->mac, work->raw, block_bytes);
		return 0;
	}
	if (record->payload_bytes < CODEC_HEADER_BYTES || record->payload_bytes > codec_bound(block_bytes))
		return -EBADMSG;
	slot = batch_slot(&writer->batch, one);
	memcpy(slot, payload, record->payload_bytes);
	err = codec_decode(work->codec, away, slot, record->payload_bytes, work->raw, &info);
	if (err)
		return err;
	/* A demotion takes the identity for proof that memory equals its copy, so it is never what somebody says. */
	target->said = info.ident;
	one->ident = mac_of(work->mac, work->raw, block_bytes);
	return tail_is_zero(writer, target) ? 0 : -EBADMSG;
}

/* A copy that is damaged equals nothing. */
static void forget_hash(struct ramfile *file, uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	blocks_set_stored(&file->blocks, block, file->blocks.stored_bytes[block], IDENT_NONE);
}

static int fill_dram(struct writer *writer, struct batch_block *one)
{
	struct ramfile *file = writer->file;
	uint64_t block = one->block, offset = block * file->block_bytes;
	int err = 0;

	/* Pages that the arena lacks would be those of the key. */
	if (one->was == BLOCK_HOLE)
		err = stored_forget(file, block);
	if (!err)
		err = arena_write(&file->arena, writer->work->raw, one->content, offset);
	/* Not before the content is there, without which it would be a hole. */
	if (!err && one->damaged && stored_forget(file, block))
		forget_hash(file, block);
	if (!err)
		return 0;
	if (!file_has_pages(file, block)) {
		file_release(file, 1);
		return err;
	}
	/* Who maps the file may have changed what came already. */
	lock_get(&file->lock);
	if (one->was == BLOCK_COLD)
		partial_leave(file, block);
	lock_put(&file->lock);
	one->was = BLOCK_RESIDENT;
	return err;
}

static int make_value(struct writer *writer, struct target *target)
{
	struct batch_block *one = target->block;
	struct store_key key = { .ino = writer->file->ino, .block = one->block };
	struct store_key away = { .ino = 0, .block = one->block };
	size_t bound = codec_bound(writer->file->block_bytes), length = target->record.payload_bytes;
	uint8_t *slot = batch_slot(&writer->batch, one);
	int err = 0;

	if (target->record.form == TIERFS_FORM_AWAY) {
		one->ident = target->record.ident;
		codec_encode_away(writer->file->block_bytes, key, one->hotness, one->ident, slot);
		one->value_bytes = CODEC_HEADER_BYTES;
	} else if (target->record.form == TIERFS_FORM_STORED) {
		err = codec_adopt(slot, length, bound, away, key, &one->hotness, one->ident, &length);
		one->value_bytes = (uint32_t)length;
	} else {
		err = batch_make_value(&writer->batch, writer->work, one, writer->work->raw);
	}
	if (!err)
		one->verdict = BATCH_STORE;
	return err;
}

/* The verdict is LEFT for what comes into DRAM, and after an error. */
static int prepare(struct writer *writer, struct target *target)
{
	struct ramfile *file = writer->file;
	struct batch_block *one = target->block;
	int err;

	if (one->was == BLOCK_RESIDENT) {
		err = target->record.form == TIERFS_FORM_NONE ? -EINVAL : 0;
		if (!err)
			err = partial_complete(file, writer->work, one->block);
		if (!err)
			err = read_payload(writer, target);
		return err ? err : write_resident(writer, target);
	}
	if (target->record.form == TIERFS_FORM_NONE) {
		one->verdict = BATCH_ZERO;
		return 0;
	}
	if (target->record.form == TIERFS_FORM_AWAY)
		return make_value(writer, target);
	err = read_payload(writer, target);
	if (!err && ident_known(target->away_ident) && !ident_equal(target->away_ident, target->said))
		err = -ESTALE;
	if (err)
		return err;
	if (codec_is_zero(writer->work->raw, file->block_bytes)) {
		one->verdict = BATCH_ZERO;
		return 0;
	}
	/* In DRAM a key that is away would be left. */
	if (target->record.flags & TIERFS_BLOCK_TO_DRAM && !target->away && file_reserve(file, 1, BUDGET_OPTIONAL))
		return fill_dram(writer, one);
	return make_value(writer, target);
}

/* --- the batch ------------------------------------------------------------------------------------------------- */

/* Under lock. */
static void settle(struct writer *writer, struct target *target)
{
	struct tierfs_access_record *record = &target->record;
	struct batch_block *one = target->block;
	struct blocks *blocks = &writer->file->blocks;
	enum block_state now = one->was;
	/* A change in place by itself says nothing about use. */
	bool aged = one->was != BLOCK_RESIDENT || record->flags & TIERFS_BLOCK_SET_AGE;

	if (!target->err) {
		if (aged)
			file_used(writer->file, one->block);
		now = one->verdict == BATCH_LEFT ? BLOCK_RESIDENT : batch_state(one);
		blocks_clear(blocks, one->block, BLOCK_DAMAGED);
	}
	batch_settle(&writer->batch, one, now);
	if (!target->err && now != BLOCK_HOLE && aged) {
		file_set_age(writer->file, one->block, one->hotness.generation);
		blocks_set_tier(blocks, one->block, one->hotness.tier);
	}
	access_look(writer->file, one->block, record);
	record->result = TIERFS_ACCESS_WRITE_OK;
	if (target->err)
		access_fail(record, target->err);
}

static void end_batch(struct writer *writer)
{
	struct ramfile *file = writer->file;

	lock_get(&file->lock);
	for (size_t i = 0; i < writer->batch.count; i++)
		settle(writer, &writer->target[i]);
	lock_put(&file->lock);
	batch_wake(&writer->batch);
	for (size_t i = 0; i < writer->batch.count; i++)
		writer->buffer->record[writer->target[i].index] = writer->target[i].record;
	batch_clear(&writer->batch);
}

/* A block that fails is left out, the others go on. */
static void write_batch(struct writer *writer)
{
	struct batch *batch = &writer->batch;

	for (size_t i = 0; i < batch->count; i++)
		writer->target[i].err = prepare(writer, &writer->target[i]);
	batch_put(batch, STORE_DIRECT);
	for (size_t i = 0; i < batch->count; i++) {
		struct batch_block *one = &batch->block[i];

		if (one->verdict == BATCH_ZERO)
			batch_forget_one(batch, one);
		if (!writer->target[i].err)
			writer->target[i].err = one->err;
	}
	end_batch(writer);
}

static void write_records(struct writer *writer)
{
	for (size_t i = 0; i < writer->buffer->records;) {
		enum took took = take(writer, i);

		i += took != NOT_NOW;
		if (took == NOT_NOW || writer->batch.count == RUN_BLOCKS)
			write_batch(writer);
	}
	write_batch(writer);
}

int access_write(struct ramfile *file, uint32_t flags, const struct access_buffer *buffer)
{
	CLEANUP_FREE struct writer *writer = calloc(1, sizeof(*writer));
	int err;

	if (!writer)
		return -ENOMEM;
	writer->file = file;
	writer->flags = flags;
	writer->buffer = buffer;
	err = batch_init(&writer->batch, file, RUN_BLOCKS, RUN_BLOCKS);
	if (!err)
		err = work_get(engine_works(file->engine), STORE_DIRECT, &writer->work);
	if (!err)
		err = file_begin_change(file);
	if (!err) {
		flow_begin_write(file, buffer->records * file->block_bytes, true);
		write_records(writer);
		flow_end_write(file, buffer->records * file->block_bytes);
		file_end_change(file);
	}
	work_put(engine_works(file->engine), writer->work);
	batch_fini(&writer->batch);
	return err;
}

/* --- ages ------------------------------------------------------------------------------------------------------ */

static void set_one(struct ramfile *file, uint32_t flags, struct tierfs_access_record *record)
{
	uint8_t generation = record->generation, tier = record->tier;
	uint64_t block = record->block;
	int err = tier > HEAT_TIER_MAX || record->flags ? -EINVAL : 0;

	LOCK_SCOPE(&file->lock);
	if (!err && flags & TIERFS_ACCESS_WAIT)
		file_wait_block(file, block);
	if (!err && block >= file->blocks.count)
		err = -ENXIO;
	if (err) {
		access_fail(record, err);
		return;
	}
	if (blocks_state(&file->blocks, block) == BLOCK_COLD || blocks_state(&file->blocks, block) == BLOCK_RESIDENT) {
		file_visit(file, clock_ns());
		file_set_age(file, block, generation);
		blocks_set_tier(&file->blocks, block, tier);
		access_look(file, block, record);
		record->result = TIERFS_ACCESS_SET_OK;
	} else {
		access_look(file, block, record);
	}
}

int access_set(struct ramfile *file, uint32_t flags, const struct access_buffer *buffer)
{
	if (atomic_load(&file->lost))
		return -EIO;
	for (size_t i = 0; i < buffer->records; i++) {
		struct tierfs_access_record record = access_copy_record(buffer, i);

		set_one(file, flags, &record);
		buffer->record[i] = record;
	}
	return 0;
}
