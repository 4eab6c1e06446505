/* The server of attach.sock: connections, and what happens when a process goes.
 *
 * One thread runs an event loop; everything here but attached_mappings() and serve() is on it. A request that may take
 * long, or wait in a process, is served by a chore (map/chores.h), so that no client waits for another.
 *
 * A connection that breaks does not end its mappings as long as their address space lives: the daemon has its own
 * userfaultfd of each, so faults are resolved, only zaps are not possible until the process comes back with RESUME. A
 * mapping ends when its process unmaps it, or when its address space is gone (checked when the connection ends, when
 * the process ends, and every second for those without an agent).
 */
#include "map/attached_end.h"
#include "map/attached_left.h"
#include "map/attached_serve.h"
#include "map/attached_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <tierfs/protocol.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/waits.h"

#define CONNECTIONS_MAX 8192
#define BACKLOG 512 /* also for as long as no daemon runs */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
/* Nobody but root gets the last ones, and no other user more than his part (map/users.h). */
#define CONNECTIONS_OF_ROOT 512
/* Without descriptors nobody can be accepted: the loop looks again after this. */
#define ACCEPT_PAUSE_NS (100 * NS_PER_MS)
#define REFUSED_LOG_NS (1 * NS_PER_S)
#define HELLO_NS (5 * NS_PER_S)
#define HELLO_CHECK_NS (1 * NS_PER_S)
#define WAIT_CHECK_NS (1 * NS_PER_S)

/* --- connections -------------------------------------------------------------------------------------------- */

static void drop_connection(struct connection *connection)
{
	struct attached *attached = connection->attached;
	struct grant *grant;

	loop_unwatch(connection->watch);
	loop_unwatch(connection->exit_watch);
	lock_get(&attached->lock);
	TAILQ_REMOVE(&attached->connections, connection, link);
	lock_put(&attached->lock);
	attached->connection_count--;
	while ((grant = TAILQ_FIRST(&connection->grants))) {
		TAILQ_REMOVE(&connection->grants, grant, link);
		close(grant->fd);
		free(grant);
	}
	attached_end_mappings(attached, connection);
	wire_hang_up(connection->sock);
	close(connection->sock);
	if (connection->pidfd >= 0)
		close(connection->pidfd);
	users_give(attached->users, connection->uid, USERS_CONNECTION);
	free(connection);
}

static void drop_after(struct connection *connection, int err)
{
	if (err == -EPROTO) {
		log_warn("process %d breaks the rules of the attach socket: its connection is closed",
			 (int)connection->pid);
		attached_answer_error(connection, connection->packet.msg.seq, -EPROTO,
				      "the packet breaks the protocol");
	}
	drop_connection(connection);
}

/* On a chore's thread. */
static void serve(void *arg)
{
	struct connection *connection = arg;

	connection->err = attached_serve(connection, &connection->packet);
	wire_close_fds(&connection->packet);
}

/* Runs while anybody maps a file. */
static void wait_timer(void *arg);

static void look_at_waits(struct attached *attached)
{
	if (!attached->wait_timer && attached_mappings(attached))
		attached->wait_timer = !loop_after(attached->loop, WAIT_CHECK_NS, wait_timer, attached);
}

static void tell_waits(void *arg, struct ramfile *file)
{
	waits_tell(file, *(uint64_t *)arg);
}

static void wait_timer(void *arg)
{
	struct attached *attached = arg;
	uint64_t now_ns = clock_ns();

	engine_each_file(attached->config.engine, tell_waits, &now_ns);
	attached->wait_timer = false;
	look_at_waits(attached);
}

static void on_served(void *arg)
{
	struct connection *connection = arg;

	connection->busy = false;
	look_at_waits(connection->attached);
	if (connection->err || connection->gone)
		drop_after(connection, connection->err);
	else
		loop_pause(connection->watch, false);
}

/* Others do not wait for what may take long. The next packet of this one does. */
static void on_packet(void *arg, int fd, uint32_t events)
{
	struct connection *connection = arg;
	int err;

	(void)events;
	err = wire_recv(fd, &connection->packet);
	if (err == -EAGAIN)
		return;
	if (!err && !attached_is_quick(connection, &connection->packet)) {
		connection->busy = true;
		loop_pause(connection->watch, true);
		chores_send(connection->attached->chores, &connection->chore);
		return;
	}
	if (!err) {
		err = attached_serve(connection, &connection->packet);
		wire_close_fds(&connection->packet);
	}
	if (err)
		drop_after(connection, err);
}

static void on_exit_of(void *arg, int fd, uint32_t events)
{
	struct connection *connection = arg;

	(void)fd;
	(void)events;
	if (!connection->busy) {
		drop_connection(connection);
		return;
	}
	connection->gone = true;
	loop_pause(connection->exit_watch, true);
}

static void hello_timer(void *arg)
{
	struct attached *attached = arg;
	struct connection *connection, *next;
	uint64_t now = clock_ns();
	bool more = false;

	for (connection = TAILQ_FIRST(&attached->connections); connection; connection = next) {
		next = TAILQ_NEXT(connection, link);
		if (!connection->greeted && now >= connection->opened_ns + HELLO_NS) {
			log_warn("process %d connected to the attach socket and said nothing: closed",
				 (int)connection->pid);
			drop_connection(connection);
			continue;
		}
		more |= !connection->greeted;
	}
	attached->hello_timer = more && !loop_after(attached->loop, HELLO_CHECK_NS, hello_timer, attached);
}

/* The process that connected. It may have waited long in the queue for a daemon, and its number be another's by now.
 * Kernels before 6.5 know no more than the number. */
static int open_peer(int sock, pid_t pid)
{
	socklen_t length = sizeof(int);
	int pidfd;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) == 0)
		return pidfd;
	if (errno != ENOPROTOOPT)
		return -errno;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return pidfd < 0 ? -errno : pidfd;
}

static int connection_new(struct attached *attached, int sock, const struct ucred *peer)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	int err = -ENOMEM;

	if (!connection)
		goto err;
	connection->pidfd = -1;
	connection->attached = attached;
	connection->sock = sock;
	connection->pid = peer->pid;
	connection->uid = peer->uid;
	connection->opened_ns = clock_ns();
	connection->chore = (struct chore){ .go = serve, .done = on_served, .arg = connection };
	TAILQ_INIT(&connection->grants);
	TAILQ_INIT(&connection->mappings);
	connection->pidfd = open_peer(sock, peer->pid);
	if (connection->pidfd < 0) {
		err = connection->pidfd;
		goto err;
	}
	err = loop_watch(attached->loop, sock, POLLIN, on_packet, connection, &connection->watch);
	if (err)
		goto err;
	err = loop_watch(attached->loop, connection->pidfd, POLLIN, on_exit_of, connection, &connection->exit_watch);
	if (err)
		goto err;
	lock_get(&attached->lock);
	TAILQ_INSERT_TAIL(&attached->connections, connection, link);
	lock_put(&attached->lock);
	attached->connection_count++;
	if (!attached->hello_timer)
		attached->hello_timer = !loop_after(attached->loop, HELLO_CHECK_NS, hello_timer, attached);
	return 0;
err:
	if (connection) {
		loop_unwatch(connection->watch);
		if (connection->pidfd >= 0)
			close(connection->pidfd);
	}
	free(connection);
	return err;
}

/* The user gets a place, or why not: why, of so many bytes, and an error. */
static int take_place(struct attached *attached, uid_t uid, char *why, size_t cap)
{
	unsigned int most = CONNECTIONS_MAX - (uid ? CONNECTIONS_OF_ROOT : 0);
	int err;

	snprintf(why, cap, "the daemon has no place for another connection");
	if (attached->connection_count >= most)
		return -EUSERS;
	err = users_take(attached->users, uid, USERS_CONNECTION, 1);
	if (err == -EUSERS)
		snprintf(why, cap, "the user has %" PRIu64 " connections, which is the limit (uid_connections)",
			 users_most(attached->users, USERS_CONNECTION));
	else
		snprintf(why, cap, "the connection cannot be served");
	return err;
}

/* Said before the client has asked anything, and then closed. */
static void refuse(struct attached *attached, int sock, const struct ucred *peer, int err, const char *why)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_ERROR };
	uint64_t now_ns = clock_ns();

	msg.u.error.code = -err;
	snprintf(msg.u.error.text, sizeof(msg.u.error.text), "%s: %s", why, strerror(-err));
	wire_send(sock, &msg, NULL, 0);
	wire_hang_up(sock);
	close(sock);
	if (now_ns < attached->refused_ns + REFUSED_LOG_NS)
		return;
	attached->refused_ns = now_ns;
	log_warn("process %d of user %u cannot attach: %s", (int)peer->pid, (unsigned int)peer->uid, msg.u.error.text);
}

static void on_connect(void *arg, int fd, uint32_t events);

static void accept_again(void *arg)
{
	struct attached *attached = arg;

	if (!attached->watch &&
	    loop_watch(attached->loop, attached->listener, POLLIN, on_connect, attached, &attached->watch))
		loop_after(attached->loop, ACCEPT_PAUSE_NS, accept_again, attached);
}

/* Who connects waits in the queue. */
static void pause_accepting(struct attached *attached)
{
	log_warn("%s: out of descriptors: nobody can attach for a moment", attached->path);
	if (loop_after(attached->loop, ACCEPT_PAUSE_NS, accept_again, attached))
		return;
	loop_unwatch(attached->watch);
	attached->watch = NULL;
}

static void on_connect(void *arg, int fd, uint32_t events)
{
	struct attached *attached = arg;
	int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int size = 1 << 20, err = 0;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	char why[TIERFS_TEXT_MAX];

	(void)events;
	if (sock < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			pause_accepting(attached);
		return;
	}
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		close(sock);
		return;
	}
	/* Room for the ZAPs of a round over scattered memory. */
	setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	err = take_place(attached, peer.uid, why, sizeof(why));
	if (!err) {
		err = connection_new(attached, sock, &peer);
		if (err)
			users_give(attached->users, peer.uid, USERS_CONNECTION);
	}
	if (err)
		refuse(attached, sock, &peer, err, why);
}

/* --- life --------------------------------------------------------------------------------------------------- */

static int listen_at(struct attached *attached)
{
	const struct attached_config *config = &attached->config;
	int err = listener_open(config->run_dir, TIERFS_ATTACH_SOCKET, SOCK_SEQPACKET, BACKLOG, config->keeper,
				&attached->listener);

	if (err < 0)
		return err;
	snprintf(attached->path, sizeof(attached->path), "%s/%s", config->run_dir, TIERFS_ATTACH_SOCKET);
	return loop_watch(attached->loop, attached->listener, POLLIN, on_connect, attached, &attached->watch);
}

static void *server_main(void *arg)
{
	struct attached *attached = arg;
	int err = loop_run(attached->loop);

	if (err)
		log_error("the server of %s has ended: %s", attached->path, strerror(-err));
	return NULL;
}

int attached_start(const struct attached_config *config, struct attached **ret)
{
	struct attached *attached = calloc(1, sizeof(*attached));
	int err;

	if (!attached)
		return -ENOMEM;
	attached->config = *config;
	attached->listener = -1;
	lock_init(&attached->lock, LOCK_RANK_ATTACH);
	TAILQ_INIT(&attached->connections);
	attached_end_init(attached);
	/* Holder numbers must not repeat after a restart of the daemon: milliseconds since boot grow faster than
	 * mappings do. */
	attached->next_id = clock_ns() / NS_PER_MS + 1;
	attached->uffd_device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (attached->uffd_device < 0) {
		err = -errno;
		log_error("/dev/userfaultfd cannot be opened: %s: load a kernel with CONFIG_USERFAULTFD, run as root",
			  strerror(-err));
		goto err;
	}
	err = users_new(
		(const uint64_t[]){
			[USERS_CONNECTION] = config->user_connections, [USERS_MAPPING] = config->user_mappings },
		&attached->users);
	if (err)
		goto err;
	err = loop_new(&attached->loop);
	if (err)
		goto err;
	err = chores_new(attached->loop, &attached->chores);
	if (err)
		goto err;
	err = map_table_new(config->engine, config->quick, &attached->table);
	if (err)
		goto err;
	err = listen_at(attached);
	if (err)
		goto err;
	attached_take_left(attached);
	look_at_waits(attached);
	attached_watch_start(attached);
	err = -pthread_create(&attached->thread, NULL, server_main, attached);
	if (err)
		goto err;
	attached->thread_runs = true;
	pthread_setname_np(attached->thread, "tierfs-attach");
	*ret = attached;
	return 0;
err:
	attached_stop(attached);
	return err;
}

unsigned int attached_mappings(struct attached *attached)
{
	return map_table_count(attached->table) + atomic_load(&attached->left_count);
}

void attached_stop(struct attached *attached)
{
	struct connection *connection;

	if (!attached)
		return;
	if (attached->thread_runs) {
		loop_stop(attached->loop);
		pthread_join(attached->thread, NULL);
	}
	loop_unwatch(attached->watch);
	if (attached->chores)
		chores_finish(attached->chores); /* they have connections */
	while ((connection = TAILQ_FIRST(&attached->connections)))
		drop_connection(connection);
	attached_end_orphans(attached);
	chores_free(attached->chores);
	map_table_free(attached->table);
	users_free(attached->users);
	if (attached->listener >= 0)
		close(attached->listener);
	if (attached->thread_runs)
		unlink(attached->path); /* else it may be kept for another one */
	if (attached->uffd_device >= 0)
		close(attached->uffd_device);
	loop_free(attached->loop);
	lock_fini(&attached->lock);
	free(attached);
}
