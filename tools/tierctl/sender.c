/* sender.c - see sender.h. */
#include "sender.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"

/* Rounds end when the rest fits the downtime, or when they do not help any more. */
#define ROUNDS_MAX 30
#define HOPELESS_ROUNDS 4

static int set_why(struct sender *sender, int err, const char *what)
{
	char why[SOURCE_WHY_LEN];

	if (!*sender->why)
		snprintf(sender->why, sizeof(sender->why), "%s: %s", what, source_why(sender->source, err, why));
	return err;
}

static void show(struct sender *sender)
{
	uint64_t done = sender->done_blocks * sender->source->block_bytes, all = sender->source->size_bytes;

	if (sender->progress)
		progress_show(sender->progress, done < all ? done : all, all);
}

/* What the receiver has of a block from now on. */
static void note_sent(struct sender *sender, uint64_t block, uint64_t hash)
{
	if (sender->sent[block] != STREAM_HASH_UNKNOWN)
		sender->stamp -= stream_stamp(block, sender->sent[block]);
	sender->stamp += stream_stamp(block, hash);
	sender->sent[block] = hash;
}

static bool has_already(const struct sender *sender, uint64_t block)
{
	return sender->sent[block] != STREAM_HASH_UNKNOWN && sender->sent[block] == sender->table.hash[block];
}

/* --- records ---------------------------------------------------------------------------------------------------- */

static int put_holes(struct sender *sender, uint64_t block, uint64_t count, uint8_t generation)
{
	for (uint64_t i = 0; i < count; i++)
		note_sent(sender, block + i, STREAM_HASH_HOLE);
	sender->hole_blocks += count;
	return writer_holes(sender->writer, block, count, generation);
}

/* The holes before a block, as far as the receiver does not have them. They go between the blocks of a part that is in
 * ascending order. */
static int put_holes_before(struct sender *sender, uint64_t end)
{
	struct source_table *table = &sender->table;

	while (sender->hole_at < end) {
		uint64_t first = sender->hole_at, at = first;

		while (at < end && table->state[at] == TIERFS_STATE_HOLE && !has_already(sender, at))
			at++;
		sender->hole_at = at > first ? at : at + 1;
		if (at > first) {
			int err = put_holes(sender, first, at - first, 0);

			if (err)
				return err;
		}
	}
	return 0;
}

static int put_value(struct sender *sender, const struct source_value *value, uint8_t generation)
{
	struct stream_record record = {
		.type = STREAM_BLOCK,
		.generation = generation,
		.tier = value->tier,
		.block = value->block,
		.value = value->hash,
		.payload = value->payload,
		.length_bytes = value->length_bytes,
	};

	if (value->hole)
		return put_holes(sender, value->block, 1, sender->part == STREAM_PART_RESIDENT ? generation : 0);
	note_sent(sender, value->block, value->hash);
	sender->cold_blocks += !value->resident;
	sender->resident_blocks += value->resident;
	return writer_block(sender->writer, &record);
}

static int send_value(void *arg, const struct source_value *value)
{
	struct sender *sender = arg;
	/* In the resident part the order was made of the ages as they were. */
	uint8_t generation = sender->part == STREAM_PART_RESIDENT ? sender->table.generation[value->block]
								  : value->generation;
	int err = 0;

	if (sender->part == STREAM_PART_COLD && value->resident) {
		/* Touched meanwhile: it goes with the resident ones. */
		sender->table.state[value->block] = TIERFS_STATE_RESIDENT;
		sender->table.hash[value->block] = STREAM_HASH_UNKNOWN;
		sender->table.generation[value->block] = value->generation;
		return 0;
	}
	if (sender->part != STREAM_PART_RESIDENT)
		err = put_holes_before(sender, value->block);
	if (sender->hole_at <= value->block)
		sender->hole_at = value->block + 1;
	if (!err)
		err = put_value(sender, value, generation);
	sender->done_blocks++;
	show(sender);
	return err;
}

static int begin_part(struct sender *sender, uint64_t part)
{
	sender->part = part;
	sender->hole_at = 0;
	sender->list_count = 0;
	return writer_part(sender->writer, part);
}

static void add_to_list(struct sender *sender, uint64_t block)
{
	sender->list[sender->list_count++] = block;
}

/* --- parts ------------------------------------------------------------------------------------------------------ */

static int send_cold(struct sender *sender)
{
	struct source_table *table = &sender->table;
	int err = begin_part(sender, STREAM_PART_COLD);

	for (uint64_t block = 0; block < table->count; block++) {
		if (table->state[block] == TIERFS_STATE_COLD && !has_already(sender, block))
			add_to_list(sender, block);
		else if (table->state[block] <= TIERFS_STATE_COLD)
			sender->done_blocks++;
		sender->skipped_blocks += table->state[block] <= TIERFS_STATE_COLD && has_already(sender, block);
	}
	if (!err)
		err = source_values(sender->source, sender->list, sender->list_count, false, send_value, sender);
	return err ? err : put_holes_before(sender, table->count);
}

/* Of the blocks in the list, those that the receiver does not have as they are now. */
static int drop_unchanged(struct sender *sender)
{
	uint64_t kept = 0;
	int err = source_hash(sender->source, &sender->table, sender->list, sender->list_count);

	for (uint64_t i = 0; i < sender->list_count; i++) {
		if (!has_already(sender, sender->list[i]))
			sender->list[kept++] = sender->list[i];
		else
			sender->skipped_blocks++;
	}
	sender->done_blocks += sender->list_count - kept;
	sender->list_count = kept;
	return err;
}

/* By generation, and within one by number. */
static int sort_by_age(struct sender *sender)
{
	const uint8_t *generation = sender->table.generation;
	uint64_t start[257] = {}, *sorted = malloc((sender->list_count + 1) * sizeof(*sorted));

	if (!sorted)
		return -ENOMEM;
	for (uint64_t i = 0; i < sender->list_count; i++)
		start[generation[sender->list[i]] + 1]++;
	for (int i = 0; i < 256; i++)
		start[i + 1] += start[i];
	for (uint64_t i = 0; i < sender->list_count; i++)
		sorted[start[generation[sender->list[i]]]++] = sender->list[i];
	memcpy(sender->list, sorted, sender->list_count * sizeof(*sorted));
	free(sorted);
	return 0;
}

static int send_resident(struct sender *sender)
{
	struct source_table *table = &sender->table;
	int err = begin_part(sender, STREAM_PART_RESIDENT);

	for (uint64_t block = 0; block < table->count; block++)
		if (table->state[block] >= TIERFS_STATE_RESIDENT)
			add_to_list(sender, block);
	if (!err && sender->base)
		err = drop_unchanged(sender);
	if (!err)
		err = sort_by_age(sender);
	return err ? err : source_values(sender->source, sender->list, sender->list_count, true, send_value, sender);
}

/* What the receiver does not have as it is now, wherever it is. */
static int find_changed(struct sender *sender)
{
	struct source_table *table = &sender->table;
	uint64_t known = 0, kept = 0;
	int err = source_look(sender->source, table);

	sender->list_count = 0;
	for (uint64_t block = 0; !err && block < table->count; block++)
		if (table->hash[block] == STREAM_HASH_UNKNOWN)
			add_to_list(sender, block);
	if (!err)
		err = source_hash(sender->source, table, sender->list, sender->list_count);
	/* Zeros in memory are holes there, and what is a hole in the table goes as one. */
	for (; !err && known < sender->list_count; known++)
		if (table->hash[sender->list[known]] == STREAM_HASH_HOLE)
			table->state[sender->list[known]] = TIERFS_STATE_HOLE;
	for (uint64_t block = 0; !err && block < table->count; block++)
		if (table->state[block] != TIERFS_STATE_HOLE && !has_already(sender, block))
			sender->list[kept++] = block;
	sender->list_count = kept;
	return err;
}

static int send_round(struct sender *sender)
{
	uint64_t before = writer_bytes(sender->writer);
	int err;

	sender->part++;
	sender->hole_at = 0;
	err = writer_part(sender->writer, sender->part);
	if (!err)
		err = source_values(sender->source, sender->list, sender->list_count, true, send_value, sender);
	if (!err)
		err = put_holes_before(sender, sender->table.count);
	sender->rounds++;
	sender->round_bytes = writer_bytes(sender->writer) - before;
	return err ? err : writer_flush(sender->writer);
}

/* --- live ------------------------------------------------------------------------------------------------------- */

struct pace {
	uint64_t scan_ns;    /* what finding the changed blocks took */
	double bytes_per_ns; /* of blocks, not of the stream: how fast a round went */
	uint64_t least;      /* blocks of the smallest round so far */
	unsigned int hopeless;
};

/* True if another round while the machine runs is worth it. */
static bool another_round(struct sender *sender, struct pace *pace)
{
	double rest_ns = pace->bytes_per_ns > 0
				 ? (double)(sender->list_count * sender->source->block_bytes) / pace->bytes_per_ns
				 : 0;

	if ((double)pace->scan_ns + rest_ns <= (double)sender->downtime_ns)
		return false;
	if (sender->list_count < pace->least) {
		pace->least = sender->list_count;
		pace->hopeless = 0;
	} else {
		pace->hopeless++;
	}
	return pace->hopeless < HOPELESS_ROUNDS && sender->rounds < ROUNDS_MAX;
}

/* start_ns: when the resident part began. It went at the speed at which rounds will go; the cold part is quicker. */
static int send_rounds(struct sender *sender, uint64_t start_ns)
{
	uint64_t blocks = sender->resident_blocks, now_ns = clock_ns();
	struct pace pace = { .least = UINT64_MAX };
	int err;

	if (blocks && now_ns > start_ns)
		pace.bytes_per_ns = (double)(blocks * sender->source->block_bytes) / (double)(now_ns - start_ns);
	for (;;) {
		uint64_t scan_ns = clock_ns(), list_count;

		err = find_changed(sender);
		pace.scan_ns = clock_ns() - scan_ns;
		if (err || !another_round(sender, &pace))
			return err;
		list_count = sender->list_count;
		scan_ns = clock_ns();
		err = send_round(sender);
		if (err)
			return err;
		now_ns = clock_ns();
		if (list_count > 64 && now_ns > scan_ns)
			pace.bytes_per_ns = (double)(list_count * sender->source->block_bytes) /
					    (double)(now_ns - scan_ns);
	}
}

/* The machine stands still from here on. */
static int hand_over(struct sender *sender)
{
	uint64_t start_ns = clock_ns();
	int err = sender->pause ? sender->pause(sender->pause_arg, sender->why) : 0;

	if (err)
		return err;
	sender->channel->hurry = true;
	err = find_changed(sender);
	if (!err)
		err = send_round(sender);
	sender->paused_ns = clock_ns() - start_ns;
	return err;
}

/* --- all -------------------------------------------------------------------------------------------------------- */

static int begin(struct sender *sender)
{
	struct source *source = sender->source;
	struct stream_header header = {
		.size_bytes = source->size_bytes,
		.block_bytes = source->block_bytes,
		.features = (sender->base ? STREAM_FEATURE_DELTA : 0) | (sender->live ? STREAM_FEATURE_ROUNDS : 0) |
			    (sender->cold_only ? STREAM_FEATURE_COLD_ONLY : 0),
		.base_stamp = sender->base ? sender->base_stamp : 0,
	};
	int err;

	if (getrandom(header.id, sizeof(header.id), 0) != sizeof(header.id))
		return -EIO;
	err = writer_new(STREAM_BLOCKS, &header, channel_write, sender->channel, &sender->writer);
	if (!err)
		err = source_table_init(&sender->table, source->blocks);
	if (err)
		return err;
	sender->list = malloc((source->blocks + 1) * sizeof(*sender->list));
	sender->sent = sender->base ? sender->base : malloc((source->blocks + 1) * sizeof(*sender->sent));
	if (!sender->list || !sender->sent)
		return -ENOMEM;
	for (uint64_t block = 0; !sender->base && block < source->blocks; block++)
		sender->sent[block] = STREAM_HASH_UNKNOWN;
	sender->stamp = stream_stamp_all(sender->sent, source->blocks);
	return source_look(source, &sender->table);
}

static int send_parts(struct sender *sender)
{
	uint64_t start_ns;
	int err = begin(sender);

	if (!err)
		err = send_cold(sender);
	start_ns = clock_ns();
	if (!err && !sender->cold_only)
		err = send_resident(sender);
	if (!err && sender->live)
		err = send_rounds(sender, start_ns);
	if (!err && sender->live)
		err = hand_over(sender);
	if (!err)
		err = writer_end(sender->writer, sender->cold_only ? 0 : sender->stamp);
	return err;
}

static int run(struct sender *sender)
{
	uint64_t start_ns = clock_ns();
	int err = send_parts(sender);

	if (sender->progress)
		progress_end(sender->progress);
	if (err) {
		set_why(sender, err, "cannot be sent");
		if (sender->writer)
			writer_abort(sender->writer, sender->why);
	}
	if (sender->writer)
		sender->stream_bytes = writer_bytes(sender->writer);
	sender->total_ns = clock_ns() - start_ns;
	return err;
}

void sender_fini(struct sender *sender)
{
	writer_free(sender->writer);
	source_table_fini(&sender->table);
	free(sender->list);
	free(sender->sent ? sender->sent : sender->base);
	sender->writer = NULL;
	sender->list = sender->sent = sender->base = NULL;
}

/* --- what the receiver says ------------------------------------------------------------------------------------- */

static int take_hashes(struct sender *sender, struct reader *reader, uint64_t *hashes)
{
	struct stream_record record;
	int err;

	while ((err = reader_next(reader, &record)) == 0 && record.type == STREAM_HASHES)
		for (uint32_t i = 0; hashes && i < record.length_bytes / 8; i++)
			hashes[record.block + i] = stream_get_hash(record.payload, i);
	if (!err && record.type != STREAM_END)
		err = -EBADMSG;
	if (!err)
		sender->base_stamp = record.totals.stamp;
	return err;
}

int sender_take_list(struct sender *sender, struct reader *reader)
{
	struct source *source = sender->source;
	struct stream_header header;
	uint64_t *hashes = NULL;
	int err = reader_begin(reader, &header);

	if (!err && header.size_bytes == source->size_bytes && header.block_bytes == source->block_bytes &&
	    source->size_bytes) {
		hashes = calloc(source->blocks + 1, sizeof(*hashes));
		if (!hashes)
			err = -ENOMEM;
	}
	if (!err)
		err = take_hashes(sender, reader, hashes);
	if (err) {
		snprintf(sender->why, sizeof(sender->why), "%s",
			 *reader_error(reader) ? reader_error(reader) : strerror(-err));
		free(hashes);
		return err;
	}
	sender->base = hashes;
	return 0;
}

static int take_result(struct sender *sender, struct reader *reader)
{
	struct stream_record record;
	char text[STREAM_TEXT_LEN];
	int err = reader_next(reader, &record);

	if (err) {
		if (!*sender->why)
			snprintf(sender->why, sizeof(sender->why), "no word from the receiver: %s",
				 reader_error(reader));
		return err;
	}
	if (record.type != STREAM_RESULT || record.value) {
		snprintf(sender->why, sizeof(sender->why), "the receiver: %s",
			 record.type == STREAM_RESULT ? stream_text(&record, text) : "not a result");
		return record.type == STREAM_RESULT && record.value < 4096 ? -(int)record.value : -EPROTO;
	}
	return 0;
}

int sender_talk(struct sender *sender)
{
	struct channel *channel = sender->channel;
	struct reader *reader = NULL;
	char why[SENDER_WHY_LEN];
	int err = 0, result;

	if (!channel->two_way)
		return run(sender);
	err = reader_new(STREAM_LIST, channel_read, channel, &reader);
	if (!err)
		err = sender_take_list(sender, reader);
	if (!err) {
		err = run(sender);
		/* What the receiver says explains a connection that broke. */
		memcpy(why, sender->why, sizeof(why));
		*sender->why = '\0';
		result = !err || err == -EPIPE || err == -ECONNRESET ? take_result(sender, reader) : 0;
		if (err && (result == 0 || result == -ENODATA || result == -ECONNRESET))
			memcpy(sender->why, why, sizeof(why));
		err = err ? err : result;
	}
	reader_free(reader);
	return err;
}
