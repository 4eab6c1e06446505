/* front/fuse.h - the mount: FUSE requests in, answers out. The only part that knows libfuse.
 *
 * A session may take over the mount of a daemon that was killed or replaced: it is given the descriptor of the
 * connection and the kernel's first request (front/keeper.h), and has the kernel send again what was not answered
 * (front/resent.h).
 *
 * One session for each daemon. fusedoor_run() serves in the calling thread's name with a pool of worker threads, until
 * the mount is gone.
 */
#pragma once

#include <stdbool.h>

#include "front/door.h"
#include "front/session.h"
#include "front/through.h"

struct fusedoor;

typedef void fusedoor_ready_fn(void *arg);
/* Sees to it that the session can go on without us. */
typedef void fusedoor_keep_fn(void *arg, const struct session *session);

struct fusedoor_config {
	struct door door;       /* copied */
	const char *mountpoint; /* canonical; borrowed, as the rest */
	const char *source;     /* what mount(8) shows: the pool's directory */
	bool allow_other;
	struct through *through;     /* NULL: no passthrough */
	const struct session *taken; /* what goes on; NULL: a new mount */
	fusedoor_keep_fn *keep;      /* called once with a new mount's session, before it is answered; may be NULL */
	void *keep_arg;
	fusedoor_ready_fn *on_ready; /* called once, on a worker thread, when the kernel has said hello */
	void *on_ready_arg;
};

/* Mounts; or takes the session over, whose descriptor is the fusedoor's then, even on failure. 0, or -errno after one
 * line was logged. */
int fusedoor_new(const struct fusedoor_config *config, struct fusedoor **ret);
/* Serves until the mount is gone or fusedoor_quit() was called. */
int fusedoor_run(struct fusedoor *door);
/* From any thread: takes the mount away. What has files open goes on being served, and fusedoor_run() with it. */
void fusedoor_unmount(struct fusedoor *door);
/* From any thread: ends fusedoor_run() now; who has files open gets ENOTCONN. */
void fusedoor_quit(struct fusedoor *door);
void fusedoor_free(struct fusedoor *door); /* unmounts if that is still to be done; takes NULL */
