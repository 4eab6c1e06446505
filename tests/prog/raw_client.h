/* tests/prog/raw_client.h - the sockets of a daemon, spoken to without libtierfs: for programs that play a client which
 * does what it likes.
 *
 * Header only, as prog.h is. Nothing here ends the program: a hostile client goes on whatever it is answered.
 */
#pragma once

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <tierfs/ioctl.h>
#include <tierfs/protocol.h>

#define RAW_FDS_MAX 8
#define RAW_LENGTH(member) (offsetof(struct tierfs_msg, u) + sizeof(((struct tierfs_msg *)0)->u.member))

/* A socket of the daemon that serves fd, or -1. The type is SOCK_SEQPACKET or SOCK_STREAM. */
static inline int raw_dial(int fd, const char *name, int type)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct tierfs_ioc_info info = {};
	int sock;

	if (ioctl(fd, TIERFS_IOC_INFO, &info) < 0)
		return -1;
	sock = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -1;
	snprintf(address.sun_path, sizeof(address.sun_path), "%.63s/%.40s", info.run_dir, name);
	if (connect(sock, (struct sockaddr *)&address, sizeof(address)) == 0)
		return sock;
	close(sock);
	return -1;
}

/* Sends bytes and count descriptors, without waiting. */
static inline int raw_send(int sock, const void *bytes, size_t length, const int *fds, size_t count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(RAW_FDS_MAX * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = length };
	struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (count) {
		struct cmsghdr *cmsg;

		head.msg_control = control.bytes;
		head.msg_controllen = CMSG_SPACE(count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&head);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
	}
	return sendmsg(sock, &head, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* The next packet of attach.sock, within the time: 0, or -errno. Descriptors that came are in fds, -1 where none did.
 */
static inline int raw_receive(int sock, struct tierfs_msg *ret, int fds[RAW_FDS_MAX], int timeout_ms)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(RAW_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
	struct msghdr head = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
	};
	struct pollfd poll_fd = { .fd = sock, .events = POLLIN };

	for (int i = 0; i < RAW_FDS_MAX; i++)
		fds[i] = -1;
	if (poll(&poll_fd, 1, timeout_ms) <= 0)
		return -ETIMEDOUT;
	if (recvmsg(sock, &head, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
		return -ECONNRESET;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&head); cmsg; cmsg = CMSG_NXTHDR(&head, cmsg))
		memcpy(fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
	return 0;
}

/* A request of attach.sock and its answer: 0, or -errno of an ERROR. Zaps that come in between are not answered. */
static inline int raw_ask(int sock, struct tierfs_msg *msg, size_t length, const int *fds, size_t count,
			  int ret_fds[RAW_FDS_MAX])
{
	int err;

	msg->magic = TIERFS_MSG_MAGIC;
	msg->seq = 7;
	err = raw_send(sock, msg, length, fds, count);
	while (!err) {
		err = raw_receive(sock, msg, ret_fds, 30000);
		if (!err && msg->type != TIERFS_MSG_ZAP)
			break;
	}
	return err ? err : msg->type == TIERFS_MSG_ERROR ? -msg->u.error.code : 0;
}

/* A greeted connection to attach.sock, or -1. */
static inline int raw_greet(int fd)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_HELLO, .u.hello.abi_version = TIERFS_ABI_VERSION };
	int sock = raw_dial(fd, TIERFS_ATTACH_SOCKET, SOCK_SEQPACKET), fds[RAW_FDS_MAX];

	if (sock >= 0 && raw_ask(sock, &msg, RAW_LENGTH(hello), NULL, 0, fds)) {
		close(sock);
		sock = -1;
	}
	return sock;
}

struct raw_mapping {
	int uffd, arena;
	uint64_t ino, map_id;
	volatile uint8_t *memory;
	size_t length_bytes;
};

static inline void raw_unmap(struct raw_mapping *mapping)
{
	if (mapping->memory)
		munmap((void *)(uintptr_t)mapping->memory, mapping->length_bytes);
	close(mapping->uffd);
	close(mapping->arena);
	*mapping = (struct raw_mapping){ .uffd = -1, .arena = -1 };
}

/* Maps length bytes of the file from offset on. 0, or -errno: then nothing is left. */
static inline int raw_map(int sock, int fd, uint64_t offset, size_t length, struct raw_mapping *ret)
{
	struct uffdio_api api = { .api = UFFD_API, .features = TIERFS_UFFD_FEATURES };
	struct raw_mapping mapping = { .length_bytes = length, .uffd = -1, .arena = -1 };
	struct tierfs_msg msg = { .type = TIERFS_MSG_OPEN };
	struct tierfs_ioc_info info = {};
	int fds[RAW_FDS_MAX], err;
	void *memory;

	if (ioctl(fd, TIERFS_IOC_INFO, &info) < 0)
		return -errno;
	memcpy(msg.u.open.token, info.token, sizeof(info.token));
	err = raw_ask(sock, &msg, RAW_LENGTH(open), NULL, 0, fds);
	if (err)
		return err;
	mapping.ino = msg.u.arena.ino;
	mapping.arena = fds[0];
	mapping.uffd = ioctl(fds[1], USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(fds[1]);
	memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, mapping.arena, (off_t)offset);
	if (memory == MAP_FAILED || mapping.uffd < 0 || ioctl(mapping.uffd, UFFDIO_API, &api) < 0) {
		err = -errno;
		mapping.memory = memory == MAP_FAILED ? NULL : memory;
		raw_unmap(&mapping);
		return err;
	}
	mapping.memory = memory;
	msg = (struct tierfs_msg){ .type = TIERFS_MSG_MAP };
	msg.u.map.ino = mapping.ino;
	msg.u.map.addr = (uintptr_t)memory;
	msg.u.map.length_bytes = length;
	msg.u.map.offset = offset;
	err = raw_ask(sock, &msg, RAW_LENGTH(map), &mapping.uffd, 1, fds);
	if (err) {
		raw_unmap(&mapping);
		return err;
	}
	mapping.map_id = msg.u.done.map_id;
	*ret = mapping;
	return 0;
}
