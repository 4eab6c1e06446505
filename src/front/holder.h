/* front/holder.h - a process that outlives the daemon, and keeps the mount alive for the next one.
 *
 * A FUSE connection lasts while somebody has its descriptor open. The holder has it, and the first request that the
 * kernel ever sent on it (INIT), without which a new session could not begin. When the daemon dies, requests wait in
 * the kernel; a successor asks the holder for both and goes on (front/fuse.c). The holder looks after one mount:
 *
 *  - The daemon ends on purpose: it says so, and the holder ends before it.
 *  - The daemon dies while the mount is there: the holder starts a new one, at most HOLDER_RESTARTS in
 *    HOLDER_RESTARTS_NS. It does not if the daemon ran in the foreground: somebody else watches it then.
 *  - Any daemon of root for the same pool and mount point may ask, while there is no other.
 *  - Nobody came within HOLDER_PATIENCE_NS, or the mount is gone: the holder closes the descriptor, and what waits in
 *    the kernel fails. It ends then, or when the last process is gone whose userfaultfd it keeps.
 *  - It keeps a copy of the userfaultfd of each attached mapping, and of the sockets on which the daemon listens. A
 *    daemon for the same pool that starts, wherever it mounts it, fetches them. Who connects meanwhile waits for it.
 *
 * They talk over RUN_DIR/holder.sock (or, before there is one, a socketpair): SOCK_SEQPACKET, one struct holder_message
 * each, mode 0600, peers of root only. The holder may be of an older version of tierfs than the daemon.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "engine/kept.h"
#include "front/session.h"

#define HOLDER_RESTARTS 5
#define HOLDER_RESTARTS_NS (10 * NS_PER_S)
#define HOLDER_PATIENCE_NS (60 * NS_PER_S)

struct holder;

struct holder_config {
	bool foreground;
	const char *program; /* what a new daemon is made of, as for execv(3) */
	char *const *argv;   /* of a daemon that takes over */
};

/* Forks a holder. There must be one thread. */
int holder_start(const struct holder_config *config, struct holder **ret);
/* Asks the holder that an earlier daemon left. 0: that daemon is dead, and the caller is its successor; ret_session is
 * the number of the session that holder_take() will say. -ENOENT: there is none; its mount is gone or, because it was
 * somewhere else, dead now. -EBUSY: that daemon is alive. */
int holder_find(const char *run_dir, const char *mountpoint, struct holder **ret, uint32_t *ret_session);

/* Of holder_start(): gives it a session. It goes on being the caller's, too. */
int holder_keep(struct holder *holder, const char *run_dir, const char *mountpoint, const struct session *session);
/* Of holder_find(): the session that goes on. The descriptor is the caller's. */
int holder_take(struct holder *holder, struct session *ret);

/* A copy of the userfaultfd of a mapping, or of what holds its arena (engine/kept.h), for the next daemon; and it is
 * over. Errors are logged. */
void holder_stash(struct holder *holder, const struct kept_mapping *mapping, int fd);
void holder_unstash(struct holder *holder, uint64_t id);
/* Calls fn for each of them that an earlier daemon of the pool left behind; the descriptor is fn's. -ENOENT: no holder;
 * -EBUSY: that daemon is alive. */
typedef void holder_fetched_fn(void *arg, const struct kept_mapping *mapping, int fd);
int holder_fetch(const char *run_dir, holder_fetched_fn *fn, void *arg);

/* The same of a socket that listens: name is that of its file. One of that name which was kept is let go. */
void holder_keep_listener(struct holder *holder, const char *name, int fd);
typedef void holder_listener_fn(void *arg, const char *name, int fd);
int holder_fetch_listeners(const char *run_dir, holder_listener_fn *fn, void *arg);

/* The mount is gone, or never was: the holder ends. Takes NULL. */
void holder_end(struct holder *holder);
