/* link: @tests/lib/lib_fail.flags */
/* unit/test_fail.c - the helper that fails the Nth call: it counts, fails what was asked for and nothing else, and
 * remembers what was not freed.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib_check.h"
#include "lib_fail.h"

/* Three points: two allocations, one open. */
static int three_points(void)
{
	void *volatile first = malloc(10), *volatile second = calloc(2, 10);
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int r = first && second && fd >= 0 ? 0 : -errno;

	if (fd >= 0)
		close(fd);
	free(second);
	free(first);
	return r;
}

START_TEST(each_call_fails_in_its_turn)
{
	static const struct {
		const char *what;
		int error;
	} wanted[] = { { "malloc", -ENOMEM }, { "calloc", -ENOMEM }, { "open64", -EMFILE } };
	unsigned int descriptors = fail_descriptors();

	for (unsigned int nth = 1; nth <= 4; nth++) {
		int r;
		bool hit;

		fail_arm(FAIL_ANY, nth);
		r = three_points();
		hit = fail_disarm();
		ck_assert_int_eq(hit, nth <= 3);
		ck_assert_int_eq(r, hit ? wanted[nth - 1].error : 0);
		ck_assert_str_eq(fail_what(), hit ? wanted[nth - 1].what : "");
		ck_assert_uint_eq(fail_points(), 3);
		ck_assert_uint_eq(fail_descriptors(), descriptors);
	}
	ck_assert_int_eq(three_points(), 0);
}
END_TEST

START_TEST(a_plan_chooses_by_kind_and_name)
{
	struct fail_plan plan = { .kinds = FAIL_ANY, .nth = 1, .error = ENOSPC, .names = "openat64 calloc" };

	int r[3];

	fail_arm(FAIL_OPEN, 1);
	r[0] = three_points();
	ck_assert(fail_disarm());
	ck_assert_int_eq(r[0], -EMFILE);
	ck_assert_uint_eq(fail_points(), 1);
	fail_arm_plan(&plan);
	r[0] = three_points();
	ck_assert(fail_disarm());
	ck_assert_int_eq(r[0], -ENOSPC);
	ck_assert_str_eq(fail_what(), "calloc");
	ck_assert_uint_eq(fail_points(), 1);
	plan = (struct fail_plan){ .kinds = FAIL_ALLOC, .nth = 2, .count = 2 };
	fail_arm_plan(&plan);
	for (int i = 0; i < 3; i++)
		r[i] = three_points();
	ck_assert(fail_disarm());
	ck_assert_int_eq(r[0], -ENOMEM);
	ck_assert_int_eq(r[1], -ENOMEM);
	ck_assert_int_eq(r[2], 0);
}
END_TEST

static void *in_thread(void *arg)
{
	*(int *)arg = three_points();
	return NULL;
}

static int run_in_thread(void)
{
	pthread_t thread;
	int r = 1;

	if (pthread_create(&thread, NULL, in_thread, &r) != 0)
		return 2;
	pthread_join(thread, NULL);
	return r;
}

START_TEST(other_threads_fail_only_if_asked_for)
{
	struct fail_plan plan = { .kinds = FAIL_ALLOC, .nth = 1, .all_threads = true };

	int r;

	fail_arm(FAIL_ALLOC, 1);
	r = run_in_thread();
	ck_assert(!fail_disarm());
	ck_assert_int_eq(r, 0);
	fail_arm_plan(&plan);
	r = run_in_thread();
	ck_assert(fail_disarm());
	ck_assert_int_eq(r, -ENOMEM);
}
END_TEST

START_TEST(memory_is_remembered)
{
	void *volatile before = malloc(1), *volatile after;

	fail_memory_begin();
	ck_assert_uint_eq(fail_memory_left(0), 0);
	after = malloc(8);
	free(before);
	ck_assert_uint_eq(fail_memory_left(1), 1);
	after = realloc(after, 1000);
	ck_assert_uint_eq(fail_memory_left(1), 1);
	free(after);
	ck_assert_uint_eq(fail_memory_left(0), 0);
	fail_memory_end();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fail");
	TCase *tests = tcase_create("fail");

	tcase_add_test(tests, each_call_fails_in_its_turn);
	tcase_add_test(tests, a_plan_chooses_by_kind_and_name);
	tcase_add_test(tests, other_threads_fail_only_if_asked_for);
	tcase_add_test(tests, memory_is_remembered);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
