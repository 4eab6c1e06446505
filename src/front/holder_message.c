/* front/holder_message.c - see holder_message.h. */
#include "front/holder_message.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/wire.h"

int holder_message_send(int conn, const struct holder_message *message, int fd)
{
	return wire_send_bytes(conn, message, sizeof(*message), &fd, fd >= 0, MSG_DONTWAIT);
}

int holder_message_receive(int conn, int timeout_ms, struct holder_message *ret, int *ret_fd)
{
	struct pollfd pollfd = { .fd = conn, .events = POLLIN };
	int fds[WIRE_FDS_MAX], fd_count, err;
	size_t length;

	while (poll(&pollfd, 1, timeout_ms) < 0)
		if (errno != EINTR)
			return -errno;
	err = wire_recv_bytes(conn, ret, sizeof(*ret), fds, &fd_count, MSG_DONTWAIT, &length);
	if (err < 0)
		return err == -EAGAIN ? -ETIMEDOUT : err == -ECONNRESET ? -EPIPE : err;
	if (length != sizeof(*ret) || ret->version != HOLDER_VERSION || ret->init_len > SESSION_INIT_MAX ||
	    fd_count > 1) {
		for (int i = 0; i < fd_count; i++)
			close(fds[i]);
		return -EPROTO;
	}
	ret->run_dir[sizeof(ret->run_dir) - 1] = '\0';
	ret->mountpoint[sizeof(ret->mountpoint) - 1] = '\0';
	*ret_fd = fds[0];
	return 0;
}

const char *holder_message_listener(const struct holder_message *message)
{
	const char *name = (const char *)message->init;

	return message->init_len > 1 && message->init_len <= HOLDER_NAME_MAX &&
			       strnlen(name, message->init_len) == message->init_len - 1
		       ? name
		       : NULL;
}
