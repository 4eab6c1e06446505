/* client/client_agent.c - see client_agent.h.
 *
 * A connection's states:
 *
 *   FREE --get--> DOWN --connect--> HELLO --WELCOME--> RESUMING --all answered--> UP
 *                  ^                  |                   |                        |
 *                  +---- error, end of file, late answer, broken rule -------------+
 *
 * DOWN tries again by itself, every 10 ms at first and every 500 ms at last, as long as ranges or waiting requests need the
 * connection; then it becomes FREE. RESUMING has nothing to do on the first connection and passes at once. Requests are sent
 * in UP only, by whoever brings them if the socket has room, else by the thread.
 *
 * The descriptor of a connection is opened, read and closed by the thread alone, so reading needs no lock. Memory that is
 * attached is never touched by it: it would wait for itself.
 */
#include "client/client_agent.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/client_range.h"
#include "base/wire.h"
#include "client/client_zap.h"

#define CONN_MAX 16
#define ZAPPED_MAX 64
#define AGENT_STACK_BYTES (256 * 1024)
#define RETRY_FIRST_NS (10 * NS_PER_MS)
#define RETRY_LAST_NS (500 * NS_PER_MS)
#define RETRY_FOREIGN_NS (5 * NS_PER_S) /* another version answered: somebody is upgrading */
#define RETRY_REFUSED_NS (1 * NS_PER_S)
#define ANSWER_NS (10 * NS_PER_S)       /* for WELCOME, and for all answers to RESUME together */

enum conn_state { CONN_FREE, CONN_DOWN, CONN_HELLO, CONN_RESUMING, CONN_UP };

TAILQ_HEAD(call_list, client_agent_call);

struct client_agent_conn {
	char run_dir[TIERFS_RUN_DIR_LEN];
	enum conn_state state;
	int fd;
	unsigned int users;        /* attaches in progress */
	uint64_t next_seq;
	uint64_t when_ns;          /* DOWN: next attempt; HELLO, RESUMING: deadline; UP: when to ask again for refused ranges, 0 never */
	uint64_t delay_ns;
	uint64_t failures;         /* attempts and connections that ended */
	int error;                 /* of the last failure */
	bool want_out;             /* the socket was full */
	struct call_list calls;
	uint64_t zapped[ZAPPED_MAX]; /* answers to ZAP that are to be sent */
	unsigned int zapped_count;
	uint32_t generation;       /* futex: counts changes */
};

static pthread_mutex_t agent_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER; /* before agent_lock */
static struct client_agent_conn conns[CONN_MAX];
static struct tierfs_msg scratch; /* for sending, under agent_lock */
static int wake_fd = -1;
static bool running;
static bool fork_hooks_set;
static bool debug;

static void debug_conn(const struct client_agent_conn *conn, const char *what, const char *why)
{
	if (debug)
		dprintf(STDERR_FILENO, "libtierfs: %s: %s: %s\n", conn->run_dir, what, why);
}

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* --- the lock -------------------------------------------------------------------------------------------------- */

void client_agent_enter(struct client_agent_guard *guard)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &guard->signals);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &guard->cancel_state);
	pthread_mutex_lock(&agent_lock);
}

void client_agent_leave(struct client_agent_guard *guard)
{
	pthread_mutex_unlock(&agent_lock);
	pthread_sigmask(SIG_SETMASK, &guard->signals, NULL);
	pthread_setcancelstate(guard->cancel_state, NULL);
}

/* Sleeps without the lock, with the caller's own signal mask, until *word is not seen any more. */
static void sleep_on(struct client_agent_guard *guard, uint32_t *word, uint32_t seen)
{
	sigset_t all;

	pthread_mutex_unlock(&agent_lock);
	pthread_sigmask(SIG_SETMASK, &guard->signals, NULL);
	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == seen)
		syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	pthread_mutex_lock(&agent_lock);
}

void client_agent_wait(struct client_agent_guard *guard, struct client_agent_conn *conn)
{
	sleep_on(guard, &conn->generation, conn->generation);
}

void client_agent_changed(struct client_agent_conn *conn)
{
	__atomic_add_fetch(&conn->generation, 1, __ATOMIC_RELEASE);
	futex_wake(&conn->generation);
}

static void poke(void)
{
	uint64_t one = 1;

	if (write(wake_fd, &one, sizeof(one)) < 0)
		return; /* it is full: the thread is about to wake anyway */
}

/* --- calls ------------------------------------------------------------------------------------------------------ */

static void finish_call(struct client_agent_conn *conn, struct client_agent_call *call, int result)
{
	TAILQ_REMOVE(&conn->calls, call, link);
	call->result = result;
	__atomic_store_n(&call->done, 1, __ATOMIC_RELEASE);
	futex_wake(&call->done);
}

/* A connection that ended: what was asked on it is failed, finished or asked again (client_agent.h). */
static void settle_calls(struct client_agent_conn *conn)
{
	struct client_agent_call *next;

	for (struct client_agent_call *call = TAILQ_FIRST(&conn->calls); call; call = next) {
		next = TAILQ_NEXT(call, link);
		if (call->type == TIERFS_MSG_DISCARD)
			call->sent = false;
		else
			finish_call(conn, call, call->type == TIERFS_MSG_UNMAP ? 0 : -ENOTCONN);
	}
}

static void conn_failed(struct client_agent_conn *conn, int error)
{
	struct client_range *range;

	if (conn->fd >= 0)
		close(conn->fd);
	conn->fd = -1;
	conn->error = error;
	conn->failures++;
	conn->want_out = false;
	conn->zapped_count = 0;
	for (size_t i = 0; (range = client_range_at(i)); i++)
		if (range->mapping->conn == conn && range->state != CLIENT_RANGE_NEW)
			range->state = CLIENT_RANGE_LOST;
	conn->delay_ns = conn->delay_ns ? conn->delay_ns * 2 : RETRY_FIRST_NS;
	if (conn->delay_ns > RETRY_LAST_NS)
		conn->delay_ns = RETRY_LAST_NS;
	conn->when_ns = clock_ns() + (error == -EPROTO ? RETRY_FOREIGN_NS : conn->delay_ns);
	if (conn->state != CONN_DOWN)
		debug_conn(conn, "connection lost", strerror(-error));
	conn->state = CONN_DOWN;
	settle_calls(conn);
	client_agent_changed(conn);
}

/* Turns the outcome of a send into: go on, wait for room, or a connection that ended. True: sent. Only the thread may close
 * the descriptor, which it reads without the lock; a shutdown makes it do so. */
static bool sent_ok(struct client_agent_conn *conn, int err)
{
	if (err == -EAGAIN)
		conn->want_out = true;
	else if (err)
		shutdown(conn->fd, SHUT_RDWR);
	return err == 0;
}

static bool send_resume(struct client_agent_conn *conn, struct client_range *range)
{
	int fds[2] = { range->mapping->arena_fd, range->mapping->uffd_fd };

	scratch.type = TIERFS_MSG_RESUME;
	scratch.seq = conn->next_seq++;
	scratch.u.map.ino = 0;
	scratch.u.map.addr = range->addr;
	scratch.u.map.length_bytes = range->length_bytes;
	scratch.u.map.offset = range->offset;
	if (!sent_ok(conn, wire_send(conn->fd, &scratch, fds, 2)))
		return false;
	range->state = CLIENT_RANGE_RESUMING;
	range->resume_seq = scratch.seq;
	return true;
}

/* Puts a DISCARD into the words of this connection. False: the memory has gone, or waits for its RESUME. */
static bool fill_discard(struct client_agent_conn *conn, struct client_agent_call *call)
{
	struct client_range *range = client_range_find(call->addr, call->length_bytes);
	uintptr_t from, to;

	if (!range || range->mapping->conn != conn) {
		finish_call(conn, call, 0);
		return false;
	}
	if (range->state != CLIENT_RANGE_LIVE)
		return false;
	from = call->addr > range->addr ? call->addr : range->addr;
	to = call->addr + call->length_bytes;
	if (to > range->addr + range->length_bytes)
		to = range->addr + range->length_bytes;
	scratch.u.part.map_id = range->map_id;
	scratch.u.part.where = range->offset + (from - range->addr);
	scratch.u.part.length_bytes = to - from;
	return true;
}

/* False: the socket is full or broken. */
static bool send_call(struct client_agent_conn *conn, struct client_agent_call *call)
{
	int fd_count = 0;

	scratch.type = call->type;
	switch (call->type) {
	case TIERFS_MSG_OPEN:
		memcpy(scratch.u.open.token, call->token, TIERFS_TOKEN_LEN);
		break;
	case TIERFS_MSG_MAP:
		scratch.u.map.ino = call->ino;
		scratch.u.map.addr = call->addr;
		scratch.u.map.length_bytes = call->length_bytes;
		scratch.u.map.offset = call->offset;
		fd_count = 1;
		break;
	case TIERFS_MSG_UNMAP:
		scratch.u.part.map_id = call->map_id;
		scratch.u.part.where = call->addr;
		scratch.u.part.length_bytes = call->length_bytes;
		break;
	default:
		if (!fill_discard(conn, call))
			return true;
	}
	scratch.seq = conn->next_seq++;
	call->seq = scratch.seq;
	call->sent = sent_ok(conn, wire_send(conn->fd, &scratch, &call->uffd_fd, fd_count));
	return call->sent;
}

static bool send_zapped(struct client_agent_conn *conn)
{
	while (conn->zapped_count > 0) {
		scratch.type = TIERFS_MSG_ZAPPED;
		scratch.seq = conn->zapped[0];
		if (!sent_ok(conn, wire_send(conn->fd, &scratch, NULL, 0)))
			return false;
		memmove(&conn->zapped[0], &conn->zapped[1], --conn->zapped_count * sizeof(conn->zapped[0]));
	}
	return true;
}

/* RESUMING ends when every range had its answer. */
static void check_resumed(struct client_agent_conn *conn)
{
	struct client_range *range;
	bool refused = false;

	for (size_t i = 0; (range = client_range_at(i)); i++) {
		if (range->mapping->conn != conn)
			continue;
		if (range->state == CLIENT_RANGE_LOST || range->state == CLIENT_RANGE_RESUMING)
			return;
		refused = refused || range->state == CLIENT_RANGE_REFUSED;
	}
	conn->when_ns = refused ? clock_ns() + RETRY_REFUSED_NS : 0;
	if (conn->state != CONN_RESUMING)
		return;
	conn->state = CONN_UP;
	conn->delay_ns = 0;
	client_agent_changed(conn);
}

/* Sends whatever waits, in the order in which it is needed. */
static void flush(struct client_agent_conn *conn)
{
	struct client_agent_call *call, *next;
	struct client_range *range;

	if (conn->state != CONN_RESUMING && conn->state != CONN_UP)
		return;
	conn->want_out = false;
	if (!send_zapped(conn))
		return;
	for (size_t i = 0; (range = client_range_at(i)); i++)
		if (range->mapping->conn == conn && range->state == CLIENT_RANGE_LOST && !send_resume(conn, range))
			return;
	if (conn->state == CONN_RESUMING)
		check_resumed(conn);
	for (call = TAILQ_FIRST(&conn->calls); call && conn->state == CONN_UP; call = next) {
		next = TAILQ_NEXT(call, link);
		if (!call->sent && !send_call(conn, call))
			return;
	}
}

int client_agent_call(struct client_agent_guard *guard, struct client_agent_conn *conn, struct client_agent_call *call)
{
	bool dead = conn->state != CONN_UP && conn->state != CONN_RESUMING;

	call->sent = false;
	call->done = 0;
	call->arena_fd = -1;
	call->device_fd = -1;
	call->text[0] = '\0';
	if (dead && call->type != TIERFS_MSG_DISCARD)
		return call->type == TIERFS_MSG_UNMAP ? 0 : -ENOTCONN;
	TAILQ_INSERT_TAIL(&conn->calls, call, link);
	flush(conn);
	poke(); /* the thread polls for room if flush() found none */
	sleep_on(guard, &call->done, 0);
	return call->result;
}

/* --- packets ---------------------------------------------------------------------------------------------------- */

static void on_welcome(struct client_agent_conn *conn, const struct tierfs_msg *msg)
{
	if (msg->u.welcome.abi_version != TIERFS_ABI_VERSION) {
		debug_conn(conn, "refused", "the daemon speaks another version of the protocol");
		conn_failed(conn, -EPROTO);
		return;
	}
	conn->state = CONN_RESUMING;
	conn->when_ns = clock_ns() + ANSWER_NS;
	flush(conn);
}

static bool on_resume_answer(struct client_agent_conn *conn, const struct tierfs_msg *msg)
{
	struct client_range *range;
	bool found = false;

	/* Pieces of a range that was cut meanwhile carry the same number. */
	for (size_t i = 0; (range = client_range_at(i)); i++) {
		if (range->mapping->conn != conn || range->state != CLIENT_RANGE_RESUMING || range->resume_seq != msg->seq)
			continue;
		found = true;
		if (msg->type == TIERFS_MSG_DONE) {
			range->state = CLIENT_RANGE_LIVE;
			range->map_id = msg->u.done.map_id;
		} else {
			range->state = CLIENT_RANGE_REFUSED;
			debug_conn(conn, "memory not taken back", msg->u.error.text);
		}
	}
	if (found) {
		check_resumed(conn);
		client_agent_changed(conn);
		flush(conn);
	}
	return found;
}

static int take_answer(struct client_agent_call *call, struct wire_packet *packet)
{
	const struct tierfs_msg *msg = &packet->msg;
	struct client_range *range;

	if (msg->type == TIERFS_MSG_ERROR) {
		memcpy(call->text, msg->u.error.text, sizeof(call->text));
		return msg->u.error.code > 0 && msg->u.error.code < 4096 ? -msg->u.error.code : -EPROTO;
	}
	if ((msg->type == TIERFS_MSG_ARENA) != (call->type == TIERFS_MSG_OPEN))
		return -EPROTO;
	if (call->type == TIERFS_MSG_OPEN) {
		if (packet->fd_count < 1)
			return -EPROTO;
		call->ino = msg->u.arena.ino;
		call->size_bytes = msg->u.arena.size_bytes;
		call->rights = msg->u.arena.rights;
		call->arena_fd = packet->fds[0];
		call->device_fd = packet->fds[1];
		packet->fds[0] = packet->fds[1] = -1;
	} else if (call->type == TIERFS_MSG_MAP) {
		/* Here, not in the thread that waits: a connection that breaks right now must find it live. */
		range = client_range_find(call->addr, 1);
		if (!range || range->state != CLIENT_RANGE_NEW)
			return -ENOENT;
		range->map_id = msg->u.done.map_id;
		range->state = CLIENT_RANGE_LIVE;
	}
	return 0;
}

static void on_answer(struct client_agent_conn *conn, struct wire_packet *packet)
{
	struct client_agent_call *call;

	if (conn->state == CONN_HELLO || (packet->msg.type == TIERFS_MSG_ERROR && packet->msg.u.error.code == EPROTO)) {
		int code = packet->msg.type == TIERFS_MSG_ERROR ? packet->msg.u.error.code : EPROTO;

		debug_conn(conn, "refused", packet->msg.type == TIERFS_MSG_ERROR ? packet->msg.u.error.text : "no welcome");
		conn_failed(conn, code > 0 && code < 4096 ? -code : -EPROTO);
		return;
	}
	if (packet->msg.type != TIERFS_MSG_ARENA && on_resume_answer(conn, &packet->msg))
		return;
	TAILQ_FOREACH(call, &conn->calls, link)
		if (call->sent && call->seq == packet->msg.seq)
			break;
	if (call)
		finish_call(conn, call, take_answer(call, packet));
}

static void on_zap(struct client_agent_conn *conn, const struct tierfs_msg *msg)
{
	client_zap(msg->u.zap.range, msg->u.zap.count, conn);
	if (conn->zapped_count == ZAPPED_MAX) {
		conn_failed(conn, -EPROTO);
		return;
	}
	conn->zapped[conn->zapped_count++] = msg->seq;
	flush(conn);
}

static void on_packet(struct client_agent_conn *conn, struct wire_packet *packet)
{
	switch ((enum tierfs_msg_type)packet->msg.type) {
	case TIERFS_MSG_WELCOME:
		if (conn->state == CONN_HELLO)
			on_welcome(conn, &packet->msg);
		return;
	case TIERFS_MSG_ARENA:
	case TIERFS_MSG_DONE:
	case TIERFS_MSG_ERROR:
		on_answer(conn, packet);
		return;
	case TIERFS_MSG_ZAP:
		if (conn->state != CONN_HELLO)
			on_zap(conn, &packet->msg);
		return;
	case TIERFS_MSG_HELLO:
	case TIERFS_MSG_OPEN:
	case TIERFS_MSG_MAP:
	case TIERFS_MSG_RESUME:
	case TIERFS_MSG_UNMAP:
	case TIERFS_MSG_DISCARD:
	case TIERFS_MSG_ZAPPED:
		break;
	}
	conn_failed(conn, -EPROTO);
}

/* Reads what is there, a few packets at most so that others have their turn. */
static void read_packets(struct client_agent_conn *conn)
{
	static struct wire_packet packet; /* the thread's own: it has a small stack */
	int fd = conn->fd;

	for (int i = 0; i < 16 && conn->fd == fd && fd >= 0; i++) {
		int err = wire_recv(fd, &packet);

		if (err == -EAGAIN)
			return;
		for (int j = 0; j < packet.fd_count; j++)
			packet.fds[j] = wire_raise_fd(packet.fds[j]);
		pthread_mutex_lock(&agent_lock);
		if (err)
			conn_failed(conn, err == -EPROTO ? err : -ENOTCONN);
		else
			on_packet(conn, &packet);
		pthread_mutex_unlock(&agent_lock);
		wire_close_fds(&packet);
	}
}

/* --- the thread ------------------------------------------------------------------------------------------------- */

static void try_connect(struct client_agent_conn *conn)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd, err;

	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		conn_failed(conn, -errno);
		return;
	}
	conn->fd = wire_raise_fd(fd);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.*s/%s", TIERFS_RUN_DIR_LEN - 1, conn->run_dir,
		 TIERFS_ATTACH_SOCKET);
	if (connect(conn->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		conn_failed(conn, -ENOTCONN);
		return;
	}
	scratch.type = TIERFS_MSG_HELLO;
	scratch.seq = conn->next_seq++;
	scratch.u.hello.abi_version = TIERFS_ABI_VERSION;
	scratch.u.hello.flags = 0;
	err = wire_send(conn->fd, &scratch, NULL, 0);
	if (err) {
		conn_failed(conn, -ENOTCONN);
		return;
	}
	conn->state = CONN_HELLO;
	conn->when_ns = clock_ns() + ANSWER_NS;
}

static bool is_needed(const struct client_agent_conn *conn)
{
	return conn->users > 0 || !TAILQ_EMPTY(&conn->calls) || client_range_count(conn) > 0;
}

static void ask_again(struct client_agent_conn *conn)
{
	struct client_range *range;

	conn->when_ns = 0;
	for (size_t i = 0; (range = client_range_at(i)); i++)
		if (range->mapping->conn == conn && range->state == CLIENT_RANGE_REFUSED)
			range->state = CLIENT_RANGE_LOST;
	flush(conn);
}

/* What time brings. */
static void step(struct client_agent_conn *conn, uint64_t now_ns)
{
	bool due = conn->when_ns && now_ns >= conn->when_ns;

	switch (conn->state) {
	case CONN_FREE:
		return;
	case CONN_DOWN:
		if (!is_needed(conn))
			conn->state = CONN_FREE;
		else if (due)
			try_connect(conn);
		return;
	case CONN_HELLO:
	case CONN_RESUMING:
		if (due)
			conn_failed(conn, -ETIMEDOUT);
		return;
	case CONN_UP:
		if (due)
			ask_again(conn);
		return;
	}
}

static void *agent_main(void *arg)
{
	struct pollfd polls[CONN_MAX + 1];

	prctl(PR_SET_NAME, "tierfs-agent");
	for (;;) {
		uint64_t now_ns = clock_ns(), next_ns = UINT64_MAX, events;
		int timeout_ms = -1;

		pthread_mutex_lock(&agent_lock);
		for (int i = 0; i < CONN_MAX; i++) {
			struct client_agent_conn *conn = &conns[i];

			step(conn, now_ns);
			if (conn->state != CONN_FREE && conn->when_ns && conn->when_ns < next_ns)
				next_ns = conn->when_ns;
			polls[i].fd = conn->state == CONN_FREE ? -1 : conn->fd;
			polls[i].events = (short)(POLLIN | (conn->want_out ? POLLOUT : 0));
		}
		pthread_mutex_unlock(&agent_lock);
		polls[CONN_MAX] = (struct pollfd){ .fd = wake_fd, .events = POLLIN };
		if (next_ns != UINT64_MAX)
			timeout_ms = next_ns > now_ns ? (int)((next_ns - now_ns) / NS_PER_MS) + 1 : 0;
		if (poll(polls, CONN_MAX + 1, timeout_ms) <= 0)
			continue;
		if (polls[CONN_MAX].revents && read(wake_fd, &events, sizeof(events)) < 0)
			continue;
		for (int i = 0; i < CONN_MAX; i++) {
			if (polls[i].fd < 0 || !polls[i].revents)
				continue;
			if (polls[i].revents & POLLOUT) {
				pthread_mutex_lock(&agent_lock);
				flush(&conns[i]);
				pthread_mutex_unlock(&agent_lock);
			}
			read_packets(&conns[i]);
		}
	}
	return arg;
}

static void before_fork(void)
{
	pthread_mutex_lock(&start_lock);
	pthread_mutex_lock(&agent_lock);
}

static void after_fork_parent(void)
{
	pthread_mutex_unlock(&agent_lock);
	pthread_mutex_unlock(&start_lock);
}

/* The child has neither the thread nor the memory: it begins anew, and must not keep the parent's descriptors alive. */
static void after_fork_child(void)
{
	for (int i = 0; i < CONN_MAX; i++) {
		if (conns[i].state != CONN_FREE && conns[i].fd >= 0)
			close(conns[i].fd);
		conns[i].state = CONN_FREE;
	}
	client_range_forget();
	client_zap_forget();
	if (wake_fd >= 0)
		close(wake_fd);
	wake_fd = -1;
	running = false;
	pthread_mutex_init(&agent_lock, NULL);
	pthread_mutex_init(&start_lock, NULL);
}

static int create_thread(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	wake_fd = wire_raise_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (wake_fd < 0)
		return -errno;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, AGENT_STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&thread, &attr, agent_main, NULL);
	pthread_attr_destroy(&attr);
	if (err) {
		close(wake_fd);
		wake_fd = -1;
	}
	return -err;
}

int client_agent_start(void)
{
	sigset_t all, old;
	int err = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* the thread inherits this */
	pthread_mutex_lock(&start_lock);
	if (!fork_hooks_set) {
		err = -pthread_atfork(before_fork, after_fork_parent, after_fork_child);
		fork_hooks_set = err == 0;
		debug = getenv("TIERFS_DEBUG") != NULL;
	}
	if (!err && !running) {
		err = create_thread();
		running = err == 0;
	}
	pthread_mutex_unlock(&start_lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static struct client_agent_conn *find_conn(const char *run_dir)
{
	struct client_agent_conn *unused = NULL;

	for (int i = 0; i < CONN_MAX; i++) {
		if (conns[i].state == CONN_FREE)
			unused = unused ? unused : &conns[i];
		else if (!strcmp(conns[i].run_dir, run_dir))
			return &conns[i];
	}
	if (!unused)
		return NULL;
	memset(unused, 0, sizeof(*unused));
	strncpy(unused->run_dir, run_dir, sizeof(unused->run_dir) - 1);
	unused->fd = -1;
	unused->state = CONN_DOWN;
	unused->next_seq = 1;
	TAILQ_INIT(&unused->calls);
	return unused;
}

int client_agent_get(struct client_agent_guard *guard, const char *run_dir, struct client_agent_conn **ret)
{
	struct client_agent_conn *conn = find_conn(run_dir);
	uint64_t failures;

	if (!conn)
		return -EMFILE;
	conn->users++;
	failures = conn->failures;
	if (conn->state == CONN_DOWN)
		conn->when_ns = 1; /* now */
	poke();
	while (conn->state != CONN_UP && conn->failures == failures)
		client_agent_wait(guard, conn);
	if (conn->state != CONN_UP) {
		conn->users--;
		return conn->error;
	}
	*ret = conn;
	return 0;
}

void client_agent_put(struct client_agent_conn *conn)
{
	conn->users--;
}
