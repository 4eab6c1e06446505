/* front/access.h - access.sock: cold access for programs that hold an open descriptor of a RAM file.
 *
 * docs/format/access.md says what is sent. Each connection has a thread (front/server.h), one file and one buffer that
 * it shares with its client; engine/access.h does the work. Nothing that a client sends or writes into the buffer is
 * trusted.
 */
#pragma once

#include <stdatomic.h>
#include <sys/types.h>

#include "base/listener.h"
#include "names/names.h"
#include "pool/token.h"

struct access_server;

struct access_config {
	struct ns *ns; /* borrowed, as the tokens */
	struct token_table *tokens;
	const char *run_dir;                  /* copied */
	const struct listener_keeper *keeper; /* of the socket, for access_start(); may be NULL */
};

int access_start(const struct access_config *config, struct access_server **ret);
/* Ends the calls that are under way, at their next block. Takes NULL. */
void access_stop(struct access_server *server);

/* A conversation on a socket, until it ends: for the server, and for tests. */
void access_serve(const struct access_config *config, int fd, uid_t uid, const atomic_bool *stopping);
