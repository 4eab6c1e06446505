/* libtierfs against a daemon of the test's own: handshake, errors, zaps, parts, a daemon that dies and comes back,
 * fork.
 *
 * The daemon speaks tierfs/protocol.h on a real socket, with a memfd for the arena and real userfaultfds; the two calls
 * that ask the mount (statfs and the ioctl) are answered by the test, since there is none.
 */
/* link: -Wl,--wrap=client_sys6 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <tierfs/access.h>
#include <tierfs/protocol.h>
#include <tierfs/tierfs.h>

#include "base/clock.h"
#include "client/client.h"
#include "client/client_agent.h"
#include "client/client_lock.h"
#include "client/client_range.h"
#include "client/client_spans.h"
#include "wire/wire.h"
#include "lib_check.h"

#define PAGE 4096UL
#define FILE_BYTES (64 * PAGE)
#define INO 42
#define CONNS_MAX 8
#define LOG_MAX 64
#define MAPS_MAX 256

static char dir[] = TIERFS_RUN_ROOT "/test-client-XXXXXX";
static const char *run_dir = dir;
static int ram_fd;   /* stands for the RAM file */
static int arena_fd; /* outlives the daemon, as the arenas' tmpfs does */
static uint32_t rights = TIERFS_RIGHT_READ | TIERFS_RIGHT_WRITE;
static _Atomic uint32_t dram_mib;
static _Atomic int questions;         /* asked of the mount */
static _Atomic uint8_t daemon_number; /* makes its tokens */
/* After the next answer of the mount there is another daemon, and it may be in another place. */
static _Atomic bool is_succeeded, is_moved;

/* --- the mount's answers ------------------------------------------------------------------------------------------ */

long __real_client_sys6(long number, long a, long b, long c, long d, long e, long f);
long __wrap_client_sys6(long number, long a, long b, long c, long d, long e, long f);

long __wrap_client_sys6(long number, long a, long b, long c, long d, long e, long f)
{
	long result;

	if (number == SYS_ioctl && (unsigned long)b == TIERFS_IOC_INFO) {
		struct tierfs_ioc_info *info = (struct tierfs_ioc_info *)c;

		questions++;
		*info = (struct tierfs_ioc_info){ .abi_version = TIERFS_ABI_VERSION,
						  .rights = rights,
						  .dram_mib = dram_mib,
						  .ino = INO,
						  .size_bytes = FILE_BYTES,
						  .block_bytes = 16384 };
		strcpy(info->run_dir, run_dir);
		memset(info->token, daemon_number, sizeof(info->token));
		daemon_number += atomic_exchange(&is_succeeded, false);
		if (atomic_exchange(&is_moved, false))
			run_dir = TIERFS_RUN_ROOT "/elsewhere";
		return 0;
	}
	result = __real_client_sys6(number, a, b, c, d, e, f);
	if (number == SYS_fstatfs && !result)
		((struct statfs *)b)->f_type = FUSE_SUPER_MAGIC;
	return result;
}

/* --- the daemon --------------------------------------------------------------------------------------------------- */

struct map {
	pid_t pid; /* whose address it is */
	int uffd;
	uint64_t addr, length, offset;
};

static struct {
	pthread_t thread;
	int listen_fd;
	int stop[2];
	_Atomic int conn[CONNS_MAX];
	struct map maps[MAPS_MAX];
	int map_count;
	/* What it got. */
	pthread_mutex_t lock;
	struct tierfs_msg log[LOG_MAX];
	int log_count;
	/* How it behaves. */
	_Atomic uint32_t abi_version;
	_Atomic int refuse_type, refuse_code;
	_Atomic int hang_up_on;     /* closes the connection instead of answering */
	_Atomic bool hears_garbage; /* the client may hang up before its last request is answered */
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void fake_reply(int fd, struct tierfs_msg *msg, int *fds, int count)
{
	int err = wire_send(fd, msg, fds, count);

	if (fake.hears_garbage && (err == -EPIPE || err == -ECONNRESET))
		return;
	ck_assert_int_eq(err, 0);
}

static pid_t peer_of(int fd)
{
	struct ucred who = { 0 };
	socklen_t length = sizeof(who);

	ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length), 0);
	return who.pid;
}

static void fake_register(int fd, struct wire_packet *packet, int uffd)
{
	struct map *map = &fake.maps[fake.map_count++];
	struct uffdio_register reg = {
		.range = { packet->msg.u.map.addr, packet->msg.u.map.length_bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};

	*map = (struct map){ peer_of(fd), dup(uffd), packet->msg.u.map.addr, packet->msg.u.map.length_bytes,
			     packet->msg.u.map.offset };
	ck_assert_int_eq(ioctl(map->uffd, UFFDIO_REGISTER, &reg), 0);
}

static void fake_answer(int fd, struct wire_packet *packet)
{
	struct tierfs_msg reply = { .type = TIERFS_MSG_DONE, .seq = packet->msg.seq };
	int fds[2], count = 0;

	switch (packet->msg.type) {
	case TIERFS_MSG_HELLO:
		reply.type = TIERFS_MSG_WELCOME;
		reply.u.welcome.abi_version = fake.abi_version;
		reply.u.welcome.block_bytes = 16384;
		break;
	case TIERFS_MSG_OPEN:
		reply.type = TIERFS_MSG_ARENA;
		reply.u.arena.ino = INO;
		reply.u.arena.size_bytes = FILE_BYTES;
		reply.u.arena.rights = rights;
		fds[count++] = arena_fd;
		fds[count++] = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		break;
	case TIERFS_MSG_MAP:
		fake_register(fd, packet, packet->fds[0]);
		reply.u.done.map_id = (uint64_t)fake.map_count;
		break;
	case TIERFS_MSG_RESUME:
		ck_assert_int_eq(packet->fd_count, 2);
		fake_register(fd, packet, packet->fds[1]);
		reply.u.done.map_id = 100 + (uint64_t)fake.map_count;
		break;
	case TIERFS_MSG_ZAPPED:
		return;
	}
	fake_reply(fd, &reply, fds, count);
	if (count == 2)
		close(fds[1]);
}

/* The code of the refusal, or 0. */
static int fake_refuses(const struct tierfs_msg *msg)
{
	if (msg->type == TIERFS_MSG_OPEN && msg->u.open.token[0] != daemon_number)
		return EACCES;
	return (int)msg->type == fake.refuse_type ? fake.refuse_code : 0;
}

static void fake_packet(_Atomic int *fd)
{
	static struct wire_packet packet;
	int err = wire_recv(*fd, &packet);

	if (err) {
		close(*fd);
		*fd = -1;
		return;
	}
	pthread_mutex_lock(&fake.lock);
	fake.log[fake.log_count++ % LOG_MAX] = packet.msg;
	pthread_mutex_unlock(&fake.lock);
	if ((int)packet.msg.type == fake.hang_up_on) {
		close(*fd);
		*fd = -1;
	} else if (fake_refuses(&packet.msg)) {
		struct tierfs_msg reply = { .type = TIERFS_MSG_ERROR, .seq = packet.msg.seq };

		reply.u.error.code = fake_refuses(&packet.msg);
		strcpy(reply.u.error.text, "the test says no");
		fake_reply(*fd, &reply, NULL, 0);
	} else {
		fake_answer(*fd, &packet);
	}
	wire_close_fds(&packet);
}

/* What a page of the file holds when the daemon brings it. */
static uint64_t word_at(uint64_t offset)
{
	return offset * 3 + 1;
}

static void fake_fault(struct map *map)
{
	static uint64_t page[PAGE / 8] __attribute__((aligned(4096)));
	struct uffd_msg event;
	uint64_t addr, offset;

	if (read(map->uffd, &event, sizeof(event)) != sizeof(event) || event.event != UFFD_EVENT_PAGEFAULT)
		return;
	addr = event.arg.pagefault.address & ~(PAGE - 1);
	/* The pieces of one mapping share a userfaultfd. A child may have other memory at the same address. */
	for (int i = 0; i < fake.map_count; i++)
		if (fake.maps[i].pid == map->pid && addr >= fake.maps[i].addr &&
		    addr < fake.maps[i].addr + fake.maps[i].length)
			map = &fake.maps[i];
	offset = map->offset + (addr - map->addr);
	for (size_t i = 0; i < PAGE / 8; i++)
		page[i] = word_at(offset + i * 8);
	struct uffdio_copy copy = { .dst = addr, .src = (uintptr_t)page, .len = PAGE };

	ioctl(map->uffd, UFFDIO_COPY, &copy);
}

static void *fake_main(void *arg)
{
	(void)arg;
	for (;;) {
		struct pollfd polls[2 + CONNS_MAX + MAPS_MAX];
		int count = 2;

		polls[0] = (struct pollfd){ fake.stop[0], POLLIN, 0 };
		polls[1] = (struct pollfd){ fake.listen_fd, POLLIN, 0 };
		for (int i = 0; i < CONNS_MAX; i++)
			polls[count++] = (struct pollfd){ fake.conn[i], POLLIN, 0 };
		for (int i = 0; i < fake.map_count; i++)
			polls[count++] = (struct pollfd){ fake.maps[i].uffd, POLLIN, 0 };
		if (poll(polls, (nfds_t)count, -1) < 0)
			continue;
		if (polls[0].revents)
			return NULL;
		for (int i = 0; i + 2 + CONNS_MAX < count; i++)
			if (polls[2 + CONNS_MAX + i].revents)
				fake_fault(&fake.maps[i]);
		for (int i = 0; i < CONNS_MAX; i++)
			if (polls[2 + i].fd >= 0 && polls[2 + i].revents)
				fake_packet(&fake.conn[i]);
		for (int i = 0; polls[1].revents && i < CONNS_MAX; i++)
			if (fake.conn[i] < 0) {
				fake.conn[i] = accept4(fake.listen_fd, NULL, NULL, SOCK_CLOEXEC);
				break;
			}
	}
}

static void fake_start(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	fake.abi_version = fake.abi_version ? fake.abi_version : TIERFS_ABI_VERSION;
	fake.map_count = 0;
	for (int i = 0; i < CONNS_MAX; i++)
		fake.conn[i] = -1;
	ck_assert_int_eq(pipe2(fake.stop, O_CLOEXEC), 0);
	fake.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, TIERFS_ATTACH_SOCKET);
	unlink(address.sun_path);
	ck_assert_int_eq(bind(fake.listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(fake.listen_fd, 8), 0);
	ck_assert_int_eq(pthread_create(&fake.thread, NULL, fake_main, NULL), 0);
}

/* As kill -9: everything of the daemon is closed. */
static void fake_kill(void)
{
	close(fake.stop[1]);
	pthread_join(fake.thread, NULL);
	close(fake.stop[0]);
	close(fake.listen_fd);
	for (int i = 0; i < CONNS_MAX; i++)
		if (fake.conn[i] >= 0)
			close(fake.conn[i]);
	for (int i = 0; i < fake.map_count; i++)
		close(fake.maps[i].uffd);
	fake.map_count = 0;
}

/* How many packets of that type came; *ret is the last of them. */
static int fake_got(enum tierfs_msg_type type, struct tierfs_msg *ret)
{
	int count = 0;

	pthread_mutex_lock(&fake.lock);
	for (int i = 0; i < fake.log_count; i++) {
		if (fake.log[i].type != type)
			continue;
		count++;
		if (ret)
			*ret = fake.log[i];
	}
	pthread_mutex_unlock(&fake.lock);
	return count;
}

static void wait_for(enum tierfs_msg_type type, int count, struct tierfs_msg *ret)
{
	for (int i = 0; fake_got(type, ret) < count; i++) {
		ck_assert_msg(i < 5000, "packet %d did not come", type);
		usleep(1000); /* a poll, not a guess: the loop ends when it came */
	}
}

/* --- setup -------------------------------------------------------------------------------------------------------- */

static void setup(void)
{
	ck_assert(mkdir(TIERFS_RUN_ROOT, 0711) == 0 || errno == EEXIST);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ram_fd = memfd_create("ram", MFD_CLOEXEC);
	arena_fd = memfd_create("arena", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(arena_fd, FILE_BYTES), 0);
	fake.hears_garbage = false;
	fake_start();
}

static void teardown(void)
{
	char path[128];

	fake_kill();
	snprintf(path, sizeof(path), "%s/%s", dir, TIERFS_ATTACH_SOCKET);
	unlink(path);
	rmdir(dir);
}

static uint64_t *attach(size_t length, off_t offset)
{
	void *memory = NULL;

	ck_assert_int_eq(tierfs_attach(ram_fd, NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, offset, &memory), 0);
	return memory;
}

static int attach_error(int prot, int flags, size_t length, off_t offset)
{
	void *memory = (void *)1;
	int err = tierfs_attach(ram_fd, NULL, length, prot, flags, offset, &memory);

	ck_assert_ptr_eq(memory, (void *)1);
	return err;
}

static bool is_mapped(void *addr)
{
	return msync(addr, PAGE, MS_ASYNC) == 0;
}

static bool is_present(void *addr)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	ck_assert_int_eq(pread(fd, &entry, 8, (off_t)((uintptr_t)addr / PAGE * 8)), 8);
	close(fd);
	return entry >> 63;
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

START_TEST(test_attach)
{
	uint64_t *memory = attach(FILE_BYTES - PAGE, PAGE), word = 0;

	/* The first touch already waits for the daemon. */
	ck_assert_uint_eq(memory[0], word_at(PAGE));
	ck_assert_uint_eq(memory[5 * PAGE / 8 + 3], word_at(6 * PAGE + 24));
	memory[1] = 99;
	ck_assert_int_eq(pread(arena_fd, &word, 8, PAGE + 8), 8);
	ck_assert_uint_eq(word, 99);
	ck_assert_int_eq(tierfs_detach(memory, FILE_BYTES - PAGE), 0);
	ck_assert(!is_mapped(memory));
	ck_assert_int_eq(fake_got(TIERFS_MSG_UNMAP, NULL), 1);
	ck_assert_int_eq(client_range_count(NULL), 0);
	ck_assert_ptr_null(client_range_at(0));
}
END_TEST

START_TEST(test_fixed)
{
	char *place = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *memory = NULL;

	place[0] = 1;
	ck_assert_int_eq(tierfs_attach(ram_fd, place + PAGE, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, 0, &memory),
			 0);
	ck_assert_ptr_eq(memory, place + PAGE);
	ck_assert_uint_eq(*(uint64_t *)memory, word_at(0));
	ck_assert_int_eq(tierfs_attach(ram_fd, place + PAGE, PAGE, PROT_READ, MAP_FIXED_NOREPLACE, 0, &memory),
			 -EEXIST);
	/* Over a part of itself: the old part is given up first. */
	ck_assert_int_eq(tierfs_attach(ram_fd, place + 2 * PAGE, 2 * PAGE, PROT_READ, MAP_FIXED, 8 * PAGE, &memory), 0);
	ck_assert_int_eq(fake_got(TIERFS_MSG_UNMAP, NULL), 1);
	ck_assert_uint_eq(*(uint64_t *)(place + PAGE), word_at(0));
	ck_assert_uint_eq(*(uint64_t *)(place + 2 * PAGE), word_at(8 * PAGE));
	ck_assert_int_eq(place[0], 1);
	ck_assert_int_eq(tierfs_detach(place, 8 * PAGE), 0);
	ck_assert_int_eq(fake_got(TIERFS_MSG_UNMAP, NULL), 3);
}
END_TEST

START_TEST(test_bad_wishes)
{
	ck_assert_int_eq(attach_error(PROT_READ, 0, 0, 0), -EINVAL);
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 100), -EINVAL);
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, -4096), -EINVAL);
	ck_assert_int_eq(attach_error(PROT_READ, 0, SIZE_MAX, 0), -EINVAL);
	ck_assert_int_eq(attach_error(PROT_READ, 0, FILE_BYTES + 1, 0), -EINVAL);
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, FILE_BYTES), -EINVAL);
	ck_assert_int_eq(attach_error(PROT_READ, MAP_HUGETLB, PAGE, 0), -EINVAL);
	ck_assert_int_eq(attach_error(PROT_READ, MAP_SYNC, PAGE, 0), -EOPNOTSUPP);
	rights = TIERFS_RIGHT_READ;
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -EACCES);
	rights = TIERFS_RIGHT_WRITE;
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -EACCES);
	ck_assert_int_eq(tierfs_discard((void *)PAGE, PAGE), -EINVAL);
	ck_assert_int_eq(tierfs_discard((void *)1, PAGE), -EINVAL);
	ck_assert_int_eq(tierfs_detach((void *)1, PAGE), -EINVAL);
}
END_TEST

START_TEST(test_refused)
{
	static const int types[] = { TIERFS_MSG_OPEN, TIERFS_MSG_MAP };

	for (int i = 0; i < 2; i++) {
		fake.refuse_type = types[i];
		fake.refuse_code = EBUSY;
		ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -EBUSY);
		ck_assert_ptr_null(client_range_at(0));
		fake.refuse_type = 0;
	}
	/* The connection is as good as before. */
	attach(PAGE, 0);
	ck_assert_int_eq(fake_got(TIERFS_MSG_HELLO, NULL), 1);
}
END_TEST

START_TEST(test_refused_fixed)
{
	char *place = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *memory;

	fake.refuse_type = TIERFS_MSG_MAP;
	fake.refuse_code = ENOMEM;
	ck_assert_int_eq(tierfs_attach(ram_fd, place + PAGE, PAGE, PROT_READ, MAP_FIXED, 0, &memory), -ENOMEM);
	/* No hole in somebody's reservation, and nothing of ours in it. */
	ck_assert(is_mapped(place + PAGE));
	ck_assert_ptr_null(client_range_at(0));
}
END_TEST

START_TEST(test_no_daemon)
{
	fake_kill();
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -ENOTCONN);
	fake_start();
	fake.hang_up_on = TIERFS_MSG_HELLO;
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -ENOTCONN);
	fake.hang_up_on = TIERFS_MSG_OPEN;
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -ENOTCONN);
	fake.hang_up_on = TIERFS_MSG_MAP;
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -ENOTCONN);
	ck_assert_ptr_null(client_range_at(0));
	fake.hang_up_on = 0;
	attach(PAGE, 0);
}
END_TEST

START_TEST(test_other_version)
{
	fake.abi_version = TIERFS_ABI_VERSION + 1;
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -EPROTO);
}
END_TEST

START_TEST(test_another_daemon)
{
	is_succeeded = true;
	attach(PAGE, 0);
	is_succeeded = true;
	attach(PAGE, 0);
	ck_assert_int_eq(fake_got(TIERFS_MSG_OPEN, NULL), 2);
	is_moved = true;
	ck_assert_int_eq(attach_error(PROT_READ, 0, PAGE, 0), -ENOTCONN);
	ck_assert_int_eq(fake_got(TIERFS_MSG_OPEN, NULL), 2);
}
END_TEST

START_TEST(test_parts)
{
	char *memory = (char *)attach(16 * PAGE, 8 * PAGE);
	struct tierfs_msg msg;

	ck_assert_int_eq(tierfs_detach(memory + 4 * PAGE, 2 * PAGE), 0);
	ck_assert_int_eq(fake_got(TIERFS_MSG_UNMAP, &msg), 1);
	ck_assert_uint_eq(msg.u.part.map_id, 1);
	ck_assert_uint_eq(msg.u.part.where, (uintptr_t)(memory + 4 * PAGE));
	ck_assert_uint_eq(msg.u.part.length_bytes, 2 * PAGE);
	ck_assert(!is_mapped(memory + 4 * PAGE));
	ck_assert(is_mapped(memory + 6 * PAGE));
	ck_assert_uint_eq(*(uint64_t *)(memory + 6 * PAGE), word_at(14 * PAGE));
	/* Discard of what is left, not of what has gone. */
	ck_assert_int_eq(tierfs_discard(memory + 3 * PAGE, 2 * PAGE), -EINVAL);
	ck_assert_int_eq(tierfs_discard(memory + 6 * PAGE, PAGE), 0);
	ck_assert_int_eq(fake_got(TIERFS_MSG_DISCARD, &msg), 1);
	ck_assert_uint_eq(msg.u.part.where, 14 * PAGE);
	ck_assert_uint_eq(msg.u.part.length_bytes, PAGE);
	/* Both remaining pieces, the hole, and what is around them, in one call. */
	ck_assert_int_eq(tierfs_detach(memory, 16 * PAGE), 0);
	ck_assert_int_eq(fake_got(TIERFS_MSG_UNMAP, &msg), 3);
	ck_assert_ptr_null(client_range_at(0));
}
END_TEST

START_TEST(test_zap)
{
	char *memory = (char *)attach(8 * PAGE, 0);
	char *foreign = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct tierfs_msg zap = { .type = TIERFS_MSG_ZAP, .seq = 77 }, msg;

	for (int i = 0; i < 8; i++)
		memory[(size_t)i * PAGE] = (char)i;
	foreign[0] = 'x';
	zap.u.zap.count = 3;
	zap.u.zap.range[0] = (struct tierfs_range){ (uintptr_t)memory + PAGE, 2 * PAGE };
	zap.u.zap.range[1] = (struct tierfs_range){ (uintptr_t)foreign, PAGE };
	zap.u.zap.range[2] = (struct tierfs_range){ (uintptr_t)memory + 6 * PAGE, 20 * PAGE };
	fake_reply(fake.conn[0], &zap, NULL, 0);
	wait_for(TIERFS_MSG_ZAPPED, 1, &msg);
	ck_assert_uint_eq(msg.seq, 77);
	ck_assert_int_eq(foreign[0], 'x');
	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(is_present(memory + (size_t)i * PAGE), i != 1 && i != 2 && i < 6);
	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(memory[(size_t)i * PAGE], (char)i);
}
END_TEST

static void *touch(void *arg)
{
	return (void *)*(volatile uintptr_t *)arg;
}

static void *discard(void *arg)
{
	return (void *)(intptr_t)tierfs_discard(arg, PAGE);
}

START_TEST(test_daemon_dies)
{
	char *memory = (char *)attach(16 * PAGE, 16 * PAGE), *other = (char *)attach(PAGE, 0);
	pthread_t toucher, discarder;
	struct tierfs_msg msg;
	void *value;

	memory[PAGE] = 5;
	fake_kill();
	ck_assert_int_eq(memory[PAGE], 5);
	ck_assert_int_eq(pthread_create(&toucher, NULL, touch, memory + 3 * PAGE), 0);
	ck_assert_int_eq(pthread_create(&discarder, NULL, discard, memory + PAGE), 0);
	/* What goes while there is no daemon goes at once, and is not brought to the next one. */
	ck_assert_int_eq(tierfs_detach(other, PAGE), 0);
	ck_assert_int_eq(tierfs_detach(memory + 8 * PAGE, 8 * PAGE), 0);
	fake_start();
	ck_assert_int_eq(pthread_join(toucher, &value), 0);
	ck_assert_uint_eq((uintptr_t)value, word_at(19 * PAGE));
	ck_assert_int_eq(pthread_join(discarder, &value), 0);
	ck_assert_ptr_null(value);
	ck_assert_int_eq(fake_got(TIERFS_MSG_RESUME, &msg), 1);
	ck_assert_uint_eq(msg.u.map.addr, (uintptr_t)memory);
	ck_assert_uint_eq(msg.u.map.length_bytes, 8 * PAGE);
	ck_assert_uint_eq(msg.u.map.offset, 16 * PAGE);
	ck_assert_int_ge(fake_got(TIERFS_MSG_DISCARD, &msg), 1);
	ck_assert_uint_eq(msg.u.part.map_id, 101);
	ck_assert_uint_eq(msg.u.part.where, 17 * PAGE);
	/* And once more, with new memory beside it. */
	attach(PAGE, 0);
	fake_kill();
	fake_start();
	ck_assert_uint_eq(*(uint64_t *)(memory + 5 * PAGE), word_at(21 * PAGE));
	wait_for(TIERFS_MSG_RESUME, 3, NULL); /* the page came with the first of the two */
}
END_TEST

START_TEST(test_resume_refused)
{
	char *memory = (char *)attach(4 * PAGE, 0);

	fake_kill();
	fake.refuse_type = TIERFS_MSG_RESUME;
	fake.refuse_code = ENOENT;
	fake_start();
	wait_for(TIERFS_MSG_RESUME, 1, NULL);
	/* Asked again, until the daemon takes it. */
	fake.refuse_type = 0;
	ck_assert_uint_eq(*(uint64_t *)memory, word_at(0));
	ck_assert_int_ge(fake_got(TIERFS_MSG_RESUME, NULL), 2);
	ck_assert_int_eq(tierfs_detach(memory, 4 * PAGE), 0);
}
END_TEST

START_TEST(test_garbage_from_daemon)
{
	char *memory = (char *)attach(4 * PAGE, 0);
	struct tierfs_msg zap = { .type = TIERFS_MSG_ZAP };

	fake.hears_garbage = true;
	ck_assert_int_eq(send(fake.conn[0], "garbage", 7, 0), 7);
	wait_for(TIERFS_MSG_RESUME, 1, NULL);
	for (int i = 0; i < CONNS_MAX; i++)
		if (fake.conn[i] >= 0) {
			/* A count that the length does not bear out. */
			zap.magic = TIERFS_MSG_MAGIC;
			zap.u.zap.count = 100;
			send(fake.conn[i], &zap, 64, MSG_NOSIGNAL);
		}
	wait_for(TIERFS_MSG_RESUME, 2, NULL);
	ck_assert_uint_eq(*(uint64_t *)memory, word_at(0));
}
END_TEST

/* ThreadSanitizer allows no new thread in the child of a process with threads. */
#ifndef __SANITIZE_THREAD__
static int child(char *memory)
{
	void *again = NULL;

	if (is_mapped(memory) || client_is_attached(memory, PAGE) || client_range_at(0))
		return 1;
	for (int fd = 100; fd < 200; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			return 2;
	/* The address is free: whatever starts a thread might put something of its own there. */
	if (mmap(memory, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != memory)
		return 3;
	/* Other memory than the parent has at that address. */
	if (tierfs_attach(ram_fd, memory, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, 3 * PAGE, &again) || again != memory)
		return 4;
	return *(uint64_t *)again == word_at(3 * PAGE) ? 0 : 5;
}

START_TEST(test_fork)
{
	char *memory = (char *)attach(4 * PAGE, 0);
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(child(memory));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	ck_assert_uint_eq(*(uint64_t *)memory, word_at(0));
	ck_assert_int_eq(tierfs_detach(memory, 4 * PAGE), 0);
	ck_assert_int_eq(fake_got(TIERFS_MSG_HELLO, NULL), 2);
}
END_TEST

#endif /* __SANITIZE_THREAD__ */

static size_t locked_bytes(const void *addr, size_t length)
{
	struct client_agent_guard guard;
	size_t bytes;

	client_agent_enter(&guard);
	bytes = client_spans_bytes((uintptr_t)addr, (uintptr_t)addr + length);
	client_agent_leave(&guard);
	return bytes;
}

/* Three eighths of a MiB can be locked: the file and half of it. */
START_TEST(test_lock_replaced)
{
	void *memory = NULL, *again = NULL;

	dram_mib = 1;
	ck_assert_int_eq(tierfs_attach(ram_fd, NULL, FILE_BYTES, PROT_READ, MAP_LOCKED, 0, &memory), 0);
	ck_assert_uint_eq(locked_bytes(memory, FILE_BYTES), FILE_BYTES);
	ck_assert_int_eq(attach_error(PROT_READ, MAP_LOCKED, FILE_BYTES, 0), -ENOMEM);
	ck_assert_int_eq(tierfs_attach(ram_fd, memory, FILE_BYTES, PROT_READ, MAP_LOCKED | MAP_FIXED, 0, &again), 0);
	ck_assert_ptr_eq(again, memory);
	ck_assert_uint_eq(locked_bytes(memory, FILE_BYTES), FILE_BYTES);
	/* A part of what is there, and no more room beside it than there was. */
	ck_assert_int_eq(tierfs_attach(ram_fd, (char *)memory + PAGE, FILE_BYTES / 2, PROT_READ, MAP_LOCKED | MAP_FIXED,
				       0, &again),
			 0);
	ck_assert_int_eq(attach_error(PROT_READ, MAP_LOCKED, FILE_BYTES / 2 + PAGE, 0), -ENOMEM);
	ck_assert_int_eq(tierfs_attach(ram_fd, NULL, FILE_BYTES / 2, PROT_READ, MAP_LOCKED, 0, &again), 0);
}
END_TEST

/* One that is too many cannot be counted, so it is not locked. */
START_TEST(test_lock_pieces)
{
	struct client_wish wish = { ram_fd, NULL, PAGE, PROT_READ, MAP_SHARED | MAP_LOCKED, 0 };
	void *memory = attach(2 * PAGE, 0), *other;
	struct client_agent_guard guard;
	struct client_refusal refusal;
	struct client_claim claim;
	char why[CLIENT_WHY_LEN];

	ck_assert_int_eq(client_lock_begin(memory, PAGE, &claim, &refusal), 0);
	client_lock_end(memory, PAGE, &claim, true);
	client_agent_enter(&guard);
	for (uintptr_t at = 1; client_spans_has_room(); at++)
		client_spans_add(3 * at, 3 * at + 2);
	client_agent_leave(&guard);
	ck_assert_int_eq(client_lock_begin(memory, 2 * PAGE, &claim, &refusal), -ENOMEM);
	ck_assert(refusal.no_room);
	ck_assert_int_eq(client_attach(&wish, &other, why), -ENOMEM);
	ck_assert_ptr_nonnull(strstr(why, CLIENT_LOCK_PIECES));
	/* Nothing is added by what is locked already. */
	ck_assert_int_eq(client_lock_begin(memory, PAGE, &claim, &refusal), 0);
	client_lock_end(memory, PAGE, &claim, true);
}
END_TEST

/* What the kernel locks and unlocks before it comes to a hole is counted. */
START_TEST(test_lock_failed)
{
	char *place = mmap(NULL, 8 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct client_refusal why;
	struct client_claim claim;
	void *memory;

	ck_assert_int_eq(tierfs_attach(ram_fd, place, 4 * PAGE, PROT_READ, MAP_FIXED, 0, &memory), 0);
	ck_assert_int_eq(tierfs_attach(ram_fd, place + 6 * PAGE, PAGE, PROT_READ, MAP_FIXED, 0, &memory), 0);
	munmap(place + 5 * PAGE, PAGE);
	ck_assert_int_eq(client_lock_begin(place, 7 * PAGE, &claim, &why), 0);
	ck_assert_int_eq(syscall(SYS_mlock2, place, 7 * PAGE, 0x80), -1);
	client_lock_end(place, 7 * PAGE, &claim, false);
	ck_assert_uint_eq(locked_bytes(place, 8 * PAGE), 0);
	ck_assert_int_eq(client_lock_begin(place, 7 * PAGE, &claim, &why), 0);
	ck_assert_int_eq(syscall(SYS_mlock, place, 7 * PAGE), -1);
	ck_assert_int_eq(errno, ENOMEM);
	client_lock_end(place, 7 * PAGE, &claim, false);
	ck_assert_uint_eq(locked_bytes(place, 8 * PAGE), 4 * PAGE);
	/* The end that is locked stays, the beginning goes. */
	ck_assert_int_eq(client_lock_begin(place + 6 * PAGE, PAGE, &claim, &why), 0);
	ck_assert_int_eq(syscall(SYS_mlock, place + 6 * PAGE, PAGE), 0);
	client_lock_end(place + 6 * PAGE, PAGE, &claim, true);
	ck_assert_int_eq(syscall(SYS_munlock, place, 7 * PAGE), -1);
	client_lock_drop(place, 7 * PAGE, false);
	ck_assert_uint_eq(locked_bytes(place, 8 * PAGE), PAGE);
	ck_assert_uint_eq(locked_bytes(place + 6 * PAGE, PAGE), PAGE);
}
END_TEST

static bool is_up(uint64_t *ret_dram_bytes)
{
	struct client_agent_guard guard;
	bool up;

	client_agent_enter(&guard);
	up = client_conns[0].state == CLIENT_CONN_UP;
	*ret_dram_bytes = client_conns[0].dram_bytes;
	client_agent_leave(&guard);
	return up;
}

static void wait_until_up(bool up)
{
	uint64_t dram_bytes;

	for (int i = 0; is_up(&dram_bytes) != up; i++) {
		ck_assert_msg(i < 5000, "the connection does not change");
		usleep(1000); /* a poll, not a guess: the loop ends when it has changed */
	}
}

static void lock_a_page(void *memory)
{
	struct client_refusal why;
	struct client_claim claim;

	ck_assert_int_eq(client_lock_begin(memory, PAGE, &claim, &why), 0);
	client_lock_end(memory, PAGE, &claim, false);
}

START_TEST(test_budget)
{
	void *memory = attach(PAGE, 0);
	uint64_t dram_bytes;
	int asked;

	dram_mib = 5;
	lock_a_page(memory);
	ck_assert(is_up(&dram_bytes));
	ck_assert_uint_eq(dram_bytes, 5 << 20);
	/* Nobody waits for the next daemon to say what its budget is. */
	fake_kill();
	wait_until_up(false);
	asked = questions;
	lock_a_page(memory);
	ck_assert_int_eq(questions, asked);
	fake_start();
	wait_until_up(true);
	/* The budget of another mount. */
	run_dir = TIERFS_RUN_ROOT "/elsewhere";
	dram_mib = 6;
	lock_a_page(memory);
	ck_assert_int_eq(questions, asked + 1);
	ck_assert(is_up(&dram_bytes));
	ck_assert_uint_eq(dram_bytes, 5 << 20);
}
END_TEST

static void *attach_loop(void *arg)
{
	for (int i = 0; i < 50; i++) {
		off_t offset = (off_t)((uintptr_t)arg * 8 + (unsigned int)i % 8) * (off_t)PAGE;
		uint64_t *memory = attach(2 * PAGE, offset);

		if (memory[0] != word_at((uint64_t)offset) || tierfs_detach(memory, (i % 3) ? 2 * PAGE : PAGE))
			return arg;
		if (i % 3 == 0)
			tierfs_detach((char *)memory + PAGE, PAGE);
	}
	return NULL;
}

START_TEST(test_threads)
{
	pthread_t threads[4];
	void *failed;

	for (uintptr_t i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, attach_loop, (void *)i), 0);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(pthread_join(threads[i], &failed), 0);
		ck_assert_ptr_null(failed);
	}
	ck_assert_ptr_null(client_range_at(0));
}
END_TEST

START_TEST(test_range_table)
{
	struct client_conn *conn = (void *)1;
	struct client_mapping *mapping = client_range_new_mapping(conn, -1, -1, -1);
	int fds[CLIENT_RANGE_FDS];

	ck_assert(!client_range_maybe(0, SIZE_MAX));
	ck_assert_int_eq(client_range_add(mapping, 10 * PAGE, 10 * PAGE, 0), 0);
	ck_assert_int_eq(client_range_add(mapping, 19 * PAGE, PAGE, 0), -EEXIST);
	ck_assert_int_eq(client_range_add(mapping, 30 * PAGE, PAGE, 50 * PAGE), 0);
	ck_assert(client_range_maybe(0, SIZE_MAX));
	ck_assert(!client_range_maybe(31 * PAGE, PAGE));
	ck_assert(!client_range_maybe(0, 10 * PAGE));
	ck_assert_ptr_null(client_range_find(20 * PAGE, 10 * PAGE));
	ck_assert_ptr_nonnull(client_range_find(20 * PAGE, SIZE_MAX));
	ck_assert_int_eq(client_range_may_cut(12 * PAGE, 3 * PAGE), 0);
	client_range_cut(12 * PAGE, 3 * PAGE);
	ck_assert_uint_eq(client_range_find(15 * PAGE, 1)->offset, 5 * PAGE);
	ck_assert_ptr_null(client_range_find(12 * PAGE, 3 * PAGE));
	client_range_cut(10 * PAGE, PAGE);
	ck_assert_uint_eq(client_range_find(10 * PAGE, 2 * PAGE)->offset, PAGE);
	client_range_cut(19 * PAGE, PAGE);
	ck_assert_uint_eq(client_range_find(18 * PAGE, 1)->length_bytes, 4 * PAGE);
	ck_assert_uint_eq(client_range_count(conn), 3);
	client_range_cut(15 * PAGE, 4 * PAGE);
	client_range_cut(11 * PAGE, PAGE);
	client_range_cut(30 * PAGE, PAGE);
	ck_assert_uint_eq(client_range_count(conn), 0);
	ck_assert(client_range_take_dropped(fds));
	ck_assert(!client_range_has_dropped());
	ck_assert_ptr_null(mapping->conn);
}
END_TEST

START_TEST(test_spans)
{
	static bool plain[64];
	unsigned int seed = 7;

	for (int i = 0; i < 20000; i++) {
		uintptr_t from = (uintptr_t)rand_r(&seed) % 63, end = from + 1 + (uintptr_t)rand_r(&seed) % (63 - from);
		bool on = rand_r(&seed) % 2;
		size_t bytes = 0;

		if (on)
			client_spans_add(from, end);
		else
			client_spans_remove(from, end);
		for (uintptr_t at = from; at < end; at++)
			plain[at] = on;
		from = (uintptr_t)rand_r(&seed) % 63;
		for (uintptr_t at = from; at < 50; at++)
			bytes += plain[at];
		ck_assert_uint_eq(client_spans_bytes(from, 50), bytes);
		end = client_spans_after(from);
		ck_assert(!plain[end]);
		ck_assert_uint_eq(client_spans_bytes(from, end), end - from);
	}
	client_spans_set_future(1);
	client_range_forget();
	ck_assert_uint_eq(client_spans_bytes(0, UINTPTR_MAX), 0);
	ck_assert_int_eq(client_spans_future(), 0);
	/* Each stands alone, until there is no room. */
	for (uintptr_t at = 0; at < CLIENT_RANGE_MAX; at++) {
		ck_assert(client_spans_has_room());
		client_spans_add(3 * at, 3 * at + 2);
	}
	ck_assert(!client_spans_has_room());
	client_spans_add(2, 3); /* joins two */
	ck_assert(client_spans_has_room());
	client_spans_forget();
}
END_TEST

/* A socket in the right place, by another user: nothing is sent to it, no descriptor and no token. */
START_TEST(test_stranger)
{
	static const char *const names[] = { TIERFS_ATTACH_SOCKET, TIERFS_ACCESS_SOCKET };

	fake_kill();
	for (int i = 0; i < 2; i++) {
		struct sockaddr_un address = { .sun_family = AF_UNIX };
		int listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), fd;
		struct tierfs_access *access;
		char byte;

		snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, names[i]);
		unlink(address.sun_path);
		ck_assert_int_eq(bind(listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
		ck_assert_int_eq(seteuid(65534), 0);
		ck_assert_int_eq(listen(listen_fd, 8), 0); /* the peer is who listened */
		ck_assert_int_eq(seteuid(0), 0);
		ck_assert_int_eq(i ? tierfs_access_open(ram_fd, 0, &access) : attach_error(PROT_READ, 0, PAGE, 0),
				 -EPERM);
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(read(fd, &byte, 1), 0);
		close(fd);
		unlink(address.sun_path);
		close(listen_fd);
	}
	fake_start();
}
END_TEST

static bool has_userfaultfd(void)
{
	int fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return false;
	close(fd);
	return true;
}

int main(void)
{
	const TTest *tests[] = { test_attach,
				 test_fixed,
				 test_bad_wishes,
				 test_refused,
				 test_refused_fixed,
				 test_no_daemon,
				 test_other_version,
				 test_another_daemon,
				 test_parts,
				 test_zap,
				 test_daemon_dies,
				 test_resume_refused,
				 test_garbage_from_daemon,
				 test_lock_replaced,
				 test_lock_pieces,
				 test_lock_failed,
				 test_budget,
				 test_threads,
				 test_stranger };
	Suite *suite = suite_create("client");
	TCase *table = tcase_create("table"), *daemon = tcase_create("daemon");
	int failed, skip = !has_userfaultfd();

	tcase_add_test(table, test_range_table);
	tcase_add_test(table, test_spans);
	suite_add_tcase(suite, table);
	tcase_add_checked_fixture(daemon, setup, teardown);
	tcase_set_timeout(daemon, 30);
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
		tcase_add_test(daemon, tests[i]);
#ifndef __SANITIZE_THREAD__
	tcase_add_test(daemon, test_fork);
#endif
	if (!skip)
		suite_add_tcase(suite, daemon);
	failed = check_run(suite);
	if (failed)
		return 1;
	if (skip)
		printf("skipped: /dev/userfaultfd cannot be opened, which takes root\n");
	return skip ? 77 : 0;
}
