/* Who opens a file: what its memory map says, and that one whose map cannot be read keeps nobody else from being asked.
 * Processes are directories of the test's own; a map that cannot be read is a pipe that nobody writes to. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "base/clock.h"
#include "front/opener.h"
#include "lib_check.h"

#define STUCK 7
#define MANY 8U /* twice as many as one user may have */
#define USER 1000U

static struct scratch scratch;
static struct opener *opener;

static void path_of(int tid, char path[static 512])
{
	snprintf(path, 512, "%s/%d/maps", scratch.path, tid);
}

static void make_process(int tid, const char *maps)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%d", scratch.path, tid);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	path_of(tid, path);
	if (!maps) {
		ck_assert_int_eq(mkfifo(path, 0600), 0);
		return;
	}
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fputs(maps, file);
	fclose(file);
}

static void setup(void)
{
	scratch_new(&scratch, "opener");
	ck_assert_int_eq(opener_new(scratch.path, &opener), 0);
	make_process(1, "7f00-7f01 r-xp 00000000 08:01 5 /lib/libtierfs.so.0\n");
	make_process(2, "7f00-7f01 r-xp 00000000 08:01 5 /lib/libc.so.6\n");
	make_process(STUCK, NULL);
}

static void teardown(void)
{
	opener_free(opener);
	scratch_free(&scratch);
}

START_TEST(the_map_says_it)
{
	bool announced;

	ck_assert_int_eq(opener_announced(opener, 1, USER, &announced), 0);
	ck_assert(announced);
	ck_assert_int_eq(opener_announced(opener, 2, USER, &announced), 0);
	ck_assert(!announced);
	ck_assert_int_eq(opener_announced(opener, 99, USER, &announced), 0);
	ck_assert(!announced);
}
END_TEST

struct asked {
	pthread_t thread;
	uid_t uid;
	_Atomic bool done;
};

static void *ask(void *arg)
{
	struct asked *asked = arg;
	bool announced;

	opener_announced(opener, STUCK, asked->uid, &announced);
	asked->done = true;
	return NULL;
}

static void ask_many(struct asked *asked, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		asked[i].uid = USER + i / MANY;
		ck_assert_int_eq(pthread_create(&asked[i].thread, NULL, ask, &asked[i]), 0);
	}
}

/* Returns when there is no place for that user any more. */
static void ask_until_busy(uid_t uid)
{
	bool announced;

	while (opener_announced(opener, 2, uid, &announced) != -EBUSY)
		clock_sleep(NS_PER_MS);
}

/* Who waits for a writer of the pipe gets one, and the end. */
static void let_go(struct asked *asked, unsigned int count)
{
	char path[512];
	int pipe_fd;

	path_of(STUCK, path);
	pipe_fd = open(path, O_PATH | O_CLOEXEC);
	ck_assert_int_ge(pipe_fd, 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", pipe_fd);
	for (unsigned int i = 0; i < count; i++) {
		while (!asked[i].done) {
			close(open(path, O_RDWR | O_CLOEXEC));
			clock_sleep(NS_PER_MS);
		}
		pthread_join(asked[i].thread, NULL);
	}
	close(pipe_fd);
}

static void check_served(uid_t uid)
{
	bool announced;

	ck_assert_int_eq(opener_announced(opener, 1, uid, &announced), 0);
	ck_assert(announced);
}

START_TEST(who_holds_its_map_takes_the_places_of_its_user_alone)
{
	struct asked asked[MANY] = { 0 };

	ask_many(asked, MANY);
	ask_until_busy(USER);
	check_served(USER + 1);
	let_go(asked, MANY);
	check_served(USER);
}
END_TEST

START_TEST(users_together_leave_root_a_place)
{
	struct asked asked[4 * MANY] = { 0 };

	ask_many(asked, 4 * MANY);
	ask_until_busy(USER + 9);
	check_served(0);
	let_go(asked, 4 * MANY);
	check_served(USER + 9);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("opener");
	TCase *tests = tcase_create("opener");

	tcase_set_timeout(tests, 60);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, the_map_says_it);
	tcase_add_test(tests, who_holds_its_map_takes_the_places_of_its_user_alone);
	tcase_add_test(tests, users_together_leave_root_a_place);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
