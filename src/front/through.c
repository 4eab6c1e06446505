/* front/through.c - see through.h.
 *
 * A door that is being opened is in a list, with a copy of the arena's descriptor, from before its name can be asked
 * for until the open was answered. Each request to the process that opens brings a socket of its own for the answer, so
 * one that comes late is nobody's.
 *
 * To look up a name that it does not know the kernel locks the directory, and who lists a directory keeps it locked as
 * long as his memory takes what is listed. So doors have a directory that nobody can list, as nobody can open it. Its
 * own name lies in the root, which others list. But that is a name that the kernel knows: it comes by without a lock.
 * The process that opens sees to it that the kernel does not forget (through_child.c).
 */
#include "front/through.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "front/through_child.h"
#include "wire/wire.h"

/* Numbers of the kernel's that a daemon has at a time, at most; they are given out in order. */
#define LEFT_MAX 4096
#define ANSWER_NS (10 * NS_PER_S)
#define END_NS (1 * NS_PER_S)
#define END_PAUSE_US 1000
#define NAME_FORMAT THROUGH_PREFIX "%016" PRIx64 "-%016" PRIx64 "-"
#define NAME_NUMBERS (sizeof(THROUGH_PREFIX) - 1 + 16 + 1 + 16 + 1)
#define NAME_LENGTH (NAME_NUMBERS + 2 * THROUGH_CODE_BYTES)

/* Newer than Debian 12's headers; include/uapi/linux/fuse.h of Linux 6.9. */
#define OPEN_NOFLUSH (1U << 5)
#define OPEN_PASSTHROUGH (1U << 7)
#define FLAG_EXTENDED (1U << 30)
#define FLAG2_PASSTHROUGH (1U << 5)
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define DEVICE_BACKING_OPEN _IOW(229, 1, struct backing_map)
#define DEVICE_BACKING_CLOSE _IOW(229, 2, uint32_t)

/* A door that is being opened. */
struct opening {
	TAILQ_ENTRY(opening) link;
	uint64_t node;
	int arena_fd;   /* -1: opened */
	int backing_id; /* -1: the kernel was given none */
	char name[THROUGH_NAME_MAX];
};

struct through {
	int child_fd; /* -1: nobody opens */
	pid_t child;
	through_code_fn *code;
	void *code_arg;
	char boot[THROUGH_BOOT_BYTES];
	int fuse_fd;
	char *mountpoint;
	_Atomic bool can; /* the last to be set of these */

	struct lock lock;
	TAILQ_HEAD(, opening) openings; /* under lock */
};

int through_new(struct through **ret)
{
	struct through *through = calloc(1, sizeof(*through));
	int pair[2], err;

	if (!through)
		return -ENOMEM;
	through->child_fd = through->fuse_fd = -1;
	lock_init(&through->lock, LOCK_RANK_STATS); /* a leaf */
	TAILQ_INIT(&through->openings);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		err = -errno;
		through_free(through);
		return err;
	}
	through->child_fd = pair[0];
	through->child = fork();
	if (through->child == 0)
		through_child(pair[1]);
	err = through->child < 0 ? -errno : 0;
	close(pair[1]);
	if (err) {
		through_free(through);
		return err;
	}
	*ret = through;
	return 0;
}

/* It ends with the connection, unless an open hangs in the kernel; that one ends when it can. */
static void end_child(pid_t pid)
{
	uint64_t deadline_ns = clock_ns() + END_NS;
	pid_t ended;

	while ((ended = waitpid(pid, NULL, WNOHANG)) == 0 && clock_ns() < deadline_ns)
		usleep(END_PAUSE_US);
	if (ended != 0)
		return;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

void through_free(struct through *through)
{
	if (!through)
		return;
	if (through->child_fd >= 0)
		close(through->child_fd);
	if (through->child > 0)
		end_child(through->child);
	lock_fini(&through->lock);
	free(through->mountpoint);
	free(through);
}

int through_read_boot(char ret[static THROUGH_BOOT_BYTES])
{
	CLEANUP_CLOSE int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t got;

	memset(ret, 0, THROUGH_BOOT_BYTES);
	got = fd < 0 ? -1 : read(fd, ret, THROUGH_BOOT_BYTES);
	return got < 0 ? -errno : got > 0 ? 0 : -ENODATA;
}

void through_set_code(struct through *through, const char boot[static THROUGH_BOOT_BYTES], through_code_fn *code,
		      void *arg)
{
	memcpy(through->boot, boot, THROUGH_BOOT_BYTES);
	through->code = code;
	through->code_arg = arg;
}

/* The answer comes to *ret_fd. */
static int send_name(struct through *through, const char *name, int *ret_fd)
{
	char path[THROUGH_PATH_MAX];
	int length = snprintf(path, sizeof(path), "%s/" THROUGH_DIRECTORY "/%s", through->mountpoint, name), err;
	int pair[2];

	if (length >= (int)sizeof(path))
		return -ENAMETOOLONG;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	err = wire_send_bytes(through->child_fd, path, (size_t)length + 1, &pair[1], 1, 0);
	close(pair[1]);
	if (err)
		close(pair[0]);
	else
		*ret_fd = pair[0];
	return err;
}

/* Of no door: the directory becomes known, and is kept. That waits for calls on the mount to be answered, so it is not
 * waited for here. */
static void keep_directory(struct through *through)
{
	CLEANUP_CLOSE int ignored = -1;
	int err = send_name(through, "", &ignored);

	if (err)
		log_debug("%s: the directory of doors is kept when the first is opened: %s", through->mountpoint,
			  strerror(-err));
}

static int backing_open(int fuse_fd, int fd)
{
	struct backing_map map = { .fd = fd };
	int id = ioctl(fuse_fd, DEVICE_BACKING_OPEN, &map);

	return id < 0 ? -errno : id;
}

static void backing_close(int fuse_fd, int id)
{
	uint32_t number = (uint32_t)id;

	ioctl(fuse_fd, DEVICE_BACKING_CLOSE, &number);
}

/* Where an operator, or a test, says that it shall not be used. */
static bool is_unwanted(void)
{
	const char *value = getenv("TIERFS_PASSTHROUGH");

	return value && strcmp(value, "no") == 0;
}

void through_begin(struct through *through, int fuse_fd, const char *mountpoint)
{
	CLEANUP_CLOSE int fd = memfd_create("tierfs-probe", MFD_CLOEXEC);
	int id = fd < 0 ? -errno : backing_open(fuse_fd, fd);

	/* Those of a daemon that was killed meanwhile. */
	for (int old = id > LEFT_MAX ? id - LEFT_MAX : 1; old < id; old++)
		backing_close(fuse_fd, old);
	if (id >= 0)
		backing_close(fuse_fd, id);
	through->fuse_fd = fuse_fd;
	through->mountpoint = strdup(mountpoint);
	if (id < 0 || !through->mountpoint || is_unwanted())
		log_info("%s: processes that attach are given descriptors of arenas: %s", mountpoint,
			 is_unwanted() ? "TIERFS_PASSTHROUGH=no"
			 : id < 0 ? "the kernel has no FUSE passthrough, which needs Linux 6.9, or the mount was begun "
				    "without it"
				  : "no memory");
	else {
		atomic_store(&through->can, true);
		keep_directory(through);
	}
}

bool through_can(const struct through *through)
{
	return atomic_load(&through->can);
}

/* ---- names ---- */

static int make_name(const struct through *through, uint64_t ino, uint64_t holder, char name[static THROUGH_NAME_MAX])
{
	uint8_t code[THROUGH_CODE_BYTES];
	char coded[THROUGH_BOOT_BYTES + NAME_NUMBERS];
	int length = snprintf(name, THROUGH_NAME_MAX, NAME_FORMAT, ino, holder), err;

	memcpy(coded, through->boot, THROUGH_BOOT_BYTES);
	memcpy(coded + THROUGH_BOOT_BYTES, name, NAME_NUMBERS);
	err = through->code ? through->code(through->code_arg, coded, sizeof(coded), code) : -EOPNOTSUPP;
	for (unsigned int i = 0; !err && i < THROUGH_CODE_BYTES; i++)
		snprintf(name + length + 2 * i, 3, "%02x", code[i]);
	return err;
}

/* In a time that says nothing of where they differ. */
static bool same_name(const char *a, const char *b)
{
	unsigned char difference = 0;

	for (size_t i = 0; i < NAME_LENGTH; i++)
		difference |= (unsigned char)(a[i] ^ b[i]);
	return !difference;
}

/* The path may be longer, of another mount namespace, or of a mount that is gone: the last name is the door's. */
int through_find(struct through *through, int fd, uint64_t *ret_ino, uint64_t *ret_holder)
{
	char link[64], target[PATH_MAX + 1], name[THROUGH_NAME_MAX] = "", *at;
	uint64_t ino, holder;
	ssize_t length;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, target, sizeof(target) - 1);
	if (length < 0)
		return -errno;
	target[length] = '\0';
	at = strrchr(target, '/');
	if (!at || strlen(++at) < NAME_LENGTH || (at[NAME_LENGTH] && strcmp(at + NAME_LENGTH, " (deleted)") != 0) ||
	    sscanf(at, THROUGH_PREFIX "%16" SCNx64 "-%16" SCNx64 "-", &ino, &holder) != 2)
		return -ENOENT;
	if (make_name(through, ino, holder, name) < 0 || !same_name(at, name))
		return -ENOENT;
	*ret_ino = ino;
	*ret_holder = holder;
	return 0;
}

/* ---- to open one ---- */

static int opening_add(struct through *through, int arena_fd, uint64_t ino, uint64_t holder, struct opening **ret)
{
	struct opening *opening = calloc(1, sizeof(*opening));
	int err;

	if (!opening)
		return -ENOMEM;
	opening->node = THROUGH_NODE | holder;
	opening->backing_id = -1;
	err = make_name(through, ino, holder, opening->name);
	opening->arena_fd = err ? -1 : fcntl(arena_fd, F_DUPFD_CLOEXEC, 0);
	if (!err && opening->arena_fd < 0)
		err = -errno;
	if (err) {
		free(opening);
		return err;
	}
	lock_get(&through->lock);
	TAILQ_INSERT_TAIL(&through->openings, opening, link);
	lock_put(&through->lock);
	*ret = opening;
	return 0;
}

/* True: the kernel opened it. */
static bool opening_end(struct through *through, struct opening *opening)
{
	bool opened;

	lock_get(&through->lock);
	TAILQ_REMOVE(&through->openings, opening, link);
	opened = opening->arena_fd < 0;
	lock_put(&through->lock);
	if (!opened)
		close(opening->arena_fd);
	/* Not before: the kernel looks the number up when who opens has been woken. It goes on holding what it stands
	 * for, as long as the door is open. */
	if (opening->backing_id >= 0)
		backing_close(through->fuse_fd, opening->backing_id);
	free(opening);
	return opened;
}

static int receive(int fd, int *ret_fd)
{
	uint64_t deadline_ns = clock_ns() + ANSWER_NS, now_ns;
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	int fds[WIRE_FDS_MAX], fd_count = 0, answer = 0, ready, err;
	size_t length = 0;

	do {
		now_ns = clock_ns();
		ready = now_ns < deadline_ns ? poll(&pollfd, 1, (int)((deadline_ns - now_ns) / NS_PER_MS) + 1) : 0;
	} while (ready < 0 && errno == EINTR);
	if (ready <= 0)
		return ready < 0 ? -errno : -ETIMEDOUT;
	err = wire_recv_bytes(fd, &answer, sizeof(answer), fds, &fd_count, MSG_DONTWAIT, &length);
	if (err)
		return err == -ECONNRESET ? -EPIPE : err;
	if (length == sizeof(answer) && answer == 0 && fd_count == 1) {
		*ret_fd = fds[0];
		return 0;
	}
	for (int i = 0; i < fd_count; i++)
		close(fds[i]);
	return length == sizeof(answer) && answer < 0 ? answer : -EPIPE;
}

static int ask_child(struct through *through, const char *name, int *ret_fd)
{
	CLEANUP_CLOSE int answer = -1;
	int err = send_name(through, name, &answer);

	return err ? err : receive(answer, ret_fd);
}

int through_open(struct through *through, int arena_fd, uint64_t ino, uint64_t holder, int *ret_fd)
{
	struct opening *opening = NULL;
	bool opened;
	int err, fd = -1;

	if (!through_can(through))
		return -EOPNOTSUPP;
	err = opening_add(through, arena_fd, ino, holder, &opening);
	if (err)
		return err;
	err = ask_child(through, opening->name, &fd);
	opened = opening_end(through, opening);
	/* What lies under that name elsewhere is no door: nobody came to open ours. */
	if (!err && !opened) {
		close(fd);
		err = -ENOENT;
	}
	if (!err)
		*ret_fd = fd;
	return err;
}

/* ---- for who answers the kernel ---- */

int through_lookup(struct through *through, const char *name, uint64_t *ret_node)
{
	struct opening *opening;

	if (strlen(name) != NAME_LENGTH || strncmp(name, THROUGH_PREFIX, sizeof(THROUGH_PREFIX) - 1) != 0)
		return -ENOENT;
	LOCK_SCOPE(&through->lock);
	TAILQ_FOREACH(opening, &through->openings, link)
		if (opening->arena_fd >= 0 && same_name(opening->name, name)) {
			*ret_node = opening->node;
			return 0;
		}
	return -ENOENT;
}

static int take_arena(struct through *through, uint64_t node)
{
	struct opening *opening;

	LOCK_SCOPE(&through->lock);
	TAILQ_FOREACH(opening, &through->openings, link)
		if (opening->node == node && opening->arena_fd >= 0)
			return STEAL_FD(opening->arena_fd);
	return -1;
}

/* False: nobody waits for it any more. */
static bool note_backing(struct through *through, uint64_t node, int id)
{
	struct opening *opening;

	LOCK_SCOPE(&through->lock);
	TAILQ_FOREACH(opening, &through->openings, link)
		if (opening->node == node) {
			opening->backing_id = id;
			return true;
		}
	return false;
}

int through_answer_open(struct through *through, uint64_t node, struct through_opened *ret)
{
	CLEANUP_CLOSE int fd = take_arena(through, node);
	int id = fd < 0 ? -EACCES : backing_open(through->fuse_fd, fd);

	if (id < 0)
		return id;
	if (!note_backing(through, node, id)) {
		backing_close(through->fuse_fd, id);
		return -EACCES;
	}
	*ret = (struct through_opened){
		.flags = FOPEN_DIRECT_IO | OPEN_NOFLUSH | OPEN_PASSTHROUGH,
		.backing_id = id,
	};
	return 0;
}

void through_agree(const void *request, uint64_t request_bytes, void *answer, uint64_t answer_bytes)
{
	const struct fuse_in_header *header = request;
	const struct fuse_init_in *in = (const void *)(header + 1);
	struct fuse_init_out *out = answer;
	uint32_t depth = 1;

	if (request_bytes < sizeof(*header) + sizeof(*in) || answer_bytes < sizeof(*out) || is_unwanted() ||
	    !(in->flags & FLAG_EXTENDED) || !(in->flags2 & FLAG2_PASSTHROUGH))
		return;
	out->flags |= FLAG_EXTENDED;
	out->flags2 |= FLAG2_PASSTHROUGH;
	/* max_stack_depth comes behind: an arena lies on no other file system. */
	memcpy((char *)&out->flags2 + sizeof(out->flags2), &depth, sizeof(depth));
}
