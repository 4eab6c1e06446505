/* move/channel.c - see move/channel.h. */
#include "move/channel.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

/* A peer that is gone without a word is noticed after this time. */
#define PEER_TIMEOUT_MS 30000U
#define KEEPALIVE_S 5
/* What a rate limit lets through at once. */
#define BURST_NS (100 * NS_PER_MS)

static int set_why(char *why, int err, const char *what, const char *detail)
{
	snprintf(why, CHANNEL_WHY_LEN, "%s: %s", what, detail ? detail : strerror(-err));
	return err;
}

/* --- TCP -------------------------------------------------------------------------------------------------------- */

static int resolve(const char *address, bool passive, struct addrinfo **ret, char *why)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0 };
	char host[256];
	const char *port = strrchr(address, ':');
	size_t length = port ? (size_t)(port - address) : 0;
	int err;

	if (!port || !port[1] || length >= sizeof(host))
		return set_why(why, -EINVAL, address, "write HOST:PORT");
	memcpy(host, address, length);
	host[length] = '\0';
	if (length > 1 && host[0] == '[' && host[length - 1] == ']') {
		host[length - 1] = '\0';
		memmove(host, host + 1, length - 1);
	}
	err = getaddrinfo(*host ? host : NULL, port + 1, &hints, ret);
	return err ? set_why(why, -EINVAL, address, gai_strerror(err)) : 0;
}

static void tune(int fd)
{
	unsigned int timeout = PEER_TIMEOUT_MS;
	int on = 1, seconds = KEEPALIVE_S, count = 3;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
}

static void take_socket(int fd, struct channel *ret)
{
	*ret = (struct channel){ .in_fd = fd, .out_fd = fd, .two_way = true };
}

static void say_where(int fd)
{
	struct sockaddr_storage name;
	socklen_t length = sizeof(name);
	char host[64], port[16];

	if (getsockname(fd, (struct sockaddr *)&name, &length) == 0 &&
	    getnameinfo((struct sockaddr *)&name, length, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		fprintf(stderr, strchr(host, ':') ? "tierctl: listening on [%s]:%s\n" : "tierctl: listening on %s:%s\n",
			host, port);
}

int channel_listen(const char *address, struct channel *ret, char why[static CHANNEL_WHY_LEN])
{
	CLEANUP_CLOSE int fd = -1;
	struct addrinfo *list;
	int on = 1, peer, err = resolve(address, true, &list, why);

	if (err)
		return err;
	fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, list->ai_addr, list->ai_addrlen) < 0 || listen(fd, 1) < 0)
		err = -errno;
	freeaddrinfo(list);
	if (err)
		return set_why(why, err, address, NULL);
	say_where(fd);
	do {
		peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	} while (peer < 0 && errno == EINTR);
	if (peer < 0)
		return set_why(why, -errno, address, NULL);
	tune(peer);
	take_socket(peer, ret);
	return 0;
}

int channel_connect(const char *address, struct channel *ret, char why[static CHANNEL_WHY_LEN])
{
	struct addrinfo *list;
	int fd = -1, err = resolve(address, false, &list, why);

	if (err)
		return err;
	for (struct addrinfo *at = list; at; at = at->ai_next) {
		fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) == 0)
			break;
		err = -errno;
		cleanup_closep(&fd);
		fd = -1;
	}
	freeaddrinfo(list);
	if (fd < 0)
		return set_why(why, err, address, NULL);
	tune(fd);
	take_socket(fd, ret);
	return 0;
}

/* --- pipes ------------------------------------------------------------------------------------------------------ */

int channel_command(const char *command, struct channel *ret, char why[static CHANNEL_WHY_LEN])
{
	int pair[2];
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return set_why(why, -errno, "socketpair", NULL);
	child = fork();
	if (child == 0) {
		signal(SIGPIPE, SIG_DFL); /* ignored here */
		dup2(pair[1], STDIN_FILENO);
		dup2(pair[1], STDOUT_FILENO);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	if (child < 0) {
		close(pair[0]);
		return set_why(why, -errno, command, NULL);
	}
	take_socket(pair[0], ret);
	ret->child = child;
	return 0;
}

int channel_standard(bool sending, bool answer, struct channel *ret, char why[static CHANNEL_WHY_LEN])
{
	bool in = answer || !sending, out = answer || sending;

	if ((in && isatty(STDIN_FILENO)) || (out && isatty(STDOUT_FILENO)))
		return set_why(why, -EINVAL, sending ? "standard output" : "standard input",
			       "a stream is nothing for a terminal: use a pipe, --listen or --connect");
	/* Without an eventfd a read that waits is not broken off: it ends when the other side does. */
	*ret = (struct channel){ .in_fd = in ? STDIN_FILENO : -1,
				 .out_fd = out ? STDOUT_FILENO : -1,
				 .break_fd = answer ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : -1,
				 .two_way = answer };
	return 0;
}

void channel_end_writing(struct channel *channel)
{
	if (channel->out_fd >= 0 && channel->out_fd == channel->in_fd)
		shutdown(channel->out_fd, SHUT_WR);
}

void channel_break(struct channel *channel)
{
	if (shutdown(channel->in_fd, SHUT_RDWR) < 0 && channel->break_fd > 0)
		eventfd_write(channel->break_fd, 1);
}

int channel_close(struct channel *channel)
{
	int status = 0;

	if (channel->in_fd > STDERR_FILENO)
		close(channel->in_fd);
	if (channel->break_fd > 0)
		close(channel->break_fd);
	channel->in_fd = channel->out_fd = channel->break_fd = -1;
	if (channel->child > 0)
		while (waitpid(channel->child, &status, 0) < 0 && errno == EINTR)
			;
	channel->child = 0;
	return status ? -ECHILD : 0;
}

/* --- bytes ------------------------------------------------------------------------------------------------------ */

/* Until there is something to read, or it was broken off. */
static int wait_input(const struct channel *channel)
{
	struct pollfd waits[] = { { .fd = channel->in_fd, .events = POLLIN },
				  { .fd = channel->break_fd, .events = POLLIN } };

	while (poll(waits, 2, -1) < 0)
		if (errno != EINTR)
			return -errno;
	return waits[1].revents ? -ECANCELED : 0;
}

ssize_t channel_read(void *arg, void *buf, size_t length)
{
	struct channel *channel = arg;
	int err = channel->break_fd > 0 ? wait_input(channel) : 0;

	while (!err) {
		ssize_t got = read(channel->in_fd, buf, length);

		if (got >= 0 || errno != EINTR)
			return got < 0 ? -errno : got;
	}
	return err;
}

/* Waits until so many bytes more are within the rate. Time that was not used is forgotten but for a burst. */
static void keep_rate(struct channel *channel, size_t length)
{
	uint64_t now_ns, due_ns;

	if (!channel->rate_bytes || channel->hurry)
		return;
	now_ns = clock_ns();
	due_ns = channel->start_ns +
		 (uint64_t)((double)channel->account_bytes / (double)channel->rate_bytes * (double)NS_PER_S);
	if (due_ns + BURST_NS < now_ns) {
		channel->start_ns = now_ns - BURST_NS;
		channel->account_bytes = 0;
	} else if (due_ns > now_ns) {
		clock_sleep(due_ns - now_ns);
	}
	channel->account_bytes += length;
}

int channel_write(void *arg, const void *buf, size_t length)
{
	struct channel *channel = arg;

	while (length) {
		size_t piece = length < 65536 ? length : 65536;
		ssize_t put;

		keep_rate(channel, piece);
		put = write(channel->out_fd, buf, piece);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		buf = (const char *)buf + put;
		length -= (size_t)put;
		channel->written_bytes += (uint64_t)put;
	}
	return 0;
}
