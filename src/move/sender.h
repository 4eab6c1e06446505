/* move/sender.h - sends the blocks of a RAM file: the cold ones as they lie in the store, then the resident ones, the
 * youngest first; of a running machine then in rounds what changed meanwhile. docs/format/stream.md.
 *
 * Nothing is promoted and no generation changes. Belongs to one thread. 0 or -errno, and why for a person.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "move/channel.h"
#include "move/progress.h"
#include "move/source.h"
#include "stream/reader.h"
#include "stream/writer.h"

#define SENDER_WHY_LEN 512

/* Called when all but the last round is there: the machine must not run any more when it returns 0. */
typedef int sender_pause_fn(void *arg, char why[static SENDER_WHY_LEN]);

struct sender {
	/* What is asked for. */
	struct source *source;
	struct channel *channel;
	struct progress *progress; /* may be NULL */
	bool cold_only;
	bool live;
	bool post_copy;       /* of what is cold, only identities and ages; the rest comes later (rest.h) */
	uint64_t downtime_ns; /* of a live one: the last round shall fit into this */
	sender_pause_fn *pause;
	void *pause_arg;
	/* What the receiver has, of its list, and then of what it was sent; NULL: nothing. And the list's key and
	 * identity. */
	struct tierfs_ident *base;
	uint8_t base_key[STREAM_KEY_BYTES];
	struct tierfs_ident base_ident;
	/* Results. */
	uint64_t cold_blocks, resident_blocks, hole_blocks, skipped_blocks,
		away_blocks; /* blocks may count more than once in rounds */
	uint64_t rounds;
	uint64_t stream_bytes, total_ns;
	uint64_t paused_ns, stop_ns;        /* stop_ns: what pausing it took, a part of paused_ns */
	uint64_t round_bytes, round_blocks; /* of the last round */
	char why[SENDER_WHY_LEN];
	/* Inside. */
	struct writer *writer;
	struct source_table table;
	struct tierfs_ident *sent; /* what the receiver has now, as this pool knows it */
	uint64_t *list;            /* blocks of the part that is being made */
	uint64_t list_count;
	uint64_t part, hole_at;
	struct tierfs_ident stamp;
	uint64_t done_blocks;
};

/* Takes a list; one of a file of another size or block size counts as nothing (base stays NULL). */
int sender_take_list(struct sender *sender, struct reader *reader);
/* Sends everything, and an ABORT if that fails. If the receiver can answer, it is first asked what it has, and at last
 * how it went. */
int sender_talk(struct sender *sender);
void sender_fini(struct sender *sender);
