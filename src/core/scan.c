/* The rounds of one file: zap, wait, look; see mem/heat.h. Runs on the demoter's thread. */
#include "core/ramfile_impl.h"

#include <string.h>

#include "base/clock.h"

/* What a returned page costs its owner: a minor fault; 1.6 us in a file of a gigabyte where that was measured. */
#define MINOR_FAULT_NS 2000
/* The owner shall lose at most 1 % of its time to scanning. */
#define SCAN_SHARE 100
/* Under pressure it loses more if that makes room: up to 10 %, or what a round a second costs. */
#define HURRY_SHARE 10
#define HURRY_MOST_NS NS_PER_S

struct part {
	uint64_t first, count, round;
	uint8_t *map; /* SCAN_BLOCKS: marks of a zap, or what a look saw */
};

static void zap_one(void *arg, struct mapper *mapper)
{
	const struct part *part = arg;

	mapper->ops->zap(mapper, part->first, part->count, part->map, part->round);
}

static void look_one(void *arg, struct mapper *mapper)
{
	const struct part *part = arg;

	mapper->ops->look(mapper, part->first, part->count, part->map);
}

/* Under lock: the part of the table from first on. */
static void next_part(const struct ramfile *file, struct part *part, uint64_t first)
{
	uint64_t left = file->blocks.count > first ? file->blocks.count - first : 0;

	part->first = first;
	part->count = left < SCAN_BLOCKS ? left : SCAN_BLOCKS;
}

static void zap_round(struct ramfile *file, uint64_t now_ns)
{
	uint8_t marks[SCAN_BLOCKS];
	struct part part = { .map = marks };
	unsigned int mappers;

	lock_get(&file->lock);
	file->zapping = true;
	file->zap_sent_ns = now_ns;
	part.round = file->heat.round + 1;
	next_part(file, &part, 0);
	while (part.count) {
		uint64_t marked = heat_mark(&file->blocks, part.first, part.count, marks);

		lock_put(&file->lock);
		if (marked)
			ramfile_each_mapper(file, zap_one, &part);
		lock_get(&file->lock);
		next_part(file, &part, part.first + part.count);
	}
	lock_put(&file->lock);
	part.first = part.count = 0;
	mappers = ramfile_each_mapper(file, zap_one, &part);
	if (!mappers)
		ramfile_zapped(file, NULL, part.round);
}

static bool all_zapped(struct ramfile *file, uint64_t round)
{
	LOCK_SCOPE(&file->mapper_lock);

	for (struct mapper *mapper = file->mappers; mapper; mapper = mapper->next)
		if (mapper->zapped_round < round)
			return false;
	return true;
}

void ramfile_zapped(struct ramfile *file, struct mapper *mapper, uint64_t round)
{
	if (mapper) {
		lock_get(&file->mapper_lock);
		if (round > mapper->zapped_round)
			mapper->zapped_round = round;
		lock_put(&file->mapper_lock);
	}
	lock_get(&file->lock);
	if (file->zapping && round == file->heat.round + 1 && !file->zap_done && all_zapped(file, round)) {
		heat_zapped(&file->heat, clock_ns());
		file->zap_done = true;
	}
	lock_put(&file->lock);
	tier_kick(file->tier);
}

static void look_round(struct ramfile *file, struct heat_seen *seen)
{
	uint8_t used[SCAN_BLOCKS];
	struct part part = { .map = used };

	lock_get(&file->lock);
	next_part(file, &part, 0);
	while (part.count) {
		lock_put(&file->lock);
		memset(used, 0, part.count);
		ramfile_each_mapper(file, look_one, &part);
		lock_get(&file->lock);
		if (part.first + part.count > file->blocks.count) /* truncated meanwhile */
			break;
		heat_look(&file->blocks, part.first, part.count, used, seen);
		next_part(file, &part, part.first + part.count);
	}
	heat_looked(&file->heat);
	file->zapping = false;
	file->zap_done = false;
	file->looked_ns = clock_ns();
	pthread_cond_broadcast(&file->settled);
	lock_put(&file->lock);
}

uint64_t ramfile_scan(struct ramfile *file, uint64_t now_ns, const struct scan_pace *pace)
{
	struct heat_seen seen = { 0 };
	uint64_t cost_ns, pace_ns, zapped_ns;
	bool zapping, zap_done, hurry;

	lock_get(&file->lock);
	zapping = file->zapping;
	zap_done = file->zap_done;
	zapped_ns = file->heat.zap_done_ns[(file->heat.round + 1) % HEAT_RING];
	hurry = pace->hurry || file->scan_wanted;
	pace_ns = hurry ? pace->quick_ns : pace->slow_ns;
	if (!hurry && pace_ns < file->scan_cost_ns * SCAN_SHARE)
		pace_ns = file->scan_cost_ns * SCAN_SHARE;
	if (hurry && !file->scan_wanted && pace_ns < file->scan_cost_ns * HURRY_SHARE)
		pace_ns = file->scan_cost_ns * HURRY_SHARE < HURRY_MOST_NS ? file->scan_cost_ns * HURRY_SHARE
									   : HURRY_MOST_NS;
	lock_put(&file->lock);

	if (!zapping) {
		zap_round(file, now_ns);
		return now_ns + pace_ns;
	}
	if (!zap_done) /* an agent has not answered; ramfile_zapped() kicks the demoter */
		return now_ns + pace_ns;
	if (now_ns < zapped_ns + pace_ns)
		return zapped_ns + pace_ns;
	look_round(file, &seen);
	cost_ns = seen.returned * (file->block_bytes / PAGE_BYTES) * MINOR_FAULT_NS;
	lock_get(&file->lock);
	file->scan_cost_ns = cost_ns;
	lock_put(&file->lock);
	zap_round(file, clock_ns());
	return clock_ns() + pace_ns;
}
