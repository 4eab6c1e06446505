/* front/control_line.c - see control_line.h. */
#include "front/control_line.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "front/control.h"

#define READ_NS (30 * NS_PER_S)
#define WRITE_NS (10 * NS_PER_S)

int control_line_init(struct control_line *line, int fd)
{
	line->fd = fd;
	line->used = 0;
	line->buf = malloc(CONTROL_LINE_MAX);
	return line->buf ? 0 : -ENOMEM;
}

void control_line_fini(struct control_line *line)
{
	free(line->buf);
	line->buf = NULL;
}

/* Waits for the socket until the deadline. */
static int wait_for(int fd, short events, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd poll_fd = { .fd = fd, .events = events };
		uint64_t now_ns = clock_ns();
		int count;

		if (now_ns >= deadline_ns)
			return -ETIMEDOUT;
		count = poll(&poll_fd, 1, (int)((deadline_ns - now_ns) / NS_PER_MS) + 1);
		if (count < 0 && errno != EINTR)
			return -errno;
		if (count > 0)
			return 0;
	}
}

static int parse(struct control_line *line, size_t length, json_t **ret)
{
	json_t *object = json_loadb(line->buf, length, JSON_REJECT_DUPLICATES, NULL);

	line->used -= length + 1;
	memmove(line->buf, line->buf + length + 1, line->used);
	if (!json_is_object(object)) {
		json_decref(object);
		return -EBADMSG;
	}
	*ret = object;
	return 0;
}

int control_line_read(struct control_line *line, json_t **ret)
{
	uint64_t deadline_ns = clock_ns() + READ_NS;
	size_t searched = 0;

	for (;;) {
		char *end = memchr(line->buf + searched, '\n', line->used - searched);
		ssize_t got;
		int err;

		if (end)
			return parse(line, (size_t)(end - line->buf), ret);
		searched = line->used;
		if (line->used == CONTROL_LINE_MAX)
			return -EMSGSIZE;
		err = wait_for(line->fd, POLLIN, deadline_ns);
		if (err)
			return err;
		got = recv(line->fd, line->buf + line->used, CONTROL_LINE_MAX - line->used, MSG_DONTWAIT);
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			return -ECONNRESET;
		if (got == 0)
			return -ECONNRESET;
		if (got > 0)
			line->used += (size_t)got;
	}
}

static int send_all(int fd, const char *bytes, size_t length)
{
	uint64_t deadline_ns = clock_ns() + WRITE_NS;

	while (length > 0) {
		ssize_t sent = send(fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent > 0) {
			bytes += sent;
			length -= (size_t)sent;
			continue;
		}
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return -EPIPE;
		if (wait_for(fd, POLLOUT, deadline_ns))
			return -ETIMEDOUT;
	}
	return 0;
}

int control_line_write(struct control_line *line, json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
	size_t length;
	int err;

	json_decref(object);
	if (!text)
		return -ENOMEM;
	length = strlen(text);
	text[length] = '\n'; /* in place of the NUL: one send */
	err = send_all(line->fd, text, length + 1);
	free(text);
	return err;
}

bool control_line_alive(const struct control_line *line)
{
	struct pollfd poll_fd = { .fd = line->fd };

	/* Not POLLRDHUP: a client may close its sending side and still want the answer. */
	return poll(&poll_fd, 1, 0) <= 0 || !(poll_fd.revents & (POLLHUP | POLLERR));
}
