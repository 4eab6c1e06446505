/* The tier of one mount as a whole: it comes and goes with its threads, settings, figures. */
#include "policy/tier.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/ahead.h"
#include "engine/crew.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/retry.h"
#include "engine/room.h"
#include "engine/work.h"
#include "policy/demoter.h"

/* The tier comes first: a pointer to it is one to both. */
struct whole {
	struct tier tier;
	struct demoter demoter;
};

/* --- life ------------------------------------------------------------------------------------------------- */

static int config_check(const struct tier_config *config)
{
	uint32_t block = config->block_bytes;

	if (block < PAGE_BYTES || block > 65536 || (block & (block - 1)))
		return -EINVAL;
	return config->dram_bytes >= 4ULL * block ? 0 : -EINVAL;
}

int tier_new(const struct tier_config *config, struct tier **ret)
{
	struct whole *whole;
	struct tier *tier;
	int err = config_check(config);

	if (err)
		return err;
	whole = calloc(1, sizeof(*whole));
	if (!whole)
		return -ENOMEM;
	tier = &whole->tier;
	tier->demoter = &whole->demoter;
	tier->config = *config;
	atomic_init(&tier->min_idle_ns, config->min_idle_ns);
	atomic_init(&tier->referenced_idle_ns, config->pins ? config->referenced_idle_ns : 0);
	budget_init(&tier->budget, config->dram_bytes);
	work_pool_init(&tier->works, config->block_bytes, config->level, config->secret);
	lock_init(&tier->lock, LOCK_RANK_TIER);
	lock_init(&tier->parked_lock, LOCK_RANK_BUDGET);
	lock_init(&tier->forget_lock, LOCK_RANK_STATS); /* a leaf */
	lock_cond_init(&tier->forgotten);
	lock_cond_init(&tier->unvisited);
	lock_cond_init(&tier->wakeup);
	lock_cond_init(&tier->room);
	lock_cond_init(&tier->squeeze);
	TAILQ_INIT(&tier->files);
	TAILQ_INIT(&tier->parked);
	if (config->run_demoter)
		err = crew_new(&tier->crew);
	if (config->run_demoter && !err)
		err = ahead_new(&tier->ahead);
	if (config->run_demoter && !err)
		err = retry_new(fault_serve, true, &tier->retry);
	if (config->run_demoter && !err) {
		err = -pthread_create(&tier->demoter->thread, NULL, demoter_run, tier);
		if (!err)
			pthread_setname_np(tier->demoter->thread, "tierfs-demoter");
		tier->thread_runs = !err;
	}
	if (err) {
		tier_free(tier);
		return err;
	}
	*ret = tier;
	return 0;
}

void tier_free(struct tier *tier)
{
	struct parked *parked;

	if (!tier)
		return;
	if (tier->thread_runs) {
		lock_get(&tier->parked_lock);
		tier->stopping = true;
		pthread_cond_signal(&tier->wakeup);
		lock_put(&tier->parked_lock);
		pthread_join(tier->demoter->thread, NULL);
	}
	crew_free(tier->crew);
	retry_free(tier->retry); /* it may ask for read-ahead */
	ahead_free(tier->ahead);
	while ((parked = TAILQ_FIRST(&tier->parked))) {
		TAILQ_REMOVE(&tier->parked, parked, link);
		free(parked);
	}
	pthread_cond_destroy(&tier->forgotten);
	lock_fini(&tier->forget_lock);
	pthread_cond_destroy(&tier->unvisited);
	pthread_cond_destroy(&tier->wakeup);
	pthread_cond_destroy(&tier->room);
	pthread_cond_destroy(&tier->squeeze);
	lock_fini(&tier->parked_lock);
	lock_fini(&tier->lock);
	work_pool_fini(&tier->works);
	free(tier);
}

/* --- settings and figures --------------------------------------------------------------------------------- */

void tier_ahead_late(struct tier *tier, bool late)
{
	ahead_late(tier->ahead, late);
}

int tier_set_min_idle(struct tier *tier, uint64_t ns)
{
	if (ns > 3600 * NS_PER_S)
		return -EINVAL;
	atomic_store(&tier->min_idle_ns, ns);
	atomic_store(&tier->referenced_idle_ns, 0);
	tier_kick(tier);
	return 0;
}

int tier_set_dram(struct tier *tier, uint64_t bytes)
{
	if (bytes < 4ULL * tier->config.block_bytes || bytes > INT64_MAX)
		return -EINVAL;
	atomic_store(&tier->budget.limit_bytes, bytes);
	tier_kick(tier);
	room_announce(tier);
	return 0;
}

static void add_memory(void *arg, struct ramfile *file)
{
	uint64_t *bytes = arg;

	LOCK_SCOPE(&file->lock);
	*bytes += sizeof(*file) + blocks_memory_bytes(&file->blocks);
}

void tier_figures(struct tier *tier, struct tier_figures *ret)
{
	struct tier_figures figures = {
		.dram_bytes = atomic_load(&tier->budget.limit_bytes),
		.resident_bytes = budget_used(&tier->budget),
		.metadata_bytes = sizeof(struct whole) + work_pool_bytes(&tier->works),
		.waiting_faults = room_parked(tier),
		.waited_faults = atomic_load(&tier->waited_faults),
		.waiting_writes = room_waiting_writes(tier),
		.scans = atomic_load(&tier->scans),
		.visited_blocks = atomic_load(&tier->visited_blocks),
		.pinned_blocks = atomic_load(&tier->pinned_blocks),
	};

	tier_each_file(tier, add_memory, &figures.metadata_bytes);
	*ret = figures;
}
