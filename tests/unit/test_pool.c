/* The pool's directory: made once, recognised again, refused when it is something else, never touched then. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "pool/pool.h"
#include "lib/lib_scratch.h"
#include "lib_check.h"

static struct scratch scratch;
static char dir[512];
static struct pool *pool;

static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	ck_assert(freopen("/dev/null", "w", stderr) != NULL);
	scratch_new(&scratch, "pool");
	snprintf(dir, sizeof(dir), "%s/pool", scratch.path);
	pool = NULL;
}

static void teardown(void)
{
	pool_close(pool);
	scratch_free(&scratch);
}

static void path_of(const char *name, char *path, size_t cap)
{
	snprintf(path, cap, "%s/%s", dir, name);
}

static void write_file(const char *name, const char *text)
{
	char path[600];
	FILE *file;

	path_of(name, path, sizeof(path));
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
}

static bool has_file(const char *name)
{
	char path[600];

	path_of(name, path, sizeof(path));
	return access(path, F_OK) == 0;
}

START_TEST(made_and_opened_again)
{
	char id[POOL_ID_LEN + 1];
	struct stat attr;

	ck_assert_int_eq(pool_open(dir, 0, &pool), 0);
	ck_assert_uint_eq(pool->block_bytes, POOL_DEFAULT_BLOCK_BYTES);
	ck_assert_uint_eq(strlen(pool->id), POOL_ID_LEN);
	ck_assert_int_eq(stat(dir, &attr), 0);
	ck_assert_uint_eq(attr.st_mode & 07777, 0700);
	ck_assert_int_eq(stat(pool->store_dir, &attr), 0);
	ck_assert_uint_eq(attr.st_mode & 07777, 0700);
	ck_assert(!has_file("pool.conf.tmp"));
	strcpy(id, pool->id);
	pool_close(pool);
	ck_assert_int_eq(pool_open(dir, POOL_DEFAULT_BLOCK_BYTES, &pool), 0);
	ck_assert_str_eq(pool->id, id);
}
END_TEST

START_TEST(of_another_block_size)
{
	ck_assert_int_eq(pool_open(dir, 4096, &pool), 0);
	pool_close(pool);
	pool = NULL;
	ck_assert_int_eq(pool_open(dir, 8192, &pool), -EINVAL);
	ck_assert_ptr_null(pool);
	ck_assert_int_eq(pool_open(dir, 0, &pool), 0);
	ck_assert_uint_eq(pool->block_bytes, 4096);
}
END_TEST

START_TEST(two_pools_have_two_ids)
{
	char other_dir[520];
	struct pool *other;

	snprintf(other_dir, sizeof(other_dir), "%s2", dir);
	ck_assert_int_eq(pool_open(dir, 0, &pool), 0);
	ck_assert_int_eq(pool_open(other_dir, 0, &other), 0);
	ck_assert_str_ne(pool->id, other->id);
	pool_close(other);
}
END_TEST

START_TEST(an_empty_directory_becomes_private)
{
	struct stat attr;

	mkdir(dir, 0755);
	ck_assert_int_eq(pool_open(dir, 0, &pool), 0);
	ck_assert_int_eq(stat(dir, &attr), 0);
	ck_assert_uint_eq(attr.st_mode & 07777, 0700);
}
END_TEST

START_TEST(foreign)
{
	struct stat attr;

	mkdir(dir, 0755);
	write_file("letter", "dear");
	ck_assert_int_eq(pool_open(dir, 0, &pool), -ENOTEMPTY);
	ck_assert(!has_file("lock") && !has_file("store") && !has_file("pool.conf"));
	ck_assert_int_eq(stat(dir, &attr), 0);
	ck_assert_uint_eq(attr.st_mode & 07777, 0755);
}
END_TEST

/* What a crash may leave while a pool is made. */
START_TEST(half_made)
{
	mkdir(dir, 0700);
	write_file("lock", "");
	write_file("pool.conf.tmp", "tierfs po");
	ck_assert_int_eq(pool_open(dir, 0, &pool), 0);
	ck_assert(!has_file("pool.conf.tmp"));
}
END_TEST

START_TEST(no_parent)
{
	strcat(dir, "/a/b");
	ck_assert_int_eq(pool_open(dir, 0, &pool), -ENOENT);
}
END_TEST

START_TEST(a_file)
{
	mkdir(dir, 0700);
	write_file("file", "");
	strcat(dir, "/file");
	ck_assert_int_eq(pool_open(dir, 0, &pool), -ENOTDIR);
}
END_TEST

static void wait_for_byte(int fd)
{
	char byte;

	ck_assert_int_eq(read(fd, &byte, 1), 1);
}

/* A process that holds the pool; leaves when told, with the note that says so, or is only alive. */
static pid_t start_holder(int told[2], bool leaving)
{
	int ready[2];
	pid_t pid;

	ck_assert(pipe(ready) == 0 && pipe(told) == 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct pool *held;
		char byte;

		close(told[1]);
		if (pool_open(dir, 0, &held) < 0)
			_exit(1);
		if (leaving)
			pool_leaving(held, "unmounting");
		if (write(ready[1], "", 1) < 0 || read(told[0], &byte, 1) < 0)
			_exit(1);
		pool_close(held);
		_exit(0);
	}
	close(told[0]);
	wait_for_byte(ready[0]);
	return pid;
}

START_TEST(in_use)
{
	int told[2], status;
	pid_t pid = start_holder(told, false);
	char path[600], text[64] = "";
	FILE *lock;

	ck_assert_int_eq(pool_open(dir, 0, &pool), -EBUSY);
	path_of("lock", path, sizeof(path));
	lock = fopen(path, "re");
	ck_assert_ptr_nonnull(fgets(text, sizeof(text), lock));
	fclose(lock);
	ck_assert_int_eq(atoi(text), pid);
	close(told[1]);
	waitpid(pid, &status, 0);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(pool_open(dir, 0, &pool), 0);
}
END_TEST

static pid_t leaving_pid;
static int leaving_fd;

static void let_go(int signal)
{
	(void)signal;
	close(leaving_fd);
}

START_TEST(a_holder_that_leaves_is_waited_for)
{
	int told[2], status;

	leaving_pid = start_holder(told, true);
	leaving_fd = told[1];
	signal(SIGALRM, let_go);
	alarm(1); /* longer than the grace that anybody gets */
	ck_assert_int_eq(pool_open(dir, 0, &pool), 0);
	waitpid(leaving_pid, &status, 0);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(conf_round_trip)
{
	char text[256], id[POOL_ID_LEN + 1];
	uint32_t block_bytes = 0;

	ck_assert_int_eq(pool_conf_format("00ff00ff00ff00ff", 65536, text, sizeof(text)), 0);
	ck_assert_int_eq(pool_conf_parse(text, id, &block_bytes), 0);
	ck_assert_str_eq(id, "00ff00ff00ff00ff");
	ck_assert_uint_eq(block_bytes, 65536);
	/* Every way to cut it short, and to add to it, is damage. */
	for (size_t len = strlen(text); len-- > 0;) {
		text[len] = '\0';
		ck_assert_msg(pool_conf_parse(text, id, &block_bytes) == -EBADMSG, "%s", text);
	}
	ck_assert_int_eq(pool_conf_format("00ff00ff00ff00ff", 65536, text, 20), -ENOBUFS);
}
END_TEST

static const struct {
	const char *text;
	int rc;
} confs[] = {
	{ "", -EBADMSG },
	{ "something\n", -EBADMSG },
	{ "tierfs pool\n", -EBADMSG },
	{ "tierfs pool\nversion 2\n", -EPROTONOSUPPORT },
	{ "tierfs pool\nversion 2\nanything\n", -EPROTONOSUPPORT },
	{ "tierfs pool\nversion 99999999999999999999\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nid 0123456789abcdef\nblock_bytes 4096\n", 0 },
	{ "tierfs pool\nversion 1\nid 0123456789abcdef\nblock_bytes 4096\nmore 1\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nid 0123456789abcde\nblock_bytes 4096\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nid 0123456789abcdef0\nblock_bytes 4096\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nid 0123456789abcdeg\nblock_bytes 4096\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nid ../../../../../..\nblock_bytes 4096\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nid 0123456789abcdef\nblock_bytes 2048\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nid 0123456789abcdef\nblock_bytes 4097\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nid 0123456789abcdef\nblock_bytes 99999999999\n", -EBADMSG },
	{ "tierfs pool\nversion 1\nblock_bytes 4096\nid 0123456789abcdef\n", -EBADMSG },
};

START_TEST(confs_parse)
{
	char id[POOL_ID_LEN + 1];
	uint32_t block_bytes;

	ck_assert_msg(pool_conf_parse(confs[_i].text, id, &block_bytes) == confs[_i].rc, "%s", confs[_i].text);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pool");
	TCase *tcase = tcase_create("pool");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, made_and_opened_again);
	tcase_add_test(tcase, of_another_block_size);
	tcase_add_test(tcase, two_pools_have_two_ids);
	tcase_add_test(tcase, an_empty_directory_becomes_private);
	tcase_add_test(tcase, foreign);
	tcase_add_test(tcase, half_made);
	tcase_add_test(tcase, no_parent);
	tcase_add_test(tcase, a_file);
	tcase_add_test(tcase, in_use);
	tcase_add_test(tcase, a_holder_that_leaves_is_waited_for);
	tcase_add_test(tcase, conf_round_trip);
	tcase_add_loop_test(tcase, confs_parse, 0, sizeof(confs) / sizeof(confs[0]));
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
