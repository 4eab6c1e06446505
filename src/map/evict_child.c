/* map/evict_child.c - the spawner and the worker of evict_child.h.
 *
 * How pages leave: write-back is started for all ranges, then waited for; each process that maps the file is asked to
 * page the addresses out, which unmaps and frees what it alone maps; what nobody maps any more, such as read-ahead,
 * goes by POSIX_FADV_DONTNEED. cachestat(2) tells what stayed. A page that was just read may lie in a list of another
 * CPU where reclaim does not find it; DONTNEED empties these lists when it meets one, so what is left is tried once
 * more after it.
 *
 * The file is open only while a request is served: the mount must not be busy because of us.
 */
#include "map/evict_child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "map/evict_mappers.h"

/* Each DONTNEED that meets a page that is in use empties lists of all CPUs: not for hundreds of ranges. */
#define VAIN_MAX 8U
#define MEASURE_PARTS 16U

#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* Newer than Debian 12's headers; include/uapi/linux/mman.h of Linux 6.5. */
struct cachestat_area {
	uint64_t off, len;
};

struct cachestat_pages {
	uint64_t cache, dirty, writeback, evicted, recently_evicted;
};

static int cachestat_pages(int fd, uint64_t offset, uint64_t length, struct cachestat_pages *ret)
{
	struct cachestat_area area = { .off = offset, .len = length };

	return syscall(SYS_cachestat, fd, &area, ret, 0) < 0 ? -errno : 0;
}

int evict_child_probe(void)
{
	struct cachestat_pages pages;
	int err = cachestat_pages(-1, 0, EVICT_PAGE, &pages);

	return err == -EBADF ? 0 : err;
}

/* ---- the worker ---- */

static struct evict_mappers *mappers;
static struct evict_request request;
static struct evict_reply reply;
static struct evict_range rest[EVICT_RANGES_MAX];

static int open_path(const char *path)
{
	struct stat attr;
	int fd, err;

	/* Whatever the name leads to by now, opening it must not wait. */
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOATIME | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	err = fstat(fd, &attr) < 0 ? -errno : 0;
	if (!err && (attr.st_dev != request.dev || attr.st_ino != request.ino))
		err = -ENOENT;
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

static int open_file(void)
{
	int path_error = request.path[0] ? open_path(request.path) : -ENOENT;
	int fd;

	if (path_error >= 0)
		return path_error;
	evict_mappers_look(mappers, request.dev, false);
	fd = evict_mappers_open(mappers, request.ino);
	if (fd < 0 && fd != -ESRCH) {
		evict_mappers_look(mappers, request.dev, true);
		fd = evict_mappers_open(mappers, request.ino);
	}
	return fd == -ESRCH ? path_error : fd;
}

/* The kernel may skip what it is asked to start when it is busy, but not what is waited for. */
static int write_back(int fd)
{
	const unsigned int all = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
	int err = 0;

	for (uint32_t i = 0; i < request.count; i++)
		sync_file_range(fd, (off_t)request.ranges[i].offset, (off_t)request.ranges[i].length,
				SYNC_FILE_RANGE_WRITE);
	for (uint32_t i = 0; i < request.count; i++)
		if (sync_file_range(fd, (off_t)request.ranges[i].offset, (off_t)request.ranges[i].length, all) < 0 &&
		    !err)
			err = -errno;
	return err;
}

static int ask(int fd, uint32_t index)
{
	const struct evict_range *range = &request.ranges[index];
	struct evict_answer *answer = &reply.answers[index];
	struct cachestat_pages pages;
	uint64_t unclean;
	int err = cachestat_pages(fd, range->offset, range->length, &pages);

	if (err)
		return err;
	unclean = pages.dirty + pages.writeback; /* a page may be both */
	answer->cached_bytes = pages.cache * EVICT_PAGE;
	answer->dirty_bytes = (unclean < pages.cache ? unclean : pages.cache) * EVICT_PAGE;
	return 0;
}

static bool clean_left(uint32_t index)
{
	return reply.answers[index].cached_bytes > reply.answers[index].dirty_bytes;
}

static int drop_unmapped(int fd)
{
	unsigned int vain = 0;
	int err = 0;

	for (uint32_t i = 0; i < request.count && !err; i++) {
		const struct evict_range *range = &request.ranges[i];
		uint64_t before;

		err = ask(fd, i);
		if (err || !clean_left(i) || vain == VAIN_MAX)
			continue;
		before = reply.answers[i].cached_bytes;
		posix_fadvise(fd, (off_t)range->offset, (off_t)range->length, POSIX_FADV_DONTNEED);
		err = ask(fd, i);
		vain = reply.answers[i].cached_bytes < before ? 0 : vain + 1;
	}
	return err;
}

static void page_out(const struct evict_range *ranges, size_t count)
{
	if (evict_mappers_pageout(mappers, request.ino, ranges, count, &reply.summary))
		return;
	evict_mappers_look(mappers, request.dev, true);
	evict_mappers_pageout(mappers, request.ino, ranges, count, &reply.summary);
}

static int page_out_rest(int fd)
{
	uint32_t count = 0;
	int err = 0;

	for (uint32_t i = 0; i < request.count; i++)
		if (clean_left(i))
			rest[count++] = request.ranges[i];
	if (count == 0)
		return 0;
	page_out(rest, count);
	for (uint32_t i = 0; i < request.count && !err; i++)
		if (clean_left(i))
			err = ask(fd, i);
	return err;
}

static int take_out(bool mapped)
{
	CLEANUP_CLOSE int fd = open_file();
	int err;

	reply.summary.opened = fd >= 0;
	reply.summary.open_error = fd < 0 ? fd : 0;
	if (fd < 0)
		return 0;
	reply.summary.sync_error = write_back(fd);
	if (mapped) {
		evict_mappers_look(mappers, request.dev, false);
		page_out(request.ranges, request.count);
	}
	err = drop_unmapped(fd);
	if (!err && reply.summary.mappers > 0)
		err = page_out_rest(fd);
	return err;
}

static void mark(uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count; i++)
		reply.measured.bitmap[i / 8] |= (uint8_t)(1U << (i % 8));
}

/* Looks closer only where a part of the blocks is cached. */
static int measure_span(int fd, uint64_t first, uint64_t count, uint64_t *ret_cached_bytes)
{
	uint64_t part = (count + MEASURE_PARTS - 1) / MEASURE_PARTS, ignored;
	struct cachestat_pages pages;
	int err;

	err = cachestat_pages(fd, request.offset + first * request.block_bytes, count * request.block_bytes, &pages);
	if (err)
		return err;
	*ret_cached_bytes = pages.cache * EVICT_PAGE;
	if (*ret_cached_bytes > 0 && (count == 1 || *ret_cached_bytes == count * request.block_bytes))
		mark(first, count);
	else if (*ret_cached_bytes > 0)
		for (uint64_t i = first; i < first + count && !err; i += part)
			err = measure_span(fd, i, part < first + count - i ? part : first + count - i, &ignored);
	return err;
}

static int measure(void)
{
	CLEANUP_CLOSE int fd = open_file();

	if (fd < 0)
		return fd;
	return measure_span(fd, 0, request.count, &reply.measured.cached_bytes);
}

static int serve(void)
{
	switch ((enum evict_op)request.op) {
	case EVICT_OP_OUT:
		return take_out(true);
	case EVICT_OP_DROP:
		return take_out(false);
	case EVICT_OP_MEASURE:
		return measure();
	}
	return -EINVAL;
}

/* ---- processes ---- */

/* Ends with the connection and with its parent, by nothing that a terminal or a service manager sends to all. */
static void reset_signals(void)
{
	static const int ignored[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2 };
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int nr = 1; nr < NSIG; nr++)
		sigaction(nr, &action, NULL);
	action.sa_handler = SIG_IGN;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		sigaction(ignored[i], &action, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Makes a forked process its own: name, signals, no descriptor but this one, of which the new number is returned. */
static int become(const char *name, int keep_fd, pid_t parent)
{
	int fd, null;

	prctl(PR_SET_NAME, name);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_SUCCESS);
	prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0); /* that is the daemon's */
	reset_signals();
	setsid();
	fd = fcntl(keep_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0 || null < 0 || chdir("/") < 0)
		_exit(EXIT_FAILURE);
	for (int std = 0; std <= STDERR_FILENO; std++)
		dup2(null, std);
	if (fd > STDERR_FILENO + 1)
		close_range(STDERR_FILENO + 1, (unsigned int)fd - 1, 0);
	close_range((unsigned int)fd + 1, ~0U, 0);
	return fd;
}

static _Noreturn void worker(int fd, pid_t parent)
{
	fd = become("tierfs-evict", fd, parent);
	if (evict_mappers_new(&mappers) < 0)
		_exit(EXIT_FAILURE);
	for (;;) {
		ssize_t got = recv(fd, &request, sizeof(request), 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got != (ssize_t)sizeof(request))
			_exit(EXIT_SUCCESS);
		memset(&reply, 0, sizeof(reply));
		reply.err = serve();
		if (send(fd, &reply, sizeof(reply), MSG_NOSIGNAL) != (ssize_t)sizeof(reply))
			_exit(EXIT_SUCCESS);
	}
}

/* The worker's end of a connection, or -1: the daemon has closed its own. */
static int receive_fd(int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = sizeof(byte) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf)
	};
	struct cmsghdr *cmsg;
	ssize_t got;
	int received;

	do
		got = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	cmsg = got > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (!cmsg || cmsg->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&received, CMSG_DATA(cmsg), sizeof(received));
	return received;
}

/* Only a worker that was not yet waited for is killed: its number can be nobody else's. It may hang in the kernel,
 * where it ends when it can; one that is replaced is waited for later. */
static void end_worker(pid_t pid, bool wait)
{
	pid_t ended;

	while ((ended = waitpid(-1, NULL, WNOHANG)) > 0)
		if (ended == pid)
			pid = 0;
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	if (wait)
		waitpid(pid, NULL, 0);
}

_Noreturn void evict_child_spawner(int fd, pid_t parent)
{
	pid_t pid = 0, self = getpid();
	int worker_fd;

	fd = become("tierfs-spawner", fd, parent);
	while ((worker_fd = receive_fd(fd)) >= 0) {
		int answer;

		end_worker(pid, false);
		pid = fork();
		if (pid == 0)
			worker(worker_fd, self);
		answer = pid < 0 ? -errno : (int)pid;
		close(worker_fd);
		if (send(fd, &answer, sizeof(answer), MSG_NOSIGNAL) < 0)
			break;
	}
	end_worker(pid, true);
	_exit(EXIT_SUCCESS);
}
