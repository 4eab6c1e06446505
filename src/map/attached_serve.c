/* Requests of the attach socket: HELLO, OPEN, MAP, RESUME, UNMAP, DISCARD, ADVISE, ZAPPED. Each is answered once, but
 * ZAPPED, which is an answer. A request that cannot be done is answered by ERROR, and the connection goes on.
 *
 * OPEN brings a token, and is answered by a descriptor of the arena and one of /dev/userfaultfd, so that an
 * unprivileged process can make a userfaultfd. MAP brings that: the process's pagemap is opened, the range registered
 * for missing and write-protect faults, and the holder's byte locked in the arena's open file description
 * (mem/arena.h). Then the mapper joins its file, which waits until no batch is at work: a batch does not know the
 * newcomer and has not protected it. Resident blocks become generation 0, with their age as a guess (mem/heat.h). Last
 * the userfaultfd joins the epoll sets of the fault workers. */
#include "map/attached_serve.h"

#include "map/attached_end.h"
#include "map/attached_keep.h"
#include "map/mapping_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <tierfs/protocol.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "engine/attach.h"
#include "engine/interrupt.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/write.h"
#include "map/uffd.h"
#include "mem/arena.h"
#include "names/names.h"
#include "pool/token.h"

#define TEXT_OF_(x) #x
#define TEXT_OF(x) TEXT_OF_(x)
#define PAGE 4096U
#define GRANTS_MAX 256
#define NUMBERS_TRIED 8

/* --- answers ------------------------------------------------------------------------------------------------ */

static int answer(struct connection *connection, struct tierfs_msg *msg, uint64_t seq, const int *fds, int fd_count)
{
	msg->seq = seq;
	return wire_send(connection->sock, msg, fds, fd_count);
}

int attached_answer_error(struct connection *connection, uint64_t seq, int err, const char *text)
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

/* --- requests ----------------------------------------------------------------------------------------------- */

static struct link *find_link(struct connection *connection, uint64_t id)
{
	struct link *link;

	LOCK_SCOPE(&connection->attached->lock);
	TAILQ_FOREACH(link, &connection->mappings, link)
		if (link->mapping->id == id)
			return link;
	return NULL;
}

static int do_hello(struct connection *connection, struct wire_packet *packet)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_WELCOME };

	if (packet->msg.u.hello.abi_version != TIERFS_ABI_VERSION)
		return -EPROTO;
	connection->greeted = true;
	msg.u.welcome.abi_version = TIERFS_ABI_VERSION;
	msg.u.welcome.block_bytes = engine_block_bytes(connection->attached->config.engine);
	return answer(connection, &msg, packet->msg.seq, NULL, 0);
}

static void grant_free(struct grant *grant)
{
	if (grant->fd >= 0)
		close(grant->fd);
	free(grant);
}

static void forget_grant(struct connection *connection, struct grant *grant)
{
	TAILQ_REMOVE(&connection->grants, grant, link);
	connection->grant_count--;
	grant_free(grant);
}

static struct grant *find_grant(struct connection *connection, uint64_t ino)
{
	struct grant *grant, *found = NULL;

	TAILQ_FOREACH(grant, &connection->grants, link)
		if (grant->ino == ino)
			found = grant;
	return found;
}

static uint64_t take_id(struct attached *attached)
{
	LOCK_SCOPE(&attached->lock);

	return attached->next_id++;
}

/* The caller closes *ret_fd if the grant has another one. */
static int open_grant(struct connection *connection, const struct token_grant *token, struct grant *grant,
		      struct tierfs_msg *msg, int *ret_fd)
{
	struct attached *attached = connection->attached;
	const struct attached_through *through = &attached->config.through;
	struct ramfile *file;
	int err = ns_open(attached->config.ns, token->ino, &file);

	if (err)
		return err;
	err = mappers_arena_fd(file, true, &grant->fd);
	msg->u.arena.size_bytes = file_memory_bytes(file);
	ns_put(attached->config.ns, token->ino);
	*ret_fd = grant->fd;
	if (err || !through->can || !through->can(through->arg))
		return err;
	msg->u.arena.features |= TIERFS_FEATURE_THROUGH;
	err = -EIO;
	/* A number that is used still, since before the daemon was restarted, would be that. */
	for (int i = 0; err == -EIO && i < NUMBERS_TRIED; i++) {
		grant->holder = take_id(attached);
		err = through->open(through->arg, grant->fd, token->ino, grant->holder, ret_fd);
	}
	if (!err)
		return 0;
	/* The mount point leads elsewhere, or somebody keeps its root locked: nobody is refused for that. */
	log_warn("file %llu: no door to the arena can be opened (%s): process %d is given the arena, which is watched",
		 (unsigned long long)token->ino, strerror(-err), (int)connection->pid);
	msg->u.arena.features &= ~TIERFS_FEATURE_THROUGH;
	grant->holder = 0;
	*ret_fd = grant->fd;
	return 0;
}

/* *ret_fd is the grant's, or, if through, the caller's. */
static int grant_arena(struct connection *connection, const struct token_grant *token, struct tierfs_msg *msg,
		       int *ret_fd)
{
	struct grant *grant = calloc(1, sizeof(*grant));
	int err;

	if (!grant)
		return -ENOMEM;
	grant->fd = -1;
	msg->u.arena.features = TIERFS_FEATURE_ADVISE;
	err = open_grant(connection, token, grant, msg, ret_fd);
	if (err) {
		grant_free(grant);
		return err;
	}
	while (find_grant(connection, token->ino)) /* one at a time: the last OPEN counts */
		forget_grant(connection, find_grant(connection, token->ino));
	if (connection->grant_count == GRANTS_MAX)
		forget_grant(connection, TAILQ_FIRST(&connection->grants));
	grant->ino = token->ino;
	TAILQ_INSERT_TAIL(&connection->grants, grant, link);
	connection->grant_count++;
	msg->u.arena.ino = token->ino;
	msg->u.arena.rights = token->rights;
	return 0;
}

static int do_open(struct connection *connection, struct wire_packet *packet)
{
	struct tierfs_msg msg = { .type = TIERFS_MSG_ARENA };
	struct token_grant token;
	int fds[2];
	int err;

	if (connection->attached->config.refuse)
		return attached_answer_error(connection, packet->msg.seq, -EBUSY, "the mount has map=plain");
	err = token_redeem(connection->attached->config.tokens, packet->msg.u.open.token, &token);
	if (err)
		return attached_answer_error(connection, packet->msg.seq, err,
					     "the token was never given out, is used up or expired");
	/* The kernel registers only memory that may become writable with userfaultfd. */
	if (!(token.rights & TIERFS_RIGHT_WRITE))
		return attached_answer_error(connection, packet->msg.seq, -EACCES,
					     "the file is not open for writing, which an attached mapping needs");
	err = grant_arena(connection, &token, &msg, &fds[0]);
	if (err)
		return attached_answer_error(connection, packet->msg.seq, err, "the file's memory cannot be shared");
	fds[1] = connection->attached->uffd_device;
	err = answer(connection, &msg, packet->msg.seq, fds, 2);
	if (msg.u.arena.features & TIERFS_FEATURE_THROUGH)
		close(fds[0]);
	return err;
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

/* What a process showed or was given of an arena. */
struct shown {
	struct ramfile *file;
	uint64_t ino;
	uint64_t holder; /* 0: fd is made one */
	int fd;          /* an open file description of the arena */
};

/* Takes over the file's reference, the descriptor stays the caller's, uffd is taken from the packet on success. */
static int make_mapping(struct connection *connection, struct wire_packet *packet, int uffd_index,
			const struct shown *shown, struct mapping **ret)
{
	struct attached *attached = connection->attached;
	const struct tierfs_msg *msg = &packet->msg;
	struct mapping_spec spec = {
		.id = take_id(attached),
		.ino = shown->ino,
		.through = shown->holder != 0,
		.pid = connection->pid,
		.file = shown->file,
		.segment = { .addr = msg->u.map.addr, .length = msg->u.map.length_bytes, .offset = msg->u.map.offset },
		.block_bytes = engine_block_bytes(attached->config.engine),
		.uffd = packet->fds[uffd_index],
		.pidfd = connection->pidfd,
		.sock = connection->sock,
		.peers = map_table_peers(attached->table),
		.engine = attached->config.engine,
		.users = attached->users,
		.uid = connection->uid,
		.is = uffd_index ? MAPPING_RESUMED : MAPPING_NEW,
	};
	CLEANUP_CLOSE int pagemap = -1, arena_fd = -1;
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
	spec.holder = shown->holder ? shown->holder : spec.id;
	if (shown->fd >= 0)
		err = arena_hold(shown->fd, spec.holder);
	/* Whatever the process closes of what it was given. */
	if (!err)
		err = mappers_hold_arena(shown->file, spec.holder, &arena_fd);
	if (err)
		return err;
	spec.pagemap = pagemap;
	spec.arena_fd = arena_fd;
	err = mapping_ops_new(&spec, ret);
	if (err)
		return err;
	packet->fds[uffd_index] = -1;
	(void)STEAL_FD(pagemap);
	(void)STEAL_FD(arena_fd);
	err = map_table_add(attached->table, *ret);
	if (err) {
		mapping_free(*ret);
		return err;
	}
	return 0;
}

static int refuse_range(struct connection *connection, uint64_t seq, int err)
{
	char why[TIERFS_TEXT_MAX] = "the range cannot be mapped";

	if (err == -EUSERS)
		snprintf(why, sizeof(why), "the user has %" PRIu64 " mappings, which is the limit (uid_maps)",
			 users_most(connection->attached->users, USERS_MAPPING));
	return attached_answer_error(connection, seq, err == -EUSERS ? -EMFILE : err, why);
}

static int link_mapping(struct connection *connection, struct mapping *mapping, uint64_t seq)
{
	struct link *link = calloc(1, sizeof(*link));

	if (!link) {
		attached_end_mapping(connection->attached, mapping);
		return attached_answer_error(connection, seq, -ENOMEM, "no memory for the mapping");
	}
	link->mapping = mapping;
	lock_get(&connection->attached->lock);
	TAILQ_INSERT_TAIL(&connection->mappings, link, link);
	lock_put(&connection->attached->lock);
	attached_keep(connection->attached, mapping);
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
	struct shown shown = { .ino = ino };
	struct mapping *mapping;
	int err;

	if (!grant || packet->fd_count != 1)
		return -EPROTO;
	if (connection->mapping_count >= TIERFS_MAPPINGS_MAX)
		return attached_answer_error(connection, packet->msg.seq, -EMFILE,
					     "the process has " TEXT_OF(
						     TIERFS_MAPPINGS_MAX) " mappings, which is the limit");
	shown.fd = grant->fd;
	shown.holder = grant->holder;
	err = ns_open(attached->config.ns, ino, &shown.file);
	if (!err) {
		err = check_range(&packet->msg, file_memory_bytes(shown.file));
		if (!err) {
			attach_await_close(shown.file);
			err = make_mapping(connection, packet, 0, &shown, &mapping);
		}
		if (err)
			ns_put(attached->config.ns, ino);
	}
	forget_grant(connection, grant);
	if (err)
		return refuse_range(connection, packet->msg.seq, err);
	return link_mapping(connection, mapping, packet->msg.seq);
}

/* Of which arena a descriptor is; either kind, whichever is given out now. */
static int find_shown(struct attached *attached, int fd, struct shown *shown)
{
	const struct attached_through *through = &attached->config.through;
	int err;

	*shown = (struct shown){ .fd = fd };
	if (!through->find || through->find(through->arg, fd, &shown->ino, &shown->holder) < 0)
		return ns_open_by_arena(attached->config.ns, fd, &shown->ino, &shown->file);
	shown->fd = -1; /* the kernel has it */
	err = ns_open(attached->config.ns, shown->ino, &shown->file);
	if (!err && !mappers_is_held_by(shown->file, shown->holder)) {
		ns_put(attached->config.ns, shown->ino);
		err = -ENOENT;
	}
	return err;
}

static int do_resume(struct connection *connection, struct wire_packet *packet)
{
	struct attached *attached = connection->attached;
	struct mapping *mapping;
	struct shown shown;
	int err;

	if (packet->fd_count != 2)
		return -EPROTO;
	if (connection->mapping_count >= TIERFS_MAPPINGS_MAX)
		return attached_answer_error(connection, packet->msg.seq, -EMFILE,
					     "the process has " TEXT_OF(
						     TIERFS_MAPPINGS_MAX) " mappings, which is the limit");
	err = find_shown(attached, packet->fds[0], &shown);
	if (err)
		return attached_answer_error(connection, packet->msg.seq, err,
					     "the descriptor is not the arena of a file of this mount");
	err = check_range(&packet->msg, file_memory_bytes(shown.file));
	if (!err)
		err = make_mapping(connection, packet, 1, &shown, &mapping);
	if (err) {
		ns_put(attached->config.ns, shown.ino);
		return refuse_range(connection, packet->msg.seq, err);
	}
	/* Whoever waits for an answer that the former daemon owed touches its page again and brings a new event. */
	uffd_wake(mapping->uffd, packet->msg.u.map.addr, packet->msg.u.map.length_bytes);
	err = link_mapping(connection, mapping, packet->msg.seq);
	/* One whose connection is dropped from here on finds its successor. */
	attached_end_predecessor(attached, connection->pid, packet->msg.u.map.addr);
	return err;
}

static int do_unmap(struct connection *connection, struct wire_packet *packet)
{
	struct link *link = find_link(connection, packet->msg.u.part.map_id);
	int left;

	if (!link)
		return attached_answer_error(connection, packet->msg.seq, -ENOENT,
					     "there is no mapping with this number");
	left = mapping_cut(link->mapping, packet->msg.u.part.where, packet->msg.u.part.length_bytes);
	if (left < 0)
		return attached_answer_error(connection, packet->msg.seq, left,
					     "the mapping would be cut into too many pieces");
	if (left)
		attached_keep(connection->attached, link->mapping);
	else {
		lock_get(&connection->attached->lock);
		TAILQ_REMOVE(&connection->mappings, link, link);
		lock_put(&connection->attached->lock);
		connection->mapping_count--;
		attached_end_mapping(connection->attached, link->mapping);
		free(link);
	}
	return answer_done(connection, packet->msg.seq, 0);
}

/* The others would wait as well: a part of a block that is away cannot be discarded. */
static bool do_not_wait(void *arg)
{
	(void)arg;
	return true;
}

static int do_discard(struct connection *connection, struct wire_packet *packet)
{
	struct link *link = find_link(connection, packet->msg.u.part.map_id);
	uint64_t offset = packet->msg.u.part.where, length = packet->msg.u.part.length_bytes;
	int err;

	if (!link)
		return attached_answer_error(connection, packet->msg.seq, -ENOENT,
					     "there is no mapping with this number");
	if (offset % PAGE || length % PAGE || offset + length < offset)
		return attached_answer_error(connection, packet->msg.seq, -EINVAL, "a discard must be whole pages");
	interrupt_on(do_not_wait, NULL);
	err = ramfile_discard(link->mapping->file, offset, length);
	interrupt_on(NULL, NULL);
	if (err)
		return attached_answer_error(connection, packet->msg.seq, err, "the range cannot be discarded");
	return answer_done(connection, packet->msg.seq, 0);
}

static int do_advise(struct connection *connection, struct wire_packet *packet)
{
	struct link *link = find_link(connection, packet->msg.u.advise.map_id);
	uint64_t offset = packet->msg.u.advise.offset, length = packet->msg.u.advise.length_bytes;

	if (!link)
		return attached_answer_error(connection, packet->msg.seq, -ENOENT,
					     "there is no mapping with this number");
	if (offset + length < offset)
		return attached_answer_error(connection, packet->msg.seq, -EINVAL, "the range makes no sense");
	mapping_advise(link->mapping, offset, length);
	return answer_done(connection, packet->msg.seq, 0);
}

static int do_zapped(struct connection *connection, struct wire_packet *packet)
{
	struct link *link;

	/* Called by who the connection belongs to: nobody else changes the list. */
	TAILQ_FOREACH(link, &connection->mappings, link)
		if (mapping_ops_zapped(link->mapping, packet->msg.seq))
			break;
	return 0;
}

bool attached_is_quick(const struct connection *connection, const struct wire_packet *packet)
{
	switch ((enum tierfs_msg_type)packet->msg.type) {
	case TIERFS_MSG_OPEN:
	case TIERFS_MSG_MAP:
	case TIERFS_MSG_RESUME:
	case TIERFS_MSG_UNMAP:
	case TIERFS_MSG_DISCARD:
		return !connection->greeted;
	case TIERFS_MSG_HELLO:
	case TIERFS_MSG_ADVISE:
	case TIERFS_MSG_ZAPPED:
	case TIERFS_MSG_WELCOME:
	case TIERFS_MSG_ARENA:
	case TIERFS_MSG_DONE:
	case TIERFS_MSG_ZAP:
	case TIERFS_MSG_ERROR:
		break;
	}
	return true;
}

int attached_serve(struct connection *connection, struct wire_packet *packet)
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
	case TIERFS_MSG_ADVISE:
		return do_advise(connection, packet);
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
