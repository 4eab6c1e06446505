/* The log: one event, one line. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "lib_check.h"

static char output[1 << 20];
static int pipe_fds[2];

/* From here on stderr is a pipe. */
static void setup(void)
{
	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
	ck_assert_int_ge(fcntl(pipe_fds[1], F_SETPIPE_SZ, 1 << 20), 0);
	ck_assert_int_eq(dup2(pipe_fds[1], STDERR_FILENO), STDERR_FILENO);
	ck_assert_int_eq(fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK), 0);
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_DEBUG);
}

static const char *captured(void)
{
	ssize_t len = read(pipe_fds[0], output, sizeof(output) - 1);

	output[len > 0 ? len : 0] = '\0';
	return output;
}

START_TEST(levels)
{
	log_error("pool %s: %d", "a", 1);
	log_warn("slow");
	log_info("start");
	log_debug("detail");
	ck_assert_str_eq(captured(),
			 "tierfs: pool a: 1\ntierfs: warning: slow\ntierfs: start\ntierfs: debug: detail\n");
}
END_TEST

START_TEST(levels_are_filtered)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_WARN);
	log_info("no");
	log_debug("no");
	log_warn("yes");
	ck_assert_str_eq(captured(), "tierfs: warning: yes\n");
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	log_warn("no");
	ck_assert_str_eq(captured(), "");
}
END_TEST

START_TEST(control_characters_do_not_make_lines)
{
	log_error("file '%s'", "a\nb\r\t\033[31m\x7f\xc3\xa4");
	ck_assert_str_eq(captured(), "tierfs: file 'a?b???[31m?\xc3\xa4'\n");
}
END_TEST

START_TEST(long_messages_are_cut)
{
	char text[5000];
	size_t len;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	log_error("%s", text);
	len = strlen(captured());
	ck_assert_uint_gt(len, 1000);
	ck_assert_uint_le(len, 1024);
	ck_assert_ptr_eq(strchr(output, '\n'), output + len - 1);
}
END_TEST

START_TEST(errno_is_kept)
{
	errno = ENOSPC;
	log_error("%s", strerror(EIO));
	ck_assert_int_eq(errno, ENOSPC);
}
END_TEST

START_TEST(a_closed_stderr_is_survived)
{
	close(STDERR_FILENO);
	errno = 0;
	log_error("nobody");
	ck_assert_int_eq(errno, 0);
}
END_TEST

START_TEST(syslog_leaves_stderr_alone)
{
	log_init(LOG_TARGET_SYSLOG, LOG_LEVEL_ERROR);
	log_debug("not sent");
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_INFO);
	log_info("back");
	ck_assert_str_eq(captured(), "tierfs: back\n");
}
END_TEST

#define THREADS 4
#define LINES 500

static void *chatter(void *arg)
{
	for (int i = 0; i < LINES; i++)
		log_info("thread %c%c%c%c%c%c%c%c end", *(char *)arg, *(char *)arg, *(char *)arg, *(char *)arg,
			 *(char *)arg, *(char *)arg, *(char *)arg, *(char *)arg);
	return NULL;
}

START_TEST(threads_do_not_mix)
{
	char names[THREADS] = { 'a', 'b', 'c', 'd' };
	pthread_t threads[THREADS];
	unsigned int lines = 0;
	char *save = NULL;

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, chatter, &names[i]), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	captured();
	for (char *line = strtok_r(output, "\n", &save); line; line = strtok_r(NULL, "\n", &save), lines++) {
		char want[64], c = line[strlen("tierfs: thread ")];

		snprintf(want, sizeof(want), "tierfs: thread %c%c%c%c%c%c%c%c end", c, c, c, c, c, c, c, c);
		ck_assert_str_eq(line, want);
	}
	ck_assert_uint_eq(lines, THREADS * LINES);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("log");
	TCase *tcase = tcase_create("log");

	suite_add_tcase(suite, tcase);
	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_test(tcase, levels);
	tcase_add_test(tcase, levels_are_filtered);
	tcase_add_test(tcase, control_characters_do_not_make_lines);
	tcase_add_test(tcase, long_messages_are_cut);
	tcase_add_test(tcase, errno_is_kept);
	tcase_add_test(tcase, a_closed_stderr_is_survived);
	tcase_add_test(tcase, syslog_leaves_stderr_alone);
	tcase_add_test(tcase, threads_do_not_mix);
	return check_run(suite);
}
