/* engine/access_read.c - reading blocks where they are: see access.h.
 *
 * A chunk of neighbours is looked at under the lock, which fixes what the answers say. The content is read without: the
 * cold ones in one walk of the store. A value that the walk brings was current when the look was made or later, which
 * is a right answer. One that it does not bring may have changed its place meanwhile, so its block is taken for a
 * moment (UPDATING) and read alone; then an error is certain.
 */
#include "engine/access.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/read.h"
#include "engine/stored.h"
#include "engine/work.h"

#define PAYLOAD_ALIGN 8U

struct reader {
	struct ramfile *file;
	struct work *work;
	uint32_t flags;
	const struct access_buffer *buffer;
	size_t used; /* of the room for payload */
	uint64_t first, count;
	struct tierfs_access_record record[RUN_BLOCKS];
	struct tierfs_ident known[RUN_BLOCKS]; /* with TIERFS_ACCESS_CHANGED: what the caller has */
	bool wanted[RUN_BLOCKS];               /* its payload is still to come */
};

/* What a payload of one block can take of the buffer. */
static size_t payload_max(const struct ramfile *file)
{
	return (codec_bound(file->block_bytes) + PAYLOAD_ALIGN - 1) & ~(size_t)(PAYLOAD_ALIGN - 1);
}

size_t access_payload_max(struct ramfile *file)
{
	return payload_max(file);
}

void access_look(const struct ramfile *file, uint64_t block, struct tierfs_access_record *ret)
{
	const struct blocks *blocks = &file->blocks;
	bool cached = blocks_has(blocks, block, BLOCK_CACHED) || file_may_be_dirty(file, block);

	*ret = (struct tierfs_access_record){ .block = block, .count = 1, .generation = heat_age(blocks, block) };
	ret->tier = blocks_tier(blocks, block);
	ret->flags = (uint8_t)((blocks_has(blocks, block, BLOCK_PINNED) ? TIERFS_BLOCK_PINNED : 0) |
			       (blocks_has(blocks, block, BLOCK_DAMAGED) ? TIERFS_BLOCK_DAMAGED : 0) |
			       (cached ? TIERFS_BLOCK_CACHED : 0) |
			       (blocks_away(blocks, block) ? TIERFS_BLOCK_AWAY : 0));
	ret->copy = blocks_has(blocks, block, BLOCK_STORED) ? TIERFS_COPY_UNKNOWN : TIERFS_COPY_NONE;
	switch (blocks_state(blocks, block)) {
	case BLOCK_HOLE:
		ret->state = TIERFS_STATE_HOLE;
		ret->result = TIERFS_ACCESS_HOLE;
		ret->copy = TIERFS_COPY_NONE;
		ret->tier = 0;
		break;
	case BLOCK_COLD:
		ret->state = TIERFS_STATE_COLD;
		ret->result = TIERFS_ACCESS_READ_OK;
		ret->copy = TIERFS_COPY_SAME;
		ret->ident = blocks->ident[block];
		if (ret->flags & TIERFS_BLOCK_AWAY) {
			ret->copy = TIERFS_COPY_NONE;
			ret->ident = IDENT_NONE;
		}
		break;
	case BLOCK_RESIDENT:
		ret->state = TIERFS_STATE_RESIDENT;
		ret->result = TIERFS_ACCESS_RESIDENT;
		return;
	case BLOCK_LOADING:
	case BLOCK_STORING:
	case BLOCK_UPDATING:
		ret->state = TIERFS_STATE_PASSING;
		ret->result = TIERFS_ACCESS_BUSY;
		return;
	}
	if (cached) {
		ret->state = TIERFS_STATE_RESIDENT;
		ret->result = TIERFS_ACCESS_RESIDENT;
		ret->copy = blocks_has(blocks, block, BLOCK_STORED) ? TIERFS_COPY_UNKNOWN : TIERFS_COPY_NONE;
		ret->ident = IDENT_NONE;
	}
}

void access_fail(struct tierfs_access_record *record, int err)
{
	record->result = TIERFS_ACCESS_ERROR;
	record->error = (uint16_t)-err;
	record->form = TIERFS_FORM_NONE;
	record->payload_at = record->payload_bytes = 0;
}

/* --- looking --------------------------------------------------------------------------------------------------- */

/* Of a resident block the identity is known after it was read. */
static bool is_known(const struct reader *reader, const struct tierfs_access_record *record)
{
	return reader->flags & TIERFS_ACCESS_CHANGED &&
	       ident_same(record->ident, reader->known[record->block - reader->first]);
}

static bool wants_payload(const struct reader *reader, const struct tierfs_access_record *record)
{
	if (reader->flags & TIERFS_ACCESS_NO_PAYLOAD || is_known(reader, record))
		return false;
	if (record->state == TIERFS_STATE_COLD)
		return !(record->flags & TIERFS_BLOCK_AWAY); /* a damaged one may be readable again */
	return record->state == TIERFS_STATE_RESIDENT && reader->flags & TIERFS_ACCESS_ALSO_RESIDENT &&
	       !(record->flags & TIERFS_BLOCK_CACHED);
}

/* Looks at the blocks from first on, at most `most`, as far as there is room for their payload. *ret_end: the file ends
 * there. */
static void look_chunk(struct reader *reader, uint64_t first, uint64_t most, bool *ret_end)
{
	struct ramfile *file = reader->file;
	size_t room = (reader->buffer->payload_bytes - reader->used) / payload_max(file);

	LOCK_SCOPE(&file->lock);
	reader->first = first;
	reader->count = 0;
	*ret_end = false;
	while (reader->count < most && reader->count < RUN_BLOCKS) {
		struct tierfs_access_record *record = &reader->record[reader->count];
		uint64_t block = first + reader->count;

		if (reader->flags & TIERFS_ACCESS_WAIT)
			file_wait_block(file, block);
		if (block >= file->blocks.count) {
			*ret_end = true;
			return;
		}
		access_look(file, block, record);
		reader->wanted[reader->count] = wants_payload(reader, record);
		if (reader->wanted[reader->count] && room-- == 0)
			return;
		if (record->state == TIERFS_STATE_COLD && record->flags & TIERFS_BLOCK_DAMAGED &&
		    !reader->wanted[reader->count])
			access_fail(record, -EBADMSG);
		else if (record->state == TIERFS_STATE_COLD && record->flags & TIERFS_BLOCK_AWAY)
			access_fail(record, -EREMOTE);
		reader->count++;
	}
}

/* --- payload --------------------------------------------------------------------------------------------------- */

/* look_chunk() has seen to it that there is room. */
static void put_payload(struct reader *reader, struct tierfs_access_record *record, enum tierfs_access_form form,
			const void *bytes, size_t length)
{
	size_t at = reader->buffer->payload_at + reader->used;

	memcpy(reader->buffer->base + at, bytes, length);
	record->payload_at = (uint32_t)at;
	record->payload_bytes = (uint32_t)length;
	record->form = (uint8_t)form;
	reader->used += (length + PAYLOAD_ALIGN - 1) & ~(size_t)(PAYLOAD_ALIGN - 1);
}

static size_t raw_bytes(struct ramfile *file, uint64_t block)
{
	LOCK_SCOPE(&file->lock);

	return block < file->blocks.count ? file_block_content(file, block) : 0;
}

/* A value of the store, in work->value. Whoever is given content is told its identity as well: that of a value of the
 * old form is made now. */
static int put_value(struct reader *reader, struct tierfs_access_record *record, size_t length)
{
	struct work *work = reader->work;
	struct store_key key = { .ino = reader->file->ino, .block = record->block };
	struct store_key away = { .ino = 0, .block = record->block };
	struct codec_hotness hotness = { .generation = record->generation, .tier = record->tier };
	bool stored = reader->flags & TIERFS_ACCESS_STORED;
	struct codec_info info;
	int err = codec_peek(work->value, length, &info);

	if (!err && info.kind == CODEC_AWAY)
		err = -EREMOTE;
	if (!err && (!stored || !ident_known(info.ident)))
		err = stored_decode(reader->file, work, record->block, length, work->raw, &info);
	if (!err && !ident_known(info.ident))
		info.ident = mac_of(work->mac, work->raw, reader->file->block_bytes);
	if (!err && stored)
		err = codec_adopt(work->value, length, work->value_cap, key, away, &hotness, info.ident, &length);
	if (err)
		return err;
	record->ident = info.ident;
	if (is_known(reader, record))
		return 0;
	if (stored)
		put_payload(reader, record, TIERFS_FORM_STORED, work->value, length);
	else
		put_payload(reader, record, TIERFS_FORM_PLAIN, work->raw, raw_bytes(reader->file, record->block));
	return 0;
}

static int take_value(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct reader *reader = arg;
	uint64_t i = key.block - reader->first;

	if (!reader->wanted[i] || length_bytes > reader->work->value_cap ||
	    reader->record[i].flags & TIERFS_BLOCK_DAMAGED)
		return 0;
	memcpy(reader->work->value, value, length_bytes);
	if (!put_value(reader, &reader->record[i], length_bytes))
		reader->wanted[i] = false;
	return 0; /* what failed is read again alone */
}

/* The walk did not bring it. */
static void read_alone(struct reader *reader, struct tierfs_access_record *record)
{
	struct ramfile *file = reader->file;
	struct codec_info info;
	bool cold, damaged;
	int err;

	lock_get(&file->lock);
	if (record->block >= file->blocks.count) {
		lock_put(&file->lock);
		access_fail(record, -ENXIO);
		return;
	}
	access_look(file, record->block, record);
	cold = record->state == TIERFS_STATE_COLD && !blocks_has(&file->blocks, record->block, BLOCK_OWNED);
	if (cold)
		blocks_set_state(&file->blocks, record->block, BLOCK_UPDATING);
	lock_put(&file->lock);
	if (!cold)
		return; /* it moved meanwhile: that is the answer */
	err = stored_fetch(file, reader->work, record->block, reader->work->raw, &info);
	if (!err)
		err = put_value(reader, record, info.header_bytes + info.payload_bytes);
	lock_get(&file->lock);
	damaged = blocks_has(&file->blocks, record->block, BLOCK_DAMAGED);
	if (!damaged)
		record->flags &= (uint8_t)~TIERFS_BLOCK_DAMAGED;
	lock_put(&file->lock);
	file_end_update(file, record->block, BLOCK_COLD);
	if (err)
		access_fail(record, damaged ? -EBADMSG : err);
}

static int read_cold(struct reader *reader)
{
	uint64_t i = 0;
	int err;

	while (i < reader->count) {
		uint64_t run = 0;

		while (i + run < reader->count && reader->wanted[i + run] &&
		       reader->record[i + run].state == TIERFS_STATE_COLD)
			run++;
		if (run) {
			flow_wait_read(reader->file, reader->first + i, run, true);
			err = flow_walk(reader->file, STORE_DIRECT, reader->first + i, run, take_value, reader);
			if (err)
				return err;
		}
		for (uint64_t j = i; j < i + run; j++)
			if (reader->wanted[j])
				read_alone(reader, &reader->record[j]);
		i += run + 1;
	}
	return 0;
}

static int put_resident(struct reader *reader, struct tierfs_access_record *record, const uint8_t *raw, size_t length)
{
	struct work *work = reader->work;
	struct codec *codec = work->codec;
	struct store_key away = { .ino = 0, .block = record->block };
	struct codec_hotness hotness = { .generation = record->generation, .tier = record->tier };
	size_t value_length;
	int err = 0;

	if (!(reader->flags & TIERFS_ACCESS_STORED)) {
		put_payload(reader, record, TIERFS_FORM_PLAIN, raw, length);
		return 0;
	}
	if (codec_is_zero(raw, reader->file->block_bytes)) {
		record->flags |= TIERFS_BLOCK_ZERO;
		return 0;
	}
	if (reader->flags & TIERFS_ACCESS_QUICK) {
		err = work_quick(work, reader->file->block_bytes);
		codec = work->quick;
	}
	if (!err)
		err = codec_encode(codec, away, hotness, raw, record->ident, work->value, work->value_cap,
				   &value_length);
	if (!err)
		put_payload(reader, record, TIERFS_FORM_STORED, work->value, value_length);
	return err;
}

static void compare(struct ramfile *file, struct tierfs_access_record *record)
{
	LOCK_SCOPE(&file->lock);

	if (record->block >= file->blocks.count || !blocks_has(&file->blocks, record->block, BLOCK_STORED)) {
		record->copy = TIERFS_COPY_NONE;
		return;
	}
	if (ident_known(file->blocks.ident[record->block]))
		record->copy = ident_same(file->blocks.ident[record->block], record->ident) ? TIERFS_COPY_SAME
											    : TIERFS_COPY_DIFFERS;
}

/* What an answer says of a resident block whose content was read; length: as far as the file goes. */
static void answer_resident(struct reader *reader, struct tierfs_access_record *record, const uint8_t *raw,
			    size_t length)
{
	struct ramfile *file = reader->file;
	/* Also of a block that was cold when its place in the buffer was counted, and is not any more. */
	bool wanted = reader->wanted[record->block - reader->first];
	int err;

	if (reader->flags & (TIERFS_ACCESS_STORED | TIERFS_ACCESS_COMPARE | TIERFS_ACCESS_HASH))
		record->ident = mac_of(reader->work->mac, raw, file->block_bytes);
	if (reader->flags & TIERFS_ACCESS_COMPARE)
		compare(file, record);
	if (reader->flags & TIERFS_ACCESS_HASH && codec_is_zero(raw, file->block_bytes))
		record->flags |= TIERFS_BLOCK_ZERO;
	err = wanted && wants_payload(reader, record) ? put_resident(reader, record, raw, length) : 0;
	if (err)
		access_fail(record, err);
}

/* Resident blocks in a row, into room for them. */
static int read_resident(struct reader *reader, uint64_t i, uint64_t count, uint8_t *raw)
{
	struct ramfile *file = reader->file;
	size_t block_bytes = file->block_bytes, length = 0;
	int err = ramfile_read(file, raw, count * block_bytes, reader->record[i].block * block_bytes, &length);

	if (err)
		return err;
	memset(raw + length, 0, count * block_bytes - length);
	for (uint64_t j = 0; j < count; j++) {
		size_t start = j * block_bytes, left = length > start ? length - start : 0;

		if (left)
			answer_resident(reader, &reader->record[i + j], raw + start,
					left < block_bytes ? left : block_bytes);
		else
			access_fail(&reader->record[i + j], -ENXIO); /* truncated meanwhile */
	}
	return 0;
}

static bool is_read(const struct reader *reader, uint64_t i)
{
	const struct tierfs_access_record *record = &reader->record[i];

	return record->result == TIERFS_ACCESS_RESIDENT && !(record->flags & TIERFS_BLOCK_CACHED) &&
	       ((reader->wanted[i] && wants_payload(reader, record)) || reader->flags & TIERFS_ACCESS_HASH ||
		(reader->flags & TIERFS_ACCESS_COMPARE && record->copy == TIERFS_COPY_UNKNOWN));
}

static int read_chunk(struct reader *reader)
{
	uint64_t most = WORK_RUN_BYTES / reader->file->block_bytes;
	int err = read_cold(reader);

	if (!err && most > 1)
		err = work_run(reader->work);
	for (uint64_t i = 0, count; i < reader->count && !err; i += count ? count : 1) {
		count = 0;
		while (i + count < reader->count && count < most && is_read(reader, i + count))
			count++;
		if (count > 1 && read_resident(reader, i, count, reader->work->run) == 0)
			continue;
		/* One by one it shows which of them is the reason. */
		count = 0;
		if (is_read(reader, i)) {
			int failed = read_resident(reader, i, 1, reader->work->raw);

			if (failed == -EINTR) /* it has become cold, and would have to wait */
				reader->record[i].result = TIERFS_ACCESS_BUSY;
			else if (failed)
				access_fail(&reader->record[i], failed);
		}
	}
	return err;
}

/* --- a range --------------------------------------------------------------------------------------------------- */

struct output {
	struct tierfs_access_record *record; /* in the buffer: written only */
	size_t count, cap;
	bool merge;
	struct tierfs_access_record last; /* not written yet */
	bool pending;
};

static bool alike(const struct tierfs_access_record *a, const struct tierfs_access_record *b)
{
	return a->block + a->count == b->block && !a->payload_bytes && !b->payload_bytes && a->count < UINT32_MAX &&
	       a->error == b->error && a->result == b->result && a->state == b->state &&
	       a->generation == b->generation && a->tier == b->tier && a->copy == b->copy && a->flags == b->flags;
}

static void flush(struct output *output)
{
	if (output->pending)
		output->record[output->count++] = output->last;
	output->pending = false;
}

static void emit(struct output *output, struct tierfs_access_record *record)
{
	if (output->merge && !record->payload_bytes)
		record->ident = IDENT_NONE;
	if (output->merge && output->pending && alike(&output->last, record)) {
		output->last.count++;
		return;
	}
	flush(output);
	output->last = *record;
	output->pending = true;
}

static int read_range(struct reader *reader, uint64_t first, uint64_t end, struct output *output, uint64_t *ret_next)
{
	bool at_end = false;
	int err;

	while (first < end && !at_end) {
		size_t slots = output->cap - output->count - output->pending;

		look_chunk(reader, first, slots < end - first ? slots : end - first, &at_end);
		if (!reader->count)
			break;
		err = read_chunk(reader);
		if (err)
			return err;
		for (uint64_t i = 0; i < reader->count; i++)
			emit(output, &reader->record[i]);
		first += reader->count;
	}
	flush(output);
	*ret_next = at_end ? end : first;
	return !output->count && !at_end ? -ENOBUFS : 0;
}

int access_read(struct ramfile *file, uint32_t flags, uint64_t first, uint64_t count,
		const struct access_buffer *buffer, size_t *ret_records, uint64_t *ret_next)
{
	struct reader reader = { .file = file, .flags = flags, .buffer = buffer };
	struct output output = { .record = buffer->record,
				 .cap = buffer->records,
				 .merge = flags & TIERFS_ACCESS_MERGE };
	uint64_t end = count > UINT64_MAX - first ? UINT64_MAX : first + count;
	int err;

	if (atomic_load(&file->lost))
		return -EIO;
	if (!count)
		return -EINVAL;
	err = work_get(engine_works(file->engine), STORE_DIRECT, &reader.work);
	if (err)
		return err;
	err = read_range(&reader, first, end, &output, ret_next);
	work_put(engine_works(file->engine), reader.work);
	if (!err)
		*ret_records = output.count;
	return err;
}

/* --- a list ---------------------------------------------------------------------------------------------------- */

/* How many of the records from i on name neighbours; *ret_first is the first. Each is read once. */
static size_t run_at(const struct access_buffer *buffer, size_t i, uint64_t *ret_first)
{
	uint64_t first = *(const volatile uint64_t *)&buffer->record[i].block;
	size_t run = 1;

	while (run < RUN_BLOCKS && i + run < buffer->records &&
	       *(const volatile uint64_t *)&buffer->record[i + run].block == first + run)
		run++;
	*ret_first = first;
	return run;
}

int access_read_list(struct ramfile *file, uint32_t flags, const struct access_buffer *buffer)
{
	struct reader reader = { .file = file, .flags = flags, .buffer = buffer };
	int err;

	if (atomic_load(&file->lost))
		return -EIO;
	err = work_get(engine_works(file->engine), STORE_DIRECT, &reader.work);
	for (size_t i = 0; i < buffer->records && !err;) {
		uint64_t first;
		size_t run = run_at(buffer, i, &first);
		bool at_end;

		for (size_t j = 0; j < run; j++)
			reader.known[j] = *(const volatile struct tierfs_ident *)&buffer->record[i + j].ident;
		look_chunk(&reader, first, run, &at_end);
		err = read_chunk(&reader);
		for (size_t j = 0; j < run; j++) {
			struct tierfs_access_record record = { .block = first + j, .count = 1 };

			if (j < reader.count)
				record = reader.record[j];
			else
				access_fail(&record, at_end ? -ENXIO : -ENOBUFS);
			buffer->record[i + j] = record;
		}
		i += run;
	}
	work_put(engine_works(file->engine), reader.work);
	return err;
}

/* --- identities ------------------------------------------------------------------------------------------------ */

static void identify(struct ramfile *file, struct work *work, const struct access_buffer *buffer,
		     struct tierfs_access_record *record)
{
	if (record->form != TIERFS_FORM_PLAIN || !record->payload_bytes || record->payload_bytes > file->block_bytes ||
	    record->payload_bytes > buffer->bytes || record->payload_at > buffer->bytes - record->payload_bytes) {
		access_fail(record, -EINVAL);
		return;
	}
	memcpy(work->raw, buffer->base + record->payload_at, record->payload_bytes);
	memset(work->raw + record->payload_bytes, 0, file->block_bytes - record->payload_bytes);
	record->ident = mac_of(work->mac, work->raw, file->block_bytes);
	record->result = TIERFS_ACCESS_READ_OK;
}

int access_identify(struct ramfile *file, const struct access_buffer *buffer)
{
	struct work *work;
	int err = work_get(engine_works(file->engine), STORE_DIRECT, &work);

	if (err)
		return err;
	for (size_t i = 0; i < buffer->records; i++) {
		struct tierfs_access_record record = access_copy_record(buffer, i);

		identify(file, work, buffer, &record);
		buffer->record[i] = record;
	}
	work_put(engine_works(file->engine), work);
	return 0;
}

/* --- ages ------------------------------------------------------------------------------------------------------ */

void access_ages(struct ramfile *file, struct tierfs_access_ages *ret)
{
	struct budget *budget = engine_budget(file->engine);
	uint64_t now_ns = clock_ns();

	*ret = (struct tierfs_access_ages){ .promotions = atomic_load(&file->counts.promotions),
					    .budget_bytes = atomic_load(&budget->limit_bytes),
					    .budget_used_bytes = budget_used(budget),
					    .uptime_ns = now_ns - file->loaded_ns };
	LOCK_SCOPE(&file->lock);
	ret->scans = file->heat.round;
	/* Generation g: absent since the zap of round - g + 1. The slot of the next round may be in use already. */
	for (uint64_t g = 1; g < TIERFS_GENERATIONS && g <= file->heat.round && g < HEAT_RING - 1; g++) {
		uint64_t zapped_ns = file->heat.zap_done_ns[(file->heat.round - g + 1) % HEAT_RING];

		ret->age_ns[g] = zapped_ns && now_ns > zapped_ns ? now_ns - zapped_ns : 0;
	}
}

/* The compiler may not read the buffer again where the copy is used. */
struct tierfs_access_record access_copy_record(const struct access_buffer *buffer, size_t i)
{
	struct tierfs_access_record record;

	memcpy(&record, &buffer->record[i], sizeof(record));
	__asm__ volatile("" ::: "memory");
	return record;
}
