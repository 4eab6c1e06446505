/* front/service.h - the service manager that started the daemon, if one did: what it is told, and what it keeps.
 *
 * The protocol is the one of systemd, documented in sd_notify(3) and sd_listen_fds(3), which others speak as well: text
 * in datagrams to $NOTIFY_SOCKET, descriptors beside it, and what was kept comes back as descriptors from 3 on, with
 * $LISTEN_PID, $LISTEN_FDS and $LISTEN_FDNAMES.
 *
 * It keeps two for us: the connection to the kernel ("tierfs-fuse"), and a memfd that says whose it is and holds the
 * kernel's first request ("tierfs-init"). It passes both to the next daemon of the service, after a crash or a restart,
 * and closes them when the service is stopped. Whether it has room for them (FileDescriptorStoreMax=) it does not say.
 * It keeps the sockets on which we listen as well, under the names of their files, and gets them after the two, which
 * matter more.
 *
 * All are at fixed numbers in this process, from 3 on, from service_new() on: so a program that replaces this one finds
 * them in the same way.
 */
#pragma once

#include "front/session.h"

struct service;

#define SERVICE_FUSE_NAME "tierfs-fuse"
#define SERVICE_INIT_NAME "tierfs-init"

/* Looks at the environment. *ret is NULL if no service manager waits to hear from this process; descriptors that were
 * meant for us are closed then. To be called before anything is opened. */
int service_new(struct service **ret);

/* 0: a session of this pool and mount point, which is there, goes on. -ENOENT: there is none. What the service manager
 * kept and is not that was let go by both, and one line says why. */
int service_find(struct service *service, const char *run_dir, const char *mountpoint);
/* After service_find(): which one it is for who takes it. */
uint32_t service_session(const struct service *service);

/* Hands over a session. Nobody says whether it arrived. */
int service_keep(struct service *service, const char *run_dir, const char *mountpoint, const struct session *session);
/* After service_find(): the session that goes on. The descriptor is the caller's. */
int service_take(struct service *service, struct session *ret);

/* A socket that an earlier daemon listened on: the caller's. -1: none. It is not trusted. */
int service_take_listener(const struct service *service, const char *name);
/* Hands over a socket, at the latest with the session. One of that name which was kept is let go. */
void service_keep_listener(struct service *service, const char *name, int fd);

/* A state of sd_notify(3), lines with \n between. */
void service_tell(struct service *service, const char *state);

/* What the next program of this process shall find, or, if there is none after all, not. */
int service_pass_on(struct service *service);
void service_pass_nothing(struct service *service);

/* The service manager forgets what it keeps. */
void service_release(struct service *service);
void service_free(struct service *service); /* takes NULL */
