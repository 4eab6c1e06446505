/* Tenants are few and their tree is flat, so a charge walks up it under one lock for all: it costs less than what the
 * block costs that is charged. */
#include "engine/tenant.h"

#include <assert.h>
#include <errno.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"

/* Of a limit. */
#define KEPT_MIN (UINT64_C(512) << 10)
#define KEPT_MAX (UINT64_C(64) << 20)
/* Who is asked less often than that for room is not stuck. */
#define ASKED_NS (2 * NS_PER_S)
/* Of what was promised. */
#define LITTLE_PART 2
/* Of a block, for a weight of 1. */
#define TURN_COST (UINT64_C(1) << 20)

uint64_t tenant_kept_of(uint64_t limit_bytes)
{
	uint64_t kept = limit_bytes / 16;

	return kept < KEPT_MIN ? KEPT_MIN : kept < KEPT_MAX ? kept : KEPT_MAX;
}

static void forget(struct tenants *tenants)
{
	TAILQ_INIT(&tenants->list);
	for (size_t i = 0; i < TENANT_BUCKETS; i++)
		LIST_INIT(&tenants->bucket[i]);
	tenants->weighing = tenants->limiting = tenants->quoting = 0;
	tenants->claimed_bytes = 0;
}

void tenants_init(struct tenants *tenants)
{
	lock_init(&tenants->lock, LOCK_RANK_TENANTS);
	tenants->now_ns = clock_boot_ns;
	forget(tenants);
}

void tenants_fini(struct tenants *tenants)
{
	lock_fini(&tenants->lock);
}

/* --- the tree ------------------------------------------------------------------------------------------------ */

static void add_along(struct tenant *tenant, uint64_t bytes)
{
	for (; tenant; tenant = tenant->up)
		tenant->used_bytes += bytes;
}

static void take_along(struct tenant *tenant, uint64_t bytes)
{
	for (; tenant; tenant = tenant->up) {
		assert(tenant->used_bytes >= bytes);
		tenant->used_bytes -= bytes;
	}
}

static const struct tenant *ancestor(const struct tenant *tenant, const struct tenant *below)
{
	while (below && below != tenant)
		below = below->up;
	return below;
}

/* NULL: of a file that is charged to none. */
static uint32_t weight_of(const struct tenant *tenant)
{
	return tenant && tenant->share.weight ? tenant->share.weight : TENANT_WEIGHT;
}

static struct tenant *find(struct engine *engine, uint64_t ino)
{
	struct tenant *tenant;

	LIST_FOREACH(tenant, &engine->tenants.bucket[ino % TENANT_BUCKETS], same)
		if (tenant->ino == ino)
			return tenant;
	return NULL;
}

/* Who was told goes on until all is free again that is kept free: else each block more or less would be told. */
static uint64_t missing_of(const struct tenant *tenant)
{
	uint64_t max = tenant->share.max_bytes, kept = tenant_kept_of(max), free_bytes = tenant->near ? kept : kept / 2;

	return max == UINT64_MAX || tenant->used_bytes + free_bytes <= max ? 0 : tenant->used_bytes + kept - max;
}

static uint64_t stored_of(const struct ramfile *file)
{
	return file->charge.stored_bytes + file->charge.putting_bytes;
}

void tenants_begin(struct engine *engine)
{
	lock_get(&engine->tenants.lock);
	atomic_store(&engine->tenants.pays_until_ns, 0);
	forget(&engine->tenants);
	engine->tenants.rebuilt++;
}

static void insert(struct engine *engine, struct tenant *tenant)
{
	TAILQ_INSERT_TAIL(&engine->tenants.list, tenant, link);
	LIST_INSERT_HEAD(&engine->tenants.bucket[tenant->ino % TENANT_BUCKETS], tenant, same);
}

void tenants_put(struct engine *engine, struct tenant *tenant, struct tenant *up, const struct tenant_share *share)
{
	tenant->up = up;
	tenant->share = *share;
	tenant->weighing = 0;
	tenant->claim = (struct claim){ 0 };
	tenant->depth = 0;
	tenant->below_bytes = 0;
	tenant->used_bytes = 0;
	tenant->near = false;
	tenant->pays_until_ns = 0;
	if (tenant->before)
		tenant->disk = tenant->before->disk;
	tenant->before = NULL;
	tenant->disk.bytes = 0;
	tenant->disk.news++;
	if (!share->day_bytes)
		tenant->disk.wear = (struct wear){ 0 };
	insert(engine, tenant);
}

void tenants_place(struct ramfile *file, struct tenant *tenant)
{
	file->charge.tenant = tenant;
	file->charge.pays_until_ns = 0;
	add_along(tenant, file->charge.bytes);
	tenants_place_stored(tenant, stored_of(file));
}

void tenants_place_stored(struct tenant *tenant, uint64_t stored_bytes)
{
	for (; tenant; tenant = tenant->up)
		tenant->disk.bytes += stored_bytes;
}

static void take_stored(struct tenant *tenant, uint64_t stored_bytes)
{
	for (; tenant; tenant = tenant->up) {
		assert(tenant->disk.bytes >= stored_bytes);
		tenant->disk.bytes -= stored_bytes;
	}
}

void tenant_move_stored(struct engine *engine, struct tenant *from, struct tenant *to, uint64_t stored_bytes)
{
	LOCK_SCOPE(&engine->tenants.lock);

	take_stored(from, stored_bytes);
	claim_follow(engine, from);
	tenants_place_stored(to, stored_bytes);
	claim_follow(engine, to);
}

static uint64_t promise_of(const struct tenant *tenant)
{
	return tenant->share.min_bytes > tenant->below_bytes ? tenant->share.min_bytes : tenant->below_bytes;
}

/* From the deepest ones up. */
static void sum_promises(struct engine *engine)
{
	struct tenants *tenants = &engine->tenants;
	unsigned int deepest = 0;
	struct tenant *tenant, *up;

	TAILQ_FOREACH(tenant, &tenants->list, link) {
		for (up = tenant->up; up; up = up->up)
			tenant->depth++;
		deepest = tenant->depth > deepest ? tenant->depth : deepest;
	}
	for (unsigned int depth = deepest + 1; depth-- > 0;)
		TAILQ_FOREACH(tenant, &tenants->list, link) {
			if (tenant->depth != depth)
				continue;
			tenant->promised_bytes = promise_of(tenant);
			if (tenant->up)
				tenant->up->below_bytes += tenant->promised_bytes;
			claim_sum(engine, tenant);
		}
}

/* It counts in those above it, or, with -1, does not any more. */
static void count(struct engine *engine, const struct tenant *tenant, unsigned int by)
{
	struct tenants *tenants = &engine->tenants;
	const struct tenant_share *share = &tenant->share;
	bool limited = false;

	for (int limit = 0; limit < FLOW_LIMITS; limit++)
		limited |= share->per_s[limit] > 0;
	tenants->limiting += limited ? by : 0;
	tenants->quoting += share->disk_bytes || share->day_bytes ? by : 0;
	atomic_store(&tenants->limits, tenants->limiting > 0);
	atomic_store(&tenants->quotas, tenants->quoting > 0);
	if (!share->min_bytes && !share->weight)
		return;
	tenants->weighing += by;
	for (struct tenant *up = tenant->up; up; up = up->up)
		up->weighing += by;
}

void tenants_end(struct engine *engine)
{
	struct tenant *tenant;

	sum_promises(engine);
	atomic_store(&engine->tenants.limits, false);
	atomic_store(&engine->tenants.quotas, false);
	TAILQ_FOREACH(tenant, &engine->tenants.list, link)
		count(engine, tenant, 1);
	lock_put(&engine->tenants.lock);
}

/* --- one of the tree ------------------------------------------------------------------------------------------- */

/* What is promised to one below it has become so much more; wraps round if it is less. */
static void promise_more(struct tenant *up, uint64_t more)
{
	for (; up && more; up = up->up) {
		up->below_bytes += more;
		more = promise_of(up) - up->promised_bytes;
		up->promised_bytes += more;
	}
}

/* With all that is charged to it. */
static void hang(struct engine *engine, struct tenant *tenant, struct tenant *up)
{
	tenant->up = up;
	tenant->depth = up ? up->depth + 1 : 0;
	add_along(up, tenant->used_bytes);
	tenants_place_stored(up, tenant->disk.bytes);
	promise_more(up, tenant->promised_bytes);
	count(engine, tenant, 1);
	claim_follow(engine, tenant);
}

static void unhang(struct engine *engine, struct tenant *tenant)
{
	count(engine, tenant, -1U);
	take_along(tenant->up, tenant->used_bytes);
	take_stored(tenant->up, tenant->disk.bytes);
	promise_more(tenant->up, -tenant->promised_bytes);
	claim_leave(engine, tenant);
}

void tenant_add(struct engine *engine, struct tenant *tenant, struct tenant *up, const struct tenant_share *share)
{
	LOCK_SCOPE(&engine->tenants.lock);

	tenants_put(engine, tenant, up, share);
	tenant->promised_bytes = promise_of(tenant);
	hang(engine, tenant, up);
}

void tenant_remove(struct engine *engine, struct tenant *tenant)
{
	LOCK_SCOPE(&engine->tenants.lock);

	assert(!tenant->used_bytes && !tenant->disk.bytes);
	unhang(engine, tenant);
	TAILQ_REMOVE(&engine->tenants.list, tenant, link);
	LIST_REMOVE(tenant, same);
}

void tenant_move(struct engine *engine, struct tenant *tenant, struct tenant *up, const struct tenant_share *share)
{
	LOCK_SCOPE(&engine->tenants.lock);

	unhang(engine, tenant);
	tenant->share = *share;
	tenant->disk.news++;
	tenant->promised_bytes = promise_of(tenant);
	hang(engine, tenant, up);
}

bool tenant_place(struct ramfile *file, struct tenant *tenant)
{
	struct tenant *before;

	LOCK_SCOPE(&file->engine->tenants.lock);

	before = file->charge.tenant;
	if (before == tenant)
		return false;
	take_along(before, file->charge.bytes);
	take_stored(before, stored_of(file));
	claim_follow(file->engine, before);
	tenants_place(file, tenant);
	claim_follow(file->engine, tenant);
	return true;
}

/* --- charging ------------------------------------------------------------------------------------------------ */

/* Under the lock. A file that alone is larger than what is kept free has to get on, too. */
static bool allows(struct engine *engine, struct tenant *tenant, uint64_t bytes, enum budget_need need)
{
	bool short_of_dram = (engine->tenants.limits || engine->tenants.quotas) &&
			     budget_free(&engine->budget) < budget_reserve_bytes(&engine->budget) / 2;
	uint64_t now_ns = short_of_dram ? clock_ns() : 0;
	const struct claim_change more = { .used_bytes = bytes };
	struct tenant *first = tenant;
	bool promised = false;

	if (engine->tenants.quotas && !engine_fits(engine) && !claim_allows(engine, tenant, &more))
		return claim_await(tenant);
	for (; tenant; tenant = tenant->up) {
		uint64_t max = tenant->share.max_bytes;
		uint64_t kept = need != BUDGET_OPTIONAL ? 0 : tenant_kept_of(max);

		promised |= tenant->used_bytes < tenant->promised_bytes;
		if (short_of_dram && !promised && (now_ns < tenant->held_until_ns || claim_is_stuck(engine, tenant)))
			return claim_await(first);
		if (max != UINT64_MAX && tenant->used_bytes + bytes + kept > max)
			return false;
	}
	return true;
}

/* Only who tells says that it was told; what is not near any more is told when it is again. */
static bool still_near(struct tenant *tenant)
{
	bool is = missing_of(tenant) > 0;

	tenant->near &= is;
	return is;
}

static bool tell_near(struct tenant *tenant)
{
	bool news = false;

	for (; tenant; tenant = tenant->up)
		if (!tenant->near && missing_of(tenant))
			news = tenant->near = true;
	return news;
}

/* Under the lock: where nothing is promised, and no limit of the store holds, nobody has a claim. */
static void follow_used(struct ramfile *file)
{
	if (file->engine->tenants.weighing || file->engine->tenants.quoting)
		claim_follow(file->engine, file->charge.tenant);
}

bool tenant_charge(struct ramfile *file, uint64_t bytes, enum budget_need need, bool *ret_near)
{
	LOCK_SCOPE(&file->engine->tenants.lock);

	if (!allows(file->engine, file->charge.tenant, bytes, need))
		return false;
	file->charge.bytes += bytes;
	add_along(file->charge.tenant, bytes);
	follow_used(file);
	*ret_near = tell_near(file->charge.tenant);
	return true;
}

bool tenant_charge_anyway(struct ramfile *file, uint64_t bytes)
{
	LOCK_SCOPE(&file->engine->tenants.lock);

	file->charge.bytes += bytes;
	add_along(file->charge.tenant, bytes);
	follow_used(file);
	return tell_near(file->charge.tenant);
}

void tenant_discharge(struct ramfile *file, uint64_t bytes)
{
	LOCK_SCOPE(&file->engine->tenants.lock);

	assert(file->charge.bytes >= bytes);
	file->charge.bytes -= bytes;
	take_along(file->charge.tenant, bytes);
	follow_used(file);
}

bool tenant_allows(struct ramfile *file, uint64_t bytes)
{
	LOCK_SCOPE(&file->engine->tenants.lock);

	return allows(file->engine, file->charge.tenant, bytes, BUDGET_MUST);
}

void tenant_pays(struct ramfile *file, uint64_t ino, uint64_t until_ns)
{
	struct tenants *tenants = &file->engine->tenants;
	struct tenant *tenant;

	LOCK_SCOPE(&tenants->lock);
	tenant = ino ? find(file->engine, ino) : NULL;
	if (ino && !tenant)
		return;
	*(tenant ? &tenant->pays_until_ns : &file->charge.pays_until_ns) = until_ns;
	atomic_store(&tenants->pays_until_ns, until_ns);
}

uint64_t tenant_pays_until(struct ramfile *file)
{
	struct tenants *tenants = &file->engine->tenants;
	uint64_t now_ns, until_ns;

	if (!atomic_load(&tenants->pays_until_ns))
		return 0;
	now_ns = clock_ns();
	LOCK_SCOPE(&tenants->lock);
	until_ns = file->charge.pays_until_ns;
	for (const struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		until_ns = tenant->pays_until_ns > until_ns ? tenant->pays_until_ns : until_ns;
	return until_ns > now_ns && atomic_load(&tenants->pays_until_ns) ? until_ns : 0;
}

bool tenant_is_spared(struct ramfile *file)
{
	struct tenants *tenants = &file->engine->tenants;
	uint64_t until_ns = atomic_load(&tenants->pays_until_ns);
	const struct tenant *tenant;

	if (!until_ns || clock_ns() >= until_ns || tenant_pays_until(file))
		return false;
	LOCK_SCOPE(&tenants->lock);
	tenant = file->charge.tenant;
	while (tenant && (!tenant->promised_bytes ||
			  tenant->used_bytes > tenant->promised_bytes + tenant->promised_bytes / LITTLE_PART))
		tenant = tenant->up;
	return tenant;
}

void tenant_hold(struct ramfile *file, uint64_t until_ns)
{
	LOCK_SCOPE(&file->engine->tenants.lock);

	for (struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		if (tenant->share.per_s[FLOW_WRITE_BYTES] &&
		    rate_due(&tenant->rate[FLOW_WRITE_BYTES], true) >= until_ns)
			tenant->held_until_ns = until_ns;
}

uint64_t tenant_promisable(struct engine *engine)
{
	return claim_most(engine);
}

/* --- for who makes room -------------------------------------------------------------------------------------- */

bool tenant_next_near(struct engine *engine, uint64_t now_ns, uint64_t *ino, uint64_t *ret_missing, uint64_t *due_ns)
{
	struct tenant *tenant, *next = NULL;

	LOCK_SCOPE(&engine->tenants.lock);
	TAILQ_FOREACH(tenant, &engine->tenants.list, link) {
		if (!still_near(tenant) || tenant->ino <= *ino || (next && tenant->ino > next->ino))
			continue;
		if (tenant->rest_until_ns <= now_ns)
			next = tenant;
		else if (tenant->rest_until_ns < *due_ns)
			*due_ns = tenant->rest_until_ns;
	}
	if (!next)
		return false;
	*ino = next->ino;
	*ret_missing = missing_of(next);
	return true;
}

void tenant_rest(struct engine *engine, uint64_t ino, uint64_t until_ns)
{
	struct tenant *tenant;

	LOCK_SCOPE(&engine->tenants.lock);
	tenant = find(engine, ino);
	if (!tenant)
		return;
	tenant->rest_until_ns = until_ns;
	/* All that it has may be in use: its files are not asked faster as long as half of what is kept free is. */
	if (tenant->share.max_bytes != UINT64_MAX &&
	    tenant->used_bytes + tenant_kept_of(tenant->share.max_bytes) / 2 <= tenant->share.max_bytes)
		tenant->near = false;
}

uint64_t tenant_gave(struct engine *engine, uint64_t ino, bool gave, uint64_t now_ns)
{
	struct tenant_stuck *stuck = &engine->tenants.stuck;
	struct tenant *tenant;

	LOCK_SCOPE(&engine->tenants.lock);
	tenant = ino ? find(engine, ino) : NULL;
	if (tenant)
		stuck = &tenant->stuck;
	if (gave) {
		*stuck = (struct tenant_stuck){ 0 };
		return 0;
	}
	if (!stuck->since_ns || now_ns >= stuck->asked_ns + ASKED_NS)
		stuck->since_ns = now_ns;
	stuck->asked_ns = now_ns;
	return now_ns - stuck->since_ns;
}

bool tenant_is_full(struct engine *engine, uint64_t ino)
{
	const struct tenant *tenant;

	if (!ino)
		return budget_free(&engine->budget) < engine->config.block_bytes;
	LOCK_SCOPE(&engine->tenants.lock);
	tenant = find(engine, ino);
	return tenant && tenant->share.max_bytes != UINT64_MAX &&
	       tenant->used_bytes + engine->config.block_bytes > tenant->share.max_bytes;
}

uint64_t tenant_missing(struct ramfile *file)
{
	uint64_t most = 0;

	LOCK_SCOPE(&file->engine->tenants.lock);
	for (struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		if (still_near(tenant) && missing_of(tenant) > most)
			most = missing_of(tenant);
	return most;
}

bool tenant_covers(struct engine *engine, uint64_t ino, struct ramfile *file)
{
	const struct tenant *tenant;

	if (!ino)
		return true;
	LOCK_SCOPE(&engine->tenants.lock);
	tenant = find(engine, ino);
	return tenant && ancestor(tenant, file->charge.tenant);
}

bool tenant_above(struct ramfile *file, uint64_t *ino, uint64_t *ret_max_bytes)
{
	const struct tenant *tenant;

	LOCK_SCOPE(&file->engine->tenants.lock);
	tenant = file->charge.tenant;
	while (*ino && tenant && tenant->ino != *ino)
		tenant = tenant->up;
	if (*ino && tenant)
		tenant = tenant->up;
	if (!tenant)
		return false;
	*ino = tenant->ino;
	*ret_max_bytes = tenant->share.max_bytes;
	return true;
}

bool tenant_weighs(struct engine *engine, uint64_t ino)
{
	const struct tenant *tenant;

	LOCK_SCOPE(&engine->tenants.lock);
	if (!ino)
		return engine->tenants.weighing;
	tenant = find(engine, ino);
	return tenant && tenant->weighing;
}

bool tenant_payer_of(struct engine *engine, uint64_t above, struct ramfile *file, struct tenant_payer *ret)
{
	const struct tenant *top, *tenant;

	LOCK_SCOPE(&engine->tenants.lock);
	top = above ? find(engine, above) : NULL;
	if (above && !top)
		return false;
	tenant = file->charge.tenant;
	if (tenant == top) {
		*ret = (struct tenant_payer){
			.ino = file->ino,
			.is_file = true,
			.used_bytes = file->charge.bytes,
			.weight = TENANT_WEIGHT,
			.file_bytes = file->charge.bytes,
		};
		return true;
	}
	while (tenant && tenant->up != top)
		tenant = tenant->up;
	if (!tenant)
		return false;
	*ret = (struct tenant_payer){
		.ino = tenant->ino,
		.used_bytes = tenant->used_bytes,
		.min_bytes = tenant->promised_bytes,
		.weight = weight_of(tenant),
		.file_bytes = file->charge.bytes,
	};
	return true;
}

uint64_t tenant_nearest(struct ramfile *file, uint32_t *ret_weight)
{
	const struct tenant *tenant;

	LOCK_SCOPE(&file->engine->tenants.lock);
	tenant = file->charge.tenant;
	*ret_weight = weight_of(tenant);
	return tenant ? tenant->ino : 0;
}

uint64_t tenant_write_limit(struct ramfile *file)
{
	uint64_t ino = 0;

	if (!atomic_load(&file->engine->tenants.limits))
		return 0;
	LOCK_SCOPE(&file->engine->tenants.lock);
	for (const struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		if (tenant->share.per_s[FLOW_WRITE_BYTES])
			ino = tenant->ino;
	return ino;
}

uint64_t tenant_passed(struct ramfile *file)
{
	LOCK_SCOPE(&file->engine->tenants.lock);

	return file->charge.tenant ? file->charge.tenant->passed : file->charge.passed;
}

void tenant_pass(struct ramfile *file, uint64_t others)
{
	struct tenant *tenant;
	uint64_t *passed, weight;

	LOCK_SCOPE(&file->engine->tenants.lock);
	tenant = file->charge.tenant;
	passed = tenant ? &tenant->passed : &file->charge.passed;
	weight = weight_of(tenant);
	if (*passed < others)
		*passed = others;
	*passed += TURN_COST / weight;
}

int tenant_used(struct engine *engine, uint64_t ino, uint64_t *ret_bytes)
{
	const struct tenant *tenant;

	LOCK_SCOPE(&engine->tenants.lock);
	tenant = find(engine, ino);
	if (!tenant)
		return -ENOENT;
	*ret_bytes = tenant->used_bytes;
	return 0;
}
