/* Mappings that an earlier daemon left. Their processes may have lost their own userfaultfds, or the way to the socket
 * (a change of root): faults are resolved all the same, through the copies that somebody kept. Until the process comes
 * back by itself it is like one whose agent is gone: its memory works, and stays resident. */
#include "map/attached_left.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/kept.h"
#include "engine/mappers.h"
#include "map/attached_end.h"
#include "map/attached_keep.h"
#include "map/mapping_ops.h"
#include "map/uffd.h"
#include "mem/arena.h"
#include "names/names.h"

static int open_process(const struct kept_mapping *kept, struct mapping_spec *spec)
{
	struct stat owner;
	char path[64];

	spec->pidfd = (int)syscall(SYS_pidfd_open, kept->pid, 0);
	if (spec->pidfd < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)kept->pid);
	spec->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (spec->pagemap < 0 || fstat(spec->pagemap, &owner) < 0)
		return -errno;
	spec->uid = owner.st_uid;
	/* All are of the process that mapped the file if it is that one still. */
	return attached_keep_started(kept->pid) == kept->started ? 0 : -ESRCH;
}

/* One of them, until it is done with. */
struct left {
	struct chore chore;
	struct attached *attached;
	struct kept_mapping kept;
	uint64_t id;
	int uffd;
	int arena_fd;      /* -1: nothing holds the arena */
	struct link *link; /* NULL: it cannot be gone on with */
	TAILQ_ENTRY(left) next;
};

static int add(struct attached *attached, struct mapping_spec *spec, struct link **ret)
{
	struct link *link = calloc(1, sizeof(*link));
	int err = link ? uffd_register(spec->uffd, spec->segment.addr, spec->segment.length) : -ENOMEM;

	if (!err)
		err = mapping_ops_new(spec, &link->mapping);
	if (err) {
		free(link);
		return err;
	}
	spec->uffd = spec->pagemap = spec->arena_fd = -1;
	err = map_table_add(attached->table, link->mapping);
	if (err) {
		mapping_free(link->mapping);
		free(link);
		return err;
	}
	mapping_wake_all(link->mapping);
	*ret = link;
	return 0;
}

/* Also of one that nothing holds the arena for: its daemon was older, or somebody closed it. */
static int hold(struct mapping_spec *spec)
{
	return spec->arena_fd >= 0 ? arena_hold(spec->arena_fd, spec->holder)
				   : mappers_hold_arena(spec->file, spec->holder, &spec->arena_fd);
}

/* The process does not map the file any more, so nobody holds it for that. A file without a name may have stayed for
 * it. After any other error the arena stays held, until another daemon comes: the process may write to it. */
static void let_go(struct attached *attached, const struct mapping_spec *spec, int err)
{
	struct ramfile *file;

	if (spec->arena_fd < 0 || (err != -ESRCH && err != -EINVAL && err != -ENOENT))
		return;
	arena_let_go(spec->arena_fd);
	if (!ns_open(attached->config.ns, spec->ino, &file))
		ns_put(attached->config.ns, spec->ino);
}

/* Takes the descriptors. */
static int take(struct left *left)
{
	struct attached *attached = left->attached;
	const struct kept_mapping *kept = &left->kept;
	struct mapping_spec spec = {
		.id = left->id,
		.holder = kept->id - kept->behind,
		.ino = kept->ino,
		.pid = kept->pid,
		.segment = { .addr = kept->addr, .length = kept->length_bytes, .offset = kept->offset },
		.block_bytes = engine_block_bytes(attached->config.engine),
		.uffd = left->uffd,
		.arena_fd = left->arena_fd,
		.pagemap = -1,
		.pidfd = -1,
		.sock = -1,
		.peers = map_table_peers(attached->table),
		.engine = attached->config.engine,
		.users = attached->users,
		.is = MAPPING_LEFT,
	};
	int err = open_process(kept, &spec);

	if (!err)
		err = ns_open(attached->config.ns, kept->ino, &spec.file);
	if (!err) {
		err = hold(&spec);
		if (!err)
			err = add(attached, &spec, &left->link);
		if (err)
			ns_put(attached->config.ns, kept->ino);
	}
	if (spec.uffd >= 0)
		close(spec.uffd);
	if (spec.pagemap >= 0)
		close(spec.pagemap);
	if (spec.pidfd >= 0)
		close(spec.pidfd);
	let_go(attached, &spec, err);
	return err;
}

/* On a chore's thread: a large file takes its time to load, and others do not wait for it. */
static void go(void *arg)
{
	struct left *left = arg;
	int err = take(left);

	if (err && err != -ESRCH)
		log_error("file %llu: the mapping of process %d cannot be gone on with: %s",
			  (unsigned long long)left->kept.ino, (int)left->kept.pid, strerror(-err));
}

static void done(void *arg)
{
	struct left *left = arg;
	struct attached *attached = left->attached;

	if (left->link) {
		attached_keep(attached, left->link->mapping);
		attached_late_orphan(attached, left->link);
	}
	attached->left_count--;
	free(left);
}

/* Their numbers are taken before anybody else takes one. Two parts of a mapping have one there, and one each here. */
void attached_take_left(struct attached *attached)
{
	TAILQ_HEAD(, left) all = TAILQ_HEAD_INITIALIZER(all);
	struct kept_mapping kept;
	struct left *left, *other;
	int uffd, arena_fd;

	while (attached->config.left && attached->config.left(attached->config.keep_arg, &kept, &uffd, &arena_fd)) {
		left = calloc(1, sizeof(*left));
		if (!left) {
			log_error("file %llu: no memory for the mapping of process %d", (unsigned long long)kept.ino,
				  (int)kept.pid);
			close(uffd); /* the arena stays held */
			continue;
		}
		left->attached = attached;
		left->kept = kept;
		left->uffd = uffd;
		left->arena_fd = arena_fd;
		left->id = kept.id;
		left->chore = (struct chore){ .go = go, .done = done, .arg = left };
		if (kept.id >= attached->next_id)
			attached->next_id = kept.id + 1;
		TAILQ_INSERT_TAIL(&all, left, next);
	}
	TAILQ_FOREACH(left, &all, next) {
		for (other = TAILQ_FIRST(&all); other != left && other->id != left->id;)
			other = TAILQ_NEXT(other, next);
		if (other != left)
			left->id = attached->next_id++;
	}
	while ((left = TAILQ_FIRST(&all))) {
		TAILQ_REMOVE(&all, left, next);
		attached->left_count++;
		chores_send(attached->chores, &left->chore);
	}
}
