/* front/keeper.h - who keeps the mount alive while there is no daemon.
 *
 * A FUSE connection lasts while somebody has its descriptor open. That is the service manager which started the daemon
 * (front/service.h), or, where there is none, a process beside the daemon (front/holder.h). A daemon that starts asks
 * the keeper of an earlier one first, and takes over what goes on.
 *
 * One keeper for each daemon. keeper_has_mount() and keeper_exec() are for any thread, the rest for one at a time.
 */
#pragma once

#include <stdbool.h>

#include "base/listener.h"
#include "engine/kept.h"
#include "front/session.h"

struct keeper;

struct keeper_config {
	bool foreground;
	bool successor; /* started to take over, and for nothing else */
	const char *pool_dir, *mountpoint;
	const char *program; /* what a new daemon is made of, as for execv(3) */
	char *const *argv;   /* of a daemon that takes over */
};

/* Finds the session that an earlier daemon left, or prepares to keep a new one. To be called while there is one thread
 * and no other process of ours. config is borrowed. An error was logged; a mount that nobody can keep is none. */
int keeper_new(const struct keeper_config *config, struct keeper **ret);

/* The mount point (canonical) of a session that goes on; NULL: a mount is to be made. */
const char *keeper_takes_over(const struct keeper *keeper);
/* Of the daemon that calls: 0, and one more in each that took over. */
uint32_t keeper_session(const struct keeper *keeper);

/* Gives it a new session. It goes on being the caller's, too. What is refused was logged, and does without. */
void keeper_keep(struct keeper *keeper, const char *run_dir, const char *mountpoint, const struct session *session);
/* The session that goes on. The descriptor is the caller's. */
int keeper_take(struct keeper *keeper, struct session *ret);

/* A copy of the userfaultfd of a mapping, or of what holds its arena, for the next daemon, and the end of both. Any
 * thread. Where the service manager keeps the mount they are not kept. The first argument is a struct keeper *, as who
 * calls back does not know. */
void keeper_stash(void *keeper, const struct kept_mapping *mapping, int fd);
void keeper_unstash(void *keeper, uint64_t id);
/* Before anything is loaded that may go or be written over when nobody holds its arena: of mappings for which an
 * earlier daemon, of an older version, left nothing that does. */
void keeper_hold_arenas(struct keeper *keeper, int arena_dir);
/* The mappings that an earlier daemon left, once each: false when there is none. The descriptors are the caller's;
 * *ret_arena_fd -1: nothing holds its arena. */
bool keeper_next_mapping(void *keeper, struct kept_mapping *ret, int *ret_uffd, int *ret_arena_fd);

/* Of the sockets on which an earlier daemon listened, and of those for the next one. Either keeper keeps them. */
struct listener_keeper keeper_of_listeners(struct keeper *keeper);

/* The mount can be used; or it is on its way out, with a few words for people. */
void keeper_tell_ready(struct keeper *keeper);
void keeper_tell_leaving(struct keeper *keeper, const char *doing);

/* True: if this process ends now, another one may go on with the mount. */
bool keeper_has_mount(const struct keeper *keeper);
/* Replaces this process by the program, which takes over. Returns if that is impossible. */
int keeper_exec(struct keeper *keeper);

/* The mount is gone, or never was: nobody keeps anything any more. */
void keeper_release(struct keeper *keeper);
void keeper_free(struct keeper *keeper); /* after keeper_release(); takes NULL */
