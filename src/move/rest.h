/* move/rest.h - the second half of a post-copy: what was cold at the source goes to the target when it is wanted there,
 * and else one block after the other. docs/format/stream.md, "The rest".
 *
 * The target asks, the source answers; both ends may break off and begin again, on any connection, until nothing is
 * away. The source's file must not change meanwhile: what comes must have the identity that was said before. Each
 * belongs to one thread, and has one of its own beside it. 0 or -errno, and why for a person.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "move/channel.h"
#include "move/progress.h"
#include "move/source.h"

#define REST_WHY_LEN 512

/* Both ends count the same. */
struct rest_totals {
	uint64_t wanted_blocks, other_blocks; /* that somebody waited for; that went without being asked for */
	uint64_t gone_blocks;                 /* that the source could not read */
	uint64_t longest_ns; /* from when the target's daemon said that a block is wanted until it was there */
	uint64_t total_ns, stream_bytes;
};

struct rest_server {
	/* What is asked for. */
	struct source *source;
	struct channel *channel;
	/* Results. */
	struct rest_totals totals;
	char why[REST_WHY_LEN];
};

/* Answers until the other side has everything. */
int rest_serve(struct rest_server *server);

struct rest_fetcher {
	/* What is asked for. */
	const char *path;
	struct channel *channel;
	struct progress *progress;
	/* Results. */
	struct rest_totals totals;
	uint64_t left_bytes; /* after an error: still away */
	char why[REST_WHY_LEN];
};

/* Brings what is away of the file, until nothing is. A daemon that is replaced meanwhile is waited for. */
int rest_fetch(struct rest_fetcher *fetcher);
