/* front/holder_main.c - see holder.h: the process of the holder. One thread; it sleeps in poll(2) while the daemon
 * lives.
 *
 * `daemon` is who serves the mount now or is about to: the one that forked the holder, one that the holder started, or
 * one that asked. Its death is seen by its pidfd alone: other processes may have inherited its end of the connection. A
 * daemon that replaces itself (exec) keeps its number, so whoever asks with that number is the successor, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "front/holder_main.h"
#include "front/holder_message.h"
#include "front/mountpoint.h"

#define ASK_MS 1000  /* a peer that connects has its question ready */
#define DYING_MS 300 /* a daemon that was killed takes a moment to be gone */
#define TICK_MS 100  /* while nobody serves: is the mount still there? */

/* A userfaultfd of a process that maps a file of the pool. */
struct stash {
	TAILQ_ENTRY(stash) link;
	struct kept_mapping mapping;
	int fd;
};

/* A socket on which the daemon listens. */
struct listener {
	TAILQ_ENTRY(listener) link;
	char name[HOLDER_NAME_MAX];
	int fd;
};

static struct {
	const struct holder_config *config;

	pid_t daemon;
	int pidfd;         /* -1: there is no daemon */
	int conn;          /* -1: it has not asked yet, or has closed */
	uint64_t alone_ns; /* since when there is no daemon */

	int listen_fd; /* -1: nothing is held yet */
	ino_t socket_ino;
	int fuse_fd;
	char device[MOUNTPOINT_DEVICE_LEN];
	struct holder_message kept; /* what HOLDER_KEEP said */
	uint32_t sessions;
	TAILQ_HEAD(, stash) stashes;
	TAILQ_HEAD(, listener) listeners;

	uint64_t restarts_ns[HOLDER_RESTARTS]; /* a ring */
	unsigned int restarts;
} h = { .pidfd = -1, .conn = -1, .listen_fd = -1, .fuse_fd = -1 };

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void socket_path(char *buf, size_t cap)
{
	snprintf(buf, cap, "%s/%s", h.kept.run_dir, HOLDER_SOCKET);
}

/* Also gives up the mount if it is still there: with the last descriptor the kernel ends the connection. */
static _Noreturn void leave(void)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct stat attr;

	if (h.listen_fd >= 0) {
		socket_path(path, sizeof(path));
		/* Another holder may have come meanwhile. */
		if (lstat(path, &attr) == 0 && attr.st_ino == h.socket_ino)
			unlink(path);
	}
	_exit(EXIT_SUCCESS);
}

static _Noreturn void give_up(const char *why)
{
	log_error("%s: %s; the mount is dead, and plain mappings of its files with it", h.kept.mountpoint, why);
	leave();
}

static void answer(int conn, enum holder_type type, int fd)
{
	struct holder_message message = {
		.version = HOLDER_VERSION, .type = type, .number = h.sessions, .pid = getpid()
	};

	if (type == HOLDER_YES && fd >= 0) {
		message.init_len = h.kept.init_len;
		memcpy(message.init, h.kept.init, h.kept.init_len);
	}
	if (holder_message_send(conn, &message, fd) < 0)
		log_debug("whoever asked the holder is gone");
}

/* ---- userfaultfds ---- */

static void drop(struct stash *stash)
{
	TAILQ_REMOVE(&h.stashes, stash, link);
	close(stash->fd);
	free(stash);
}

static void unstash(const struct holder_message *message)
{
	struct stash *stash, *next;
	struct kept_mapping mapping;

	memcpy(&mapping, message->init, sizeof(mapping));
	for (stash = TAILQ_FIRST(&h.stashes); stash; stash = next) {
		next = TAILQ_NEXT(stash, link);
		if (stash->mapping.id == mapping.id)
			drop(stash);
	}
}

/* Takes the descriptor. */
static void stash(const struct holder_message *message, int fd)
{
	struct stash *stash = malloc(sizeof(*stash));

	if (!stash) {
		close(fd);
		return;
	}
	memcpy(&stash->mapping, message->init, sizeof(stash->mapping));
	stash->fd = fd;
	TAILQ_INSERT_TAIL(&h.stashes, stash, link);
}

/* Those of processes that have ended. The pid of one may be used again: the next daemon looks closer. */
static void drop_dead(void)
{
	struct stash *stash, *next;

	for (stash = TAILQ_FIRST(&h.stashes); stash; stash = next) {
		next = TAILQ_NEXT(stash, link);
		if (kill(stash->mapping.pid, 0) < 0 && errno == ESRCH)
			drop(stash);
	}
}

/* Nothing is left to be kept for. */
static void leave_if_empty(void)
{
	drop_dead();
	if (TAILQ_EMPTY(&h.stashes))
		leave();
}

/* ---- sockets ---- */

static struct listener *find_listener(const char *name)
{
	struct listener *listener;

	TAILQ_FOREACH(listener, &h.listeners, link)
		if (strcmp(listener->name, name) == 0)
			break;
	return listener;
}

/* Takes the descriptor. */
static void keep_listener(const struct holder_message *message, int fd)
{
	const char *name = holder_message_listener(message);
	struct listener *listener = name ? find_listener(name) : NULL;

	if (listener) {
		close(listener->fd);
		listener->fd = fd;
		return;
	}
	listener = name ? malloc(sizeof(*listener)) : NULL;
	if (!listener) {
		close(fd);
		return;
	}
	snprintf(listener->name, sizeof(listener->name), "%s", name);
	listener->fd = fd;
	TAILQ_INSERT_TAIL(&h.listeners, listener, link);
}

/* ---- handing over ---- */

/* Who asks has a while for each. */
static bool hand(int conn, enum holder_type type, const void *what, size_t length, int fd)
{
	struct holder_message message = { .version = HOLDER_VERSION, .type = type, .init_len = (uint32_t)length };
	struct pollfd pollfd = { .fd = conn, .events = POLLOUT };

	memcpy(message.init, what, length);
	return poll(&pollfd, 1, ASK_MS) > 0 && holder_message_send(conn, &message, fd) == 0;
}

static bool hand_over_stashes(int conn)
{
	struct stash *stash;

	drop_dead();
	TAILQ_FOREACH(stash, &h.stashes, link)
		if (!hand(conn, HOLDER_STASH, &stash->mapping, sizeof(stash->mapping), stash->fd))
			return false;
	return true;
}

static bool hand_over_listeners(int conn)
{
	struct listener *listener;

	TAILQ_FOREACH(listener, &h.listeners, link)
		if (!hand(conn, HOLDER_LISTENER, listener->name, strlen(listener->name) + 1, listener->fd))
			return false;
	return true;
}

static void hand_over(int conn, enum holder_type question)
{
	struct pollfd pollfd = { .fd = conn, .events = POLLOUT };
	bool all = question == HOLDER_FETCH ? hand_over_stashes(conn) : hand_over_listeners(conn);

	if (all && poll(&pollfd, 1, ASK_MS) > 0)
		answer(conn, HOLDER_NO, -1);
}

/* ---- holding ---- */

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat attr;

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0 || lstat(path, &attr) < 0)
		return -errno;
	h.socket_ino = attr.st_ino;
	h.listen_fd = STEAL_FD(fd);
	return 0;
}

static void keep(const struct holder_message *message, int fuse_fd)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	int err;

	h.kept = *message;
	socket_path(path, sizeof(path));
	err = mountpoint_device(h.kept.mountpoint, h.device);
	if (!err)
		err = listen_at(path);
	if (err < 0) {
		log_error("%s: cannot hold the mount: %s", h.kept.mountpoint, strerror(-err));
		answer(h.conn, HOLDER_NO, -1);
		_exit(EXIT_FAILURE);
	}
	h.fuse_fd = fuse_fd;
	answer(h.conn, HOLDER_YES, -1);
}

static void hear(void)
{
	struct holder_message message;
	int fd = -1, err = holder_message_receive(h.conn, 0, &message, &fd);

	if (err == -ETIMEDOUT)
		return;
	if (err < 0) {
		close_fd(&h.conn);
	} else if (message.type == HOLDER_BYE) {
		leave();
	} else if (message.type == HOLDER_KEEP && h.fuse_fd < 0 && fd >= 0) {
		keep(&message, fd);
		return;
	} else if (message.type == HOLDER_STASH && fd >= 0) {
		stash(&message, fd);
		return;
	} else if (message.type == HOLDER_LISTENER && fd >= 0) {
		keep_listener(&message, fd);
		return;
	} else if (message.type == HOLDER_UNSTASH) {
		unstash(&message);
	} else if (message.type == HOLDER_TAKE && h.fuse_fd >= 0) {
		h.sessions++;
		answer(h.conn, HOLDER_YES, h.fuse_fd);
	}
	close_fd(&fd);
}

/* ---- the daemon comes and goes ---- */

static void watch(pid_t pid)
{
	close_fd(&h.pidfd);
	h.daemon = pid;
	h.pidfd = pidfd_open(pid, 0);
	h.alone_ns = clock_ns();
}

static bool is_dead(int timeout_ms)
{
	struct pollfd pollfd = { .fd = h.pidfd, .events = POLLIN };

	return h.pidfd < 0 || poll(&pollfd, 1, timeout_ms) > 0;
}

static _Noreturn void become_daemon(void)
{
	sigset_t none;

	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	execv(h.config->program, h.config->argv);
	execv("/proc/self/exe", h.config->argv); /* removed meanwhile */
	_exit(EXIT_FAILURE);
}

static void restart(void)
{
	uint64_t now = clock_ns(), *oldest = &h.restarts_ns[h.restarts % HOLDER_RESTARTS];
	pid_t child;

	if (h.restarts >= HOLDER_RESTARTS && now - *oldest < HOLDER_RESTARTS_NS)
		give_up("tierfs dies again and again");
	*oldest = now;
	h.restarts++;
	child = fork();
	if (child == 0)
		become_daemon();
	if (child < 0)
		give_up("a new tierfs cannot be started");
	log_warn("%s: tierfs has died; process %ld takes over", h.kept.mountpoint, (long)child);
	watch(child);
}

static void on_death(void)
{
	close_fd(&h.pidfd);
	close_fd(&h.conn);
	waitpid(h.daemon, NULL, WNOHANG); /* if it is our child */
	h.daemon = 0;
	h.alone_ns = clock_ns();
	if (h.fuse_fd < 0 || !mountpoint_has_device(h.device)) {
		close_fd(&h.fuse_fd);
		leave_if_empty();
		return;
	}
	if (!h.config->foreground)
		restart();
	else
		log_warn("%s: tierfs has died; its mount waits for a new one", h.kept.mountpoint);
}

static void answer_asker(int conn, pid_t pid, const struct holder_message *message)
{
	bool again = pid == h.daemon;

	/* One that the holder just started asks for the first time. */
	if (!again && !is_dead(DYING_MS)) {
		answer(conn, HOLDER_BUSY, -1);
		close(conn);
		return;
	}
	if (h.fuse_fd < 0 || !mountpoint_has_device(h.device) || strcmp(message->mountpoint, h.kept.mountpoint) != 0) {
		/* The pool goes on elsewhere. */
		answer(conn, HOLDER_NO, -1);
		close(conn);
		close_fd(&h.fuse_fd);
		leave_if_empty();
		return;
	}
	close_fd(&h.conn);
	if (!again) {
		waitpid(h.daemon, NULL, WNOHANG);
		watch(pid);
	}
	h.conn = conn;
	answer(conn, HOLDER_YES, -1);
}

/* With the mount gone there is nothing to stay for once the userfaultfds were asked for. */
static void answer_fetcher(int conn, pid_t pid, enum holder_type question)
{
	if (pid != h.daemon && !is_dead(DYING_MS))
		answer(conn, HOLDER_BUSY, -1);
	else
		hand_over(conn, question);
	close(conn);
	if (question == HOLDER_FETCH && h.fuse_fd < 0 && h.pidfd < 0)
		leave();
}

static void on_asker(void)
{
	int conn = accept4(h.listen_fd, NULL, NULL, SOCK_CLOEXEC), fd = -1;
	struct holder_message message = { .type = 0 };
	struct ucred peer = { .pid = 0 };
	socklen_t len = sizeof(peer);

	if (conn < 0)
		return;
	if (getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == 0 && peer.pid > 0 &&
	    holder_message_receive(conn, ASK_MS, &message, &fd) == 0 && message.type == HOLDER_ASK)
		answer_asker(conn, peer.pid, &message);
	else if (message.type == HOLDER_FETCH || message.type == HOLDER_LISTENERS)
		answer_fetcher(conn, peer.pid, message.type);
	else
		close(conn);
	close_fd(&fd);
}

static void look_around(void)
{
	if (h.fuse_fd >= 0 && !mountpoint_has_device(h.device))
		close_fd(&h.fuse_fd);
	if (h.fuse_fd >= 0 && clock_ns() - h.alone_ns > HOLDER_PATIENCE_NS) {
		if (TAILQ_EMPTY(&h.stashes))
			give_up("no tierfs came to take over");
		log_error("%s: no tierfs came to take over; the mount is dead; attached memory waits for one",
			  h.kept.mountpoint);
		close_fd(&h.fuse_fd);
	}
	if (h.fuse_fd < 0)
		leave_if_empty();
}

/* ---- the process ---- */

static void settle_in(int conn)
{
	struct rlimit files;
	int null;

	prctl(PR_SET_NAME, "tierfs-holder");
	signal(SIGTERM, SIG_IGN); /* whoever ends all of a service at once: the daemon needs us to the last */
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	setsid();
	umask(0177);
	closelog(); /* its descriptor is about to be closed */
	h.conn = fcntl(conn, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (h.conn < 0 || null < 0)
		_exit(EXIT_FAILURE);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (!h.config->foreground)
		dup2(null, STDERR_FILENO);
	if (h.conn > STDERR_FILENO + 1)
		close_range(STDERR_FILENO + 1, (unsigned int)h.conn - 1, 0);
	close_range((unsigned int)h.conn + 1, ~0U, 0);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	log_init(h.config->foreground ? LOG_TARGET_STDERR : LOG_TARGET_SYSLOG, LOG_LEVEL_INFO);
}

_Noreturn void holder_main(int conn, pid_t daemon, const struct holder_config *config)
{
	h.config = config;
	TAILQ_INIT(&h.stashes);
	TAILQ_INIT(&h.listeners);
	settle_in(conn);
	watch(daemon);
	if (h.pidfd < 0 || getppid() != daemon)
		_exit(EXIT_FAILURE);
	for (;;) {
		struct pollfd fds[] = {
			{ .fd = h.conn, .events = POLLIN },
			{ .fd = h.pidfd, .events = POLLIN },
			{ .fd = h.listen_fd, .events = POLLIN },
		};

		if (poll(fds, 3, h.pidfd < 0 ? TICK_MS : -1) < 0 && errno != EINTR)
			give_up(strerror(errno));
		if (fds[0].revents)
			hear(); /* first: the last word of a daemon that has ended */
		if (fds[1].revents)
			on_death();
		if (fds[2].revents)
			on_asker();
		if (h.pidfd < 0)
			look_around();
	}
}
