/* front/through_child.c - see through_child.h. One process opens, and another one begins it anew if it is killed. Both
 * end with the connection: an open that waits for a daemon which is gone ends when the next one answers it.
 *
 * The kernel may forget the name of the directory of doors when memory is short, and to look it up again it would need
 * the lock of the root. So the process keeps the directory. A descriptor in the mount would make umount(2) fail with
 * EBUSY. What is kept is a mount of the directory of its own, which is in no mount table and counts for no other mount.
 * It does keep the file system, and with it the daemon. So the mount table is watched, and when the mount is gone from
 * it the directory is let go. */
#include "front/through_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "front/mountpoint.h"
#include "wire/wire.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define PAUSE_US 100000 /* between one that was killed and the next */

static void answer(int to, const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
	int err = fd < 0 ? -errno : 0;

	wire_send_bytes(to, &err, sizeof(err), &fd, fd >= 0, MSG_DONTWAIT);
	if (fd >= 0)
		close(fd);
}

/* The directory of doors. */
struct kept {
	int table_fd; /* of mounts; -1: it cannot be watched, and nothing is kept */
	int fd;       /* -1: it is not kept */
	char device[MOUNTPOINT_DEVICE_LEN];
};

static void let_go_if_unmounted(struct kept *kept)
{
	if (kept->fd < 0 || mountpoint_has_device(kept->device))
		return;
	close(kept->fd);
	kept->fd = -1;
}

/* Of the door at path. What cannot be kept is found by its name, as long as the kernel knows it. */
static void keep(struct kept *kept, const char *path)
{
	static char directory[THROUGH_PATH_MAX];
	const char *slash = strrchr(path, '/');
	struct statx attr;

	if (kept->fd >= 0 || kept->table_fd < 0 || !slash)
		return;
	snprintf(directory, sizeof(directory), "%.*s", (int)(slash - path), path);
	kept->fd = open_tree(AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (kept->fd < 0)
		return;
	if (statx(kept->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &attr) < 0) {
		close(kept->fd);
		kept->fd = -1;
		return;
	}
	snprintf(kept->device, sizeof(kept->device), "%u:%u", attr.stx_dev_major, attr.stx_dev_minor);
	let_go_if_unmounted(kept); /* it may have been meanwhile */
}

/* Until there is a request. */
static void watch(struct kept *kept, int fd)
{
	struct pollfd polled[] = { { .fd = fd, .events = POLLIN }, { .fd = kept->table_fd, .events = POLLPRI } };

	do {
		polled[0].revents = polled[1].revents = 0;
		if (poll(polled, 2, -1) > 0 && polled[1].revents)
			let_go_if_unmounted(kept);
	} while (!polled[0].revents);
}

/* Returns when the other end was closed. */
static void serve(int fd)
{
	static char path[THROUGH_PATH_MAX];
	struct kept kept = { .table_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC), .fd = -1 };
	int fds[WIRE_FDS_MAX], fd_count = 0, err;
	size_t length = 0;

	for (;;) {
		watch(&kept, fd);
		err = wire_recv_bytes(fd, path, sizeof(path), fds, &fd_count, 0, &length);
		if (err == -EINTR)
			continue;
		if (err)
			return;
		if (length && !path[length - 1] && fd_count == 1) {
			keep(&kept, path);
			answer(fds[0], path);
		}
		for (int i = 0; i < fd_count; i++)
			close(fds[i]);
	}
}

/* A process of its own: no descriptor but this one, of which the new number is returned. The daemon's signals stay
 * blocked. */
static int become(int keep_fd)
{
	int fd = fcntl(keep_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	prctl(PR_SET_NAME, "tierfs-door");
	prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0); /* that is the daemon's */
	setsid();
	if (fd < 0 || null < 0 || chdir("/") < 0)
		_exit(EXIT_FAILURE);
	for (int std = 0; std <= STDERR_FILENO; std++)
		dup2(null, std);
	if (fd > STDERR_FILENO + 1)
		close_range(STDERR_FILENO + 1, (unsigned int)fd - 1, 0);
	close_range((unsigned int)fd + 1, ~0U, 0);
	return fd;
}

_Noreturn void through_child(int fd)
{
	int status = 0;
	pid_t pid;

	fd = become(fd);
	for (;;) {
		pid = fork();
		if (pid == 0) {
			serve(fd);
			_exit(EXIT_SUCCESS);
		}
		while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		if (pid > 0 && WIFEXITED(status))
			_exit(EXIT_SUCCESS);
		usleep(PAUSE_US);
	}
}
