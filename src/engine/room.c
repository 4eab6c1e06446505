/* Room in the budget: when there is too little of it, who waits for it, and who is told.
 *
 * Faults wait parked (parked.c), and are taken up again by whoever serves faults; threads of the daemon wait in
 * room_wait() and its kin. The demoter is kicked by all of them.
 */
#include "engine/room.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"

/* Write back that waits looks again, says so, and, if nobody maps the file any more, goes on. */
#define WRITE_LOOK_NS (100 * NS_PER_MS)
#define WRITE_TELL_NS (2 * NS_PER_S)
#define WRITE_GIVE_UP_NS (5 * NS_PER_S)

/* Of the reserve: what who pays leaves to others. */
#define PAYER_LEAVES 4
/* Of the reserve: what the other faults of a file leave to urgent ones of it, for so long after one had to wait. */
#define URGENT_PART 16
#define URGENT_NS NS_PER_S
/* A reserve of less than so many blocks has no parts. */
#define PARTS_LEAST 32U

static bool less_free_than(struct engine *engine, unsigned int divisor)
{
	return budget_free(&engine->budget) < budget_reserve_bytes(&engine->budget) / divisor && !engine_fits(engine);
}

/* Half of the reserve is used: it is refilled whole. One walk over the tables then serves many blocks; refilling each
 * block as it is taken would cost a walk each. Where everything fits nobody needs a reserve. */
static bool reserve_used(struct engine *engine)
{
	return less_free_than(engine, 2);
}

/* --- a file's own limit ------------------------------------------------------------------------------------ */

void room_set_limit(struct ramfile *file, uint64_t bytes)
{
	uint64_t before;

	if (bytes >= engine_dram_bytes(file->engine))
		bytes = UINT64_MAX; /* the budget is less */
	before = atomic_exchange(&file->limit.bytes, bytes);
	atomic_fetch_add(&file->engine->room.limited, (before == UINT64_MAX) - (bytes == UINT64_MAX));
	if (before == UINT64_MAX && bytes != UINT64_MAX)
		log_info("file %llu: its mappers may have no more than %llu bytes of it in DRAM, by their memory "
			 "cgroup or "
			 "because they lock memory",
			 (unsigned long long)file->ino, (unsigned long long)bytes);
	if (bytes > before)
		room_announce(file->engine);
	if (room_missing_of(file)) {
		due_pull(file);
		engine_kick(file->engine);
	}
}

void room_set_growth(struct ramfile *file, uint64_t bytes)
{
	if (atomic_exchange(&file->limit.growth_bytes, bytes) < bytes)
		room_announce(file->engine);
}

uint64_t room_taken_by(struct ramfile *file)
{
	return atomic_load(&file->dram_blocks) * file->block_bytes;
}

bool room_allows(struct ramfile *file, uint64_t bytes, enum budget_need need)
{
	uint64_t limit = atomic_load(&file->limit.bytes);
	uint64_t kept = need != BUDGET_OPTIONAL ? 0 : tenant_kept_of(limit);

	if (room_taken_by(file) + bytes > atomic_load(&file->limit.growth_bytes) && !engine_fits(file->engine))
		return false;
	return limit == UINT64_MAX || room_taken_by(file) + bytes + kept <= limit;
}

uint64_t room_leaves_until(struct ramfile *file, uint64_t bytes, enum budget_need need)
{
	struct engine *engine = file->engine;
	uint64_t reserve = budget_reserve_bytes(&engine->budget), free_bytes = budget_free(&engine->budget), until_ns;

	if (need == BUDGET_OPTIONAL || free_bytes >= reserve / PAYER_LEAVES + bytes || engine_fits(engine) ||
	    reserve < PARTS_LEAST * file->block_bytes)
		return 0;
	until_ns = need == BUDGET_MUST && free_bytes < reserve / URGENT_PART + bytes
			   ? atomic_load(&file->limit.urgent_until_ns)
			   : 0;
	return until_ns > clock_ns() ? until_ns : tenant_pays_until(file);
}

void room_urgent(struct ramfile *file)
{
	atomic_store(&file->limit.urgent_until_ns, clock_ns() + URGENT_NS);
}

uint64_t room_missing_of(struct ramfile *file)
{
	uint64_t limit = atomic_load(&file->limit.bytes), kept = tenant_kept_of(limit), has;

	if (limit == UINT64_MAX)
		return 0;
	has = room_taken_by(file);
	if (has + kept / 2 <= limit) {
		atomic_store(&file->limit.near, false);
		return 0;
	}
	return has + kept - limit;
}

/* --- who waits ----------------------------------------------------------------------------------------------- */

void room_used(struct engine *engine)
{
	bool near = budget_free(&engine->budget) < engine_near_bytes(engine) && !atomic_load(&engine->room.near);

	if (near && !atomic_exchange(&engine->room.near, true))
		due_tell_scanner(engine);
	if (reserve_used(engine) && !atomic_exchange(&engine->room.pressed, true))
		engine_kick(engine);
}

void room_init(struct room *room)
{
	lock_init(&room->lock, LOCK_RANK_BUDGET);
	lock_cond_init(&room->wakeup);
	lock_cond_init(&room->reclaim);
	lock_cond_init(&room->freed);
	lock_cond_init(&room->squeeze);
	TAILQ_INIT(&room->parked);
}

void room_fini(struct room *room)
{
	struct parked *parked;

	while ((parked = TAILQ_FIRST(&room->parked))) {
		TAILQ_REMOVE(&room->parked, parked, link);
		free(parked);
	}
	pthread_cond_destroy(&room->wakeup);
	pthread_cond_destroy(&room->reclaim);
	pthread_cond_destroy(&room->freed);
	pthread_cond_destroy(&room->squeeze);
	lock_fini(&room->lock);
}

void room_on_room(struct engine *engine, room_fn *fn, void *arg)
{
	LOCK_SCOPE(&engine->room.lock);

	engine->room.on_room = fn;
	engine->room.on_room_arg = arg;
}

void room_on_limit(struct engine *engine, room_fn *fn, void *arg)
{
	LOCK_SCOPE(&engine->room.lock);

	engine->room.on_limit = fn;
	engine->room.on_limit_arg = arg;
}

void room_look_at_limits(struct engine *engine)
{
	LOCK_SCOPE(&engine->room.lock);

	if (engine->room.parked_own && engine->room.on_limit)
		engine->room.on_limit(engine->room.on_limit_arg);
}

void room_announce(struct engine *engine)
{
	LOCK_SCOPE(&engine->room.lock);

	if (engine->room.parked_count && engine->room.on_room)
		engine->room.on_room(engine->room.on_room_arg);
}

/* Under the lock of room.h. */
static void wake_waiters(struct engine *engine)
{
	if (engine->room.waiters || engine->room.own_waiters)
		pthread_cond_broadcast(&engine->room.freed);
}

void room_look_again(struct engine *engine, bool less)
{
	room_announce(engine);
	lock_get(&engine->room.lock);
	wake_waiters(engine);
	lock_put(&engine->room.lock);
	if (less)
		room_near(engine);
	else
		engine_kick(engine);
}

void room_near(struct engine *engine)
{
	due_pull_near(engine);
	engine_kick(engine);
	room_end_squeeze(engine); /* it may be the kernel's cache that it has to give up */
}

void room_force(struct ramfile *file, uint64_t bytes)
{
	if (!bytes)
		return;
	budget_force(&file->engine->budget, bytes);
	if (tenant_charge_anyway(file, bytes))
		room_near(file->engine);
}

void room_release(struct ramfile *file, uint64_t bytes)
{
	struct engine *engine = file->engine;

	if (!bytes)
		return;
	tenant_discharge(file, bytes);
	budget_release(&engine->budget, bytes);
	room_announce(engine);
	lock_get(&engine->room.lock);
	wake_waiters(engine);
	lock_put(&engine->room.lock);
}

static void sum_arenas(void *arg, struct ramfile *file)
{
	*(uint64_t *)arg += atomic_load(&file->dram_blocks) * file->block_bytes;
}

static bool has_room(struct ramfile *file, uint64_t bytes)
{
	return budget_free(&file->engine->budget) >= bytes && tenant_allows(file, bytes);
}

void room_wait(struct ramfile *file, uint64_t bytes, uint64_t deadline_ns)
{
	struct engine *engine = file->engine;
	bool late = false, own = budget_free(&engine->budget) >= bytes;
	unsigned int *waiters = own ? &engine->room.own_waiters : &engine->room.waiters;

	if (has_room(file, bytes) || !engine->thread_runs)
		return;
	atomic_fetch_add(&engine->room.waited_faults, 1);
	LOCK_SCOPE(&engine->room.lock);
	engine_wake_demoter(engine);
	(*waiters)++;
	while (!late && !has_room(file, bytes))
		late = lock_wait_until(&engine->room.lock, &engine->room.freed, deadline_ns) != 0;
	(*waiters)--;
}

void room_wait_staged(struct engine *engine, unsigned int divisor, uint64_t deadline_ns)
{
	uint64_t most = atomic_load(&engine->budget.limit_bytes) / divisor;
	uint64_t staged = 0;
	bool late = false;

	if (!engine->thread_runs) /* nobody would make room */
		return;
	engine_each_resident(engine, sum_arenas, &staged);
	while (!late && staged > most && reserve_used(engine)) {
		lock_get(&engine->room.lock);
		engine_wake_demoter(engine);
		engine->room.waiters++;
		late = lock_wait_until(&engine->room.lock, &engine->room.freed, deadline_ns) != 0;
		engine->room.waiters--;
		lock_put(&engine->room.lock);
		staged = 0;
		engine_each_resident(engine, sum_arenas, &staged);
	}
}

struct staged {
	uint64_t holder; /* who keeps them from the store, 0: nobody */
	uint64_t bytes;
	uint64_t look, holders; /* how many hold some */
};

/* The file has a part in what is staged. */
static uint64_t holder_of(struct ramfile *file, struct staged *staged)
{
	uint64_t holder;
	bool first;

	flow_holds_back(file); /* his tenants know it then */
	holder = claim_holder(file, staged->look, &first);
	staged->holders += first;
	return holder;
}

/* Copies of what plain mappings have written back. */
static void sum_staged(void *arg, struct ramfile *file)
{
	struct staged *staged = arg;

	if (atomic_load(&file->cache.was_cached) && holder_of(file, staged) == staged->holder)
		staged->bytes += room_taken_by(file);
}

/* What the arenas have now of who holds that file's, and how many do so. */
static struct staged look_at_staged(struct ramfile *file)
{
	struct staged staged = { .look = atomic_fetch_add(&file->engine->room.staged_looks, 1) + 1 };

	staged.holder = holder_of(file, &staged);
	engine_each_resident(file->engine, sum_staged, &staged);
	return staged;
}

/* Under the lock of room.h: there is room for it now, by what the arenas had just before. Those who may not write to
 * the store have half of the budget together, and each a part of that. */
static bool let_in(struct engine *engine, uint64_t bytes, const struct staged *staged, bool anyway)
{
	uint64_t others = (engine->thread_runs ? staged->bytes : 0) + engine->room.writing_bytes;
	uint64_t most = engine_dram_bytes(engine) / 2 / (staged->holder ? staged->holders : 1);

	if (!anyway && others && others + bytes > most)
		return false;
	engine->room.writing_bytes += bytes;
	return true;
}

void room_begin_write_back(struct ramfile *file, uint64_t bytes, bool mapped)
{
	struct engine *engine = file->engine;
	uint64_t began_ns = clock_ns();
	bool in = false, waits = false, tell;

	while (!in) {
		struct staged staged = look_at_staged(file);
		bool late = !mapped && clock_ns() >= began_ns + WRITE_GIVE_UP_NS;
		bool leaves = !engine->thread_runs || claim_leaves(file, bytes);

		lock_get(&engine->room.lock);
		in = (leaves || late) && let_in(engine, bytes, &staged, !reserve_used(engine) || late);
		engine->room.waiting_writes += !in && !waits;
		engine->room.waiting_writes -= in && waits;
		waits = !in;
		tell = waits && !engine->room.write_told && clock_ns() >= began_ns + WRITE_TELL_NS;
		engine->room.write_told = engine->room.waiting_writes && (engine->room.write_told || tell);
		if (waits) {
			engine_wake_demoter(engine);
			engine->room.waiters++;
			lock_wait_until(&engine->room.lock, &engine->room.freed, clock_ns() + WRITE_LOOK_NS);
			engine->room.waiters--;
		}
		lock_put(&engine->room.lock);
		if (tell)
			log_warn("what plain mappings wrote has to wait: half of the budget is in copies that the "
				 "store has not taken; is its disk full, or a share used up?");
	}
}

void room_end_write_back(struct engine *engine, uint64_t bytes)
{
	LOCK_SCOPE(&engine->room.lock);

	engine->room.writing_bytes -= bytes;
	if (engine->room.waiters)
		pthread_cond_broadcast(&engine->room.freed);
}

uint64_t room_wait_squeeze(struct engine *engine, uint64_t deadline_ns)
{
	uint64_t reserve, free_bytes;
	bool late = false;

	atomic_store(&engine->room.evictor_tid, gettid());
	LOCK_SCOPE(&engine->room.lock);
	for (;;) {
		reserve = budget_reserve_bytes(&engine->budget);
		free_bytes = budget_free(&engine->budget);
		if (free_bytes < reserve || late || engine->room.squeeze_ends)
			break;
		late = lock_wait_until(&engine->room.lock, &engine->room.squeeze, deadline_ns) != 0;
	}
	engine->room.squeeze_ends = false;
	return free_bytes < reserve ? reserve - free_bytes : 0;
}

void room_set_evictor(struct engine *engine, bool on)
{
	atomic_store(&engine->room.evictor, on);
}

bool room_has_evictor(struct engine *engine)
{
	return atomic_load(&engine->room.evictor);
}

bool room_is_evictor(struct engine *engine)
{
	return atomic_load(&engine->room.evictor_tid) == gettid();
}

void room_end_squeeze(struct engine *engine)
{
	LOCK_SCOPE(&engine->room.lock);

	engine->room.squeeze_ends = true;
	pthread_cond_broadcast(&engine->room.squeeze);
}

/* In which order they are asked for. */
enum plain_kind { PLAIN_WANTED, PLAIN_NEAR, PLAIN_REST, PLAIN_KINDS };

struct plain_list {
	uint64_t *ino;
	size_t count, max;
	unsigned int kind;
};

/* Under lock. Somebody who waits for the evictor waits for its answer, also if the kernel has nothing any more. */
static unsigned int plain_kind(struct ramfile *file)
{
	if (file->cache.evict_wanted)
		return PLAIN_WANTED;
	if (!file->cache.opens && !file->blocks.cached && !file->cache.unknown)
		return PLAIN_KINDS;
	return tenant_missing(file) ? PLAIN_NEAR : PLAIN_REST;
}

static void list_plain(void *arg, struct ramfile *file)
{
	struct plain_list *list = arg;

	LOCK_SCOPE(&file->lock);
	if (plain_kind(file) == list->kind && list->count < list->max)
		list->ino[list->count++] = file->ino;
}

size_t room_plain_files(struct engine *engine, uint64_t *ret_ino, size_t max)
{
	struct plain_list list = { .ino = ret_ino, .max = max };

	for (; list.kind < PLAIN_KINDS; list.kind++)
		engine_each_file(engine, list_plain, &list);
	return list.count;
}

uint64_t room_parked(struct engine *engine)
{
	LOCK_SCOPE(&engine->room.lock);

	return engine->room.parked_count;
}

uint64_t room_waiting_writes(struct engine *engine)
{
	LOCK_SCOPE(&engine->room.lock);

	return engine->room.waiting_writes;
}

bool room_own_wanted(struct engine *engine)
{
	LOCK_SCOPE(&engine->room.lock);

	return engine->room.parked_own || engine->room.own_waiters;
}

bool room_wanted(struct engine *engine)
{
	if (less_free_than(engine, 4))
		return true;
	LOCK_SCOPE(&engine->room.lock);

	return engine->room.parked_count > engine->room.parked_own || engine->room.waiters;
}

bool room_pressed(struct engine *engine)
{
	return reserve_used(engine) || room_wanted(engine);
}
