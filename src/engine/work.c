#include "engine/work.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096

void work_pool_init(struct work_pool *pool, uint32_t block_bytes, int level, const uint8_t secret[static MAC_KEY_BYTES])
{
	*pool = (struct work_pool){ .block_bytes = block_bytes, .level = level, .most_spares = 1 };
	memcpy(pool->secret, secret, sizeof(pool->secret));
	lock_init(&pool->lock, LOCK_RANK_WORK);
}

static void work_free(struct work *work)
{
	if (!work)
		return;
	codec_free(work->codec);
	codec_free(work->quick);
	mac_free(work->mac);
	free(work->raw);
	free(work->value);
	free(work->run);
	free(work);
}

static void batch_free(struct work_batch *batch)
{
	if (!batch)
		return;
	free(batch->raw);
	free(batch->values);
	free(batch);
}

void work_pool_fini(struct work_pool *pool)
{
	while (pool->spare) {
		struct work_batch *batch = pool->spare;

		pool->spare = batch->next;
		batch_free(batch);
	}
	while (pool->idle) {
		struct work *work = pool->idle;

		pool->idle = work->next;
		work_free(work);
	}
	lock_fini(&pool->lock);
	explicit_bzero(pool->secret, sizeof(pool->secret));
}

static int work_new(const struct work_pool *pool, struct work **ret)
{
	struct work *work = calloc(1, sizeof(*work));

	if (!work)
		return -ENOMEM;
	work->value_cap = codec_bound(pool->block_bytes);
	work->raw = aligned_alloc(PAGE, pool->block_bytes);
	work->value = malloc(work->value_cap);
	if (!work->raw || !work->value || codec_new(pool->block_bytes, pool->level, &work->codec) ||
	    mac_new(MAC_POOL, pool->secret, &work->mac)) {
		work_free(work);
		return -ENOMEM;
	}
	*ret = work;
	return 0;
}

int work_run(struct work *work)
{
	if (!work->run)
		work->run = aligned_alloc(PAGE, WORK_RUN_BYTES);
	return work->run ? 0 : -ENOMEM;
}

int work_quick(struct work *work, uint32_t block_bytes)
{
	return work->quick ? 0 : codec_new(block_bytes, 0, &work->quick);
}

int work_get(struct work_pool *pool, enum store_use use, struct work **ret)
{
	struct work *work;
	int err;

	lock_get(&pool->lock);
	work = pool->idle;
	if (work)
		pool->idle = work->next;
	lock_put(&pool->lock);
	if (work) {
		work->use = use;
		*ret = work;
		return 0;
	}
	err = work_new(pool, ret);
	if (err)
		return err;
	(*ret)->use = use;
	lock_get(&pool->lock);
	pool->made++;
	lock_put(&pool->lock);
	return 0;
}

void work_put(struct work_pool *pool, struct work *work)
{
	if (!work)
		return;
	lock_get(&pool->lock);
	work->next = pool->idle;
	pool->idle = work;
	lock_put(&pool->lock);
}

static int batch_new(const struct work_pool *pool, size_t blocks, struct work_batch **ret)
{
	struct work_batch *batch = calloc(1, sizeof(*batch));

	if (!batch)
		return -ENOMEM;
	batch->bytes = blocks * (pool->block_bytes + codec_bound(pool->block_bytes));
	batch->raw = aligned_alloc(PAGE, blocks * pool->block_bytes);
	batch->values = malloc(blocks * codec_bound(pool->block_bytes));
	if (!batch->raw || !batch->values) {
		batch_free(batch);
		return -ENOMEM;
	}
	*ret = batch;
	return 0;
}

int work_batch_get(struct work_pool *pool, size_t blocks, struct work_batch **ret)
{
	int err;

	lock_get(&pool->lock);
	*ret = pool->spare;
	if (*ret) {
		pool->spare = (*ret)->next;
		pool->spares--;
	}
	lock_put(&pool->lock);
	if (*ret)
		return 0;
	err = batch_new(pool, blocks, ret);
	if (err)
		return err;
	lock_get(&pool->lock);
	pool->batch_bytes += (*ret)->bytes;
	lock_put(&pool->lock);
	return 0;
}

void work_batch_put(struct work_pool *pool, struct work_batch *batch)
{
	if (!batch)
		return;
	lock_get(&pool->lock);
	if (pool->spares < pool->most_spares) {
		batch->next = pool->spare;
		pool->spare = batch;
		pool->spares++;
		batch = NULL;
	} else {
		pool->batch_bytes -= batch->bytes;
	}
	lock_put(&pool->lock);
	batch_free(batch);
}

uint64_t work_pool_bytes(struct work_pool *pool)
{
	LOCK_SCOPE(&pool->lock);

	return pool->made * (pool->block_bytes + codec_bound(pool->block_bytes)) + pool->batch_bytes;
}
