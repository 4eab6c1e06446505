/* policy/choice.c - see choice.h.
 *
 * A census counts the blocks of each class that may be demoted, over the files of a scope. From it follows the class
 * from which on there are enough of them, and a hand that goes round each file takes what it meets of those. What is
 * taken leaves the census; it is taken anew when it is old, or when nothing of it was found.
 *
 * Where no share says otherwise, age decides over all files. Where one does, a payer is looked for first, below him the
 * next, down to one below whom it does not matter who pays; he gives no more than makes him pay as much as the next.
 */
#include "policy/choice.h"

#include <errno.h>

#include "base/clock.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "policy/payer.h"

/* For so long it is known well enough which blocks are the oldest. */
#define CENSUS_NS (50 * NS_PER_MS)
/* To find out takes no more than this part of the time. */
#define CENSUS_SHARE 16
/* A payer gives this many blocks at least, or that part of what is needed, so that those who pay alike do not give in
 * turns of one. */
#define PAYER_BLOCKS 16
#define PAYER_PART 8
/* In one step so many are tried; who had nothing to give is left out for so long. */
#define PAYERS_TRIED 8
#define PAYERS_OUT_NS (50 * NS_PER_MS)
/* If nobody gave for so long, what was promised is taken. */
#define STUCK_NS (2 * NS_PER_S)

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

static bool is_in(const struct scope *scope, struct ramfile *file)
{
	return (!scope->file || scope->file == file->ino) && tenant_covers(file->engine, scope->tenant, file) &&
	       flow_holds_back(file) == scope->held;
}

static void count_file(void *arg, struct ramfile *file)
{
	struct census *census = arg;
	struct heat_filter filter = { 0 };

	if (!is_in(&census->scope, file))
		return;
	do {
		LOCK_SCOPE(&file->lock);
		filter = filter_of(file, filter.first + filter.count, census->min_idle_ns);
		heat_count(&file->heat, &file->blocks, &filter, census->in_class);
	} while (filter.count);
}

static void take_census(struct census *census, struct engine *engine)
{
	uint64_t began_ns = clock_ns(), cost_ns;

	*census = (struct census){ .scope = census->scope, .min_idle_ns = engine_min_idle(engine) };
	engine_each_resident(engine, count_file, census);
	census->taken_ns = clock_ns();
	cost_ns = census->taken_ns - began_ns;
	census->lasts_ns = cost_ns * CENSUS_SHARE > CENSUS_NS ? cost_ns * CENSUS_SHARE : CENSUS_NS;
}

/* That of the scope. Else that of another one which is the oldest, and has to be taken anew. */
static struct census *find_census(struct choice *choice, const struct scope *scope)
{
	struct census *oldest = &choice->census[0];

	for (size_t i = 0; i < CHOICE_CENSUSES; i++) {
		struct census *census = &choice->census[i];

		if (census->taken_ns && census->scope.tenant == scope->tenant && census->scope.file == scope->file &&
		    census->scope.held == scope->held)
			return census;
		if (census->taken_ns < oldest->taken_ns)
			oldest = census;
	}
	*oldest = (struct census){ .scope = *scope };
	return oldest;
}

struct sweep {
	struct choice *choice;
	struct scope scope;
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

	if (max > RUN_BLOCKS && atomic_load(&file->engine->tenants.limits))
		max = RUN_BLOCKS; /* what may be written is looked at between them */
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

	if (!is_in(&sweep->scope, file))
		return;
	lock_get(&file->lock);
	blocks = file->blocks.count;
	lock_put(&file->lock);
	while (visited <= blocks && sweep->picked < sweep->wanted && !sweep->err &&
	       flow_holds_back(file) == sweep->scope.held) {
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

static uint64_t demote_some(struct choice *choice, struct engine *engine, struct census *census, uint64_t needed,
			    int *ret_err)
{
	uint64_t most = needed < CHOICE_BLOCKS ? needed : CHOICE_BLOCKS, left;
	struct sweep sweep = { .choice = choice, .scope = census->scope, .wanted = most };

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

/* The oldest ones of the scope. */
static int demote_oldest(struct choice *choice, struct engine *engine, const struct scope *scope, uint64_t needed,
			 uint64_t *ret_demoted)
{
	struct census *census = find_census(choice, scope);
	bool old = clock_ns() >= census->taken_ns + census->lasts_ns;
	int err;

	if (old)
		take_census(census, engine);
	*ret_demoted = demote_some(choice, engine, census, needed, &err);
	if (*ret_demoted || err || old)
		return err;
	take_census(census, engine);
	*ret_demoted = demote_some(choice, engine, census, needed, &err);
	return err;
}

/* Goes down to who pays, of those that are not out. False: nobody does, and *scope is that below which nobody was
 * found. */
static bool find_payer(struct engine *engine, const struct payers_out *out, struct scope *scope, uint64_t *needed)
{
	uint64_t block_bytes = engine->config.block_bytes;
	struct payer payer;

	while (!scope->file && tenant_weighs(engine, scope->tenant)) {
		uint64_t most, surplus;

		if (!payer_find(engine, scope->tenant, out, &payer))
			return false;
		most = payer.most_bytes / block_bytes;
		surplus = (payer.surplus_bytes + block_bytes - 1) / block_bytes;
		if (most < PAYER_BLOCKS)
			most = PAYER_BLOCKS;
		if (most < *needed / PAYER_PART)
			most = *needed / PAYER_PART;
		if (most > surplus)
			most = surplus;
		if (*needed > most)
			*needed = most;
		if (payer.is_file)
			scope->file = payer.ino;
		else
			scope->tenant = payer.ino;
	}
	return true;
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

/* Of who pays. *ret_more: somebody else may have to. */
static int demote_of_payer(struct choice *choice, struct engine *engine, uint64_t tenant, uint64_t needed,
			   uint64_t *ret_demoted, bool *ret_more)
{
	struct scope scope = { .tenant = tenant };
	uint64_t began_ns = clock_ns();
	bool found = find_payer(engine, &choice->out, &scope, &needed);
	bool lower = scope.tenant != tenant || scope.file;
	int err = 0;

	if (found)
		err = demote_oldest(choice, engine, &scope, needed, ret_demoted);
	*ret_more = !err && !*ret_demoted && lower;
	if (*ret_more) /* for longer than it takes to come back to the next one */
		payers_add(&choice->out, scope.file ? scope.file : scope.tenant,
			   clock_ns() + PAYERS_OUT_NS + PAYERS_TRIED * 8 * (clock_ns() - began_ns));
	return err;
}

/* Nobody who has more than was promised gave anything. What was promised is taken if there is no room left, and nobody
 * has more: the budget, or the max of the tenant, is less than what was promised; or nobody could be served for long
 * otherwise: who has more may have pinned it. */
static bool may_take_any(struct choice *choice, struct engine *engine, uint64_t tenant)
{
	uint64_t stuck_ns = tenant_gave(engine, tenant, false, clock_ns());

	return tenant_weighs(engine, tenant) && tenant_is_full(engine, tenant) &&
	       (!choice->out.count || stuck_ns >= STUCK_NS);
}

int choice_demote(struct choice *choice, struct engine *engine, uint64_t tenant, uint64_t needed, uint64_t *ret_demoted)
{
	const struct scope all = { .tenant = tenant }, held = { .tenant = tenant, .held = true };
	bool more = true;
	int err = 0;

	*ret_demoted = 0;
	payers_forget(&choice->out, clock_ns());
	for (int i = 0; i < PAYERS_TRIED && more && !err && !*ret_demoted; i++)
		err = demote_of_payer(choice, engine, tenant, needed, ret_demoted, &more);
	/* Rather than have others wait, or break what was promised to them, who may not write does so and owes it. */
	if (!err && !*ret_demoted && atomic_load(&engine->tenants.limits) && parked_of_others(engine))
		err = demote_oldest(choice, engine, &held, needed < RUN_BLOCKS ? needed : RUN_BLOCKS, ret_demoted);
	if (*ret_demoted)
		tenant_gave(engine, tenant, true, clock_ns());
	if (err || *ret_demoted || !may_take_any(choice, engine, tenant))
		return err;
	return demote_oldest(choice, engine, &all, needed, ret_demoted);
}
