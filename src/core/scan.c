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
/* How much of a file comes back is not known before the first look, which shall not be far. */
#define FIRST_MOST_NS (60 * NS_PER_S)

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

static uint64_t price_ns(const struct ramfile *file, uint64_t blocks)
{
	return blocks * (file->block_bytes / PAGE_BYTES) * MINOR_FAULT_NS;
}

static void zap_round(struct ramfile *file, uint64_t now_ns)
{
	uint8_t marks[SCAN_BLOCKS];
	struct part part = { .map = marks };
	uint64_t marked = 0;
	unsigned int mappers;

	lock_get(&file->lock);
	file->zapping = true;
	file->zap_sent_ns = now_ns;
	part.round = file->heat.round + 1;
	next_part(file, &part, 0);
	while (part.count) {
		uint64_t of_part = heat_mark(&file->blocks, part.first, part.count, marks);

		marked += of_part;
		lock_put(&file->lock);
		if (of_part)
			ramfile_each_mapper(file, zap_one, &part);
		lock_get(&file->lock);
		next_part(file, &part, part.first + part.count);
	}
	file->scan_marked = marked;
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

/* Under lock: what the round that is out is expected to cost: as many of its blocks come back as did in the last one,
 * all of them if there was none yet. */
static uint64_t expected_ns(const struct ramfile *file)
{
	uint64_t cost_ns;

	if (file->scanned_marked)
		return price_ns(file, file->scan_marked * file->scanned_returned / file->scanned_marked);
	cost_ns = price_ns(file, file->scan_marked);
	return cost_ns < FIRST_MOST_NS / SCAN_SHARE ? cost_ns : FIRST_MOST_NS / SCAN_SHARE;
}

/* Under lock: how long blocks are given to show that they are in use. */
static uint64_t round_ns(const struct ramfile *file, const struct scan_pace *pace)
{
	uint64_t least_ns = pace->slow_ns, by_cost_ns = expected_ns(file) * SCAN_SHARE;

	if (file->scan_wanted || pace->wanted)
		return pace->quick_ns;
	if (pace->hurry) {
		least_ns = pace->quick_ns;
		by_cost_ns = price_ns(file, file->scanned_returned) * HURRY_SHARE;
		if (by_cost_ns > HURRY_MOST_NS)
			by_cost_ns = HURRY_MOST_NS;
	}
	return least_ns > by_cost_ns ? least_ns : by_cost_ns;
}

/* Zaps, and returns when to look. */
static uint64_t begin_round(struct ramfile *file, const struct scan_pace *pace, uint64_t now_ns)
{
	zap_round(file, now_ns);
	LOCK_SCOPE(&file->lock);
	return now_ns + round_ns(file, pace);
}

uint64_t ramfile_scan(struct ramfile *file, uint64_t now_ns, const struct scan_pace *pace)
{
	struct heat_seen seen = { 0 };
	uint64_t pace_ns, zapped_ns;
	bool zapping, zap_done;

	lock_get(&file->lock);
	zapping = file->zapping;
	zap_done = file->zap_done;
	zapped_ns = file->heat.zap_done_ns[(file->heat.round + 1) % HEAT_RING];
	pace_ns = round_ns(file, pace);
	lock_put(&file->lock);

	if (!zapping)
		return begin_round(file, pace, now_ns);
	if (!zap_done) /* an agent has not answered; ramfile_zapped() kicks the demoter */
		return now_ns + pace_ns;
	if (now_ns < zapped_ns + pace_ns)
		return zapped_ns + pace_ns;
	look_round(file, &seen);
	lock_get(&file->lock);
	file->scanned_marked = file->scan_marked;
	file->scanned_returned = seen.returned;
	lock_put(&file->lock);
	return begin_round(file, pace, clock_ns());
}
