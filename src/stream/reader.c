/* reader.c - see reader.h. */
#include "stream/reader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream/order.h"

#define BUFFER_BYTES (256U << 10)
#define ERROR_LEN 400

struct reader {
	reader_fn *fn;
	void *arg;
	struct order order;
	uint8_t *buffer;
	size_t cap, from, to; /* [from, to) was read and not yet taken */
	uint64_t taken_bytes;
	uint64_t salt;
	uint64_t number;    /* of the record that is looked at */
	uint64_t record_at; /* where it begins */
	bool failed;        /* nothing more is read */
	char error[ERROR_LEN];
};

int reader_new(enum stream_kind kind, reader_fn *fn, void *arg, struct reader **ret)
{
	struct reader *reader = calloc(1, sizeof(*reader));

	if (!reader)
		return -ENOMEM;
	reader->fn = fn;
	reader->arg = arg;
	reader->cap = BUFFER_BYTES;
	reader->buffer = malloc(reader->cap);
	order_init(&reader->order, kind);
	if (!reader->buffer) {
		reader_free(reader);
		return -ENOMEM;
	}
	*ret = reader;
	return 0;
}

void reader_free(struct reader *reader)
{
	if (!reader)
		return;
	order_fini(&reader->order);
	free(reader->buffer);
	free(reader);
}

const char *reader_error(const struct reader *reader)
{
	return reader->error;
}

bool reader_pending(const struct reader *reader)
{
	return reader->to > reader->from;
}

uint64_t reader_bytes(const struct reader *reader)
{
	return reader->taken_bytes;
}

static int set_error(struct reader *reader, int err, const char *type, const char *why)
{
	snprintf(reader->error, sizeof(reader->error), "record %llu%s%s%s at offset %llu: %s",
		 (unsigned long long)reader->number, type ? " (" : "", type ? type : "", type ? ")" : "",
		 (unsigned long long)reader->record_at, why);
	reader->failed = true;
	return err;
}

/* Makes length bytes available at from. 0, or -ENODATA at the end, or what the read function said. */
static int need(struct reader *reader, size_t length)
{
	if (reader->cap - reader->from < length) {
		memmove(reader->buffer, reader->buffer + reader->from, reader->to - reader->from);
		reader->to -= reader->from;
		reader->from = 0;
	}
	if (reader->cap < length) {
		uint8_t *larger = realloc(reader->buffer, length);

		if (!larger)
			return -ENOMEM;
		reader->buffer = larger;
		reader->cap = length;
	}
	while (reader->to - reader->from < length) {
		ssize_t got = reader->fn(reader->arg, reader->buffer + reader->to, reader->cap - reader->to);

		if (got <= 0)
			return got < 0 ? (int)got : -ENODATA;
		reader->to += (size_t)got;
	}
	return 0;
}

static const uint8_t *take(struct reader *reader, size_t length)
{
	const uint8_t *at = reader->buffer + reader->from;

	reader->from += length;
	reader->taken_bytes += length;
	return at;
}

static int need_or_say(struct reader *reader, size_t length, const char *type)
{
	int err = need(reader, length);

	if (!err)
		return 0;
	return set_error(reader, err, type, err == -ENODATA ? "the stream ends here" : strerror(-err));
}

/* The most that a record of a type may carry: known before anything is allocated for it. */
static uint32_t length_limit(const struct reader *reader, enum stream_type type)
{
	switch (type) {
	case STREAM_HEADER:
		return STREAM_HEADER_BYTES;
	case STREAM_BLOCK:
		return reader->order.begun ? STREAM_VALUE_HEADER_BYTES + reader->order.header.block_bytes : 0;
	case STREAM_HASHES:
		return STREAM_HASHES_MAX * IDENT_BYTES;
	case STREAM_AWAY:
		return STREAM_HASHES_MAX * STREAM_AWAY_BYTES;
	case STREAM_END:
		return STREAM_TOTALS_BYTES;
	case STREAM_ABORT:
	case STREAM_RESULT:
		return STREAM_REASON_MAX;
	case STREAM_PART:
	case STREAM_HOLES:
	case STREAM_WANT:
	case STREAM_GONE:
		break;
	}
	return 0;
}

static uint32_t length_least(enum stream_type type)
{
	return type == STREAM_HEADER ? STREAM_HEADER_BYTES : type == STREAM_END ? STREAM_TOTALS_BYTES : 0;
}

static int aborted(struct reader *reader, const struct stream_record *record)
{
	char text[STREAM_TEXT_LEN], why[STREAM_TEXT_LEN + 32];

	snprintf(why, sizeof(why), "the other side gave up: %s", stream_text(record, text));
	return set_error(reader, -ECANCELED, "abort", why);
}

static int read_record(struct reader *reader, struct stream_record *ret, struct stream_header *ret_header)
{
	struct stream_record record;
	uint8_t head[STREAM_HEAD_BYTES];
	const char *type, *why = NULL;
	int err;

	reader->record_at = reader->taken_bytes;
	reader->number = reader->order.totals.records;
	err = need_or_say(reader, STREAM_HEAD_BYTES, NULL);
	if (err)
		return err;
	memcpy(head, take(reader, STREAM_HEAD_BYTES), sizeof(head));
	if (stream_get_head(head, &record))
		return set_error(reader, -EBADMSG, NULL, "not a record");
	type = stream_type_name(record.type);
	if (record.length_bytes > length_limit(reader, record.type) || record.length_bytes < length_least(record.type))
		return set_error(reader, -EBADMSG, type, "a length that it cannot have");
	err = need_or_say(reader, record.length_bytes, type);
	if (err)
		return err;
	record.payload = take(reader, record.length_bytes);
	/* Whose stream this is says the header alone. */
	if (!stream_verify(head, record.payload, record.length_bytes, reader->number, reader->salt))
		return set_error(reader, -EBADMSG, type, "damaged, or not in its place");
	if (record.type == STREAM_HEADER)
		stream_get_header(record.payload, ret_header);
	if (record.type == STREAM_END)
		stream_get_totals(record.payload, &record.totals);
	err = order_take(&reader->order, &record, ret_header, &why);
	if (err)
		return set_error(reader, err, type, why ? why : strerror(-err));
	if (record.type == STREAM_HEADER)
		reader->salt = stream_salt(ret_header);
	if (record.type == STREAM_ABORT)
		return aborted(reader, &record);
	*ret = record;
	return 0;
}

int reader_begin(struct reader *reader, struct stream_header *ret)
{
	struct stream_record record;
	int err = need_or_say(reader, STREAM_MAGIC_BYTES, NULL);

	if (err)
		return err;
	err = stream_check_magic(reader->order.kind, take(reader, STREAM_MAGIC_BYTES));
	if (err)
		return set_error(reader, err, NULL,
				 err == -EBADMSG ? "this is no stream of tierfs, or not of this kind"
						 : "of another version of tierfs: both ends must have the same");
	return read_record(reader, &record, ret);
}

int reader_next(struct reader *reader, struct stream_record *ret)
{
	struct stream_header unused;

	if (reader->failed)
		return -EBADMSG;
	return read_record(reader, ret, &unused);
}

int reader_finish(struct reader *reader)
{
	int err;

	reader->record_at = reader->taken_bytes;
	reader->number = reader->order.totals.records;
	err = need(reader, 1);
	if (err == -ENODATA)
		return 0;
	return set_error(reader, err ? err : -EBADMSG, NULL, err ? strerror(-err) : "something follows the end");
}
