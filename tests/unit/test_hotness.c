/* The bytes of a hotness file, and the estimate that is made from ages. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <tierfs/access.h>
#include <tierfs/hotness.h>

#include "tools/tierctl/curve.h"
#include "lib_check.h"

#define NS 1000000000ULL

static struct tierfs_hotness_header header_of(uint64_t size_bytes, uint64_t records)
{
	struct tierfs_hotness_header header = {
		.size_bytes = size_bytes, .block_bytes = 16384, .records = records, .scans = 7, .time_s = 1700000000
	};

	for (size_t g = 1; g < 100; g++)
		header.age_ns[g] = g * 15 * NS;
	return header;
}

static const struct tierfs_hotness_record good = { .offset = 65536,
						   .length = 131072,
						   .state = TIERFS_STATE_COLD,
						   .generation = 12,
						   .tier = 2,
						   .flags = TIERFS_BLOCK_PINNED,
						   .copy = TIERFS_COPY_SAME };

START_TEST(there_and_back)
{
	struct tierfs_hotness_header header = header_of(1 << 20, 3), header_back;
	struct tierfs_hotness_record back;
	uint8_t head[TIERFS_HOTNESS_HEADER_BYTES], bytes[TIERFS_HOTNESS_RECORD_BYTES];
	const char *why = NULL;

	memset(&header_back, 0, sizeof(header_back));
	tierfs_hotness_pack_header(&header, head);
	ck_assert_int_eq(tierfs_hotness_unpack_header(head, &header_back, &why), 0);
	ck_assert_uint_eq(header_back.size_bytes, 1 << 20);
	ck_assert_uint_eq(header_back.records, 3);
	ck_assert_uint_eq(header_back.age_ns[99], 99 * 15 * NS);
	tierfs_hotness_pack_record(2, &good, bytes);
	ck_assert_int_eq(tierfs_hotness_unpack_record(2, &header, 65536, bytes, &back, &why), 0);
	ck_assert_uint_eq(back.offset, good.offset);
	ck_assert_uint_eq(back.length, good.length);
	ck_assert_uint_eq(back.generation, good.generation);
	ck_assert_uint_eq(back.flags, good.flags);
}
END_TEST

START_TEST(every_flipped_bit_is_seen)
{
	struct tierfs_hotness_header header = header_of(1 << 20, 3), header_back;
	struct tierfs_hotness_record back;
	uint8_t head[TIERFS_HOTNESS_HEADER_BYTES], bytes[TIERFS_HOTNESS_RECORD_BYTES];

	tierfs_hotness_pack_header(&header, head);
	for (size_t bit = 0; bit < sizeof(head) * 8; bit++) {
		const char *why = NULL;

		head[bit / 8] ^= (uint8_t)(1 << bit % 8);
		ck_assert_int_lt(tierfs_hotness_unpack_header(head, &header_back, &why), 0);
		ck_assert_ptr_nonnull(why);
		head[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	tierfs_hotness_pack_record(0, &good, bytes);
	for (size_t bit = 0; bit < sizeof(bytes) * 8; bit++) {
		const char *why = NULL;

		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		ck_assert_int_eq(tierfs_hotness_unpack_record(0, &header, 0, bytes, &back, &why), -EBADMSG);
		ck_assert_ptr_nonnull(why);
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	/* In another place. */
	const char *why = NULL;
	ck_assert_int_eq(tierfs_hotness_unpack_record(1, &header, 0, bytes, &back, &why), -EBADMSG);
}
END_TEST

/* Checksums are right here: each field is checked for itself. */
START_TEST(hostile_fields_are_refused)
{
	struct tierfs_hotness_record bad[] = { good, good, good, good, good, good, good, good, good };
	struct tierfs_hotness_header header = header_of(1 << 20, 3), bad_header[6], header_back;
	struct tierfs_hotness_record back;
	uint8_t head[TIERFS_HOTNESS_HEADER_BYTES], bytes[TIERFS_HOTNESS_RECORD_BYTES];
	const char *why = NULL;

	bad[0].offset = 1;
	bad[1].length = 0;
	bad[2].length = 4095;
	bad[3].offset = UINT64_MAX - 4095;
	bad[4].length = UINT64_MAX - 4095;
	bad[5].state = 4;
	bad[6].tier = 4;
	bad[7].flags = 0x80;
	bad[8].copy = 4;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		tierfs_hotness_pack_record(0, &bad[i], bytes);
		ck_assert_int_eq(tierfs_hotness_unpack_record(0, &header, 0, bytes, &back, &why), -EBADMSG);
	}
	tierfs_hotness_pack_record(0, &good, bytes);
	ck_assert_int_eq(tierfs_hotness_unpack_record(0, &header, 65537, bytes, &back, &why), -EBADMSG); /* overlap */
	for (size_t i = 0; i < sizeof(bad_header) / sizeof(bad_header[0]); i++)
		bad_header[i] = header;
	bad_header[0].size_bytes = 4097;
	bad_header[1].size_bytes = UINT64_MAX - 4095;
	bad_header[2].records = 257;
	bad_header[3].block_bytes = 12345;
	bad_header[4].block_bytes = 0;
	bad_header[5].age_ns[5] = 1;
	for (size_t i = 0; i < sizeof(bad_header) / sizeof(bad_header[0]); i++) {
		tierfs_hotness_pack_header(&bad_header[i], head);
		ck_assert_int_eq(tierfs_hotness_unpack_header(head, &header_back, &why), -EBADMSG);
	}
	tierfs_hotness_pack_header(&header, head);
	head[8] = 2;
	ck_assert_int_eq(tierfs_hotness_unpack_header(head, &header_back, &why), -EPROTONOSUPPORT);
}
END_TEST

/* --- the estimate ---------------------------------------------------------------------------------------------- */

START_TEST(nothing_is_known_before_a_scan)
{
	uint64_t bytes[TIERFS_HOTNESS_GENERATIONS] = { 4096 }, age[TIERFS_HOTNESS_GENERATIONS] = { 0 };
	struct curve curve;
	bool at_least;

	curve_make(&curve, bytes, age);
	ck_assert(curve_working_set(&curve, 60, &at_least) >= 0 && at_least);
	ck_assert(curve_budget(&curve, 1, &at_least) >= 0 && at_least);
	ck_assert(curve_rate(&curve, 0) >= 0);
}
END_TEST

/* What a load with 1000/age blocks a second beyond each age looks like, seen by scans every 10 s. */
START_TEST(a_known_load_is_found_again)
{
	uint64_t bytes[TIERFS_HOTNESS_GENERATIONS] = { 0 }, age[TIERFS_HOTNESS_GENERATIONS] = { 0 };
	struct curve curve;
	bool at_least;
	double set = 0;

	bytes[0] = 40000 * 4096ULL;
	for (unsigned int g = 1; g <= 100; g++) {
		age[g] = g * 10 * NS;
		bytes[g] = (uint64_t)(1000.0 / (g * 10 + 5) * 10) * 4096; /* the mean rate of the step */
	}
	curve_make(&curve, bytes, age);
	for (unsigned int g = 1; g < 60; g++)
		set += (double)bytes[g];
	ck_assert_double_eq_tol(curve_working_set(&curve, 600, &at_least), (double)bytes[0] + set, 1);
	ck_assert(!at_least);
	/* The rate after 600 s is between that of the steps around. */
	ck_assert_double_eq_tol(curve_rate(&curve, (double)bytes[0] + set) / 4096, 1000.0 / 600, 0.2);
	ck_assert_double_eq_tol(curve_budget(&curve, 1000.0 / 600 * 4096, &at_least), (double)bytes[0] + set,
				0.01 * set);
	ck_assert(!at_least);
	curve_budget(&curve, 0.001, &at_least);
	ck_assert(at_least);
	curve_working_set(&curve, 2000, &at_least);
	ck_assert(at_least);
	ck_assert(curve_rate(&curve, 1e18) == 0);
}
END_TEST

/* Whatever comes in, the curve rises, its slopes do not, and more budget never means more promotions. */
START_TEST(the_curve_is_concave)
{
	uint64_t bytes[TIERFS_HOTNESS_GENERATIONS], age[TIERFS_HOTNESS_GENERATIONS];
	struct curve curve;

	srandom((unsigned int)_i);
	age[0] = 0;
	for (unsigned int g = 0; g < TIERFS_HOTNESS_GENERATIONS; g++) {
		bytes[g] = random() % 3 ? (uint64_t)(random() % 1000) * 4096 : 0;
		if (g)
			age[g] = g > 200 ? 0 : age[g - 1] + (random() % 4 ? (uint64_t)random() % (20 * NS) : 0);
	}
	curve_make(&curve, bytes, age);
	for (unsigned int i = 0; i + 1 < curve.points; i++) {
		ck_assert(curve.age_s[i + 1] > curve.age_s[i]);
		ck_assert(curve.bytes[i + 1] >= curve.bytes[i]);
		ck_assert(curve.hull[i + 1] >= curve.hull[i]);
		ck_assert(curve.hull[i] >= curve.bytes[i] - 1e-3);
		ck_assert(curve_rate(&curve, curve.hull[i + 1]) <= curve_rate(&curve, curve.hull[i]) + 1e-6);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("hotness");
	TCase *format = tcase_create("format"), *estimate = tcase_create("estimate");

	tcase_add_test(format, there_and_back);
	tcase_add_test(format, every_flipped_bit_is_seen);
	tcase_add_test(format, hostile_fields_are_refused);
	tcase_add_test(estimate, nothing_is_known_before_a_scan);
	tcase_add_test(estimate, a_known_load_is_found_again);
	tcase_add_loop_test(estimate, the_curve_is_concave, 0, 50);
	suite_add_tcase(suite, format);
	suite_add_tcase(suite, estimate);
	return check_run(suite);
}
