/* map/peers.h - the processes into whose address spaces the daemon reaches, and what becomes of a thread that does not
 * come back from there.
 *
 * Most calls on a userfaultfd or a pagemap take the lock of the process's address space (mmap_lock), and the process
 * can keep that lock for as long as it likes: an mmap() of a file whose server does not answer is enough. The thread
 * that calls then sleeps in the kernel, and nothing wakes it. So there are two ways to call:
 *
 *  - Threads of which there are several, and that can be replaced, go themselves: peer_enter(), the call, peer_leave().
 *    A watch sees who is late. The process is then stalled, and another thread is started in the place of the late one.
 *  - All others send an arm: peer_call(). They wait until the deadline and no longer.
 *
 * While a process is stalled nobody enters it, and calls are refused at once. A late call may still do its work: it is
 * undone before the process counts as recovered. Who is often slow without being late is refused as well, so that all
 * its mappings together cost a thread that serves others a small part of its time.
 *
 * Thread-safety: all but new and free. Locks: none may be held across peer_enter() to peer_leave() and peer_call().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct peers;
struct peer;

/* A call is late after this. */
#define PEERS_LATE_NS (100 * NS_PER_MS)

/* The last late call into the process came back: what waits in it shall try again. */
typedef void peers_recovered_fn(void *arg, struct peer *peer);

int peers_new(peers_recovered_fn *recovered, void *arg, struct peers **ret);
void peers_free(struct peers *peers); /* no peer may be left. Takes NULL */

/* The one of the process; each get has its put. pidfd is duplicated, once for all mappings of the process; -1: none. */
int peers_get(struct peers *peers, pid_t pid, int pidfd, struct peer **ret);
/* Of the process, for as long as the peer is had; -1: none. */
int peer_pidfd(const struct peer *peer);
void peers_put(struct peer *peer); /* takes NULL */
bool peer_stalled(const struct peer *peer);

/* --- threads that can be replaced --- */

/* late: the thread is late, and another one shall take its place. Else it is back. Called from any thread, without a
 * lock. */
typedef void peers_replace_fn(void *arg, bool late);
/* The calling thread may enter from now on. replace may be NULL. Nothing if it may already. -ENOMEM. */
int peers_enlist(struct peers *peers, peers_replace_fn *replace, void *arg);
bool peers_enlisted(const struct peers *peers);
/* False: stalled; do not go, and do not leave. */
bool peer_enter(struct peer *peer);
void peer_leave(struct peer *peer);

/* --- all others --- */

struct peer_errand {
	int (*go)(struct peer_errand *errand);
	/* After a late go: takes back what it did, and frees the errand. */
	void (*late)(struct peer_errand *errand);
};

/* What go says. -EBUSY: nothing was done, and will not be. -ETIMEDOUT: it is late; the errand is not the caller's any
 * more. */
int peer_call(struct peer *peer, struct peer_errand *errand);
