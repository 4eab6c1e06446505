/* unit/test_sequence.c - which cold faults follow one another, and what is read ahead of them. */
#include <string.h>

#include "engine/sequence.h"
#include "lib_check.h"

#define MOST 64U
#define FILE_BLOCKS 4096U

static struct sequences sequences;
static bool here[FILE_BLOCKS]; /* resident */
static unsigned int faults, brought;

static void setup(void)
{
	memset(&sequences, 0, sizeof(sequences));
	memset(here, 0, sizeof(here));
	faults = brought = 0;
}

/* A touch, with read-ahead that is done at once, unless there is no room for it. */
static void touch(uint64_t block, bool room)
{
	struct sequence_plan plan;

	if (here[block])
		return;
	faults++;
	here[block] = true;
	if (!sequences_touch(&sequences, block, MOST, &plan))
		return;
	ck_assert_uint_ge(plan.first, block + 1);
	ck_assert_uint_le(plan.count, MOST);
	for (uint64_t i = 0; room && i < plan.count && plan.first + i < FILE_BLOCKS; i++) {
		if (plan.first + i == plan.mark)
			continue;
		brought += !here[plan.first + i];
		here[plan.first + i] = true;
	}
}

START_TEST(random_touches_bring_nothing)
{
	for (uint64_t i = 0; i < 200; i++)
		touch(i * 37 % 3001, true);
	ck_assert_uint_eq(brought, 0);
}
END_TEST

START_TEST(in_order)
{
	for (uint64_t block = 0; block < FILE_BLOCKS; block++)
		touch(block, true);
	/* One fault a window, once the window has its size: the mark. */
	ck_assert_uint_le(faults, FILE_BLOCKS / MOST + 16);
	/* The second half of a window is there while the next one is asked for. */
	ck_assert_uint_ge(brought, FILE_BLOCKS - faults - MOST);
}
END_TEST

START_TEST(from_the_mark_on_the_next_window_is_asked_for)
{
	struct sequence_plan plan = { 0 };
	uint64_t end;

	touch(0, true);
	for (uint64_t block = 1; plan.mark == SEQUENCE_NO_MARK || !plan.count; block = plan.first + plan.count)
		ck_assert(sequences_touch(&sequences, block, MOST, &plan));
	end = plan.first + plan.count;
	ck_assert_uint_eq(plan.mark, plan.first + plan.count / 2);
	ck_assert(sequences_touch(&sequences, plan.mark, MOST, &plan));
	ck_assert_uint_eq(plan.first, end);
}
END_TEST

START_TEST(several_at_a_time)
{
	for (uint64_t i = 0; i < 1000; i++)
		for (uint64_t reader = 0; reader < SEQUENCES; reader++)
			touch(reader * 1024 + i, true);
	ck_assert_uint_ge(brought, SEQUENCES * 1000 * 9 / 10);
}
END_TEST

/* What was asked for and did not come is not asked for again at each touch, and the sequence goes on behind it. */
START_TEST(without_room)
{
	for (uint64_t block = 0; block < 200; block++)
		touch(block, false);
	ck_assert_uint_eq(brought, 0);
	for (uint64_t block = 200; block < 1200; block++)
		touch(block, true);
	ck_assert_uint_ge(brought, 800);
}
END_TEST

START_TEST(nothing_may_be_brought)
{
	struct sequence_plan plan;

	ck_assert(!sequences_touch(&sequences, 5, 0, &plan));
	for (uint64_t block = 6; block < 50; block++)
		ck_assert(!sequences_touch(&sequences, block, 0, &plan));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sequence");
	TCase *tests = tcase_create("sequence");

	tcase_add_checked_fixture(tests, setup, NULL);
	tcase_add_test(tests, random_touches_bring_nothing);
	tcase_add_test(tests, in_order);
	tcase_add_test(tests, from_the_mark_on_the_next_window_is_asked_for);
	tcase_add_test(tests, several_at_a_time);
	tcase_add_test(tests, without_room);
	tcase_add_test(tests, nothing_may_be_brought);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
