/* Ranked locks: exclusion, conditions, and that debug builds catch a wrong order. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/lock.h"
#include "lib_check.h"

static struct lock low, middle, high;
static pthread_cond_t cond;

static void setup(void)
{
	lock_init(&low, LOCK_RANK_NAMESPACE);
	lock_init(&middle, LOCK_RANK_FILE);
	lock_init(&high, LOCK_RANK_STATS);
	lock_cond_init(&cond);
}

static void teardown(void)
{
	pthread_cond_destroy(&cond);
	lock_fini(&low);
	lock_fini(&middle);
	lock_fini(&high);
}

START_TEST(in_order)
{
	for (int i = 0; i < 100; i++) {
		lock_get(&low);
		lock_get(&middle);
		lock_get(&high);
		lock_put(&high);
		lock_put(&middle);
		lock_put(&low);
	}
}
END_TEST

START_TEST(released_in_any_order)
{
	lock_get(&low);
	lock_get(&middle);
	lock_put(&low);
	lock_get(&high);
	lock_put(&middle);
	lock_put(&high);
	lock_get(&low);
	lock_put(&low);
}
END_TEST

static int scoped(struct lock *lock, int value)
{
	LOCK_SCOPE(lock);

	if (value > 1)
		return value;
	return -value;
}

START_TEST(scope_releases)
{
	ck_assert_int_eq(scoped(&middle, 2), 2);
	ck_assert_int_eq(scoped(&middle, 1), -1);
	lock_get(&middle);
	lock_put(&middle);
}
END_TEST

static uint64_t counter;

static void *count(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20000; i++) {
		LOCK_SCOPE(&middle);
		counter++;
	}
	return NULL;
}

START_TEST(excludes)
{
	pthread_t threads[4];

	counter = 0;
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, count, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(counter, 80000);
}
END_TEST

START_TEST(wait_until_times_out)
{
	uint64_t start_ns = clock_ns();

	lock_get(&middle);
	ck_assert_int_eq(lock_wait_until(&middle, &cond, start_ns + 20 * NS_PER_MS), -ETIMEDOUT);
	ck_assert_uint_ge(clock_ns() - start_ns, 20 * NS_PER_MS);
	/* A deadline that has passed, and the lock is held afterwards. */
	ck_assert_int_eq(lock_wait_until(&middle, &cond, 0), -ETIMEDOUT);
	lock_put(&middle);
}
END_TEST

static bool ready;

static void *set_ready(void *arg)
{
	(void)arg;
	lock_get(&middle);
	ready = true;
	pthread_cond_broadcast(&cond);
	lock_put(&middle);
	return NULL;
}

START_TEST(wait_wakes)
{
	pthread_t thread;

	for (int timed = 0; timed < 2; timed++) {
		ready = false;
		lock_get(&low);
		lock_get(&middle);
		ck_assert_int_eq(pthread_create(&thread, NULL, set_ready, NULL), 0);
		while (!ready) {
			if (timed)
				ck_assert_int_eq(lock_wait_until(&middle, &cond, clock_ns() + 10 * NS_PER_S), 0);
			else
				lock_wait(&middle, &cond);
		}
		lock_put(&middle);
		lock_put(&low);
		pthread_join(thread, NULL);
	}
}
END_TEST

#ifdef TIERFS_DEBUG

static void quiet(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(null, STDERR_FILENO);
}

START_TEST(wrong_order_aborts)
{
	quiet();
	lock_get(&middle);
	lock_get(&low);
}
END_TEST

START_TEST(equal_rank_aborts)
{
	struct lock other;

	quiet();
	lock_init(&other, LOCK_RANK_FILE);
	lock_get(&middle);
	lock_get(&other);
}
END_TEST

START_TEST(twice_aborts)
{
	quiet();
	lock_get(&middle);
	lock_get(&middle);
}
END_TEST

START_TEST(release_of_a_free_lock_aborts)
{
	quiet();
	lock_put(&middle);
}
END_TEST

START_TEST(wait_below_another_lock_aborts)
{
	quiet();
	lock_get(&middle);
	lock_get(&high);
	lock_wait_until(&middle, &cond, 0);
}
END_TEST

static void *take_low(void *arg)
{
	(void)arg;
	lock_get(&low);
	lock_put(&low);
	return NULL;
}

/* The order is a thread's own. */
START_TEST(other_threads_are_free)
{
	pthread_t thread;

	lock_get(&middle);
	ck_assert_int_eq(pthread_create(&thread, NULL, take_low, NULL), 0);
	pthread_join(thread, NULL);
	lock_put(&middle);
}
END_TEST

static void add_debug_tests(TCase *tcase)
{
	tcase_add_test_raise_signal(tcase, wrong_order_aborts, SIGABRT);
	tcase_add_test_raise_signal(tcase, equal_rank_aborts, SIGABRT);
	tcase_add_test_raise_signal(tcase, twice_aborts, SIGABRT);
	tcase_add_test_raise_signal(tcase, release_of_a_free_lock_aborts, SIGABRT);
	tcase_add_test_raise_signal(tcase, wait_below_another_lock_aborts, SIGABRT);
	tcase_add_test(tcase, other_threads_are_free);
}

#else

static void add_debug_tests(TCase *tcase)
{
	(void)tcase;
}

#endif

int main(void)
{
	Suite *suite = suite_create("lock");
	TCase *tcase = tcase_create("lock");

	suite_add_tcase(suite, tcase);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, in_order);
	tcase_add_test(tcase, released_in_any_order);
	tcase_add_test(tcase, scope_releases);
	tcase_add_test(tcase, excludes);
	tcase_add_test(tcase, wait_until_times_out);
	tcase_add_test(tcase, wait_wakes);
	add_debug_tests(tcase);
	return check_run(suite);
}
