/* A packet of the attach socket: whatever comes, with however many descriptors, it is taken whole or refused, and no
 * descriptor is left behind. The first byte says how many descriptors travel with the rest. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/wire.h"

#define FDS_MAX 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void send_input(int sock, const uint8_t *data, size_t size, int fd, unsigned int count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)data, .iov_len = size };
	struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fds[FDS_MAX];

	if (count) {
		struct cmsghdr *cmsg;

		for (unsigned int i = 0; i < count; i++)
			fds[i] = fd;
		head.msg_control = control.bytes;
		head.msg_controllen = CMSG_SPACE(count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&head);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
	}
	if (sendmsg(sock, &head, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* larger than the socket takes */
}

static void check(const struct wire_packet *packet)
{
	const struct tierfs_msg *msg = &packet->msg;

	if (msg->magic != TIERFS_MSG_MAGIC || packet->fd_count > WIRE_FDS_MAX)
		abort();
	if (msg->type == TIERFS_MSG_ZAP && (msg->u.zap.count < 1 || msg->u.zap.count > TIERFS_ZAP_MAX))
		abort();
	if (msg->type == TIERFS_MSG_ERROR && !memchr(msg->u.error.text, '\0', sizeof(msg->u.error.text)))
		abort();
	for (int i = 0; i < WIRE_FDS_MAX; i++)
		if ((packet->fds[i] >= 0) != (i < packet->fd_count))
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct wire_packet packet;
	int pair[2], next, after;

	if (!size || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return 0;
	next = dup(pair[0]); /* the lowest free number, before and after */
	close(next);
	send_input(pair[0], data + 1, size - 1, pair[0], data[0] % (FDS_MAX + 1));
	if (!wire_recv(pair[1], &packet)) {
		check(&packet);
		wire_close_fds(&packet);
	}
	after = dup(pair[0]);
	if (after != next)
		abort();
	close(after);
	close(pair[0]);
	close(pair[1]);
	return 0;
}
