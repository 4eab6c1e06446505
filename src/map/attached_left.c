/* Mappings that an earlier daemon left. Their processes may have lost their own userfaultfds, or the way to the socket
 * (a change of root): faults are resolved all the same, through the copies that somebody kept. Until the process comes
 * back by itself it is like one whose agent is gone: its memory works, and stays resident. */
#include "map/attached_left.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/kept.h"
#include "map/attached_end.h"
#include "map/attached_keep.h"
#include "map/mapping_ops.h"
#include "map/uffd.h"
#include "names/names.h"

/* Two parts of a mapping have one number there, and one each here. */
static uint64_t id_for(struct attached *attached, const struct kept_mapping *kept)
{
	struct link *link;

	LOCK_SCOPE(&attached->lock);
	if (kept->id >= attached->next_id)
		attached->next_id = kept->id + 1;
	TAILQ_FOREACH(link, &attached->orphans, link)
		if (link->mapping->id == kept->id)
			return attached->next_id++;
	return kept->id;
}

static int open_process(const struct kept_mapping *kept, struct mapping_spec *spec)
{
	char path[64];

	spec->pidfd = (int)syscall(SYS_pidfd_open, kept->pid, 0);
	if (spec->pidfd < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)kept->pid);
	spec->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (spec->pagemap < 0)
		return -errno;
	/* Both are of the process that mapped the file if it is that one still. */
	return attached_keep_started(kept->pid) == kept->started ? 0 : -ESRCH;
}

static int add(struct attached *attached, struct mapping_spec *spec)
{
	struct link *link = calloc(1, sizeof(*link));
	int err = link ? uffd_register(spec->uffd, spec->segment.addr, spec->segment.length) : -ENOMEM;

	if (!err)
		err = mapping_ops_new(spec, &link->mapping);
	if (err) {
		free(link);
		return err;
	}
	spec->uffd = spec->pagemap = -1;
	err = map_table_add(attached->table, link->mapping);
	if (err) {
		mapping_free(link->mapping);
		free(link);
		return err;
	}
	attached_orphan(attached, link);
	attached_keep(attached, link->mapping);
	mapping_wake_all(link->mapping);
	return 0;
}

/* Takes the descriptor. */
static int take(struct attached *attached, const struct kept_mapping *kept, int uffd)
{
	struct mapping_spec spec = {
		.id = id_for(attached, kept),
		.ino = kept->ino,
		.pid = kept->pid,
		.segment = { .addr = kept->addr, .length = kept->length_bytes, .offset = kept->offset },
		.block_bytes = engine_block_bytes(attached->config.engine),
		.uffd = uffd,
		.pagemap = -1,
		.pidfd = -1,
		.sock = -1,
		.peers = map_table_peers(attached->table),
		.engine = attached->config.engine,
	};
	int err = open_process(kept, &spec);

	if (!err)
		err = ns_open(attached->config.ns, kept->ino, &spec.file);
	if (!err) {
		err = add(attached, &spec);
		if (err)
			ns_put(attached->config.ns, kept->ino);
	}
	if (spec.uffd >= 0)
		close(spec.uffd);
	if (spec.pagemap >= 0)
		close(spec.pagemap);
	if (spec.pidfd >= 0)
		close(spec.pidfd);
	return err;
}

void attached_take_left(struct attached *attached)
{
	struct kept_mapping kept;
	int uffd;

	while (attached->config.left && attached->config.left(attached->config.keep_arg, &kept, &uffd)) {
		int err = take(attached, &kept, uffd);

		if (err && err != -ESRCH)
			log_error("file %llu: the mapping of process %d cannot be gone on with: %s",
				  (unsigned long long)kept.ino, (int)kept.pid, strerror(-err));
	}
}
