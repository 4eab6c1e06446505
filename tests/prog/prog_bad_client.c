/* Clients of attach.sock that do what they should not, one after the other; each must get the answer of
 * docs/format/attach.md.
 *
 *	prog_bad_client FILE DIRECTORY     both in a mount; FILE is a RAM file of at least 64 KiB
 *
 * Prints each case that went wrong; exit 0 if none did.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <tierfs/ioctl.h>
#include <tierfs/protocol.h>

#define PAGE ((size_t)4096)
#define HEAD offsetof(struct tierfs_msg, u)
#define LENGTH(member) (HEAD + sizeof(((struct tierfs_msg *)0)->u.member))

#define CLOSED -1000
#define NOTHING -1001

static const char *file_path;
static int failures, file_fd, directory_fd, null_fd;
static int got_fds[4];

#define EXPECT(got, wanted) expect(__LINE__, #got, got, wanted)

static void expect(int line, const char *what, int got, int wanted)
{
	if (got == wanted)
		return;
	printf("line %d: %s: got %d, wanted %d\n", line, what, got, wanted);
	failures++;
}

static struct tierfs_ioc_info info_of(int fd)
{
	struct tierfs_ioc_info info = {};

	if (ioctl(fd, TIERFS_IOC_INFO, &info) < 0) {
		perror("TIERFS_IOC_INFO");
		exit(2);
	}
	return info;
}

static int dial(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct tierfs_ioc_info info = info_of(file_fd);

	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", info.run_dir, TIERFS_ATTACH_SOCKET);
	if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (sock >= 0)
			close(sock);
		return -1;
	}
	return sock;
}

/* Sends length bytes of the packet and that many copies of a descriptor. */
static int put(int sock, struct tierfs_msg *msg, size_t length, int fd, int fd_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = msg, .iov_len = length };
	struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (!msg->magic)
		msg->magic = TIERFS_MSG_MAGIC;
	msg->seq = 5;
	if (fd_count) {
		struct cmsghdr *cmsg;

		head.msg_control = control.bytes;
		head.msg_controllen = CMSG_SPACE((size_t)fd_count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&head);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN((size_t)fd_count * sizeof(int));
		for (int i = 0; i < fd_count; i++)
			memcpy(CMSG_DATA(cmsg) + (size_t)i * sizeof(int), &fd, sizeof(int));
	}
	return sendmsg(sock, &head, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The type of the answer; minus the code of an ERROR; CLOSED or NOTHING. Descriptors are left in got_fds. */
static int get(int sock)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	static struct tierfs_msg msg;
	struct iovec iov = { .iov_base = &msg, .iov_len = sizeof(msg) };
	struct msghdr head = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
	};
	struct pollfd poll_fd = { .fd = sock, .events = POLLIN };

	if (poll(&poll_fd, 1, 10000) <= 0)
		return NOTHING;
	if (recvmsg(sock, &head, MSG_CMSG_CLOEXEC) <= 0)
		return CLOSED;
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&head); cmsg; cmsg = CMSG_NXTHDR(&head, cmsg))
		memcpy(got_fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
	return msg.type == TIERFS_MSG_ERROR ? -msg.u.error.code : (int)msg.type;
}

static int greet(void)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_HELLO, .u.hello.abi_version = TIERFS_ABI_VERSION };
	int sock = dial();

	EXPECT(put(sock, &msg, LENGTH(hello), -1, 0), 0);
	EXPECT(get(sock), TIERFS_MSG_WELCOME);
	return sock;
}

static int open_with(int sock, const uint8_t token[TIERFS_TOKEN_LEN])
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_OPEN };
	int rc;

	memcpy(msg.u.open.token, token, TIERFS_TOKEN_LEN);
	put(sock, &msg, LENGTH(open), -1, 0);
	rc = get(sock);
	return rc;
}

static int send_map(int sock, int type, void *addr, uint64_t length, uint64_t offset, int fd, int fd_count)
{
	struct tierfs_msg msg = { .type = (uint32_t)type };

	msg.u.map.ino = info_of(file_fd).ino;
	msg.u.map.addr = (uintptr_t)addr;
	msg.u.map.length_bytes = length;
	msg.u.map.offset = offset;
	put(sock, &msg, LENGTH(map), fd, fd_count);
	return get(sock);
}

/* --- cases -------------------------------------------------------------------------------------------------------- */

static void bad_beginnings(void)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_HELLO, .u.hello.abi_version = TIERFS_ABI_VERSION + 7 };
	int sock = dial();

	EXPECT(put(sock, &msg, LENGTH(hello), -1, 0), 0);
	EXPECT(get(sock), -EPROTO);
	EXPECT(get(sock), CLOSED);
	close(sock);
	sock = dial();
	msg = (struct tierfs_msg){ .type = TIERFS_MSG_OPEN };
	put(sock, &msg, LENGTH(open), -1, 0);
	EXPECT(get(sock), -EPROTO);
	EXPECT(get(sock), CLOSED);
	close(sock);
	/* Lengths, magic, types. */
	for (int i = 0; i < 5; i++) {
		msg = (struct tierfs_msg){ .type = i == 1 ? 99 : TIERFS_MSG_HELLO, .magic = i == 2 ? 0x12345678 : 0 };
		sock = dial();
		put(sock, &msg, i == 0 ? 1 : i == 3 ? sizeof(msg) : i == 4 ? HEAD : LENGTH(hello), -1, 0);
		EXPECT(get(sock), -EPROTO);
		EXPECT(get(sock), CLOSED);
		close(sock);
	}
	/* What only a daemon says. */
	for (uint32_t type = TIERFS_MSG_WELCOME; type <= TIERFS_MSG_ERROR; type++) {
		size_t length = type == TIERFS_MSG_WELCOME ? LENGTH(welcome)
				: type == TIERFS_MSG_ARENA ? LENGTH(arena)
				: type == TIERFS_MSG_DONE  ? LENGTH(done)
				: type == TIERFS_MSG_ERROR ? LENGTH(error)
							   : 0;

		if (!length)
			continue;
		msg = (struct tierfs_msg){ .type = type };
		sock = greet();
		put(sock, &msg, length, -1, 0);
		EXPECT(get(sock), -EPROTO);
		EXPECT(get(sock), CLOSED);
		close(sock);
	}
}

static void bad_tokens(void)
{
	struct tierfs_ioc_info info = info_of(file_fd);
	uint8_t invented[TIERFS_TOKEN_LEN] = { 1, 2, 3 };
	int sock = greet(), read_only;

	EXPECT(open_with(sock, invented), -EACCES);
	EXPECT(open_with(sock, info.token), TIERFS_MSG_ARENA);
	close(got_fds[0]);
	close(got_fds[1]);
	EXPECT(open_with(sock, info.token), -EACCES);
	EXPECT(open_with(sock, info_of(directory_fd).token) < 0, true);
	read_only = open(file_path, O_RDONLY | O_CLOEXEC);
	if (read_only >= 0) {
		EXPECT(open_with(sock, info_of(read_only).token), -EACCES);
		close(read_only);
	}
	/* The connection has survived all of it. */
	EXPECT(open_with(sock, info_of(file_fd).token), TIERFS_MSG_ARENA);
	close(got_fds[0]);
	close(got_fds[1]);
	close(sock);
}

/* A userfaultfd that is ready, and the arena mapped at *ret. */
static int prepare(int sock, char **ret)
{
	struct uffdio_api api = { .api = UFFD_API, .features = TIERFS_UFFD_FEATURES };
	int uffd;

	EXPECT(open_with(sock, info_of(file_fd).token), TIERFS_MSG_ARENA);
	*ret = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, got_fds[0], 0);
	uffd = ioctl(got_fds[1], USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	EXPECT(ioctl(uffd, UFFDIO_API, &api), 0);
	close(got_fds[0]);
	close(got_fds[1]);
	return uffd;
}

static void bad_maps(void)
{
	int sock = greet(), uffd;
	char *memory;

	EXPECT(send_map(sock, TIERFS_MSG_MAP, (void *)PAGE, PAGE, 0, null_fd, 1), -EPROTO); /* no OPEN before */
	EXPECT(get(sock), CLOSED);
	close(sock);
	sock = greet();
	uffd = prepare(sock, &memory);
	EXPECT(send_map(sock, TIERFS_MSG_MAP, memory, PAGE, 0, uffd, 0), -EPROTO); /* no descriptor */
	EXPECT(get(sock), CLOSED);
	close(sock);
	for (int i = 0; i < 7; i++) {
		char *addr = memory + (i == 1 ? 100 : 0);
		uint64_t length = i == 2 ? 0 : i == 3 ? 100 : i == 4 ? 1ULL << 60 : PAGE;
		uint64_t offset = i == 5 ? 1ULL << 60 : i == 6 ? 7 : 0;

		sock = greet();
		EXPECT(open_with(sock, info_of(file_fd).token), TIERFS_MSG_ARENA);
		close(got_fds[0]);
		close(got_fds[1]);
		EXPECT(send_map(sock, TIERFS_MSG_MAP, addr, length, offset, i == 0 ? null_fd : uffd, 1),
		       i == 0 ? -EBADF : -EINVAL);
		/* An error, not the end. */
		EXPECT(open_with(sock, info_of(file_fd).token), TIERFS_MSG_ARENA);
		close(got_fds[0]);
		close(got_fds[1]);
		/* Nothing is mapped there. */
		EXPECT(send_map(sock, TIERFS_MSG_MAP, (void *)(16 * PAGE), PAGE, 0, uffd, 1) < 0, true);
		close(sock);
	}
	sock = greet();
	EXPECT(send_map(sock, TIERFS_MSG_RESUME, memory, PAGE, 0, null_fd, 2) < 0, true); /* not an arena */
	EXPECT(send_map(sock, TIERFS_MSG_RESUME, memory, PAGE, 0, null_fd, 1), -EPROTO);
	close(sock);
	close(uffd);
	munmap(memory, 16 * PAGE);
}

static int send_part(int sock, int type, uint64_t id, uint64_t where, uint64_t length)
{
	struct tierfs_msg msg = { .type = (uint32_t)type };

	msg.u.part.map_id = id;
	msg.u.part.where = where;
	msg.u.part.length_bytes = length;
	put(sock, &msg, LENGTH(part), -1, 0);
	return get(sock);
}

static void bad_parts(void)
{
	struct tierfs_msg zapped = { .type = TIERFS_MSG_ZAPPED };
	int sock = greet();

	EXPECT(send_part(sock, TIERFS_MSG_UNMAP, 12345, 0, PAGE), -ENOENT);
	EXPECT(send_part(sock, TIERFS_MSG_DISCARD, 12345, 0, PAGE), -ENOENT);
	/* Nobody asked; nobody answers. */
	put(sock, &zapped, HEAD, -1, 0);
	EXPECT(send_part(sock, TIERFS_MSG_UNMAP, 0, 0, 0), -ENOENT);
	close(sock);
}

/* Processes that go in the middle of it, with the memory in every state. */
static void sudden_ends(void)
{
	for (int stage = 0; stage < 6; stage++) {
		pid_t pid = fork();

		if (pid == 0) {
			int sock = stage ? greet() : dial(), uffd = -1;
			char *memory = NULL;

			if (stage > 1)
				uffd = prepare(sock, &memory);
			if (stage > 2)
				EXPECT(send_map(sock, TIERFS_MSG_MAP, memory, 16 * PAGE, 0, uffd, 1), TIERFS_MSG_DONE);
			if (stage > 3)
				memory[PAGE]++;
			if (stage > 4)
				close(uffd);
			_exit(failures ? 1 : 0);
		}
		int status = -1;

		waitpid(pid, &status, 0);
		EXPECT(status, 0);
	}
}

/* Packets without content are not for nothing: they can carry descriptors. */
static void floods(void)
{
	struct tierfs_msg empty = {};
	struct rlimit limit = { 4096, 4096 };
	int socks[1200], count = 0, last;

	for (int i = 0; i < 300; i++) {
		int sock = dial();

		put(sock, &empty, 0, null_fd, 4);
		close(sock);
	}
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	for (int i = 0; i < 1200; i++) {
		int sock = dial();

		if (sock >= 0)
			socks[count++] = sock;
	}
	for (int i = 0; i < count; i++)
		close(socks[i]);
	/* The places are free again, soon. */
	last = -1;
	for (int i = 0; last < 0 && i < 100; i++) {
		struct tierfs_msg msg = { .type = TIERFS_MSG_HELLO, .u.hello.abi_version = TIERFS_ABI_VERSION };

		last = dial();
		if (last >= 0 && (put(last, &msg, LENGTH(hello), -1, 0) || get(last) != TIERFS_MSG_WELCOME)) {
			close(last);
			last = -1;
			poll(NULL, 0, 50);
		}
	}
	EXPECT(last >= 0, true);
	close(last);
}

/* Says nothing: closed after 5 seconds. */
static void silence(void)
{
	int sock = dial();

	EXPECT(get(sock), CLOSED);
	close(sock);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: %s FILE DIRECTORY\n", argv[0]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	file_path = argv[1];
	file_fd = open(file_path, O_RDWR | O_DIRECT | O_CLOEXEC);
	directory_fd = open(argv[2], O_RDONLY | O_CLOEXEC);
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (file_fd < 0 || directory_fd < 0) {
		perror(argv[file_fd < 0 ? 1 : 2]);
		return 2;
	}
	bad_beginnings();
	bad_tokens();
	bad_maps();
	bad_parts();
	sudden_ends();
	floods();
	silence();
	printf("%d cases went wrong\n", failures);
	return failures ? 1 : 0;
}
