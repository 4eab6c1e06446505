/* map/attached_keep.c - the keeper (front/keeper.h) gets a copy of each userfaultfd, and of what holds the arena, with
 * what a later daemon needs. */
#include "map/attached_keep.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

uint64_t attached_keep_started(pid_t pid)
{
	char path[64], text[1024], *at;
	unsigned long long started = 0;
	CLEANUP_CLOSE int fd = -1;
	ssize_t got;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (got < 0)
		return 0;
	text[got] = '\0';
	at = strrchr(text, ')'); /* the name of the program may have anything in it */
	/* The 22nd field; the second has just ended. */
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	return at && sscanf(at, "%llu", &started) == 1 ? started : 0;
}

void attached_keep(struct attached *attached, struct mapping *mapping)
{
	struct kept_mapping kept = { .id = mapping->id,
				     .ino = mapping->ino,
				     .pid = mapping->pid,
				     .started = attached_keep_started(mapping->pid) };
	uint64_t behind = mapping->id - mapping->mapper.holder;
	struct segment segment[MAPPING_SEGMENTS_MAX];
	unsigned int segments;

	if (!attached->config.keep)
		return;
	/* One of which that cannot be said is a stranger to the next daemon, until its process comes back. */
	kept.behind = behind <= UINT32_MAX ? (uint32_t)behind : 0;
	lock_get(&mapping->lock);
	segments = mapping->segments;
	memcpy(segment, mapping->segment, segments * sizeof(segment[0]));
	lock_put(&mapping->lock);
	attached->config.forget(attached->config.keep_arg, mapping->id);
	for (unsigned int i = 0; i < segments; i++) {
		kept.addr = segment[i].addr;
		kept.length_bytes = segment[i].length;
		kept.offset = segment[i].offset;
		attached->config.keep(attached->config.keep_arg, &kept, mapping->uffd);
	}
	kept.addr = kept.length_bytes = kept.offset = 0;
	if (segments && mapping->arena_fd >= 0)
		attached->config.keep(attached->config.keep_arg, &kept, mapping->arena_fd);
}
