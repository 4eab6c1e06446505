/* front/server.h - a Unix socket on which each connection has a thread of its own.
 *
 * The accepting thread owns the slots of clients: it starts their threads and joins those that are done. Some of the
 * slots are kept for root, which must get in when users hold the rest, and no other user gets more than half of those.
 * server_stop() shuts every conversation down and waits for its thread, so what a client is served with must end soon
 * when `stopping` is set or the connection breaks.
 */
#pragma once

#include <stdatomic.h>
#include <sys/types.h>

#include "base/listener.h"

struct server;

/* One conversation, on the thread of the client; fd stays the server's. */
typedef void server_serve_fn(void *arg, int fd, uid_t uid, const atomic_bool *stopping);
/* Tells a client why it is not served. */
typedef void server_refuse_fn(void *arg, int fd, int err, const char *why);

#define SERVER_CLIENTS_MAX 64

struct server_config {
	const char *run_dir, *name;                /* of the socket; copied */
	int type;                                  /* SOCK_STREAM or SOCK_SEQPACKET */
	unsigned int clients;                      /* at a time, at most SERVER_CLIENTS_MAX */
	unsigned int clients_of_root;              /* so many of them are root's alone */
	const char *accept_thread, *client_thread; /* names, at most 15 characters */
	server_serve_fn *serve;
	server_refuse_fn *refuse;
	void *arg;
	const struct listener_keeper *keeper; /* for server_start(); NULL: the socket ends with us */
};

/* Listens (base/listener.h) and starts to answer. 0 or -errno. */
int server_start(const struct server_config *config, struct server **ret);
/* Ends the conversations and the threads, removes the socket. Takes NULL. */
void server_stop(struct server *server);
