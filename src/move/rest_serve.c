/* move/rest_serve.c - the source's side of rest.h. A thread takes what the other side wants into two queues; the
 * caller's thread answers, first what somebody waits for, a few blocks at a time. */
#include "move/rest.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "stream/reader.h"
#include "stream/writer.h"

#define BATCH_BLOCKS 16
/* The other side keeps far less under way. */
#define QUEUE_MAX 65536

struct queue {
	uint64_t block[QUEUE_MAX]; /* a ring */
	size_t head, count;
};

struct serving {
	struct rest_server *server;
	struct reader *reader;
	struct writer *writer;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct queue waited, other; /* under mutex, and so are the next two */
	bool ended;
	int err; /* of the reader */
};

static int enqueue(struct queue *queue, uint64_t block)
{
	if (queue->count == QUEUE_MAX)
		return -EMSGSIZE;
	queue->block[(queue->head + queue->count++) % QUEUE_MAX] = block;
	return 0;
}

static size_t dequeue(struct queue *queue, uint64_t *block)
{
	size_t count = 0;

	for (; count < BATCH_BLOCKS && queue->count; queue->count--) {
		block[count++] = queue->block[queue->head];
		queue->head = (queue->head + 1) % QUEUE_MAX;
	}
	return count;
}

/* --- what is wanted ----------------------------------------------------------------------------------------------- */

static int take_header(struct serving *serving)
{
	const struct source *source = serving->server->source;
	struct stream_header header;
	int err = reader_begin(serving->reader, &header);

	if (!err && (header.size_bytes != source->size_bytes || header.block_bytes != source->block_bytes))
		err = -ESTALE;
	return err;
}

static void *take_wants(void *arg)
{
	struct serving *serving = arg;
	struct stream_record record = {};
	int err = take_header(serving);

	while (!err && record.type != STREAM_END) {
		err = reader_next(serving->reader, &record);
		pthread_mutex_lock(&serving->mutex);
		if (!err && record.type == STREAM_WANT)
			err = enqueue(record.value ? &serving->waited : &serving->other, record.block);
		pthread_cond_signal(&serving->changed);
		pthread_mutex_unlock(&serving->mutex);
	}
	pthread_mutex_lock(&serving->mutex);
	if (!err)
		serving->server->totals.longest_ns = record.totals.stamp.word[0];
	serving->ended = true;
	serving->err = err;
	pthread_cond_signal(&serving->changed);
	pthread_mutex_unlock(&serving->mutex);
	return NULL;
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

struct answering {
	struct serving *serving;
	size_t done;
};

static int answer_one(void *arg, const struct source_value *value)
{
	struct answering *answering = arg;
	struct serving *serving = answering->serving;
	struct stream_record record = {
		.type = STREAM_BLOCK,
		.generation = value->generation,
		.tier = value->tier,
		.block = value->block,
		.payload = value->payload,
		.length_bytes = value->length_bytes,
	};

	answering->done++;
	if (value->hole) {
		serving->server->totals.gone_blocks++;
		return writer_gone(serving->writer, value->block, -ENODATA);
	}
	return writer_block(serving->writer, &record);
}

/* A block that cannot be read does not hold up the others. */
static int answer(struct serving *serving, const uint64_t *block, size_t count)
{
	struct answering answering = { .serving = serving };
	struct source *source = serving->server->source;
	struct source_wish wish = { .resident = true };
	int err = 0;

	while (!err && answering.done < count) {
		size_t before = answering.done;

		err = source_values(source, &wish, block + before, count - before, answer_one, &answering);
		if (!err || answering.done == count || source->error_block != block[answering.done])
			break;
		serving->server->totals.gone_blocks++;
		err = writer_gone(serving->writer, block[answering.done++], err);
		source->error_block = UINT64_MAX;
	}
	return err ? err : writer_flush(serving->writer);
}

static int answer_all(struct serving *serving)
{
	struct rest_totals *totals = &serving->server->totals;
	uint64_t block[BATCH_BLOCKS];
	int err = 0;

	while (!err) {
		bool waited;
		size_t count;

		pthread_mutex_lock(&serving->mutex);
		while (!serving->waited.count && !serving->other.count && !serving->ended)
			pthread_cond_wait(&serving->changed, &serving->mutex);
		waited = serving->waited.count > 0;
		count = dequeue(waited ? &serving->waited : &serving->other, block);
		err = serving->err;
		pthread_mutex_unlock(&serving->mutex);
		if (err || !count)
			break;
		/* A rate is for what nobody waits for. */
		serving->server->channel->hurry = waited;
		*(waited ? &totals->wanted_blocks : &totals->other_blocks) += count;
		err = answer(serving, block, count);
	}
	return err;
}

/* --- all ---------------------------------------------------------------------------------------------------------- */

static int begin(struct serving *serving)
{
	struct rest_server *server = serving->server;
	struct stream_header header = { .size_bytes = server->source->size_bytes,
					.block_bytes = server->source->block_bytes };
	int err = 0;

	if (!server->channel->two_way)
		return -ENOTCONN;
	if (getrandom(header.id, sizeof(header.id), 0) != sizeof(header.id))
		return -EIO;
	err = reader_new(STREAM_WANTS, channel_read, server->channel, &serving->reader);
	if (!err)
		err = writer_new(STREAM_REST, &header, channel_write, server->channel, &serving->writer);
	return err ? err : writer_flush(serving->writer);
}

/* What is wrong here is said before the connection is ended, which is an error of the reader as well. */
static void give_up(struct serving *serving, int err)
{
	struct rest_server *server = serving->server;
	char why[SOURCE_WHY_LEN];
	bool theirs = err == -EPIPE || err == -ECONNRESET;

	pthread_mutex_lock(&serving->mutex);
	theirs = theirs || serving->err;
	pthread_mutex_unlock(&serving->mutex);
	if (!theirs) {
		snprintf(server->why, sizeof(server->why), "%s", source_why(server->source, err, why));
		writer_abort(serving->writer, server->why);
	}
	channel_break(server->channel); /* the reader may sit in a read */
}

static void say_why(struct serving *serving, int err)
{
	struct rest_server *server = serving->server;
	char why[SOURCE_WHY_LEN];

	if (serving->reader && *reader_error(serving->reader))
		snprintf(server->why, sizeof(server->why), "the target: %s", reader_error(serving->reader));
	else
		snprintf(server->why, sizeof(server->why), "%s", source_why(server->source, err, why));
}

int rest_serve(struct rest_server *server)
{
	struct serving *serving = calloc(1, sizeof(*serving));
	uint64_t start_ns = clock_ns();
	pthread_t thread;
	bool runs = false;
	int err = serving ? 0 : -ENOMEM;

	if (err) {
		snprintf(server->why, sizeof(server->why), "%s", strerror(-err));
		return err;
	}
	serving->server = server;
	pthread_mutex_init(&serving->mutex, NULL);
	pthread_cond_init(&serving->changed, NULL);
	err = begin(serving);
	if (!err) {
		err = -pthread_create(&thread, NULL, take_wants, serving);
		runs = !err;
	}
	if (!err)
		err = answer_all(serving);
	if (!err)
		err = writer_end(serving->writer, IDENT_NONE);
	if (runs && err)
		give_up(serving, err);
	if (runs)
		pthread_join(thread, NULL);
	if (err && !*server->why)
		say_why(serving, err);
	if (serving->writer)
		server->totals.stream_bytes = writer_bytes(serving->writer);
	server->totals.total_ns = clock_ns() - start_ns;
	reader_free(serving->reader);
	writer_free(serving->writer);
	pthread_mutex_destroy(&serving->mutex);
	pthread_cond_destroy(&serving->changed);
	free(serving);
	return err;
}
