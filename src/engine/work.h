/* engine/work.h - the working memory of one thread inside the engine: a codec, what makes identities, one raw block,
 * one encoded value.
 *
 * Taken for the time of an operation and given back, so that the engine holds as many as there are threads at work.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"
#include "cold/codec.h"
#include "cold/mac.h"
#include "cold/use.h"

struct work {
	struct work *next;
	enum store_use use; /* what is read of the store with it */
	struct codec *codec;
	struct mac *mac;     /* of the pool */
	struct codec *quick; /* LZ4, once work_quick() was called: for what does not live long */
	uint8_t *raw;        /* block_bytes, page aligned */
	uint8_t *value;      /* codec_bound() */
	size_t value_cap;
	uint8_t *run; /* WORK_RUN_BYTES, page aligned, once work_run() was called: some blocks in a row */
};

#define WORK_RUN_BYTES (256U << 10)

/* What a batch of blocks is read to, and encoded to. */
struct work_batch {
	struct work_batch *next;
	uint64_t bytes;
	uint8_t *raw;    /* of each block block_bytes, page aligned */
	uint8_t *values; /* of each block codec_bound() */
};

struct work_pool {
	struct lock lock;
	struct work *idle;    /* under lock */
	uint32_t block_bytes; /* immutable */
	int level;            /* immutable, and so is the next */
	uint8_t secret[MAC_KEY_BYTES];
	uint64_t made;            /* under lock: how many exist */
	uint64_t batch_bytes;     /* under lock: of all batches that exist */
	struct work_batch *spare; /* under lock: megabytes that each demotion would else get from the kernel */
	unsigned int spares;      /* under lock: how many */
	unsigned int most_spares; /* immutable once the pool is used */
};

void work_pool_init(struct work_pool *pool, uint32_t block_bytes, int level,
		    const uint8_t secret[static MAC_KEY_BYTES]);
void work_pool_fini(struct work_pool *pool);

int work_get(struct work_pool *pool, enum store_use use, struct work **ret); /* -ENOMEM */
int work_run(struct work *work);                                             /* makes work->run. -ENOMEM */
int work_quick(struct work *work, uint32_t block_bytes);                     /* makes work->quick. -ENOMEM */
void work_put(struct work_pool *pool, struct work *work);                    /* takes NULL */
/* For so many blocks, each time the same number. One that is given back is kept for the next caller, up to most_spares.
 * -ENOMEM */
int work_batch_get(struct work_pool *pool, size_t blocks, struct work_batch **ret);
void work_batch_put(struct work_pool *pool, struct work_batch *batch); /* takes NULL */
uint64_t work_pool_bytes(struct work_pool *pool);
