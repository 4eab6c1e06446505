/* map/mapping.c - the life of an attached mapping, and what of the file it covers. See mapping.h. */
#include "map/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "map/events.h"

static int count(const struct mapping_spec *spec, struct mapping *mapping)
{
	static const unsigned int times[] = { [MAPPING_NEW] = 1, [MAPPING_RESUMED] = 2, [MAPPING_LEFT] = 0 };
	int err;

	if (!spec->users)
		return 0;
	err = users_take(spec->users, spec->uid, USERS_MAPPING, times[spec->is]);
	if (err)
		return err;
	mapping->users = spec->users;
	mapping->uid = spec->uid;
	return 0;
}

int mapping_new(const struct mapping_spec *spec, struct mapping **ret)
{
	struct mapping *mapping = calloc(1, sizeof(*mapping));
	int err;

	if (!mapping)
		return -ENOMEM;
	mapping->uffd = mapping->pagemap = mapping->sock = mapping->arena_fd = -1;
	lock_init(&mapping->lock, LOCK_RANK_MAPPING);
	err = count(spec, mapping);
	if (!err && spec->sock >= 0) {
		mapping->sock = fcntl(spec->sock, F_DUPFD_CLOEXEC, 0);
		err = mapping->sock < 0 ? -errno : 0;
	}
	if (!err)
		err = peers_get(spec->peers, spec->pid, spec->pidfd, &mapping->peer);
	if (err) {
		mapping_free(mapping);
		return err;
	}
	mapping->mapper = (struct mapper){ .holder = spec->holder, .through = spec->through };
	mapping->id = spec->id;
	mapping->pid = spec->pid;
	mapping->main_tid = events_main_thread(spec->pid);
	mapping->ino = spec->ino;
	mapping->file = spec->file;
	mapping->uffd = spec->uffd;
	mapping->pagemap = spec->pagemap;
	mapping->arena_fd = spec->arena_fd;
	mapping->peers = spec->peers;
	mapping->engine = spec->engine;
	mapping->block_bytes = spec->block_bytes;
	mapping->segment[0] = spec->segment;
	mapping->segments = 1;
	mapping->refs = 1;
	*ret = mapping;
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void mapping_free(struct mapping *mapping)
{
	if (!mapping)
		return;
	close_fd(mapping->uffd);
	close_fd(mapping->pagemap);
	close_fd(mapping->sock);
	close_fd(mapping->arena_fd);
	peers_put(mapping->peer);
	if (mapping->users)
		users_give(mapping->users, mapping->uid, USERS_MAPPING);
	lock_fini(&mapping->lock);
	free(mapping);
}

int mapping_offset(struct mapping *mapping, uint64_t addr, uint64_t *ret_offset)
{
	LOCK_SCOPE(&mapping->lock);

	for (unsigned int i = 0; i < mapping->segments; i++) {
		const struct segment *segment = &mapping->segment[i];

		if (addr >= segment->addr && addr - segment->addr < segment->length) {
			*ret_offset = segment->offset + (addr - segment->addr);
			return 0;
		}
	}
	return -ENOENT;
}

void mapping_orphan(struct mapping *mapping)
{
	LOCK_SCOPE(&mapping->lock);

	if (mapping->sock >= 0)
		close(mapping->sock);
	mapping->sock = -1;
	mapping->round_ends = false;
}
