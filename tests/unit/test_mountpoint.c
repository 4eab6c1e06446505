/* Lines of the mount table, and where a mount may go. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "front/mountpoint.h"
#include "lib/lib_scratch.h"
#include "lib_check.h"

static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	ck_assert(freopen("/dev/null", "w", stderr) != NULL);
}

static const struct {
	const char *line, *path;
	int match;
} lines[] = {
	{ "36 35 0:52 / /vm rw,nosuid shared:1 - fuse.tierfs /pool rw,user_id=0\n", "/vm", 1 },
	{ "36 35 0:52 / /vm rw,nosuid - fuse.tierfs /pool rw\n", "/vm", 1 },
	{ "36 35 0:52 / /vm2 rw - fuse.tierfs /pool rw\n", "/vm", 0 },
	{ "36 35 0:52 / /vm rw - fuse.sshfs /pool rw\n", "/vm", 0 },
	{ "36 35 0:52 / /vm rw - fuse.tierfs2 /pool rw\n", "/vm", 0 },
	{ "36 35 0:52 / /a\\040b\\134c rw - fuse.tierfs /pool rw\n", "/a b\\c", 1 },
	{ "36 35 0:52 / /a\\9 rw - fuse.tierfs /pool rw\n", "/a\\9", 1 },
	{ "- fuse.tierfs /vm", "/vm", 0 },
	{ "a - fuse.tierfs /vm", "/vm", 0 },
	{ "", "/vm", 0 },
};

START_TEST(table_lines)
{
	ck_assert_msg(mountpoint_match(lines[_i].line, lines[_i].path) == lines[_i].match, "%s", lines[_i].line);
}
END_TEST

START_TEST(pools_below)
{
	ck_assert_int_eq(mountpoint_check_pool("/vm", "/pool"), 0);
	ck_assert_int_eq(mountpoint_check_pool("/vm", "/vm2"), 0);
	ck_assert_int_eq(mountpoint_check_pool("/vm/a", "/vm"), 0);
	ck_assert_int_eq(mountpoint_check_pool("/vm", "/vm"), -EINVAL);
	ck_assert_int_eq(mountpoint_check_pool("/vm", "/vm/pool"), -EINVAL);
	ck_assert_int_eq(mountpoint_check_pool("/", "/pool"), -EINVAL);
}
END_TEST

START_TEST(claims)
{
	struct scratch scratch;
	char path[512], link[512], *name, *real;

	scratch_new(&scratch, "mountpoint");
	real = realpath(scratch.path, NULL);
	snprintf(path, sizeof(path), "%s/./dir/../dir", scratch.path);
	ck_assert_int_eq(mountpoint_claim(path, &name), -ENOENT);
	snprintf(link, sizeof(link), "%s/dir", scratch.path);
	mkdir(link, 0700);
	ck_assert_int_eq(mountpoint_claim(path, &name), 0);
	snprintf(path, sizeof(path), "%s/dir", real);
	ck_assert_str_eq(name, path);
	free(name);
	snprintf(link, sizeof(link), "%s/link", scratch.path);
	ck_assert_int_eq(symlink("dir", link), 0);
	ck_assert_int_eq(mountpoint_claim(link, &name), 0);
	ck_assert_str_eq(name, path);
	free(name);
	ck_assert_int_eq(mountpoint_claim("/dev/null", &name), -ENOTDIR);
	free(real);
	scratch_free(&scratch);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("mountpoint");
	TCase *tcase = tcase_create("mountpoint");

	tcase_add_checked_fixture(tcase, setup, NULL);
	tcase_add_loop_test(tcase, table_lines, 0, sizeof(lines) / sizeof(lines[0]));
	tcase_add_test(tcase, pools_below);
	tcase_add_test(tcase, claims);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
