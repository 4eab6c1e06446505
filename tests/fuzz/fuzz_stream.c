/* A stream: whatever comes, the reader takes it apart within its limits or refuses it, and what it takes is what the
 * writer would have written.
 *
 * The first byte chooses: bits 0 and 2 the kind, bit 1 whether the rest is the stream itself, or heads and payloads to
 * which checksums and totals are added, so that the rules behind them are reached.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stream/reader.h"
#include "stream/writer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OUT_MAX (4U << 20)
#define HEAD_INPUT_BYTES 24

struct bytes {
	uint8_t *at;
	size_t length, done;
};

static ssize_t read_bytes(void *arg, void *buf, size_t length)
{
	struct bytes *bytes = arg;
	size_t left = bytes->length - bytes->done;

	/* In odd pieces, as a pipe brings them. */
	if (length > 1000)
		length = 1000;
	if (length > left)
		length = left;
	memcpy(buf, bytes->at + bytes->done, length);
	bytes->done += length;
	return (ssize_t)length;
}

static int write_bytes(void *arg, const void *buf, size_t length)
{
	struct bytes *bytes = arg;

	if (bytes->length + length > OUT_MAX)
		abort();
	memcpy(bytes->at + bytes->length, buf, length);
	bytes->length += length;
	return 0;
}

static void count(struct stream_totals *totals, const struct stream_record *record)
{
	totals->records++;
	if (record->type == STREAM_HOLES)
		totals->hole_blocks += record->value;
	if (record->type == STREAM_BLOCK || record->type == STREAM_WANT || record->type == STREAM_GONE)
		totals->blocks++;
	if (record->type == STREAM_AWAY)
		totals->blocks += record->length_bytes / STREAM_AWAY_BYTES;
	if (record->type == STREAM_HASHES)
		totals->blocks += record->length_bytes / 8;
	if (record->type == STREAM_BLOCK || record->type == STREAM_HASHES || record->type == STREAM_AWAY)
		totals->payload_bytes += record->length_bytes;
}

/* Heads of 24 bytes and payloads become a stream. */
static void seal(enum stream_kind kind, const uint8_t *data, size_t size, struct bytes *out)
{
	uint8_t magic[STREAM_MAGIC_BYTES];
	struct stream_totals totals = {};
	uint64_t salt = 0;

	stream_put_magic(kind, magic);
	write_bytes(out, magic, sizeof(magic));
	while (size >= HEAD_INPUT_BYTES) {
		uint8_t head[STREAM_HEAD_BYTES] = {}, end[STREAM_TOTALS_BYTES];
		struct stream_record record;

		memcpy(head, data, HEAD_INPUT_BYTES);
		data += HEAD_INPUT_BYTES;
		size -= HEAD_INPUT_BYTES;
		if (stream_get_head(head, &record)) {
			write_bytes(out, head, sizeof(head));
			continue;
		}
		record.payload = data;
		if (record.type == STREAM_END) {
			stream_put_totals(&totals, end);
			record.payload = end;
			record.length_bytes = sizeof(end);
		} else {
			if (record.length_bytes > size)
				record.length_bytes = (uint32_t)size;
			data += record.length_bytes;
			size -= record.length_bytes;
		}
		stream_put_head(&record, totals.records, salt, head);
		write_bytes(out, head, sizeof(head));
		write_bytes(out, record.payload, record.length_bytes);
		if (record.type == STREAM_HEADER && record.length_bytes == STREAM_HEADER_BYTES) {
			struct stream_header header;

			stream_get_header(record.payload, &header);
			salt = stream_salt(&header);
		}
		count(&totals, &record);
	}
}

static int copy(struct writer *writer, const struct stream_record *record)
{
	static struct tierfs_ident idents[STREAM_HASHES_MAX];
	char text[STREAM_TEXT_LEN];

	switch (record->type) {
	case STREAM_PART:
		return writer_part(writer, record->value);
	case STREAM_HOLES:
		return writer_holes(writer, record->block, record->value, record->generation);
	case STREAM_BLOCK:
		return writer_block(writer, record);
	case STREAM_HASHES:
		for (size_t i = 0; i < record->length_bytes / IDENT_BYTES; i++)
			idents[i] = stream_get_ident(record->payload, i);
		return writer_idents(writer, record->block, idents, record->length_bytes / IDENT_BYTES);
	case STREAM_AWAY:
		return writer_away(writer, record->block, record->payload, record->length_bytes / STREAM_AWAY_BYTES);
	case STREAM_WANT:
		return writer_want(writer, record->block, record->value);
	case STREAM_GONE:
		return writer_gone(writer, record->block, -(int)record->value);
	case STREAM_END:
		return writer_end(writer, record->totals.stamp);
	case STREAM_RESULT:
		stream_text(record, text);
		return 1;
	case STREAM_HEADER:
	case STREAM_ABORT:
		break;
	}
	abort();
}

static void check(const struct stream_record *record, const struct stream_header *header)
{
	uint64_t blocks = stream_block_count(header);

	if (record->type == STREAM_BLOCK && (record->block >= blocks || record->length_bytes > header->block_bytes))
		abort();
	if ((record->type == STREAM_WANT || record->type == STREAM_GONE) && record->block >= blocks)
		abort();
	if (record->type == STREAM_HOLES && (record->block >= blocks || record->value > blocks - record->block))
		abort();
}

static void take(enum stream_kind kind, struct bytes *in, struct bytes *out)
{
	struct stream_record record;
	struct stream_header header;
	struct writer *writer = NULL;
	struct reader *reader;
	bool ended = false;
	int err;

	if (reader_new(kind, read_bytes, in, &reader))
		return;
	err = reader_begin(reader, &header);
	if (!err && writer_new(kind, &header, write_bytes, out, &writer))
		abort(); /* what the reader takes, the writer makes */
	while (!err && !ended) {
		err = reader_next(reader, &record);
		if (err)
			break;
		check(&record, &header);
		ended = copy(writer, &record) || record.type == STREAM_END;
	}
	if (err && !*reader_error(reader))
		abort();
	if (ended && record.type == STREAM_END &&
	    (out->length != reader_bytes(reader) || memcmp(in->at, out->at, out->length)))
		abort();
	writer_free(writer);
	reader_free(reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t sealed[OUT_MAX], copied[OUT_MAX];
	enum stream_kind kind;
	struct bytes in = { .at = sealed }, out = { .at = copied };

	if (!size || size > OUT_MAX / 4)
		return 0;
	kind = (enum stream_kind)((data[0] & 1) | (data[0] >> 1 & 2));
	if (data[0] & 2)
		seal(kind, data + 1, size - 1, &in);
	else
		write_bytes(&in, data + 1, size - 1);
	take(kind, &in, &out);
	return 0;
}
