/* Every public function of libtierfs with its Nth system call, or the Nth call of libc, failing in any of its threads.
 * Each time: memory that was attached before is as it was, no mapping and no descriptor more than before, and the next
 * call works.
 *
 * System calls that the library makes itself go through client_sys6(), which is replaced here; what it calls in libc
 * goes through lib_fail. The daemon is a process of its own, so that its calls are not among them: it answers what the
 * protocols ask for, from a memfd, and registers nothing, because nothing is cold.
 */
/* link: @tests/lib/lib_fail.flags -Wl,--wrap=client_sys6 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <tierfs/access.h>
#include <tierfs/access_protocol.h>
#include <tierfs/protocol.h>
#include <tierfs/tierfs.h>

#include "../lib/lib_fail.h"
#include "client/client_range.h"
#include "wire/wire.h"
#include "lib_check.h"

#define PAGE 4096UL
#define FILE_BYTES (64 * PAGE)
#define CONNS_MAX 16
#define POINTS_MAX 400
#define AGENT "tierfs-agent"

static char dir[] = TIERFS_RUN_ROOT "/test-fail-XXXXXX";
static int ram_fd, arena_fd;
static pid_t daemon_pid;

/* --- system calls ------------------------------------------------------------------------------------------------- */

static atomic_int countdown; /* the call that makes it 0 fails; below 0: nothing does */
static atomic_int failed_call;
static atomic_bool hold_agent; /* a thread that says how its start ended goes on no sooner than this is false again */
static _Thread_local bool is_agent;
static atomic_long awaited; /* the word that the program's first thread waits for */

long __real_client_sys6(long number, long a, long b, long c, long d, long e, long f);
long __wrap_client_sys6(long number, long a, long b, long c, long d, long e, long f);

/* 0: it cannot fail in a way that a program could answer. */
static int usual_error(long number)
{
	switch (number) {
	case SYS_futex:
	case SYS_rt_sigprocmask:
	case SYS_prctl:
	case SYS_gettid:
	case SYS_munmap:
	case SYS_close:
	case SYS_write:
		return 0;
	case SYS_pidfd_open:
	case SYS_pidfd_getfd:
	case SYS_fcntl:
	case SYS_memfd_create:
		return EMFILE;
	case SYS_fstat:
	case SYS_fstatfs:
		return EIO;
	default:
		return ENOMEM;
	}
}

long __wrap_client_sys6(long number, long a, long b, long c, long d, long e, long f)
{
	int error = usual_error(number);
	long result;

	if (error && atomic_load(&countdown) > 0 && atomic_fetch_sub(&countdown, 1) == 1) {
		atomic_store(&failed_call, (int)number);
		return -error;
	}
	if (number == SYS_ioctl && (unsigned long)b == TIERFS_IOC_INFO) {
		struct tierfs_ioc_info *info = (struct tierfs_ioc_info *)c;

		*info = (struct tierfs_ioc_info){ .abi_version = TIERFS_ABI_VERSION,
						  .rights = TIERFS_RIGHT_READ | TIERFS_RIGHT_WRITE,
						  .ino = 42,
						  .size_bytes = FILE_BYTES,
						  .block_bytes = 16384 };
		strcpy(info->run_dir, dir);
		return 0;
	}
	if (number == SYS_futex && (int)b == FUTEX_WAIT_PRIVATE && gettid() == getpid())
		atomic_store(&awaited, a);
	result = __real_client_sys6(number, a, b, c, d, e, f);
	if (number == SYS_fstatfs && !result)
		((struct statfs *)b)->f_type = FUSE_SUPER_MAGIC;
	if (number == SYS_prctl && a == PR_SET_NAME)
		is_agent = !strcmp((const char *)b, AGENT);
	while (number == SYS_futex && (int)b == FUTEX_WAKE_PRIVATE && a == atomic_load(&awaited) && is_agent &&
	       atomic_load(&hold_agent))
		usleep(100);
	return result;
}

/* --- the daemon --------------------------------------------------------------------------------------------------- */

static int listen_at(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, name);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0)
		_exit(1);
	return fd;
}

/* False: the connection ended. */
static bool answer_attach(int fd)
{
	static struct wire_packet packet;
	struct tierfs_msg reply = { .type = TIERFS_MSG_DONE };
	int fds[2], count = 0;

	if (wire_recv(fd, &packet))
		return false;
	reply.seq = packet.msg.seq;
	if (packet.msg.type == TIERFS_MSG_HELLO) {
		reply.type = TIERFS_MSG_WELCOME;
		reply.u.welcome.abi_version = TIERFS_ABI_VERSION;
	} else if (packet.msg.type == TIERFS_MSG_OPEN) {
		reply.type = TIERFS_MSG_ARENA;
		reply.u.arena.ino = 42;
		reply.u.arena.size_bytes = FILE_BYTES;
		reply.u.arena.features = TIERFS_FEATURE_ADVISE;
		fds[count++] = arena_fd;
		fds[count++] = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	} else if (packet.msg.type == TIERFS_MSG_DISCARD) {
		fallocate(arena_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)packet.msg.u.part.where,
			  (off_t)packet.msg.u.part.length_bytes);
	} else if (packet.msg.type == TIERFS_MSG_MAP || packet.msg.type == TIERFS_MSG_RESUME) {
		reply.u.done.map_id = 1;
	}
	wire_close_fds(&packet);
	wire_send(fd, &reply, fds, count);
	if (count)
		close(fds[1]);
	return true;
}

static bool answer_access(int fd)
{
	struct tierfs_access_msg msg;
	int came_fd = -1;

	if (wire_recv_access(fd, &msg, &came_fd))
		return false;
	if (came_fd >= 0)
		close(came_fd);
	if (msg.type == TIERFS_ACCESS_OPEN) {
		memset(&msg.u, 0, sizeof(msg.u));
		msg.type = TIERFS_ACCESS_OPENED;
		msg.u.opened.size_bytes = FILE_BYTES;
		msg.u.opened.block_bytes = 16384;
	} else {
		memset(&msg.u, 0, sizeof(msg.u));
		msg.type = TIERFS_ACCESS_DONE;
	}
	wire_send_access(fd, &msg, -1);
	return true;
}

_Noreturn static void be_daemon(int ready_fd)
{
	struct pollfd polls[2 + CONNS_MAX];
	bool is_access[2 + CONNS_MAX] = {};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < 2 + CONNS_MAX; i++)
		polls[i] = (struct pollfd){ .fd = -1, .events = POLLIN };
	polls[0].fd = listen_at(TIERFS_ATTACH_SOCKET);
	polls[1].fd = listen_at(TIERFS_ACCESS_SOCKET);
	if (write(ready_fd, "!", 1) != 1)
		_exit(1);
	while (poll(polls, 2 + CONNS_MAX, -1) > 0) {
		for (int i = 2; i < 2 + CONNS_MAX; i++) {
			if (!polls[i].revents ||
			    (is_access[i] ? answer_access(polls[i].fd) : answer_attach(polls[i].fd)))
				continue;
			close(polls[i].fd);
			polls[i].fd = -1;
		}
		for (int from = 0; from < 2; from++)
			for (int i = 2; polls[from].revents && i < 2 + CONNS_MAX; i++)
				if (polls[i].fd < 0) {
					polls[i].fd = accept4(polls[from].fd, NULL, NULL, SOCK_CLOEXEC);
					is_access[i] = from == 1;
					break;
				}
	}
	_exit(0);
}

/* --- what must not change ----------------------------------------------------------------------------------------- */

struct counts {
	unsigned int fds, library_fds;
	unsigned int arena_maps;
};

static unsigned int count_entries(const char *path)
{
	DIR *entries = opendir(path);
	unsigned int count = 0;

	ck_assert_ptr_nonnull(entries);
	while (readdir(entries))
		count++;
	closedir(entries);
	return count;
}

/* How many threads have that name. ret_fds, if not NULL: the descriptors of the last of them. */
static unsigned int count_threads(const char *is_named, unsigned int *ret_fds)
{
	DIR *tasks = opendir("/proc/self/task");
	unsigned int count = 0;
	struct dirent *task;

	while ((task = readdir(tasks))) {
		char path[300], name[32] = "";
		FILE *comm;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
		comm = fopen(path, "re");
		if (!comm)
			continue;
		if (fgets(name, sizeof(name), comm) && !strncmp(name, is_named, strlen(is_named))) {
			snprintf(path, sizeof(path), "/proc/self/task/%s/fd", task->d_name);
			count++;
			if (ret_fds)
				*ret_fds = count_entries(path);
		}
		fclose(comm);
	}
	closedir(tasks);
	return count;
}

/* Those of the thread named tierfs-hand, which are those of all threads of the library. */
static unsigned int count_library_fds(void)
{
	unsigned int count = 0;

	count_threads("tierfs-hand", &count);
	return count;
}

/* Of the arena, and of the buffers of cold access. */
static unsigned int count_maps(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned int count = 0;
	char line[600];

	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "memfd:") != NULL;
	fclose(maps);
	return count;
}

static struct counts count(void)
{
	return (struct counts){ .fds = fail_descriptors(),
				.library_fds = count_library_fds(),
				.arena_maps = count_maps() };
}

static void check_counts(const struct counts *before, const char *what)
{
	struct counts now = count();

	ck_assert_msg(now.fds == before->fds, "%s: %u descriptors, were %u", what, now.fds, before->fds);
	ck_assert_msg(now.library_fds == before->library_fds, "%s: %u descriptors of the library, were %u", what,
		      now.library_fds, before->library_fds);
	ck_assert_msg(now.arena_maps == before->arena_maps, "%s: %u mappings, were %u", what, now.arena_maps,
		      before->arena_maps);
}

/* --- the functions ------------------------------------------------------------------------------------------------ */

static char *attached; /* 8 pages at offset 0, attached before; each begins with its number + 1 */
static struct tierfs_access *access_;
static void *fixed; /* a place of the program's own */

static int attach_at(void *addr, int flags, off_t offset, void **ret)
{
	return tierfs_attach(ram_fd, addr, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | flags, offset, ret);
}

/* A detach that fails leaves the memory, so it can be asked for again. */
static int detach_surely(void *memory)
{
	return tierfs_detach(memory, 4 * PAGE) && tierfs_detach(memory, 4 * PAGE) ? -EUCLEAN : 0;
}

static int try_attach(void)
{
	void *memory;
	int err = attach_at(NULL, 0, 16 * PAGE, &memory);

	if (err)
		return err;
	*(volatile char *)memory = 1;
	return detach_surely(memory);
}

static int try_attach_fixed(void)
{
	void *memory;
	int err = attach_at(fixed, MAP_FIXED, 16 * PAGE, &memory);

	if (err)
		return err;
	return detach_surely(memory);
}

/* A hole in the middle; what was not detached is there. */
static int try_detach(void)
{
	return tierfs_detach(attached + 3 * PAGE, PAGE);
}

static int try_discard(void)
{
	return tierfs_discard(attached + 5 * PAGE, PAGE);
}

static int try_advise(void)
{
	return tierfs_advise_huge(attached, 2 * PAGE, 1);
}

static int try_info(void)
{
	struct tierfs_ioc_info info;

	return tierfs_info(ram_fd, &info);
}

static int try_access_open(void)
{
	struct tierfs_access *access;
	int err = tierfs_access_open(ram_fd, 0, &access);

	if (!err)
		tierfs_access_close(access);
	return err;
}

static int try_access_calls(void)
{
	struct tierfs_access_record record = { .form = TIERFS_FORM_NONE };
	struct tierfs_access_answer answer;
	struct tierfs_access_ages ages;
	int err = tierfs_access_open(ram_fd, 0, &access_);

	if (err)
		return err;
	err = tierfs_access_read(access_, 0, 4, 0, &answer);
	if (!err)
		err = tierfs_access_add(access_, &record, NULL);
	if (!err)
		err = tierfs_access_set(access_, 0, &answer);
	if (!err)
		err = tierfs_access_ages(access_, &ages);
	if (!err)
		err = tierfs_access_wanted(access_, &answer);
	tierfs_access_close(access_);
	return err;
}

static void check_memory(bool may_be_discarded)
{
	for (unsigned int i = 0; i < 8; i++) {
		char is = attached[i * PAGE];

		ck_assert_msg(is == (char)(i + 1) || (i == 5 && may_be_discarded && !is), "page %u begins with %d", i,
			      is);
	}
}

/* The pieces that try_detach() leaves or not: all of it, attached anew. */
static void attach_again(void)
{
	void *memory = NULL;

	ck_assert_int_eq(tierfs_attach(ram_fd, attached, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, 0,
				       &memory),
			 0);
	for (unsigned int i = 0; i < 8; i++)
		attached[i * PAGE] = (char)(i + 1);
}

static const struct function {
	const char *name;
	int (*call)(void);
} functions[] = {
	{ "tierfs_info", try_info },
	{ "tierfs_attach", try_attach },
	{ "tierfs_attach at a fixed address", try_attach_fixed },
	{ "tierfs_detach", try_detach },
	{ "tierfs_discard", try_discard },
	{ "tierfs_advise_huge", try_advise },
	{ "tierfs_access_open", try_access_open },
	{ "tierfs_access calls", try_access_calls },
};

/* --- setup -------------------------------------------------------------------------------------------------------- */

static void setup(void)
{
	int ready[2];
	char byte;

	ck_assert(mkdir(TIERFS_RUN_ROOT, 0711) == 0 || errno == EEXIST);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ram_fd = memfd_create("ram", MFD_CLOEXEC);
	arena_fd = memfd_create("arena", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(arena_fd, FILE_BYTES), 0);
	ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
	daemon_pid = fork();
	if (daemon_pid == 0)
		be_daemon(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	attached = mmap(NULL, 8 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fixed = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	atomic_store(&countdown, -1);
}

static void teardown(void)
{
	static const char *const names[] = { TIERFS_ATTACH_SOCKET, TIERFS_ACCESS_SOCKET };
	char path[128];

	kill(daemon_pid, SIGKILL);
	waitpid(daemon_pid, NULL, 0);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

static bool arm(bool system_calls, unsigned int nth)
{
	if (system_calls)
		atomic_store(&countdown, (int)nth);
	else
		fail_arm_plan(&(struct fail_plan){ .kinds = FAIL_ANY, .nth = nth, .all_threads = true });
	return true;
}

/* Whether anything failed; name says what. */
static bool disarm(bool system_calls, char name[64])
{
	bool hit = system_calls ? atomic_exchange(&countdown, -1) == 0 : fail_disarm();

	if (system_calls)
		snprintf(name, 64, "system call %d", atomic_load(&failed_call));
	else
		snprintf(name, 64, "%s", fail_what());
	return hit;
}

static void sweep(const struct function *function, bool system_calls)
{
	bool is_discard = function->call == try_discard;
	struct counts before;
	unsigned int nth;
	bool hit = true;

	attach_again();
	ck_assert_int_eq(try_attach(), 0); /* threads and the connection are there */
	ck_assert_int_eq(try_access_calls(), 0);
	before = count();
	for (nth = 1; hit; nth++) {
		char name[64], what[160];
		int err;

		ck_assert_uint_lt(nth, POINTS_MAX);
		arm(system_calls, nth);
		err = function->call();
		hit = disarm(system_calls, name);
		snprintf(what, sizeof(what), "%s, %s (point %u) failed: %d", function->name, name, nth, err);
		ck_assert_msg(hit || !err, "%s", what);
		ck_assert_msg(err != -EUCLEAN, "%s", what);
		if (function->call == try_detach && !err)
			attach_again();
		check_memory(is_discard);
		/* The next calls work, and bring back a connection that was given up. */
		ck_assert_msg(try_attach() == 0, "%s: nothing works any more", what);
		attach_again();
		check_counts(&before, what);
	}
	printf("%s: %u %s failed\n", function->name, nth - 2, system_calls ? "system calls" : "calls of libc");
}

START_TEST(test_system_calls)
{
	sweep(&functions[_i], true);
}
END_TEST

START_TEST(test_libc)
{
	sweep(&functions[_i], false);
}
END_TEST

#ifndef __SANITIZE_THREAD__ /* it allows no new thread in the child of a process with threads */
enum { FAILED = 1, CANNOT_START, WRONG_DESCRIPTORS, WRONG_THREADS, CANNOT_ATTACH, SUCCEEDED };

/* In a child: tierfs_start() with the nth call failing, and once more with none. The thread of the first start learns
 * of nothing before the second one has ended: it must end all the same.
 */
static int start_twice(bool system_calls, unsigned int nth, unsigned int descriptors)
{
	char name[64];
	bool hit;

	arm(system_calls, nth);
	atomic_store(&hold_agent, true);
	tierfs_start();
	hit = disarm(system_calls, name);
	if (tierfs_start())
		return CANNOT_START;
	atomic_store(&hold_agent, false);
	for (int i = 0; i < 10000 && count_threads(AGENT, NULL) != 1; i++)
		usleep(1000);
	if (count_threads(AGENT, NULL) != 1)
		return WRONG_THREADS;
	if (fail_descriptors() != descriptors)
		return WRONG_DESCRIPTORS;
	if (try_attach())
		return CANNOT_ATTACH;
	return hit ? FAILED : SUCCEEDED;
}

/* The threads cannot be made, or not all of them. */
START_TEST(test_start)
{
	bool system_calls = _i, hit = true;
	unsigned int nth;

	for (nth = 1; hit; nth++) {
		unsigned int before = fail_descriptors();
		int status;
		pid_t pid;

		ck_assert_uint_lt(nth, POINTS_MAX);
		pid = fork();
		if (pid == 0)
			_exit(start_twice(system_calls, nth, before));
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		hit = WIFEXITED(status) && WEXITSTATUS(status) == FAILED;
		ck_assert_msg(hit || (WIFEXITED(status) && WEXITSTATUS(status) == SUCCEEDED), "point %u: status %x",
			      nth, (unsigned int)status);
	}
	printf("tierfs_start: %u %s failed\n", nth - 2, system_calls ? "system calls" : "calls of libc");
}
END_TEST
#endif

int main(void)
{
	int count_functions = sizeof(functions) / sizeof(functions[0]);
	Suite *suite = suite_create("fail_client");
	TCase *cases = tcase_create("fail");

	if (access("/dev/userfaultfd", R_OK | W_OK) < 0) {
		printf("skipped: /dev/userfaultfd cannot be opened, which takes root\n");
		return check_skip(suite);
	}
	tcase_add_checked_fixture(cases, setup, teardown);
	tcase_set_timeout(cases, 120);
	tcase_add_loop_test(cases, test_system_calls, 0, count_functions);
	tcase_add_loop_test(cases, test_libc, 0, count_functions);
#ifndef __SANITIZE_THREAD__
	tcase_add_loop_test(cases, test_start, 0, 2);
#endif
	suite_add_tcase(suite, cases);
	return check_run(suite);
}
