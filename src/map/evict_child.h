/* map/evict_child.h - the processes behind evict.h, and what is said between them. Private to evict*.c.
 *
 * The daemon has two children in a row. The spawner does nothing but fork workers, at the daemon's word, so that a
 * worker can be replaced when the daemon has threads and must not fork any more. The worker does the work.
 *
 * daemon -> spawner: one byte, with the worker's end of a socketpair; back: the worker's process id or -errno, an int.
 * daemon -> worker: struct evict_request; back: struct evict_reply. One message each, over SOCK_SEQPACKET. The end of a
 * connection ends the process at its other side.
 */
#pragma once

#include <limits.h>

#include "map/evict.h"

#define EVICT_PAGE 4096U
#define EVICT_MEASURE_BLOCKS_MAX 65536U

enum evict_op {
	EVICT_OP_OUT = 1,
	EVICT_OP_DROP,
	EVICT_OP_MEASURE,
};

struct evict_request {
	uint32_t op;
	uint32_t count; /* ranges, or blocks */
	uint64_t dev, ino;
	uint64_t offset, block_bytes; /* of a measurement */
	struct evict_range ranges[EVICT_RANGES_MAX];
	char path[PATH_MAX]; /* empty: none */
};

struct evict_reply {
	int err; /* 0 or -errno */
	struct evict_summary summary;
	union {
		struct evict_answer answers[EVICT_RANGES_MAX];
		struct {
			uint64_t cached_bytes;
			uint8_t bitmap[EVICT_MEASURE_BLOCKS_MAX / 8];
		} measured;
	};
};

/* What the spawner does, from fork() on. fd: its end of the connection; parent: who must be alive. */
_Noreturn void evict_child_spawner(int fd, pid_t parent);

/* 0, -ENOSYS, or what else keeps this process from calling cachestat(2). */
int evict_child_probe(void);
