/* map/mapping.h - one attached mapping: a userfaultfd, the addresses that it covers, and the calls of engine/mapper.h
 * on it.
 *
 * A mapping is made by the server thread, is in the table while it is usable, and is freed when its last reference
 * goes. References: the table's own, one for each fault worker that resolves an event of it, and one for each call into
 * its process that another thread makes for the engine (map/peers.h). The segments change
 * (munmap of a part) under the mapping's lock; everything else is immutable.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "base/lock.h"
#include "engine/mapper.h"
#include "engine/ramfile.h"
#include "map/peers.h"
#include "map/still.h"
#include "map/turns.h"
#include "map/uffd.h"
#include "map/users.h"
#include "names/names.h"

#define MAPPING_SEGMENTS_MAX 64

struct segment {
	uint64_t addr, length, offset; /* bytes; offset in the file */
};

/* A fault that was read. */
struct mapping_event {
	uint64_t addr, arrived_ns;
	enum uffd_event_kind kind;
	bool urgent; /* of the process's main thread */
};

/* In the order in which they came (map/events.h). */
#define MAPPING_EVENTS_MAX 64U
struct mapping_events {
	unsigned int count, urgent; /* of those, urgent ones */
	unsigned int reserved;      /* room for what is being read */
	struct mapping_event event[MAPPING_EVENTS_MAX];
};

struct mapping {
	struct mapper mapper; /* first: struct mapper * is struct mapping * */
	uint64_t id;
	pid_t pid;
	pid_t main_tid; /* of the main thread, as the process has it; 0: not known */
	uint64_t ino;
	struct ramfile *file; /* open by ns_open() for the mapping's life */
	int uffd, pagemap;
	int arena_fd; /* holds the arena for as long as the mapping is known; -1: it does not */
	int sock;     /* the agent; -1 once it is gone. Under lock */
	uint32_t block_bytes;
	struct engine *engine;
	struct peers *peers;
	struct peer *peer;   /* its process */
	struct users *users; /* whose mapping it is; NULL: it does not count */
	uid_t uid;
	struct map_table *table; /* once it is in there */

	struct lock lock;
	struct segment segment[MAPPING_SEGMENTS_MAX]; /* under lock */
	unsigned int segments;                        /* under lock */
	uint64_t next_zap;                            /* under lock: seq of the next ZAP */
	uint64_t zaps_out;                            /* under lock: ZAPs that are not acknowledged */
	uint64_t round;                               /* under lock: the zap round at work */
	bool round_ends;                              /* under lock: all ZAPs of the round were sent */
	struct still still;                           /* under lock */
	_Atomic bool stands_still;                    /* it did when it was asked last */

	_Atomic unsigned int unblocked; /* how often it had to be made not to block */

	struct mapping_events events;      /* under lock */
	_Atomic uint64_t faults, favoured; /* that were served; that counted for more than others */

	unsigned int refs; /* under the table's lock */
	struct turn turn;  /* under the table's lock: its place among those who wait for a worker */
};

struct mapping_spec {
	uint64_t id, ino;
	uint64_t holder; /* its number in the arena */
	bool through;    /* the process has no descriptor of the arena */
	pid_t pid;
	struct segment segment;
	struct ramfile *file;
	uint32_t block_bytes;
	int uffd, pagemap; /* taken over on success */
	int arena_fd;      /* the same; see mapping */
	int pidfd, sock;   /* duplicated. sock -1: no agent */
	struct peers *peers;
	struct engine *engine;
	struct users *users; /* may be NULL */
	uid_t uid;
	/* A resumed one may have the one before beside it, so there may be twice as many; one that was left counts,
	 * whatever the user may have. */
	enum { MAPPING_NEW, MAPPING_RESUMED, MAPPING_LEFT } is;
};

/* Without calls: mapping_ops_new() gives it some. -EUSERS: the user has as many as he may. */
int mapping_new(const struct mapping_spec *spec, struct mapping **ret);
void mapping_free(struct mapping *mapping); /* takes NULL; closes, does not touch the file */

/* Where an address lies in the file. -ENOENT: not in this mapping (any more). */
int mapping_offset(struct mapping *mapping, uint64_t addr, uint64_t *ret_offset);
/* Where it begins. */
uint64_t mapping_addr(struct mapping *mapping);
/* The process unmaps the range. Returns the number of segments that are left; -E2BIG: it would be cut in too many
 * pieces. */
int mapping_cut(struct mapping *mapping, uint64_t addr, uint64_t length);
/* The agent is gone: no ZAP will be sent or acknowledged. */
void mapping_orphan(struct mapping *mapping);
/* The process would have huge pages in this range of the file; length 0: nowhere. */
void mapping_advise(struct mapping *mapping, uint64_t offset, uint64_t length);
/* True if the address space still exists. */
bool mapping_alive(const struct mapping *mapping);
/* Everything that waits in it shall try again. */
void mapping_wake_all(struct mapping *mapping);
