/* What of DRAM others cannot get. claim.h has the rules. Differences may be negative: they wrap round, and so does what
 * they are added to. */
#include "engine/claim.h"

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/tenant.h"

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

uint64_t claim_disk_left(const struct tenant *tenant)
{
	uint64_t most = tenant->share.disk_bytes;

	return most ? less(most, tenant->disk.bytes) : UINT64_MAX;
}

uint64_t claim_day_left(const struct tenants *tenants, struct tenant *tenant)
{
	uint64_t most = tenant->share.day_bytes;

	return most ? less(most, wear_used(&tenant->disk.wear, tenants->now_ns())) : UINT64_MAX;
}

uint64_t claim_most(struct engine *engine)
{
	uint64_t dram = atomic_load(&engine->budget.limit_bytes), kept = budget_reserve_bytes(&engine->budget);

	return less(dram, kept);
}

/* What it has in DRAM and can never write, as far as is known now. */
static uint64_t held_by(const struct engine *engine, struct tenant *tenant, const struct claim_change *change,
			uint64_t unmet_below)
{
	uint64_t disk, day, left;

	if ((!tenant->share.disk_bytes && !tenant->share.day_bytes) || atomic_load(&engine->flows.lifted))
		return 0;
	disk = claim_disk_left(tenant);
	day = claim_day_left(&engine->tenants, tenant);
	disk = disk == UINT64_MAX ? disk : less(disk, change->stored_bytes);
	day = day == UINT64_MAX ? day : less(day, change->written_bytes);
	left = disk < day ? disk : day;
	return less(tenant->used_bytes + change->used_bytes + unmet_below, left);
}

/* What the claim would be, those below having that. */
static struct claim claim_of(const struct engine *engine, struct tenant *tenant, const struct claim_change *change,
			     uint64_t below, uint64_t unmet_below)
{
	struct claim claim = { .below_bytes = below, .unmet_below_bytes = unmet_below };

	claim.bytes = larger(tenant->promised_bytes, below);
	claim.bytes = larger(claim.bytes, held_by(engine, tenant, change, unmet_below));
	claim.unmet_bytes = less(claim.bytes, tenant->used_bytes + change->used_bytes);
	return claim;
}

/* What lies above it is told of the difference. */
static void change_to(struct engine *engine, struct tenant *tenant, const struct claim *claim)
{
	if (tenant->up) {
		tenant->up->claim.below_bytes += claim->bytes - tenant->claim.bytes;
		tenant->up->claim.unmet_below_bytes += claim->unmet_bytes - tenant->claim.unmet_bytes;
	} else {
		engine->tenants.claimed_bytes += claim->bytes - tenant->claim.bytes;
	}
	tenant->claim.bytes = claim->bytes;
	tenant->claim.unmet_bytes = claim->unmet_bytes;
}

void claim_sum(struct engine *engine, struct tenant *tenant)
{
	const struct claim_change none = { 0 };
	struct claim claim = claim_of(engine, tenant, &none, tenant->claim.below_bytes,
				      tenant->claim.unmet_below_bytes);

	change_to(engine, tenant, &claim);
}

void claim_follow(struct engine *engine, struct tenant *tenant)
{
	for (; tenant; tenant = tenant->up)
		claim_sum(engine, tenant);
}

void claim_leave(struct engine *engine, struct tenant *tenant)
{
	const struct claim nothing = { 0 };

	change_to(engine, tenant, &nothing);
	claim_follow(engine, tenant->up);
}

bool claim_allows(struct engine *engine, struct tenant *tenant, const struct claim_change *change)
{
	uint64_t more = 0, more_unmet = 0;

	for (; tenant; tenant = tenant->up) {
		struct claim now = claim_of(engine, tenant, change, tenant->claim.below_bytes + more,
					    tenant->claim.unmet_below_bytes + more_unmet);

		more = now.bytes - tenant->claim.bytes;
		more_unmet = now.unmet_bytes - tenant->claim.unmet_bytes;
	}
	return (int64_t)more <= 0 || engine->tenants.claimed_bytes + more <= claim_most(engine);
}

bool claim_is_stuck(struct engine *engine, struct tenant *tenant)
{
	uint64_t block_bytes = engine->config.block_bytes;

	return !atomic_load(&engine->flows.lifted) &&
	       (claim_disk_left(tenant) < block_bytes || claim_day_left(&engine->tenants, tenant) < block_bytes);
}

bool claim_await(struct tenant *tenant)
{
	for (; tenant; tenant = tenant->up)
		tenant->disk.waits |= tenant->share.disk_bytes || tenant->share.day_bytes;
	return false;
}

/* --- of a file --------------------------------------------------------------------------------------------------- */

bool claim_stays(struct ramfile *file)
{
	struct tenant *tenant;

	if (!atomic_load(&file->engine->tenants.quotas))
		return false;
	LOCK_SCOPE(&file->engine->tenants.lock);
	for (tenant = file->charge.tenant; tenant && !claim_is_stuck(file->engine, tenant); tenant = tenant->up)
		;
	return tenant;
}

uint64_t claim_holder(struct ramfile *file, uint64_t look, bool *ret_first)
{
	struct engine *engine = file->engine;
	struct tenant *holder = NULL;
	uint64_t now_ns;

	*ret_first = false;
	if (!atomic_load(&engine->tenants.quotas) && !atomic_load(&engine->tenants.limits))
		return 0;
	now_ns = clock_ns();
	LOCK_SCOPE(&engine->tenants.lock);
	for (struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		if (now_ns < tenant->held_until_ns || claim_is_stuck(engine, tenant))
			holder = tenant;
	if (!holder)
		return 0;
	*ret_first = holder->look != look;
	holder->look = look;
	return holder->ino;
}

bool claim_leaves(struct ramfile *file, uint64_t bytes)
{
	const struct claim_change more = { .used_bytes = bytes };
	struct engine *engine = file->engine;

	if (!atomic_load(&engine->tenants.quotas) || engine_fits(engine))
		return true;
	LOCK_SCOPE(&engine->tenants.lock);
	return claim_allows(engine, file->charge.tenant, &more) || claim_await(file->charge.tenant);
}
