/* client/client_agent.h - the connections to daemons, the requests on them, and the agent thread that serves both.
 *
 * One connection for each daemon (runtime directory), one thread for all. The thread reads every packet: it zaps what a
 * daemon asks for, hands answers to the threads that wait for them, and when a daemon dies it comes back to its
 * successor with every range (RESUME). It never gives a range up: memory whose daemon is gone waits for the next one.
 *
 * The lock taken by client_agent_enter() guards all of this and client_range. Signals are blocked and cancellation is off while it
 * is held; nothing is allocated, and no other lock is taken, so that a wrapper of munmap may be called from anywhere.
 */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include <tierfs/protocol.h>

struct client_agent_conn;

struct client_agent_guard {
	sigset_t signals;
	int cancel_state;
};

/* One request and its answer; lives on the stack of the thread that waits. */
struct client_agent_call {
	/* The request: OPEN (token), MAP (ino, addr, length, offset, uffd_fd), UNMAP (map_id, addr, length), DISCARD (addr, length). */
	enum tierfs_msg_type type;
	uint8_t token[TIERFS_TOKEN_LEN];
	uint64_t ino;
	uintptr_t addr;
	size_t length_bytes;
	uint64_t offset;
	uint64_t map_id;
	int uffd_fd;
	/* The answer. */
	uint64_t size_bytes;    /* OPEN */
	uint32_t rights;        /* OPEN */
	int arena_fd;           /* OPEN; the caller's */
	int device_fd;          /* OPEN; the caller's; -1: the daemon has none to give */
	char text[TIERFS_TEXT_MAX]; /* the daemon's words, if the result is an error */
	/* The agent's. */
	TAILQ_ENTRY(client_agent_call) link;
	uint64_t seq;
	bool sent;
	int result;
	uint32_t done;          /* futex */
};

/* Starts the thread if it does not run. Call without the lock. 0 or -errno. */
int client_agent_start(void);

void client_agent_enter(struct client_agent_guard *guard);
void client_agent_leave(struct client_agent_guard *guard);

/* The functions below need the lock and give it up while they wait. */

/* The connection to the daemon of run_dir, made if there is none. Each success needs a client_agent_put(). -ENOTCONN: nobody answers
 * there; -EPROTO: it speaks another version; -EMFILE: too many daemons. */
int client_agent_get(struct client_agent_guard *guard, const char *run_dir, struct client_agent_conn **ret);
void client_agent_put(struct client_agent_conn *conn);

/* Sends and waits for the answer: 0 or -errno. If the daemon dies meanwhile, OPEN and MAP fail with -ENOTCONN, UNMAP is done (nobody is left
 * who knows the range), DISCARD waits for the next daemon. */
int client_agent_call(struct client_agent_guard *guard, struct client_agent_conn *conn, struct client_agent_call *call);

/* Waits until something about the connection changed. */
void client_agent_wait(struct client_agent_guard *guard, struct client_agent_conn *conn);
/* Tells those that wait. */
void client_agent_changed(struct client_agent_conn *conn);
