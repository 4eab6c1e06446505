/* map/evict.c - the daemon's side of evict.h: one request at a time, a deadline for its answer, a new worker for one
 * that ended or hangs.
 *
 * A caller owns the connections, the request and the reply while `busy` is its own; the lock guards no more than that
 * flag, and is not held while the worker works.
 */
#include "map/evict.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "map/evict_child.h"

#define TIMEOUT_NS (30 * NS_PER_S)
#define SPAWN_TIMEOUT_NS (5 * NS_PER_S)
#define STOP_TIMEOUT_MS 1000

struct evict {
	struct lock lock;
	pthread_cond_t idle;
	bool busy; /* under lock */

	/* Of the caller that is busy. */
	int spawner_fd; /* -1: the spawner is lost */
	int worker_fd;  /* -1: no worker */
	bool told;      /* of a loss, and no answer since */
	struct evict_request request;
	struct evict_reply reply;

	uint64_t timeout_ns;  /* immutable while there are calls */
	pid_t spawner;        /* immutable */
	_Atomic pid_t worker; /* written by the caller that is busy */
};

/* ---- connections ---- */

/* One message of just this size. */
static int receive(int fd, void *buf, size_t size_bytes, uint64_t timeout_ns)
{
	uint64_t deadline_ns = clock_ns() + timeout_ns;
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	ssize_t got;
	int ready;

	do {
		uint64_t now_ns = clock_ns();
		uint64_t left_ns = now_ns < deadline_ns ? deadline_ns - now_ns : 0;

		ready = poll(&pollfd, 1, (int)((left_ns + NS_PER_MS - 1) / NS_PER_MS));
	} while (ready < 0 && errno == EINTR);
	if (ready < 0)
		return -errno;
	if (ready == 0)
		return -ETIMEDOUT;
	got = recv(fd, buf, size_bytes, MSG_DONTWAIT);
	return got == (ssize_t)size_bytes ? 0 : -EPIPE;
}

static int send_fd(int fd, int passed)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = sizeof(byte) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf)
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &passed, sizeof(int));
	return sendmsg(fd, &msg, MSG_NOSIGNAL) < 0 ? -EPIPE : 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A new worker; one that there was is killed. */
static int spawn(struct evict *evict)
{
	int pair[2], pid, err;

	if (evict->spawner_fd < 0)
		return -EPIPE;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	err = send_fd(evict->spawner_fd, pair[1]);
	close(pair[1]);
	if (!err)
		err = receive(evict->spawner_fd, &pid, sizeof(pid), SPAWN_TIMEOUT_NS);
	if (err) {
		/* An answer that comes late would be taken for the next one. */
		close_fd(&evict->spawner_fd);
		log_error("the helper processes are lost; memory of plain mappings stays in the kernel's cache until "
			  "the next mount");
	} else if (pid < 0) {
		err = pid;
	}
	if (err) {
		close(pair[0]);
		return err;
	}
	evict->worker_fd = pair[0];
	atomic_store(&evict->worker, pid);
	return 0;
}

static void lose_worker(struct evict *evict, int err)
{
	if (!evict->told)
		log_warn("the helper process that empties the kernel's cache %s; starting another",
			 err == -ETIMEDOUT ? "did not answer in time" : "has ended");
	evict->told = true;
	atomic_store(&evict->worker, 0);
	close_fd(&evict->worker_fd);
	spawn(evict); /* else with the next call */
}

/* ---- start and stop ---- */

int evict_start(struct evict **ret)
{
	struct evict *evict;
	pid_t self = getpid();
	int pair[2], err;

	err = evict_child_probe();
	if (err)
		return err;
	evict = calloc(1, sizeof(*evict));
	if (!evict)
		return -ENOMEM;
	lock_init(&evict->lock, LOCK_RANK_STATS); /* a leaf */
	lock_cond_init(&evict->idle);
	evict->spawner_fd = evict->worker_fd = -1;
	evict->timeout_ns = TIMEOUT_NS;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		err = -errno;
		goto err;
	}
	evict->spawner = fork();
	if (evict->spawner == 0)
		evict_child_spawner(pair[1], self);
	err = evict->spawner < 0 ? -errno : 0;
	close(pair[1]);
	evict->spawner_fd = pair[0];
	if (!err)
		err = spawn(evict);
	if (err)
		goto err;
	*ret = evict;
	return 0;
err:
	evict_stop(evict);
	return err;
}

/* It ends after its worker, unless that one hangs in the kernel. */
static void end_spawner(pid_t pid)
{
	CLEANUP_CLOSE int pidfd = pidfd_open(pid, 0);
	struct pollfd pollfd = { .fd = pidfd, .events = POLLIN };

	if (pidfd < 0 || poll(&pollfd, 1, STOP_TIMEOUT_MS) != 1)
		kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

void evict_stop(struct evict *evict)
{
	if (!evict)
		return;
	close_fd(&evict->worker_fd);
	close_fd(&evict->spawner_fd);
	if (evict->spawner > 0)
		end_spawner(evict->spawner);
	pthread_cond_destroy(&evict->idle);
	lock_fini(&evict->lock);
	free(evict);
}

pid_t evict_pid(const struct evict *evict)
{
	return atomic_load(&evict->worker);
}

void evict_set_timeout(struct evict *evict, uint64_t timeout_ns)
{
	evict->timeout_ns = timeout_ns;
}

/* ---- calls ---- */

static void begin(struct evict *evict)
{
	LOCK_SCOPE(&evict->lock);
	while (evict->busy)
		lock_wait(&evict->lock, &evict->idle);
	evict->busy = true;
}

static void end(struct evict *evict)
{
	LOCK_SCOPE(&evict->lock);
	evict->busy = false;
	pthread_cond_signal(&evict->idle);
}

static int call(struct evict *evict)
{
	int err = 0;

	if (evict->worker_fd < 0 && spawn(evict) < 0)
		return -EPIPE;
	if (send(evict->worker_fd, &evict->request, sizeof(evict->request), MSG_NOSIGNAL) < 0)
		err = -EPIPE;
	if (!err)
		err = receive(evict->worker_fd, &evict->reply, sizeof(evict->reply), evict->timeout_ns);
	if (err) {
		lose_worker(evict, err);
		return err;
	}
	evict->told = false;
	return evict->reply.err;
}

static int set_file(struct evict *evict, enum evict_op op, dev_t dev, uint64_t ino, const char *path)
{
	size_t length = path ? strlen(path) : 0;

	if (length >= sizeof(evict->request.path))
		return -ENAMETOOLONG;
	memcpy(evict->request.path, path ? path : "", length + 1);
	evict->request.op = op;
	evict->request.dev = dev;
	evict->request.ino = ino;
	return 0;
}

/* Aligned, not empty, and within what off_t can say. */
static bool whole_pages(uint64_t offset, uint64_t length)
{
	return length > 0 && offset % EVICT_PAGE == 0 && length % EVICT_PAGE == 0 && offset <= INT64_MAX &&
	       length <= INT64_MAX - offset;
}

static int take_out(struct evict *evict, enum evict_op op, dev_t dev, uint64_t ino, const char *path,
		    const struct evict_range *ranges, size_t count, struct evict_answer *per_range,
		    struct evict_summary *ret)
{
	int err;

	if (count == 0 || count > EVICT_RANGES_MAX)
		return -EINVAL;
	for (size_t i = 0; i < count; i++)
		if (!whole_pages(ranges[i].offset, ranges[i].length))
			return -EINVAL;
	begin(evict);
	err = set_file(evict, op, dev, ino, path);
	evict->request.count = (uint32_t)count;
	memcpy(evict->request.ranges, ranges, count * sizeof(*ranges));
	if (!err)
		err = call(evict);
	if (!err) {
		memcpy(per_range, evict->reply.answers, count * sizeof(*per_range));
		*ret = evict->reply.summary;
	}
	end(evict);
	return err;
}

int evict_out(struct evict *evict, dev_t dev, uint64_t ino, const char *path, const struct evict_range *ranges,
	      size_t count, struct evict_answer *per_range, struct evict_summary *ret)
{
	return take_out(evict, EVICT_OP_OUT, dev, ino, path, ranges, count, per_range, ret);
}

int evict_drop(struct evict *evict, dev_t dev, uint64_t ino, const char *path, const struct evict_range *ranges,
	       size_t count, struct evict_answer *per_range, struct evict_summary *ret)
{
	return take_out(evict, EVICT_OP_DROP, dev, ino, path, ranges, count, per_range, ret);
}

static int measure_part(struct evict *evict, uint64_t offset, uint32_t count, uint8_t *cached, uint64_t *cached_bytes)
{
	int err;

	evict->request.offset = offset;
	evict->request.count = count;
	err = call(evict);
	if (err)
		return err;
	for (uint32_t i = 0; i < count; i++)
		cached[i] = evict->reply.measured.bitmap[i / 8] >> (i % 8) & 1;
	*cached_bytes += evict->reply.measured.cached_bytes;
	return 0;
}

int evict_measure(struct evict *evict, dev_t dev, uint64_t ino, const char *path, uint64_t offset, uint64_t block_bytes,
		  uint64_t count, uint8_t *cached, uint64_t *ret_cached_bytes)
{
	uint64_t cached_bytes = 0;
	int err;

	if (!whole_pages(offset, block_bytes) || count > (INT64_MAX - offset) / block_bytes)
		return -EINVAL;
	begin(evict);
	err = set_file(evict, EVICT_OP_MEASURE, dev, ino, path);
	evict->request.block_bytes = block_bytes;
	for (uint64_t first = 0; first < count && !err; first += EVICT_MEASURE_BLOCKS_MAX) {
		uint64_t left = count - first;

		err = measure_part(evict, offset + first * block_bytes,
				   (uint32_t)(left < EVICT_MEASURE_BLOCKS_MAX ? left : EVICT_MEASURE_BLOCKS_MAX),
				   cached + first, &cached_bytes);
	}
	end(evict);
	if (!err)
		*ret_cached_bytes = cached_bytes;
	return err;
}
