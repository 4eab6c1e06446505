/* move/receiver.c - see move/receiver.h. */
#include "move/receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tierfs/tierfs.h>

#include "base/clock.h"
#include "cold/codec.h"
#include "cold/mac.h"
#include "stream/stream.h"

/* Blocks of a request: the daemon works on one while the next comes. */
#define BATCH_BLOCKS 128
#define BUSY_TRIES 1000 /* a millisecond each */

static int set_why(struct receiver *receiver, int err, const char *what, const char *why)
{
	if (!*receiver->why)
		snprintf(receiver->why, sizeof(receiver->why), "%s%s%s", what, why ? ": " : "", why ? why : "");
	return err;
}

static int set_errno(struct receiver *receiver, int err, const char *what)
{
	return set_why(receiver, err, what, source_text(err));
}

static int set_block(struct receiver *receiver, uint64_t block, int err)
{
	char text[96];

	snprintf(text, sizeof(text), "block %llu cannot be written", (unsigned long long)block);
	return set_errno(receiver, err, text);
}

/* --- the target ------------------------------------------------------------------------------------------------- */

static int open_target(struct receiver *receiver, const char *path)
{
	const char *what = NULL;
	int err = source_open(path, true, &receiver->target, &what);

	if (err)
		return set_errno(receiver, err, what);
	source_open_handles(&receiver->target);
	receiver->target_open = true;
	return 0;
}

static void close_target(struct receiver *receiver)
{
	if (receiver->target_open)
		source_close(&receiver->target);
	receiver->target_open = false;
	free(receiver->has);
	receiver->has = NULL;
}

/* What the target has, block by block, with identities of a key. */
static int list_target(struct receiver *receiver, const uint8_t key[static STREAM_KEY_BYTES])
{
	struct source *target = &receiver->target;
	struct source_table table = {};
	struct mac *mac = NULL;
	char why[SOURCE_WHY_LEN];
	int err = mac_new(MAC_LIST, key, &mac);

	receiver->has_count = target->blocks;
	receiver->has = malloc((target->blocks + 1) * sizeof(*receiver->has));
	if (!err && !receiver->has)
		err = -ENOMEM;
	if (!err)
		err = source_table_init(&table, target->blocks);
	if (!err)
		err = source_list(target, mac, NULL, &table, receiver->has);
	if (!err)
		err = source_list_ident(key, receiver->has, receiver->has_count, &receiver->base_ident);
	source_table_fini(&table);
	mac_free(mac);
	if (err)
		return set_why(receiver, err, "cannot be read", source_why(target, err, why));
	memcpy(receiver->base_key, key, sizeof(receiver->base_key));
	receiver->stamp = stream_stamp_all(receiver->has, receiver->has_count);
	return 0;
}

/* What the target has is what the stream was made for. */
static bool is_base(const struct receiver *receiver)
{
	const struct stream_header *header = &receiver->header;

	return receiver->has && !memcmp(receiver->base_key, header->key, sizeof(header->key)) &&
	       ident_same(receiver->base_ident, header->base) && receiver->target.size_bytes == header->size_bytes &&
	       receiver->target.block_bytes == header->block_bytes;
}

/* A file that is mapped must not change under its machine. */
static int check_unused(struct receiver *receiver, const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return errno == ENOENT ? 0 : set_errno(receiver, -errno, "cannot be looked at");
	if (!S_ISREG(st.st_mode))
		return set_why(receiver, -EINVAL, "not a regular file", NULL);
	return 0;
}

/* FILE.partial of an earlier transfer, or FILE, or nothing (-ENOENT). */
static int open_base(struct receiver *receiver)
{
	int err;

	if (receiver->in_place)
		return open_target(receiver, receiver->path);
	err = check_unused(receiver, receiver->path);
	if (err)
		return err;
	if (access(receiver->partial, F_OK) == 0)
		return open_target(receiver, receiver->partial);
	if (access(receiver->path, F_OK) == 0)
		return open_target(receiver, receiver->path);
	return -ENOENT;
}

static int make_partial(struct receiver *receiver)
{
	const struct stream_header *header = &receiver->header;
	int fd, err = 0;

	close_target(receiver);
	if (unlink(receiver->partial) < 0 && errno != ENOENT)
		return set_errno(receiver, -errno, "FILE.partial cannot be removed");
	fd = open(receiver->partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return set_errno(receiver, -errno, "FILE.partial cannot be made");
	if (tierfs_info(fd, NULL))
		err = set_why(receiver, -ENOTTY, "not in a tierfs mount", NULL);
	else if (ftruncate(fd, (off_t)header->size_bytes) < 0)
		err = set_errno(receiver, -errno, "FILE.partial cannot be given its size");
	close(fd);
	if (!err)
		err = open_target(receiver, receiver->partial);
	if (err) {
		unlink(receiver->partial);
		return err;
	}
	receiver->fresh = true;
	receiver->stamp = IDENT_NONE;
	return 0;
}

/* The base becomes FILE.partial, if it is not yet. */
static int take_base(struct receiver *receiver)
{
	struct stat base, path;

	if (receiver->in_place)
		return 0;
	if (fstat(receiver->target.fd, &base) == 0 && stat(receiver->path, &path) == 0 && base.st_ino == path.st_ino &&
	    rename(receiver->path, receiver->partial) < 0)
		return set_errno(receiver, -errno, "cannot be renamed");
	return 0;
}

/* The base that a one-way stream is about: FILE.partial or FILE, whichever has that content, if any. */
static int find_base(struct receiver *receiver)
{
	const struct stream_header *header = &receiver->header;
	const char *candidates[2] = { receiver->in_place ? receiver->path : receiver->partial, receiver->path };

	for (int i = 0; i < 2 && !receiver->has; i++) {
		if (access(candidates[i], F_OK) < 0)
			continue;
		if (open_target(receiver, candidates[i]) || list_target(receiver, header->key))
			return -EIO;
		if (!is_base(receiver))
			close_target(receiver);
	}
	return 0;
}

/* After the header: the target is there, as the stream wants it. */
static int prepare(struct receiver *receiver)
{
	const struct stream_header *header = &receiver->header;
	bool two_way = receiver->answer != NULL;
	int err = 0;

	receiver->delta = header->features & STREAM_FEATURE_DELTA;
	receiver->post_copy = header->features & STREAM_FEATURE_POSTCOPY;
	if (receiver->delta) {
		if (!two_way)
			err = find_base(receiver);
		if (!err && !is_base(receiver))
			err = set_why(receiver, -ESTALE, "the stream builds on content that is not here", NULL);
		return err ? err : take_base(receiver);
	}
	if (receiver->in_place) {
		if (!receiver->target_open)
			err = open_target(receiver, receiver->path);
		if (!err && receiver->target.size_bytes != header->size_bytes)
			err = set_why(receiver, -EINVAL, "has another size than the file that comes", NULL);
	} else {
		err = make_partial(receiver);
	}
	if (err)
		return err;
	/* What was known of the content before is of no use: all of it comes. */
	free(receiver->has);
	receiver->has = NULL;
	receiver->stamp = IDENT_NONE;
	receiver->reblocks = receiver->target.block_bytes != header->block_bytes;
	if (receiver->reblocks && receiver->post_copy)
		return set_why(receiver, -EINVAL, "blocks have another size here: cold ones cannot come last", NULL);
	receiver->has_count = stream_block_count(header);
	receiver->has = calloc(receiver->has_count + 1, sizeof(*receiver->has));
	return receiver->has ? 0 : set_errno(receiver, -ENOMEM, "cannot begin");
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

static void note(struct receiver *receiver, uint64_t block, struct tierfs_ident ident)
{
	stream_stamp_sub(&receiver->stamp, block, receiver->has[block]);
	stream_stamp_add(&receiver->stamp, block, ident);
	receiver->has[block] = ident;
}

static int write_bytes(struct receiver *receiver, const uint8_t *bytes, uint64_t offset, uint64_t length)
{
	while (length) {
		ssize_t put = pwrite(receiver->target.fd, bytes, length, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		bytes += put;
		offset += (uint64_t)put;
		length -= (uint64_t)put;
	}
	return 0;
}

/* A block that is in DRAM is written where it is, through the file. */
static int write_in_place(struct receiver *receiver, uint64_t block, const void *payload, uint32_t length_bytes)
{
	struct source *target = &receiver->target;
	uint64_t offset = block * target->block_bytes, left = target->size_bytes - offset;
	int err = source_decode(target, block, payload, length_bytes);

	return err ? err
		   : write_bytes(receiver, target->raw, offset,
				 left < target->block_bytes ? left : target->block_bytes);
}

/* A block that is in DRAM, or was on its way, and whose content comes later: what it has is of no use. */
static int replace_by_away(struct receiver *receiver, struct tierfs_access *access, uint64_t block,
			   const struct receiver_payload *age)
{
	struct tierfs_access_record request = { .block = block,
						.ident = receiver->has[block],
						.generation = age->generation,
						.tier = age->tier,
						.form = TIERFS_FORM_AWAY,
						.flags = TIERFS_BLOCK_SET_AGE };
	struct tierfs_access_answer answer = {};
	off_t length = receiver->target.block_bytes;

	/* It may come back before it is taken. */
	for (unsigned int tries = 0; tries < BUSY_TRIES; tries++) {
		int err = fallocate(receiver->target.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    (off_t)block * length, length) < 0
				  ? -errno
				  : tierfs_access_add(access, &request, NULL);

		if (!err)
			err = tierfs_access_write(access, TIERFS_ACCESS_WAIT, &answer);
		if (err || answer.record[0].result == TIERFS_ACCESS_WRITE_OK)
			return err;
		if (answer.record[0].result == TIERFS_ACCESS_ERROR)
			return -(int)answer.record[0].error;
		usleep(1000);
	}
	return -EBUSY;
}

/* Blocks that the call left alone: the kernel caches them, or they were on their way. */
static int settle(struct receiver *receiver, struct tierfs_access *access, const struct receiver_batch *batch,
		  struct tierfs_access_record *left, size_t count)
{
	struct tierfs_access_answer answer;
	int err = 0;

	for (size_t i = 0; i < count; i++) {
		const struct receiver_payload *payload = &batch->payload[left[i].payload_at];

		err = payload->length_bytes
			      ? write_in_place(receiver, left[i].block, payload->bytes, payload->length_bytes)
			      : replace_by_away(receiver, access, left[i].block, payload);
		if (err)
			return set_block(receiver, left[i].block, err);
		receiver->dram_blocks++;
	}
	for (size_t i = 0; i < count && !err; i++) {
		const struct receiver_payload *payload = &batch->payload[left[i].payload_at];
		struct tierfs_access_record record = { .block = left[i].block,
						       .generation = payload->generation,
						       .tier = payload->tier };

		err = tierfs_access_add(access, &record, NULL);
	}
	if (!err && count)
		err = tierfs_access_set(access, 0, &answer);
	return err ? set_errno(receiver, err, "ages cannot be set") : 0;
}

/* Goes through the answers; *ret_left: those that are still to be done, payload_at being the number in the batch. */
static int check_answers(struct receiver *receiver, const struct tierfs_access_answer *answer,
			 struct tierfs_access_record *left, size_t *ret_left)
{
	for (size_t i = 0; i < answer->count; i++) {
		const struct tierfs_access_record *record = &answer->record[i];

		switch ((enum tierfs_access_result)record->result) {
		case TIERFS_ACCESS_WRITE_OK:
			receiver->dram_blocks += record->state == TIERFS_STATE_RESIDENT;
			receiver->store_blocks += record->state == TIERFS_STATE_COLD;
			break;
		case TIERFS_ACCESS_RESIDENT:
		case TIERFS_ACCESS_BUSY:
			left[*ret_left] = *record;
			left[(*ret_left)++].payload_at = (uint32_t)i;
			break;
		case TIERFS_ACCESS_ERROR:
			return set_block(receiver, record->block, -(int)record->error);
		case TIERFS_ACCESS_READ_OK:
		case TIERFS_ACCESS_SET_OK:
		case TIERFS_ACCESS_HOLE:
			return set_block(receiver, record->block, -EPROTO);
		}
	}
	return 0;
}

/* Waits for the answer to a batch, if it is under way. */
static int end_batch(struct receiver *receiver, unsigned int number)
{
	struct tierfs_access *access = receiver->target.handle[number];
	struct receiver_batch *batch = &receiver->batch[number];
	struct tierfs_access_record left[BATCH_BLOCKS];
	struct tierfs_access_answer answer = {};
	size_t left_count = 0;
	int err = 0;

	if (batch->sent)
		err = tierfs_access_end(access, &answer);
	batch->sent = false;
	if (err)
		set_errno(receiver, err, "blocks cannot be written");
	else
		err = check_answers(receiver, &answer, left, &left_count);
	if (!err && left_count)
		err = settle(receiver, access, batch, left, left_count);
	batch->count = 0;
	return err;
}

/* Sends what was collected, and makes room for the next batch. */
static int send_batch(struct receiver *receiver)
{
	struct receiver_batch *batch = &receiver->batch[receiver->turn];
	int err;

	if (!batch->count)
		return 0;
	err = tierfs_access_begin_write(receiver->target.handle[receiver->turn],
					receiver->target.pace | TIERFS_ACCESS_WAIT);
	if (err)
		return set_errno(receiver, err, "blocks cannot be written");
	batch->sent = true;
	receiver->turn = (receiver->turn + 1) % receiver->target.handles;
	return end_batch(receiver, receiver->turn);
}

/* All that came is in the file. */
static int flush(struct receiver *receiver)
{
	int err = receiver->reblocks ? 0 : send_batch(receiver);

	for (unsigned int i = 0; i < receiver->target.handles; i++) {
		int failed = end_batch(receiver, i);

		err = err ? err : failed;
	}
	return err;
}

/* -ENOBUFS: send first. */
static int add(struct receiver *receiver, const struct tierfs_access_record *request, const void *payload)
{
	struct tierfs_access *access = receiver->target.handle[receiver->turn];
	struct receiver_batch *batch = &receiver->batch[receiver->turn];
	void *room = tierfs_access_room(access, request->payload_bytes);
	int err;

	if (!batch->payload)
		batch->payload = calloc(BATCH_BLOCKS, sizeof(*batch->payload));
	if (!batch->payload)
		return -ENOMEM;
	if (!room || batch->count == BATCH_BLOCKS)
		return -ENOBUFS;
	memcpy(room, payload, request->payload_bytes);
	err = tierfs_access_add(access, request, room);
	if (!err)
		batch->payload[batch->count++] = (struct receiver_payload){ .bytes = room,
									    .length_bytes = request->payload_bytes,
									    .generation = request->generation,
									    .tier = request->tier };
	return err;
}

static int put_block(struct receiver *receiver, const struct tierfs_access_record *request, const void *payload,
		     struct tierfs_ident ident)
{
	int err = add(receiver, request, payload);

	if (err == -ENOBUFS) {
		err = send_batch(receiver);
		if (err)
			return err;
		err = add(receiver, request, payload);
	}
	if (err)
		return set_block(receiver, request->block, err);
	note(receiver, request->block, ident);
	return 0;
}

static int take_block(struct receiver *receiver, const struct stream_record *record)
{
	uint8_t flags = TIERFS_BLOCK_SET_AGE | TIERFS_BLOCK_IN_PLACE |
			(receiver->part >= STREAM_PART_RESIDENT ? TIERFS_BLOCK_TO_DRAM : 0);
	struct tierfs_access_record request = {
		.block = record->block,
		.count = 1,
		.generation = record->generation,
		.tier = record->tier,
		.form = TIERFS_FORM_STORED,
		.flags = flags,
		.payload_bytes = record->length_bytes,
	};
	struct codec_info info;
	int err;

	/* What the other pool calls it. The daemon here makes an identity of its own of what it decodes. */
	err = codec_peek(record->payload, record->length_bytes, &info);
	if (err || !ident_known(info.ident) || info.block_bytes != receiver->header.block_bytes)
		return set_why(receiver, -EBADMSG, "not a value of this stream", NULL);
	return put_block(receiver, &request, record->payload, info.ident);
}

/* Blocks that come later: what they are is known, and who needs them waits. */
static int take_away(struct receiver *receiver, const struct stream_record *record)
{
	size_t count = record->length_bytes / STREAM_AWAY_BYTES;
	int err = 0;

	for (size_t i = 0; i < count && !err; i++) {
		struct stream_away away = stream_get_away(record->payload, i);
		struct tierfs_access_record request = {
			.block = record->block + i,
			.count = 1,
			.ident = away.ident,
			.generation = away.generation,
			.tier = away.tier,
			.form = TIERFS_FORM_AWAY,
			.flags = TIERFS_BLOCK_SET_AGE,
		};

		err = put_block(receiver, &request, "", away.ident);
	}
	receiver->away_blocks += count;
	return err;
}

/* From a pool of another block size: the content goes through the file. */
static int take_raw(struct receiver *receiver, const struct stream_record *record)
{
	uint32_t block_bytes = receiver->header.block_bytes;
	uint64_t offset = record->block * block_bytes, left = receiver->header.size_bytes - offset;
	struct store_key key = { .ino = 0, .block = record->block };
	struct codec_info info;
	uint8_t *raw;
	int err = 0;

	if (!receiver->codec)
		err = codec_new(block_bytes, 1, &receiver->codec);
	if (!err && !receiver->raw_block && posix_memalign((void **)&receiver->raw_block, 4096, block_bytes))
		err = -ENOMEM;
	raw = receiver->raw_block;
	if (!err)
		err = codec_decode(receiver->codec, key, record->payload, record->length_bytes, raw, &info);
	if (!err && !ident_known(info.ident))
		err = -EBADMSG;
	if (!err)
		err = write_bytes(receiver, raw, offset, left < block_bytes ? left : block_bytes);
	if (err)
		return set_block(receiver, record->block, err);
	receiver->store_blocks++;
	note(receiver, record->block, info.ident);
	return 0;
}

static int take_holes(struct receiver *receiver, const struct stream_record *record)
{
	uint64_t offset = record->block * receiver->header.block_bytes;
	uint64_t length = record->value * receiver->header.block_bytes;
	int err;

	for (uint64_t i = 0; i < record->value; i++)
		note(receiver, record->block + i, STREAM_HOLE);
	if (receiver->fresh && receiver->part <= STREAM_PART_RESIDENT)
		return 0;
	if (length > receiver->header.size_bytes - offset)
		length = receiver->header.size_bytes - offset;
	err = flush(receiver);
	if (!err && fallocate(receiver->target.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			      (off_t)length) < 0)
		err = set_errno(receiver, -errno, "holes cannot be made");
	return err;
}

/* --- the stream ------------------------------------------------------------------------------------------------- */

static int take_record(struct receiver *receiver, const struct stream_record *record)
{
	switch (record->type) {
	case STREAM_PART:
		receiver->part = record->value;
		receiver->rounds += record->value > STREAM_PART_RESIDENT;
		/* In a round the machine may stand still. */
		source_set_pace(&receiver->target,
				record->value > STREAM_PART_RESIDENT ? TIERFS_ACCESS_URGENT : TIERFS_ACCESS_POLITE);
		return flush(receiver);
	case STREAM_BLOCK:
		receiver->done_blocks++;
		return receiver->reblocks ? take_raw(receiver, record) : take_block(receiver, record);
	case STREAM_HOLES:
		receiver->done_blocks += record->value;
		return take_holes(receiver, record);
	case STREAM_AWAY:
		receiver->done_blocks += record->length_bytes / STREAM_AWAY_BYTES;
		return take_away(receiver, record);
	case STREAM_END:
		source_set_pace(&receiver->target, 0);
		receiver->totals = record->totals;
		return flush(receiver);
	case STREAM_HEADER:
	case STREAM_ABORT:
	case STREAM_HASHES:
	case STREAM_RESULT:
	case STREAM_WANT:
	case STREAM_GONE:
		break;
	}
	return -EPROTO;
}

static int take_records(struct receiver *receiver)
{
	struct stream_record record = {};
	int err = 0;

	while (!err && record.type != STREAM_END) {
		err = reader_next(receiver->reader, &record);
		if (!err)
			err = take_record(receiver, &record);
		if (!err && receiver->progress)
			progress_show(receiver->progress, receiver->done_blocks * receiver->header.block_bytes,
				      receiver->header.size_bytes);
	}
	if (!err && !receiver->answer)
		err = reader_finish(receiver->reader);
	if (!err && ident_known(receiver->totals.stamp) && !ident_equal(receiver->totals.stamp, receiver->stamp))
		err = set_why(receiver, -EBADMSG, "the content is not what was sent (stamps differ)", NULL);
	return err;
}

/* Says what is there, block by block; an empty list if there is nothing. */
static int send_list(struct receiver *receiver)
{
	struct stream_header header = { .block_bytes = STREAM_BLOCK_BYTES_MIN };
	int err = open_base(receiver);

	if (err && err != -ENOENT)
		return err;
	if (getrandom(header.id, sizeof(header.id), 0) != sizeof(header.id) ||
	    getrandom(header.key, sizeof(header.key), 0) != sizeof(header.key))
		return -EIO;
	if (!err) {
		err = list_target(receiver, header.key);
		if (err)
			return err;
		header.size_bytes = receiver->target.size_bytes;
		header.block_bytes = receiver->target.block_bytes;
	}
	err = writer_new(STREAM_LIST, &header, channel_write, receiver->channel, &receiver->answer);
	if (!err)
		err = writer_list(receiver->answer, receiver->has, receiver->has ? receiver->has_count : 0,
				  receiver->stamp);
	return err ? set_errno(receiver, err, "cannot answer") : 0;
}

/* There is no list: the other side is told why. */
static void refuse(struct receiver *receiver)
{
	struct stream_header header = { .block_bytes = STREAM_BLOCK_BYTES_MIN };

	if (!writer_new(STREAM_LIST, &header, channel_write, receiver->channel, &receiver->answer))
		writer_abort(receiver->answer, receiver->why);
}

static int finish(struct receiver *receiver)
{
	if (receiver->in_place)
		return 0;
	if (fsync(receiver->target.fd) < 0)
		return set_errno(receiver, -errno, "cannot be made durable");
	if (rename(receiver->partial, receiver->path) < 0)
		return set_errno(receiver, -errno, "FILE.partial cannot be renamed");
	return 0;
}

static int receive(struct receiver *receiver)
{
	int err = snprintf(receiver->partial, sizeof(receiver->partial), "%s.partial", receiver->path) >=
				  (int)sizeof(receiver->partial)
			  ? -ENAMETOOLONG
			  : 0;

	if (!err)
		err = reader_new(STREAM_BLOCKS, channel_read, receiver->channel, &receiver->reader);
	if (!err && receiver->channel->two_way)
		err = send_list(receiver);
	if (!err)
		err = reader_begin(receiver->reader, &receiver->header);
	if (!err)
		err = prepare(receiver);
	if (!err)
		err = take_records(receiver);
	/* What came before the stream broke is worth something: the next one goes on from there. */
	if (err && receiver->target_open && receiver->has && !receiver->reblocks)
		flush(receiver);
	return err ? err : finish(receiver);
}

int receiver_run(struct receiver *receiver)
{
	uint64_t start_ns = clock_ns();
	int err = receive(receiver);

	if (receiver->progress)
		progress_end(receiver->progress);
	if (err && !*receiver->why)
		set_why(receiver, err,
			receiver->reader && *reader_error(receiver->reader) ? reader_error(receiver->reader)
									    : strerror(-err),
			NULL);
	if (receiver->reader)
		receiver->stream_bytes = reader_bytes(receiver->reader);
	receiver->total_ns = clock_ns() - start_ns;
	if (!err && receiver->post_copy)
		close_target(receiver); /* its handles are for who brings the rest */
	if (receiver->answer)
		writer_result(receiver->answer, err, err ? receiver->why : "");
	else if (err && receiver->channel->two_way)
		refuse(receiver);
	return err;
}

void receiver_fini(struct receiver *receiver)
{
	close_target(receiver);
	codec_free(receiver->codec);
	free(receiver->raw_block);
	for (int i = 0; i < SOURCE_HANDLES; i++)
		free(receiver->batch[i].payload);
	reader_free(receiver->reader);
	writer_free(receiver->answer);
}
