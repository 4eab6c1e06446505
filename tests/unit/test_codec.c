/* unit/test_codec.c - blocks to values and back, and every way in which a value can be wrong. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cold/codec.h"
#include "lib_check.h"
#include "lib/lib_ident.h"

#define BLOCK 16384U

static const struct store_key KEY = { 7, 42 };
static const struct codec_hotness HOT = { 3, 2 };

static uint64_t random_state = 1;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void fill_random(uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t word = next_random();

		memcpy(at + i, &word, len - i < 8 ? len - i : 8);
	}
}

/* Text-like: random words out of few. */
static void fill_compressible(uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		at[i] = (uint8_t)("etaoin shrdlu"[next_random() % 13]);
}

/* Heap-like: small numbers and pointers. */
static void fill_records(uint8_t *at, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t word = i % 32 ? i / 256 : UINT64_C(0x00007f3a12000000) + (next_random() & 0xfff0);

		memcpy(at + i, &word, 8);
	}
}

struct box {
	struct codec *codec;
	uint8_t *plain, *back, *value;
	size_t len;
};

static struct box box_new(uint32_t block_bytes, int level)
{
	struct box box = { 0 };

	ck_assert_int_eq(codec_new(block_bytes, level, &box.codec), 0);
	box.plain = malloc(block_bytes);
	box.back = malloc(block_bytes);
	box.value = malloc(codec_bound(block_bytes));
	ck_assert(box.plain && box.back && box.value);
	return box;
}

static void box_free(struct box *box)
{
	codec_free(box->codec);
	free(box->plain);
	free(box->back);
	free(box->value);
}

static struct codec_info encode(struct box *box, uint32_t block_bytes)
{
	struct codec_info info;

	ck_assert_int_eq(codec_encode(box->codec, KEY, HOT, box->plain, ident_of(box->plain, block_bytes), box->value,
				      codec_bound(block_bytes), &box->len),
			 0);
	ck_assert_int_eq(codec_peek(box->value, box->len, &info), 0);
	ck_assert_uint_eq(info.payload_bytes + CODEC_HEADER_BYTES, box->len);
	ck_assert_uint_eq(info.block_bytes, block_bytes);
	ck_assert_uint_eq(info.hotness.generation, HOT.generation);
	ck_assert_uint_eq(info.hotness.tier, HOT.tier);
	ck_assert(ident_same(info.ident, ident_of(box->plain, block_bytes)));
	ck_assert_uint_eq(info.header_bytes, CODEC_HEADER_BYTES);
	return info;
}

static void check_back(struct box *box, uint32_t block_bytes)
{
	struct codec_info info;

	memset(box->back, 0xee, block_bytes);
	ck_assert_int_eq(codec_decode(box->codec, KEY, box->value, box->len, box->back, &info), 0);
	ck_assert_mem_eq(box->plain, box->back, block_bytes);
	ck_assert_uint_eq(info.block_bytes, block_bytes);
}

START_TEST(round_trip_of_every_kind_size_and_level)
{
	static const int levels[] = { 0, 1, 3, 9, 19 };

	for (uint32_t block = 4096; block <= 65536; block *= 2) {
		for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
			struct box box = box_new(block, levels[i]);

			fill_compressible(box.plain, block);
			/* LZ4 has no entropy coding: letters in no order hardly pay. */
			ck_assert_int_ne(encode(&box, block).kind, levels[i] ? CODEC_RAW : CODEC_ZSTD);
			check_back(&box, block);
			fill_records(box.plain, block);
			ck_assert_int_eq(encode(&box, block).kind, levels[i] ? CODEC_ZSTD : CODEC_LZ4);
			ck_assert_uint_lt(box.len, block / 2);
			check_back(&box, block);
			fill_random(box.plain, block);
			ck_assert_int_eq(encode(&box, block).kind, CODEC_RAW);
			ck_assert_uint_eq(box.len, codec_bound(block));
			check_back(&box, block);
			for (uint32_t at = 0; at < block; at += 8)
				memcpy(box.plain + at, "abcdefg", 8);
			ck_assert_int_eq(encode(&box, block).kind, CODEC_PATTERN);
			ck_assert_uint_eq(box.len, CODEC_HEADER_BYTES + 8);
			check_back(&box, block);
			box_free(&box);
		}
	}
}
END_TEST

/* Every flipped bit is noticed, whatever kind of value it is in. */
static void check_flips(struct box *box, size_t step)
{
	for (size_t bit = 0; bit < box->len * 8; bit += bit < 512 ? 1 : step) {
		int r;

		box->value[bit / 8] ^= (uint8_t)(1 << bit % 8);
		r = codec_decode(box->codec, KEY, box->value, box->len, box->back, NULL);
		ck_assert_msg(r == -EBADMSG || r == -EPROTONOSUPPORT, "bit %zu: %d", bit, r);
		box->value[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	check_back(box, BLOCK);
}

/* What compresses, as coders.def has it. */
static const struct {
	enum codec_kind kind;
	int first, last;
} rows[] = {
#define CODER(id, number, first, last, room) { CODEC_##id, first, last },
#include "cold/coders.def"
#undef CODER
};

/* Of each row, at both ends of its levels: what it writes says so, is read by one of any other level, and damage to it
 * is noticed. A new row needs nothing here. */
START_TEST(every_row_writes_its_kind)
{
	struct box other = box_new(BLOCK, rows[(_i + 1) % (sizeof(rows) / sizeof(rows[0]))].first);

	for (int i = 0; i < _i; i++) {
		ck_assert_int_ne(rows[i].kind, rows[_i].kind);
		ck_assert(rows[i].last < rows[_i].first || rows[i].first > rows[_i].last);
	}
	ck_assert(rows[_i].kind != CODEC_RAW && rows[_i].kind != CODEC_PATTERN && rows[_i].kind != CODEC_AWAY);
	for (int level = rows[_i].first; level <= rows[_i].last; level++) {
		struct box box;

		if (level != rows[_i].first && level != rows[_i].last)
			continue;
		box = box_new(BLOCK, level);
		fill_records(box.plain, BLOCK);
		ck_assert_int_eq(encode(&box, BLOCK).kind, rows[_i].kind);
		check_back(&box, BLOCK);
		ck_assert_int_eq(codec_decode(other.codec, KEY, box.value, box.len, other.back, NULL), 0);
		ck_assert_mem_eq(other.back, box.plain, BLOCK);
		check_flips(&box, 61);
		box_free(&box);
	}
	box_free(&other);
}
END_TEST

static void check_broken_pattern(int level, enum codec_kind kind)
{
	struct box box = box_new(BLOCK, level);

	for (int i = 0; i < 200; i++) {
		memset(box.plain, 0x55, BLOCK);
		box.plain[i < 100 ? (size_t)i : BLOCK - 200 + (size_t)i] ^= 1;
		ck_assert_int_eq(encode(&box, BLOCK).kind, kind);
		check_back(&box, BLOCK);
	}
	box_free(&box);
}

START_TEST(one_byte_breaks_a_pattern)
{
	check_broken_pattern(1, CODEC_ZSTD);
	check_broken_pattern(0, CODEC_LZ4);
}
END_TEST

static void check_little_gain(int level, enum codec_kind kind)
{
	struct box box = box_new(BLOCK, level);

	fill_random(box.plain, BLOCK);
	memset(box.plain, 0, BLOCK / 32);
	ck_assert_int_eq(encode(&box, BLOCK).kind, CODEC_RAW);
	check_back(&box, BLOCK);
	memset(box.plain, 0, BLOCK / 8);
	ck_assert_int_eq(encode(&box, BLOCK).kind, kind);
	ck_assert_uint_le(box.len, CODEC_HEADER_BYTES + BLOCK - BLOCK / 16);
	check_back(&box, BLOCK);
	box_free(&box);
}

START_TEST(little_gain_is_kept_raw)
{
	check_little_gain(3, CODEC_ZSTD);
	check_little_gain(0, CODEC_LZ4);
}
END_TEST

START_TEST(every_codec_reads_what_another_wrote)
{
	struct box fast = box_new(BLOCK, 0), small = box_new(BLOCK, 9);

	fill_records(fast.plain, BLOCK);
	memcpy(small.plain, fast.plain, BLOCK);
	encode(&fast, BLOCK);
	encode(&small, BLOCK);
	ck_assert_int_eq(codec_decode(small.codec, KEY, fast.value, fast.len, small.back, NULL), 0);
	ck_assert_int_eq(codec_decode(fast.codec, KEY, small.value, small.len, fast.back, NULL), 0);
	ck_assert_mem_eq(small.back, fast.plain, BLOCK);
	ck_assert_mem_eq(fast.back, fast.plain, BLOCK);
	box_free(&fast);
	box_free(&small);
}
END_TEST

START_TEST(zero_is_found_wherever_it_is_not)
{
	uint64_t *words = calloc(1, 4096);

	ck_assert(words != NULL);
	for (size_t len = 8; len <= 4096; len += 8) {
		ck_assert(codec_is_zero(words, len));
		words[len / 8 - 1] = UINT64_C(1) << (len % 64);
		ck_assert(!codec_is_zero(words, len));
		ck_assert(codec_is_zero(words, len - 8));
		words[len / 8 - 1] = 0;
	}
	for (size_t byte = 0; byte < 4096; byte++) {
		((uint8_t *)words)[byte] = 0x80;
		ck_assert(!codec_is_zero(words, 4096));
		((uint8_t *)words)[byte] = 0;
	}
	ck_assert(codec_is_zero(words + 1, 4088)); /* 8-byte aligned is enough */
	free(words);
}
END_TEST

START_TEST(zero_blocks_and_short_buffers_are_refused)
{
	struct box box = box_new(BLOCK, 1);
	size_t len = 99;

	memset(box.plain, 0, BLOCK);
	ck_assert_int_eq(codec_encode(box.codec, KEY, HOT, box.plain, IDENT_NONE, box.value, codec_bound(BLOCK), &len),
			 -EINVAL);
	box.plain[5] = 1;
	ck_assert_int_eq(codec_encode(box.codec, KEY, HOT, box.plain, IDENT_NONE, box.value, codec_bound(BLOCK) - 1,
				      &len),
			 -ENOBUFS);
	ck_assert_uint_eq(len, 99);
	box_free(&box);
}
END_TEST

START_TEST(bad_configurations_are_refused)
{
	struct codec *codec = NULL;

	ck_assert_int_eq(codec_new(0, 1, &codec), -EINVAL);
	ck_assert_int_eq(codec_new(2048, 1, &codec), -EINVAL);
	ck_assert_int_eq(codec_new(12288, 1, &codec), -EINVAL);
	ck_assert_int_eq(codec_new(4U << 20, 1, &codec), -EINVAL);
	ck_assert_int_eq(codec_new(4096, -1, &codec), -EINVAL);
	ck_assert_int_eq(codec_new(4096, 20, &codec), -EINVAL);
	ck_assert_ptr_null(codec);
	codec_free(NULL);
}
END_TEST

START_TEST(damage_is_detected)
{
	struct box box = box_new(BLOCK, 1);

	fill_compressible(box.plain, BLOCK);
	encode(&box, BLOCK);
	check_flips(&box, 61);
	fill_random(box.plain, BLOCK);
	encode(&box, BLOCK);
	check_flips(&box, 127);
	memset(box.plain, 0x5a, BLOCK);
	encode(&box, BLOCK);
	check_flips(&box, 1);
	box_free(&box);
	box = box_new(BLOCK, 0);
	fill_records(box.plain, BLOCK);
	ck_assert_int_eq(encode(&box, BLOCK).kind, CODEC_LZ4);
	check_flips(&box, 61);
	box_free(&box);
}
END_TEST

START_TEST(values_of_another_key_or_size_are_detected)
{
	struct box box = box_new(BLOCK, 1);
	struct box small = box_new(4096, 1);

	fill_compressible(box.plain, BLOCK);
	encode(&box, BLOCK);
	ck_assert_int_eq(codec_decode(box.codec, (struct store_key){ 7, 43 }, box.value, box.len, box.back, NULL),
			 -EBADMSG);
	ck_assert_int_eq(codec_decode(box.codec, (struct store_key){ 8, 42 }, box.value, box.len, box.back, NULL),
			 -EBADMSG);
	ck_assert_int_eq(codec_decode(box.codec, (struct store_key){ 42, 7 }, box.value, box.len, box.back, NULL),
			 -EBADMSG);
	ck_assert_int_eq(codec_decode(small.codec, KEY, box.value, box.len, small.back, NULL), -EBADMSG);
	for (size_t len = 0; len < box.len; len += len < 40 ? 1 : 101)
		ck_assert_int_lt(codec_decode(box.codec, KEY, box.value, len, box.back, NULL), 0);
	box_free(&box);
	box_free(&small);
}
END_TEST

START_TEST(unknown_versions_and_codecs_are_named)
{
	struct box box = box_new(BLOCK, 1);
	struct codec_info info;

	fill_compressible(box.plain, BLOCK);
	encode(&box, BLOCK);
	box.value[0] = 3;
	ck_assert_int_eq(codec_decode(box.codec, KEY, box.value, box.len, box.back, NULL), -EPROTONOSUPPORT);
	ck_assert_int_eq(codec_peek(box.value, box.len, &info), -EPROTONOSUPPORT);
	box.value[0] = 2;
	box.value[1] = 9;
	ck_assert_int_eq(codec_peek(box.value, box.len, &info), -EPROTONOSUPPORT);
	box.value[1] = 1;
	ck_assert_int_eq(codec_peek(box.value, CODEC_HEADER_BYTES - 1, &info), -EBADMSG);
	box.value[0] = 1;
	ck_assert_int_eq(codec_peek(box.value, CODEC_OLD_HEADER_BYTES - 1, &info), -EBADMSG);
	box_free(&box);
}
END_TEST

START_TEST(garbage_is_survived)
{
	struct box box = box_new(BLOCK, 1);

	for (int i = 0; i < 20000; i++) {
		size_t len = next_random() % 256;

		fill_random(box.value, len);
		if (len > 4 && i % 2) { /* past the first checks */
			box.value[0] = (uint8_t)(1 + i / 2 % 2);
			box.value[1] %= 4;
			box.value[4] = 14;
		}
		ck_assert_int_lt(codec_decode(box.codec, KEY, box.value, len, box.back, NULL), 0);
	}
	box_free(&box);
}
END_TEST

/* The layout is a format: these bytes must not change. */
START_TEST(header_is_as_documented)
{
	static const uint8_t want[8] = { 2, 2, 3, 2, 14, 8, 0, 0 };
	struct box box = box_new(BLOCK, 1);
	uint8_t ident[IDENT_BYTES];

	for (uint32_t at = 0; at < BLOCK; at += 8)
		memcpy(box.plain + at, "abcdefg", 8);
	encode(&box, BLOCK);
	ck_assert_mem_eq(box.value, want, 8);
	ident_put(ident_of(box.plain, BLOCK), ident);
	ck_assert_mem_eq(box.value + 8, ident, sizeof(ident));
	ck_assert_mem_eq(box.value + CODEC_HEADER_BYTES, "abcdefg", 8);
	box_free(&box);
}
END_TEST

START_TEST(away_says_so_and_has_no_content)
{
	uint8_t value[CODEC_HEADER_BYTES + 1] = { 0 };
	struct box box = box_new(BLOCK, 1);
	struct codec_info info;

	codec_encode_away(BLOCK, KEY, HOT, ident_from(0x1122334455667788), value);
	ck_assert_int_eq(codec_peek(value, CODEC_HEADER_BYTES, &info), 0);
	ck_assert_int_eq(info.kind, CODEC_AWAY);
	ck_assert_int_eq(info.hotness.generation, HOT.generation);
	ck_assert_int_eq(info.hotness.tier, HOT.tier);
	ck_assert_uint_eq(info.block_bytes, BLOCK);
	ck_assert(ident_same(info.ident, ident_from(0x1122334455667788)));
	ck_assert_int_eq(codec_decode(box.codec, KEY, value, CODEC_HEADER_BYTES, box.back, NULL), -EREMOTE);
	ck_assert_int_eq(codec_decode(box.codec, KEY, value, CODEC_HEADER_BYTES + 1, box.back, NULL), -EBADMSG);
	for (size_t bit = 0; bit < 8 * CODEC_HEADER_BYTES; bit++) {
		value[bit / 8] ^= (uint8_t)(1U << bit % 8);
		ck_assert_int_ne(codec_decode(box.codec, KEY, value, CODEC_HEADER_BYTES, box.back, NULL), -EREMOTE);
		value[bit / 8] ^= (uint8_t)(1U << bit % 8);
	}
	value[5] = 1; /* a payload */
	ck_assert_int_eq(codec_peek(value, CODEC_HEADER_BYTES + 1, &info), -EBADMSG);
	box_free(&box);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("codec");
	TCase *tests = tcase_create("codec");

	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, round_trip_of_every_kind_size_and_level);
	tcase_add_loop_test(tests, every_row_writes_its_kind, 0, sizeof(rows) / sizeof(rows[0]));
	tcase_add_test(tests, one_byte_breaks_a_pattern);
	tcase_add_test(tests, little_gain_is_kept_raw);
	tcase_add_test(tests, every_codec_reads_what_another_wrote);
	tcase_add_test(tests, zero_is_found_wherever_it_is_not);
	tcase_add_test(tests, zero_blocks_and_short_buffers_are_refused);
	tcase_add_test(tests, bad_configurations_are_refused);
	tcase_add_test(tests, damage_is_detected);
	tcase_add_test(tests, values_of_another_key_or_size_are_detected);
	tcase_add_test(tests, unknown_versions_and_codecs_are_named);
	tcase_add_test(tests, garbage_is_survived);
	tcase_add_test(tests, header_is_as_documented);
	tcase_add_test(tests, away_says_so_and_has_no_content);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
