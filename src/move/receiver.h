/* move/receiver.h - puts a stream into a RAM file.
 *
 * Where it goes. FILE is either what it was, or whole and new: what comes is put together in FILE.partial, which takes
 * its name at the end. A stream that builds on what FILE has (DELTA) makes FILE itself the partial one, by renaming it.
 * After a failure FILE.partial stays, and is what the next transfer goes on from. In place (a machine that waits for
 * its memory has FILE mapped) there is no other name, and after a failure FILE is in pieces.
 *
 * Cold blocks go straight into the store with their age, resident ones into DRAM while the budget has room. Belongs to
 * one thread. 0 or -errno, and why for a person.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "move/channel.h"
#include "move/progress.h"
#include "move/source.h"
#include "stream/reader.h"
#include "stream/writer.h"

#define RECEIVER_WHY_LEN 512

/* A request that is being collected, or under way. */
struct receiver_batch {
	struct receiver_payload {
		const void *bytes; /* in the shared buffer */
		uint32_t length_bytes;
		uint8_t generation, tier;
	} * payload; /* of each record, and its age: an answer says what the block has */
	size_t count;
	bool sent;
};

struct receiver {
	/* What is asked for. */
	const char *path;
	struct channel *channel;
	struct progress *progress;
	bool in_place;
	/* Results. */
	struct stream_header header;
	struct stream_totals totals;
	uint64_t stream_bytes, total_ns, rounds;
	uint64_t dram_blocks, store_blocks; /* where blocks went */
	bool delta, post_copy;              /* post_copy: what is away is to be brought (rest.h) */
	uint64_t away_blocks;
	char why[RECEIVER_WHY_LEN];
	/* Inside. */
	char partial[PATH_MAX];
	struct source target;
	bool target_open;
	bool fresh;               /* the target had no content: what is not written is a hole */
	bool reblocks;            /* of another block size: values are decoded and written as bytes */
	struct tierfs_ident *has; /* what the target has now: of the list, and then as the stream said */
	uint64_t has_count;
	struct tierfs_ident stamp;
	uint8_t base_key[STREAM_KEY_BYTES]; /* of the list */
	struct tierfs_ident base_ident;     /* and its identity */
	uint64_t part;
	uint64_t done_blocks;
	struct receiver_batch batch[SOURCE_HANDLES];
	unsigned int turn;   /* the batch that is being collected */
	struct codec *codec; /* of the stream's block size, if that is another */
	uint8_t *raw_block;
	struct reader *reader;
	struct writer *answer;
};

/* Takes the whole stream. On a channel that goes both ways it says first what is there, and at last how it went. */
int receiver_run(struct receiver *receiver);
void receiver_fini(struct receiver *receiver);
