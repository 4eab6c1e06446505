/* link: @tests/lib/lib_fail.flags */
/* A listening socket that somebody keeps: it is used if it is the one that it says, and else another one is made. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/listener.h"
#include "base/log.h"
#include "lib_check.h"
#include "lib_fail.h"
#include "lib_scratch.h"

#define NAME "test.sock"

static struct scratch scratch;
static int kept; /* what take() hands out; -1: nothing */
static int keeps, fds_before;

static int take(void *arg, const char *name)
{
	(void)arg;
	ck_assert_str_eq(name, NAME);
	return kept < 0 ? -1 : fcntl(kept, F_DUPFD_CLOEXEC, 0);
}

static void keep(void *arg, const char *name, int fd)
{
	(void)arg;
	ck_assert_str_eq(name, NAME);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	keeps++;
}

static const struct listener_keeper keeper = { .take = take, .keep = keep };

static int count_fds(void)
{
	DIR *fds = opendir("/proc/self/fd");
	int count = 0;

	ck_assert(fds != NULL);
	while (readdir(fds))
		count++;
	closedir(fds);
	return count;
}

static void setup(void)
{
	scratch_new(&scratch, "listener");
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	kept = -1;
	keeps = 0;
	fds_before = count_fds();
}

static void teardown(void)
{
	if (kept >= 0)
		close(kept);
	ck_assert_int_eq(count_fds(), fds_before);
	scratch_free(&scratch);
}

static const char *path_of(const char *name)
{
	static char path[SCRATCH_PATH_LEN + 32];

	snprintf(path, sizeof(path), "%s/%s", scratch.path, name);
	return path;
}

static ino_t inode_of(const char *name)
{
	struct stat attr;

	ck_assert_int_eq(lstat(path_of(name), &attr), 0);
	ck_assert(S_ISSOCK(attr.st_mode));
	ck_assert_uint_eq(attr.st_mode & 07777, 0666);
	return attr.st_ino;
}

static int open_listener(const char *name, int type, const struct listener_keeper *of)
{
	int fd = -1;

	ck_assert_int_eq(listener_open(scratch.path, name, type, 4, of, &fd), 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	ck_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
	return fd;
}

static int connect_to(int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%.90s/" NAME, scratch.path);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void check_serves(int listener, int client)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	char byte = 0;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(send(fd, "x", 1, 0), 1);
	ck_assert_int_eq(recv(client, &byte, 1, 0), 1);
	close(fd);
	close(client);
}

START_TEST(it_goes_on)
{
	ino_t inode;
	int client, fd;

	kept = open_listener(NAME, SOCK_SEQPACKET, &keeper);
	inode = inode_of(NAME);
	client = connect_to(SOCK_SEQPACKET);
	ck_assert_int_eq(fcntl(kept, F_SETFL, 0), 0); /* who keeps it may do so */
	fd = open_listener(NAME, SOCK_SEQPACKET, &keeper);
	ck_assert_int_eq(keeps, 2);
	ck_assert_uint_eq(inode_of(NAME), inode);
	check_serves(fd, client);
	check_serves(fd, connect_to(SOCK_SEQPACKET));
	close(fd);
}
END_TEST

START_TEST(nobody_keeps)
{
	ino_t inode;
	int first = open_listener(NAME, SOCK_STREAM, NULL), fd;

	inode = inode_of(NAME);
	fd = open_listener(NAME, SOCK_STREAM, NULL);
	ck_assert_uint_ne(inode_of(NAME), inode);
	check_serves(fd, connect_to(SOCK_STREAM));
	close(first);
	close(fd);
}
END_TEST

/* What was kept is closed, and something else serves. */
static void check_refused(void)
{
	struct stat one, two;
	int fd = open_listener(NAME, SOCK_SEQPACKET, &keeper);

	ck_assert_int_eq(keeps, 1);
	ck_assert_int_eq(fstat(kept, &one) | fstat(fd, &two), 0);
	ck_assert(one.st_ino != two.st_ino || one.st_dev != two.st_dev);
	inode_of(NAME);
	check_serves(fd, connect_to(SOCK_SEQPACKET));
	close(fd);
}

START_TEST(no_socket)
{
	kept = open("/dev/null", O_RDWR | O_CLOEXEC);
	check_refused();
}
END_TEST

START_TEST(of_another_family)
{
	kept = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(kept, 0);
	check_refused();
}
END_TEST

START_TEST(of_another_type)
{
	kept = open_listener(NAME, SOCK_STREAM, NULL);
	check_refused();
}
END_TEST

START_TEST(without_listening)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	kept = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.90s/" NAME, scratch.path);
	ck_assert_int_eq(bind(kept, (struct sockaddr *)&address, sizeof(address)), 0);
	check_refused();
}
END_TEST

START_TEST(of_another_place)
{
	kept = open_listener("other.sock", SOCK_SEQPACKET, NULL);
	check_refused();
	inode_of("other.sock");
}
END_TEST

START_TEST(without_a_file)
{
	kept = open_listener(NAME, SOCK_SEQPACKET, NULL);
	ck_assert_int_eq(unlink(path_of(NAME)), 0);
	check_refused();
}
END_TEST

/* Only root sees which file a socket has. */
START_TEST(with_another_file)
{
	int other;

	kept = open_listener(NAME, SOCK_SEQPACKET, NULL);
	other = open_listener(NAME, SOCK_SEQPACKET, NULL);
	check_refused();
	close(other);
}
END_TEST

/* Who may not see the file goes by its path. */
START_TEST(without_the_right)
{
	ino_t inode;
	int fd = -1, rc;

	kept = open_listener(NAME, SOCK_SEQPACKET, NULL);
	inode = inode_of(NAME);
	ck_assert_int_eq(chmod(scratch.path, 0755), 0);
	ck_assert_int_eq(seteuid(65534), 0);
	rc = listener_open(scratch.path, NAME, SOCK_SEQPACKET, 4, &keeper, &fd);
	ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(rc, 0);
	ck_assert_uint_eq(inode_of(NAME), inode);
	check_serves(fd, connect_to(SOCK_SEQPACKET));
	close(fd);
}
END_TEST

static int take_plainly(void *arg, const char *name)
{
	(void)arg;
	(void)name;
	return fcntl(kept, F_DUPFD_CLOEXEC, 0);
}

static void keep_nothing(void *arg, const char *name, int fd)
{
	(void)arg;
	(void)name;
	(void)fd;
}

/* Whatever fails: it serves, or there is an error and no descriptor. */
START_TEST(calls_fail)
{
	const struct listener_keeper plain = { .take = take_plainly, .keep = keep_nothing };
	unsigned int nth, errors = 0;
	bool hit = true;

	for (nth = 1; hit; nth++) {
		int fd = -1, rc;

		kept = open_listener(NAME, SOCK_SEQPACKET, NULL);
		fail_arm(FAIL_ANY, nth);
		rc = listener_open(scratch.path, NAME, SOCK_SEQPACKET, 4, &plain, &fd);
		hit = fail_disarm();
		ck_assert_msg(rc == 0 || hit, "error %d without a failure", rc);
		errors += rc < 0;
		if (rc == 0) {
			check_serves(fd, connect_to(SOCK_SEQPACKET));
			close(fd);
		}
		close(STEAL_FD(kept));
		ck_assert_msg(count_fds() == fds_before, "%s fails, and a descriptor is left", fail_what());
	}
	ck_assert_uint_ge(nth, 8);
	ck_assert_uint_ge(errors, 1);
}
END_TEST

START_TEST(no_place)
{
	static char name[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int fd = -1;

	memset(name, 'x', sizeof(name) - 1);
	ck_assert_int_eq(listener_open(scratch.path, name, SOCK_STREAM, 4, &keeper, &fd), -ENAMETOOLONG);
	ck_assert_int_eq(listener_open("/nowhere", NAME, SOCK_STREAM, 4, &keeper, &fd), -ENOENT);
	ck_assert_int_eq(fd, -1);
	ck_assert_int_eq(keeps, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("listener");
	TCase *tcase = tcase_create("listener");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, it_goes_on);
	tcase_add_test(tcase, nobody_keeps);
	tcase_add_test(tcase, no_socket);
	tcase_add_test(tcase, of_another_family);
	tcase_add_test(tcase, of_another_type);
	tcase_add_test(tcase, without_listening);
	tcase_add_test(tcase, of_another_place);
	tcase_add_test(tcase, without_a_file);
	if (geteuid() == 0) {
		tcase_add_test(tcase, with_another_file);
		tcase_add_test(tcase, without_the_right);
	}
	tcase_add_test(tcase, calls_fail);
	tcase_add_test(tcase, no_place);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
