/* map/attached.h - the daemon's side of attached mappings: attach.sock, userfaultfd events, and the agents.
 *
 * Protocol: tierfs/protocol.h. One server thread (event loop) talks to the agents; fault workers read userfaultfd
 * events and resolve them through engine/fault.h. A mapping lives as long as its agent connection; a process that
 * reconnects brings its mappings back with RESUME.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/listener.h"
#include "engine/kept.h"
#include "names/names.h"
#include "policy/tiering.h"
#include "pool/token.h"

struct attached;

/* How a process maps an arena without having a descriptor of it. */
struct attached_through {
	/* This way, and no other. Any thread. */
	bool (*can)(void *arg);
	/* A descriptor that maps the arena of that inode, and is good for nothing else. arena_fd: an open file
	 * description of the arena, which is held for as long as that descriptor is open anywhere. May wait for calls
	 * on the mount. */
	int (*open)(void *arg, int arena_fd, uint64_t ino, uint64_t holder, int *ret_fd);
	/* Of which inode and holder such a descriptor is. -ENOENT: it is none. */
	int (*find)(void *arg, int fd, uint64_t *ret_ino, uint64_t *ret_holder);
	void *arg;
};

struct attached_config {
	struct engine *engine; /* borrowed, like all below */
	struct ns *ns;
	struct token_table *tokens;
	const char *run_dir;                      /* attach.sock is here */
	bool refuse;                              /* map=plain: nobody attaches */
	bool quick;                               /* warm=: most values that faults need are in DRAM */
	uint64_t user_connections, user_mappings; /* of one user, but root, at most */
	struct attached_through through;          /* without calls: processes are given descriptors of arenas */

	/* Somebody who outlives the daemon keeps a copy of the userfaultfd, or of what holds the arena; and not any
	 * more. May be NULL. */
	void (*keep)(void *arg, const struct kept_mapping *mapping, int fd);
	void (*forget)(void *arg, uint64_t id);
	/* The mappings that an earlier daemon left, one a call. *ret_arena_fd holds the arena for it; -1: nothing does.
	 * May be NULL. */
	bool (*left)(void *arg, struct kept_mapping *ret, int *ret_uffd, int *ret_arena_fd);
	void *keep_arg;
	const struct listener_keeper *keeper; /* of the socket, for attached_start(); may be NULL */
};

int attached_start(const struct attached_config *config, struct attached **ret);
/* Mappings that exist now: an unmounted daemon goes on until this is 0. */
unsigned int attached_mappings(struct attached *attached);
/* Drops the connections and stops the threads. The processes keep their memory; their faults wait. Takes NULL. */
void attached_stop(struct attached *attached);
