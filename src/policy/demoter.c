/* The demoter: sleeps until something is due, a file's next scan, a fault that found no room, a kick. It keeps a part
 * of the budget free (budget_reserve_bytes), so that faults rarely wait. What is demoted first is decided over all
 * files together (choice.h).
 */
#include "policy/demoter.h"

#include "base/clock.h"
#include "base/thread.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/huge.h"
#include "engine/room.h"
#include "policy/choice.h"
#include "policy/scan.h"

#define QUICK_MIN_NS (20 * NS_PER_MS)
#define QUICK_MAX_NS (1 * NS_PER_S)
#define SLOW_NS (15 * NS_PER_S)
/* With less than four reserves left, idle blocks should be known before they are needed. */
#define NEAR_NS (2 * NS_PER_S)
/* When nothing can be demoted, nobody is helped by looking again at once. */
#define REST_NS (5 * NS_PER_MS)
/* Scans and splits go on for so long at the most while room has to be made. */
#define SLICE_NS (5 * NS_PER_MS)
/* After a store that refused a batch. */
#define RETRY_NS (500 * NS_PER_MS)

/* Refills the reserve, until a scan is due; by one batch in any case, so that nothing that is always due stops it. */
static void relieve(struct tier *tier, uint64_t until_ns)
{
	uint64_t target = budget_reserve_bytes(&tier->budget);
	bool first = true;

	for (; budget_free(&tier->budget) < target; first = false) {
		uint64_t needed = (target - budget_free(&tier->budget)) / tier->config.block_bytes + 1;
		uint64_t now = clock_ns(), demoted;
		int err;

		if (now < tier->demoter->retry_ns || (!first && now >= until_ns))
			break;
		err = choice_demote(&tier->demoter->choice, tier, needed, &demoted);
		if (err) /* The store says why, once. Blocks stay resident, and it goes on by itself. */
			tier->demoter->retry_ns = clock_ns() + RETRY_NS;
		if (!demoted) { /* a large table is not counted all the time */
			tier->demoter->rest_until_ns = clock_ns() + REST_NS + 4 * (clock_ns() - now);
			break;
		}
	}
	if (budget_free(&tier->budget) >= tier->config.block_bytes)
		room_announce(tier);
}

struct turn {
	struct tier *tier;
	struct scan_pace pace;
	uint64_t next_ns;
	uint64_t relieved_ns; /* when room was last made, if it had to be */
};

/* Among scans and splits, which may take long. */
static void relieve_between(struct turn *turn)
{
	struct tier *tier = turn->tier;
	uint64_t now = clock_ns();

	if (now < turn->relieved_ns + SLICE_NS || now < tier->demoter->rest_until_ns || !room_pressed(tier))
		return;
	relieve(tier, 0);
	turn->relieved_ns = clock_ns();
}

static void scan_file(void *arg, struct ramfile *file)
{
	struct turn *turn = arg;
	struct scan_pace pace = turn->pace;
	uint64_t now = clock_ns();
	bool wanted;

	if (room_missing_of(file)) /* nobody else pays for it */
		pace.hurry = pace.wanted = true;
	lock_get(&file->lock);
	file_visit(file, now);
	if (!file->blocks.cached)
		atomic_store(&file->was_cached, false);
	wanted = file->scan_wanted || pace.hurry;
	if (file->proof_wanted || (wanted && file->next_scan_ns > now + turn->pace.quick_ns))
		file->next_scan_ns = now;
	/* The answer to a zap comes with a kick: the look is due a pace after it. */
	if (file->zapping && file->zap_done && wanted)
		file->next_scan_ns = now;
	lock_put(&file->lock);
	if (now >= file->next_scan_ns)
		atomic_fetch_add(&turn->tier->scans, 1);
	while (now >= file->next_scan_ns) {
		file->next_scan_ns = scan_step(file, now, &pace);
		relieve_between(turn);
	}
	if (file->next_scan_ns < turn->next_ns)
		turn->next_ns = file->next_scan_ns;
}

/* A file that has come near to its own limit gives up blocks of its own. */
static void relieve_file(void *arg, struct ramfile *file)
{
	struct turn *turn = arg;
	struct tier *tier = turn->tier;
	uint64_t now = clock_ns(), missing = room_missing_of(file), demoted;
	int err;

	if (!missing)
		return;
	if (now >= file->rest_until_ns && now >= tier->demoter->retry_ns) {
		err = choice_demote_of(&tier->demoter->choice, file, missing / file->block_bytes + 1, &demoted);
		if (err)
			tier->demoter->retry_ns = clock_ns() + RETRY_NS;
		if (!demoted)
			file->rest_until_ns = clock_ns() + turn->pace.quick_ns / 2;
		if (demoted)
			room_announce(tier);
	}
	now = room_missing_of(file) && file->rest_until_ns > now ? file->rest_until_ns : now;
	if (room_missing_of(file) && now < turn->next_ns)
		turn->next_ns = now;
}

/* Before anything has to be demoted: a huge page hides what of it is idle. */
static void split_file(void *arg, struct ramfile *file)
{
	struct turn *turn = arg;
	uint64_t now = clock_ns();

	if (huge_split_some(file, now))
		turn->next_ns = now;
	relieve_between(turn);
}

void demoter_step(struct tier *tier)
{
	uint64_t quick = atomic_load(&tier->min_idle_ns) / 2;
	struct turn turn = { .tier = tier, .relieved_ns = clock_ns() };
	bool near = budget_free(&tier->budget) < tier_near_bytes(tier);

	atomic_store(&tier->pressed, false);
	if (quick < QUICK_MIN_NS)
		quick = QUICK_MIN_NS;
	if (quick > QUICK_MAX_NS)
		quick = QUICK_MAX_NS;
	turn.pace = (struct scan_pace){ .quick_ns = quick,
					.slow_ns = near ? NEAR_NS : SLOW_NS,
					.hurry = room_pressed(tier),
					.wanted = room_wanted(tier) };
	turn.next_ns = turn.relieved_ns + SLOW_NS;
	if (near)
		tier_each_resident(tier, split_file, &turn);
	tier_each_resident(tier, scan_file, &turn);
	tier_each_resident(tier, relieve_file, &turn);
	if (room_pressed(tier))
		relieve(tier, turn.next_ns);
	if (room_pressed(tier) && turn.next_ns > clock_ns() + quick)
		turn.next_ns = clock_ns() + quick;
	tier->demoter->next_step_ns = turn.next_ns;
}

void *demoter_run(void *arg)
{
	struct tier *tier = arg;

	thread_set_slice(THREAD_SLICE_LONG_NS);
	lock_get(&tier->parked_lock);
	while (!tier->stopping) {
		lock_put(&tier->parked_lock);
		demoter_step(tier);
		lock_get(&tier->parked_lock);
		while (!tier->stopping && clock_ns() < tier->demoter->rest_until_ns)
			lock_wait_until(&tier->parked_lock, &tier->wakeup, tier->demoter->rest_until_ns);
		while (!tier->kicked && !tier->stopping)
			if (lock_wait_until(&tier->parked_lock, &tier->wakeup, tier->demoter->next_step_ns))
				break;
		tier->kicked = false;
	}
	lock_put(&tier->parked_lock);
	return NULL;
}
