/* front/control.h - the control socket of one mount: what tierctl talks to.
 *
 * RUN_DIR/control.sock, SOCK_STREAM, one JSON object a line in both directions (docs/format/control.md). Anybody may
 * connect; a request is allowed by a token from TIERFS_IOC_INFO, or because the peer is root. One thread accepts, and
 * one serves each connection (CONTROL_CLIENTS_MAX at most); none of them holds a lock while it works or talks.
 *
 * A client that goes away cancels what it asked for; so does control_stop(). Neither waits for longer than the engine
 * takes to call a progress function again.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/listener.h"
#include "cold/store.h"
#include "front/door.h"
#include "names/names.h"
#include "policy/tiering.h"
#include "pool/token.h"

#define CONTROL_CLIENTS_MAX 16
#define CONTROL_LINE_MAX 65536

struct control;

/* Value of a mount option as text. -ENOENT: there is no such option; -ENOBUFS: cap is too small. */
typedef int control_option_fn(void *arg, const char *name, char *buf, size_t cap);
/* Name of the index-th option, NULL beyond the last. */
typedef const char *control_option_name_fn(void *arg, size_t index);

struct control_config {
	struct engine *engine; /* borrowed, as all of these: they outlive the control socket */
	struct ns *ns;
	struct token_table *tokens;
	struct store *store;
	struct door_counts *counts; /* may be NULL */
	uint64_t warm_bytes;        /* what "dram" counts besides the budget of blocks */
	const char *run_dir;        /* copied, as the other strings */
	const char *mountpoint;
	const char *pool;
	control_option_fn *option;           /* what "get" answers besides dram and min_idle; may be NULL */
	control_option_name_fn *option_name; /* may be NULL */
	void *option_arg;
	const struct listener_keeper *keeper; /* of the socket, for control_start(); may be NULL */
};

/* Listens (front/server.h) and starts to answer. 0 or -errno. */
int control_start(const struct control_config *config, struct control **ret);
/* Cancels what runs, ends the threads, removes the socket. Takes NULL. */
void control_stop(struct control *control);
