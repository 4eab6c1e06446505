/* writer.c - see writer.h. */
#include "stream/writer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stream/order.h"

#define BUFFER_BYTES (256U << 10)

struct writer {
	writer_fn *fn;
	void *arg;
	struct order order;
	uint8_t *buffer;
	size_t used;
	uint64_t flushed_bytes;
	uint64_t salt;
	int err;
};

static int put(struct writer *writer, const void *bytes, size_t length)
{
	if (!writer->err && writer->used + length > BUFFER_BYTES)
		writer_flush(writer);
	if (writer->err)
		return writer->err;
	if (length > BUFFER_BYTES) {
		writer->err = writer->fn(writer->arg, bytes, length);
		writer->flushed_bytes += length;
		return writer->err;
	}
	memcpy(writer->buffer + writer->used, bytes, length);
	writer->used += length;
	return 0;
}

static int put_record(struct writer *writer, const struct stream_record *record, const struct stream_header *header)
{
	uint64_t number = writer->order.totals.records;
	uint8_t head[STREAM_HEAD_BYTES];
	const char *why = NULL;
	int err;

	if (writer->err)
		return writer->err;
	err = order_take(&writer->order, record, header, &why);
	assert(err != -EBADMSG);
	if (err) {
		writer->err = err;
		return err;
	}
	stream_put_head(record, number, writer->salt, head);
	if (!put(writer, head, sizeof(head)) && record->length_bytes)
		put(writer, record->payload, record->length_bytes);
	return writer->err;
}

int writer_new(enum stream_kind kind, const struct stream_header *header, writer_fn *fn, void *arg, struct writer **ret)
{
	uint8_t magic[STREAM_MAGIC_BYTES], payload[STREAM_HEADER_BYTES];
	struct stream_record record = { .type = STREAM_HEADER, .payload = payload, .length_bytes = sizeof(payload) };
	struct writer *writer;
	int err;

	if (header->size_bytes > STREAM_BLOCKS_MAX * header->block_bytes)
		return -EFBIG;
	if (stream_header_check(header))
		return -EINVAL;
	writer = calloc(1, sizeof(*writer));
	if (!writer)
		return -ENOMEM;
	writer->fn = fn;
	writer->arg = arg;
	order_init(&writer->order, kind);
	writer->buffer = malloc(BUFFER_BYTES);
	err = writer->buffer ? 0 : -ENOMEM;
	if (!err) {
		stream_put_magic(kind, magic);
		stream_put_header(header, payload);
		put(writer, magic, sizeof(magic));
		err = put_record(writer, &record, header);
	}
	if (err) {
		writer_free(writer);
		return err;
	}
	writer->salt = stream_salt(header);
	*ret = writer;
	return 0;
}

void writer_free(struct writer *writer)
{
	if (!writer)
		return;
	order_fini(&writer->order);
	free(writer->buffer);
	free(writer);
}

int writer_part(struct writer *writer, uint64_t part)
{
	struct stream_record record = { .type = STREAM_PART, .value = part };

	return put_record(writer, &record, NULL);
}

int writer_holes(struct writer *writer, uint64_t block, uint64_t count, uint8_t generation)
{
	struct stream_record record = {
		.type = STREAM_HOLES, .block = block, .value = count, .generation = generation
	};

	return put_record(writer, &record, NULL);
}

int writer_block(struct writer *writer, const struct stream_record *record)
{
	assert(record->type == STREAM_BLOCK);
	return put_record(writer, record, NULL);
}

int writer_idents(struct writer *writer, uint64_t block, const struct tierfs_ident *idents, size_t count)
{
	static _Thread_local uint8_t payload[STREAM_HASHES_MAX * IDENT_BYTES];
	struct stream_record record = {
		.type = STREAM_HASHES, .block = block, .payload = payload, .length_bytes = (uint32_t)count * IDENT_BYTES
	};

	assert(count <= STREAM_HASHES_MAX);
	stream_put_idents(idents, count, payload);
	return put_record(writer, &record, NULL);
}

int writer_away(struct writer *writer, uint64_t block, const uint8_t *entries, size_t count)
{
	struct stream_record record = { .type = STREAM_AWAY,
					.block = block,
					.payload = entries,
					.length_bytes = (uint32_t)(count * STREAM_AWAY_BYTES) };

	return put_record(writer, &record, NULL);
}

int writer_want(struct writer *writer, uint64_t block, bool waits)
{
	struct stream_record record = { .type = STREAM_WANT, .block = block, .value = waits };

	return put_record(writer, &record, NULL);
}

int writer_gone(struct writer *writer, uint64_t block, int err)
{
	struct stream_record record = { .type = STREAM_GONE, .block = block, .value = (uint64_t)-err };

	return put_record(writer, &record, NULL);
}

int writer_end(struct writer *writer, struct tierfs_ident stamp)
{
	struct stream_totals totals = writer->order.totals;
	uint8_t payload[STREAM_TOTALS_BYTES];
	struct stream_record record = { .type = STREAM_END, .payload = payload, .length_bytes = sizeof(payload) };

	totals.stamp = stamp;
	record.totals = totals;
	stream_put_totals(&totals, payload);
	put_record(writer, &record, NULL);
	writer->order.totals.stamp = stamp;
	return writer_flush(writer);
}

int writer_list(struct writer *writer, const struct tierfs_ident *idents, uint64_t count, struct tierfs_ident stamp)
{
	for (uint64_t block = 0; block < count; block += STREAM_HASHES_MAX) {
		uint64_t left = count - block;

		writer_idents(writer, block, idents + block, left < STREAM_HASHES_MAX ? left : STREAM_HASHES_MAX);
	}
	return writer_end(writer, stamp);
}

static int put_text(struct writer *writer, enum stream_type type, uint64_t value, const char *text)
{
	size_t length = strnlen(text, STREAM_REASON_MAX);
	struct stream_record record = {
		.type = type, .value = value, .payload = text, .length_bytes = (uint32_t)length
	};

	put_record(writer, &record, NULL);
	return writer_flush(writer);
}

int writer_abort(struct writer *writer, const char *reason)
{
	return put_text(writer, STREAM_ABORT, 0, reason);
}

int writer_result(struct writer *writer, int err, const char *text)
{
	return put_text(writer, STREAM_RESULT, (uint64_t)-err, text);
}

int writer_flush(struct writer *writer)
{
	if (writer->err || !writer->used)
		return writer->err;
	writer->err = writer->fn(writer->arg, writer->buffer, writer->used);
	writer->flushed_bytes += writer->used;
	writer->used = 0;
	return writer->err;
}

const struct stream_totals *writer_totals(const struct writer *writer)
{
	return &writer->order.totals;
}

uint64_t writer_bytes(const struct writer *writer)
{
	return writer->flushed_bytes + writer->used;
}
