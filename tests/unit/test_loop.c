/* The event loop, on a real ring. Exits with 77 where io_uring is not allowed. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "lib_check.h"

static struct loop *loop;
static int pair[2];

static void setup(void)
{
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
}

static void teardown(void)
{
	loop_free(loop);
	close(pair[0]);
	close(pair[1]);
}

struct seen {
	struct loop_watch *watch, *other;
	unsigned int calls, limit;
	uint32_t events;
	bool drain, unwatch, close_fd;
};

static void send_byte(int fd)
{
	ck_assert_int_eq(write(fd, "x", 1), 1);
}

static void send_another(void *arg)
{
	(void)arg;
	send_byte(pair[1]);
}

static unsigned int all_calls, all_limit; /* of every watch together; 0: no limit */

static void on_fd(void *arg, int fd, uint32_t events)
{
	struct seen *seen = arg;
	char buf[16];

	seen->calls++;
	seen->events = events;
	if (seen->drain) {
		ck_assert_int_eq(read(fd, buf, sizeof(buf)), 1);
		ck_assert_int_eq(loop_after(loop, NS_PER_MS, send_another, NULL), 0);
	}
	if (seen->unwatch) {
		loop_unwatch(seen->watch);
		loop_unwatch(seen->other);
		if (seen->close_fd)
			close(fd);
	}
	if (seen->calls >= seen->limit || ++all_calls == all_limit)
		loop_stop(loop);
}

static void stop(void *arg)
{
	(void)arg;
	loop_stop(loop);
}

START_TEST(free_takes_null)
{
	loop_free(NULL);
	loop_unwatch(NULL);
}
END_TEST

START_TEST(level_triggered)
{
	struct seen seen = { .limit = 5 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	send_byte(pair[1]);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.calls, 5);
	ck_assert_uint_eq(seen.events & POLLIN, POLLIN);
	loop_unwatch(seen.watch);
}
END_TEST

START_TEST(called_again_for_new_data)
{
	struct seen seen = { .limit = 3, .drain = true };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	send_byte(pair[1]);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.calls, 3);
}
END_TEST

START_TEST(hangup_is_reported)
{
	struct seen seen = { .limit = 1 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	close(pair[1]);
	pair[1] = -1;
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.events & POLLHUP, POLLHUP);
}
END_TEST

START_TEST(pollout)
{
	struct seen seen = { .limit = 1 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLOUT, on_fd, &seen, &seen.watch), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.events, POLLOUT);
}
END_TEST

START_TEST(unwatch_in_its_own_callback)
{
	struct seen seen = { .limit = 1, .unwatch = true, .close_fd = true };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	send_byte(pair[1]);
	ck_assert_int_eq(loop_run(loop), 0);
	pair[0] = -1;
	ck_assert_int_eq(loop_after(loop, 20 * NS_PER_MS, stop, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.calls, 1);
}
END_TEST

/* Both are ready, so both completions are there when the first callback runs: the other must not be called. */
START_TEST(unwatch_with_a_completion_pending)
{
	struct seen a = { .limit = 1, .unwatch = true }, b = { .limit = 1, .unwatch = true };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &a, &a.watch), 0);
	ck_assert_int_eq(loop_watch(loop, pair[1], POLLIN, on_fd, &b, &b.watch), 0);
	a.other = b.watch;
	b.other = a.watch;
	send_byte(pair[0]);
	send_byte(pair[1]);
	ck_assert_int_eq(loop_after(loop, 20 * NS_PER_MS, stop, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(a.calls + b.calls, 1);
}
END_TEST

static void unwatch_now(void *arg)
{
	loop_unwatch(((struct seen *)arg)->watch);
	send_byte(pair[1]);
}

START_TEST(unwatch_while_armed)
{
	struct seen seen = { .limit = 1 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	ck_assert_int_eq(loop_after(loop, 5 * NS_PER_MS, unwatch_now, &seen), 0);
	ck_assert_int_eq(loop_after(loop, 30 * NS_PER_MS, stop, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.calls, 0);
}
END_TEST

START_TEST(unwatch_before_the_loop_runs)
{
	struct seen seen = { .limit = 1 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	loop_unwatch(seen.watch);
	send_byte(pair[1]);
	ck_assert_int_eq(loop_after(loop, 5 * NS_PER_MS, stop, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.calls, 0);
}
END_TEST

static void on_fd_pause(void *arg, int fd, uint32_t events)
{
	struct seen *seen = arg;

	on_fd(arg, fd, events);
	loop_pause(seen->watch, true);
}

static void go_on(void *arg)
{
	struct seen *seen = arg;

	ck_assert_uint_eq(seen->calls, 1);
	loop_pause(seen->watch, false);
}

START_TEST(paused_in_its_own_callback)
{
	struct seen seen = { .limit = 2 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd_pause, &seen, &seen.watch), 0);
	send_byte(pair[1]);
	ck_assert_int_eq(loop_after(loop, 20 * NS_PER_MS, go_on, &seen), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.calls, 2);
	/* It goes while it is paused. */
	loop_unwatch(seen.watch);
}
END_TEST

static void close_and_unwatch(void *arg)
{
	loop_unwatch(((struct seen *)arg)->watch);
	close(pair[0]);
	pair[0] = -1;
}

static void expect_eof(void *arg)
{
	ssize_t r;
	char c;

	(void)arg;
	r = read(pair[1], &c, 1);
	if (!r)
		loop_stop(loop);
	else
		ck_assert_int_eq(loop_after(loop, NS_PER_MS, expect_eof, NULL), 0);
}

/* The kernel's poll holds the file: the peer must see the end soon after unwatch and close all the same. */
START_TEST(close_after_unwatch_reaches_the_peer)
{
	struct seen seen = { .limit = 1 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	ck_assert_int_eq(loop_after(loop, 2 * NS_PER_MS, close_and_unwatch, &seen), 0);
	ck_assert_int_eq(loop_after(loop, 3 * NS_PER_MS, expect_eof, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.calls, 0);
}
END_TEST

START_TEST(bad_descriptor)
{
	struct loop_watch *watch = NULL;
	struct seen seen = { .limit = 1 };

	ck_assert_int_eq(loop_watch(loop, -1, POLLIN, on_fd, &seen, &watch), -EBADF);
	ck_assert_int_eq(loop_watch(loop, 1000000, POLLIN, on_fd, &seen, &watch), -EBADF);
	ck_assert_ptr_null(watch);
}
END_TEST

/* A mistake of the caller must not make the loop spin. */
START_TEST(descriptor_closed_under_the_watch)
{
	struct seen seen = { .limit = 100 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	close(pair[0]);
	pair[0] = -1;
	ck_assert_int_eq(loop_after(loop, 20 * NS_PER_MS, stop, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(seen.calls, 1);
	ck_assert_uint_eq(seen.events & POLLNVAL, POLLNVAL);
	loop_unwatch(seen.watch);
}
END_TEST

#define MANY 700 /* more than the ring has entries */

START_TEST(more_watches_than_ring_entries)
{
	static struct seen seen[MANY];
	unsigned int calls = 0;

	for (int i = 0; i < MANY; i++) {
		seen[i] = (struct seen){ .limit = UINT32_MAX, .unwatch = true };
		ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen[i], &seen[i].watch), 0);
	}
	send_byte(pair[1]);
	all_limit = MANY;
	ck_assert_int_eq(loop_run(loop), 0);
	for (int i = 0; i < MANY; i++)
		calls += seen[i].calls;
	ck_assert_uint_eq(calls, MANY);
}
END_TEST

static char order[64];

static void on_timer(void *arg)
{
	strcat(order, arg);
	if (strlen(order) == 3)
		loop_stop(loop);
}

START_TEST(timers_in_order)
{
	static char a[] = "a", b[] = "b", c[] = "c", never[] = "never";
	uint64_t start_ns = clock_ns();

	order[0] = '\0';
	ck_assert_int_eq(loop_after(loop, 60 * NS_PER_MS, on_timer, c), 0);
	ck_assert_int_eq(loop_after(loop, 0, on_timer, a), 0);
	ck_assert_int_eq(loop_after(loop, 30 * NS_PER_MS, on_timer, b), 0);
	ck_assert_int_eq(loop_after(loop, UINT64_MAX, on_timer, never), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_str_eq(order, "abc");
	ck_assert_uint_ge(clock_ns() - start_ns, 60 * NS_PER_MS);
}
END_TEST

static void on_tick(void *arg)
{
	unsigned int *ticks = arg;

	if (++*ticks == 50)
		loop_stop(loop);
	else
		ck_assert_int_eq(loop_after(loop, 100 * NS_PER_US, on_tick, arg), 0);
}

START_TEST(a_timer_from_a_timer)
{
	unsigned int ticks = 0;

	ck_assert_int_eq(loop_after(loop, 0, on_tick, &ticks), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(ticks, 50);
}
END_TEST

#define POSTERS 4
#define POSTS 2000

struct post {
	unsigned int poster, number;
};

static struct post posts[POSTERS][POSTS];
static unsigned int next_number[POSTERS], posts_seen;

static void on_post(void *arg)
{
	struct post *post = arg;

	ck_assert_uint_eq(post->number, next_number[post->poster]++);
	if (++posts_seen == POSTERS * POSTS)
		loop_stop(loop);
}

static void *poster(void *arg)
{
	unsigned int id = *(unsigned int *)arg;

	for (unsigned int i = 0; i < POSTS; i++) {
		posts[id][i] = (struct post){ id, i };
		if (loop_post(loop, on_post, &posts[id][i]))
			abort();
	}
	return NULL;
}

START_TEST(posts_from_threads)
{
	pthread_t threads[POSTERS];
	unsigned int ids[POSTERS];

	for (unsigned int i = 0; i < POSTERS; i++) {
		ids[i] = i;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, poster, &ids[i]), 0);
	}
	ck_assert_int_eq(loop_run(loop), 0);
	for (unsigned int i = 0; i < POSTERS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(posts_seen, POSTERS * POSTS);
}
END_TEST

static void count_up(void *arg)
{
	++*(unsigned int *)arg;
}

START_TEST(what_was_posted_before_the_stop_is_called)
{
	unsigned int calls = 0;

	for (int i = 0; i < 10; i++)
		ck_assert_int_eq(loop_post(loop, count_up, &calls), 0);
	loop_stop(loop);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_eq(calls, 10);
}
END_TEST

static void *run_loop(void *arg)
{
	(void)arg;
	ck_assert_int_eq(loop_run(loop), 0);
	return NULL;
}

/* Requests die with the thread that submitted them, watches and timers do not. */
START_TEST(a_second_thread_takes_over)
{
	struct seen seen = { .limit = 1 };
	pthread_t thread;

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &seen.watch), 0);
	for (int round = 0; round < 2; round++) {
		ck_assert_int_eq(loop_after(loop, 300 * NS_PER_MS, count_up, &seen.calls), 0);
		ck_assert_int_eq(loop_after(loop, 5 * NS_PER_MS, stop, NULL), 0);
		ck_assert_int_eq(pthread_create(&thread, NULL, run_loop, NULL), 0);
		pthread_join(thread, NULL);
	}
	send_byte(pair[1]);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_uint_ge(seen.calls, 1);
}
END_TEST

START_TEST(stop_from_another_thread)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, run_loop, NULL), 0);
	loop_stop(loop);
	pthread_join(thread, NULL);
}
END_TEST

static void on_signal(int number)
{
	(void)number;
	loop_stop(loop);
}

static void raise_alarm(void *arg)
{
	(void)arg;
	raise(SIGUSR1);
}

START_TEST(stop_from_a_signal_handler)
{
	struct sigaction action = { .sa_handler = on_signal };

	ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
	ck_assert_int_eq(loop_post(loop, raise_alarm, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
}
END_TEST

START_TEST(freed_with_everything_pending)
{
	struct loop_watch *watch;
	unsigned int calls = 0;
	struct seen seen = { .limit = 1 };

	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &watch), 0);
	ck_assert_int_eq(loop_after(loop, 10 * NS_PER_S, count_up, &calls), 0);
	ck_assert_int_eq(loop_after(loop, 0, stop, NULL), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	loop_unwatch(watch);
	ck_assert_int_eq(loop_watch(loop, pair[0], POLLIN, on_fd, &seen, &watch), 0);
	ck_assert_int_eq(loop_post(loop, count_up, &calls), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("loop");
	TCase *tcase = tcase_create("loop");
	int r = loop_new(&loop);

	if (r == -ENOSYS || r == -EPERM) {
		printf("io_uring is not available here: %s\n", strerror(-r));
		return 77;
	}
	loop_free(loop);
	suite_add_tcase(suite, tcase);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, free_takes_null);
	tcase_add_test(tcase, level_triggered);
	tcase_add_test(tcase, called_again_for_new_data);
	tcase_add_test(tcase, hangup_is_reported);
	tcase_add_test(tcase, pollout);
	tcase_add_test(tcase, unwatch_in_its_own_callback);
	tcase_add_test(tcase, unwatch_with_a_completion_pending);
	tcase_add_test(tcase, unwatch_while_armed);
	tcase_add_test(tcase, unwatch_before_the_loop_runs);
	tcase_add_test(tcase, paused_in_its_own_callback);
	tcase_add_test(tcase, close_after_unwatch_reaches_the_peer);
	tcase_add_test(tcase, bad_descriptor);
	tcase_add_test(tcase, descriptor_closed_under_the_watch);
	tcase_add_test(tcase, more_watches_than_ring_entries);
	tcase_add_test(tcase, timers_in_order);
	tcase_add_test(tcase, a_timer_from_a_timer);
	tcase_add_test(tcase, posts_from_threads);
	tcase_add_test(tcase, what_was_posted_before_the_stop_is_called);
	tcase_add_test(tcase, a_second_thread_takes_over);
	tcase_add_test(tcase, stop_from_another_thread);
	tcase_add_test(tcase, stop_from_a_signal_handler);
	tcase_add_test(tcase, freed_with_everything_pending);
	return check_run(suite);
}
