/* client/client_conn.c - see client_conn.h. */
#include "client/client_conn.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/client_filter.h"
#include "client/client_range.h"
#include "client/client_sys.h"
#include "client/client_zap.h"

#define RETRY_FIRST_NS (10 * NS_PER_MS)
#define RETRY_LAST_NS (500 * NS_PER_MS)
#define RETRY_FOREIGN_NS (5 * NS_PER_S) /* another version answered, or a stranger: somebody is upgrading */
#define RETRY_REFUSED_NS (1 * NS_PER_S)
#define ANSWER_NS (10 * NS_PER_S) /* for WELCOME, and for all answers to RESUME together */

struct client_conn client_conns[CLIENT_CONN_MAX];
static struct tierfs_msg scratch; /* for sending */
static bool stands_in_run_root;   /* written before a connection is made */

/* Into a buffer of our own: what prints to a descriptor may allocate. */
static void debug_conn(const struct client_conn *conn, const char *what, const char *why, int err)
{
	char line[TIERFS_RUN_DIR_LEN + TIERFS_TEXT_MAX + 64];
	int length;

	if (!getenv("TIERFS_DEBUG"))
		return;
	length = snprintf(line, sizeof(line), "libtierfs: %s: %s: %s (error %d)\n", conn->run_dir, what, why, err);
	if (length > 0)
		client_sys(SYS_write, STDERR_FILENO, line,
			   (size_t)length < sizeof(line) ? (size_t)length : sizeof(line) - 1);
}

static void futex_wake(uint32_t *word)
{
	client_sys(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

void client_conn_changed(struct client_conn *conn)
{
	__atomic_add_fetch(&conn->generation, 1, __ATOMIC_RELEASE);
	futex_wake(&conn->generation);
}

/* --- calls ------------------------------------------------------------------------------------------------------ */

static void finish_call(struct client_conn *conn, struct client_call *call, int err)
{
	TAILQ_REMOVE(&conn->calls, call, link);
	call->err = err;
	__atomic_store_n(&call->done, 1, __ATOMIC_RELEASE);
	futex_wake(&call->done);
}

/* A connection that ended: what was asked on it is failed, finished or asked again (client_agent.h). */
static void settle_calls(struct client_conn *conn)
{
	struct client_call *next;

	for (struct client_call *call = TAILQ_FIRST(&conn->calls); call; call = next) {
		next = TAILQ_NEXT(call, link);
		if (call->type == TIERFS_MSG_DISCARD)
			call->sent = false;
		else
			finish_call(conn, call, call->type == TIERFS_MSG_UNMAP ? 0 : -ENOTCONN);
	}
}

void client_conn_fail(struct client_conn *conn, int err)
{
	struct client_range *range;

	if (conn->fd >= 0)
		close(conn->fd);
	conn->fd = -1;
	conn->err = err;
	conn->failures++;
	conn->want_out = false;
	conn->zapped_count = 0;
	for (size_t i = 0; (range = client_range_at(i)); i++)
		if (range->mapping->conn == conn && range->state != CLIENT_RANGE_NEW)
			range->state = CLIENT_RANGE_LOST;
	conn->untold = true;
	conn->delay_ns = conn->delay_ns ? conn->delay_ns * 2 : RETRY_FIRST_NS;
	if (conn->delay_ns > RETRY_LAST_NS)
		conn->delay_ns = RETRY_LAST_NS;
	conn->when_ns = clock_ns() + (err == -EPROTO || err == -EPERM ? RETRY_FOREIGN_NS : conn->delay_ns);
	if (conn->state != CLIENT_CONN_DOWN)
		debug_conn(conn, "connection lost", "", -err);
	conn->state = CLIENT_CONN_DOWN;
	settle_calls(conn);
	client_conn_changed(conn);
}

/* Turns the outcome of a send into: go on, wait for room, or a connection that ended. True: sent. Only the thread may
 * close the descriptor, which it reads without the lock; a shutdown makes it do so. */
static bool sent_ok(struct client_conn *conn, int err)
{
	if (err == -EAGAIN)
		conn->want_out = true;
	else if (err)
		shutdown(conn->fd, SHUT_RDWR);
	return err == 0;
}

static bool send_resume(struct client_conn *conn, struct client_range *range)
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
static bool fill_discard(struct client_conn *conn, struct client_call *call)
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
static bool send_call(struct client_conn *conn, struct client_call *call)
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
	case TIERFS_MSG_ADVISE:
		scratch.u.advise.map_id = call->map_id;
		scratch.u.advise.offset = call->offset;
		scratch.u.advise.length_bytes = call->length_bytes;
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

static bool send_zapped(struct client_conn *conn)
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

/* A daemon that took the range back is told again where huge pages shall be; its answer says nothing. */
static bool send_advice(struct client_conn *conn, struct client_range *range)
{
	if (range->state != CLIENT_RANGE_LIVE || range->advised || !range->mapping->huge_end)
		return true;
	scratch.type = TIERFS_MSG_ADVISE;
	scratch.seq = conn->next_seq++;
	scratch.u.advise.map_id = range->map_id;
	scratch.u.advise.offset = range->mapping->huge_start;
	scratch.u.advise.length_bytes = range->mapping->huge_end - range->mapping->huge_start;
	range->advised = sent_ok(conn, wire_send(conn->fd, &scratch, NULL, 0));
	return range->advised;
}

/* RESUMING ends when every range had its answer. */
static void check_resumed(struct client_conn *conn)
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
	if (conn->state != CLIENT_CONN_RESUMING)
		return;
	conn->state = CLIENT_CONN_UP;
	conn->delay_ns = 0;
	client_conn_changed(conn);
}

/* What the daemon is to know of ranges. False: the socket is full or broken. */
static bool tell_ranges(struct client_conn *conn)
{
	struct client_range *range;

	for (size_t i = 0; conn->untold && (range = client_range_at(i)); i++)
		if (range->mapping->conn == conn && range->state == CLIENT_RANGE_LOST && !send_resume(conn, range))
			return false;
	if (conn->state == CLIENT_CONN_RESUMING)
		check_resumed(conn);
	for (size_t i = 0; conn->untold && (range = client_range_at(i)); i++)
		if (range->mapping->conn == conn && !send_advice(conn, range))
			return false;
	conn->untold = false;
	return true;
}

/* Sends whatever waits, in the order in which it is needed. */
void client_conn_flush(struct client_conn *conn)
{
	struct client_call *call, *next;

	if (conn->state != CLIENT_CONN_RESUMING && conn->state != CLIENT_CONN_UP)
		return;
	conn->want_out = false;
	if (!send_zapped(conn) || !tell_ranges(conn))
		return;
	for (call = TAILQ_FIRST(&conn->calls); call && conn->state == CLIENT_CONN_UP; call = next) {
		next = TAILQ_NEXT(call, link);
		if (!call->sent && !send_call(conn, call))
			return;
	}
}

bool client_conn_start_call(struct client_conn *conn, struct client_call *call)
{
	bool dead = conn->state != CLIENT_CONN_UP && conn->state != CLIENT_CONN_RESUMING;

	call->sent = false;
	call->done = 0;
	call->arena_fd = -1;
	call->device_fd = -1;
	call->text[0] = '\0';
	if (dead && call->type != TIERFS_MSG_DISCARD) {
		call->err = call->type == TIERFS_MSG_UNMAP ? 0 : -ENOTCONN;
		return false;
	}
	TAILQ_INSERT_TAIL(&conn->calls, call, link);
	return true;
}

/* --- packets ---------------------------------------------------------------------------------------------------- */

static void on_welcome(struct client_conn *conn, const struct tierfs_msg *msg)
{
	if (msg->u.welcome.abi_version != TIERFS_ABI_VERSION) {
		debug_conn(conn, "refused", "the daemon speaks another version of the protocol", EPROTO);
		client_conn_fail(conn, -EPROTO);
		return;
	}
	conn->state = CLIENT_CONN_RESUMING;
	conn->when_ns = clock_ns() + ANSWER_NS;
	client_conn_flush(conn);
}

static bool on_resume_answer(struct client_conn *conn, const struct tierfs_msg *msg)
{
	struct client_range *range;
	bool found = false;

	/* Pieces of a range that was cut meanwhile carry the same number. */
	for (size_t i = 0; (range = client_range_at(i)); i++) {
		if (range->mapping->conn != conn || range->state != CLIENT_RANGE_RESUMING ||
		    range->resume_seq != msg->seq)
			continue;
		found = true;
		if (msg->type == TIERFS_MSG_DONE) {
			range->state = CLIENT_RANGE_LIVE;
			range->map_id = msg->u.done.map_id;
			range->advised = false;
			conn->untold = true;
		} else {
			range->state = CLIENT_RANGE_REFUSED;
			debug_conn(conn, "memory not taken back", msg->u.error.text, msg->u.error.code);
		}
	}
	if (found) {
		check_resumed(conn);
		client_conn_changed(conn);
		client_conn_flush(conn);
	}
	return found;
}

static int take_answer(struct client_call *call, struct wire_packet *packet)
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
		call->features = msg->u.arena.features;
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

static void on_answer(struct client_conn *conn, struct wire_packet *packet)
{
	struct client_call *call;

	if (conn->state == CLIENT_CONN_HELLO ||
	    (packet->msg.type == TIERFS_MSG_ERROR && packet->msg.u.error.code == EPROTO)) {
		int code = packet->msg.type == TIERFS_MSG_ERROR ? packet->msg.u.error.code : EPROTO;

		debug_conn(conn, "refused",
			   packet->msg.type == TIERFS_MSG_ERROR ? packet->msg.u.error.text : "no welcome", code);
		client_conn_fail(conn, code > 0 && code < 4096 ? -code : -EPROTO);
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

static void on_zap(struct client_conn *conn, const struct tierfs_msg *msg)
{
	client_zap(msg->u.zap.range, msg->u.zap.count, conn);
	if (conn->zapped_count == CLIENT_CONN_ZAPPED_MAX) {
		client_conn_fail(conn, -EBADMSG);
		return;
	}
	conn->zapped[conn->zapped_count++] = msg->seq;
	client_conn_flush(conn);
}

void client_conn_on_packet(struct client_conn *conn, struct wire_packet *packet)
{
	switch ((enum tierfs_msg_type)packet->msg.type) {
	case TIERFS_MSG_WELCOME:
		if (conn->state == CLIENT_CONN_HELLO)
			on_welcome(conn, &packet->msg);
		return;
	case TIERFS_MSG_ARENA:
	case TIERFS_MSG_DONE:
	case TIERFS_MSG_ERROR:
		on_answer(conn, packet);
		return;
	case TIERFS_MSG_ZAP:
		if (conn->state != CLIENT_CONN_HELLO)
			on_zap(conn, &packet->msg);
		return;
	case TIERFS_MSG_HELLO:
	case TIERFS_MSG_OPEN:
	case TIERFS_MSG_MAP:
	case TIERFS_MSG_RESUME:
	case TIERFS_MSG_UNMAP:
	case TIERFS_MSG_DISCARD:
	case TIERFS_MSG_ADVISE:
	case TIERFS_MSG_ZAPPED:
		break;
	}
	client_conn_fail(conn, -EBADMSG);
}

/* --- what time brings ------------------------------------------------------------------------------------------ */

bool client_conn_is_trusted(int fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && (peer.uid == 0 || peer.uid == geteuid());
}

void client_conn_stand(bool in_run_root)
{
	stands_in_run_root = in_run_root;
}

static bool connects(int fd, const char *run_dir)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%.*s/%s", TIERFS_RUN_DIR_LEN - 1, run_dir,
		 TIERFS_ATTACH_SOCKET);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
}

/* By the path from where the threads stand, if they do: the other one may lead nowhere in the program's namespace. But
 * the directory may also have been removed since, and made anew. */
static bool reach(int fd, const char *run_dir)
{
	static const char root[] = TIERFS_RUN_ROOT "/";

	if (stands_in_run_root && !strncmp(run_dir, root, sizeof(root) - 1) && connects(fd, run_dir + sizeof(root) - 1))
		return true;
	return connects(fd, run_dir);
}

static void try_connect(struct client_conn *conn)
{
	int fd, err;

	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		client_conn_fail(conn, -errno);
		return;
	}
	conn->fd = wire_raise_fd(fd);
	if (!reach(conn->fd, conn->run_dir)) {
		client_conn_fail(conn, -ENOTCONN);
		return;
	}
	if (client_filter_allows(CLIENT_FILTER_PEER) && !client_conn_is_trusted(conn->fd)) {
		client_conn_fail(conn, -EPERM);
		return;
	}
	scratch.type = TIERFS_MSG_HELLO;
	scratch.seq = conn->next_seq++;
	scratch.u.hello.abi_version = TIERFS_ABI_VERSION;
	scratch.u.hello.flags = 0;
	err = wire_send(conn->fd, &scratch, NULL, 0);
	if (err) {
		client_conn_fail(conn, -ENOTCONN);
		return;
	}
	conn->state = CLIENT_CONN_HELLO;
	conn->when_ns = clock_ns() + ANSWER_NS;
}

static bool is_needed(const struct client_conn *conn)
{
	return conn->attaching || !TAILQ_EMPTY(&conn->calls) || client_range_count(conn) > 0;
}

static void ask_again(struct client_conn *conn)
{
	struct client_range *range;

	conn->when_ns = 0;
	for (size_t i = 0; (range = client_range_at(i)); i++)
		if (range->mapping->conn == conn && range->state == CLIENT_RANGE_REFUSED)
			range->state = CLIENT_RANGE_LOST;
	conn->untold = true;
	client_conn_flush(conn);
}

/* What time brings. */
void client_conn_step(struct client_conn *conn, uint64_t now_ns)
{
	bool due = conn->when_ns && now_ns >= conn->when_ns;

	switch (conn->state) {
	case CLIENT_CONN_FREE:
		return;
	case CLIENT_CONN_DOWN:
		if (!is_needed(conn)) {
			conn->state = CLIENT_CONN_FREE;
			client_conn_changed(conn);
		} else if (due) {
			try_connect(conn);
		}
		return;
	case CLIENT_CONN_HELLO:
	case CLIENT_CONN_RESUMING:
		if (due)
			client_conn_fail(conn, -ETIMEDOUT);
		return;
	case CLIENT_CONN_UP:
		if (due)
			ask_again(conn);
		return;
	}
}

/* --- connections ------------------------------------------------------------------------------------------------ */

struct client_conn *client_conn_find(const char *run_dir)
{
	struct client_conn *unused = NULL;
	uint32_t generation;

	for (int i = 0; i < CLIENT_CONN_MAX; i++) {
		if (client_conns[i].state == CLIENT_CONN_FREE)
			unused = unused ? unused : &client_conns[i];
		else if (!strcmp(client_conns[i].run_dir, run_dir))
			return &client_conns[i];
	}
	if (!unused)
		return NULL;
	generation = unused->generation;
	memset(unused, 0, sizeof(*unused));
	unused->generation = generation + 1;
	strncpy(unused->run_dir, run_dir, sizeof(unused->run_dir) - 1);
	unused->fd = -1;
	unused->state = CLIENT_CONN_DOWN;
	unused->next_seq = 1;
	TAILQ_INIT(&unused->calls);
	return unused;
}

/* The daemon gives memory that cannot be demoted half of the budget, and a file of which some is locked no more than
 * that if the program has locked other things, too: what is not locked of it needs room as well. */
uint64_t client_conn_lock_max(const struct client_conn *conn)
{
	return conn->dram_bytes ? conn->dram_bytes / 8 * 3 : UINT64_MAX;
}

/* More than that is kept free for faults at most. */
uint64_t client_conn_populate_max(const struct client_conn *conn)
{
	return conn->dram_bytes ? conn->dram_bytes / 8 * 7 : UINT64_MAX;
}

void client_conn_forget(void)
{
	for (int i = 0; i < CLIENT_CONN_MAX; i++)
		client_conns[i].state = CLIENT_CONN_FREE;
}
