/* move/rest_fetch.c - the target's side of rest.h. The caller's thread goes through the file, asks for what is away, a
 * window at a time, and writes what comes. A thread beside it is told by the daemon what somebody waits for, and asks
 * for that at once. Every want has one answer. What was asked for and lost (a daemon that ended) is found by the next
 * pass. */
#include "move/rest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "stream/reader.h"
#include "stream/writer.h"

/* Wants under way that nobody waits for: what such a one may have before it on the wire. */
#define WINDOW_BLOCKS 64
#define BATCH_BLOCKS 32
#define BUFFER_BYTES (UINT64_C(8) << 20)
/* For another daemon to take the place of one that ended. */
#define DAEMON_NS (60 * NS_PER_S)
#define RETRY_NS (50 * NS_PER_MS)

#define ASKED 1U
#define WAITED 2U
#define GONE 4U

struct fetching {
	struct rest_fetcher *fetcher;
	struct tierfs_access *put, *look; /* the caller's thread */
	struct reader *reader;
	uint64_t blocks;
	uint32_t block_bytes;
	/* The pass: what look says of the blocks before next, from record on. */
	struct tierfs_access_answer seen;
	size_t record;
	uint64_t at, next;
	bool found; /* in this pass */
	uint64_t batch[BATCH_BLOCKS];
	size_t batched;

	pthread_mutex_t mutex; /* for all below */
	struct writer *writer;
	uint8_t *asked;     /* a byte for each block */
	uint64_t *since_ns; /* when the daemon said that it is wanted; 0: it did not */
	uint64_t flying;    /* wants without an answer */
	uint64_t away, done;
	bool stopping;
	int err;    /* of the thread beside */
	int broken; /* of the connection, that it found */
};

/* --- the daemon --------------------------------------------------------------------------------------------------- */

static int try_open(const char *path, struct tierfs_access **ret)
{
	CLEANUP_CLOSE int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : tierfs_access_open(fd, BUFFER_BYTES, ret);
}

/* Another handle in the place of one whose daemon is gone, if any; waits for the next daemon, or for a place at it. */
static int open_again(const char *path, struct tierfs_access **handle)
{
	uint64_t deadline_ns = clock_ns() + DAEMON_NS;
	int err;

	tierfs_access_close(*handle);
	*handle = NULL;
	while ((err = try_open(path, handle)) && clock_ns() < deadline_ns)
		clock_sleep(RETRY_NS);
	return err;
}

/* --- what somebody waits for -------------------------------------------------------------------------------------- */

/* Under mutex. */
static int want(struct fetching *fetching, uint64_t block, bool waits)
{
	fetching->asked[block] |= waits ? ASKED | WAITED : ASKED;
	fetching->flying++;
	return writer_want(fetching->writer, block, waits);
}

static int take_wanted(struct fetching *fetching, const struct tierfs_access_answer *answer)
{
	uint64_t now_ns = clock_ns();
	int err = 0;

	pthread_mutex_lock(&fetching->mutex);
	fetching->away = answer->away_blocks;
	for (size_t i = 0; !err && i < answer->count; i++) {
		uint64_t block = answer->record[i].block;

		if (block >= fetching->blocks || fetching->asked[block] & (WAITED | GONE))
			continue;
		fetching->since_ns[block] = now_ns;
		fetching->fetcher->totals.wanted_blocks++;
		err = want(fetching, block, true);
	}
	if (!err)
		err = writer_flush(fetching->writer);
	pthread_mutex_unlock(&fetching->mutex);
	return err;
}

static bool stops(struct fetching *fetching)
{
	bool stops;

	pthread_mutex_lock(&fetching->mutex);
	stops = fetching->stopping;
	pthread_mutex_unlock(&fetching->mutex);
	return stops;
}

static void *ask_for_wanted(void *arg)
{
	struct fetching *fetching = arg;
	struct tierfs_access *handle = NULL;
	struct tierfs_access_answer answer = {};
	int err = open_again(fetching->fetcher->path, &handle), broken = 0;

	while (!err && !broken && !stops(fetching)) {
		err = tierfs_access_wanted(handle, &answer);
		if (err == -ENOTCONN)
			err = open_again(fetching->fetcher->path, &handle);
		else if (!err)
			broken = take_wanted(fetching, &answer);
		if (!err && !broken && !answer.count && !answer.away_blocks)
			clock_sleep(RETRY_NS); /* the last ones are being counted */
	}
	tierfs_access_close(handle);
	pthread_mutex_lock(&fetching->mutex);
	fetching->err = err;
	fetching->broken = broken;
	pthread_mutex_unlock(&fetching->mutex);
	if (err || broken) /* the other one may sit in a read */
		channel_break(fetching->fetcher->channel);
	return NULL;
}

/* --- the pass ----------------------------------------------------------------------------------------------------- */

/* The next block that is away. -ENODATA at the end of the file. */
static int next_away(struct fetching *fetching, uint64_t *ret)
{
	for (;;) {
		int err;

		for (; fetching->record < fetching->seen.count; fetching->record++) {
			const struct tierfs_access_record *record = &fetching->seen.record[fetching->record];

			if (fetching->at < record->block)
				fetching->at = record->block;
			if (record->flags & TIERFS_BLOCK_AWAY && fetching->at < record->block + record->count) {
				*ret = fetching->at++;
				return 0;
			}
		}
		if (fetching->next >= fetching->blocks)
			return -ENODATA;
		fetching->at = fetching->next;
		err = tierfs_access_read(fetching->look, fetching->next, fetching->blocks - fetching->next,
					 TIERFS_ACCESS_NO_PAYLOAD | TIERFS_ACCESS_MERGE, &fetching->seen);
		fetching->record = 0;
		if (err == -ENOTCONN) {
			fetching->seen.count = 0;
			err = open_again(fetching->fetcher->path, &fetching->look);
		} else if (!err) {
			fetching->next = fetching->seen.next_block;
		}
		if (err)
			return err;
	}
}

static void begin_pass(struct fetching *fetching)
{
	fetching->seen.count = 0;
	fetching->record = 0;
	fetching->next = 0;
	fetching->found = false;
}

/* Fills the window. *ret_end: the pass is at its end. */
static int ask_for_others(struct fetching *fetching, bool *ret_end)
{
	int err = 0;

	*ret_end = false;
	while (!err) {
		uint64_t block = 0;
		bool full;

		pthread_mutex_lock(&fetching->mutex);
		full = fetching->flying >= WINDOW_BLOCKS;
		pthread_mutex_unlock(&fetching->mutex);
		if (full)
			break;
		err = next_away(fetching, &block);
		if (err == -ENODATA) {
			*ret_end = true;
			err = 0;
			break;
		}
		pthread_mutex_lock(&fetching->mutex);
		if (!err && !(fetching->asked[block] & GONE))
			fetching->found = true;
		if (!err && !fetching->asked[block]) {
			fetching->fetcher->totals.other_blocks++;
			err = want(fetching, block, false);
		}
		pthread_mutex_unlock(&fetching->mutex);
	}
	pthread_mutex_lock(&fetching->mutex);
	if (!err)
		err = writer_flush(fetching->writer);
	pthread_mutex_unlock(&fetching->mutex);
	return err;
}

/* --- what comes --------------------------------------------------------------------------------------------------- */

static int say_block(struct fetching *fetching, uint64_t block, int err, const char *what)
{
	snprintf(fetching->fetcher->why, sizeof(fetching->fetcher->why), "block %llu %s: %s", (unsigned long long)block,
		 what, err == -ESTALE ? "it is not what it was when the machine moved" : strerror(-err));
	return err;
}

/* Under mutex: the block is there, or may be asked for again. */
static void settle(struct fetching *fetching, uint64_t block, bool there)
{
	struct rest_totals *totals = &fetching->fetcher->totals;

	if (there && fetching->since_ns[block]) {
		uint64_t waited_ns = clock_ns() - fetching->since_ns[block];

		totals->longest_ns = waited_ns > totals->longest_ns ? waited_ns : totals->longest_ns;
		fetching->since_ns[block] = 0;
	}
	fetching->asked[block] = 0;
	fetching->done += there;
}

static int flush_batch(struct fetching *fetching)
{
	struct tierfs_access_answer answer = {};
	int err = tierfs_access_write(fetching->put, TIERFS_ACCESS_WAIT, &answer);
	bool lost = err == -ENOTCONN, full = false;

	if (lost)
		err = open_again(fetching->fetcher->path, &fetching->put);
	if (err)
		snprintf(fetching->fetcher->why, sizeof(fetching->fetcher->why), "blocks cannot be written: %s",
			 strerror(-err));
	pthread_mutex_lock(&fetching->mutex);
	for (size_t i = 0; !err && i < fetching->batched; i++) {
		const struct tierfs_access_record *record = lost ? NULL : &answer.record[i];

		if (record && record->result == TIERFS_ACCESS_ERROR && record->error == ENOSPC) {
			settle(fetching, fetching->batch[i], false); /* it is asked for again */
			full = true;
		} else if (record && record->result == TIERFS_ACCESS_ERROR)
			err = say_block(fetching, record->block, -(int)record->error, "cannot be written");
		else
			settle(fetching, fetching->batch[i], record && record->result != TIERFS_ACCESS_BUSY);
	}
	if (fetching->fetcher->progress)
		progress_show(fetching->fetcher->progress, fetching->done * fetching->block_bytes,
			      (fetching->done + fetching->away) * fetching->block_bytes);
	pthread_mutex_unlock(&fetching->mutex);
	fetching->batched = 0;
	if (full)
		clock_sleep(NS_PER_S);
	return err;
}

static int add_block(struct fetching *fetching, const struct stream_record *record)
{
	struct tierfs_access_record request = {
		.block = record->block,
		.count = 1,
		.generation = record->generation,
		.tier = record->tier,
		.form = TIERFS_FORM_STORED,
		.flags = TIERFS_BLOCK_SET_AGE | TIERFS_BLOCK_AWAY,
		.payload_bytes = record->length_bytes,
	};
	int err = tierfs_access_add(fetching->put, &request, record->payload);

	/* Of large blocks a batch does not fit into the buffer. */
	if (err == -ENOBUFS && fetching->batched) {
		err = flush_batch(fetching);
		if (!err)
			err = tierfs_access_add(fetching->put, &request, record->payload);
	}
	if (!err)
		fetching->batch[fetching->batched++] = record->block;
	return err;
}

static int take_answer(struct fetching *fetching)
{
	struct pollfd more = { .fd = fetching->fetcher->channel->in_fd, .events = POLLIN };
	struct stream_record record;
	bool asked = false;
	int err = reader_next(fetching->reader, &record);

	if (err)
		return err;
	pthread_mutex_lock(&fetching->mutex);
	if (record.type != STREAM_END)
		asked = fetching->flying && fetching->flying--;
	if (record.type == STREAM_GONE && asked) {
		fetching->asked[record.block] = GONE;
		if (!fetching->fetcher->totals.gone_blocks++)
			say_block(fetching, record.block, -(int)record.value, "cannot be read at the source");
	}
	pthread_mutex_unlock(&fetching->mutex);
	if (!asked) {
		snprintf(fetching->fetcher->why, sizeof(fetching->fetcher->why), "an answer that was not asked for");
		return -EBADMSG;
	}
	if (record.type == STREAM_BLOCK)
		err = add_block(fetching, &record);
	/* What is there goes in at once, if nothing comes that could go with it. */
	if (!err && fetching->batched &&
	    (fetching->batched == BATCH_BLOCKS || (!reader_pending(fetching->reader) && poll(&more, 1, 0) == 0)))
		err = flush_batch(fetching);
	return err;
}

/* --- all ---------------------------------------------------------------------------------------------------------- */

static int begin(struct fetching *fetching)
{
	struct rest_fetcher *fetcher = fetching->fetcher;
	const struct tierfs_access_info *info;
	struct stream_header header;
	int err;

	if (!fetcher->channel->two_way)
		return -ENOTCONN;
	err = open_again(fetcher->path, &fetching->put);
	if (!err)
		err = open_again(fetcher->path, &fetching->look);
	if (err)
		return err;
	info = tierfs_access_info(fetching->put);
	fetching->blocks = info->blocks;
	fetching->block_bytes = info->block_bytes;
	fetching->asked = calloc(info->blocks + 1, sizeof(*fetching->asked));
	fetching->since_ns = calloc(info->blocks + 1, sizeof(*fetching->since_ns));
	if (!fetching->asked || !fetching->since_ns)
		return -ENOMEM;
	err = reader_new(STREAM_REST, channel_read, fetcher->channel, &fetching->reader);
	if (!err)
		err = reader_begin(fetching->reader, &header);
	if (err)
		return err;
	if (header.size_bytes != info->size_bytes || header.block_bytes != info->block_bytes) {
		snprintf(fetcher->why, sizeof(fetcher->why), "the other side has a file of another size or block size");
		return -ESTALE;
	}
	if (getrandom(header.id, sizeof(header.id), 0) != sizeof(header.id))
		return -EIO;
	err = writer_new(STREAM_WANTS, &header, channel_write, fetcher->channel, &fetching->writer);
	return err ? err : writer_flush(fetching->writer);
}

static int fetch_all(struct fetching *fetching)
{
	int err = 0;

	begin_pass(fetching);
	while (!err) {
		uint64_t flying;
		bool end;

		err = ask_for_others(fetching, &end);
		pthread_mutex_lock(&fetching->mutex);
		flying = fetching->flying;
		err = err ? err : fetching->err ? fetching->err : fetching->broken;
		pthread_mutex_unlock(&fetching->mutex);
		if (!err && !flying && fetching->batched)
			err = flush_batch(fetching);
		else if (!err && flying)
			err = take_answer(fetching);
		else if (!err && end && fetching->found)
			begin_pass(fetching);
		else if (!err && end)
			break;
	}
	return err;
}

/* Both sides know that it is done. */
static int finish(struct fetching *fetching)
{
	struct stream_record record = {};
	struct tierfs_ident longest = { { fetching->fetcher->totals.longest_ns, 0 } };
	int err = writer_end(fetching->writer, longest);

	while (!err && record.type != STREAM_END)
		err = reader_next(fetching->reader, &record);
	return err;
}

/* What the other side said explains a connection that broke. */
static void hear_out(struct reader *reader)
{
	struct stream_record record;

	while (!reader_next(reader, &record))
		;
}

static void say_why(struct fetching *fetching, int err)
{
	struct rest_fetcher *fetcher = fetching->fetcher;
	const char *text = fetching->reader ? reader_error(fetching->reader) : "";

	if (fetching->err == -EBUSY)
		snprintf(fetcher->why, sizeof(fetcher->why), "another process has begun to bring its blocks");
	else if (fetching->err)
		snprintf(fetcher->why, sizeof(fetcher->why), "the daemon does not say what is wanted: %s",
			 source_text(fetching->err));
	else if (!*fetcher->why)
		snprintf(fetcher->why, sizeof(fetcher->why), "%s", *text ? text : source_text(err));
}

/* The threads are one again. The other side is told, if it is still there. */
static void give_up(struct fetching *fetching, int err)
{
	if (fetching->writer && (err == -EPIPE || err == -ECONNRESET))
		hear_out(fetching->reader);
	say_why(fetching, err);
	if (fetching->writer)
		writer_abort(fetching->writer, fetching->fetcher->why);
}

static void fini(struct fetching *fetching)
{
	tierfs_access_close(fetching->put);
	tierfs_access_close(fetching->look);
	reader_free(fetching->reader);
	writer_free(fetching->writer);
	free(fetching->asked);
	free(fetching->since_ns);
	pthread_mutex_destroy(&fetching->mutex);
}

int rest_fetch(struct rest_fetcher *fetcher)
{
	struct fetching fetching = { .fetcher = fetcher };
	uint64_t start_ns = clock_ns();
	pthread_t thread;
	bool runs = false;
	int err;

	pthread_mutex_init(&fetching.mutex, NULL);
	err = begin(&fetching);
	if (!err) {
		err = -pthread_create(&thread, NULL, ask_for_wanted, &fetching);
		runs = !err;
	}
	if (!err)
		err = fetch_all(&fetching);
	pthread_mutex_lock(&fetching.mutex);
	fetching.stopping = true;
	pthread_mutex_unlock(&fetching.mutex);
	if (runs)
		pthread_join(thread, NULL);
	if (err)
		give_up(&fetching, err);
	else
		err = finish(&fetching);
	if (!err && fetcher->totals.gone_blocks)
		err = -EIO;
	if (fetcher->progress)
		progress_end(fetcher->progress);
	if (err && !*fetcher->why)
		say_why(&fetching, err);
	fetcher->left_bytes = fetching.away * fetching.block_bytes;
	if (fetching.reader)
		fetcher->totals.stream_bytes = reader_bytes(fetching.reader);
	fetcher->totals.total_ns = clock_ns() - start_ns;
	fini(&fetching);
	return err;
}
