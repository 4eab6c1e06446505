/* What is taken for granted of FUSE below libfuse, on the kernel that runs: of passthrough by the doors to arenas
 * (front/through.h), and of a request that was being read when its server was killed (front/resent.h). Root only.
 *
 * A file system whose root has a file for each letter is served by a child, by the raw protocol: libfuse 3.14 has no
 * words for it. Its mount is in no directory. Test and server share the descriptor of the connection, so another server
 * can go on with it.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib_check.h"

#define PAGE 4096UL
#define PAGES 64UL
#define ARENA_BYTES (PAGES * PAGE)
#define REQUEST_BYTES (1U << 17)
#define WRITE_MAX (1U << 16)
#define OPS 64
#define DESCRIPTORS 64 /* more than the test ever has */

/* include/uapi/linux/fuse.h of Linux 6.9. */
#define PASSTHROUGH (1U << 7)
#define NOFLUSH (1U << 5)
#define EXTENDED (1U << 30)
#define EXTENDED_PASSTHROUGH (1U << 5)
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define RESEND 7 /* FUSE_NOTIFY_RESEND */
#define BACKING_CLOSE _IOW(229, 2, uint32_t)
#define CLOSE_ALL _IO('p', 1) /* to the server, by a file: ids are closed */

#define DOOR (FOPEN_DIRECT_IO | NOFLUSH | PASSTHROUGH)

struct open_answer {
	uint64_t fh;
	uint32_t flags;
	int32_t id;
};

/* Shared by test and server. */
struct server {
	_Atomic uint32_t flags; /* of opens */
	_Atomic int id;         /* the one of the last open */
	_Atomic bool same_id;   /* the next has it, too */
	_Atomic unsigned int op[OPS];
};

static struct server *server;
static int device = -1, tree = -1, arena = -1;
static pid_t server_pid;

/* --- the file system ------------------------------------------------------------------------------------------ */

static void answer(uint64_t unique, int err, const void *bytes, size_t length)
{
	struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + length), .error = err, .unique = unique };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)bytes, length } };

	if (writev(device, iov, length ? 2 : 1) < 0 && errno != ENOENT)
		_exit(1);
}

static struct fuse_attr attr_of(uint64_t node)
{
	return (struct fuse_attr){
		.ino = node, .mode = node == FUSE_ROOT_ID ? S_IFDIR | 0700 : S_IFREG | 0600, .nlink = 1, .blksize = PAGE
	};
}

/* A new open file description of the arena, which holds the lock of the node. */
static int backing_of(uint64_t node)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)node, .l_len = 1 };
	char path[32];
	int fd, id;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", arena);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) < 0)
		_exit(1);
	id = ioctl(device, BACKING_OPEN, &(struct backing_map){ .fd = fd });
	close(fd);
	return id;
}

static void answer_open(const struct fuse_in_header *head)
{
	struct open_answer out = { .flags = atomic_load(&server->flags) };

	if (out.flags & PASSTHROUGH) {
		if (!atomic_load(&server->same_id))
			atomic_store(&server->id, backing_of(head->nodeid));
		out.id = atomic_load(&server->id);
	}
	answer(head->unique, 0, &out, sizeof(out));
}

static void answer_greeting(const struct fuse_in_header *head)
{
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION,
				     .minor = 38,
				     .max_readahead = WRITE_MAX,
				     .flags = EXTENDED,
				     .max_background = 16,
				     .congestion_threshold = 12,
				     .max_write = WRITE_MAX,
				     .time_gran = 1,
				     .flags2 = EXTENDED_PASSTHROUGH };
	uint32_t depth = 1;

	memcpy((char *)&out.flags2 + sizeof(out.flags2), &depth, sizeof(depth));
	answer(head->unique, 0, &out, sizeof(out));
}

static void serve_one(const struct fuse_in_header *head, const void *arg)
{
	struct fuse_entry_out entry = { .attr_valid = 1000000 };
	struct fuse_attr_out attr = { .attr_valid = 1000000, .attr = attr_of(head->nodeid) };
	uint32_t number;

	switch (head->opcode) {
	case FUSE_INIT:
		answer_greeting(head);
		break;
	case FUSE_LOOKUP:
		entry.nodeid = *(const uint8_t *)arg;
		entry.attr = attr_of(entry.nodeid);
		answer(head->unique, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
		answer(head->unique, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
		answer_open(head);
		break;
	case FUSE_READ:
		answer(head->unique, 0, "server", 6);
		break;
	case FUSE_IOCTL:
		for (number = 1; number <= (uint32_t)atomic_load(&server->id); number++)
			ioctl(device, BACKING_CLOSE, &number);
		answer(head->unique, -ENOTTY, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	case FUSE_RELEASE:
		answer(head->unique, 0, NULL, 0);
		break;
	default:
		answer(head->unique, -EPERM, NULL, 0);
	}
}

static _Noreturn void serve(void)
{
	static char buf[REQUEST_BYTES] __attribute__((aligned(8)));
	const struct fuse_in_header *head = (const void *)buf;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		ssize_t got = read(device, buf, sizeof(buf));

		if (got < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		if (got < 0)
			_exit(errno != ENODEV && errno != ECONNABORTED);
		if (head->opcode < OPS)
			atomic_fetch_add(&server->op[head->opcode], 1);
		serve_one(head, head + 1);
	}
}

static int new_mount(void)
{
	int context = fsopen("fuse", FSOPEN_CLOEXEC), fd = -1;
	char number[16];

	snprintf(number, sizeof(number), "%d", device);
	if (context >= 0 && fsconfig(context, FSCONFIG_SET_STRING, "fd", number, 0) == 0 &&
	    fsconfig(context, FSCONFIG_SET_STRING, "rootmode", "40700", 0) == 0 &&
	    fsconfig(context, FSCONFIG_SET_STRING, "user_id", "0", 0) == 0 &&
	    fsconfig(context, FSCONFIG_SET_STRING, "group_id", "0", 0) == 0 &&
	    fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		fd = fsmount(context, FSMOUNT_CLOEXEC, 0);
	if (context >= 0)
		close(context);
	return fd;
}

static bool start_server(void)
{
	server_pid = fork();
	if (server_pid == 0) {
		for (int fd = STDERR_FILENO + 1; fd < DESCRIPTORS; fd++) /* doors as well */
			if (fd != device && fd != arena)
				close(fd);
		serve();
	}
	return server_pid > 0;
}

static void kill_server(void)
{
	kill(server_pid, SIGKILL);
	waitpid(server_pid, NULL, 0);
}

/* --- a server that is killed while it reads ------------------------------------------------------------------- */

/* A process whose memory lacks a page that it needs is killed. */
static void *kill_at_fault(void *arg)
{
	struct uffd_msg message;

	if (read(*(int *)arg, &message, sizeof(message)) == sizeof(message))
		kill(getpid(), SIGKILL);
	return NULL;
}

/* Reads one request and is killed: when that needs a page that is absent, or when it has been read. */
static _Noreturn void read_and_die(bool has_pages)
{
	char *buf = mmap(NULL, REQUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .range = { (uintptr_t)buf, REQUEST_BYTES },
					 .mode = UFFDIO_REGISTER_MODE_MISSING };
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (buf == MAP_FAILED || uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
		_exit(1);
	madvise(buf, REQUEST_BYTES, MADV_NOHUGEPAGE);
	memset(buf, 0, has_pages ? REQUEST_BYTES : PAGE);
	if (ioctl(uffd, UFFDIO_REGISTER, &range) < 0 || pthread_create(&thread, NULL, kill_at_fault, &uffd) != 0)
		_exit(1);
	if (read(device, buf, REQUEST_BYTES) > 0)
		kill(getpid(), SIGKILL);
	_exit(1);
}

static void start_dying_server(bool has_pages)
{
	server_pid = fork();
	if (server_pid == 0)
		read_and_die(has_pages);
	ck_assert_int_gt(server_pid, 0);
}

static void resend(void)
{
	struct fuse_out_header head = { .len = sizeof(head), .error = RESEND };

	ck_assert_int_eq(write(device, &head, sizeof(head)), sizeof(head));
}

static bool begin(void)
{
	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	arena = memfd_create("arena", MFD_CLOEXEC);
	server = mmap(NULL, sizeof(*server), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (device < 0 || ftruncate(arena, ARENA_BYTES) < 0 || server == MAP_FAILED)
		return false;
	atomic_store(&server->flags, DOOR);
	tree = new_mount();
	return tree >= 0 && start_server();
}

static void setup(void)
{
	ck_assert(begin());
}

static void teardown(void)
{
	kill_server();
	close(tree);
	close(device);
	close(arena);
	munmap(server, sizeof(*server));
}

/* --- what the tests say --------------------------------------------------------------------------------------- */

static int try_open(const char *name)
{
	int fd = openat(tree, name, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* A door, of which the server has no id any more. */
static int open_door(const char *name)
{
	int fd = try_open(name);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_lt(ioctl(fd, CLOSE_ALL), 0);
	return fd;
}

static volatile char *map(int fd)
{
	void *memory = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	ck_assert_ptr_ne(memory, MAP_FAILED);
	return memory;
}

static uint64_t arena_bytes(void)
{
	struct stat attr;

	ck_assert_int_eq(fstat(arena, &attr), 0);
	ck_assert_int_eq(attr.st_size, ARENA_BYTES);
	return (uint64_t)attr.st_blocks * 512;
}

static bool is_locked(char node)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = node, .l_len = 1 };

	ck_assert_int_eq(fcntl(arena, F_OFD_GETLK, &lock), 0);
	return lock.l_type != F_UNLCK;
}

/* A file is released in the background. */
static bool becomes_unlocked(char node)
{
	for (int i = 0; i < 1000 && is_locked(node); i++)
		usleep(10000);
	return !is_locked(node);
}

/* --- tests ---------------------------------------------------------------------------------------------------- */

START_TEST(memory_is_the_arena_and_calls_come_to_the_server)
{
	int fd = open_door("a");
	volatile char *memory = map(fd);
	char text[8] = "";

	memory[PAGE] = 'm';
	ck_assert_int_eq(pread(arena, text, 1, PAGE), 1);
	ck_assert_int_eq(text[0], 'm');
	ck_assert_int_eq(arena_bytes(), PAGE);
	ck_assert_int_eq(pread(fd, text, sizeof(text), PAGE), 6);
	ck_assert_mem_eq(text, "server", 6);
	ck_assert_int_eq(pwrite(fd, text, 1, 0), -1);
	ck_assert_int_eq(ftruncate(fd, 2 * ARENA_BYTES), -1);
	ck_assert_int_eq(fallocate(fd, 0, 0, ARENA_BYTES), -1);
	ck_assert_int_eq(server->op[FUSE_READ], 1);
	ck_assert_int_eq(server->op[FUSE_WRITE], 1);
	ck_assert_int_eq(server->op[FUSE_SETATTR], 1);
	ck_assert_int_eq(server->op[FUSE_FALLOCATE], 1);
	ck_assert_int_eq(arena_bytes(), PAGE);
	close(fd);
}
END_TEST

static void touch_beyond(int fd)
{
	volatile char *memory = mmap(NULL, 2 * ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	memory[ARENA_BYTES] = 1;
}

START_TEST(memory_ends_where_the_arena_does)
{
	int fd = open_door("a"), status;
	pid_t pid = fork();

	if (pid == 0) {
		signal(SIGBUS, SIG_DFL);
		touch_beyond(fd);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	ck_assert_int_eq(arena_bytes(), 0);
	close(fd);
}
END_TEST

START_TEST(a_userfaultfd_serves_it)
{
	static char page[PAGE] = "brought";
	int fd = open_door("a"), uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	volatile char *memory = map(fd);
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
					      UFFD_FEATURE_WP_HUGETLBFS_SHMEM };
	struct uffdio_register range = { .range = { (uintptr_t)memory, ARENA_BYTES },
					 .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP };
	struct uffdio_copy copy = { .dst = (uintptr_t)memory + 2 * PAGE, .src = (uintptr_t)page, .len = PAGE };
	struct uffdio_zeropage zero = { .range = { (uintptr_t)memory + 4 * PAGE, PAGE } };
	struct uffdio_writeprotect protect = { .range = { (uintptr_t)memory + 2 * PAGE, PAGE },
					       .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	char text[8];

	ck_assert_int_ge(uffd, 0);
	ck_assert_int_eq(ioctl(uffd, UFFDIO_API, &api), 0);
	ck_assert_int_eq(ioctl(uffd, UFFDIO_REGISTER, &range), 0);
	ck_assert_int_eq(ioctl(uffd, UFFDIO_COPY, &copy), 0);
	ck_assert_int_eq(ioctl(uffd, UFFDIO_ZEROPAGE, &zero), 0);
	ck_assert_int_eq(ioctl(uffd, UFFDIO_WRITEPROTECT, &protect), 0);
	ck_assert_int_eq(pread(arena, text, sizeof(text), 2 * PAGE), sizeof(text));
	ck_assert_str_eq(text, "brought");
	ck_assert_int_eq(arena_bytes(), 2 * PAGE);
	close(uffd);
	close(fd);
}
END_TEST

/* Why a RAM file's own inode is never opened so: then all its opens would map the arena. */
START_TEST(all_opens_of_an_inode_have_one_arena)
{
	int door = try_open("a"), other;

	ck_assert_int_ge(door, 0);
	ck_assert_int_eq(try_open("a"), -EIO); /* has another id */
	atomic_store(&server->flags, FOPEN_DIRECT_IO);
	ck_assert_int_eq(try_open("a"), -EIO); /* has none */
	atomic_store(&server->flags, DOOR | FOPEN_KEEP_CACHE);
	ck_assert_int_eq(try_open("b"), -EIO);
	atomic_store(&server->flags, FOPEN_DIRECT_IO);
	other = try_open("c");
	ck_assert_int_ge(other, 0);
	ck_assert_ptr_eq(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, other, 0), MAP_FAILED);
	ck_assert_int_eq(errno, ENODEV);
	close(other);
	close(door);
}
END_TEST

START_TEST(an_open_may_share_its_id)
{
	int door = try_open("a"), other;

	atomic_store(&server->same_id, true);
	other = try_open("a");
	ck_assert_int_ge(door, 0);
	ck_assert_int_ge(other, 0);
	close(other);
	close(door);
}
END_TEST

/* Who opens looks the id up after it has been answered. */
START_TEST(an_id_that_is_closed_is_none)
{
	int fd = open_door("a");

	atomic_store(&server->same_id, true);
	ck_assert_int_eq(try_open("b"), -EIO);
	close(fd);
}
END_TEST

START_TEST(a_door_cannot_be_opened_again)
{
	int fd = open_door("a");
	volatile char *memory = map(fd);
	char path[64];

	atomic_store(&server->flags, FOPEN_DIRECT_IO);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ck_assert_int_lt(open(path, O_RDWR | O_CLOEXEC), 0);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)memory,
		 (unsigned long)memory + ARENA_BYTES);
	ck_assert_int_lt(open(path, O_RDWR | O_CLOEXEC), 0); /* that is the door, too, and not the arena */
	close(fd);
}
END_TEST

/* Like a mapping of the arena itself. Nobody is told. */
START_TEST(madvise_remove_punches_the_arena)
{
	int fd = open_door("a");
	volatile char *memory = map(fd);

	memory[0] = memory[PAGE] = 1;
	ck_assert_int_eq(madvise((void *)(uintptr_t)memory, PAGE, MADV_REMOVE), 0);
	ck_assert_int_eq(arena_bytes(), PAGE);
	ck_assert_int_eq(server->op[FUSE_FALLOCATE], 0);
	close(fd);
}
END_TEST

START_TEST(maps_names_the_door)
{
	int fd = open_door("a");
	volatile char *memory = map(fd);
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512], wanted[64];
	bool found = false;
	struct stat attr;

	ck_assert_int_eq(fstat(fd, &attr), 0);
	ck_assert_int_eq(attr.st_ino, 'a');
	ck_assert_ptr_nonnull(maps);
	snprintf(wanted, sizeof(wanted), " %02x:%02x %lu ", major(attr.st_dev), minor(attr.st_dev),
		 (unsigned long)attr.st_ino);
	while (fgets(line, sizeof(line), maps))
		found |= strtoul(line, NULL, 16) == (uintptr_t)memory && strstr(line, wanted);
	fclose(maps);
	ck_assert(found);
	close(fd);
}
END_TEST

/* The open file description that the kernel was given stays while the door is open, whoever knows its id. */
START_TEST(the_lock_lives_as_long_as_the_door)
{
	int fd = open_door("a");
	volatile char *memory = map(fd);

	ck_assert(is_locked('a'));
	kill_server();
	ck_assert(is_locked('a'));
	ck_assert(start_server());
	ck_assert(is_locked('a'));
	close(fd);
	ck_assert(becomes_unlocked('a')); /* also while it is mapped */
	memory[0] = 1;
	ck_assert_int_eq(arena_bytes(), PAGE);
}
END_TEST

START_TEST(another_server_goes_on)
{
	int fd = open_door("a"), other;
	volatile char *memory = map(fd);

	memory[0] = 'x';
	kill_server();
	ck_assert(start_server());
	ck_assert_int_eq(map(fd)[0], 'x');
	other = open_door("b");
	ck_assert_int_eq(map(other)[0], 'x');
	close(other);
	close(fd);
}
END_TEST

START_TEST(it_outlives_the_connection)
{
	int fd = open_door("a");
	volatile char *memory = map(fd);

	memory[0] = 'x';
	kill_server();
	close(device);
	ck_assert_int_lt(pread(fd, (char[1]){ 0 }, 1, 0), 0);
	ck_assert_int_eq(memory[0], 'x');
	ck_assert_int_eq(map(fd)[0], 'x');
	ck_assert(is_locked('a'));
	close(fd);
	ck_assert(becomes_unlocked('a'));
	device = -1;
	server_pid = fork(); /* for the end of the test */
	if (server_pid == 0)
		_exit(0);
}
END_TEST

/* What a writer is told whose request was being read, or had been read, when the server was killed; another one that
 * answers EPERM goes on then. */
static int error_of_write(bool has_pages)
{
	static char pages[4 * PAGE];
	int fd, status;
	pid_t pid;

	atomic_store(&server->flags, FOPEN_DIRECT_IO | NOFLUSH);
	fd = try_open("a");
	ck_assert_int_ge(fd, 0);
	kill_server();
	start_dying_server(has_pages);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(pwrite(fd, pages, sizeof(pages), 0) < 0 ? errno : 0);
	}
	ck_assert_int_eq(waitpid(server_pid, &status, 0), server_pid);
	ck_assert(WIFSIGNALED(status));
	ck_assert(start_server());
	resend();
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	close(fd);
	return WEXITSTATUS(status);
}

/* Nobody repeats that request: dirty memory of a mapping is lost by it. So all of the memory into which requests are
 * read has to be there before. */
START_TEST(a_request_fails_if_its_reader_dies_for_want_of_a_page)
{
	ck_assert_int_eq(error_of_write(false), EIO);
}
END_TEST

START_TEST(a_request_that_was_read_comes_again)
{
	ck_assert_int_eq(error_of_write(true), EPERM);
}
END_TEST

static const char *why_not(void)
{
	const char *reason = NULL;
	int fd = -1;

	if (geteuid() != 0)
		return "needs root";
	if (access("/dev/fuse", R_OK | W_OK) < 0 || !begin())
		return "needs /dev/fuse, and to mount";
	fd = openat(tree, "a", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		reason = "needs FUSE passthrough (Linux 6.9)";
	else
		close(fd);
	teardown();
	return reason;
}

int main(void)
{
	Suite *suite = suite_create("kernel_fuse_raw");
	TCase *tests = tcase_create("doors");
	const char *reason = why_not();

	suite_add_tcase(suite, tests);
	if (reason) {
		printf("skipped: %s\n", reason);
		return check_skip(suite);
	}
	tcase_set_timeout(tests, 30);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, memory_is_the_arena_and_calls_come_to_the_server);
	tcase_add_test(tests, memory_ends_where_the_arena_does);
	tcase_add_test(tests, a_userfaultfd_serves_it);
	tcase_add_test(tests, all_opens_of_an_inode_have_one_arena);
	tcase_add_test(tests, an_open_may_share_its_id);
	tcase_add_test(tests, an_id_that_is_closed_is_none);
	tcase_add_test(tests, a_door_cannot_be_opened_again);
	tcase_add_test(tests, madvise_remove_punches_the_arena);
	tcase_add_test(tests, maps_names_the_door);
	tcase_add_test(tests, the_lock_lives_as_long_as_the_door);
	tcase_add_test(tests, another_server_goes_on);
	tcase_add_test(tests, it_outlives_the_connection);
	tcase_add_test(tests, a_request_fails_if_its_reader_dies_for_want_of_a_page);
	tcase_add_test(tests, a_request_that_was_read_comes_again);
	return check_run(suite);
}
