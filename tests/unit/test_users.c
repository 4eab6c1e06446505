/* unit/test_users.c - what each user holds is bounded, for each by himself; what is given back can be had again, and
 * nothing is left of who has nothing. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "lib_check.h"
#include "map/users.h"

#define CONNECTIONS 3
#define MAPPINGS 5
#define SOMEBODY 1000
#define ANOTHER 1001

static struct users *users;

static void setup(void)
{
	const uint64_t most[] = { [USERS_CONNECTION] = CONNECTIONS, [USERS_MAPPING] = MAPPINGS };

	ck_assert_int_eq(users_new(most, &users), 0);
	ck_assert_uint_eq(users_most(users, USERS_CONNECTION), CONNECTIONS);
	ck_assert_uint_eq(users_most(users, USERS_MAPPING), MAPPINGS);
}

static void teardown(void)
{
	users_free(users);
}

static unsigned int take_all(uid_t uid, enum users_what what, unsigned int times)
{
	unsigned int count = 0;
	int err;

	while (!(err = users_take(users, uid, what, times)))
		count++;
	ck_assert_int_eq(err, -EUSERS);
	return count;
}

static void give(uid_t uid, enum users_what what, unsigned int count)
{
	while (count--)
		users_give(users, uid, what);
}

START_TEST(each_has_his_own)
{
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_CONNECTION, 1), CONNECTIONS);
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_MAPPING, 1), MAPPINGS);
	ck_assert_uint_eq(take_all(ANOTHER, USERS_CONNECTION, 1), CONNECTIONS);
	ck_assert_uint_eq(take_all(ANOTHER, USERS_MAPPING, 1), MAPPINGS);
	give(SOMEBODY, USERS_MAPPING, 2);
	ck_assert_uint_eq(take_all(ANOTHER, USERS_MAPPING, 1), 0);
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_CONNECTION, 1), 0);
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_MAPPING, 1), 2);
	give(SOMEBODY, USERS_MAPPING, MAPPINGS);
	give(SOMEBODY, USERS_CONNECTION, CONNECTIONS);
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_MAPPING, 1), MAPPINGS);
	give(SOMEBODY, USERS_MAPPING, MAPPINGS);
	give(ANOTHER, USERS_MAPPING, MAPPINGS);
	give(ANOTHER, USERS_CONNECTION, CONNECTIONS);
}
END_TEST

START_TEST(who_resumes_has_twice_as_many)
{
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_MAPPING, 1), MAPPINGS);
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_MAPPING, 2), MAPPINGS);
	give(SOMEBODY, USERS_MAPPING, MAPPINGS);
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_MAPPING, 1), 0);
	give(SOMEBODY, USERS_MAPPING, MAPPINGS);
}
END_TEST

START_TEST(what_was_left_counts_and_is_not_refused)
{
	for (int i = 0; i < 4 * MAPPINGS; i++)
		ck_assert_int_eq(users_take(users, SOMEBODY, USERS_MAPPING, 0), 0);
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_MAPPING, 2), 0);
	give(SOMEBODY, USERS_MAPPING, 4 * MAPPINGS - 1);
	ck_assert_uint_eq(take_all(SOMEBODY, USERS_MAPPING, 1), MAPPINGS - 1);
	give(SOMEBODY, USERS_MAPPING, MAPPINGS);
}
END_TEST

START_TEST(root_has_no_bound)
{
	for (int i = 0; i < 4 * MAPPINGS; i++)
		ck_assert_int_eq(users_take(users, 0, USERS_MAPPING, 1), 0);
	give(0, USERS_MAPPING, 4 * MAPPINGS);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("users");
	TCase *tests = tcase_create("users");

	suite_add_tcase(suite, tests);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, each_has_his_own);
	tcase_add_test(tests, who_resumes_has_twice_as_many);
	tcase_add_test(tests, what_was_left_counts_and_is_not_refused);
	tcase_add_test(tests, root_has_no_bound);
	return check_run(suite);
}
