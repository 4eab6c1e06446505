/* move/sender.c - see move/sender.h. */
#include "move/sender.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cold/mac.h"

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

/* What the receiver has of a block from now on. What it had it may know by the identity in its list. */
static void note_sent(struct sender *sender, uint64_t block, struct tierfs_ident ident)
{
	stream_stamp_sub(&sender->stamp, block, sender->base ? sender->base[block] : sender->sent[block]);
	stream_stamp_add(&sender->stamp, block, ident);
	sender->sent[block] = ident;
	if (sender->base)
		sender->base[block] = ident;
}

static bool has_already(const struct sender *sender, uint64_t block)
{
	return ident_same(sender->sent[block], sender->table.ident[block]);
}

/* --- records ---------------------------------------------------------------------------------------------------- */

static int put_holes(struct sender *sender, uint64_t block, uint64_t count, uint8_t generation)
{
	for (uint64_t i = 0; i < count; i++)
		note_sent(sender, block + i, STREAM_HOLE);
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
		.payload = value->payload,
		.length_bytes = value->length_bytes,
	};

	if (value->hole)
		return put_holes(sender, value->block, 1, sender->part == STREAM_PART_RESIDENT ? generation : 0);
	note_sent(sender, value->block, value->ident);
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

	if (value->same || (value->hole && stream_is_hole(sender->sent[value->block]))) {
		sender->skipped_blocks += sender->part <= STREAM_PART_RESIDENT;
		sender->done_blocks++;
		return 0;
	}
	if (sender->part == STREAM_PART_COLD && value->resident) {
		/* Touched meanwhile: it goes with the resident ones. */
		sender->table.state[value->block] = TIERFS_STATE_RESIDENT;
		sender->table.ident[value->block] = STREAM_UNKNOWN;
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

/* Neighbours whose content comes later. */
static int put_away(struct sender *sender, uint64_t first, uint64_t count)
{
	static _Thread_local uint8_t entries[STREAM_HASHES_MAX * STREAM_AWAY_BYTES];
	const struct source_table *table = &sender->table;
	int err = put_holes_before(sender, first);

	for (uint64_t i = 0; i < count; i++) {
		struct stream_away away = { .ident = table->ident[first + i],
					    .generation = table->generation[first + i],
					    .tier = table->tier[first + i] };

		stream_put_away(&away, entries + i * STREAM_AWAY_BYTES);
		note_sent(sender, first + i, away.ident);
	}
	sender->hole_at = first + count;
	sender->away_blocks += count;
	sender->done_blocks += count;
	return err ? err : writer_away(sender->writer, first, entries, count);
}

/* What is stored in the old form has no identity: these blocks go as values. */
static bool may_stay(const struct source_table *table, uint64_t block)
{
	return ident_known(table->ident[block]);
}

static int send_away(struct sender *sender)
{
	const uint64_t *list = sender->list;
	struct source_wish wish = {};
	int err = 0;

	for (uint64_t i = 0, run; i < sender->list_count && !err; i += run ? run : 1) {
		for (run = 0; run < STREAM_HASHES_MAX && i + run < sender->list_count &&
			      list[i + run] == list[i] + run && may_stay(&sender->table, list[i] + run);)
			run++;
		err = run ? put_away(sender, list[i], run)
			  : source_values(sender->source, &wish, &list[i], 1, send_value, sender);
	}
	return err;
}

static int send_cold(struct sender *sender)
{
	struct source_table *table = &sender->table;
	struct source_wish wish = {};
	int err = begin_part(sender, STREAM_PART_COLD);

	for (uint64_t block = 0; block < table->count; block++) {
		if (table->state[block] == TIERFS_STATE_COLD && !has_already(sender, block))
			add_to_list(sender, block);
		else if (table->state[block] <= TIERFS_STATE_COLD)
			sender->done_blocks++;
		sender->skipped_blocks += table->state[block] <= TIERFS_STATE_COLD && has_already(sender, block);
	}
	if (!err && sender->post_copy)
		err = send_away(sender);
	else if (!err)
		err = source_values(sender->source, &wish, sender->list, sender->list_count, send_value, sender);
	return err ? err : put_holes_before(sender, table->count);
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
	struct source_wish wish = { .resident = true, .known = sender->sent };
	int err = begin_part(sender, STREAM_PART_RESIDENT);

	for (uint64_t block = 0; block < table->count; block++)
		if (table->state[block] >= TIERFS_STATE_RESIDENT)
			add_to_list(sender, block);
	if (!err)
		err = sort_by_age(sender);
	if (!err)
		err = source_values(sender->source, &wish, sender->list, sender->list_count, send_value, sender);
	return err;
}

/* What the receiver does not have as it is now, wherever it is. It is found and sent in one pass: content is read once,
 * and the receiver works on what was found while the next is looked for. Values of rounds do not live long, so they are
 * made quickly. */
static int send_round(struct sender *sender)
{
	struct source_table *table = &sender->table;
	struct source_wish wish = { .resident = true, .quick = true, .known = sender->sent };
	uint64_t bytes = writer_bytes(sender->writer), blocks = sender->cold_blocks + sender->resident_blocks;
	int err = source_look(sender->source, table);

	if (!err)
		err = begin_part(sender, sender->part + 1);
	for (uint64_t block = 0; block < table->count; block++)
		if (table->state[block] != TIERFS_STATE_HOLE && !has_already(sender, block))
			add_to_list(sender, block);
	if (!err)
		err = source_values(sender->source, &wish, sender->list, sender->list_count, send_value, sender);
	if (!err)
		err = put_holes_before(sender, table->count);
	sender->rounds++;
	sender->round_bytes = writer_bytes(sender->writer) - bytes;
	sender->round_blocks = sender->cold_blocks + sender->resident_blocks - blocks;
	return err ? err : writer_flush(sender->writer);
}

/* --- live ------------------------------------------------------------------------------------------------------- */

/* Rounds while the machine runs, until the next one fits into the downtime, or they do not get smaller any more. The
 * last one has to do at most what this one had to, and has the processors for itself; the other half of the downtime is
 * for the state of devices, and for the estimate. */
static int send_rounds(struct sender *sender)
{
	uint64_t least = UINT64_MAX, start_ns;
	unsigned int hopeless = 0;
	int err;

	source_set_pace(sender->source, 0);
	do {
		start_ns = clock_ns();
		err = send_round(sender);
		hopeless = sender->round_blocks < least ? 0 : hopeless + 1;
		if (sender->round_blocks < least)
			least = sender->round_blocks;
	} while (!err && clock_ns() - start_ns > sender->downtime_ns / 2 && hopeless < HOPELESS_ROUNDS &&
		 sender->rounds < ROUNDS_MAX);
	return err;
}

/* The machine stands still from here on. */
static int hand_over(struct sender *sender)
{
	uint64_t start_ns = clock_ns();
	int err = sender->pause ? sender->pause(sender->pause_arg, sender->why) : 0;

	sender->stop_ns = clock_ns() - start_ns;
	if (err)
		return err;
	sender->channel->hurry = true;
	source_set_pace(sender->source, TIERFS_ACCESS_URGENT);
	err = send_round(sender);
	sender->paused_ns = clock_ns() - start_ns;
	return err;
}

/* --- all -------------------------------------------------------------------------------------------------------- */

/* Which of its blocks the receiver has as they are: the list has identities of its own, so content is looked at. */
static int compare_with_list(struct sender *sender)
{
	uint64_t count = sender->source->blocks;
	CLEANUP_FREE struct tierfs_ident *list = malloc((count + 1) * sizeof(*list));
	struct mac *mac = NULL;
	int err = list ? mac_new(MAC_LIST, sender->base_key, &mac) : -ENOMEM;

	if (!err)
		err = source_list(sender->source, mac, sender->base, &sender->table, list);
	for (uint64_t block = 0; !err && block < count; block++)
		if (ident_same(list[block], sender->base[block]))
			sender->sent[block] = sender->table.ident[block];
	mac_free(mac);
	return err;
}

static int begin(struct sender *sender)
{
	struct source *source = sender->source;
	struct stream_header header = {
		.size_bytes = source->size_bytes,
		.block_bytes = source->block_bytes,
		.features = (sender->base ? STREAM_FEATURE_DELTA : 0) | (sender->live ? STREAM_FEATURE_ROUNDS : 0) |
			    (sender->cold_only ? STREAM_FEATURE_COLD_ONLY : 0) |
			    (sender->post_copy ? STREAM_FEATURE_POSTCOPY : 0),
	};
	int err;

	if (getrandom(header.id, sizeof(header.id), 0) != sizeof(header.id))
		return -EIO;
	if (sender->base) {
		memcpy(header.key, sender->base_key, sizeof(header.key));
		header.base = sender->base_ident;
	}
	err = writer_new(STREAM_BLOCKS, &header, channel_write, sender->channel, &sender->writer);
	if (!err)
		err = source_table_init(&sender->table, source->blocks);
	if (err)
		return err;
	sender->list = malloc((source->blocks + 1) * sizeof(*sender->list));
	sender->sent = calloc(source->blocks + 1, sizeof(*sender->sent)); /* STREAM_UNKNOWN, all of it */
	if (!sender->list || !sender->sent)
		return -ENOMEM;
	if (sender->base) {
		sender->stamp = stream_stamp_all(sender->base, source->blocks);
		err = compare_with_list(sender);
	}
	return err ? err : source_look(source, &sender->table);
}

static int send_parts(struct sender *sender)
{
	int err = begin(sender);

	source_set_pace(sender->source, TIERFS_ACCESS_POLITE);
	if (!err)
		err = send_cold(sender);
	if (!err && !sender->cold_only)
		err = send_resident(sender);
	if (!err && sender->live)
		err = send_rounds(sender);
	if (!err && sender->live)
		err = hand_over(sender);
	if (!err)
		err = writer_end(sender->writer, sender->cold_only ? IDENT_NONE : sender->stamp);
	return err;
}

static int run(struct sender *sender)
{
	uint64_t start_ns = clock_ns();
	int err = send_parts(sender);

	source_set_pace(sender->source, 0);
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
	free(sender->sent);
	free(sender->base);
	sender->writer = NULL;
	sender->list = NULL;
	sender->sent = sender->base = NULL;
}

/* --- what the receiver says ------------------------------------------------------------------------------------- */

static int take_idents(struct reader *reader, struct tierfs_ident *idents)
{
	struct stream_record record;
	int err;

	while ((err = reader_next(reader, &record)) == 0 && record.type == STREAM_HASHES)
		for (uint32_t i = 0; idents && i < record.length_bytes / IDENT_BYTES; i++)
			idents[record.block + i] = stream_get_ident(record.payload, i);
	return !err && record.type != STREAM_END ? -EBADMSG : err;
}

int sender_take_list(struct sender *sender, struct reader *reader)
{
	struct source *source = sender->source;
	struct stream_header header;
	struct tierfs_ident *idents = NULL;
	int err = reader_begin(reader, &header);

	if (!err && header.size_bytes == source->size_bytes && header.block_bytes == source->block_bytes &&
	    source->size_bytes) {
		idents = calloc(source->blocks + 1, sizeof(*idents));
		if (!idents)
			err = -ENOMEM;
	}
	if (!err)
		err = take_idents(reader, idents);
	if (!err && idents)
		err = source_list_ident(header.key, idents, source->blocks, &sender->base_ident);
	if (err) {
		snprintf(sender->why, sizeof(sender->why), "%s",
			 *reader_error(reader) ? reader_error(reader) : strerror(-err));
		free(idents);
		return err;
	}
	memcpy(sender->base_key, header.key, sizeof(sender->base_key));
	sender->base = idents;
	return 0;
}

/* The other end of the channel is. */
static bool is_gone(int err)
{
	return err == -ENODATA || err == -EPIPE || err == -ECONNRESET;
}

static int take_result(struct sender *sender, struct reader *reader)
{
	struct stream_record record;
	char text[STREAM_TEXT_LEN];
	int err = reader_next(reader, &record);

	if (is_gone(err))
		snprintf(sender->why, sizeof(sender->why), "the receiver went away without a word");
	else if (err)
		snprintf(sender->why, sizeof(sender->why), "no word from the receiver: %s", reader_error(reader));
	if (err)
		return err;
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
	int err = 0;

	if (!channel->two_way)
		return run(sender);
	err = reader_new(STREAM_LIST, channel_read, channel, &reader);
	if (!err)
		err = sender_take_list(sender, reader);
	if (!err) {
		err = run(sender);
		/* What the receiver says explains a connection that broke. */
		if (!err || is_gone(err)) {
			int result = take_result(sender, reader);

			err = err ? err : result;
		}
	}
	reader_free(reader);
	return err;
}
