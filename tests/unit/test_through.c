/* Doors to arenas, as far as no kernel is needed for them: their names, what is agreed on with the kernel, and that
 * nothing is looked up or opened that nobody asked for. tests/mount/test_arena.sh has the rest. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "front/through.h"
#include "lib_check.h"

#define INO UINT64_C(0x1234)
#define HOLDER UINT64_C(0xfedcba9876)
#define NUMBERS ".tierfs-arena-0000000000001234-000000fedcba9876-"
#define CODE "61616161616161616161616161616161"
#define FLAG_EXTENDED (1U << 30)
#define FLAG2_PASSTHROUGH (1U << 5)

static struct scratch scratch;
static struct through *through;
static int code_err;

/* The first byte of the boot, for all of one boot: what else it is made of is told apart by the numbers. */
static int code(void *arg, const void *bytes, size_t length, uint8_t ret[static THROUGH_CODE_BYTES])
{
	(void)arg;
	ck_assert_uint_eq(length, THROUGH_BOOT_BYTES + strlen(NUMBERS));
	ck_assert_mem_eq((const char *)bytes + THROUGH_BOOT_BYTES, ".tierfs-arena-", strlen(".tierfs-arena-"));
	memset(ret, *(const char *)bytes, THROUGH_CODE_BYTES);
	return code_err;
}

static void setup(void)
{
	code_err = 0;
	scratch_new(&scratch, "through");
	ck_assert_int_eq(through_new(&through), 0);
	through_set_code(through, (char[THROUGH_BOOT_BYTES]){ 'a' }, code, NULL);
}

static void teardown(void)
{
	through_free(through);
	scratch_free(&scratch);
}

static int make_file(const char *name)
{
	char path[2 * SCRATCH_PATH_LEN];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", scratch.path, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	return fd;
}

static int find(const char *name)
{
	uint64_t ino = 0, holder = 0;
	int fd = make_file(name), err = through_find(through, fd, &ino, &holder);

	close(fd);
	if (!err) {
		ck_assert_uint_eq(ino, INO);
		ck_assert_uint_eq(holder, HOLDER);
	}
	return err;
}

START_TEST(a_door_is_known_by_its_name)
{
	char path[2 * SCRATCH_PATH_LEN];
	uint64_t ino, holder;
	int fd = make_file(NUMBERS CODE);

	ck_assert_int_eq(find(NUMBERS CODE), 0);
	snprintf(path, sizeof(path), "%s/%s", scratch.path, NUMBERS CODE);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(through_find(through, fd, &ino, &holder), 0);
	close(fd);
}
END_TEST

START_TEST(nothing_else_is_a_door)
{
	static const char *const names[] = {
		"file",
		NUMBERS,
		NUMBERS "61616161616161616161616161616162",
		NUMBERS "6161616161616161616161616161616",
		NUMBERS CODE "6",
		NUMBERS CODE " (deleted) ",
		"x" NUMBERS CODE,
		".tierfs-arena-000000000000123g-000000fedcba9876-" CODE,
		".tierfs-arena-                -000000fedcba9876-" CODE,
		".tierfs-arena-0x00000000001234-000000fedcba9876-" CODE,
		".tierfs-arena-+000000000001234-000000fedcba9876-" CODE,
	};
	uint64_t ino, holder;
	int fd = memfd_create(NUMBERS CODE "x", MFD_CLOEXEC);

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		ck_assert_msg(find(names[i]) == -ENOENT, "%s", names[i]);
	ck_assert_int_eq(through_find(through, fd, &ino, &holder), -ENOENT);
	ck_assert_int_lt(through_find(through, -1, &ino, &holder), 0);
	close(fd);
	code_err = -ENOMEM;
	ck_assert_int_lt(find(NUMBERS CODE), 0);
}
END_TEST

/* Numbers of holders begin anew then, and who had a door knows its name. */
START_TEST(a_name_is_nothing_after_a_boot)
{
	ck_assert_int_eq(find(NUMBERS CODE), 0);
	through_set_code(through, (char[THROUGH_BOOT_BYTES]){ 'b' }, code, NULL);
	ck_assert_int_eq(find(NUMBERS CODE), -ENOENT);
	ck_assert_int_eq(find(NUMBERS "62626262626262626262626262626262"), 0);
}
END_TEST

START_TEST(a_boot_is_the_same_until_the_next)
{
	char boot[THROUGH_BOOT_BYTES], again[THROUGH_BOOT_BYTES];

	memset(boot, 'x', sizeof(boot));
	ck_assert_int_eq(through_read_boot(boot), 0);
	ck_assert_int_eq(through_read_boot(again), 0);
	ck_assert_mem_eq(boot, again, sizeof(boot));
	ck_assert_uint_eq(strspn(boot, "0123456789abcdef-"), 36); /* an UUID */
}
END_TEST

START_TEST(without_a_kernel_nothing_is_opened)
{
	struct through_opened opened;
	uint64_t node;
	int fd = make_file("no device"), door = -1;

	ck_assert(!through_can(through));
	through_begin(through, fd, scratch.path);
	ck_assert(!through_can(through));
	ck_assert_int_eq(through_open(through, fd, INO, HOLDER, &door), -EOPNOTSUPP);
	ck_assert_int_eq(door, -1);
	ck_assert_int_eq(through_lookup(through, NUMBERS CODE, &node), -ENOENT);
	ck_assert_int_eq(through_lookup(through, "file", &node), -ENOENT);
	ck_assert_int_eq(through_answer_open(through, THROUGH_NODE | HOLDER, &opened), -EACCES);
	ck_assert(through_is(THROUGH_NODE | HOLDER));
	ck_assert(!through_is(HOLDER));
	close(fd);
}
END_TEST

struct greeting {
	struct fuse_in_header head;
	struct fuse_init_in in;
};

static struct fuse_init_out agree(uint32_t flags, uint32_t flags2, size_t bytes)
{
	struct greeting greeting = { .in = { .flags = flags, .flags2 = flags2 } };
	struct fuse_init_out out = { .flags = 1, .flags2 = 2, .max_write = 3 };

	through_agree(&greeting, bytes, &out, sizeof(out));
	return out;
}

START_TEST(passthrough_is_agreed_on_if_it_is_offered)
{
	static const struct fuse_init_out as_it_was = { .flags = 1, .flags2 = 2, .max_write = 3 };
	struct fuse_init_out out = agree(FLAG_EXTENDED, FLAG2_PASSTHROUGH, sizeof(struct greeting));
	uint32_t depth;

	ck_assert_uint_eq(out.flags, FLAG_EXTENDED | 1);
	ck_assert_uint_eq(out.flags2, FLAG2_PASSTHROUGH | 2);
	ck_assert_uint_eq(out.max_write, 3);
	memcpy(&depth, (char *)&out.flags2 + sizeof(out.flags2), sizeof(depth));
	ck_assert_uint_eq(depth, 1);
	out = agree(FLAG_EXTENDED, 0, sizeof(struct greeting));
	ck_assert_mem_eq(&out, &as_it_was, sizeof(out));
	out = agree(0, FLAG2_PASSTHROUGH, sizeof(struct greeting));
	ck_assert_mem_eq(&out, &as_it_was, sizeof(out));
	out = agree(FLAG_EXTENDED, FLAG2_PASSTHROUGH, sizeof(struct greeting) - 1);
	ck_assert_mem_eq(&out, &as_it_was, sizeof(out));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("through");
	TCase *tests = tcase_create("through");

	suite_add_tcase(suite, tests);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, a_door_is_known_by_its_name);
	tcase_add_test(tests, nothing_else_is_a_door);
	tcase_add_test(tests, a_name_is_nothing_after_a_boot);
	tcase_add_test(tests, a_boot_is_the_same_until_the_next);
	tcase_add_test(tests, without_a_kernel_nothing_is_opened);
	tcase_add_test(tests, passthrough_is_agreed_on_if_it_is_offered);
	return check_run(suite);
}
