/* client/client_conn.h - the connection to one daemon: its states, and the packets that go over it.
 *
 *   FREE --find--> DOWN --connect--> HELLO --WELCOME--> RESUMING --all answered--> UP
 *                   ^                  |                   |                        |
 *                   +---- error, end of file, late answer, broken rule -------------+
 *
 * DOWN tries again by itself, every 10 ms at first and every 500 ms at last, as long as ranges or waiting requests need
 * the connection; then it becomes FREE. RESUMING has nothing to do on the first connection and passes at once. Requests
 * are sent in UP only, by the post if the socket has room, else by the agent.
 *
 * Everything here needs the agent's lock (client_agent.h), and nothing here waits or allocates. The descriptor of a
 * connection is in the library's own table. It is opened, read and closed by the agent thread alone, so that it may
 * read without the lock.
 */
#pragma once

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include <tierfs/protocol.h>

#include "wire/wire.h"

#define CLIENT_CONN_MAX 16
#define CLIENT_CONN_ZAPPED_MAX 64

/* One request and its answer; lives on the stack of the thread that waits. */
struct client_call {
	/* The request: OPEN (token), MAP (ino, addr, length, offset, uffd_fd), UNMAP (map_id, addr, length), DISCARD
	 * (addr, length), ADVISE (map_id, offset, length). */
	enum tierfs_msg_type type;
	uint8_t token[TIERFS_TOKEN_LEN];
	uint64_t ino;
	uintptr_t addr;
	size_t length_bytes;
	uint64_t offset;
	uint64_t map_id;
	int uffd_fd;
	/* The answer. */
	uint64_t size_bytes;        /* OPEN */
	uint32_t rights;            /* OPEN */
	uint32_t features;          /* OPEN */
	int arena_fd;               /* OPEN; the caller's */
	int device_fd;              /* OPEN; the caller's; -1: the daemon has none to give */
	char text[TIERFS_TEXT_MAX]; /* the daemon's words, if the result is an error */
	/* The agent's. */
	TAILQ_ENTRY(client_call) link;
	uint64_t seq;
	bool sent;
	int err;
	uint32_t done; /* futex */
};

enum client_conn_state { CLIENT_CONN_FREE, CLIENT_CONN_DOWN, CLIENT_CONN_HELLO, CLIENT_CONN_RESUMING, CLIENT_CONN_UP };

/* Why something cannot be locked: what it came to (uint64_t), and the limit (uint64_t). */
#define CLIENT_LOCK_WHY \
	"%" PRIu64 " bytes would be locked, and %" PRIu64 " are the most (three eighths of the mount's dram=)"

#define CLIENT_LOCK_PIECES "too many pieces are locked already that do not touch"

TAILQ_HEAD(client_call_list, client_call);

struct client_conn {
	char run_dir[TIERFS_RUN_DIR_LEN];
	enum client_conn_state state;
	int fd;
	bool attaching; /* a thread is between its OPEN and its MAP: one at a time */
	uint64_t next_seq;
	uint64_t when_ns; /* DOWN: next attempt; HELLO, RESUMING: deadline; UP: when to ask again for refused ranges, 0
			     never */
	uint64_t delay_ns;
	uint64_t failures; /* attempts and connections that ended */
	int err;           /* of the last failure */
	bool want_out;     /* the socket was full */
	bool untold;       /* some range is LOST, or its advice was not passed on */
	struct client_call_list calls;
	uint64_t zapped[CLIENT_CONN_ZAPPED_MAX]; /* answers to ZAP that are to be sent */
	unsigned int zapped_count;
	uint32_t generation; /* futex: counts changes */
	uint64_t dram_bytes; /* the mount's budget, as far as known; 0: not */
	/* Calls of the program that are under way are about to lock so much, and to bring so much into DRAM. */
	uint64_t locking_bytes, populating_bytes;
};

extern struct client_conn client_conns[CLIENT_CONN_MAX];

/* The connection to the daemon of run_dir; one in DOWN if there was none. NULL: too many. */
struct client_conn *client_conn_find(const char *run_dir);

/* How much of this daemon's memory the program may have locked, or bring into DRAM at once. */
uint64_t client_conn_lock_max(const struct client_conn *conn);
uint64_t client_conn_populate_max(const struct client_conn *conn);

/* Whether the peer of a socket may be the daemon: root, or this user. Any FUSE filesystem answers the ioctl as it
 * likes, and may name the directory of another daemon. Where a filter does not allow to ask, the path has to do, below
 * which only root makes sockets. */
bool client_conn_is_trusted(int fd);

/* Queues a request; the post sends it. False: it is settled already, with call->err. */
bool client_conn_start_call(struct client_conn *conn, struct client_call *call);

/* Tells those that wait for a change of the connection or of its ranges. */
void client_conn_changed(struct client_conn *conn);

/* --- for the library's threads --- */

/* What time brings: attempts, deadlines. */
void client_conn_step(struct client_conn *conn, uint64_t now_ns);
/* Sends whatever waits, as far as the socket has room. */
void client_conn_flush(struct client_conn *conn);
void client_conn_on_packet(struct client_conn *conn, struct wire_packet *packet);
/* The connection ended, or an attempt did. err: -EPROTO if the daemon speaks another version, -EPERM if it is not to
 * be trusted. */
void client_conn_fail(struct client_conn *conn, int err);
/* The working directory of the library's threads is TIERFS_RUN_ROOT, or is not. */
void client_conn_stand(bool in_run_root);
/* In a child of fork(), which has none of the descriptors. */
void client_conn_forget(void);
