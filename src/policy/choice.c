/* policy/choice.c - see choice.h.
 *
 * A census sums up how many blocks of each class may be demoted, over the files of a scope, by what each file counts of
 * its own (mem/blocks.h): no table is walked for it. From it follows the class from which on there are enough of them,
 * and a hand that goes round all files, one after the other, takes what it meets of those. What is taken leaves the
 * census; it is taken anew when it is old, or when nothing of it was found. So what it costs to find a batch does not
 * grow with the number of files.
 *
 * Where no share says otherwise, age decides over all files. Where one does, a payer is looked for first, below him the
 * next, down to one below whom it does not matter who pays; he gives no more than makes him pay as much as the next.
 */
#include "policy/choice.h"

#include "base/clock.h"
#include "engine/due.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/quota.h"
#include "policy/payer.h"

/* For so long it is known well enough which blocks are the oldest. */
#define CENSUS_NS (50 * NS_PER_MS)
/* To find out takes no more than this part of the time. */
#define CENSUS_SHARE 16
/* Who gave pays for so long. */
#define PAYS_NS (100 * NS_PER_MS)
/* A payer gives this many blocks at least, or that part of what is needed, so that those who pay alike do not give in
 * turns of one. */
#define PAYER_BLOCKS 16
#define PAYER_PART 8
/* In one step so many are tried; who had nothing to give is left out for so long. */
#define PAYERS_TRIED 8
#define PAYERS_OUT_NS (50 * NS_PER_MS)
#define PAYERS_OUT_MOST_NS (500 * NS_PER_MS)
/* If nobody gave for so long, what was promised is taken. */
#define STUCK_NS (2 * NS_PER_S)

/* Under the file's lock. */
static struct heat_filter filter_of(struct ramfile *file, uint64_t min_idle_ns)
{
	struct heat_filter filter = { .min_idle_ns = min_idle_ns, .now_ns = clock_ns() };
	struct quota_choice quota = quota_choice(file);

	filter.stored = quota.stored_only;
	filter.older = quota.older;
	file_visit(file, filter.now_ns);
	filter.slept = due_asleep(file, filter.now_ns);
	lock_get(&file->mappers.lock);
	filter.mapped = file->mappers.count > 0;
	lock_put(&file->mappers.lock);
	return filter;
}

/* What it writes is taken when it was written: one batch at a time of who has a limit. */
static bool writes_now(const struct choice *choice, struct ramfile *file, uint64_t now_ns)
{
	uint64_t tenant = tenant_write_limit(file);

	return tenant && going_bytes(&choice->going, file->engine, tenant, 0, now_ns);
}

/* What was chosen of it could not be demoted. */
static bool is_out(struct ramfile *file, uint64_t now_ns)
{
	return now_ns < file->rounds.out_until_ns &&
	       (!file->rounds.refusals || quota_news(file) == file->rounds.refused_news);
}

static bool is_in(const struct choice *choice, const struct scope *scope, struct ramfile *file)
{
	uint64_t now = clock_ns();

	return (!scope->file || scope->file == file->ino) && tenant_covers(file->engine, scope->tenant, file) &&
	       !is_out(file, now) && !going_is_late(&choice->going, file, now) && !writes_now(choice, file, now) &&
	       flow_holds_back(file) == scope->held;
}

/* What is counted by age is not counted by whether there is a stored copy: those are walked. */
static bool count_part(struct ramfile *file, struct census *census, uint64_t *from)
{
	struct heat_filter filter;

	LOCK_SCOPE(&file->lock);
	filter = filter_of(file, census->min_idle_ns);
	if (!heat_next_part(&file->blocks, &filter, 0, *from, SCAN_BLOCKS))
		return false;
	engine_count_visited(file->engine, filter.count);
	heat_count(&file->heat, &file->blocks, &filter, census->in_class);
	*from = filter.first + filter.count;
	return true;
}

static void count_blocks(struct ramfile *file, struct census *census)
{
	struct heat_filter filter;
	uint64_t from = 0;

	lock_get(&file->lock);
	filter = filter_of(file, census->min_idle_ns);
	lock_put(&file->lock);
	if (filter.stored || filter.older) {
		while (count_part(file, census, &from))
			;
		return;
	}
	LOCK_SCOPE(&file->lock);
	heat_census(&file->heat, &file->blocks, &filter, census->in_class);
}

struct counting {
	const struct choice *choice;
	struct census *census;
};

static void count_file(void *arg, struct ramfile *file)
{
	const struct counting *counting = arg;

	if (is_in(counting->choice, &counting->census->scope, file))
		count_blocks(file, counting->census);
}

static void take_census(const struct choice *choice, struct census *census, struct engine *engine)
{
	struct counting counting = { .choice = choice, .census = census };
	uint64_t began_ns = clock_ns(), cost_ns;

	*census = (struct census){ .scope = census->scope, .min_idle_ns = engine_min_idle(engine) };
	engine_each_resident(engine, count_file, &counting);
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

/* --- the hand ------------------------------------------------------------------------------------------------ */

/* From the hand on, up to the end of the file at most; the hand moves behind what it took. Returns how many of them, 0
 * at the end. */
static size_t pick_in(struct ramfile *file, unsigned int lowest_class, size_t most, uint32_t *block)
{
	struct heat_filter filter;
	size_t count = 0;
	bool more;

	do {
		size_t found;

		/* A part is short enough to hold the lock for. */
		LOCK_SCOPE(&file->lock);
		filter = filter_of(file, engine_min_idle(file->engine));
		more = heat_next_part(&file->blocks, &filter, lowest_class, file->rounds.hand, SCAN_BLOCKS);
		if (!more)
			break;
		engine_count_visited(file->engine, filter.count);
		found = heat_pick(&file->heat, &file->blocks, &filter, lowest_class, block + count, most - count);
		heat_leave(&file->heat, &file->blocks, block + count, found);
		count += found;
		file->rounds.hand = filter.first + filter.count;
		if (count == most)
			file->rounds.hand = block[count - 1] + 1U;
	} while (count < most);
	if (!count)
		file->rounds.hand = 0;
	return count;
}

/* The caller visits the file, until the end of what was chosen. */
static bool choose(struct choice *choice, struct ramfile *file, unsigned int lowest_class, uint64_t needed,
		   struct chosen *ret)
{
	size_t most = demote_at_once(file);

	ret->count = pick_in(file, lowest_class, needed < most ? needed : most, ret->block);
	if (!ret->count)
		return false;
	ret->file = file;
	ret->since_ns = clock_ns();
	ret->going = going_begin(&choice->going, file, ret->count * file->block_bytes, ret->since_ns);
	return true;
}

/* The file that the hand is in, visited. */
static struct ramfile *at_hand(struct choice *choice, struct engine *engine)
{
	struct ramfile *file = engine_resident_from(engine, choice->at_ino);
	bool round;

	if (file && choice->behind && file->ino == choice->at_ino)
		file = engine_resident_after(engine, file, &round);
	choice->behind = false;
	return file;
}

/* Up to the end of the file, and then what lies before the hand. */
static bool choose_round(struct choice *choice, struct ramfile *file, unsigned int lowest_class, uint64_t needed,
			 struct chosen *ret)
{
	return choose(choice, file, lowest_class, needed, ret) || choose(choice, file, lowest_class, needed, ret);
}

/* Round all files of the scope, once. */
static bool sweep(struct choice *choice, struct engine *engine, const struct scope *scope, unsigned int lowest_class,
		  uint64_t needed, struct chosen *ret)
{
	struct ramfile *file = scope->file ? engine_resident_from(engine, scope->file) : at_hand(choice, engine);
	uint64_t first = file ? file->ino : 0;
	unsigned int rounds = 0;

	if (file && scope->file && is_in(choice, scope, file) && choose_round(choice, file, lowest_class, needed, ret))
		return true;
	while (file && !scope->file) {
		bool last = rounds && file->ino == first; /* for what lies before the hand */
		bool round;

		if (is_in(choice, scope, file) && choose(choice, file, lowest_class, needed, ret)) {
			choice->at_ino = file->ino;
			return true;
		}
		file = engine_resident_after(engine, file, &round);
		rounds += round;
		if (last || rounds > 1)
			break;
	}
	if (file)
		engine_leave(engine, file);
	return false;
}

/* --- the oldest ones ------------------------------------------------------------------------------------------- */

static bool take_counted(struct choice *choice, struct engine *engine, struct census *census, uint64_t needed,
			 struct chosen *ret)
{
	unsigned int lowest = heat_threshold(census->in_class, needed);
	bool any = false, found;
	uint64_t left;

	for (unsigned int class = lowest; class < HEAT_CLASSES && !any; class ++)
		any = census->in_class[class] > 0;
	if (!any) /* nobody is asked for what nobody has */
		return false;
	found = sweep(choice, engine, &census->scope, lowest, needed, ret);
	/* What was not found where all was gone through is not there any more. */
	left = found ? ret->count : UINT64_MAX;

	for (unsigned int class = HEAT_CLASSES; class -- > lowest;) {
		uint64_t gone = census->in_class[class] < left ? census->in_class[class] : left;

		census->in_class[class] -= gone;
		left -= gone;
	}
	return found;
}

static bool take_oldest(struct choice *choice, struct engine *engine, const struct scope *scope, uint64_t needed,
			struct chosen *ret)
{
	struct census *census = find_census(choice, scope);
	bool old = clock_ns() >= census->taken_ns + census->lasts_ns;

	if (old)
		take_census(choice, census, engine);
	if (take_counted(choice, engine, census, needed, ret))
		return true;
	if (old)
		return false;
	take_census(choice, census, engine);
	return take_counted(choice, engine, census, needed, ret);
}

/* --- who pays -------------------------------------------------------------------------------------------------- */

/* Goes down to who pays, of those that are not out. False: nobody does, and *scope is that below which nobody was
 * found. */
static bool find_payer(const struct choice *choice, struct engine *engine, struct scope *scope, uint64_t *needed,
		       bool *ret_over)
{
	uint64_t block_bytes = engine->config.block_bytes;
	struct payer payer;

	*ret_over = true;
	while (!scope->file && tenant_weighs(engine, scope->tenant)) {
		uint64_t most, surplus;

		if (!payer_find(engine, scope->tenant, &choice->out, &choice->going, &payer))
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
		*ret_over &= payer.over;
		if (payer.is_file)
			scope->file = payer.ino;
		else
			scope->tenant = payer.ino;
	}
	return true;
}

/* Of who pays. *ret_more: somebody else may have to. */
static bool take_of_payer(struct choice *choice, struct engine *engine, uint64_t tenant, uint64_t needed,
			  struct chosen *ret, bool *ret_more)
{
	struct scope scope = { .tenant = tenant };
	uint64_t began_ns = clock_ns(), out_ns;
	bool over, found = find_payer(choice, engine, &scope, &needed, &over);
	bool lower = scope.tenant != tenant || scope.file;

	if (found && take_oldest(choice, engine, &scope, needed, ret)) {
		if (over && lower && !tenant)
			tenant_pays(ret->file, scope.file ? 0 : scope.tenant, clock_ns() + PAYS_NS);
		return true;
	}
	*ret_more = lower;
	/* For longer than it takes to come back to the next one; but if all are out, what was promised is taken. */
	out_ns = PAYERS_OUT_NS + PAYERS_TRIED * 8 * (clock_ns() - began_ns);
	if (lower)
		payers_add(&choice->out, scope.file ? scope.file : scope.tenant,
			   clock_ns() + (out_ns < PAYERS_OUT_MOST_NS ? out_ns : PAYERS_OUT_MOST_NS));
	return false;
}

/* Nobody who has more than was promised gave anything. What was promised is taken if there is no room left, none is
 * coming, and nobody has more: the budget, or the max of the tenant, is less than what was promised; or nobody could be
 * served for long otherwise: who has more may have pinned it. */
static bool may_take_any(struct choice *choice, struct engine *engine, uint64_t tenant)
{
	uint64_t now = clock_ns(), stuck_ns = tenant_gave(engine, tenant, false, now);

	return tenant_weighs(engine, tenant) && tenant_is_full(engine, tenant) &&
	       !going_bytes(&choice->going, engine, tenant, 0, now) && (!choice->out.count || stuck_ns >= STUCK_NS);
}

bool choice_take(struct choice *choice, struct engine *engine, uint64_t tenant, uint64_t needed, struct chosen *ret)
{
	const struct scope all = { .tenant = tenant }, held = { .tenant = tenant, .held = true };
	bool more = true, found = false;

	ret->own = false;
	ret->tenant = tenant;
	payers_forget(&choice->out, clock_ns());
	for (int i = 0; i < PAYERS_TRIED && more && !found; i++)
		found = take_of_payer(choice, engine, tenant, needed, ret, &more);
	/* Rather than have others wait, or break what was promised to them, who may not write does so and owes it. */
	if (!found && atomic_load(&engine->tenants.limits) && parked_of_others(engine))
		found = take_oldest(choice, engine, &held, needed, ret);
	if (found || !may_take_any(choice, engine, tenant))
		return found;
	return take_oldest(choice, engine, &all, needed, ret);
}

bool choice_take_of(struct choice *choice, struct ramfile *file, uint64_t needed, struct chosen *ret)
{
	const struct scope scope = { .file = file->ino };
	struct census census = { .min_idle_ns = engine_min_idle(file->engine) };
	unsigned int lowest;

	ret->own = true;
	if (!is_in(choice, &scope, file))
		return false;
	count_blocks(file, &census);
	lowest = heat_threshold(census.in_class, needed);
	if (!choose_round(choice, file, lowest, needed, ret))
		return false;
	engine_visit(file->engine, file);
	return true;
}

void choice_end(struct choice *choice, struct engine *engine, struct chosen *chosen, bool gave, uint64_t out_until_ns)
{
	if (gave && !chosen->own)
		tenant_gave(engine, chosen->tenant, true, clock_ns());
	if (chosen->going)
		going_end(chosen->going);
	if (out_until_ns) {
		chosen->file->rounds.out_until_ns = out_until_ns;
		choice->behind |= choice->at_ino == chosen->file->ino; /* the others have their turn first */
	}
}
