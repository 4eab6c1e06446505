/* prog/prog_hostile.c - what a client of attach.sock does that means no good, and keeps doing until it is ended.
 *
 *	prog_hostile nonblock FILE MAPPINGS    clears O_NONBLOCK of its userfaultfds, and faults
 *	prog_hostile lock FILE MIB STALLED     keeps its address space locked by an mmap() of STALLED
 *	prog_hostile lock-map FILE MIB STALLED GO  the same, and asks for a second mapping when the FIFO GO says so
 *	prog_hostile crowd DIRECTORY COUNT     connects as often as it may, and greets
 *	prog_hostile mute DIRECTORY COUNT      connects and says nothing
 *	prog_hostile closed FILE MIB           maps what is cold, closes all its descriptors, and reads it after each
 *	                                       line of its input; the first word of each page is the page's number
 *	prog_hostile resume DIRECTORY          RESUME with descriptors of something else; ends, and prints the answer
 *	prog_hostile stall MOUNTPOINT          a filesystem with one file, f, whose writes are never answered; for lock
 *
 * Prints a line when it is there. It knows the public protocol alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <tierfs/ioctl.h>
#include <tierfs/protocol.h>

#include "prog.h"

#define LENGTH(member) (offsetof(struct tierfs_msg, u) + sizeof(((struct tierfs_msg *)0)->u.member))

/* --- the protocol --- */

static void put(int sock, struct tierfs_msg *msg, size_t length, const int *fds, size_t fd_count)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control = {};
	struct iovec iov = { .iov_base = msg, .iov_len = length };
	struct msghdr head = { .msg_iov = &iov, .msg_iovlen = 1 };

	msg->magic = TIERFS_MSG_MAGIC;
	msg->seq = 1;
	if (fd_count) {
		struct cmsghdr *cmsg;

		head.msg_control = control.bytes;
		head.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&head);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
	}
	/* Who was refused reads why. */
	if (sendmsg(sock, &head, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		prog_die("sendmsg: %s", strerror(errno));
}

/* The answer; 0: the connection was closed. ZAPs are passed over and never answered. */
static uint32_t get(int sock, struct tierfs_msg *ret, int fds[2])
{
	do {
		union {
			struct cmsghdr align;
			char bytes[CMSG_SPACE(2 * sizeof(int))];
		} control;
		struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
		struct msghdr head = { .msg_iov = &iov,
				       .msg_iovlen = 1,
				       .msg_control = control.bytes,
				       .msg_controllen = sizeof(control.bytes) };
		struct cmsghdr *cmsg;

		if (recvmsg(sock, &head, MSG_CMSG_CLOEXEC) <= 0)
			return 0;
		cmsg = CMSG_FIRSTHDR(&head);
		if (cmsg)
			memcpy(fds, CMSG_DATA(cmsg), cmsg->cmsg_len - CMSG_LEN(0));
	} while (ret->type == TIERFS_MSG_ZAP);
	return ret->type;
}

static struct tierfs_ioc_info info_of(int fd)
{
	struct tierfs_ioc_info info = {};

	if (ioctl(fd, TIERFS_IOC_INFO, &info) < 0)
		prog_die("TIERFS_IOC_INFO: %s", strerror(errno));
	return info;
}

/* -1: refused. */
static int dial(int fd)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", info_of(fd).run_dir, TIERFS_ATTACH_SOCKET);
	if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(sock);
		return -1;
	}
	return sock;
}

static int greet(int fd)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_HELLO, .u.hello.abi_version = TIERFS_ABI_VERSION };
	int sock = dial(fd), fds[2];

	if (sock < 0)
		return -1;
	put(sock, &msg, LENGTH(hello), NULL, 0);
	if (get(sock, &msg, fds) == TIERFS_MSG_WELCOME)
		return sock;
	if (msg.type == TIERFS_MSG_ERROR)
		fprintf(stderr, "%s\n", msg.u.error.text);
	close(sock);
	return -1;
}

/* Memory of the file, which is not registered yet. The userfaultfd for it is in *ret_uffd. */
static char *open_memory(int sock, const struct tierfs_ioc_info *info, size_t length, uint64_t offset, int *ret_uffd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = TIERFS_UFFD_FEATURES };
	struct tierfs_msg msg = { .type = TIERFS_MSG_OPEN };
	int fds[2] = { -1, -1 }, uffd;
	char *memory;

	memcpy(msg.u.open.token, info->token, TIERFS_TOKEN_LEN);
	put(sock, &msg, LENGTH(open), NULL, 0);
	if (get(sock, &msg, fds) != TIERFS_MSG_ARENA)
		prog_die("OPEN is refused");
	memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], (off_t)offset);
	uffd = ioctl(fds[1], USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (memory == MAP_FAILED || uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
		prog_die("mmap, userfaultfd: %s", strerror(errno));
	close(fds[0]);
	close(fds[1]);
	*ret_uffd = uffd;
	return memory;
}

static void put_map(int sock, uint64_t ino, const char *memory, size_t length, uint64_t offset, int uffd)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_MAP };

	msg.u.map.ino = ino;
	msg.u.map.addr = (uintptr_t)memory;
	msg.u.map.length_bytes = length;
	msg.u.map.offset = offset;
	put(sock, &msg, LENGTH(map), &uffd, 1);
}

/* Maps a part of the file. The userfaultfd is in *ret_uffd. */
static char *map(int sock, int fd, size_t length, uint64_t offset, int *ret_uffd)
{
	struct tierfs_ioc_info info = info_of(fd);
	char *memory = open_memory(sock, &info, length, offset, ret_uffd);
	struct tierfs_msg msg;
	int fds[2];

	put_map(sock, info.ino, memory, length, offset, *ret_uffd);
	if (get(sock, &msg, fds) != TIERFS_MSG_DONE)
		prog_die("MAP is refused");
	return memory;
}

static int open_file(const char *path, size_t bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		prog_die("%s: %s", path, strerror(errno));
	return fd;
}

static void stay(const char *text)
{
	printf("%s\n", text);
	fflush(stdout);
	for (;;)
		pause();
}

/* --- what it does --- */

static void *touch(void *arg)
{
	*(volatile char *)arg = 1;
	return NULL;
}

static void nonblock(const char *path, size_t count)
{
	size_t length = 1 << 20;
	int fd = open_file(path, count * length), sock = greet(fd);

	for (size_t i = 0; i < count; i++) {
		int uffd;
		char *memory = map(sock, fd, length, i * length, &uffd);
		pthread_t thread;

		if (fcntl(uffd, F_SETFL, fcntl(uffd, F_GETFL) & ~O_NONBLOCK) < 0 ||
		    pthread_create(&thread, NULL, touch, memory))
			prog_die("fcntl, thread: %s", strerror(errno));
		pthread_join(thread, NULL); /* it was served: whoever did looks for the next */
	}
	stay("ready");
}

static void *lock(void *arg)
{
	const char *stalled = arg;
	int cached = open(stalled, O_RDWR), direct = open(stalled, O_RDWR);
	char *memory = mmap(NULL, PROG_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, cached, 0);

	if (cached < 0 || direct < 0 || memory == MAP_FAILED)
		prog_die("%s: %s", stalled, strerror(errno));
	memory[0] = 1;
	/* Waits for the write of that page, with the lock held for writing. */
	mmap(NULL, PROG_PAGE, PROT_READ, MAP_PRIVATE, direct, 0);
	return NULL;
}

static void say(const char *text)
{
	printf("%s\n", text);
	fflush(stdout);
}

/* Nothing that the kernel has to look up in the address space happens between the two. */
static void ask_locked(int sock, uint64_t ino, const char *memory, size_t bytes, int uffd, int go)
{
	struct tierfs_msg msg;
	int fds[2];
	char byte = 0;

	if (read(go, &byte, 1) != 1)
		prog_die("nobody says go");
	put_map(sock, ino, memory, bytes, 0, uffd);
	say("asked");
	get(sock, &msg, fds);
	say("the request is answered");
}

static void keep_locked(const char *path, size_t bytes, char *stalled, const char *go)
{
	int go_fd = go ? open(go, O_RDWR | O_CLOEXEC) : -1;
	int fd = open_file(path, bytes), sock = greet(fd), uffd;
	char *memory = map(sock, fd, bytes, 0, &uffd), *second = NULL;
	struct tierfs_ioc_info info = info_of(fd);
	pthread_t thread;

	if (go && go_fd < 0)
		prog_die("%s: %s", go, strerror(errno));
	if (go)
		second = open_memory(sock, &info, bytes, 0, &uffd);
	for (size_t at = 0; at < bytes; at += PROG_PAGE)
		memory[at] = 1;
	say("ready");
	if (pthread_create(&thread, NULL, lock, stalled))
		prog_die("no thread");
	if (go)
		ask_locked(sock, info.ino, second, bytes, uffd, go_fd);
	pthread_join(thread, NULL);
	stay("free");
}

static void crowd(const char *path, size_t count, bool mute)
{
	struct rlimit limit = { 8192, 8192 };
	int fd = open(path, O_RDONLY);
	size_t got = 0;
	char text[64];

	setrlimit(RLIMIT_NOFILE, &limit);
	if (fd < 0)
		prog_die("%s: %s", path, strerror(errno));
	while (got < count && (mute ? dial(fd) : greet(fd)) >= 0)
		got++;
	snprintf(text, sizeof(text), "ready %zu", got);
	stay(text);
}

static int closed(const char *path, size_t bytes)
{
	int fd = open_file(path, bytes), sock, uffd;
	uint64_t *words = aligned_alloc(PROG_PAGE, 1 << 20);
	size_t wrong = 0, of_page = PROG_PAGE / sizeof(*words);
	char line[16];
	char *memory;

	if (!words)
		prog_die("no memory");
	memset(words, 7, 1 << 20);
	for (size_t at = 0; at < bytes; at += 1 << 20) {
		for (size_t page = 0; page < (1 << 20) / PROG_PAGE; page++)
			words[page * of_page] = at / PROG_PAGE + page + 1;
		if (pwrite(fd, words, 1 << 20, (off_t)at) != 1 << 20)
			prog_die("%s: %s", path, strerror(errno));
	}
	sock = greet(fd);
	memory = map(sock, fd, bytes, 0, &uffd);
	if (close_range(3, ~0U, 0) < 0)
		prog_die("close_range: %s", strerror(errno));
	printf("ready\n");
	fflush(stdout);
	/* A quarter of it each time, so that there is something that nobody has touched yet. */
	for (size_t turn = 0; turn < 4 && fgets(line, sizeof(line), stdin); turn++) {
		for (size_t at = turn * bytes / 4; at < (turn + 1) * bytes / 4; at += PROG_PAGE)
			wrong += *(volatile uint64_t *)(memory + at) != at / PROG_PAGE + 1;
		printf("turn %zu: %zu wrong\n", turn, wrong);
		fflush(stdout);
	}
	return wrong ? PROG_WRONG : PROG_OK;
}

static int resume(const char *path)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_RESUME };
	int fds[2] = { open("/dev/null", O_RDWR), open("/dev/null", O_RDWR) };
	int fd = open(path, O_RDONLY), sock = fd < 0 ? -1 : greet(fd);

	if (sock < 0)
		prog_die("%s: %s", path, strerror(errno));
	msg.u.map.addr = msg.u.map.length_bytes = PROG_PAGE;
	put(sock, &msg, LENGTH(map), fds, 2);
	if (get(sock, &msg, fds) != TIERFS_MSG_ERROR)
		prog_die("a RESUME of nothing is not refused");
	printf("%s\n", msg.u.error.text);
	return PROG_OK;
}

/* --- a filesystem --- */

static void reply(int fuse, const struct fuse_in_header *in, int err, const void *data, size_t length)
{
	struct {
		struct fuse_out_header head;
		char data[1 << 17];
	} out = { .head = { .len = (uint32_t)(sizeof(out.head) + length), .error = err, .unique = in->unique } };

	if (length)
		memcpy(out.data, data, length);
	if (write(fuse, &out, out.head.len) < 0 && errno != ENOENT)
		prog_die("/dev/fuse: %s", strerror(errno));
}

static struct fuse_attr attr_of(uint64_t node)
{
	bool root = node == FUSE_ROOT_ID;

	return (struct fuse_attr){
		.ino = node, .size = root ? 0 : 1 << 20, .mode = root ? S_IFDIR | 0777 : S_IFREG | 0666, .nlink = 1
	};
}

static void answer(int fuse, const struct fuse_in_header *in, const void *arg)
{
	static char zeros[1 << 16];
	static unsigned int opens;
	struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096, .max_readahead = 4096
	};
	struct fuse_attr_out attr = { .attr_valid = 100, .attr = attr_of(in->nodeid) };
	struct fuse_entry_out entry = { .nodeid = 2, .entry_valid = 100, .attr_valid = 100, .attr = attr_of(2) };
	struct fuse_open_out open = { .fh = 1, .open_flags = FOPEN_KEEP_CACHE };
	const struct fuse_read_in *read_in = arg;

	switch (in->opcode) {
	case FUSE_INIT:
		reply(fuse, in, 0, &init, sizeof(init));
		return;
	case FUSE_LOOKUP:
		reply(fuse, in, strcmp(arg, "f") ? -ENOENT : 0, &entry, strcmp(arg, "f") ? 0 : sizeof(entry));
		return;
	case FUSE_GETATTR:
		reply(fuse, in, 0, &attr, sizeof(attr));
		return;
	case FUSE_OPEN:
		open.open_flags |= opens++ ? FOPEN_DIRECT_IO : 0;
		reply(fuse, in, 0, &open, sizeof(open));
		return;
	case FUSE_READ:
		reply(fuse, in, 0, zeros, read_in->size < sizeof(zeros) ? read_in->size : sizeof(zeros));
		return;
	case FUSE_WRITE:
		printf("stalled\n");
		fflush(stdout);
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return;
	default:
		reply(fuse, in, -ENOSYS, NULL, 0);
	}
}

static int stall(const char *mountpoint)
{
	static char request[1 << 17] __attribute__((aligned(16)));
	int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	char options[128];

	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse);
	if (fuse < 0 || mount("stall", mountpoint, "fuse", MS_NOSUID | MS_NODEV, options) < 0)
		prog_die("%s: %s", mountpoint, strerror(errno));
	for (;;) {
		ssize_t got = read(fuse, request, sizeof(request));

		if (got < 0 && errno == ENODEV)
			return PROG_OK; /* unmounted */
		if (got >= (ssize_t)sizeof(struct fuse_in_header))
			answer(fuse, (void *)request, request + sizeof(struct fuse_in_header));
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	size_t count = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;

	if (!strcmp(what, "nonblock") && argc == 4)
		nonblock(argv[2], count);
	if (!strcmp(what, "lock") && argc == 5)
		keep_locked(argv[2], count << 20, argv[4], NULL);
	if (!strcmp(what, "lock-map") && argc == 6)
		keep_locked(argv[2], count << 20, argv[4], argv[5]);
	if ((!strcmp(what, "crowd") || !strcmp(what, "mute")) && argc == 4)
		crowd(argv[2], count, what[0] == 'm');
	if (!strcmp(what, "closed") && argc == 4)
		return closed(argv[2], count << 20);
	if (!strcmp(what, "resume") && argc == 3)
		return resume(argv[2]);
	if (!strcmp(what, "stall") && argc == 3)
		return stall(argv[2]);
	fprintf(stderr, "usage: prog_hostile WHAT ... (see its source)\n");
	return PROG_USAGE;
}
