/* wire/wire.c - see wire/wire.h. */
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Programs count on descriptors 0 to 2, shells on those up to 9, and some close low ones without asking. */
#define RAISED_FD_MIN 100

#define HEAD_LENGTH offsetof(struct tierfs_msg, u)
#define MEMBER_LENGTH(member) (HEAD_LENGTH + sizeof(((struct tierfs_msg *)0)->u.member))

size_t wire_length(uint32_t type, uint32_t zap_count)
{
	switch ((enum tierfs_msg_type)type) {
	case TIERFS_MSG_HELLO:
		return MEMBER_LENGTH(hello);
	case TIERFS_MSG_WELCOME:
		return MEMBER_LENGTH(welcome);
	case TIERFS_MSG_OPEN:
		return MEMBER_LENGTH(open);
	case TIERFS_MSG_ARENA:
		return MEMBER_LENGTH(arena);
	case TIERFS_MSG_MAP:
	case TIERFS_MSG_RESUME:
		return MEMBER_LENGTH(map);
	case TIERFS_MSG_UNMAP:
	case TIERFS_MSG_DISCARD:
		return MEMBER_LENGTH(part);
	case TIERFS_MSG_ADVISE:
		return MEMBER_LENGTH(advise);
	case TIERFS_MSG_DONE:
		return MEMBER_LENGTH(done);
	case TIERFS_MSG_ZAP:
		return offsetof(struct tierfs_msg, u.zap.range) + (size_t)zap_count * sizeof(struct tierfs_range);
	case TIERFS_MSG_ZAPPED:
		return HEAD_LENGTH;
	case TIERFS_MSG_ERROR:
		return MEMBER_LENGTH(error);
	}
	return 0;
}

void wire_put_fds(struct msghdr *head, union wire_control *control, const int *fds, int fd_count)
{
	struct cmsghdr *cmsg;

	if (fd_count <= 0)
		return;
	memset(control, 0, sizeof(*control));
	head->msg_control = control->bytes;
	head->msg_controllen = CMSG_SPACE((size_t)fd_count * sizeof(int));
	cmsg = CMSG_FIRSTHDR(head);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN((size_t)fd_count * sizeof(int));
	memcpy(CMSG_DATA(cmsg), fds, (size_t)fd_count * sizeof(int));
}

int wire_send_bytes(int sock, const void *bytes, size_t length, const int *fds, int fd_count, int flags)
{
	union wire_control control;
	struct iovec iov = { .iov_base = (void *)bytes, .iov_len = length };
	struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t sent;

	wire_put_fds(&head, &control, fds, fd_count);
	do
		sent = sendmsg(sock, &head, flags | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

int wire_send(int sock, struct tierfs_msg *msg, const int *fds, int fd_count)
{
	msg->magic = TIERFS_MSG_MAGIC;
	msg->reserved = 0;
	return wire_send_bytes(sock, msg, wire_length(msg->type, msg->type == TIERFS_MSG_ZAP ? msg->u.zap.count : 0),
			       fds, fd_count, MSG_DONTWAIT);
}

static void take_fds(struct msghdr *head, int *fds, int *fd_count)
{
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(head); cmsg; cmsg = CMSG_NXTHDR(head, cmsg)) {
		size_t count;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
			if (*fd_count < WIRE_FDS_MAX)
				fds[(*fd_count)++] = fd;
			else
				close(fd);
		}
	}
}

static int check_packet(const struct tierfs_msg *msg, size_t length)
{
	uint32_t count = 0;

	if (length < HEAD_LENGTH || msg->magic != TIERFS_MSG_MAGIC)
		return -EPROTO;
	if (msg->type == TIERFS_MSG_ZAP) {
		if (length < offsetof(struct tierfs_msg, u.zap.range))
			return -EPROTO;
		count = msg->u.zap.count;
		if (count < 1 || count > TIERFS_ZAP_MAX)
			return -EPROTO;
	}
	return length == wire_length(msg->type, count) ? 0 : -EPROTO;
}

static void close_fds(int *fds, int *fd_count)
{
	for (int i = 0; i < *fd_count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	*fd_count = 0;
}

int wire_recv_bytes(int sock, void *bytes, size_t cap, int *fds, int *fd_count, int flags, size_t *ret_length)
{
	union wire_control control;
	struct iovec iov = { .iov_base = bytes, .iov_len = cap };
	struct msghdr head = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t got;
	int err = 0;

	*fd_count = 0;
	for (int i = 0; i < WIRE_FDS_MAX; i++)
		fds[i] = -1;
	do
		got = recvmsg(sock, &head, flags | MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	take_fds(&head, fds, fd_count);
	if (got == 0) /* an empty packet looks like the end of file, and may bring descriptors all the same */
		err = -ECONNRESET;
	else if (head.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		err = -EPROTO;
	if (err)
		close_fds(fds, fd_count);
	*ret_length = (size_t)got;
	return err;
}

int wire_recv(int sock, struct wire_packet *ret)
{
	size_t length;
	int err = wire_recv_bytes(sock, &ret->msg, sizeof(ret->msg), ret->fds, &ret->fd_count, MSG_DONTWAIT, &length);

	if (err)
		return err;
	err = check_packet(&ret->msg, length);
	if (err) {
		wire_close_fds(ret);
		return err;
	}
	if (ret->msg.type == TIERFS_MSG_ERROR)
		ret->msg.u.error.text[TIERFS_TEXT_MAX - 1] = '\0';
	return 0;
}

/* After the shutdown nothing comes in any more, so this ends. Descriptors that came along are closed by the kernel. */
void wire_hang_up(int sock)
{
	char bytes[4096];

	shutdown(sock, SHUT_RDWR);
	while (recv(sock, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_TRUNC) > 0)
		;
}

/* Not by the name that the headers give it for 64-bit offsets, which old libcs and others do not have: libtierfs is
 * loaded into programs of any. */
extern int wire_fcntl(int fd, int command, ...) __asm__("fcntl");

int wire_raise_fd(int fd)
{
	int raised = fd < 0 ? -1 : wire_fcntl(fd, F_DUPFD_CLOEXEC, RAISED_FD_MIN);

	if (raised < 0)
		return fd;
	close(fd);
	return raised;
}

void wire_close_fds(struct wire_packet *packet)
{
	close_fds(packet->fds, &packet->fd_count);
}

/* --- access.sock ------------------------------------------------------------------------------------------------ */

int wire_send_access(int sock, struct tierfs_access_msg *msg, int fd)
{
	msg->magic = TIERFS_ACCESS_MAGIC;
	return wire_send_bytes(sock, msg, sizeof(*msg), &fd, fd >= 0, 0);
}

int wire_recv_access(int sock, struct tierfs_access_msg *ret, int *ret_fd)
{
	int fds[WIRE_FDS_MAX], fd_count;
	size_t length;
	int err = wire_recv_bytes(sock, ret, sizeof(*ret), fds, &fd_count, 0, &length);

	if (err)
		return err;
	if (length != sizeof(*ret) || ret->magic != TIERFS_ACCESS_MAGIC || fd_count > 1) {
		close_fds(fds, &fd_count);
		return -EPROTO;
	}
	*ret_fd = fds[0];
	return 0;
}
