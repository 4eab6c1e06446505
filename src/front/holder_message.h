/* front/holder_message.h - what daemon and holder say to each other (front/holder.h). Any thread; 0 or -errno. */
#pragma once

#include <limits.h>
#include <stdint.h>
#include <sys/types.h>

#include <tierfs/ioctl.h>

#include "front/session.h"

#define HOLDER_SOCKET "holder.sock"
#define HOLDER_VERSION 1

enum holder_type {
	HOLDER_KEEP = 1, /* daemon to holder, with the descriptor: run_dir, mountpoint, init */
	HOLDER_ASK,      /* daemon to holder: mountpoint */
	HOLDER_TAKE,     /* daemon to holder, after HOLDER_YES */
	HOLDER_BYE,      /* daemon to holder; no answer but the end */
	HOLDER_YES,      /* holder to daemon: pid; to HOLDER_TAKE with the descriptor, number and init */
	HOLDER_NO,       /* holder to daemon: there is nothing to take */
	HOLDER_BUSY,     /* holder to daemon: the daemon is alive */
	HOLDER_STASH, /* daemon to holder, no answer; holder to daemon: with the descriptor, struct kept_mapping in init
		       */
	HOLDER_UNSTASH, /* daemon to holder, no answer: the same, the id counts */
	HOLDER_FETCH, /* daemon to holder, on a connection of its own: answered by HOLDER_STASH for each, and HOLDER_NO
		       */
	HOLDER_LISTENER,  /* daemon to holder, no answer; holder to daemon: with the descriptor, the name in init */
	HOLDER_LISTENERS, /* as HOLDER_FETCH: answered by HOLDER_LISTENER for each, and HOLDER_NO */
};

struct holder_message {
	uint32_t version;
	uint32_t type; /* enum holder_type */
	uint32_t number;
	int32_t pid; /* the holder's */
	uint32_t init_len;
	uint8_t init[SESSION_INIT_MAX];
	char run_dir[TIERFS_RUN_DIR_LEN];
	char mountpoint[PATH_MAX];
};

#define HOLDER_NAME_MAX 64 /* of a socket, with its end */

/* The name in a HOLDER_LISTENER; NULL: there is none. */
const char *holder_message_listener(const struct holder_message *message);

/* fd -1: none. */
int holder_message_send(int conn, const struct holder_message *message, int fd);
/* Waits that long. *ret_fd is -1 if none came; texts are terminated and init_len is in its limit. -EPIPE: the other end
 * is closed. */
int holder_message_receive(int conn, int timeout_ms, struct holder_message *ret, int *ret_fd);
