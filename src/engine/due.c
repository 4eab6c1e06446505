/* Whether a file needs rounds is asked under the lock of the heap, whoever asks: so the last one who changed something
 * of it is the one who sees what is true. */
#include "engine/due.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/tenant.h"

#define ROOM_MIN 64

void dues_init(struct dues *dues)
{
	lock_init(&dues->lock, LOCK_RANK_DUES);
}

void dues_fini(struct dues *dues)
{
	free(dues->heap);
	lock_fini(&dues->lock);
}

static struct dues *dues_of(struct ramfile *file)
{
	return &file->engine->dues;
}

/* --- the heap; all under the lock --------------------------------------------------------------------------- */

static void set_slot(struct dues *dues, size_t slot, struct ramfile *file)
{
	dues->heap[slot - 1] = file;
	file->due.slot = slot;
}

static uint64_t at(const struct dues *dues, size_t slot)
{
	return dues->heap[slot - 1]->due.at_ns;
}

static void rise(struct dues *dues, struct ramfile *file)
{
	size_t slot = file->due.slot;

	for (; slot > 1 && at(dues, slot / 2) > file->due.at_ns; slot /= 2)
		set_slot(dues, slot, dues->heap[slot / 2 - 1]);
	set_slot(dues, slot, file);
}

static void sink(struct dues *dues, struct ramfile *file)
{
	size_t slot = file->due.slot, below;

	for (; (below = 2 * slot) <= dues->count; slot = below) {
		below += below < dues->count && at(dues, below + 1) < at(dues, below);
		if (at(dues, below) >= file->due.at_ns)
			break;
		set_slot(dues, slot, dues->heap[below - 1]);
	}
	set_slot(dues, slot, file);
}

static void insert(struct dues *dues, struct ramfile *file, uint64_t at_ns)
{
	file->due.at_ns = at_ns;
	file->due.slot = ++dues->count;
	dues->spared += file->due.spared;
	rise(dues, file);
}

static void take_out(struct dues *dues, struct ramfile *file)
{
	struct ramfile *last = dues->heap[dues->count - 1];
	size_t slot = file->due.slot;

	file->due.slot = 0;
	dues->count--;
	dues->spared -= file->due.spared;
	file->due.spared = false;
	if (last == file)
		return;
	set_slot(dues, slot, last);
	rise(dues, last);
	sink(dues, last);
}

/* --- who is in it ------------------------------------------------------------------------------------------- */

/* Under the locks of the mappers and of the heap. */
static bool needs_rounds(struct ramfile *file)
{
	return file->due.listed &&
	       ((file->mappers.count && atomic_load(&file->dram_blocks)) || atomic_load(&file->cache.was_cached));
}

/* As all up to the end of the part: under the lock. */
static uint64_t rounds_asleep(const struct due *due, uint64_t now_ns)
{
	return due->sleeps && now_ns > due->asleep_ns ? (now_ns - due->asleep_ns) / DUE_ROUND_NS : 0;
}

static void fall_asleep(struct due *due, uint64_t now_ns)
{
	if (due->sleeps)
		return;
	due->sleeps = true;
	due->asleep_ns = now_ns;
	due->counted = 0;
}

static void wake_up(struct due *due, uint64_t now_ns)
{
	uint64_t rounds = rounds_asleep(due, now_ns);

	due->owed += rounds > due->counted ? rounds - due->counted : 0;
	due->sleeps = false;
}

void due_tell_scanner(struct engine *engine)
{
	LOCK_SCOPE(&engine->room.lock);

	engine->room.kicked = true;
	pthread_cond_signal(&engine->room.wakeup);
}

/* Under the lock. True: the scanner has to be told. */
static bool make_due(struct dues *dues, struct ramfile *file, uint64_t now_ns)
{
	if (file->due.taken) {
		file->due.pulled = true;
		return false; /* who is at it looks */
	}
	if (!file->due.slot) {
		insert(dues, file, now_ns);
	} else if (file->due.at_ns > now_ns) {
		file->due.at_ns = now_ns;
		rise(dues, file);
	} else {
		return false; /* it is due, so the scanner does not sleep */
	}
	return file->due.slot == 1;
}

void due_look(struct ramfile *file)
{
	struct dues *dues = dues_of(file);
	uint64_t now_ns = clock_ns();
	bool first = false;

	lock_get(&file->mappers.lock);
	lock_get(&dues->lock);
	if (needs_rounds(file)) {
		wake_up(&file->due, now_ns);
		if (!file->due.slot)
			first = make_due(dues, file, now_ns);
	} else if (!file->due.taken) { /* else who is at it looks */
		if (file->due.slot)
			take_out(dues, file);
		fall_asleep(&file->due, now_ns);
	}
	lock_put(&dues->lock);
	lock_put(&file->mappers.lock);
	if (first)
		due_tell_scanner(file->engine);
}

void due_pull(struct ramfile *file)
{
	struct dues *dues = dues_of(file);
	bool first;

	lock_get(&dues->lock);
	first = !file->due.sleeps && (file->due.slot || file->due.taken) && make_due(dues, file, clock_ns());
	lock_put(&dues->lock);
	if (first)
		due_tell_scanner(file->engine);
}

void due_pull_all(struct engine *engine)
{
	if (!atomic_exchange(&engine->dues.all, true))
		due_tell_scanner(engine);
}

void due_pull_near(struct engine *engine)
{
	if (!atomic_exchange(&engine->dues.near, true))
		due_tell_scanner(engine);
}

int due_add(struct ramfile *file)
{
	struct dues *dues = dues_of(file);
	int err = 0;

	lock_get(&dues->lock);
	if (dues->listed == dues->room) {
		size_t room = dues->room ? 2 * dues->room : ROOM_MIN;
		struct ramfile **heap = reallocarray(dues->heap, room, sizeof(struct ramfile *));

		err = heap ? 0 : -ENOMEM;
		dues->heap = heap ? heap : dues->heap;
		dues->room = heap ? room : dues->room;
	}
	if (!err) {
		dues->listed++;
		file->due = (struct due){ .listed = true, .sleeps = true, .asleep_ns = file->loaded_ns };
	}
	lock_put(&dues->lock);
	if (!err)
		due_look(file);
	return err;
}

void due_remove(struct ramfile *file)
{
	struct dues *dues = dues_of(file);

	LOCK_SCOPE(&dues->lock);
	if (file->due.slot)
		take_out(dues, file);
	dues->listed -= file->due.listed;
	file->due.listed = false;
}

uint64_t due_slept(struct ramfile *file, uint64_t now_ns)
{
	struct due *due = &file->due;
	uint64_t rounds;

	LOCK_SCOPE(&dues_of(file)->lock);
	rounds = rounds_asleep(due, now_ns);
	if (rounds > due->counted) {
		due->owed += rounds - due->counted;
		due->counted = rounds;
	}
	rounds = due->owed;
	due->owed = 0;
	return rounds;
}

uint64_t due_asleep(struct ramfile *file, uint64_t now_ns)
{
	LOCK_SCOPE(&dues_of(file)->lock);

	return rounds_asleep(&file->due, now_ns);
}

/* --- for the scanner ---------------------------------------------------------------------------------------- */

/* The engine's lock comes first: with it a file cannot go before it is visited. */
struct ramfile *due_take(struct engine *engine, uint64_t now_ns)
{
	struct dues *dues = &engine->dues;
	struct ramfile *file;

	LOCK_SCOPE(&engine->lock);
	LOCK_SCOPE(&dues->lock);
	if (!dues->count || at(dues, 1) > now_ns)
		return NULL;
	file = dues->heap[0];
	take_out(dues, file);
	file->due.taken = true;
	file->due.pulled = false;
	file->visits++;
	return file;
}

void due_begin(struct ramfile *file)
{
	LOCK_SCOPE(&dues_of(file)->lock);

	file->due.pulled = false;
}

void due_put(struct ramfile *file, uint64_t at_ns, bool spared)
{
	struct dues *dues = dues_of(file);
	uint64_t now_ns = clock_ns();

	LOCK_SCOPE(&file->mappers.lock);
	LOCK_SCOPE(&dues->lock);
	file->due.taken = false;
	file->due.spared = spared && needs_rounds(file);
	if (needs_rounds(file))
		insert(dues, file, file->due.pulled && now_ns < at_ns ? now_ns : at_ns);
	else
		fall_asleep(&file->due, now_ns);
}

/* A file that rises changes places with files of which fn was asked before: so all are asked, and each once. */
void due_raise(struct engine *engine, uint64_t now_ns, due_fn *fn)
{
	struct dues *dues = &engine->dues;

	LOCK_SCOPE(&dues->lock);
	for (size_t slot = 1; slot <= dues->count; slot++) {
		struct ramfile *file = dues->heap[slot - 1];

		if (file->due.at_ns <= now_ns || (fn && !fn(file)))
			continue;
		file->due.at_ns = now_ns;
		rise(dues, file);
	}
}

static bool was_spared(struct ramfile *file)
{
	return file->due.spared && !tenant_is_spared(file);
}

void due_raise_spared(struct engine *engine, uint64_t now_ns)
{
	bool any;

	lock_get(&engine->dues.lock);
	any = engine->dues.spared > 0;
	lock_put(&engine->dues.lock);
	if (any)
		due_raise(engine, now_ns, was_spared);
}

uint64_t due_next(struct engine *engine)
{
	LOCK_SCOPE(&engine->dues.lock);

	return engine->dues.count ? at(&engine->dues, 1) : UINT64_MAX;
}

size_t due_count(struct engine *engine)
{
	LOCK_SCOPE(&engine->dues.lock);

	return engine->dues.count;
}
