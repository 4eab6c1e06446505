/* Limits of what is stored and of what is written. quota.h has the rules.
 *
 * What is stored of a file is the sum that its table has (mem/blocks.h); it is added along its tenants whenever it has
 * changed, under the lock of the file, so that no reader of the table sees another sum there. While a put is on its way
 * its growth counts already: two that come at a time cannot both have what is left.
 */
#include "engine/quota.h"

#include <errno.h>

#include "base/log.h"
#include "base/size.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/room.h"

/* It is said to have ended with that part free. */
#define RELIEF_PART 16

enum news { NEWS_FULL, NEWS_USED_UP, NEWS_NEEDED, NEWS_ROOM, NEWS_NEXT_DAY };

/* What there is to say when the lock is put: of each tenant two things at the most, as it was told nothing else. What
 * has no place is found again. */
#define TOLD_MAX 16
struct told {
	struct told_one {
		enum news news;
		uint64_t ino, limit_bytes;
	} list[TOLD_MAX];
	size_t count;
};

static bool holds(struct engine *engine)
{
	return atomic_load(&engine->tenants.quotas) && !atomic_load(&engine->flows.lifted);
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* Once when it begins, and once when it ends. Without the lock of tenants. */
static void tell_one(const struct told_one *told)
{
	unsigned long long ino = told->ino;
	char limit[SIZE_TEXT_LEN];

	size_format(told->limit_bytes, limit);
	switch (told->news) {
	case NEWS_FULL:
		log_warn("inode %llu: what is stored of it has come to its disk.max, %s: what does not fit is refused, "
			 "or stays in its DRAM, until some of it is removed",
			 ino, limit);
		break;
	case NEWS_USED_UP:
		log_warn("inode %llu: its cold.write_day, %s, is used up: what would have to be written stays in its "
			 "DRAM until less was written in the last 24 hours",
			 ino, limit);
		break;
	case NEWS_NEEDED:
		log_warn("inode %llu: what is left of its disk.max or cold.write_day is needed by what it has in DRAM, "
			 "or others would not get their dram.min: more is refused until it has less there",
			 ino);
		break;
	case NEWS_ROOM:
		log_info("inode %llu: what is stored of it is below its disk.max again", ino);
		break;
	case NEWS_NEXT_DAY:
		log_info("inode %llu: of its cold.write_day some is left again", ino);
		break;
	}
}

static void tell(const struct told *told)
{
	for (size_t i = 0; i < told->count; i++)
		tell_one(&told->list[i]);
}

/* Under the lock: it becomes known, if there is a place to say so. */
static void note(struct told *told, bool *known, bool now, enum news news, uint64_t ino, uint64_t limit_bytes)
{
	if (*known == now || told->count == TOLD_MAX)
		return;
	*known = now;
	told->list[told->count++] = (struct told_one){ news, ino, limit_bytes };
}

/* --- under the lock of tenants -------------------------------------------------------------------------------- */

/* Whether the tenant refuses it, and what there is to say of that. */
static bool refuses(const struct tenants *tenants, struct tenant *tenant, enum quota_need need, uint64_t growth_bytes,
		    uint64_t put_bytes, struct told *told)
{
	struct tenant_disk *disk = &tenant->disk;

	if (growth_bytes > claim_disk_left(tenant)) {
		if (!disk->told_full)
			disk->refused_bytes = growth_bytes;
		note(told, &disk->told_full, true, NEWS_FULL, tenant->ino, tenant->share.disk_bytes);
		return true;
	}
	if (need != QUOTA_DEMOTION || !put_bytes || put_bytes <= claim_day_left(tenants, tenant))
		return false;
	note(told, &disk->told_used_up, true, NEWS_USED_UP, tenant->ino, tenant->share.day_bytes);
	return true;
}

/* What was said of it is not so any more. */
static void look_relieved(const struct tenants *tenants, struct tenant *tenant, struct told *told)
{
	struct tenant_disk *disk = &tenant->disk;

	/* What was refused would have room, and some more: who comes with the same again and again is told once. */
	if (disk->told_full &&
	    less(claim_disk_left(tenant), disk->refused_bytes) > tenant->share.disk_bytes / RELIEF_PART)
		note(told, &disk->told_full, false, NEWS_ROOM, tenant->ino, tenant->share.disk_bytes);
	if (disk->told_used_up && claim_day_left(tenants, tenant) > tenant->share.day_bytes / RELIEF_PART)
		note(told, &disk->told_used_up, false, NEWS_NEXT_DAY, tenant->ino, tenant->share.day_bytes);
}

/* Whoever writes by a call may not use up what his memory needs, where then others did not get what they were promised.
 */
static bool breaks_promises(struct ramfile *file, enum quota_need need, uint64_t growth_bytes, uint64_t put_bytes,
			    struct told *told)
{
	const struct claim_change more = { .stored_bytes = growth_bytes, .written_bytes = put_bytes };
	struct tenant *tenant = file->charge.tenant;

	if (need != QUOTA_CALL || engine_fits(file->engine) || claim_allows(file->engine, tenant, &more))
		return false;
	note(told, &tenant->disk.told_needed, true, NEWS_NEEDED, tenant->ino, 0);
	return true;
}

static void take(struct tenants *tenants, struct ramfile *file, uint64_t growth_bytes, uint64_t put_bytes)
{
	file->charge.putting_bytes += growth_bytes;
	for (struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up) {
		tenant->disk.bytes += growth_bytes;
		if (!tenant->share.day_bytes || !put_bytes)
			continue;
		wear_add(&tenant->disk.wear, put_bytes, tenants->now_ns());
		tenant->disk.unsaved = true;
	}
	claim_follow(file->engine, file->charge.tenant);
}

/* --- around a put ----------------------------------------------------------------------------------------------- */

int quota_take(struct ramfile *file, enum quota_need need, uint64_t growth_bytes, uint64_t put_bytes,
	       uint64_t *ret_taken)
{
	struct tenants *tenants = &file->engine->tenants;
	struct told told = { .count = 0 };
	bool refused = false;

	*ret_taken = 0;
	if (!atomic_load(&tenants->quotas))
		return 0;
	if (!holds(file->engine))
		need = QUOTA_ANYWAY;
	lock_get(&tenants->lock);
	for (struct tenant *tenant = file->charge.tenant; tenant && !refused; tenant = tenant->up) {
		look_relieved(tenants, tenant, &told);
		refused = need != QUOTA_ANYWAY && refuses(tenants, tenant, need, growth_bytes, put_bytes, &told);
	}
	refused = refused || breaks_promises(file, need, growth_bytes, put_bytes, &told);
	if (!refused)
		take(tenants, file, growth_bytes, put_bytes);
	lock_put(&tenants->lock);
	tell(&told);
	if (!refused)
		*ret_taken = growth_bytes;
	return refused ? -EDQUOT : 0;
}

static void settle(struct ramfile *file, uint64_t stored, uint64_t taken_bytes)
{
	struct tenants *tenants = &file->engine->tenants;
	struct charge *charge = &file->charge;
	uint64_t before, after;
	struct told told = { .count = 0 };
	bool waited_for = false;

	if (!taken_bytes && charge->stored_bytes == stored)
		return;
	lock_get(&tenants->lock);
	before = charge->stored_bytes + charge->putting_bytes;
	charge->stored_bytes = stored;
	charge->putting_bytes -= taken_bytes;
	after = charge->stored_bytes + charge->putting_bytes;
	for (struct tenant *tenant = charge->tenant; tenant; tenant = tenant->up) {
		tenant->disk.bytes = tenant->disk.bytes - before + after;
		waited_for |= after < before && tenant->disk.waits;
		if (after < before) {
			tenant->disk.waits = tenant->disk.told_needed = false;
			tenant->disk.news++;
		}
		look_relieved(tenants, tenant, &told);
	}
	claim_follow(file->engine, charge->tenant);
	lock_put(&tenants->lock);
	tell(&told);
	if (waited_for)
		room_look_again(file->engine, false);
}

void quota_settle(struct ramfile *file, uint64_t taken_bytes)
{
	settle(file, file->blocks.stored_total_bytes, taken_bytes);
}

void quota_leave(struct ramfile *file)
{
	settle(file, 0, file->charge.putting_bytes);
}

void quota_refuse(struct ramfile *file, uint64_t growth_bytes)
{
	struct tenants *tenants = &file->engine->tenants;
	struct told told = { .count = 0 };

	lock_get(&tenants->lock);
	for (struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		refuses(tenants, tenant, QUOTA_CALL, growth_bytes, 0, &told);
	lock_put(&tenants->lock);
	tell(&told);
}

uint64_t quota_left(struct ramfile *file)
{
	uint64_t left = UINT64_MAX;

	if (!holds(file->engine))
		return UINT64_MAX;
	LOCK_SCOPE(&file->engine->tenants.lock);
	for (const struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		if (claim_disk_left(tenant) < left)
			left = claim_disk_left(tenant);
	return left;
}

/* --- for who chooses, and for who tells ------------------------------------------------------------------------- */

struct quota_choice quota_choice(struct ramfile *file)
{
	struct tenants *tenants = &file->engine->tenants;
	struct quota_choice choice = { .stored_only = false };
	struct told told = { .count = 0 };
	unsigned int choosy = 0;

	if (!holds(file->engine))
		return choice;
	lock_get(&tenants->lock);
	for (struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up) {
		uint64_t block_bytes = file->block_bytes;
		unsigned int by = !tenant->share.day_bytes
					  ? 0
					  : wear_choosy(&tenant->disk.wear, tenant->share.day_bytes, tenants->now_ns());

		choosy = by > choosy ? by : choosy;
		look_relieved(tenants, tenant, &told);
		choice.stored_only |= refuses(tenants, tenant, QUOTA_DEMOTION, block_bytes, block_bytes, &told);
	}
	lock_put(&tenants->lock);
	tell(&told);
	choice.older = choosy ? 1U << choosy : 0;
	return choice;
}

uint64_t quota_news(struct ramfile *file)
{
	uint64_t news = 0;

	LOCK_SCOPE(&file->engine->tenants.lock);
	for (const struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		news += tenant->disk.news;
	return news;
}

void quota_figures(struct engine *engine, struct tenant *tenant, struct quota_figures *ret)
{
	struct tenants *tenants = &engine->tenants;
	struct quota_figures figures = { .stored_left_bytes = UINT64_MAX,
					 .written_left_bytes = UINT64_MAX,
					 .next_free_ns = UINT64_MAX };

	LOCK_SCOPE(&tenants->lock);
	figures.stored_bytes = tenant ? tenant->disk.bytes : 0;
	for (; tenant; tenant = tenant->up) {
		uint64_t now_ns = tenants->now_ns();

		if (claim_disk_left(tenant) < figures.stored_left_bytes)
			figures.stored_left_bytes = claim_disk_left(tenant);
		if (claim_day_left(tenants, tenant) >= figures.written_left_bytes)
			continue;
		figures.written_left_bytes = claim_day_left(tenants, tenant);
		figures.written_bytes = wear_used(&tenant->disk.wear, now_ns);
		figures.next_free_ns = wear_next_free_ns(&tenant->disk.wear, now_ns);
	}
	*ret = figures;
}

bool quota_wear(struct engine *engine, struct tenant *tenant, bool all, struct wear *ret, uint64_t *ret_into_hour_ns)
{
	uint64_t now_ns = engine->tenants.now_ns();

	LOCK_SCOPE(&engine->tenants.lock);
	if (!tenant->share.day_bytes || !(all || tenant->disk.unsaved))
		return false;
	tenant->disk.unsaved = false;
	wear_used(&tenant->disk.wear, now_ns);
	*ret = tenant->disk.wear;
	*ret_into_hour_ns = less(now_ns, ret->began_ns);
	return true;
}

void quota_wear_unsaved(struct engine *engine, struct tenant *tenant)
{
	LOCK_SCOPE(&engine->tenants.lock);

	tenant->disk.unsaved = true;
}

void quota_set_wear(struct engine *engine, struct tenant *tenant, const struct wear *wear, uint64_t into_hour_ns)
{
	LOCK_SCOPE(&engine->tenants.lock);

	tenant->disk.wear = *wear;
	wear_resume(&tenant->disk.wear, into_hour_ns, engine->tenants.now_ns());
	claim_follow(engine, tenant);
}
