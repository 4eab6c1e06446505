/* The server of attach.sock: handshake, MAP, RESUME, UNMAP, DISCARD, and what happens when a process goes.
 *
 * One thread runs an event loop; everything here but attached_mappings() is on it. A connection that breaks does not
 * end its mappings as long as their address space lives: the daemon has its own userfaultfd of each, so faults are
 * resolved, only zaps are not possible until the process comes back with RESUME. A mapping ends when its process unmaps
 * it, or when its address space is gone (checked when the connection ends, when the process ends, and every second for
 * those without an agent).
 */
#include "map/attached.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <tierfs/protocol.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/wire.h"
#include "map/table.h"
#include "map/uffd.h"
#include "mem/arena.h"

#define CONNECTIONS_MAX 1024
#define MAPPINGS_PER_CONNECTION 256
#define HELLO_NS (5 * NS_PER_S)
#define ORPHAN_CHECK_NS (1 * NS_PER_S)
#define WORKERS_DEFAULT 4
#define PAGE 4096U

/* An arena that was handed out and not mapped yet. */
struct grant {
	TAILQ_ENTRY(grant) link;
	uint64_t ino;
	int fd;
};

struct link {
	TAILQ_ENTRY(link) link;
	struct mapping *mapping;
};

struct connection {
	TAILQ_ENTRY(connection) link;
	struct attached *attached;
	struct loop_watch *watch, *exit_watch;
	int sock, pidfd;
	pid_t pid;
	bool greeted;
	uint64_t opened_ns;
	unsigned int mapping_count;
	TAILQ_HEAD(, grant) grants;
	TAILQ_HEAD(, link) mappings;
};

struct attached {
	struct attached_config config;
	struct loop *loop;
	struct loop_watch *watch;
	struct map_table *table;
	pthread_t thread;
	bool thread_runs;
	int listener, uffd_device;
	char path[108];
	uint64_t next_id;
	unsigned int connection_count;
	TAILQ_HEAD(, connection) connections;
	TAILQ_HEAD(, link) orphans; /* mappings without an agent */
};

/* --- answers ------------------------------------------------------------------------------------------------ */

static int answer(struct connection *connection, struct tierfs_msg *msg, uint64_t seq, const int *fds, int fd_count)
{
	msg->seq = seq;
	return wire_send(connection->sock, msg, fds, fd_count);
}

static int answer_error(struct connection *connection, uint64_t seq, int err, const char *text)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_ERROR };

	msg.u.error.code = -err;
	snprintf(msg.u.error.text, sizeof(msg.u.error.text), "%s: %s", text, strerror(-err));
	return answer(connection, &msg, seq, NULL, 0);
}

static int answer_done(struct connection *connection, uint64_t seq, uint64_t map_id)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_DONE };

	msg.u.done.map_id = map_id;
	return answer(connection, &msg, seq, NULL, 0);
}

/* --- the end of mappings ------------------------------------------------------------------------------------ */

static void end_mapping(struct attached *attached, struct mapping *mapping)
{
	uint64_t ino = mapping->ino;

	log_info("file %llu: process %d has unmapped it", (unsigned long long)ino, (int)mapping->pid);
	map_table_remove(attached->table, mapping);
	ns_put(attached->config.ns, ino);
}

static struct link *find_link(struct connection *connection, uint64_t id)
{
	struct link *link;

	TAILQ_FOREACH(link, &connection->mappings, link)
		if (link->mapping->id == id)
			return link;
	return NULL;
}

static void check_orphans(struct attached *attached)
{
	struct link *link, *next;

	for (link = TAILQ_FIRST(&attached->orphans); link; link = next) {
		next = TAILQ_NEXT(link, link);
		if (mapping_alive(link->mapping))
			continue;
		TAILQ_REMOVE(&attached->orphans, link, link);
		end_mapping(attached, link->mapping);
		free(link);
	}
}

static void orphan_timer(void *arg)
{
	struct attached *attached = arg;

	check_orphans(attached);
	if (!TAILQ_EMPTY(&attached->orphans))
		loop_after(attached->loop, ORPHAN_CHECK_NS, orphan_timer, attached);
}

static void orphan(struct attached *attached, struct link *link)
{
	bool first = TAILQ_EMPTY(&attached->orphans);

	mapping_orphan(link->mapping);
	log_warn("file %llu: process %d lives and its agent is gone: its memory works, and stays resident until it "
		 "comes back or ends",
		 (unsigned long long)link->mapping->ino, (int)link->mapping->pid);
	TAILQ_INSERT_TAIL(&attached->orphans, link, link);
	if (first)
		loop_after(attached->loop, ORPHAN_CHECK_NS, orphan_timer, attached);
}

static void drop_connection(struct connection *connection)
{
	struct attached *attached = connection->attached;
	struct grant *grant;
	struct link *link;

	loop_unwatch(connection->watch);
	loop_unwatch(connection->exit_watch);
	TAILQ_REMOVE(&attached->connections, connection, link);
	attached->connection_count--;
	while ((grant = TAILQ_FIRST(&connection->grants))) {
		TAILQ_REMOVE(&connection->grants, grant, link);
		close(grant->fd);
		free(grant);
	}
	while ((link = TAILQ_FIRST(&connection->mappings))) {
		TAILQ_REMOVE(&connection->mappings, link, link);
		if (mapping_alive(link->mapping)) {
			orphan(attached, link);
			continue;
		}
		end_mapping(attached, link->mapping);
		free(link);
	}
	shutdown(connection->sock, SHUT_RDWR);
	close(connection->sock);
	if (connection->pidfd >= 0)
		close(connection->pidfd);
	free(connection);
}

/* --- requests ----------------------------------------------------------------------------------------------- */

static int do_hello(struct connection *connection, struct wire_packet *packet)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_WELCOME };

	if (packet->msg.u.hello.abi_version != TIERFS_ABI_VERSION)
		return -EPROTO;
	connection->greeted = true;
	msg.u.welcome.abi_version = TIERFS_ABI_VERSION;
	msg.u.welcome.block_bytes = tier_block_bytes(connection->attached->config.tier);
	return answer(connection, &msg, packet->msg.seq, NULL, 0);
}

static void forget_grant(struct connection *connection, struct grant *grant)
{
	TAILQ_REMOVE(&connection->grants, grant, link);
	close(grant->fd);
	free(grant);
}

static struct grant *find_grant(struct connection *connection, uint64_t ino)
{
	struct grant *grant, *found = NULL;

	TAILQ_FOREACH(grant, &connection->grants, link)
		if (grant->ino == ino)
			found = grant;
	return found;
}

static int grant_arena(struct connection *connection, const struct token_grant *token, struct tierfs_msg *msg)
{
	struct attached *attached = connection->attached;
	struct grant *grant = calloc(1, sizeof(*grant));
	struct ramfile *file;
	int err;

	if (!grant)
		return -ENOMEM;
	err = ns_open(attached->config.ns, token->ino, &file);
	if (!err) {
		err = ramfile_arena_fd(file, true, &grant->fd);
		msg->u.arena.size_bytes = ramfile_size(file);
		ns_put(attached->config.ns, token->ino);
	}
	if (err) {
		free(grant);
		return err;
	}
	while (find_grant(connection, token->ino)) /* one at a time: the last OPEN counts */
		forget_grant(connection, find_grant(connection, token->ino));
	grant->ino = token->ino;
	TAILQ_INSERT_TAIL(&connection->grants, grant, link);
	msg->u.arena.ino = token->ino;
	msg->u.arena.rights = token->rights;
	return grant->fd;
}

static int do_open(struct connection *connection, struct wire_packet *packet)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_ARENA };
	struct token_grant token;
	int fds[2];
	int err;

	err = token_redeem(connection->attached->config.tokens, packet->msg.u.open.token, &token);
	if (err)
		return answer_error(connection, packet->msg.seq, err,
				    "the token was never given out, is used up or expired");
	/* The kernel registers only memory that may become writable with userfaultfd. */
	if (!(token.rights & TIERFS_RIGHT_WRITE))
		return answer_error(connection, packet->msg.seq, -EACCES,
				    "the file is not open for writing, which an attached mapping needs");
	fds[0] = grant_arena(connection, &token, &msg);
	if (fds[0] < 0)
		return answer_error(connection, packet->msg.seq, fds[0], "the file's memory cannot be shared");
	fds[1] = connection->attached->uffd_device;
	return answer(connection, &msg, packet->msg.seq, fds, 2);
}

static bool is_userfaultfd(int fd)
{
	char link[64], target[64];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, target, sizeof(target) - 1);
	if (len < 0)
		return false;
	target[len] = '\0';
	return strcmp(target, "anon_inode:[userfaultfd]") == 0;
}

static int check_range(const struct tierfs_msg *msg, uint64_t size_bytes)
{
	uint64_t addr = msg->u.map.addr, length = msg->u.map.length_bytes, offset = msg->u.map.offset;

	if (addr % PAGE || length % PAGE || offset % PAGE || !length || addr + length < addr)
		return -EINVAL;
	return offset < size_bytes && length <= size_bytes - offset ? 0 : -EINVAL;
}

static int open_pagemap(const struct connection *connection)
{
	char path[64];
	struct pollfd gone = { .fd = connection->pidfd, .events = POLLIN };
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)connection->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* The number was the peer's if the peer still lives now. */
	if (poll(&gone, 1, 0) != 0) {
		close(fd);
		return -ESRCH;
	}
	return fd;
}

/* Takes over file's reference, arena_fd stays the caller's, uffd is taken from the packet on success. */
static int make_mapping(struct connection *connection, struct wire_packet *packet, int uffd_index, int arena_fd,
			struct ramfile *file, uint64_t ino, struct mapping **ret)
{
	struct attached *attached = connection->attached;
	const struct tierfs_msg *msg = &packet->msg;
	struct mapping_spec spec = {
		.id = attached->next_id,
		.ino = ino,
		.pid = connection->pid,
		.file = file,
		.segment = { .addr = msg->u.map.addr, .length = msg->u.map.length_bytes, .offset = msg->u.map.offset },
		.block_bytes = tier_block_bytes(attached->config.tier),
		.uffd = packet->fds[uffd_index],
		.sock = connection->sock,
	};
	CLEANUP_CLOSE int pagemap = -1;
	int flags, err;

	if (!is_userfaultfd(spec.uffd))
		return -EBADF;
	/* Reading it must never block, whatever the client made of it. */
	flags = fcntl(spec.uffd, F_GETFL);
	if (flags < 0 || fcntl(spec.uffd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	pagemap = open_pagemap(connection);
	if (pagemap < 0)
		return pagemap;
	err = uffd_register(spec.uffd, spec.segment.addr, spec.segment.length);
	if (err)
		return err;
	err = arena_hold(arena_fd, spec.id);
	if (err)
		return err;
	spec.pagemap = pagemap;
	err = mapping_new(&spec, ret);
	if (err)
		return err;
	packet->fds[uffd_index] = -1;
	(void)STEAL_FD(pagemap);
	err = map_table_add(attached->table, *ret);
	if (err) {
		mapping_free(*ret);
		return err;
	}
	attached->next_id++;
	return 0;
}

static int link_mapping(struct connection *connection, struct mapping *mapping, uint64_t seq)
{
	struct link *link = calloc(1, sizeof(*link));

	if (!link) {
		end_mapping(connection->attached, mapping);
		return answer_error(connection, seq, -ENOMEM, "no memory for the mapping");
	}
	link->mapping = mapping;
	TAILQ_INSERT_TAIL(&connection->mappings, link, link);
	connection->mapping_count++;
	log_info("file %llu: process %d maps %llu bytes", (unsigned long long)mapping->ino, (int)mapping->pid,
		 (unsigned long long)mapping->segment[0].length);
	return answer_done(connection, seq, mapping->id);
}

static int do_map(struct connection *connection, struct wire_packet *packet)
{
	struct attached *attached = connection->attached;
	uint64_t ino = packet->msg.u.map.ino;
	struct grant *grant = find_grant(connection, ino);
	struct mapping *mapping;
	struct ramfile *file;
	int err;

	if (!grant || packet->fd_count != 1)
		return -EPROTO;
	if (connection->mapping_count >= MAPPINGS_PER_CONNECTION)
		return answer_error(connection, packet->msg.seq, -EMFILE,
				    "the process has 256 mappings, which is the limit");
	err = ns_open(attached->config.ns, ino, &file);
	if (!err) {
		err = check_range(&packet->msg, ramfile_size(file));
		if (!err)
			err = make_mapping(connection, packet, 0, grant->fd, file, ino, &mapping);
		if (err)
			ns_put(attached->config.ns, ino);
	}
	forget_grant(connection, grant);
	if (err)
		return answer_error(connection, packet->msg.seq, err, "the range cannot be mapped");
	return link_mapping(connection, mapping, packet->msg.seq);
}

/* The mapping that the process had before its connection broke, if this daemon knew it. */
static void end_predecessor(struct attached *attached, pid_t pid, uint64_t addr)
{
	struct link *link, *next;

	for (link = TAILQ_FIRST(&attached->orphans); link; link = next) {
		next = TAILQ_NEXT(link, link);
		if (link->mapping->pid != pid || link->mapping->segment[0].addr != addr)
			continue;
		TAILQ_REMOVE(&attached->orphans, link, link);
		end_mapping(attached, link->mapping);
		free(link);
	}
}

static int do_resume(struct connection *connection, struct wire_packet *packet)
{
	struct attached *attached = connection->attached;
	struct mapping *mapping;
	struct ramfile *file;
	uint64_t ino;
	int err;

	if (packet->fd_count != 2)
		return -EPROTO;
	if (connection->mapping_count >= MAPPINGS_PER_CONNECTION)
		return answer_error(connection, packet->msg.seq, -EMFILE,
				    "the process has 256 mappings, which is the limit");
	err = ns_open_by_arena(attached->config.ns, packet->fds[0], &ino, &file);
	if (err)
		return answer_error(connection, packet->msg.seq, err,
				    "the descriptor is not the arena of a file of this mount");
	err = check_range(&packet->msg, ramfile_size(file));
	if (!err)
		err = make_mapping(connection, packet, 1, packet->fds[0], file, ino, &mapping);
	if (err) {
		ns_put(attached->config.ns, ino);
		return answer_error(connection, packet->msg.seq, err, "the range cannot be mapped");
	}
	end_predecessor(attached, connection->pid, packet->msg.u.map.addr);
	/* Whoever waits for an answer that the former daemon owed touches its page again and brings a new event. */
	uffd_wake(mapping->uffd, packet->msg.u.map.addr, packet->msg.u.map.length_bytes);
	return link_mapping(connection, mapping, packet->msg.seq);
}

static int do_unmap(struct connection *connection, struct wire_packet *packet)
{
	struct link *link = find_link(connection, packet->msg.u.part.map_id);
	int left;

	if (!link)
		return answer_error(connection, packet->msg.seq, -ENOENT, "there is no mapping with this number");
	left = mapping_cut(link->mapping, packet->msg.u.part.where, packet->msg.u.part.length_bytes);
	if (left < 0)
		return answer_error(connection, packet->msg.seq, left, "the mapping would be cut into too many pieces");
	if (!left) {
		TAILQ_REMOVE(&connection->mappings, link, link);
		connection->mapping_count--;
		end_mapping(connection->attached, link->mapping);
		free(link);
	}
	return answer_done(connection, packet->msg.seq, 0);
}

static int do_discard(struct connection *connection, struct wire_packet *packet)
{
	struct link *link = find_link(connection, packet->msg.u.part.map_id);
	uint64_t offset = packet->msg.u.part.where, length = packet->msg.u.part.length_bytes;
	int err;

	if (!link)
		return answer_error(connection, packet->msg.seq, -ENOENT, "there is no mapping with this number");
	if (offset % PAGE || length % PAGE || offset + length < offset)
		return answer_error(connection, packet->msg.seq, -EINVAL, "a discard must be whole pages");
	err = ramfile_discard(link->mapping->file, offset, length);
	if (err)
		return answer_error(connection, packet->msg.seq, err, "the range cannot be discarded");
	return answer_done(connection, packet->msg.seq, 0);
}

static int do_zapped(struct connection *connection, struct wire_packet *packet)
{
	struct link *link;

	TAILQ_FOREACH(link, &connection->mappings, link)
		if (mapping_zapped(link->mapping, packet->msg.seq))
			break;
	return 0;
}

static int serve_packet(struct connection *connection, struct wire_packet *packet)
{
	if (!connection->greeted && packet->msg.type != TIERFS_MSG_HELLO)
		return -EPROTO;
	switch ((enum tierfs_msg_type)packet->msg.type) {
	case TIERFS_MSG_HELLO:
		return do_hello(connection, packet);
	case TIERFS_MSG_OPEN:
		return do_open(connection, packet);
	case TIERFS_MSG_MAP:
		return do_map(connection, packet);
	case TIERFS_MSG_RESUME:
		return do_resume(connection, packet);
	case TIERFS_MSG_UNMAP:
		return do_unmap(connection, packet);
	case TIERFS_MSG_DISCARD:
		return do_discard(connection, packet);
	case TIERFS_MSG_ZAPPED:
		return do_zapped(connection, packet);
	case TIERFS_MSG_WELCOME:
	case TIERFS_MSG_ARENA:
	case TIERFS_MSG_DONE:
	case TIERFS_MSG_ZAP:
	case TIERFS_MSG_ERROR:
		break; /* the daemon's to say */
	}
	return -EPROTO;
}

/* --- connections -------------------------------------------------------------------------------------------- */

static void on_packet(void *arg, int fd, uint32_t events)
{
	struct connection *connection = arg;
	struct wire_packet packet;
	int err;

	(void)events;
	err = wire_recv(fd, &packet);
	if (err == -EAGAIN)
		return;
	if (!err) {
		err = serve_packet(connection, &packet);
		wire_close_fds(&packet);
	}
	if (!err)
		return;
	if (err == -EPROTO) {
		log_warn("process %d breaks the rules of the attach socket: its connection is closed",
			 (int)connection->pid);
		answer_error(connection, packet.msg.seq, -EPROTO, "the packet breaks the protocol");
	}
	drop_connection(connection);
}

static void on_exit_of(void *arg, int fd, uint32_t events)
{
	(void)fd;
	(void)events;
	drop_connection(arg);
}

static void hello_timer(void *arg)
{
	struct attached *attached = arg;
	struct connection *connection, *next;
	uint64_t now = clock_ns();

	for (connection = TAILQ_FIRST(&attached->connections); connection; connection = next) {
		next = TAILQ_NEXT(connection, link);
		if (!connection->greeted && now >= connection->opened_ns + HELLO_NS) {
			log_warn("process %d connected to the attach socket and said nothing: closed",
				 (int)connection->pid);
			drop_connection(connection);
		}
	}
}

static int connection_new(struct attached *attached, int sock)
{
	struct connection *connection = calloc(1, sizeof(*connection));
	struct ucred peer;
	socklen_t len = sizeof(peer);
	int err = -ENOMEM;

	if (!connection)
		goto err;
	connection->pidfd = -1;
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		err = -errno;
		goto err;
	}
	connection->attached = attached;
	connection->sock = sock;
	connection->pid = peer.pid;
	connection->opened_ns = clock_ns();
	TAILQ_INIT(&connection->grants);
	TAILQ_INIT(&connection->mappings);
	connection->pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
	if (connection->pidfd < 0) {
		err = -errno;
		goto err;
	}
	err = loop_watch(attached->loop, sock, POLLIN, on_packet, connection, &connection->watch);
	if (err)
		goto err;
	err = loop_watch(attached->loop, connection->pidfd, POLLIN, on_exit_of, connection, &connection->exit_watch);
	if (err)
		goto err;
	TAILQ_INSERT_TAIL(&attached->connections, connection, link);
	attached->connection_count++;
	loop_after(attached->loop, HELLO_NS, hello_timer, attached);
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

static void on_connect(void *arg, int fd, uint32_t events)
{
	struct attached *attached = arg;
	int sock = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int size = 1 << 20, err;

	(void)events;
	if (sock < 0)
		return;
	/* Room for the ZAPs of a round over scattered memory. */
	setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	err = attached->connection_count < CONNECTIONS_MAX ? connection_new(attached, sock) : -EUSERS;
	if (err) {
		log_warn("a process cannot attach: %s", strerror(-err));
		close(sock);
	}
}

/* --- life --------------------------------------------------------------------------------------------------- */

static int listen_at(struct attached *attached)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int len;

	len = snprintf(attached->path, sizeof(attached->path), "%s/%s", attached->config.run_dir, TIERFS_ATTACH_SOCKET);
	if (len < 0 || (size_t)len >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, attached->path, (size_t)len + 1);
	attached->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (attached->listener < 0)
		return -errno;
	unlink(attached->path); /* of a daemon that was killed; the pool's lock says that it is gone */
	if (bind(attached->listener, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ||
	    chmod(attached->path, 0666) < 0 || listen(attached->listener, 64) < 0)
		return -errno;
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
	TAILQ_INIT(&attached->connections);
	TAILQ_INIT(&attached->orphans);
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
	err = loop_new(&attached->loop);
	if (err)
		goto err;
	err = map_table_new(config->tier, config->fault_workers ? config->fault_workers : WORKERS_DEFAULT,
			    &attached->table);
	if (err)
		goto err;
	err = listen_at(attached);
	if (err)
		goto err;
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
	return map_table_count(attached->table);
}

void attached_stop(struct attached *attached)
{
	struct connection *connection;
	struct link *link;

	if (!attached)
		return;
	if (attached->thread_runs) {
		loop_stop(attached->loop);
		pthread_join(attached->thread, NULL);
	}
	loop_unwatch(attached->watch);
	while ((connection = TAILQ_FIRST(&attached->connections)))
		drop_connection(connection);
	while ((link = TAILQ_FIRST(&attached->orphans))) {
		TAILQ_REMOVE(&attached->orphans, link, link);
		end_mapping(attached, link->mapping);
		free(link);
	}
	map_table_free(attached->table);
	if (attached->listener >= 0) {
		close(attached->listener);
		unlink(attached->path);
	}
	if (attached->uffd_device >= 0)
		close(attached->uffd_device);
	loop_free(attached->loop);
	free(attached);
}
