/* The rounds of one file: zap, wait, look; see mem/heat.h. Runs on the scanner's thread, in steps. */
#include "policy/scan.h"

#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"

/* What a returned page costs its owner: a minor fault; 1.6 us in a file of a gigabyte where that was measured. */
#define MINOR_FAULT_NS 2000
/* The owner shall lose at most 1 % of its time to scanning. */
#define SCAN_SHARE 100
/* Under pressure it loses more if that makes room: up to 10 %, or what a round a second costs. */
#define HURRY_SHARE 10
#define HURRY_MOST_NS NS_PER_S
/* How much of a file comes back is not known before the first look, which shall not be far. */
#define FIRST_MOST_NS (60 * NS_PER_S)
/* To a round that is wanted for its zap alone: somebody waits for the answer. */
#define PROOF_NS (20 * NS_PER_MS)

#define QUICK_MIN_NS (20 * NS_PER_MS)
#define QUICK_MAX_NS (1 * NS_PER_S)

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

/* Under lock: the part of the table from there on that has blocks in DRAM. False: none. */
static bool next_part(const struct ramfile *file, struct part *part, uint64_t first)
{
	return blocks_next_part(&file->blocks, first, BLOCKS_IN_DRAM, SCAN_BLOCKS, &part->first, &part->count);
}

static uint64_t price_ns(const struct ramfile *file, uint64_t blocks)
{
	return blocks * (file->block_bytes / PAGE_BYTES) * MINOR_FAULT_NS;
}

/* All is sent: who maps the file is told so. */
static void end_zap(struct ramfile *file, uint64_t round)
{
	struct part end = { .round = round };

	if (!mappers_each(file, zap_one, &end))
		mappers_zapped(file, NULL, round);
}

/* A step. True: there is more. */
static bool zap_some(struct ramfile *file)
{
	uint8_t marks[SCAN_BLOCKS];
	struct part part = { .map = marks };
	uint64_t marked = 0;
	bool more;

	lock_get(&file->lock);
	part.round = file->heat.round + 1;
	more = next_part(file, &part, file->rounds.block);
	if (more)
		marked = heat_mark(&file->blocks, part.first, part.count, marks);
	file->rounds.marked += marked;
	file->rounds.zap_sent = !more;
	file->rounds.zap_sent_ns = clock_ns();
	lock_put(&file->lock);
	if (marked)
		mappers_each(file, zap_one, &part);
	if (!more)
		end_zap(file, part.round);
	engine_count_visited(file->engine, part.count);
	file->rounds.block = part.first + part.count;
	return more;
}

/* A step. True: there is more. */
static bool look_some(struct ramfile *file)
{
	uint8_t used[SCAN_BLOCKS];
	struct part part = { .map = used };
	bool more;

	lock_get(&file->lock);
	more = next_part(file, &part, file->rounds.block);
	lock_put(&file->lock);
	if (!more)
		return false;
	memset(used, 0, part.count);
	mappers_each(file, look_one, &part);
	engine_count_visited(file->engine, part.count);
	file->rounds.block = part.first + part.count;
	lock_get(&file->lock);
	if (part.first + part.count <= file->blocks.count) /* else truncated meanwhile */
		heat_look(&file->blocks, part.first, part.count, used, &file->rounds.seen);
	lock_put(&file->lock);
	return true;
}

static void end_look(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	heat_looked(&file->heat, &file->blocks);
	file->rounds.zapping = file->rounds.zap_sent = file->rounds.zap_done = false;
	file->rounds.last_marked = file->rounds.marked;
	file->rounds.last_returned = file->rounds.seen.returned;
	pthread_cond_broadcast(&file->settled);
}

/* Under lock: what the round that is out is expected to cost: as many of its blocks come back as did in the last one,
 * all of them if there was none yet. */
static uint64_t expected_ns(const struct ramfile *file)
{
	uint64_t cost_ns;

	if (file->rounds.last_marked)
		return price_ns(file, file->rounds.marked * file->rounds.last_returned / file->rounds.last_marked);
	cost_ns = price_ns(file, file->rounds.marked);
	return cost_ns < FIRST_MOST_NS / SCAN_SHARE ? cost_ns : FIRST_MOST_NS / SCAN_SHARE;
}

/* Under lock: how long blocks are given to show that they are in use. */
static uint64_t round_ns(const struct ramfile *file, const struct scan_pace *pace)
{
	uint64_t least_ns = pace->slow_ns, by_cost_ns = expected_ns(file) * SCAN_SHARE;

	if (file->rounds.proof_wanted && pace->quick_ns > PROOF_NS)
		return PROOF_NS;
	if (file->rounds.wanted || pace->wanted)
		return pace->quick_ns;
	if (pace->hurry) {
		least_ns = pace->quick_ns;
		by_cost_ns = price_ns(file, file->rounds.last_returned) * HURRY_SHARE;
		if (by_cost_ns > HURRY_MOST_NS)
			by_cost_ns = HURRY_MOST_NS;
	}
	return least_ns > by_cost_ns ? least_ns : by_cost_ns;
}

static void begin_zap(struct ramfile *file)
{
	LOCK_SCOPE(&file->lock);

	file->rounds.zapping = true;
	file->rounds.marked = 0;
	file->rounds.block = 0;
	file->rounds.zap_bytes = room_taken_by(file);
}

/* When the look is due, or when to ask again. */
static uint64_t look_due(struct ramfile *file, uint64_t now_ns, const struct scan_pace *pace)
{
	uint64_t pace_ns;

	LOCK_SCOPE(&file->lock);
	pace_ns = round_ns(file, pace);
	if (!file->rounds.zap_done) /* an agent has not answered; mappers_zapped() makes it due */
		return now_ns + pace_ns;
	return file->heat.zap_done_ns[(file->heat.round + 1) % HEAT_RING] + pace_ns;
}

/* Who has not answered may stand still by now. */
static void ask_again(struct ramfile *file)
{
	uint64_t round = 0;

	lock_get(&file->lock);
	if (!file->rounds.zap_done)
		round = file->heat.round + 1;
	lock_put(&file->lock);
	if (round)
		end_zap(file, round);
}

uint64_t scan_quick_ns(struct engine *engine)
{
	uint64_t quick = engine_min_idle(engine) / 2;

	if (quick < QUICK_MIN_NS)
		return QUICK_MIN_NS;
	return quick < QUICK_MAX_NS ? quick : QUICK_MAX_NS;
}

uint64_t scan_step(struct ramfile *file, uint64_t now_ns, const struct scan_pace *pace)
{
	uint64_t due_ns;

	switch (file->rounds.step) {
	case SCAN_REST:
		begin_zap(file);
		file->rounds.step = SCAN_ZAP;
		return now_ns;
	case SCAN_ZAP:
		if (!zap_some(file))
			file->rounds.step = SCAN_WAIT;
		return now_ns;
	case SCAN_WAIT:
		due_ns = look_due(file, now_ns, pace);
		if (now_ns < due_ns) {
			ask_again(file);
			return due_ns;
		}
		file->rounds.step = SCAN_LOOK;
		file->rounds.block = 0;
		file->rounds.seen = (struct heat_seen){ 0 };
		return now_ns;
	case SCAN_LOOK:
		if (look_some(file))
			return now_ns;
		end_look(file);
		file->rounds.step = SCAN_REST;
		return now_ns;
	}
	return now_ns;
}

uint64_t scan_unproven_bytes(struct ramfile *file, uint64_t late_ns)
{
	bool stuck = scan_is_stuck(file, late_ns);
	uint64_t has = room_taken_by(file);

	LOCK_SCOPE(&file->lock);
	if (stuck) {
		file->rounds.proven_bytes = 0;
		file->rounds.proof_wanted = false; /* it was asked */
	}
	return has > file->rounds.proven_bytes ? has - file->rounds.proven_bytes : 0;
}

void scan_want_proof(struct ramfile *file)
{
	bool news;

	if (engine_fits(file->engine))
		return;
	lock_get(&file->lock);
	news = !file->rounds.proof_wanted;
	file->rounds.proof_wanted = true;
	lock_put(&file->lock);
	if (news)
		due_pull(file);
}

bool scan_is_stuck(struct ramfile *file, uint64_t for_ns)
{
	LOCK_SCOPE(&file->lock);

	return file->rounds.zap_sent && !file->rounds.zap_done && clock_ns() > file->rounds.zap_sent_ns + for_ns;
}
