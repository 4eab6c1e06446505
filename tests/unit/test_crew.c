/* unit/test_crew.c - every piece is done once, whoever calls and however many. */
#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/crew.h"
#include "lib_check.h"

#define PIECES_MAX 100

struct task {
	struct crew *crew;
	_Atomic unsigned int did[PIECES_MAX];
	_Atomic unsigned int under_way;
	unsigned int yields;
};

static void do_piece(void *arg, unsigned int piece)
{
	struct task *task = arg;

	ck_assert_uint_lt(piece, PIECES_MAX);
	atomic_fetch_add(&task->under_way, 1);
	for (unsigned int i = 0; i < task->yields; i++)
		sched_yield();
	atomic_fetch_add(&task->did[piece], 1);
	atomic_fetch_sub(&task->under_way, 1);
}

static void run_and_check(struct task *task, unsigned int pieces)
{
	for (unsigned int i = 0; i < PIECES_MAX; i++)
		atomic_store(&task->did[i], 0);
	crew_run(task->crew, pieces, do_piece, task);
	ck_assert_uint_eq(atomic_load(&task->under_way), 0);
	for (unsigned int i = 0; i < PIECES_MAX; i++)
		ck_assert_uint_eq(atomic_load(&task->did[i]), i < pieces);
}

START_TEST(the_caller_alone)
{
	struct task task = { 0 };

	for (unsigned int pieces = 0; pieces <= PIECES_MAX; pieces += 10)
		run_and_check(&task, pieces);
	ck_assert(!crew_spare(NULL));
	crew_free(NULL);
}
END_TEST

START_TEST(every_piece_once)
{
	struct task task = { 0 };

	ck_assert_int_eq(crew_new(&task.crew), 0);
	for (unsigned int i = 0; i < 2000; i++) {
		task.yields = i % 5;
		run_and_check(&task, i % (PIECES_MAX + 1));
	}
	crew_free(task.crew);
}
END_TEST

static void *many_runs(void *arg)
{
	struct task task = { .crew = arg };

	for (unsigned int i = 0; i < 500; i++) {
		task.yields = i % 3;
		run_and_check(&task, i % 9);
	}
	return NULL;
}

START_TEST(many_callers)
{
	struct crew *crew;
	pthread_t thread[6];

	ck_assert_int_eq(crew_new(&crew), 0);
	for (size_t i = 0; i < 6; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, many_runs, crew), 0);
	for (size_t i = 0; i < 6; i++)
		ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
	crew_free(crew);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("crew");
	TCase *tests = tcase_create("crew");

	tcase_set_timeout(tests, 60);
	tcase_add_test(tests, the_caller_alone);
	tcase_add_test(tests, every_piece_once);
	tcase_add_test(tests, many_callers);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
