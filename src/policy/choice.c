/* policy/choice.c - see choice.h.
 *
 * A census counts the blocks of each class that may be demoted. From it follows the class from which on there are
 * enough of them, and a hand that goes round each file takes what it meets of those. What is taken leaves the census;
 * it is taken anew when it is old, or when nothing of it was found.
 */
#include "policy/choice.h"

#include <errno.h>

#include "base/clock.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/file.h"

/* For so long it is known well enough which blocks are the oldest. */
#define CENSUS_NS (50 * NS_PER_MS)
/* To find out takes no more than this part of the time. */
#define CENSUS_SHARE 16

/* Under the file's lock: the piece of it from first on that has blocks in DRAM, short enough to hold the lock for; of
 * length 0 if there is none. */
static struct heat_filter filter_of(struct ramfile *file, uint64_t first, uint64_t min_idle_ns)
{
	struct heat_filter filter = { .first = first, .min_idle_ns = min_idle_ns, .now_ns = clock_ns() };

	if (!blocks_next_part(&file->blocks, first, BLOCKS_IN_DRAM, SCAN_BLOCKS, &filter.first, &filter.count))
		filter.first = file->blocks.count;
	engine_count_visited(file->engine, filter.count);
	lock_get(&file->mappers.lock);
	filter.mapped = file->mappers.count > 0;
	lock_put(&file->mappers.lock);
	return filter;
}

static void count_file(void *arg, struct ramfile *file)
{
	struct census *census = arg;
	struct heat_filter filter = { 0 };

	do {
		LOCK_SCOPE(&file->lock);
		filter = filter_of(file, filter.first + filter.count, census->min_idle_ns);
		heat_count(&file->heat, &file->blocks, &filter, census->in_class);
	} while (filter.count);
}

static void take_census(struct choice *choice, struct engine *engine)
{
	uint64_t began_ns = clock_ns(), cost_ns;

	choice->census = (struct census){ .min_idle_ns = engine_min_idle(engine) };
	engine_each_resident(engine, count_file, &choice->census);
	choice->census.taken_ns = clock_ns();
	cost_ns = choice->census.taken_ns - began_ns;
	choice->census.lasts_ns = cost_ns * CENSUS_SHARE > CENSUS_NS ? cost_ns * CENSUS_SHARE : CENSUS_NS;
}

struct sweep {
	struct choice *choice;
	unsigned int lowest_class;
	uint64_t wanted, picked, demoted;
	int err;
};

/* Picks from the hand on, up to the end of the file at most, and moves the hand behind it. */
static size_t pick_some(struct sweep *sweep, struct ramfile *file, uint64_t *visited)
{
	struct choice *choice = sweep->choice;
	size_t max = sweep->wanted - sweep->picked, count = 0;
	struct heat_filter filter;

	do {
		size_t found;

		LOCK_SCOPE(&file->lock);
		filter = filter_of(file, file->rounds.hand, engine_min_idle(file->engine));
		found = heat_pick(&file->heat, &file->blocks, &filter, sweep->lowest_class, choice->pick + count,
				  max - count);
		heat_leave(&file->heat, &file->blocks, choice->pick + count, found);
		count += found;
		*visited += filter.first + filter.count - file->rounds.hand;
		file->rounds.hand = filter.first + filter.count;
		if (count == max)
			file->rounds.hand = choice->pick[count - 1] + 1U;
	} while (count < max && filter.count);
	if (!filter.count) {
		file->rounds.hand = 0;
		*visited += 1; /* an empty file has been gone through, too */
	}
	return count;
}

/* Once round the file at most. */
static void sweep_file(void *arg, struct ramfile *file)
{
	struct sweep *sweep = arg;
	uint64_t visited = 0, blocks;

	lock_get(&file->lock);
	blocks = file->blocks.count;
	lock_put(&file->lock);
	while (visited <= blocks && sweep->picked < sweep->wanted && !sweep->err) {
		struct demote_result result;
		size_t count = pick_some(sweep, file, &visited);
		int err;

		if (!count)
			continue;
		err = demote_blocks(file, sweep->choice->pick, count, true, &result);
		sweep->picked += count;
		sweep->demoted += result.demoted;
		if (err == -EBUSY) /* a process that is not back yet maps it */
			return;
		sweep->err = err;
	}
}

static uint64_t demote_some(struct choice *choice, struct engine *engine, uint64_t needed, int *ret_err)
{
	struct census *census = &choice->census;
	uint64_t most = needed < CHOICE_BLOCKS ? needed : CHOICE_BLOCKS, left;
	struct sweep sweep = { .choice = choice, .wanted = most };

	sweep.lowest_class = heat_threshold(census->in_class, needed);
	engine_each_resident(engine, sweep_file, &sweep);
	/* What was not found where all was gone through is not there any more. */
	left = sweep.picked < most ? UINT64_MAX : sweep.picked;
	for (unsigned int class = HEAT_CLASSES; class -- > sweep.lowest_class;) {
		uint64_t gone = census->in_class[class] < left ? census->in_class[class] : left;

		census->in_class[class] -= gone;
		left -= gone;
	}
	*ret_err = sweep.err;
	return sweep.demoted;
}

int choice_demote_of(struct choice *choice, struct ramfile *file, uint64_t needed, uint64_t *ret_demoted)
{
	struct census census = { .min_idle_ns = engine_min_idle(file->engine) };
	struct sweep sweep = { .choice = choice, .wanted = needed < CHOICE_BLOCKS ? needed : CHOICE_BLOCKS };

	count_file(&census, file);
	sweep.lowest_class = heat_threshold(census.in_class, needed);
	sweep_file(&sweep, file);
	*ret_demoted = sweep.demoted;
	return sweep.err;
}

int choice_demote(struct choice *choice, struct engine *engine, uint64_t needed, uint64_t *ret_demoted)
{
	bool old = clock_ns() >= choice->census.taken_ns + choice->census.lasts_ns;
	int err;

	if (old)
		take_census(choice, engine);
	*ret_demoted = demote_some(choice, engine, needed, &err);
	if (*ret_demoted || err || old)
		return err;
	take_census(choice, engine);
	*ret_demoted = demote_some(choice, engine, needed, &err);
	return err;
}
