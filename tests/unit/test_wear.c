/* What was written in the last 24 hours, and how choosy that makes, by a clock of the test's own. TIERFS_SEED repeats
 * the random one. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/wear.h"
#include "lib_check.h"

#define MINUTE (60 * NS_PER_S)
#define HOUR (60 * MINUTE)
#define START (1000 * HOUR)
#define GIB (UINT64_C(1) << 30)

START_TEST(what_is_old_does_not_count)
{
	struct wear wear = { 0 };
	uint64_t now = START + 59 * MINUTE;

	ck_assert_uint_eq(wear_used(&wear, now), 0);
	ck_assert_uint_eq(wear_next_free_ns(&wear, now), UINT64_MAX);
	wear_add(&wear, 5, now);
	wear_add(&wear, 7, now + 2 * MINUTE); /* in the next hour */
	ck_assert_uint_eq(wear_used(&wear, now + 2 * MINUTE), 12);
	/* The hour of the 5 began at START and ends 24 hours and one later. */
	ck_assert_uint_eq(wear_next_free_ns(&wear, now + 2 * MINUTE), 24 * HOUR - MINUTE);
	ck_assert_uint_eq(wear_used(&wear, START + 25 * HOUR - 1), 12);
	ck_assert_uint_eq(wear_used(&wear, START + 25 * HOUR), 7);
	ck_assert_uint_eq(wear_next_free_ns(&wear, START + 25 * HOUR), HOUR);
	ck_assert_uint_eq(wear_used(&wear, START + 26 * HOUR), 0);
	wear_add(&wear, 9, START + 26 * HOUR);
	ck_assert_uint_eq(wear_used(&wear, START + 5000 * HOUR), 0);
}
END_TEST

START_TEST(a_clock_that_goes_back_gives_nothing_back)
{
	struct wear wear = { 0 };

	wear_add(&wear, 5, START);
	ck_assert_uint_eq(wear_used(&wear, START - 100 * HOUR), 5);
	wear_add(&wear, 6, START - 100 * HOUR);
	ck_assert_uint_eq(wear_used(&wear, START + HOUR), 11);
	wear_add(&wear, UINT64_MAX - 3, START + HOUR);
	ck_assert_uint_eq(wear_used(&wear, START + HOUR), UINT64_MAX);
}
END_TEST

START_TEST(it_goes_on_after_a_restart)
{
	struct wear wear = { 0 }, kept;

	wear_add(&wear, 5, START + 30 * MINUTE);
	wear_add(&wear, 7, START + 90 * MINUTE);
	kept = wear;
	wear_resume(&kept, 30 * MINUTE, 40 * MINUTE); /* of another clock, for 10 minutes nobody looked */
	ck_assert_uint_eq(kept.began_ns, 10 * MINUTE);
	ck_assert_uint_eq(wear_used(&kept, 40 * MINUTE), 12);
	ck_assert_uint_eq(wear_used(&kept, 10 * MINUTE + 24 * HOUR), 7);
	kept = wear;
	wear_resume(&kept, 26 * HOUR, 100 * HOUR); /* off for longer than that */
	ck_assert_uint_eq(wear_used(&kept, 100 * HOUR), 0);
	kept = wear;
	wear_resume(&kept, 24 * HOUR + 10 * MINUTE, 5 * MINUTE); /* the host has just come up */
	ck_assert_uint_eq(wear_used(&kept, 5 * MINUTE), 7);
	ck_assert_uint_eq(wear_next_free_ns(&kept, 5 * MINUTE), 55 * MINUTE);
}
END_TEST

static unsigned int random_seed(void)
{
	const char *text = getenv("TIERFS_SEED");
	unsigned int seed = text ? (unsigned int)strtoul(text, NULL, 0) : (unsigned int)clock_ns();

	printf("TIERFS_SEED=%u\n", seed);
	return seed;
}

/* Never more than the limit in any 24 hours, whoever is refused what is not left; and of the window nothing is lost. */
START_TEST(no_day_has_more)
{
	static uint64_t at[20000], bytes[20000];
	const uint64_t limit = 1000000;
	unsigned int seed = random_seed();
	struct wear wear = { 0 };
	uint64_t now = START;
	size_t count = 0;

	for (size_t i = 0; i < 20000; i++) {
		uint64_t some = (uint64_t)rand_r(&seed) % 2000, sum = 0, old = 0;

		now += (uint64_t)rand_r(&seed) % (20 * MINUTE);
		if (some + wear_used(&wear, now) <= limit) {
			wear_add(&wear, some, now);
			at[count] = now;
			bytes[count++] = some;
		}
		if (i % 50)
			continue;
		for (size_t k = count; k-- > 0 && at[k] + 25 * HOUR > now;) {
			sum += at[k] + 24 * HOUR > now ? bytes[k] : 0;
			old += bytes[k];
		}
		ck_assert_uint_le(sum, limit);
		ck_assert_uint_ge(wear_used(&wear, now), sum);
		ck_assert_uint_le(wear_used(&wear, now), old);
	}
	ck_assert_uint_gt(count, 500);
}
END_TEST

/* Writes so much an hour, in steps of minutes, for so many hours. */
static void write_steadily(struct wear *wear, uint64_t *now, uint64_t an_hour, unsigned int hours)
{
	for (unsigned int i = 0; i < hours * 60; i++, *now += MINUTE)
		wear_add(wear, an_hour / 60, *now);
}

START_TEST(who_lasts_the_day_is_not_choosy)
{
	struct wear wear = { 0 };
	uint64_t now = START, limit = 100 * GIB;

	/* 3.9 GiB an hour is 97.5 in 25 of them: for ever. */
	for (int day = 0; day < 3; day++) {
		write_steadily(&wear, &now, 39 * GIB / 10, 24);
		ck_assert_uint_eq(wear_choosy(&wear, limit, now), 0);
	}
	ck_assert_uint_gt(wear_used(&wear, now), limit * 9 / 10);
	/* Then four times as much. */
	write_steadily(&wear, &now, 16 * GIB, 1);
	ck_assert_uint_eq(wear_choosy(&wear, limit, now), WEAR_CHOOSY_MAX);
}
END_TEST

START_TEST(it_gets_choosier)
{
	struct wear wear = { 0 };
	uint64_t now = START, limit = 100 * GIB;
	unsigned int before = 0, seen = 0;

	write_steadily(&wear, &now, 6 * GIB, 12);
	ck_assert_uint_eq(wear_choosy(&wear, limit, now), 0); /* 72 of 100, although it will not last */
	while (wear_used(&wear, now) < limit) {
		unsigned int choosy = wear_choosy(&wear, limit, now);

		ck_assert_uint_ge(choosy, before);
		seen |= 1U << choosy;
		before = choosy;
		write_steadily(&wear, &now, GIB, 1);
		write_steadily(&wear, &now, 3 * GIB, 1);
		write_steadily(&wear, &now, 6 * GIB, 1);
	}
	ck_assert_uint_eq(wear_choosy(&wear, limit, now), WEAR_CHOOSY_MAX);
	ck_assert_uint_ne(seen & (1U << WEAR_CHOOSY_MAX), 0);
	/* All of it lies behind: as used up as before, but nobody writes. */
	now += 25 * HOUR;
	ck_assert_uint_eq(wear_choosy(&wear, limit, now), 0);
	ck_assert_uint_eq(wear_choosy(&wear, 1, now), 0);
	wear_add(&wear, 1, now);
	ck_assert_uint_eq(wear_choosy(&wear, 1, now), WEAR_CHOOSY_MAX);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("wear");
	TCase *tests = tcase_create("wear");

	tcase_add_test(tests, what_is_old_does_not_count);
	tcase_add_test(tests, a_clock_that_goes_back_gives_nothing_back);
	tcase_add_test(tests, it_goes_on_after_a_restart);
	tcase_add_test(tests, no_day_has_more);
	tcase_add_test(tests, who_lasts_the_day_is_not_choosy);
	tcase_add_test(tests, it_gets_choosier);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
