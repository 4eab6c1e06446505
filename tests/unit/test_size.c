/* Sizes and durations as text. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/size.h"
#include "lib_check.h"

#define KIB ((uint64_t)1 << 10)

static const struct {
	const char *text;
	uint64_t bytes;
} good_sizes[] = {
	{ "0", 0 },
	{ "4096", 4096 },
	{ "16K", 16 * KIB },
	{ "16k", 16 * KIB },
	{ "16KB", 16 * KIB },
	{ "16KiB", 16 * KIB },
	{ "1.5G", (uint64_t)3 << 29 },
	{ "2T", (uint64_t)2 << 40 },
	{ "0.5K", 512 },
	{ "0.0009765625M", 1024 },
	{ "100B", 100 },
	{ "1.0", 1 },
	{ "1.00000000000000000000000001K", 1024 },
	{ "0000000000000000000000000000001M", 1 << 20 },
	{ "9223372036854775807", INT64_MAX },
	{ "7E", (uint64_t)7 << 60 },
	{ "7.9999999999E", UINT64_C(9223372036739483657) },
};

START_TEST(sizes_that_parse)
{
	uint64_t bytes = 1;

	ck_assert_msg(size_parse(good_sizes[_i].text, &bytes) == 0, "%s", good_sizes[_i].text);
	ck_assert_msg(bytes == good_sizes[_i].bytes, "%s: %llu", good_sizes[_i].text, (unsigned long long)bytes);
}
END_TEST

static const char *const bad_sizes[] = {
	"",    " ",    "K",     "-1",   "+1",  " 1",  "1 ",   "1 K",  "1KK",  "1Ki",  "1iB", "1.",
	".5G", "1..5", "1.5.5", "0x10", "1e3", "1.5", "1.5B", "1K\n", "1,5G", "1Kib", "nan", "99999999999999999999x",
};

START_TEST(sizes_that_do_not_parse)
{
	uint64_t bytes = 42;

	ck_assert_msg(size_parse(bad_sizes[_i], &bytes) == -EINVAL, "'%s'", bad_sizes[_i]);
	ck_assert_uint_eq(bytes, 42);
}
END_TEST

static const char *const huge_sizes[] = {
	"9223372036854775808", "8E", "18446744073709551616", "8388608T", "99999999999999999999999999999999999999999K",
};

START_TEST(sizes_out_of_range)
{
	uint64_t bytes = 42;

	ck_assert_msg(size_parse(huge_sizes[_i], &bytes) == -ERANGE, "'%s'", huge_sizes[_i]);
	ck_assert_uint_eq(bytes, 42);
}
END_TEST

static const struct {
	const char *text;
	int result;
	uint64_t ns;
} durations[] = {
	{ "30", 0, 30 * NS_PER_S },
	{ "0", 0, 0 },
	{ "0.5", 0, NS_PER_S / 2 },
	{ "2s", 0, 2 * NS_PER_S },
	{ "100ms", 0, 100 * NS_PER_MS },
	{ "1.5us", 0, 1500 },
	{ "7ns", 0, 7 },
	{ "0.7ns", 0, 0 },
	{ "5m", 0, 300 * NS_PER_S },
	{ "2h", 0, 7200 * NS_PER_S },
	{ "0.000000001", 0, 1 },
	{ "9223372036", 0, UINT64_C(9223372036) * NS_PER_S },
	{ "9223372037", -ERANGE, 0 },
	{ "99999999999999999999999h", -ERANGE, 0 },
	{ "", -EINVAL, 0 },
	{ "s", -EINVAL, 0 },
	{ "-1", -EINVAL, 0 },
	{ "1d", -EINVAL, 0 },
	{ "1 s", -EINVAL, 0 },
	{ "1S", -EINVAL, 0 },
	{ "1.s", -EINVAL, 0 },
	{ "1mss", -EINVAL, 0 },
};

START_TEST(durations_parse)
{
	uint64_t ns = 42;

	ck_assert_msg(duration_parse(durations[_i].text, &ns) == durations[_i].result, "'%s'", durations[_i].text);
	ck_assert_msg(ns == (durations[_i].result ? 42 : durations[_i].ns), "'%s': %llu", durations[_i].text,
		      (unsigned long long)ns);
}
END_TEST

static const struct {
	uint64_t bytes;
	const char *text;
} formats[] = {
	{ 0, "0" },
	{ 1, "1B" },
	{ 1023, "1023B" },
	{ 1024, "1K" },
	{ 1536, "1.5K" },
	{ 4096, "4K" },
	{ 10752, "10.5K" },
	{ (1 << 20) - 1, "1M" },
	{ 1023 * KIB, "1023K" },
	{ 512 << 20, "512M" },
	{ (uint64_t)5 << 28, "1.25G" },
	{ UINT64_C(1234567890), "1.15G" },
	{ (10 << 20) - 1, "10M" },
	{ (100 << 20) - 1, "100M" },
	{ INT64_MAX, "8E" },
	{ UINT64_MAX, "16E" },
};

START_TEST(sizes_format)
{
	char text[SIZE_TEXT_LEN];

	ck_assert_ptr_eq(size_format(formats[_i].bytes, text), text);
	ck_assert_str_eq(text, formats[_i].text);
}
END_TEST

/* What is printed parses again, to within the digits that were dropped. */
START_TEST(sizes_round_trip)
{
	uint64_t bytes = UINT64_C(1) << _i, back = 0;
	char text[SIZE_TEXT_LEN];

	bytes += bytes / 3;
	ck_assert_int_eq(size_parse(size_format(bytes, text), &back), 0);
	ck_assert_msg(back >= bytes - bytes / 100 && back <= bytes + bytes / 100, "%s", text);
}
END_TEST

START_TEST(exact_text_is_read_as_the_same_number)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} row[] = { { 0, "0" },
		    { 512, "512B" },
		    { 512 << 20, "512M" },
		    { (UINT64_C(3) << 30) / 2, "1.5G" },
		    { 12345678, "12345678" },
		    { (UINT64_C(1) << 40) + 1, "1099511627777" } };
	char text[SIZE_EXACT_LEN];
	uint64_t back;

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		ck_assert_str_eq(size_format_exact(row[i].bytes, text), row[i].text);
		ck_assert_int_eq(size_parse(text, &back), 0);
		ck_assert_uint_eq(back, row[i].bytes);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("size");
	TCase *tcase = tcase_create("size");

	suite_add_tcase(suite, tcase);
	tcase_add_test(tcase, exact_text_is_read_as_the_same_number);
	tcase_add_loop_test(tcase, sizes_that_parse, 0, sizeof(good_sizes) / sizeof(good_sizes[0]));
	tcase_add_loop_test(tcase, sizes_that_do_not_parse, 0, sizeof(bad_sizes) / sizeof(bad_sizes[0]));
	tcase_add_loop_test(tcase, sizes_out_of_range, 0, sizeof(huge_sizes) / sizeof(huge_sizes[0]));
	tcase_add_loop_test(tcase, durations_parse, 0, sizeof(durations) / sizeof(durations[0]));
	tcase_add_loop_test(tcase, sizes_format, 0, sizeof(formats) / sizeof(formats[0]));
	tcase_add_loop_test(tcase, sizes_round_trip, 0, 62);
	return check_run(suite);
}
