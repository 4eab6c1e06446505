/* Pinned pages are seen, and only they: small and large folios, trees of every depth, disk reads in flight. It is a
 * test of the kernel as much as of the program that reads its counts. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "lib_check.h"
#include "lib_scratch.h"
#include "lib_slow_disk.h"
#include "map/holds.h"
#include "map/holds_prog.h"

#define PAGE 4096UL
#define HUGE_PAGES 512U
#define PATIENCE_MS 5000

static struct holds *holds;

static void setup(void)
{
	ck_assert_int_eq(holds_open(&holds), 0);
}

static void teardown(void)
{
	holds_close(holds);
}

/* --- a file whose pages can be pinned ------------------------------------------------------------------------- */

struct file {
	int fd, ring;
	uint8_t *memory;
	uint64_t pages;
};

static struct file open_file(int fd, uint64_t pages)
{
	struct io_uring_params params = { 0 };
	struct file file = { .fd = fd, .pages = pages };

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)(pages * PAGE)), 0);
	file.memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	ck_assert_ptr_ne(file.memory, MAP_FAILED);
	file.ring = (int)syscall(SYS_io_uring_setup, 1, &params);
	ck_assert_int_ge(file.ring, 0);
	return file;
}

static void close_file(struct file *file)
{
	munmap(file->memory, file->pages * PAGE);
	close(file->ring);
	close(file->fd);
}

static struct file new_file(uint64_t pages)
{
	return open_file(memfd_create("pins", MFD_CLOEXEC), pages);
}

static void pin(const struct file *file, uint64_t page, uint64_t count)
{
	struct iovec buffer = { .iov_base = file->memory + page * PAGE, .iov_len = count * PAGE };

	ck_assert_int_eq(syscall(SYS_io_uring_register, file->ring, IORING_REGISTER_BUFFERS, &buffer, 1), 0);
}

static void unpin(const struct file *file)
{
	ck_assert_int_eq(syscall(SYS_io_uring_register, file->ring, IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
}

/* How many of the pages are pinned, from the first that is (*ret_first) to the last; fails if there is a gap. */
static uint64_t pinned_span(const struct file *file, uint64_t page, uint64_t count, uint64_t *ret_first)
{
	uint8_t *pinned = malloc(count);
	uint64_t first = count, found = 0;

	memset(pinned, 0xaa, count);
	ck_assert_int_eq(holds_look(holds, HOLDS_PINNED, file->fd, page, count, HOLDS_ONLY, pinned), 0);
	for (uint64_t i = 0; i < count; i++) {
		ck_assert_uint_le(pinned[i], 1);
		if (pinned[i] && first == count)
			first = i;
		found += pinned[i];
	}
	for (uint64_t i = first; i < first + found; i++)
		ck_assert_msg(pinned[i], "page %lu is not pinned, but pages around it are", page + i);
	free(pinned);
	*ret_first = page + first;
	return found;
}

static void expect_pinned(const struct file *file, uint64_t page, uint64_t count)
{
	uint64_t first;

	ck_assert_uint_eq(pinned_span(file, 0, file->pages, &first), count);
	if (count)
		ck_assert_uint_eq(first, page);
}

/* A pin may go a moment after its reason. */
static void expect_free_soon(const struct file *file, uint64_t page, uint64_t count)
{
	uint64_t first;

	for (int ms = 0; ms < PATIENCE_MS && pinned_span(file, page, count, &first); ms++)
		poll(NULL, 0, 1);
	ck_assert_uint_eq(pinned_span(file, page, count, &first), 0);
}

/* --- where pages are ------------------------------------------------------------------------------------------ */

START_TEST(small_pages)
{
	struct file file = new_file(1000);

	expect_pinned(&file, 0, 0);
	memset(file.memory, 1, 1000 * PAGE);
	expect_pinned(&file, 0, 0);
	for (uint64_t page = 0; page < 1000; page += 37) {
		uint64_t count = 1 + page % 100 < 1000 - page ? 1 + page % 100 : 1000 - page;

		pin(&file, page, count);
		expect_pinned(&file, page, count);
		unpin(&file);
		expect_free_soon(&file, 0, 1000);
	}
	close_file(&file);
}
END_TEST

/* With page 0 alone the kernel's tree has no node. */
START_TEST(only_page)
{
	struct file file = new_file(100);

	file.memory[0] = 1;
	expect_pinned(&file, 0, 0);
	pin(&file, 0, 1);
	expect_pinned(&file, 0, 1);
	unpin(&file);
	expect_free_soon(&file, 0, 100);
	close_file(&file);
}
END_TEST

START_TEST(part_of_a_range)
{
	struct file file = new_file(200);
	uint64_t first;

	pin(&file, 40, 30);
	ck_assert_uint_eq(pinned_span(&file, 40, 30, &first), 30);
	ck_assert_uint_eq(pinned_span(&file, 39, 2, &first), 1);
	ck_assert_uint_eq(first, 40);
	ck_assert_uint_eq(pinned_span(&file, 69, 100, &first), 1);
	ck_assert_uint_eq(pinned_span(&file, 70, 100, &first), 0);
	ck_assert_uint_eq(pinned_span(&file, 63, 1, &first), 1);
	/* Beyond the end of the file, and of what the tree can hold. */
	ck_assert_uint_eq(pinned_span(&file, 190, 5000, &first), 0);
	ck_assert_uint_eq(pinned_span(&file, UINT64_C(1) << 40, 100, &first), 0);
	close_file(&file);
}
END_TEST

/* Page numbers of up to 32 bits: six levels. Only what is looked at is mapped. */
START_TEST(deep_tree)
{
	struct file file = new_file(1);
	uint64_t first;

	file.memory[0] = 1;
	ck_assert_int_eq(ftruncate(file.fd, (off_t)(PAGE << 32)), 0);
	for (int bit = 5; bit < 32; bit += 3) {
		uint64_t page = (UINT64_C(1) << bit) + 3;
		struct file window = file;

		window.memory = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, (off_t)(page * PAGE));
		ck_assert_ptr_ne(window.memory, MAP_FAILED);
		pin(&window, 0, 3);
		ck_assert_uint_eq(pinned_span(&file, page - 3, 64, &first), 3);
		ck_assert_uint_eq(first, page);
		ck_assert_uint_eq(pinned_span(&file, 0, 4, &first), 0);
		ck_assert_uint_eq(pinned_span(&file, page / 2, 3, &first), 0);
		unpin(&file);
		expect_free_soon(&file, page - 3, 64);
		munmap(window.memory, 3 * PAGE);
	}
	close_file(&file);
}
END_TEST

/* --- who holds pages ------------------------------------------------------------------------------------------ */

/* Mappings, the page cache and pipes take references that are no pins. */
static uint64_t referenced(const struct file *file, uint64_t page, uint64_t count)
{
	uint8_t *answer = malloc(count);
	uint64_t found = 0;

	ck_assert_int_eq(holds_look(holds, HOLDS_REFERENCED, file->fd, page, count, HOLDS_ONLY, answer), 0);
	for (uint64_t i = 0; i < count; i++)
		found += answer[i];
	free(answer);
	return found;
}

/* The kernel's batches of fresh pages hold on to them until others come. */
static void expect_unreferenced_soon(const struct file *file, uint64_t page, uint64_t count)
{
	for (int ms = 0; ms < PATIENCE_MS && referenced(file, page, count); ms++) {
		void *others = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
				    -1, 0);

		ck_assert_ptr_ne(others, MAP_FAILED);
		munmap(others, 64 * PAGE);
		sched_yield();
	}
	ck_assert_uint_eq(referenced(file, page, count), 0);
}

/* A pipe holds its pages as a device of a file system without pins does. */
START_TEST(references_are_seen)
{
	struct file file = new_file(64);
	struct iovec pages = { .iov_base = file.memory, .iov_len = 8 * PAGE };
	int tube[2];

	memset(file.memory, 1, 64 * PAGE);
	ck_assert_uint_eq(referenced(&file, 0, 64), 64); /* by the page tables */
	ck_assert_int_eq(madvise(file.memory, 64 * PAGE, MADV_DONTNEED), 0);
	expect_unreferenced_soon(&file, 0, 64);
	ck_assert_int_eq(pipe2(tube, O_CLOEXEC), 0);
	ck_assert_int_eq(vmsplice(tube[1], &pages, 1, SPLICE_F_NONBLOCK), 8 * PAGE);
	ck_assert_int_eq(madvise(file.memory, 64 * PAGE, MADV_DONTNEED), 0);
	ck_assert_uint_eq(referenced(&file, 0, 8), 8);
	expect_unreferenced_soon(&file, 8, 56);
	ck_assert_uint_eq(referenced(&file, 0, 8), 8);
	expect_pinned(&file, 0, 0);
	close(tube[0]);
	close(tube[1]);
	expect_unreferenced_soon(&file, 0, 64);
	close_file(&file);
}
END_TEST

START_TEST(references_are_no_pins)
{
	struct file file = new_file(64);
	struct iovec pages = { .iov_base = file.memory, .iov_len = 8 * PAGE };
	void *again[16];
	int tube[2];

	memset(file.memory, 1, 64 * PAGE);
	ck_assert_int_eq(pipe2(tube, O_CLOEXEC), 0);
	ck_assert_int_eq(vmsplice(tube[1], &pages, 1, SPLICE_F_NONBLOCK), 8 * PAGE);
	for (int i = 0; i < 16; i++) {
		again[i] = mmap(NULL, 64 * PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, file.fd, 0);
		ck_assert_ptr_ne(again[i], MAP_FAILED);
	}
	expect_pinned(&file, 0, 0);
	pin(&file, 4, 8);
	expect_pinned(&file, 4, 8);
	for (int i = 0; i < 16; i++)
		munmap(again[i], 64 * PAGE);
	close(tube[0]);
	close(tube[1]);
	unpin(&file);
	expect_free_soon(&file, 0, 64);
	close_file(&file);
}
END_TEST

/* No page table needs to know of the page; and it stays pinned until the last pin is gone. */
START_TEST(out_of_page_tables)
{
	struct file file = new_file(64);
	struct io_uring_params params = { 0 };
	struct iovec buffer = { .iov_base = file.memory + 6 * PAGE, .iov_len = PAGE };
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	memset(file.memory, 1, 64 * PAGE);
	pin(&file, 5, 2);
	ck_assert_int_eq(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1), 0);
	ck_assert_int_eq(madvise(file.memory, 64 * PAGE, MADV_DONTNEED), 0);
	expect_pinned(&file, 5, 2);
	unpin(&file);
	expect_free_soon(&file, 5, 1);
	expect_pinned(&file, 6, 1);
	close(ring);
	expect_free_soon(&file, 0, 64);
	close_file(&file);
}
END_TEST

/* Whoever takes the page away meanwhile leaves an absent page: not pinned. */
START_TEST(punched)
{
	struct file file = new_file(64);

	pin(&file, 5, 2);
	ck_assert_int_eq(fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * PAGE, PAGE), 0);
	expect_pinned(&file, 6, 1);
	close_file(&file);
}
END_TEST

START_TEST(other_descriptors)
{
	uint8_t pinned[64] = { 0 };
	int tube[2];

	/* None, and something that has no pages. */
	ck_assert_int_eq(holds_look(holds, HOLDS_PINNED, -1, 0, 64, HOLDS_ONLY, pinned), 0);
	for (int i = 0; i < 64; i++)
		ck_assert_uint_eq(pinned[i], 1);
	memset(pinned, 0, 64);
	ck_assert_int_eq(holds_look(holds, HOLDS_PINNED, 1 << 20, 0, 64, HOLDS_ONLY, pinned), 0);
	for (int i = 0; i < 64; i++)
		ck_assert_uint_eq(pinned[i], 1);
	ck_assert_int_eq(pipe2(tube, O_CLOEXEC), 0);
	ck_assert_int_eq(holds_look(holds, HOLDS_PINNED, tube[0], 0, 64, HOLDS_ONLY, pinned), 0);
	close(tube[0]);
	close(tube[1]);
}
END_TEST

/* --- large folios --------------------------------------------------------------------------------------------- */

static struct scratch scratch;

static void setup_tmpfs(void)
{
	setup();
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	scratch_new(&scratch, "pins");
	ck_assert_int_eq(mount("pins", scratch.path, "tmpfs", 0, "huge=always"), 0);
}

static void teardown_tmpfs(void)
{
	ck_assert_int_eq(umount2(scratch.path, MNT_DETACH), 0);
	scratch_free(&scratch);
	teardown();
}

/* The file is filled by writes of write_pages; the kernel may make folios of that size of them, or small ones. A pin is
 * one of the whole folio, never of a neighbour. */
static void try_folios(uint64_t write_pages, uint64_t pages)
{
	uint8_t *data = malloc(write_pages * PAGE);
	char path[SCRATCH_PATH_LEN + 8];
	struct file file;
	uint64_t first, span = 0;

	snprintf(path, sizeof(path), "%s/file", scratch.path);
	file = open_file(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), pages);
	memset(data, 1, write_pages * PAGE);
	for (uint64_t page = 0; page < pages; page += write_pages)
		ck_assert_int_eq(pwrite(file.fd, data, write_pages * PAGE, (off_t)(page * PAGE)), write_pages * PAGE);
	free(data);
	expect_pinned(&file, 0, 0);
	for (uint64_t page = 0; page < pages; page += 1 + page % 97) {
		pin(&file, page, 1);
		span = pinned_span(&file, 0, pages, &first);
		ck_assert_uint_gt(span, 0);
		ck_assert_uint_eq(span & (span - 1), 0);
		ck_assert_uint_eq(first % span, 0);
		ck_assert(first <= page && page < first + span);
		unpin(&file);
		expect_free_soon(&file, 0, pages);
	}
	printf("  writes of %lu pages: folios of %lu\n", write_pages, span);
	close_file(&file);
	unlink(path);
}

START_TEST(large_folios)
{
	const uint64_t write_pages[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, HUGE_PAGES };

	/* Once as all of the file, once as a part of it. */
	try_folios(write_pages[_i], write_pages[_i]);
	try_folios(write_pages[_i], 3 * HUGE_PAGES);
}
END_TEST

/* A folio that loses pages is split, unless it is pinned. */
START_TEST(split_folio)
{
	char path[SCRATCH_PATH_LEN + 8];
	struct file file;

	snprintf(path, sizeof(path), "%s/file", scratch.path);
	file = open_file(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), HUGE_PAGES);
	memset(file.memory, 1, HUGE_PAGES * PAGE);
	ck_assert_int_eq(fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100 * PAGE, 100 * PAGE), 0);
	expect_pinned(&file, 0, 0);
	pin(&file, 250, 1);
	ck_assert_uint_ge(pinned_span(&file, 250, 1, &(uint64_t){ 0 }), 1);
	ck_assert_uint_eq(pinned_span(&file, 100, 100, &(uint64_t){ 0 }), 0);
	unpin(&file);
	expect_free_soon(&file, 0, HUGE_PAGES);
	close_file(&file);
}
END_TEST

/* --- a tree that changes -------------------------------------------------------------------------------------- */

struct churn {
	const struct file *file;
	atomic_bool stop;
};

/* The tree of the file grows and shrinks by levels, and its leaves come and go. */
static void *run_churn(void *arg)
{
	struct churn *churn = arg;
	const struct file *file = churn->file;

	for (uint64_t n = 0; !atomic_load(&churn->stop); n++) {
		uint64_t page = n % 3 == 0 ? file->pages - 1 : n % 3 == 1 ? 5000 : 40;

		file->memory[page * PAGE] = 1;
		fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * PAGE,
			  (off_t)((file->pages - 2) * PAGE));
	}
	return NULL;
}

/* What is pinned must be seen every time; an answer for others may be too careful, but not for long. */
START_TEST(changing_tree)
{
	struct file file = new_file(1 << 20);
	struct churn churn = { .file = &file };
	uint64_t until_ns = clock_ns() + NS_PER_S, looks = 0, careful = 0;
	pthread_t thread;

	file.memory[PAGE] = 1;
	pin(&file, 0, 1);
	ck_assert_int_eq(pthread_create(&thread, NULL, run_churn, &churn), 0);
	for (; clock_ns() < until_ns; looks++) {
		uint8_t pinned[2];

		ck_assert_int_eq(holds_look(holds, HOLDS_PINNED, file.fd, 0, 2, HOLDS_ONLY, pinned), 0);
		ck_assert_uint_eq(pinned[0], 1);
		careful += pinned[1];
	}
	atomic_store(&churn.stop, true);
	pthread_join(thread, NULL);
	printf("  %lu looks while the tree changed, %lu too careful\n", looks, careful);
	ck_assert_uint_lt(careful, looks / 10);
	close_file(&file);
}
END_TEST

/* --- disk reads in flight ------------------------------------------------------------------------------------- */

struct reader {
	int fd;
	void *buffer;
	size_t bytes;
	ssize_t got;
};

static void *run_reader(void *arg)
{
	struct reader *reader = arg;

	reader->got = pread(reader->fd, reader->buffer, reader->bytes, 0);
	return NULL;
}

/* The disk answers when it is told to. Until then the buffer is pinned, in page tables or not, and not afterwards. */
static void read_slowly(enum slow_disk_kind kind)
{
	struct file file = new_file(128);
	struct reader reader = { .buffer = file.memory + 30 * PAGE, .bytes = 20 * PAGE };
	struct slow_disk *disk;
	pthread_t thread;

	if (slow_disk_new(kind, 64 * PAGE, 0x5a, &disk)) {
		printf("  skipped: no such disk on this host\n");
		close_file(&file);
		return;
	}
	memset(file.memory, 1, 128 * PAGE);
	reader.fd = slow_disk_open(disk);
	ck_assert_int_ge(reader.fd, 0);
	expect_pinned(&file, 0, 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, run_reader, &reader), 0);
	slow_disk_wait(disk);
	expect_pinned(&file, 30, 20);
	ck_assert_int_eq(madvise(file.memory, 128 * PAGE, MADV_DONTNEED), 0);
	expect_pinned(&file, 30, 20);
	slow_disk_answer(disk);
	pthread_join(thread, NULL);
	ck_assert_int_eq(reader.got, 20 * PAGE);
	expect_free_soon(&file, 0, 128);
	for (uint64_t i = 0; i < 128 * PAGE; i++)
		ck_assert_uint_eq(file.memory[i], i / PAGE >= 30 && i / PAGE < 50 ? 0x5a : 1);
	close(reader.fd);
	slow_disk_free(disk);
	close_file(&file);
}

START_TEST(direct_read_of_a_block_device)
{
	read_slowly(SLOW_DISK_BLOCK);
}
END_TEST

START_TEST(direct_read_of_a_fuse_file)
{
	read_slowly(SLOW_DISK_FUSE);
}
END_TEST

/* --- */

static const char *why_not(void)
{
	const char *reason;
	int fd;

	if (geteuid() != 0)
		return "needs root";
	if (holds_prog_load(HOLDS_PINNED, &fd, &reason))
		return reason;
	close(fd);
	return NULL;
}

int main(void)
{
	Suite *suite = suite_create("holds");
	TCase *plain = tcase_create("plain"), *large = tcase_create("large");
	const char *reason = why_not();

	if (reason) {
		printf("skipped: pins cannot be seen here: %s\n", reason);
		return check_skip(suite);
	}
	suite_add_tcase(suite, plain);
	suite_add_tcase(suite, large);
	tcase_set_timeout(plain, 30);
	tcase_set_timeout(large, 30);
	tcase_add_checked_fixture(plain, setup, teardown);
	tcase_add_test(plain, small_pages);
	tcase_add_test(plain, only_page);
	tcase_add_test(plain, part_of_a_range);
	tcase_add_test(plain, deep_tree);
	tcase_add_test(plain, references_are_no_pins);
	tcase_add_test(plain, references_are_seen);
	tcase_add_test(plain, out_of_page_tables);
	tcase_add_test(plain, punched);
	tcase_add_test(plain, other_descriptors);
	tcase_add_test(plain, changing_tree);
	tcase_add_checked_fixture(large, setup_tmpfs, teardown_tmpfs);
	tcase_add_loop_test(large, large_folios, 0, 10);
	tcase_add_test(large, split_folio);
	tcase_add_test(large, direct_read_of_a_block_device);
	tcase_add_test(large, direct_read_of_a_fuse_file);
	return check_run(suite);
}
