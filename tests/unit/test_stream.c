/* unit/test_stream.c - streams there and back, and every way in which one can be wrong. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib_check.h"
#include "stream/reader.h"
#include "stream/writer.h"
#include "lib/lib_ident.h"

#define BLOCK 4096U
#define BLOCKS 20U

struct bytes {
	uint8_t at[1 << 20];
	size_t length, done;
	size_t piece; /* most that a read gives; 0: all */
	int fail;     /* what a write returns */
};

static struct bytes bytes;

static ssize_t read_bytes(void *arg, void *buf, size_t length)
{
	struct bytes *b = arg;

	if (b->piece && length > b->piece)
		length = b->piece;
	if (length > b->length - b->done)
		length = b->length - b->done;
	memcpy(buf, b->at + b->done, length);
	b->done += length;
	return (ssize_t)length;
}

static int write_bytes(void *arg, const void *buf, size_t length)
{
	struct bytes *b = arg;

	if (b->fail)
		return b->fail;
	ck_assert_uint_le(b->length + length, sizeof(b->at));
	if (length) /* of nothing there may be no address */
		memcpy(b->at + b->length, buf, length);
	b->length += length;
	return 0;
}

static const struct stream_header plain_header = {
	.size_bytes = (uint64_t)BLOCK * BLOCKS,
	.block_bytes = BLOCK,
	.id = { 1, 2, 3, 4, 5, 6, 7, 8, 9 },
};

static struct stream_record block_record(uint64_t block, uint8_t generation, const void *value, uint32_t length)
{
	return (struct stream_record){
		.type = STREAM_BLOCK,
		.block = block,
		.generation = generation,
		.tier = 2,
		.payload = value,
		.length_bytes = length,
	};
}

static struct writer *begin(uint32_t features)
{
	struct stream_header header = plain_header;
	struct writer *writer;

	header.features = features;
	bytes = (struct bytes){};
	ck_assert_int_eq(writer_new(STREAM_BLOCKS, &header, write_bytes, &bytes, &writer), 0);
	return writer;
}

static void put_block(struct writer *writer, uint64_t block, uint8_t generation)
{
	uint8_t value[200];
	struct stream_record record = block_record(block, generation, value, sizeof(value));

	memset(value, (int)block, sizeof(value));
	ck_assert_int_eq(writer_block(writer, &record), 0);
}

/* Blocks 0 to 4 are cold, 5 to 14 holes, 15 to 19 resident. */
static void make_stream(uint32_t features)
{
	struct writer *writer = begin(features);

	ck_assert_int_eq(writer_part(writer, STREAM_PART_COLD), 0);
	for (uint64_t block = 0; block < 5; block++)
		put_block(writer, block, 9);
	ck_assert_int_eq(writer_holes(writer, 5, 10, 0), 0);
	if (!(features & STREAM_FEATURE_COLD_ONLY)) {
		ck_assert_int_eq(writer_part(writer, STREAM_PART_RESIDENT), 0);
		put_block(writer, 17, 0);
		put_block(writer, 15, 1);
		put_block(writer, 16, 1);
		ck_assert_int_eq(writer_holes(writer, 18, 1, 1), 0);
		put_block(writer, 19, 200);
	}
	if (features & STREAM_FEATURE_ROUNDS) {
		ck_assert_int_eq(writer_part(writer, 2), 0);
		put_block(writer, 15, 7);
		put_block(writer, 17, 0);
	}
	ck_assert_int_eq(writer_end(writer, ident_from(4711)), 0);
	ck_assert_uint_eq(writer_bytes(writer), bytes.length);
	writer_free(writer);
}

/* Reads to the end. The error text is left in error_text. */
static char error_text[512];
static unsigned int taken;

static int read_all(enum stream_kind kind)
{
	struct stream_header header;
	struct stream_record record;
	struct reader *reader;
	int err;

	bytes.done = 0;
	taken = 0;
	ck_assert_int_eq(reader_new(kind, read_bytes, &bytes, &reader), 0);
	err = reader_begin(reader, &header);
	while (!err) {
		err = reader_next(reader, &record);
		if (err)
			break;
		taken++;
		if (record.type == STREAM_END) {
			err = reader_finish(reader);
			break;
		}
	}
	strcpy(error_text, reader_error(reader));
	ck_assert(err == 0 || *error_text);
	reader_free(reader);
	return err;
}

START_TEST(stream_comes_back)
{
	struct stream_header header;
	struct stream_record record;
	struct reader *reader;

	make_stream(0);
	bytes.piece = (size_t)_i;
	ck_assert_int_eq(reader_new(STREAM_BLOCKS, read_bytes, &bytes, &reader), 0);
	ck_assert_int_eq(reader_begin(reader, &header), 0);
	ck_assert_mem_eq(&header, &plain_header, sizeof(header));
	ck_assert_int_eq(reader_next(reader, &record), 0);
	ck_assert_int_eq(record.type, STREAM_PART);
	for (uint64_t block = 0; block < 5; block++) {
		ck_assert_int_eq(reader_next(reader, &record), 0);
		ck_assert_int_eq(record.type, STREAM_BLOCK);
		ck_assert_uint_eq(record.block, block);
		ck_assert_uint_eq(record.generation, 9);
		ck_assert_uint_eq(record.tier, 2);
		ck_assert_uint_eq(record.value, 0);
		ck_assert_uint_eq(record.length_bytes, 200);
		ck_assert_uint_eq(((const uint8_t *)record.payload)[199], block);
	}
	ck_assert_int_eq(reader_next(reader, &record), 0);
	ck_assert_int_eq(record.type, STREAM_HOLES);
	ck_assert_uint_eq(record.value, 10);
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(reader_next(reader, &record), 0);
	ck_assert_int_eq(reader_next(reader, &record), 0);
	ck_assert_int_eq(record.type, STREAM_END);
	ck_assert_uint_eq(record.totals.blocks, 9);
	ck_assert_uint_eq(record.totals.hole_blocks, 11);
	ck_assert_uint_eq(record.totals.payload_bytes, 1800);
	ck_assert(ident_equal(record.totals.stamp, ident_from(4711)));
	ck_assert_int_eq(reader_finish(reader), 0);
	ck_assert_uint_eq(reader_bytes(reader), bytes.length);
	reader_free(reader);
}
END_TEST

START_TEST(features_read)
{
	static const uint32_t features[] = { 0, STREAM_FEATURE_DELTA, STREAM_FEATURE_ROUNDS, STREAM_FEATURE_COLD_ONLY,
					     STREAM_FEATURE_DELTA | STREAM_FEATURE_ROUNDS };

	make_stream(features[_i]);
	ck_assert_msg(read_all(STREAM_BLOCKS) == 0, "%s", error_text);
}
END_TEST

START_TEST(truncated)
{
	make_stream(STREAM_FEATURE_ROUNDS);
	for (size_t whole = bytes.length, cut = 0; cut < whole; cut++) {
		bytes.length = cut;
		ck_assert_int_eq(read_all(STREAM_BLOCKS), -ENODATA);
		ck_assert(strstr(error_text, "record ") && strstr(error_text, "the stream ends here"));
	}
}
END_TEST

START_TEST(bit_flipped)
{
	make_stream(STREAM_FEATURE_ROUNDS);
	for (size_t at = 0; at < bytes.length; at++) {
		int err;

		bytes.at[at] ^= (uint8_t)(1 << (at % 8));
		err = read_all(STREAM_BLOCKS);
		ck_assert_msg(err == -EBADMSG || err == -EPROTONOSUPPORT || err == -ENODATA, "byte %zu: %d", at, err);
		ck_assert(strstr(error_text, "record "));
		bytes.at[at] ^= (uint8_t)(1 << (at % 8));
	}
	ck_assert_int_eq(read_all(STREAM_BLOCKS), 0);
}
END_TEST

#define RECORD_BYTES (STREAM_HEAD_BYTES + 200)
#define FIRST_BLOCK (STREAM_MAGIC_BYTES + STREAM_HEAD_BYTES + STREAM_HEADER_BYTES + STREAM_HEAD_BYTES)

START_TEST(reordered)
{
	uint8_t record[RECORD_BYTES];

	make_stream(0);
	memcpy(record, bytes.at + FIRST_BLOCK, RECORD_BYTES);
	memcpy(bytes.at + FIRST_BLOCK, bytes.at + FIRST_BLOCK + RECORD_BYTES, RECORD_BYTES);
	memcpy(bytes.at + FIRST_BLOCK + RECORD_BYTES, record, RECORD_BYTES);
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -EBADMSG);
	ck_assert_str_eq(error_text, "record 2 (block) at offset 152: damaged, or not in its place");
}
END_TEST

START_TEST(left_out)
{
	make_stream(0);
	memmove(bytes.at + FIRST_BLOCK, bytes.at + FIRST_BLOCK + RECORD_BYTES,
		bytes.length - FIRST_BLOCK - RECORD_BYTES);
	bytes.length -= RECORD_BYTES;
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -EBADMSG);
}
END_TEST

START_TEST(of_another_stream)
{
	static struct bytes other;
	struct stream_header header = plain_header;
	struct writer *writer;

	make_stream(0);
	other = bytes;
	header.id[0]++;
	bytes = (struct bytes){};
	ck_assert_int_eq(writer_new(STREAM_BLOCKS, &header, write_bytes, &bytes, &writer), 0);
	ck_assert_int_eq(writer_flush(writer), 0);
	writer_free(writer);
	memcpy(bytes.at + bytes.length, other.at + bytes.length, other.length - bytes.length);
	bytes.length = other.length;
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -EBADMSG);
	ck_assert_str_eq(error_text, "record 1 (part) at offset 120: damaged, or not in its place");
}
END_TEST

START_TEST(followed)
{
	make_stream(0);
	bytes.length++;
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -EBADMSG);
	ck_assert(strstr(error_text, "something follows the end"));
}
END_TEST

START_TEST(aborted)
{
	struct writer *writer = begin(0);

	ck_assert_int_eq(writer_part(writer, 0), 0);
	ck_assert_int_eq(writer_abort(writer, "out\nof \033paper"), 0);
	writer_free(writer);
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -ECANCELED);
	ck_assert_str_eq(error_text, "record 2 (abort) at offset 152: the other side gave up: out?of ?paper");
}
END_TEST

START_TEST(a_failed_write_stays)
{
	struct writer *writer = begin(0);

	bytes.fail = -EPIPE;
	writer_part(writer, 0);
	ck_assert_int_eq(writer_flush(writer), -EPIPE);
	bytes.fail = 0;
	ck_assert_int_eq(writer_end(writer, IDENT_NONE), -EPIPE);
	writer_free(writer);
}
END_TEST

START_TEST(wrong_kinds_and_versions)
{
	make_stream(0);
	ck_assert_int_eq(read_all(STREAM_LIST), -EBADMSG);
	bytes.at[STREAM_MAGIC_BYTES - 1]++;
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -EPROTONOSUPPORT);
	bytes.at[0] = 'x';
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -EBADMSG);
}
END_TEST

/* --- records that the writer would not make -------------------------------------------------------------------- */

static uint64_t forged; /* records so far */
static struct stream_header forged_header;

static void forge(struct stream_record record)
{
	uint8_t head[STREAM_HEAD_BYTES], payload[STREAM_TOTALS_BYTES];

	if (record.type == STREAM_END && !record.payload) {
		record.totals.records = record.totals.records ? record.totals.records : forged;
		stream_put_totals(&record.totals, payload);
		record.payload = payload;
		record.length_bytes = sizeof(payload);
	}
	stream_put_head(&record, forged, forged ? stream_salt(&forged_header) : 0, head);
	forged++;
	write_bytes(&bytes, head, sizeof(head));
	write_bytes(&bytes, record.payload, record.length_bytes);
}

static void forge_begin_of(struct stream_header header, enum stream_kind kind)
{
	uint8_t magic[STREAM_MAGIC_BYTES], payload[STREAM_HEADER_BYTES];

	bytes = (struct bytes){};
	forged = 0;
	forged_header = header;
	stream_put_magic(kind, magic);
	write_bytes(&bytes, magic, sizeof(magic));
	stream_put_header(&header, payload);
	forge((struct stream_record){ .type = STREAM_HEADER, .payload = payload, .length_bytes = sizeof(payload) });
}

static void forge_begin(uint32_t features)
{
	struct stream_header header = plain_header;

	header.features = features;
	forge_begin_of(header, STREAM_BLOCKS);
}

static const uint8_t value[BLOCK + 64];

static void forge_part(uint64_t part)
{
	forge((struct stream_record){ .type = STREAM_PART, .value = part });
}

static void forge_block(uint64_t block, uint8_t generation)
{
	forge(block_record(block, generation, value, 40));
}

static void forge_holes(uint64_t block, uint64_t count)
{
	forge((struct stream_record){ .type = STREAM_HOLES, .block = block, .value = count });
}

static void expect(const char *why)
{
	int err = read_all(STREAM_BLOCKS);

	ck_assert_msg(err == -EBADMSG, "%d %s", err, error_text);
	ck_assert_msg(strstr(error_text, why) != NULL, "%s", error_text);
}

START_TEST(orders_that_are_wrong)
{
	forge_begin(0);
	forge_block(0, 0);
	expect("a block before the first part");

	forge_begin(0);
	forge_part(1);
	expect("record 1 (part) at offset 120: parts are out of order");

	forge_begin(0);
	forge_part(0);
	forge_block(3, 0);
	forge_block(2, 0);
	expect("blocks are out of order");

	forge_begin(0);
	forge_part(0);
	forge_block(3, 0);
	forge_block(3, 0);
	expect("blocks are out of order");

	forge_begin(0);
	forge_part(0);
	forge_block(3, 0);
	forge_part(1);
	forge_block(3, 0);
	expect("a block comes a second time");

	forge_begin(0);
	forge_part(0);
	forge_block(10, 0);
	forge_part(1);
	forge_holes(0, 20);
	expect("a block comes a second time");

	forge_begin(0);
	forge_part(0);
	forge_part(1);
	forge_block(3, 4);
	forge_block(5, 3);
	expect("generations are out of order");

	forge_begin(0);
	forge_part(0);
	forge_part(1);
	forge_part(2);
	expect("two parts only");

	forge_begin(STREAM_FEATURE_ROUNDS);
	forge_part(0);
	forge_part(1);
	forge_part(2);
	expect("did not name every block");

	forge_begin(STREAM_FEATURE_COLD_ONLY);
	forge_part(0);
	forge_part(1);
	expect("one part only");
}
END_TEST

START_TEST(records_beyond_bounds)
{
	forge_begin(0);
	forge_part(0);
	forge_block(BLOCKS, 0);
	expect("beyond the end of the file");

	forge_begin(0);
	forge_part(0);
	forge_holes(BLOCKS - 1, 2);
	expect("beyond the end of the file");

	forge_begin(0);
	forge_part(0);
	forge_holes(1, UINT64_MAX);
	expect("beyond the end of the file");

	forge_begin(0);
	forge_part(0);
	forge_holes(0, 0);
	expect("a range of no blocks");

	forge_begin(0);
	forge_part(0);
	forge(block_record(0, 0, value, STREAM_VALUE_HEADER_BYTES));
	expect("too short for a value");

	forge_begin(0);
	forge_part(0);
	forge(block_record(0, 0, value, STREAM_VALUE_HEADER_BYTES + BLOCK + 1));
	expect("a length that it cannot have");

	forge_begin(0);
	forge((struct stream_record){ .type = STREAM_ABORT, .payload = value, .length_bytes = STREAM_REASON_MAX + 1 });
	expect("a length that it cannot have");

	forge_begin(0);
	forge_part(0);
	forge((struct stream_record){ .type = STREAM_BLOCK, .tier = 4, .payload = value, .length_bytes = 40 });
	expect("no such tier");

	forge_begin(0);
	forge((struct stream_record){ .type = STREAM_PART, .generation = 1 });
	expect("a field that is not used is not 0");

	forge_begin(STREAM_FEATURE_COLD_ONLY);
	forge_part(0);
	forge((struct stream_record){ .type = STREAM_END, .value = 1 });
	expect("a field that is not used is not 0");

	forge_begin(0);
	forge((struct stream_record){ .type = STREAM_HASHES, .payload = value, .length_bytes = 8 });
	expect("not a record of a stream of blocks");
}
END_TEST

START_TEST(ends_that_are_wrong)
{
	forge_begin(0);
	forge((struct stream_record){ .type = STREAM_END });
	expect("a part is missing");

	forge_begin(0);
	forge_part(0);
	forge_holes(0, BLOCKS);
	forge((struct stream_record){ .type = STREAM_END, .totals.hole_blocks = BLOCKS });
	expect("a part is missing");

	forge_begin(0);
	forge_part(0);
	forge_holes(0, BLOCKS - 1);
	forge_part(1);
	forge((struct stream_record){ .type = STREAM_END, .totals.hole_blocks = BLOCKS - 1 });
	expect("not every block was named");

	forge_begin(0);
	forge_part(0);
	forge_holes(0, BLOCKS);
	forge_part(1);
	forge((struct stream_record){ .type = STREAM_END, .totals.hole_blocks = BLOCKS, .totals.records = 9 });
	expect("its totals are not those");

	forge_begin(0);
	forge_part(0);
	forge_holes(0, BLOCKS);
	forge_part(1);
	forge((struct stream_record){ .type = STREAM_END, .totals.hole_blocks = BLOCKS });
	forge_part(2);
	expect("something follows the end");
}
END_TEST

START_TEST(headers_that_are_wrong)
{
	struct stream_header header = plain_header;

	header.block_bytes = 5000;
	forge_begin_of(header, STREAM_BLOCKS);
	expect("block size");
	header.block_bytes = 0;
	forge_begin_of(header, STREAM_BLOCKS);
	expect("block size");
	header.block_bytes = 4U << 20;
	forge_begin_of(header, STREAM_BLOCKS);
	expect("block size");

	header = plain_header;
	header.size_bytes = UINT64_MAX - 4095;
	forge_begin_of(header, STREAM_BLOCKS);
	expect("larger than a stream may carry");

	header = plain_header;
	header.features = 1U << 20;
	forge_begin_of(header, STREAM_BLOCKS);
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -EPROTONOSUPPORT);

	forge_begin(0);
	forged = 1;
	forge((struct stream_record){ .type = STREAM_HEADER, .payload = value, .length_bytes = STREAM_HEADER_BYTES });
	expect("a second header");
}
END_TEST

/* Nothing is allocated or touched for what is only announced. */
START_TEST(a_huge_file_costs_nothing)
{
	struct stream_header header = plain_header;

	header.size_bytes = STREAM_BLOCKS_MAX * BLOCK;
	forge_begin_of(header, STREAM_BLOCKS);
	forge_part(0);
	forge_block(STREAM_BLOCKS_MAX - 1, 0);
	ck_assert_int_eq(read_all(STREAM_BLOCKS), -ENODATA);
	ck_assert_uint_eq(taken, 2);
}
END_TEST

/* --- lists ------------------------------------------------------------------------------------------------------ */

static void make_list(void)
{
	static struct tierfs_ident idents[STREAM_HASHES_MAX];
	struct stream_header header = { .size_bytes = (uint64_t)BLOCK * 9000,
					.block_bytes = BLOCK,
					.key = "a key of 32 bytes for this list." };
	struct writer *writer;

	for (uint64_t i = 0; i < STREAM_HASHES_MAX; i++)
		idents[i] = ident_from(i * i);
	bytes = (struct bytes){};
	ck_assert_int_eq(writer_new(STREAM_LIST, &header, write_bytes, &bytes, &writer), 0);
	ck_assert_int_eq(writer_idents(writer, 0, idents, STREAM_HASHES_MAX), 0);
	ck_assert_int_eq(writer_idents(writer, STREAM_HASHES_MAX, idents, 9000 - STREAM_HASHES_MAX), 0);
	ck_assert_int_eq(writer_end(writer, ident_from(99)), 0);
	ck_assert_int_eq(writer_result(writer, -EPERM, "no"), 0);
	writer_free(writer);
}

START_TEST(list_comes_back)
{
	struct stream_header header;
	struct stream_record record;
	struct reader *reader;
	char text[STREAM_TEXT_LEN];

	make_list();
	ck_assert_int_eq(reader_new(STREAM_LIST, read_bytes, &bytes, &reader), 0);
	ck_assert_int_eq(reader_begin(reader, &header), 0);
	ck_assert_int_eq(reader_next(reader, &record), 0);
	ck_assert_int_eq(record.type, STREAM_HASHES);
	ck_assert(ident_equal(stream_get_ident(record.payload, 100), ident_from(10000)));
	ck_assert_mem_eq(header.key, "a key of 32 bytes for this list.", STREAM_KEY_BYTES);
	ck_assert_int_eq(reader_next(reader, &record), 0);
	ck_assert_uint_eq(record.block, STREAM_HASHES_MAX);
	ck_assert_int_eq(reader_next(reader, &record), 0);
	ck_assert_int_eq(record.type, STREAM_END);
	ck_assert(ident_equal(record.totals.stamp, ident_from(99)));
	ck_assert_int_eq(reader_next(reader, &record), 0);
	ck_assert_int_eq(record.type, STREAM_RESULT);
	ck_assert_uint_eq(record.value, EPERM);
	ck_assert_str_eq(stream_text(&record, text), "no");
	ck_assert_int_eq(reader_next(reader, &record), -ENODATA);
	reader_free(reader);
}
END_TEST

START_TEST(lists_that_are_wrong)
{
	forge_begin_of(plain_header, STREAM_LIST);
	forge((struct stream_record){ .type = STREAM_HASHES, .payload = value, .length_bytes = 16 });
	forge((struct stream_record){ .type = STREAM_END, .totals.blocks = 1, .totals.payload_bytes = 16 });
	ck_assert_int_eq(read_all(STREAM_LIST), -EBADMSG);
	ck_assert(strstr(error_text, "the list ends before the file does"));

	forge_begin_of(plain_header, STREAM_LIST);
	forge((struct stream_record){ .type = STREAM_HASHES, .payload = value, .length_bytes = 16 * (BLOCKS + 1) });
	ck_assert_int_eq(read_all(STREAM_LIST), -EBADMSG);
	ck_assert(strstr(error_text, "beyond the end of the file"));

	forge_begin_of(plain_header, STREAM_LIST);
	forge((struct stream_record){ .type = STREAM_HASHES, .payload = value, .length_bytes = 24 });
	ck_assert_int_eq(read_all(STREAM_LIST), -EBADMSG);

	forge_begin_of(plain_header, STREAM_LIST);
	forge((struct stream_record){ .type = STREAM_HASHES, .block = 1, .payload = value, .length_bytes = 16 });
	ck_assert_int_eq(read_all(STREAM_LIST), -EBADMSG);
	ck_assert(strstr(error_text, "identities are out of order"));

	forge_begin_of(plain_header, STREAM_LIST);
	forge((struct stream_record){ .type = STREAM_RESULT });
	ck_assert_int_eq(read_all(STREAM_LIST), -EBADMSG);
}
END_TEST

/* --- post-copy -------------------------------------------------------------------------------------------------- */

static void forge_away(uint64_t block, uint64_t count, struct tierfs_ident ident, uint8_t tier)
{
	static uint8_t entries[(STREAM_HASHES_MAX + 1) * STREAM_AWAY_BYTES];

	for (uint64_t i = 0; i < count; i++)
		stream_put_away(&(struct stream_away){ ident, 7, tier }, entries + STREAM_AWAY_BYTES * i);
	forge((struct stream_record){ .type = STREAM_AWAY,
				      .block = block,
				      .payload = entries,
				      .length_bytes = (uint32_t)(count * STREAM_AWAY_BYTES) });
}

START_TEST(away_comes_back)
{
	struct writer *writer = begin(STREAM_FEATURE_POSTCOPY);
	uint8_t entries[3 * STREAM_AWAY_BYTES];
	struct stream_header header;
	struct stream_record record;
	struct reader *reader;
	struct stream_away away;

	for (unsigned int i = 0; i < 3; i++)
		stream_put_away(&(struct stream_away){ ident_from(0x8877665544332211 + i), (uint8_t)(250 + i), 3 },
				entries + STREAM_AWAY_BYTES * i);
	ck_assert_int_eq(writer_part(writer, STREAM_PART_COLD), 0);
	put_block(writer, 0, 1);
	ck_assert_int_eq(writer_away(writer, 2, entries, 3), 0);
	ck_assert_int_eq(writer_holes(writer, 5, BLOCKS - 5, 0), 0);
	ck_assert_int_eq(writer_part(writer, STREAM_PART_RESIDENT), 0);
	put_block(writer, 1, 0);
	ck_assert_int_eq(writer_end(writer, ident_from(4711)), 0);
	ck_assert_uint_eq(writer_totals(writer)->blocks, 5);
	writer_free(writer);
	ck_assert_int_eq(read_all(STREAM_BLOCKS), 0);

	bytes.done = 0;
	ck_assert_int_eq(reader_new(STREAM_BLOCKS, read_bytes, &bytes, &reader), 0);
	ck_assert_int_eq(reader_begin(reader, &header), 0);
	do
		ck_assert_int_eq(reader_next(reader, &record), 0);
	while (record.type != STREAM_AWAY);
	ck_assert_uint_eq(record.block, 2);
	ck_assert_uint_eq(record.length_bytes, sizeof(entries));
	away = stream_get_away(record.payload, 2);
	ck_assert(ident_equal(away.ident, ident_from(0x8877665544332213)));
	ck_assert_uint_eq(away.generation, 252);
	ck_assert_uint_eq(away.tier, 3);
	reader_free(reader);
}
END_TEST

START_TEST(aways_that_are_wrong)
{
	forge_begin(0);
	forge_part(0);
	forge_away(0, 1, ident_from(17), 0);
	expect("does not say that blocks come later");

	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_away(0, 1, ident_from(17), 0);
	expect("only cold blocks come later");

	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_part(0);
	forge_part(1);
	forge_away(0, 1, ident_from(17), 0);
	expect("only cold blocks come later");

	for (uint64_t word = 0; word < 2; word++) {
		forge_begin(STREAM_FEATURE_POSTCOPY);
		forge_part(0);
		forge_away(0, 1, (struct tierfs_ident){ { word, 0 } }, 0);
		expect("no such content");
	}
	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_part(0);
	forge_away(0, 1, ident_from(17), STREAM_TIER_MAX + 1);
	expect("no such tier");

	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_part(0);
	forge_away(0, 0, ident_from(17), 0);
	expect("not a number of blocks");

	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_part(0);
	forge((struct stream_record){ .type = STREAM_AWAY, .payload = value, .length_bytes = STREAM_AWAY_BYTES + 1 });
	expect("not a number of blocks");

	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_part(0);
	forge_away(1, BLOCKS, ident_from(17), 0);
	expect("beyond the end of the file");

	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_part(0);
	forge_away(0, STREAM_HASHES_MAX + 1, ident_from(17), 0);
	expect("a length that it cannot have");

	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_part(0);
	forge_away(3, 2, ident_from(17), 0);
	forge_block(4, 0);
	expect("blocks are out of order");

	forge_begin(STREAM_FEATURE_POSTCOPY);
	forge_part(0);
	forge_away(3, 2, ident_from(17), 0);
	forge_part(1);
	forge_block(4, 0);
	expect("a block comes a second time");

	forge_begin(STREAM_FEATURE_POSTCOPY | STREAM_FEATURE_COLD_ONLY);
	expect("exclude each other");
}
END_TEST

/* Wants, and what answers them: in any order, and any number of times. */
START_TEST(the_rest_comes_back)
{
	struct writer *writer;
	struct stream_record record;

	bytes = (struct bytes){};
	ck_assert_int_eq(writer_new(STREAM_WANTS, &plain_header, write_bytes, &bytes, &writer), 0);
	ck_assert_int_eq(writer_want(writer, 7, true), 0);
	ck_assert_int_eq(writer_want(writer, 3, false), 0);
	ck_assert_int_eq(writer_want(writer, 7, true), 0);
	ck_assert_int_eq(writer_end(writer, ident_from(4711)), 0);
	writer_free(writer);
	ck_assert_int_eq(read_all(STREAM_WANTS), 0);
	ck_assert_uint_eq(taken, 4);
	ck_assert_int_eq(read_all(STREAM_REST), -EBADMSG);

	bytes = (struct bytes){};
	ck_assert_int_eq(writer_new(STREAM_REST, &plain_header, write_bytes, &bytes, &writer), 0);
	put_block(writer, 7, 1);
	ck_assert_int_eq(writer_gone(writer, 3, -EIO), 0);
	record = block_record(7, 0, value, STREAM_VALUE_HEADER_BYTES + BLOCK);
	ck_assert_int_eq(writer_block(writer, &record), 0);
	ck_assert_int_eq(writer_end(writer, IDENT_NONE), 0);
	writer_free(writer);
	ck_assert_int_eq(read_all(STREAM_REST), 0);
	ck_assert_uint_eq(taken, 4);
}
END_TEST

START_TEST(rests_that_are_wrong)
{
	static const struct {
		enum stream_kind kind;
		struct stream_record record;
		const char *why;
	} wrong[] = {
		{ STREAM_WANTS, { .type = STREAM_WANT, .block = BLOCKS }, "beyond the end" },
		{ STREAM_WANTS, { .type = STREAM_WANT, .value = 2 }, "no such wish" },
		{ STREAM_WANTS, { .type = STREAM_WANT, .tier = 1 }, "a field that is not used" },
		{ STREAM_WANTS, { .type = STREAM_WANT, .payload = value, .length_bytes = 1 }, "cannot have" },
		{ STREAM_WANTS, { .type = STREAM_GONE, .value = 5 }, "not a record of wants" },
		{ STREAM_WANTS, { .type = STREAM_PART }, "not a record of wants" },
		{ STREAM_REST, { .type = STREAM_GONE }, "no such error" },
		{ STREAM_REST, { .type = STREAM_GONE, .value = 4096 }, "no such error" },
		{ STREAM_REST, { .type = STREAM_GONE, .block = UINT64_MAX, .value = 5 }, "beyond the end" },
		{ STREAM_REST, { .type = STREAM_WANT }, "not a record of the rest" },
		{ STREAM_REST, { .type = STREAM_HOLES, .value = 1 }, "not a record of the rest" },
		{ STREAM_REST, { .type = STREAM_RESULT }, "not a record of the rest" },
		{ STREAM_REST, { .type = STREAM_BLOCK, .payload = value, .length_bytes = 32 }, "too short" },
		{ STREAM_REST, { .type = STREAM_BLOCK, .tier = 4, .payload = value, .length_bytes = 40 }, "tier" },
		{ STREAM_REST,
		  { .type = STREAM_BLOCK, .block = BLOCKS, .payload = value, .length_bytes = 40 },
		  "beyond the end" },
		{ STREAM_REST, { .type = STREAM_END, .totals.blocks = 1 }, "its totals are not" },
		{ STREAM_BLOCKS, { .type = STREAM_WANT }, "not a record of a stream of blocks" },
		{ STREAM_LIST, { .type = STREAM_GONE, .value = 5 }, "not a record of a list" },
	};
	struct stream_header header = plain_header;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		forge_begin_of(plain_header, wrong[i].kind);
		forge(wrong[i].record);
		ck_assert_int_eq(read_all(wrong[i].kind), -EBADMSG);
		ck_assert_msg(strstr(error_text, wrong[i].why) != NULL, "%zu: %s", i, error_text);
	}
	header.features = STREAM_FEATURE_POSTCOPY;
	forge_begin_of(header, STREAM_WANTS);
	ck_assert_int_eq(read_all(STREAM_WANTS), -EBADMSG);
}
END_TEST

START_TEST(stamps)
{
	const struct tierfs_ident list[4] = { ident_from(5), STREAM_HOLE, STREAM_UNKNOWN, ident_from(7) };
	struct tierfs_ident stamp = stream_stamp_all(list, 4), other = IDENT_NONE;

	ck_assert(ident_known(stamp));
	stream_stamp_add(&other, 3, list[3]);
	ck_assert(!ident_equal(stamp, other));
	stream_stamp_add(&other, 0, list[0]);
	ck_assert(ident_equal(stamp, other));
	stream_stamp_sub(&other, 0, list[0]);
	stream_stamp_add(&other, 1, list[0]); /* in another place */
	ck_assert(!ident_equal(stamp, other));
	stream_stamp_sub(&other, 1, list[0]);
	stream_stamp_sub(&other, 3, list[3]);
	ck_assert(ident_equal(other, IDENT_NONE));
	ck_assert(!ident_same(STREAM_UNKNOWN, STREAM_UNKNOWN));
	ck_assert(ident_same(STREAM_HOLE, STREAM_HOLE) && ident_same(list[0], ident_from(5)));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("stream");
	TCase *tcase = tcase_create("stream");

	suite_add_tcase(suite, tcase);
	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, stream_comes_back, 0, 50);
	tcase_add_loop_test(tcase, features_read, 0, 5);
	tcase_add_test(tcase, truncated);
	tcase_add_test(tcase, bit_flipped);
	tcase_add_test(tcase, reordered);
	tcase_add_test(tcase, left_out);
	tcase_add_test(tcase, of_another_stream);
	tcase_add_test(tcase, followed);
	tcase_add_test(tcase, aborted);
	tcase_add_test(tcase, a_failed_write_stays);
	tcase_add_test(tcase, wrong_kinds_and_versions);
	tcase_add_test(tcase, orders_that_are_wrong);
	tcase_add_test(tcase, records_beyond_bounds);
	tcase_add_test(tcase, ends_that_are_wrong);
	tcase_add_test(tcase, headers_that_are_wrong);
	tcase_add_test(tcase, a_huge_file_costs_nothing);
	tcase_add_test(tcase, list_comes_back);
	tcase_add_test(tcase, lists_that_are_wrong);
	tcase_add_test(tcase, away_comes_back);
	tcase_add_test(tcase, aways_that_are_wrong);
	tcase_add_test(tcase, the_rest_comes_back);
	tcase_add_test(tcase, rests_that_are_wrong);
	tcase_add_test(tcase, stamps);
	return check_run(suite);
}
