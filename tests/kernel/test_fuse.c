/* What the FUSE door and the evictor take for granted of plain mappings, on the kernel that runs. Root only.
 *
 * A file system of one file, which is its root, is served by a child; its mount is in no directory and goes with the
 * last descriptor. The kernel may write dirty pages back whenever it likes to: where a test says that it does not, once
 * in a few rounds is enough, as what follows from a call follows every time.
 */
#define FUSE_USE_VERSION 314

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib_check.h"
#include "lib_slow_disk.h"

#define PAGE 4096UL
#define PAGES 2048UL
#define FILE_BYTES (PAGES * PAGE)
#define REQUEST_MAX (1U << 20)
#define FILL_MAX (128U << 10) /* the largest read that is answered, if large ones are refused */
#define LOG_LEN 64
#define ROUNDS 5
#define PATIENCE_MS 10000

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* --- the file system ------------------------------------------------------------------------------------------ */

struct request {
	uint64_t offset, bytes, lock_owner;
};

/* Shared by both processes. */
struct server {
	_Atomic bool direct_io, keep_cache, noflush; /* of opens */
	_Atomic bool refuse_large;
	_Atomic uint64_t mtime_s;
	_Atomic uint64_t reads, read_bytes, refused, writes, flushes; /* requests so far; reads that were answered */
	struct request read[LOG_LEN];                                 /* the last that were answered */
	uint8_t data[FILE_BYTES];
};

static struct server *server;

static void fs_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->want &= ~(unsigned int)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_ASYNC_READ);
	conn->want |= conn->capable & FUSE_CAP_EXPLICIT_INVAL_DATA;
	conn->max_write = REQUEST_MAX;
}

static void fs_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct stat attr = { .st_ino = ino, .st_mode = S_IFREG | 0600, .st_nlink = 1, .st_size = FILE_BYTES };

	(void)info;
	attr.st_mtim.tv_sec = (time_t)atomic_load(&server->mtime_s);
	fuse_reply_attr(request, &attr, 0);
}

static void fs_setattr(fuse_req_t request, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *info)
{
	(void)attr;
	(void)to_set;
	fs_getattr(request, ino, info);
}

static void fs_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	(void)ino;
	info->direct_io = atomic_load(&server->direct_io);
	info->keep_cache = atomic_load(&server->keep_cache);
	info->noflush = atomic_load(&server->noflush);
	fuse_reply_open(request, info);
}

static void fs_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *info)
{
	(void)ino;
	if (atomic_load(&server->refuse_large) && size > FILL_MAX) {
		atomic_fetch_add(&server->refused, 1);
		fuse_reply_err(request, EAGAIN);
		return;
	}
	if ((uint64_t)offset > FILE_BYTES)
		offset = FILE_BYTES;
	if (size > FILE_BYTES - (uint64_t)offset)
		size = FILE_BYTES - (uint64_t)offset;
	server->read[atomic_load(&server->reads) % LOG_LEN] =
		(struct request){ .offset = (uint64_t)offset, .bytes = size, .lock_owner = info->lock_owner };
	atomic_fetch_add(&server->read_bytes, size);
	atomic_fetch_add(&server->reads, 1);
	fuse_reply_buf(request, (char *)server->data + offset, size);
}

static void fs_write(fuse_req_t request, fuse_ino_t ino, const char *data, size_t size, off_t offset,
		     struct fuse_file_info *info)
{
	(void)ino;
	(void)info;
	memcpy(server->data + offset, data, size);
	atomic_fetch_add(&server->writes, 1);
	fuse_reply_write(request, size);
}

static void fs_flush(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	(void)ino;
	(void)info;
	atomic_fetch_add(&server->flushes, 1);
	fuse_reply_err(request, 0);
}

static const struct fuse_lowlevel_ops operations = {
	.init = fs_init,
	.getattr = fs_getattr,
	.setattr = fs_setattr,
	.open = fs_open,
	.read = fs_read,
	.write = fs_write,
	.flush = fs_flush,
};

struct commands {
	struct fuse_session *session;
	int fd;
};

/* A byte asks for all of the cache to be invalidated; a byte says that it was. */
static void *run_commands(void *arg)
{
	const struct commands *commands = arg;
	char byte;

	while (read(commands->fd, &byte, 1) == 1) {
		fuse_lowlevel_notify_inval_inode(commands->session, FUSE_ROOT_ID, 0, 0);
		if (write(commands->fd, &byte, 1) != 1)
			break;
	}
	return NULL;
}

static void serve(int device, int command_fd)
{
	char name[] = "kernel_fuse", path[32], *argv[] = { name, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct commands commands = { .fd = command_fd };
	pthread_t thread;
	int rc;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(path, sizeof(path), "/dev/fd/%d", device);
	commands.session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!commands.session || fuse_session_mount(commands.session, path))
		_exit(1);
	if (pthread_create(&thread, NULL, run_commands, &commands))
		_exit(1);
	rc = fuse_session_loop(commands.session);
	/* The kernel says so instead of ENODEV to who was about to take a request as the connection ended. */
	_exit(rc && rc != -ECONNABORTED);
}

/* --- its mount ------------------------------------------------------------------------------------------------ */

static int tree = -1, command = -1;
static pid_t server_pid;

static int new_mount(int device)
{
	int context = fsopen("fuse", FSOPEN_CLOEXEC), fd = -1;
	char number[16];

	snprintf(number, sizeof(number), "%d", device);
	if (context < 0)
		return -1;
	if (fsconfig(context, FSCONFIG_SET_STRING, "fd", number, 0) == 0 &&
	    fsconfig(context, FSCONFIG_SET_STRING, "rootmode", "100600", 0) == 0 &&
	    fsconfig(context, FSCONFIG_SET_STRING, "user_id", "0", 0) == 0 &&
	    fsconfig(context, FSCONFIG_SET_STRING, "group_id", "0", 0) == 0 &&
	    fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		fd = fsmount(context, FSMOUNT_CLOEXEC, 0);
	close(context);
	return fd;
}

/* What a page of the file holds before anybody wrote to it. */
static uint8_t original(uint64_t page)
{
	return (uint8_t)(page % 251 + 1);
}

static void setup(void)
{
	int device = open("/dev/fuse", O_RDWR | O_CLOEXEC), pair[2];

	ck_assert_int_ge(device, 0);
	server = mmap(NULL, sizeof(*server), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(server, MAP_FAILED);
	for (uint64_t page = 0; page < PAGES; page++)
		memset(server->data + page * PAGE, original(page), PAGE);
	server->keep_cache = true;
	server->noflush = true;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	tree = new_mount(device);
	ck_assert_int_ge(tree, 0);
	server_pid = fork();
	ck_assert_int_ge(server_pid, 0);
	if (server_pid == 0) {
		close(tree);
		close(pair[0]);
		serve(device, pair[1]);
	}
	close(device);
	close(pair[1]);
	command = pair[0];
}

static void teardown(void)
{
	int status;

	close(tree);
	ck_assert_int_eq(waitpid(server_pid, &status, 0), server_pid);
	ck_assert_int_eq(status, 0);
	close(command);
	munmap(server, sizeof(*server));
}

static void invalidate(void)
{
	char byte = 0;

	ck_assert_int_eq(write(command, &byte, 1), 1);
	ck_assert_int_eq(read(command, &byte, 1), 1);
}

/* --- its file ------------------------------------------------------------------------------------------------- */

struct file {
	int fd;
	volatile uint8_t *map;
};

static int open_root(int flags)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", tree);
	fd = open(path, flags | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	return fd;
}

/* Pages are read one by one. */
static struct file map_file(void)
{
	struct file file = { .fd = open_root(O_RDWR) };
	struct stat attr;
	void *map = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);

	ck_assert_ptr_ne(map, MAP_FAILED);
	ck_assert_int_eq(fstat(file.fd, &attr), 0); /* a root that nobody looked at yet is empty to the kernel */
	ck_assert_int_eq(madvise(map, FILE_BYTES, MADV_RANDOM), 0);
	file.map = map;
	return file;
}

static void unmap_file(struct file *file)
{
	munmap((void *)file->map, FILE_BYTES);
	close(file->fd);
}

static void fill(struct file *file, uint64_t page, uint64_t count, uint8_t value)
{
	for (uint64_t i = page; i < page + count; i++)
		memset((void *)(file->map + i * PAGE), value, PAGE);
}

struct cache {
	uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

static struct cache cache_of(const struct file *file, uint64_t page, uint64_t count)
{
	struct {
		uint64_t offset, length;
	} range = { page * PAGE, count * PAGE };
	struct cache cache;

	ck_assert_int_eq(syscall(SYS_cachestat, file->fd, &range, &cache, 0), 0);
	return cache;
}

static void write_back(const struct file *file)
{
	ck_assert_int_eq(sync_file_range(file->fd, 0, 0,
					 SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
						 SYNC_FILE_RANGE_WAIT_AFTER),
			 0);
}

static void page_out(const struct file *file, uint64_t page, uint64_t count)
{
	struct iovec range = { .iov_base = (void *)(file->map + page * PAGE), .iov_len = count * PAGE };
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);

	ck_assert_int_ge(self, 0);
	ck_assert_int_eq(syscall(SYS_process_madvise, self, &range, 1, MADV_PAGEOUT, 0), count * PAGE);
	close(self);
}

/* Pages that another processor has just put into the cache are not on its lists yet, and stay for a moment. */
static void expect_paged_out(const struct file *file, uint64_t page, uint64_t count)
{
	for (int i = 0; i < PATIENCE_MS && cache_of(file, page, count).cached; i++) {
		page_out(file, page, count);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	ck_assert_uint_eq(cache_of(file, page, count).cached, 0);
}

/* --- what opens and closes do --------------------------------------------------------------------------------- */

struct traffic {
	uint64_t reads, writes, flushes;
};

/* Opens, looks at and closes a file whose first pages are cached and dirty. Returns what the server was asked for. */
static struct traffic open_and_close(struct file *file)
{
	static const int flags[] = { O_RDWR, O_RDONLY };
	struct traffic traffic;
	struct stat attr;

	fill(file, 0, 16, 7);
	traffic = (struct traffic){ server->reads, server->writes, server->flushes };
	for (int i = 0; i < 2; i++) {
		int fd = open_root(flags[i]);

		atomic_fetch_add(&server->mtime_s, 1);
		ck_assert_int_eq(fstat(fd, &attr), 0);
		ck_assert_int_eq(attr.st_mtim.tv_sec, (time_t)server->mtime_s);
		close(dup(fd));
		close(fd);
	}
	for (uint64_t page = 0; page < 16; page++)
		ck_assert_uint_eq(file->map[page * PAGE], 7);
	return (struct traffic){ server->reads - traffic.reads, server->writes - traffic.writes,
				 server->flushes - traffic.flushes };
}

START_TEST(opens_and_closes_leave_the_cache_alone)
{
	struct traffic traffic = { .writes = 1 };
	struct file file = map_file();

	for (int round = 0; round < ROUNDS && (traffic.writes || traffic.reads); round++) {
		traffic = open_and_close(&file);
		ck_assert_uint_eq(traffic.flushes, 0);
	}
	ck_assert_uint_eq(traffic.reads, 0);
	ck_assert_uint_eq(traffic.writes, 0);
	unmap_file(&file);
}
END_TEST

/* What the two flags of an open's answer are for. */
START_TEST(without_noflush_a_close_writes_back)
{
	struct file file;
	struct traffic traffic;

	server->noflush = false;
	file = map_file();
	traffic = open_and_close(&file);
	ck_assert_uint_gt(traffic.flushes, 0);
	ck_assert_uint_gt(traffic.writes, 0);
	unmap_file(&file);
}
END_TEST

START_TEST(without_keep_cache_an_open_drops_all)
{
	struct file file = map_file();

	server->keep_cache = false;
	ck_assert_uint_gt(open_and_close(&file).reads, 0);
	unmap_file(&file);
}
END_TEST

/* --- who reads ------------------------------------------------------------------------------------------------ */

static struct request last_read(void)
{
	return server->read[(server->reads - 1) % LOG_LEN];
}

START_TEST(fills_of_the_cache_have_no_lock_owner)
{
	struct file file = map_file();
	uint8_t *buffer = aligned_alloc(PAGE, PAGE);
	int direct;

	ck_assert_uint_eq(file.map[5 * PAGE], original(5));
	ck_assert_uint_eq(server->reads, 1);
	ck_assert_uint_eq(last_read().lock_owner, 0);
	ck_assert_uint_eq(last_read().offset, 5 * PAGE);
	ck_assert_uint_eq(last_read().bytes, PAGE);

	ck_assert_int_eq(pread(file.fd, buffer, PAGE, 500 * PAGE), PAGE); /* through the cache */
	ck_assert_uint_gt(server->reads, 1);
	ck_assert_uint_eq(last_read().lock_owner, 0);

	server->direct_io = true;
	direct = open_root(O_RDWR);
	ck_assert_int_eq(pread(direct, buffer, PAGE, 900 * PAGE), PAGE);
	ck_assert_uint_ne(last_read().lock_owner, 0);
	ck_assert_uint_eq(buffer[0], original(900));
	close(direct);
	server->direct_io = false;
	direct = open_root(O_RDWR | O_DIRECT);
	ck_assert_int_eq(pread(direct, buffer, PAGE, 901 * PAGE), PAGE);
	ck_assert_uint_ne(last_read().lock_owner, 0);
	ck_assert_uint_eq(buffer[0], original(901));
	close(direct);
	free(buffer);
	unmap_file(&file);
}
END_TEST

/* A read ahead that is refused: its pages stay in the cache without content, and who touches one waits for just that
 * one. A kernel that does not read so far ahead has nothing refused. */
static void touch_huge(int advice)
{
	static const uint64_t touched[] = { 1000, 1001, 1500, 3 };
	struct file file = map_file();
	void *map = (void *)file.map;

	ck_assert_int_eq(madvise(map, FILE_BYTES, advice), 0);
	ck_assert_int_eq(madvise(map, FILE_BYTES, MADV_HUGEPAGE), 0);
	server->refuse_large = true;
	for (size_t i = 0; i < sizeof(touched) / sizeof(touched[0]); i++) {
		uint64_t bytes = server->read_bytes;

		ck_assert_uint_eq(file.map[touched[i] * PAGE], original(touched[i]));
		ck_assert_uint_le(server->read_bytes - bytes, FILL_MAX);
		if (server->refused) {
			ck_assert_uint_eq(server->read_bytes - bytes, PAGE);
			ck_assert_uint_eq(last_read().offset, touched[i] * PAGE);
			ck_assert_uint_eq(last_read().lock_owner, 0);
		}
	}
	printf("  %lu reads ahead were refused, %lu pages are in the cache\n", server->refused,
	       cache_of(&file, 0, PAGES).cached);
	unmap_file(&file);
}

START_TEST(a_refused_read_ahead_is_not_seen)
{
	touch_huge(MADV_NORMAL);
}
END_TEST

START_TEST(a_refused_read_ahead_is_not_seen_at_random)
{
	touch_huge(MADV_RANDOM);
}
END_TEST

static void drop_unmapped(const struct file *file)
{
	for (int i = 0; i < PATIENCE_MS && cache_of(file, 0, PAGES).cached; i++) {
		ck_assert_int_eq(posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	ck_assert_uint_eq(cache_of(file, 0, PAGES).cached, 0);
}

/* Pages without content are as good as absent ones: writers find the rest of the page, nothing of the others is written
 * back, and those that nobody maps can be dropped. */
START_TEST(pages_without_content_take_writes)
{
	struct file file = map_file();

	ck_assert_int_eq(madvise((void *)file.map, FILE_BYTES, MADV_HUGEPAGE), 0);
	server->refuse_large = true;
	for (uint64_t page = 600; page < 700; page++) {
		file.map[page * PAGE] = 9;
		ck_assert_uint_eq(file.map[page * PAGE + 1], original(page));
	}
	write_back(&file);
	for (uint64_t page = 0; page < PAGES; page++) {
		ck_assert_uint_eq(server->data[page * PAGE], page >= 600 && page < 700 ? 9 : original(page));
		ck_assert_uint_eq(server->data[page * PAGE + 1], original(page));
	}
	expect_paged_out(&file, 600, 100);
	drop_unmapped(&file);
	unmap_file(&file);
}
END_TEST

/* --- what is cached ------------------------------------------------------------------------------------------- */

static bool counts_are_right(struct file *file)
{
	struct cache all;
	bool right;

	write_back(file);
	expect_paged_out(file, 100, 20);
	for (uint64_t page = 100; page < 110; page++)
		ck_assert_uint_ne(file->map[page * PAGE], 0);
	all = cache_of(file, 100, 20);
	right = all.cached == 10 && all.dirty == 0 && all.writeback == 0;
	fill(file, 104, 3, 4);
	all = cache_of(file, 100, 20);
	return right && all.cached == 10 && all.dirty == 3 && cache_of(file, 100, 5).dirty == 1 &&
	       cache_of(file, 110, 10).cached == 0;
}

START_TEST(cachestat_counts)
{
	struct file file = map_file();
	bool right = false;

	for (int round = 0; round < ROUNDS && !right; round++)
		right = counts_are_right(&file);
	ck_assert(right);
	write_back(&file);
	ck_assert_uint_eq(cache_of(&file, 100, 20).dirty + cache_of(&file, 100, 20).writeback, 0);
	for (uint64_t page = 104; page < 107; page++)
		ck_assert_uint_eq(server->data[page * PAGE], 4);
	expect_paged_out(&file, 100, 20);
	ck_assert_uint_eq(file.map[105 * PAGE], 4);
	unmap_file(&file);
}
END_TEST

/* Reclaim leaves dirty pages where they are. */
START_TEST(dirty_pages_are_not_paged_out)
{
	struct file file = map_file();
	uint64_t dirty = 0, cached = 0;

	for (int round = 0; round < ROUNDS && (dirty != 8 || cached != 8); round++) {
		fill(&file, 50, 8, (uint8_t)round);
		page_out(&file, 50, 8);
		cached = cache_of(&file, 50, 8).cached;
		dirty = cache_of(&file, 50, 8).dirty;
	}
	ck_assert_uint_eq(cached, 8);
	ck_assert_uint_eq(dirty, 8);
	unmap_file(&file);
}
END_TEST

/* --- disk reads in flight ------------------------------------------------------------------------------------- */

#define DMA_FIRST 10UL
#define DMA_PAGES 20UL
#define OLD 1
#define NEW 0x5a

struct reader {
	int fd;
	void *buffer;
	ssize_t got;
};

static void *run_reader(void *arg)
{
	struct reader *reader = arg;

	reader->got = pread(reader->fd, reader->buffer, DMA_PAGES * PAGE, 0);
	return NULL;
}

struct flight {
	struct cache pinned, neighbours; /* after the eviction, during the read */
	bool ran, all_new, all_old, stored;
};

static bool all_are(const volatile uint8_t *from, uint8_t value)
{
	for (uint64_t i = 0; i < DMA_PAGES * PAGE; i++)
		if (from[i] != value)
			return false;
	return true;
}

/* A disk reads into cached pages, and while it does so they are evicted. Fails only at the end: until then the disk has
 * to be answered. */
static struct flight evict_in_flight(bool by_invalidation)
{
	struct file file = map_file();
	struct reader reader = { .buffer = (void *)(file.map + DMA_FIRST * PAGE) };
	struct flight flight = { 0 };
	struct slow_disk *disk;
	pthread_t thread;

	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	if (slow_disk_new(SLOW_DISK_FUSE, DMA_PAGES * PAGE, NEW, &disk)) {
		printf("  skipped: no such disk on this host\n");
		unmap_file(&file);
		return flight;
	}
	fill(&file, 0, 2 * DMA_PAGES, OLD);
	reader.fd = slow_disk_open(disk);
	ck_assert_int_ge(reader.fd, 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, run_reader, &reader), 0);
	slow_disk_wait(disk);
	write_back(&file);
	if (by_invalidation)
		invalidate();
	for (int i = 0; i < PATIENCE_MS && !by_invalidation && cache_of(&file, 0, DMA_FIRST).cached; i++)
		page_out(&file, 0, 2 * DMA_PAGES);
	flight.pinned = cache_of(&file, DMA_FIRST, DMA_PAGES);
	flight.neighbours = cache_of(&file, 0, DMA_FIRST);
	slow_disk_answer(disk);
	pthread_join(thread, NULL);
	close(reader.fd);
	slow_disk_free(disk);

	ck_assert_int_eq(reader.got, DMA_PAGES * PAGE);
	flight.ran = true;
	flight.all_new = all_are(file.map + DMA_FIRST * PAGE, NEW);
	flight.all_old = all_are(file.map + DMA_FIRST * PAGE, OLD);
	write_back(&file);
	flight.stored = all_are(server->data + DMA_FIRST * PAGE, NEW);
	unmap_file(&file);
	return flight;
}

START_TEST(a_disk_read_survives_reclaim)
{
	struct flight flight = evict_in_flight(false);

	if (!flight.ran)
		return;
	ck_assert_uint_eq(flight.neighbours.cached, 0);
	ck_assert_uint_eq(flight.pinned.cached, DMA_PAGES);
	ck_assert(flight.all_new);
	ck_assert(flight.stored);
}
END_TEST

/* Why the daemon never asks the kernel to drop pages that somebody maps. */
START_TEST(a_disk_read_is_lost_by_invalidation)
{
	struct flight flight = evict_in_flight(true);

	if (!flight.ran)
		return;
	ck_assert_uint_eq(flight.pinned.cached, 0);
	ck_assert(flight.all_old);
	ck_assert(!flight.stored);
}
END_TEST

/* --- */

static const char *why_not(void)
{
	struct {
		uint64_t offset, length;
	} range = { 0, 0 };
	struct cache cache;
	int device, fd;

	if (geteuid() != 0)
		return "needs root";
	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return "needs /dev/fuse";
	fd = new_mount(device);
	close(device);
	if (fd < 0)
		return "no FUSE file system can be mounted";
	close(fd);
	fd = memfd_create("cachestat", MFD_CLOEXEC);
	if (fd < 0 || syscall(SYS_cachestat, fd, &range, &cache, 0) < 0)
		return "needs cachestat(2) (Linux 6.5)";
	close(fd);
	return NULL;
}

int main(void)
{
	Suite *suite = suite_create("kernel_fuse");
	TCase *tests = tcase_create("plain");
	const char *reason = why_not();

	suite_add_tcase(suite, tests);
	if (reason) {
		printf("skipped: %s\n", reason);
		return check_skip(suite);
	}
	tcase_set_timeout(tests, 30);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, opens_and_closes_leave_the_cache_alone);
	tcase_add_test(tests, without_noflush_a_close_writes_back);
	tcase_add_test(tests, without_keep_cache_an_open_drops_all);
	tcase_add_test(tests, fills_of_the_cache_have_no_lock_owner);
	tcase_add_test(tests, a_refused_read_ahead_is_not_seen);
	tcase_add_test(tests, a_refused_read_ahead_is_not_seen_at_random);
	tcase_add_test(tests, pages_without_content_take_writes);
	tcase_add_test(tests, cachestat_counts);
	tcase_add_test(tests, dirty_pages_are_not_paged_out);
	tcase_add_test(tests, a_disk_read_survives_reclaim);
	tcase_add_test(tests, a_disk_read_is_lost_by_invalidation);
	return check_run(suite);
}
