/* Room in the budget: when there is too little of it, who waits for it, and who is told.
 *
 * Faults wait parked (parked.c), and are taken up again by whoever serves faults; threads of the daemon wait in
 * room_wait() and its kin. The demoter is kicked by all of them.
 */
#include "engine/room.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"

/* Of a file's own limit. */
#define LIMIT_KEPT_MIN (UINT64_C(512) << 10)
#define LIMIT_KEPT_MAX (UINT64_C(64) << 20)
/* Write back that waits looks again, says so, and, if nobody maps the file any more, goes on. */
#define WRITE_LOOK_NS (100 * NS_PER_MS)
#define WRITE_TELL_NS (2 * NS_PER_S)
#define WRITE_GIVE_UP_NS (5 * NS_PER_S)

static bool less_free_than(struct tier *tier, unsigned int divisor)
{
	return budget_free(&tier->budget) < budget_reserve_bytes(&tier->budget) / divisor && !tier_fits(tier);
}

/* Half of the reserve is used: it is refilled whole. One walk over the tables then serves many blocks; refilling each
 * block as it is taken would cost a walk each. Where everything fits nobody needs a reserve. */
static bool reserve_used(struct tier *tier)
{
	return less_free_than(tier, 2);
}

/* --- a file's own limit ------------------------------------------------------------------------------------ */

void room_set_limit(struct ramfile *file, uint64_t bytes)
{
	uint64_t before;

	if (bytes >= tier_dram_bytes(file->tier))
		bytes = UINT64_MAX; /* the budget is less */
	before = atomic_exchange(&file->limit_bytes, bytes);
	if (before == UINT64_MAX && bytes != UINT64_MAX)
		log_info("file %llu: its mappers may have no more than %llu bytes of it in DRAM, by their memory "
			 "cgroup or "
			 "because they lock memory",
			 (unsigned long long)file->ino, (unsigned long long)bytes);
	if (bytes > before)
		room_announce(file->tier);
	if (room_missing_of(file))
		tier_kick(file->tier);
}

void room_set_growth(struct ramfile *file, uint64_t bytes)
{
	if (atomic_exchange(&file->growth_bytes, bytes) < bytes)
		room_announce(file->tier);
}

uint64_t room_taken_by(struct ramfile *file)
{
	return atomic_load(&file->dram_blocks) * file->block_bytes;
}

/* What of a limit is kept free for faults. */
static uint64_t kept_of(uint64_t limit)
{
	uint64_t kept = limit / 16;

	return kept < LIMIT_KEPT_MIN ? LIMIT_KEPT_MIN : kept < LIMIT_KEPT_MAX ? kept : LIMIT_KEPT_MAX;
}

bool room_allows(struct ramfile *file, uint64_t bytes, enum budget_need need)
{
	uint64_t limit = atomic_load(&file->limit_bytes);
	uint64_t kept = need == BUDGET_MUST ? 0 : kept_of(limit);

	if (room_taken_by(file) + bytes > atomic_load(&file->growth_bytes) && !tier_fits(file->tier))
		return false;
	return limit == UINT64_MAX || room_taken_by(file) + bytes + kept <= limit;
}

uint64_t room_missing_of(struct ramfile *file)
{
	uint64_t limit = atomic_load(&file->limit_bytes), kept = kept_of(limit), has;

	if (limit == UINT64_MAX)
		return 0;
	has = room_taken_by(file);
	if (has + kept / 2 <= limit) {
		atomic_store(&file->limit_near, false);
		return 0;
	}
	return has + kept - limit;
}

/* --- who waits ----------------------------------------------------------------------------------------------- */

void room_used(struct tier *tier)
{
	if (reserve_used(tier) && !atomic_exchange(&tier->pressed, true))
		tier_kick(tier);
}

void room_on_room(struct tier *tier, room_fn *fn, void *arg)
{
	LOCK_SCOPE(&tier->parked_lock);

	tier->on_room = fn;
	tier->on_room_arg = arg;
}

void room_on_limit(struct tier *tier, room_fn *fn, void *arg)
{
	LOCK_SCOPE(&tier->parked_lock);

	tier->on_limit = fn;
	tier->on_limit_arg = arg;
}

void room_look_at_limits(struct tier *tier)
{
	LOCK_SCOPE(&tier->parked_lock);

	if (tier->parked_own && tier->on_limit)
		tier->on_limit(tier->on_limit_arg);
}

void room_announce(struct tier *tier)
{
	LOCK_SCOPE(&tier->parked_lock);

	if (tier->parked_count && tier->on_room)
		tier->on_room(tier->on_room_arg);
}

void room_release(struct tier *tier, uint64_t bytes)
{
	if (!bytes)
		return;
	budget_release(&tier->budget, bytes);
	room_announce(tier);
	lock_get(&tier->parked_lock);
	if (tier->room_waiters)
		pthread_cond_broadcast(&tier->room);
	lock_put(&tier->parked_lock);
}

static void sum_arenas(void *arg, struct ramfile *file)
{
	*(uint64_t *)arg += atomic_load(&file->dram_blocks) * file->block_bytes;
}

void room_wait(struct tier *tier, uint64_t bytes, uint64_t deadline_ns)
{
	bool late = false;

	if (budget_free(&tier->budget) >= bytes || !tier->thread_runs)
		return;
	atomic_fetch_add(&tier->waited_faults, 1);
	LOCK_SCOPE(&tier->parked_lock);
	tier_wake_demoter(tier);
	tier->room_waiters++;
	while (!late && budget_free(&tier->budget) < bytes)
		late = lock_wait_until(&tier->parked_lock, &tier->room, deadline_ns) != 0;
	tier->room_waiters--;
}

void room_wait_staged(struct tier *tier, unsigned int divisor, uint64_t deadline_ns)
{
	uint64_t most = atomic_load(&tier->budget.limit_bytes) / divisor;
	uint64_t staged = 0;
	bool late = false;

	if (!tier->thread_runs) /* nobody would make room */
		return;
	tier_each_resident(tier, sum_arenas, &staged);
	while (!late && staged > most && reserve_used(tier)) {
		lock_get(&tier->parked_lock);
		tier_wake_demoter(tier);
		tier->room_waiters++;
		late = lock_wait_until(&tier->parked_lock, &tier->room, deadline_ns) != 0;
		tier->room_waiters--;
		lock_put(&tier->parked_lock);
		staged = 0;
		tier_each_resident(tier, sum_arenas, &staged);
	}
}

/* Copies of what plain mappings have written back. */
static void sum_staged(void *arg, struct ramfile *file)
{
	if (atomic_load(&file->was_cached))
		*(uint64_t *)arg += room_taken_by(file);
}

/* Under parked_lock: there is room for it now, by what the arenas had just before. */
static bool let_in(struct tier *tier, uint64_t bytes, uint64_t staged, bool anyway)
{
	uint64_t others = staged + tier->writing_bytes;

	if (!anyway && others && others + bytes > tier_dram_bytes(tier) / 2)
		return false;
	tier->writing_bytes += bytes;
	return true;
}

void room_begin_write_back(struct tier *tier, uint64_t bytes, bool held)
{
	uint64_t began_ns = clock_ns();
	bool in = false, waits = false, tell;

	while (!in) {
		uint64_t staged = 0;

		tier_each_resident(tier, sum_staged, &staged);
		lock_get(&tier->parked_lock);
		in = let_in(tier, bytes, tier->thread_runs ? staged : 0,
			    !reserve_used(tier) || (!held && clock_ns() >= began_ns + WRITE_GIVE_UP_NS));
		tier->waiting_writes += !in && !waits;
		tier->waiting_writes -= in && waits;
		waits = !in;
		tell = waits && !tier->write_told && clock_ns() >= began_ns + WRITE_TELL_NS;
		tier->write_told = tier->waiting_writes && (tier->write_told || tell);
		if (waits) {
			tier_wake_demoter(tier);
			tier->room_waiters++;
			lock_wait_until(&tier->parked_lock, &tier->room, clock_ns() + WRITE_LOOK_NS);
			tier->room_waiters--;
		}
		lock_put(&tier->parked_lock);
		if (tell)
			log_warn("what plain mappings wrote has to wait: half of the budget is in copies that the "
				 "store has not "
				 "taken; is its disk full?");
	}
}

void room_end_write_back(struct tier *tier, uint64_t bytes)
{
	LOCK_SCOPE(&tier->parked_lock);

	tier->writing_bytes -= bytes;
	if (tier->room_waiters)
		pthread_cond_broadcast(&tier->room);
}

uint64_t room_wait_squeeze(struct tier *tier, uint64_t deadline_ns)
{
	uint64_t reserve, free_bytes;
	bool late = false;

	atomic_store(&tier->evictor_tid, gettid());
	LOCK_SCOPE(&tier->parked_lock);
	for (;;) {
		reserve = budget_reserve_bytes(&tier->budget);
		free_bytes = budget_free(&tier->budget);
		if (free_bytes < reserve || late || tier->squeeze_ends)
			break;
		late = lock_wait_until(&tier->parked_lock, &tier->squeeze, deadline_ns) != 0;
	}
	tier->squeeze_ends = false;
	return free_bytes < reserve ? reserve - free_bytes : 0;
}

void room_set_evictor(struct tier *tier, bool on)
{
	atomic_store(&tier->evictor, on);
}

bool room_has_evictor(struct tier *tier)
{
	return atomic_load(&tier->evictor);
}

bool room_is_evictor(struct tier *tier)
{
	return atomic_load(&tier->evictor_tid) == gettid();
}

void room_end_squeeze(struct tier *tier)
{
	LOCK_SCOPE(&tier->parked_lock);

	tier->squeeze_ends = true;
	pthread_cond_broadcast(&tier->squeeze);
}

struct plain_list {
	uint64_t *ino;
	size_t count, max;
};

static void list_plain(void *arg, struct ramfile *file)
{
	struct plain_list *list = arg;

	LOCK_SCOPE(&file->lock);
	if ((file->cached_opens || file->blocks.cached || file->cache_unknown) && list->count < list->max)
		list->ino[list->count++] = file->ino;
}

size_t room_plain_files(struct tier *tier, uint64_t *ret_ino, size_t max)
{
	struct plain_list list = { .ino = ret_ino, .max = max };

	tier_each_file(tier, list_plain, &list);
	return list.count;
}

uint64_t room_parked(struct tier *tier)
{
	LOCK_SCOPE(&tier->parked_lock);

	return tier->parked_count;
}

uint64_t room_waiting_writes(struct tier *tier)
{
	LOCK_SCOPE(&tier->parked_lock);

	return tier->waiting_writes;
}

bool room_wanted(struct tier *tier)
{
	if (less_free_than(tier, 4))
		return true;
	LOCK_SCOPE(&tier->parked_lock);

	return tier->parked_count > tier->parked_own || tier->room_waiters;
}

bool room_pressed(struct tier *tier)
{
	return reserve_used(tier) || room_wanted(tier);
}
