/* unit/test_thread.c - the kernel keeps the slice that a thread asks for, and leaves its policy and priority alone. */
#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/thread.h"
#include "lib_check.h"

#define NICE 5

/* Slices of ordinary threads came with Linux 6.12. */
static bool has_slices(void)
{
	struct utsname name;
	unsigned int major, minor;

	ck_assert_int_eq(uname(&name), 0);
	ck_assert_int_eq(sscanf(name.release, "%u.%u", &major, &minor), 2);
	return major > 6 || (major == 6 && minor >= 12);
}

static void expect(uint64_t slice_ns)
{
	uint64_t got_ns;

	ck_assert_int_eq(sched_getscheduler(0), SCHED_OTHER);
	ck_assert_int_eq(getpriority(PRIO_PROCESS, (id_t)gettid()), NICE);
	ck_assert_int_eq(thread_slice(&got_ns), 0);
	if (has_slices())
		ck_assert_uint_eq(got_ns, slice_ns);
}

static void *run(void *arg)
{
	(void)arg;
	ck_assert_int_eq(setpriority(PRIO_PROCESS, (id_t)gettid(), NICE), 0);
	ck_assert_int_eq(thread_set_slice(THREAD_SLICE_SHORT_NS), 0);
	expect(THREAD_SLICE_SHORT_NS);
	ck_assert_int_eq(thread_set_slice(THREAD_SLICE_LONG_NS), 0);
	expect(THREAD_SLICE_LONG_NS);
	return NULL;
}

START_TEST(a_slice_is_the_threads_own)
{
	uint64_t before_ns, after_ns;
	pthread_t thread;

	ck_assert_int_eq(thread_slice(&before_ns), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, run, NULL), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_eq(thread_slice(&after_ns), 0);
	ck_assert_uint_eq(after_ns, before_ns);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("thread");
	TCase *tcase = tcase_create("slice");

	tcase_add_test(tcase, a_slice_is_the_threads_own);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
