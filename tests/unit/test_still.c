/* unit/test_still.c - who stands still: what it uses is as it was for STILL_NS, and nothing else says so. The processes
 * are real ones that are stopped, or work. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib_check.h"
#include "map/still.h"

#define BEGIN_NS (7 * NS_PER_S)

START_TEST(who_uses_nothing_for_long_stands_still)
{
	struct still still = { 0 };

	ck_assert(!still_ask(&still, 100, BEGIN_NS));
	ck_assert(!still_ask(&still, 100, BEGIN_NS + STILL_NS - 1));
	ck_assert(!still_holds(&still, 100));
	ck_assert(!still_ask(&still, 100, BEGIN_NS));
	ck_assert(!still_ask(&still, 100, BEGIN_NS + STILL_NS - 1));
	ck_assert(still_ask(&still, 100, BEGIN_NS + STILL_NS));
	ck_assert(still_holds(&still, 100));
	ck_assert(still_holds(&still, 100));
}
END_TEST

START_TEST(who_moves_begins_anew)
{
	struct still still = { 0 };

	still_ask(&still, 100, BEGIN_NS);
	ck_assert(still_ask(&still, 100, BEGIN_NS + STILL_NS));
	ck_assert(!still_holds(&still, 101));
	ck_assert(!still_holds(&still, 101));
	ck_assert(!still_ask(&still, 101, BEGIN_NS + 2 * STILL_NS));
	ck_assert(!still_ask(&still, 102, BEGIN_NS + 3 * STILL_NS));
	ck_assert(!still_ask(&still, 102, BEGIN_NS + 4 * STILL_NS - 1));
	ck_assert(still_ask(&still, 102, BEGIN_NS + 4 * STILL_NS));
}
END_TEST

START_TEST(who_answers_does_not)
{
	struct still still = { 0 };

	still_ask(&still, 100, BEGIN_NS);
	still_end(&still);
	ck_assert(!still_ask(&still, 100, BEGIN_NS + STILL_NS));
	ck_assert(still_ask(&still, 100, BEGIN_NS + 2 * STILL_NS));
	still_end(&still);
	ck_assert(!still_holds(&still, 100));
}
END_TEST

START_TEST(who_cannot_be_seen_does_not)
{
	struct still still = { 0 };

	ck_assert_uint_eq(still_ticks(0), 0);
	still_ask(&still, 0, BEGIN_NS);
	still_ask(&still, 0, BEGIN_NS + STILL_NS);
	ck_assert(!still_ask(&still, 0, BEGIN_NS + 2 * STILL_NS));
	ck_assert(!still_ask(&still, 100, BEGIN_NS + 2 * STILL_NS));
	ck_assert(still_ask(&still, 100, BEGIN_NS + 3 * STILL_NS));
	ck_assert(!still_holds(&still, 0));
}
END_TEST

/* With a name that would mislead who counts fields. */
START_TEST(the_ticks_are_those_of_the_process)
{
	volatile uint64_t work = 0;
	pid_t child = fork();
	uint64_t before;
	int status;

	ck_assert_int_ge(child, 0);
	if (!child) {
		pthread_setname_np(pthread_self(), ") 1 (2) 3 4");
		for (;;)
			work++;
	}
	while (!(before = still_ticks(child)))
		usleep(1000);
	while (still_ticks(child) == before)
		usleep(1000);
	kill(child, SIGSTOP);
	ck_assert_int_eq(waitpid(child, &status, WUNTRACED), child);
	ck_assert(WIFSTOPPED(status));
	before = still_ticks(child);
	usleep(200000);
	ck_assert_uint_eq(still_ticks(child), before);
	kill(child, SIGCONT);
	while (still_ticks(child) == before)
		usleep(1000);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	ck_assert_uint_eq(still_ticks(child), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("still");
	TCase *tests = tcase_create("still");

	suite_add_tcase(suite, tests);
	tcase_add_test(tests, who_uses_nothing_for_long_stands_still);
	tcase_add_test(tests, who_moves_begins_anew);
	tcase_add_test(tests, who_answers_does_not);
	tcase_add_test(tests, who_cannot_be_seen_does_not);
	tcase_add_test(tests, the_ticks_are_those_of_the_process);
	return check_run(suite);
}
