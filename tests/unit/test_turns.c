/* unit/test_turns.c - whose faults go next: by weight, by unit however many processes it has, and urgent ones first
 * within a unit and nowhere else. Nothing runs: the order alone is looked at. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "lib_check.h"
#include "map/turns.h"

#define WORKERS 6U /* of one unit at most */
#define MAPPINGS 32

static struct turns turns;
static struct turn turn[MAPPINGS];
static struct turn_owner owner[MAPPINGS];
static size_t joined;

static void setup(void)
{
	joined = 0;
	turns_init(&turns, WORKERS);
}

static void teardown(void)
{
	for (size_t i = 0; i < joined; i++)
		turns_leave(&turns, &turn[i]);
	ck_assert_ptr_null(turns.all);
	ck_assert(TAILQ_EMPTY(&turns.waiting));
}

/* Returns its number. tenant 0: process counts. */
static size_t join(uint64_t tenant, const void *process, uint32_t weight)
{
	owner[joined] = (struct turn_owner){ .tenant = tenant, .process = process, .weight = weight };
	ck_assert_int_eq(turns_join(&turns, &turn[joined], &owner[joined]), 0);
	return joined++;
}

static void wait_in(size_t at, unsigned int set, bool urgent)
{
	turns_wait(&turns, &turn[at], &owner[at], set, urgent);
}

static size_t next(unsigned int set, struct turn_unit **unit)
{
	struct turn *got = turns_next(&turns, set, unit);

	ck_assert_ptr_nonnull(got);
	return (size_t)(got - turn);
}

/* One worker serves all, who never run out of events. served[] is by tenant. */
static void serve(unsigned int rounds, unsigned int events, unsigned int served[static 4])
{
	struct turn_unit *unit;

	memset(served, 0, 4 * sizeof(*served));
	for (unsigned int i = 0; i < rounds; i++) {
		size_t at = next(0, &unit);

		served[owner[at].tenant] += events;
		turns_done(&turns, unit, events);
		wait_in(at, 0, false);
	}
}

START_TEST(weights_decide_turns)
{
	unsigned int served[4];

	wait_in(join(1, "a", 100), 0, false);
	wait_in(join(2, "b", 300), 0, false);
	wait_in(join(3, "c", 100), 0, false);
	serve(500, 1, served);
	ck_assert_uint_ge(served[2], 299);
	ck_assert_uint_le(served[2], 301);
	ck_assert_uint_ge(served[1], 99);
	ck_assert_uint_ge(served[3], 99);
	/* It is events that are weighed, not visits. */
	serve(500, 16, served);
	ck_assert_uint_ge(served[2], 16 * 297);
	ck_assert_uint_le(served[2], 16 * 303);
}
END_TEST

START_TEST(more_processes_of_a_tenant_get_no_more)
{
	static const char processes[20];
	unsigned int served[4];
	struct turn_unit *unit[WORKERS], *other;

	for (size_t i = 0; i < 20; i++)
		wait_in(join(1, &processes[i], 100), 0, false);
	wait_in(join(2, "one", 100), 0, false);
	serve(200, 4, served);
	ck_assert_uint_ge(served[1], 396);
	ck_assert_uint_le(served[1], 404);
	/* Nor more workers at once: the other one finds one. */
	turns_leave(&turns, &turn[--joined]);
	for (size_t i = 0; i < WORKERS; i++)
		next(0, &unit[i]);
	ck_assert(!turns_pending(&turns, 0));
	ck_assert_ptr_null(turns_next(&turns, 0, &other));
	wait_in(join(2, "one", 100), 0, false);
	ck_assert_uint_eq(next(0, &other), 20);
	turns_done(&turns, other, 1);
	turns_done(&turns, unit[0], 1);
	ck_assert(turns_pending(&turns, 0));
	for (size_t i = 1; i < WORKERS; i++)
		turns_done(&turns, unit[i], 1);
}
END_TEST

START_TEST(without_tenants_processes_are_units)
{
	static const char processes[2];
	struct turn_unit *unit[2 * WORKERS];
	size_t got[2] = { 0 };

	for (size_t i = 0; i < 2 * WORKERS; i++)
		wait_in(join(0, &processes[i % 2], 100), 0, false);
	for (size_t i = 0; i < 2 * WORKERS; i++)
		got[next(0, &unit[i]) % 2]++;
	ck_assert_uint_eq(got[0], WORKERS);
	ck_assert_uint_eq(got[1], WORKERS);
	for (size_t i = 0; i < 2 * WORKERS; i++)
		turns_done(&turns, unit[i], 1);
}
END_TEST

START_TEST(urgent_ones_go_first_within_their_unit)
{
	struct turn_unit *unit;
	size_t i;

	/* The tenant of weight 1 has had its part, the others have not. */
	wait_in(join(1, "a", 1), 0, false);
	ck_assert_uint_eq(next(0, &unit), 0);
	turns_done(&turns, unit, 1);
	for (i = 1; i < 4; i++)
		wait_in(join(2, "b", 100), 0, false);
	wait_in(0, 0, true);
	ck_assert_uint_eq(next(0, &unit), 1);
	turns_done(&turns, unit, 1);
	wait_in(3, 0, true); /* it waited already */
	ck_assert_uint_eq(next(0, &unit), 3);
	turns_done(&turns, unit, 1);
	ck_assert_uint_eq(next(0, &unit), 2);
	turns_done(&turns, unit, 1);
	ck_assert_uint_eq(next(0, &unit), 0);
	turns_done(&turns, unit, 1);
	ck_assert(!turns_pending(&turns, 0));
}
END_TEST

START_TEST(nobody_gains_by_having_been_away)
{
	unsigned int served[4];

	wait_in(join(1, "a", 100), 0, false);
	serve(1000, 1, served);
	wait_in(join(2, "b", 100), 0, false);
	serve(100, 1, served);
	ck_assert_uint_ge(served[1], 49);
	ck_assert_uint_ge(served[2], 49);
}
END_TEST

START_TEST(each_set_takes_it_once)
{
	struct turn_unit *unit;

	wait_in(join(0, "a", 100), 0, false);
	wait_in(0, 2, false);
	wait_in(0, 2, false);
	ck_assert(!turns_pending(&turns, 1));
	ck_assert_uint_eq(next(2, &unit), 0);
	turns_done(&turns, unit, 1);
	ck_assert(!turns_pending(&turns, 2));
	ck_assert(turns_pending(&turns, 0));
}
END_TEST

START_TEST(a_share_that_is_set_counts_from_the_next_turn_on)
{
	struct turn_unit *unit[WORKERS], *other;

	for (size_t i = 0; i < WORKERS; i++)
		wait_in(join(0, "a", 100), 0, false);
	for (size_t i = 0; i < WORKERS; i++)
		next(0, &unit[i]);
	wait_in(0, 0, false);
	ck_assert_ptr_null(turns_next(&turns, 0, &other));
	turns_wait(&turns, &turn[1], &(struct turn_owner){ .tenant = 7, .weight = 100 }, 0, false);
	ck_assert_uint_eq(next(0, &other), 1);
	turns_done(&turns, other, 1);
	for (size_t i = 0; i < WORKERS; i++)
		turns_done(&turns, unit[i], 1);
}
END_TEST

START_TEST(who_has_left_waits_no_more)
{
	struct turn_unit *unit;

	wait_in(join(0, "a", 100), 0, false);
	wait_in(join(0, "b", 100), 0, false);
	ck_assert_uint_eq(next(0, &unit), 0);
	joined = 0;
	turns_leave(&turns, &turn[0]);
	turns_leave(&turns, &turn[1]);
	wait_in(0, 0, true);
	ck_assert(!turns_pending(&turns, 0));
	turns_done(&turns, unit, 1); /* its worker comes back later */
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("turns");
	TCase *tests = tcase_create("turns");

	suite_add_tcase(suite, tests);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, weights_decide_turns);
	tcase_add_test(tests, more_processes_of_a_tenant_get_no_more);
	tcase_add_test(tests, without_tenants_processes_are_units);
	tcase_add_test(tests, urgent_ones_go_first_within_their_unit);
	tcase_add_test(tests, nobody_gains_by_having_been_away);
	tcase_add_test(tests, each_set_takes_it_once);
	tcase_add_test(tests, a_share_that_is_set_counts_from_the_next_turn_on);
	tcase_add_test(tests, who_has_left_waits_no_more);
	return check_run(suite);
}
