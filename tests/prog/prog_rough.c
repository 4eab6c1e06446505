/* prog_rough - one client of a mount that does one thing it should not, again and again, for a time.
 *
 *	prog_rough WHAT FILE SECONDS [SEED]        FILE is a RAM file of 16 MiB or more that it may write
 *
 * It judges nothing: a verified load beside it does. Prints how often it did what it does. Exit 0, whatever it is
 * answered.
 */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "prog.h"
#include "raw_client.h"

#define MIB (UINT64_C(1) << 20)
#define HELD_MAX 4096

static const char *path;
static int file_fd;
static uint64_t end_ns, done;
static struct prog_rng rng;

static bool time_left(void)
{
	return prog_now_ns() < end_ns;
}

static void wait_until_end(void)
{
	prog_sleep_until_ns(end_ns);
}

static void *touch(void *memory)
{
	*(volatile uint8_t *)memory = 1;
	return NULL;
}

static void give_up(int signal)
{
	(void)signal;
	_exit(0);
}

/* --- what it does ---------------------------------------------------------------------------------------------------
 */

/* Takes O_NONBLOCK off the userfaultfds that it shares with the daemon. */
static void nonblock(void)
{
	int sock = raw_greet(file_fd);

	for (uint64_t i = 0; i < 64 && time_left(); i++) {
		struct raw_mapping mapping;
		pthread_t thread;

		if (raw_map(sock, file_fd, i % 16 * MIB, MIB, &mapping))
			break;
		fcntl(mapping.uffd, F_SETFL, 0);
		if (pthread_create(&thread, NULL, touch, (void *)(uintptr_t)mapping.memory))
			break;
		pthread_detach(thread);
		done++;
	}
	wait_until_end();
}

/* Attaches, makes memory resident, and answers no zap. Faults while it is stopped and while it is gone. */
static void stand_still(void)
{
	while (time_left()) {
		pid_t child = fork();

		if (child == 0) {
			struct raw_mapping mapping;

			if (!raw_map(raw_greet(file_fd), file_fd, 0, 16 * MIB, &mapping))
				for (;;)
					for (uint64_t at = 0; at < 16 * MIB; at += PROG_PAGE)
						mapping.memory[at]++;
			_exit(0);
		}
		usleep(300000);
		kill(child, SIGSTOP);
		usleep(1500000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		done++;
	}
}

static const struct {
	const char *name;
	int type;
} sockets[] = {
	{ TIERFS_ATTACH_SOCKET, SOCK_SEQPACKET },
	{ TIERFS_CONTROL_SOCKET, SOCK_STREAM },
	{ TIERFS_ACCESS_SOCKET, SOCK_SEQPACKET },
};

/* Holds every place that it can get at every socket, half of them greeted. */
static void places(void)
{
	struct rlimit limit = { HELD_MAX + 64, HELD_MAX + 64 };
	int held[HELD_MAX], count = 0;

	setrlimit(RLIMIT_NOFILE, &limit);
	while (time_left()) {
		for (int i = 0; i < 3; i++) {
			int sock = i || prog_below(&rng, 2) ? raw_dial(file_fd, sockets[i].name, sockets[i].type)
							    : raw_greet(file_fd);

			if (sock >= 0) {
				if (count == HELD_MAX)
					close(held[--count]);
				held[count++] = sock;
				done++;
			}
		}
		/* A place that was lost is asked for again. */
		if (count > 1024 && prog_below(&rng, 64) == 0)
			close(held[--count]);
	}
	while (count)
		close(held[--count]);
}

static void random_message(struct tierfs_msg *msg)
{
	uint64_t *words = (uint64_t *)msg;

	for (size_t i = 0; i < sizeof(*msg) / sizeof(*words); i++)
		words[i] = prog_below(&rng, 3) ? prog_rand(&rng) : prog_below(&rng, 1 << 20);
	if (prog_below(&rng, 8))
		msg->magic = TIERFS_MSG_MAGIC;
	if (prog_below(&rng, 8))
		msg->type = 1 + (uint32_t)prog_below(&rng, 14);
	msg->reserved = 0;
}

/* Packets of any content, with any descriptors, to all sockets. */
static void garbage(void)
{
	int fds[RAW_FDS_MAX], device = open("/dev/null", O_RDWR), pipes[2] = { -1, -1 };
	static struct tierfs_msg msg;

	if (pipe(pipes) < 0)
		prog_die("pipe: %m");
	while (time_left()) {
		unsigned int i = (unsigned int)prog_below(&rng, 3), packets = (unsigned int)prog_below(&rng, 32);
		int sock = i == 0 && prog_below(&rng, 2) ? raw_greet(file_fd)
							 : raw_dial(file_fd, sockets[i].name, sockets[i].type);

		for (unsigned int j = 0; sock >= 0 && j < packets; j++) {
			size_t length = prog_below(&rng, 3) ? RAW_LENGTH(map) : prog_below(&rng, sizeof(msg) + 1);
			size_t count = (size_t)prog_below(&rng, 5);

			for (size_t k = 0; k < count; k++)
				fds[k] = (const int[]){ device, pipes[0], file_fd, sock }[prog_below(&rng, 4)];
			random_message(&msg);
			if (raw_send(sock, &msg, length, fds, count))
				break;
			done++;
		}
		if (sock >= 0)
			close(sock);
	}
}

/* RESUME with descriptors that are no arena, or that of another file, and with addresses that are not mapped. */
static void resume(void)
{
	int null_fd = open("/dev/null", O_RDWR), got[RAW_FDS_MAX];
	struct raw_mapping mapping = { .arena = -1, .uffd = -1 };
	int first = raw_greet(file_fd);

	raw_map(first, file_fd, 0, MIB, &mapping);
	while (time_left()) {
		int sock = raw_greet(file_fd);

		for (int i = 0; sock >= 0 && i < 16; i++) {
			struct tierfs_msg msg = { .type = TIERFS_MSG_RESUME };
			int fds[2] = { i & 1 || mapping.arena < 0 ? null_fd : mapping.arena,
				       i & 2 || mapping.uffd < 0 ? null_fd : mapping.uffd };

			msg.u.map.addr = i & 4 ? (uintptr_t)mapping.memory
					       : PROG_PAGE * (1 + prog_below(&rng, 1 << 30));
			msg.u.map.length_bytes = i & 8 ? MIB : PROG_PAGE << prog_below(&rng, 40);
			raw_ask(sock, &msg, RAW_LENGTH(map), fds, 2, got);
			done++;
		}
		if (sock >= 0)
			close(sock);
	}
}

/* Its file becomes 60T large, and small again, and has a hole here and there. */
static void cut(void)
{
	static const uint64_t sizes[] = { 0, 16 * MIB, UINT64_C(60) << 40, UINT64_C(8) << 40, MIB, 4096 };

	while (time_left()) {
		if (ftruncate(file_fd, (off_t)sizes[prog_below(&rng, 6)]) == 0)
			done++;
		fallocate(file_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)(prog_below(&rng, 1 << 20) * PROG_PAGE), (off_t)(MIB * 64));
		if (pwrite(file_fd, "x", 1, (off_t)prog_below(&rng, 16 * MIB)) < 0)
			continue;
	}
	if (ftruncate(file_fd, 16 * MIB) < 0)
		return;
}

/* A mapping of a very large sparse file, and discards of all of it. */
static void vast(void)
{
	size_t length = (size_t)16 << 40;

	while (time_left()) {
		struct raw_mapping mapping;
		struct tierfs_msg msg = { .type = TIERFS_MSG_DISCARD };
		int sock = raw_greet(file_fd), got[RAW_FDS_MAX];

		if (ftruncate(file_fd, (off_t)length) < 0)
			length /= 2;
		else if (sock >= 0 && !raw_map(sock, file_fd, 0, length, &mapping)) {
			msg.u.part.map_id = mapping.map_id;
			msg.u.part.length_bytes = length;
			raw_ask(sock, &msg, RAW_LENGTH(part), NULL, 0, got);
			raw_unmap(&mapping);
			done++;
		}
		close(sock);
	}
}

/* Locks its memory, and has a device hold it; as much as its limit allows. */
static void pins(void)
{
	struct rlimit limit = { 16 * MIB, 16 * MIB };
	size_t length;

	getrlimit(RLIMIT_MEMLOCK, &limit);
	length = limit.rlim_cur < 16 * MIB ? limit.rlim_cur / PROG_PAGE * PROG_PAGE : 16 * MIB;
	while (time_left()) {
		struct io_uring_params params = {};
		struct raw_mapping mapping;
		int sock = raw_greet(file_fd), ring = (int)syscall(SYS_io_uring_setup, 4, &params);

		if (sock >= 0 && !raw_map(sock, file_fd, 0, length, &mapping)) {
			struct iovec iov = { .iov_base = (void *)(uintptr_t)mapping.memory, .iov_len = length };

			mlock(iov.iov_base, iov.iov_len);
			if (ring >= 0)
				syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1);
			usleep(500000);
			raw_unmap(&mapping);
			done++;
		}
		close(ring);
		close(sock);
	}
}

static void *thrash_thread(void *arg)
{
	const struct raw_mapping *mapping = arg;
	struct prog_rng mine = { .state = prog_now_ns() };

	while (time_left())
		mapping->memory[prog_below(&mine, mapping->length_bytes / PROG_PAGE) * PROG_PAGE]++;
	return NULL;
}

/* 32 threads that touch at random what cannot all be in DRAM; nobody answers the daemon's zaps. */
static void thrash(void)
{
	struct raw_mapping mapping;
	pthread_t threads[32];
	int count = 0;

	if (ftruncate(file_fd, 256 * MIB) < 0 || raw_map(raw_greet(file_fd), file_fd, 0, 256 * MIB, &mapping))
		return;
	while (count < 32 && !pthread_create(&threads[count], NULL, thrash_thread, &mapping))
		count++;
	wait_until_end();
	done = (uint64_t)count;
	_exit(0); /* threads may wait for room that nobody gives them */
}

/* --- main ------------------------------------------------------------------------------------------------------------
 */

static const struct {
	const char *name;
	void (*run)(void);
} things[] = {
	{ "nonblock", nonblock }, { "stand-still", stand_still },
	{ "places", places },     { "garbage", garbage },
	{ "resume", resume },     { "cut", cut },
	{ "vast", vast },         { "pins", pins },
	{ "thrash", thrash },
};

int main(int argc, char **argv)
{
	size_t i = 0;

	if (argc < 4)
		prog_die("usage: prog_rough WHAT FILE SECONDS [SEED]");
	while (i < sizeof(things) / sizeof(things[0]) && strcmp(things[i].name, argv[1]) != 0)
		i++;
	if (i == sizeof(things) / sizeof(things[0]))
		prog_die("no such thing to do: %s", argv[1]);
	path = argv[2];
	file_fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	if (file_fd < 0 || ftruncate(file_fd, 16 * MIB) < 0)
		prog_die("%s: %m", path);
	end_ns = prog_now_ns() + (uint64_t)(prog_number(argv[3], 0, 1e6) * 1e9);
	rng.state = argc > 4 ? strtoull(argv[4], NULL, 0) : 1;
	/* What it does may leave it waiting for ever. */
	signal(SIGALRM, give_up);
	alarm((unsigned int)strtod(argv[3], NULL) + 5);
	things[i].run();
	printf("%s: %lu times\n", things[i].name, done);
	return 0;
}
