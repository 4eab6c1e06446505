/* Store calls of the engine, and the limits that they keep within. flow.h has the rules.
 *
 * The clocks are with the tenants, under their lock. A call that waits names its turn at once, by what it takes, as
 * long as that is not far: so callers go on in the order in which they came, each is woken once, and one that is given
 * up leaves no more than a moment unused.
 */
#include "engine/flow.h"

#include <errno.h>
#include <time.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/interrupt.h"
#include "engine/rate.h"

/* For demotion is 1/2 of what may be written, before others; the rest goes in turns. */
#define DEMOTION_PART 2
/* So long after a fault more of them are expected; who reads much reads so many blocks at once then. */
#define GUESTS_NS (10 * NS_PER_MS)
#define SHORT_WALK 4U
/* A turn is named if it comes within so long. */
#define TURN_NS (100 * NS_PER_MS)
/* A fill holds a page locked in the kernel: it waits no longer than that, and what comes after it the longer. */
#define FILL_NS (1 * NS_PER_S)
/* How often somebody who waits looks whether he still has to. */
#define LOOK_NS (100 * NS_PER_MS)
/* Calls that wait, of a file and of all, and fills: the threads that serve them are not without number. */
#define WAITING_MAX 128U
#define WAITING_ALL_MAX 1024U
#define FILLS_MAX 256U

/* --- calls of the store -------------------------------------------------------------------------------------- */

static void count_read(struct ramfile *file, enum store_use use, uint64_t bytes)
{
	store_meter_read(&file->flow.meter[use], bytes);
}

int flow_get(struct ramfile *file, enum store_use use, uint64_t block, void *buf, size_t cap, size_t *ret_len)
{
	struct store *store = engine_store(file->engine);
	int err;

	if (use == STORE_GUEST)
		atomic_store_explicit(&file->engine->flows.guest_ns, clock_ns(), memory_order_relaxed);
	err = store->ops->get(store, use, (struct store_key){ file->ino, block }, buf, cap, ret_len);
	if (!err)
		count_read(file, use, *ret_len);
	return err;
}

struct counted {
	struct ramfile *file;
	enum store_use use;
	store_walk_fn *fn;
	void *arg;
};

static int count_value(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	const struct counted *counted = arg;

	count_read(counted->file, counted->use, length_bytes);
	return counted->fn(counted->arg, key, value, length_bytes);
}

/* Faults come: the disk's queue shall be short. */
static bool guests_read(struct engine *engine)
{
	uint64_t guest_ns = atomic_load_explicit(&engine->flows.guest_ns, memory_order_relaxed);

	return clock_ns() < guest_ns + GUESTS_NS;
}

int flow_walk(struct ramfile *file, enum store_use use, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	struct store *store = engine_store(file->engine);
	struct counted counted = { .file = file, .use = use, .fn = fn, .arg = arg };
	uint64_t piece;
	int err = 0;

	for (uint64_t done = 0; !err && done < count; done += piece) {
		piece = use == STORE_DIRECT && guests_read(file->engine) && count - done > SHORT_WALK ? SHORT_WALK
												      : count - done;
		err = store->ops->walk(store, use, file->ino, first + done, piece, count_value, &counted);
	}
	return err;
}

/* --- clocks -------------------------------------------------------------------------------------------------- */

struct amount {
	uint64_t of[FLOW_LIMITS];
};

static bool is_lifted(struct engine *engine)
{
	return atomic_load(&engine->flows.lifted);
}

/* Under the lock of tenants: when what is asked for may begin. */
static uint64_t due(const struct tenant *tenant, const struct amount *amount, bool urgent)
{
	uint64_t latest = 0;

	for (; tenant; tenant = tenant->up)
		for (int limit = 0; limit < FLOW_LIMITS; limit++) {
			uint64_t at = rate_due(&tenant->rate[limit], urgent);

			if (amount->of[limit] && tenant->share.per_s[limit] && at > latest)
				latest = at;
		}
	return latest;
}

static unsigned int part_of(int limit, bool urgent)
{
	return !urgent ? 0 : limit == FLOW_WRITE_BYTES ? DEMOTION_PART : 1;
}

static void take(struct tenant *tenant, const struct amount *amount, bool urgent, uint64_t now_ns)
{
	for (; tenant; tenant = tenant->up)
		for (int limit = 0; limit < FLOW_LIMITS; limit++)
			if (amount->of[limit] && tenant->share.per_s[limit])
				rate_take(&tenant->rate[limit], tenant->share.per_s[limit], amount->of[limit],
					  part_of(limit, urgent), now_ns);
}

/* Takes what may begin by then. Returns when it may. */
static uint64_t take_by(struct ramfile *file, const struct amount *amount, bool urgent, uint64_t by_ns, uint64_t now_ns)
{
	struct tenants *tenants = &file->engine->tenants;
	uint64_t at;

	if (!atomic_load(&tenants->limits) || is_lifted(file->engine))
		return 0;
	LOCK_SCOPE(&tenants->lock);
	at = due(file->charge.tenant, amount, urgent);
	if (at <= by_ns)
		take(file->charge.tenant, amount, urgent, now_ns);
	return at;
}

/* When a next one may begin. */
static uint64_t next_due(struct ramfile *file, const struct amount *amount, bool urgent)
{
	struct tenants *tenants = &file->engine->tenants;

	if (!atomic_load(&tenants->limits) || is_lifted(file->engine))
		return 0;
	LOCK_SCOPE(&tenants->lock);
	return due(file->charge.tenant, amount, urgent);
}

static uint64_t write_due(struct ramfile *file, bool urgent)
{
	static const struct amount some = { .of = { [FLOW_WRITE_BYTES] = 1 } };

	return next_due(file, &some, urgent);
}

static struct amount reading(uint64_t values, uint64_t bytes)
{
	return (struct amount){ .of = { [FLOW_READ_OPS] = values, [FLOW_READ_BYTES] = bytes } };
}

uint64_t flow_fault_due(struct ramfile *file)
{
	struct amount amount = reading(1, 1);

	return next_due(file, &amount, true);
}

uint64_t flow_take_fault(struct ramfile *file, uint64_t bytes)
{
	struct amount amount = reading(1, bytes);
	uint64_t now = clock_ns(), at = take_by(file, &amount, true, now, now);

	if (at <= now)
		return 0;
	atomic_fetch_add(&file->flow.waited, 1);
	return at;
}

/* What was taken was not used. */
static void give_back(struct ramfile *file, const struct amount *amount, bool urgent)
{
	struct tenants *tenants = &file->engine->tenants;

	if (!atomic_load(&tenants->limits))
		return;
	LOCK_SCOPE(&tenants->lock);
	for (struct tenant *tenant = file->charge.tenant; tenant; tenant = tenant->up)
		for (int limit = 0; limit < FLOW_LIMITS; limit++)
			if (amount->of[limit] && tenant->share.per_s[limit])
				rate_return(&tenant->rate[limit], tenant->share.per_s[limit], amount->of[limit],
					    part_of(limit, urgent));
}

void flow_return_fault(struct ramfile *file, uint64_t bytes)
{
	struct amount amount = reading(1, bytes);

	give_back(file, &amount, true);
}

bool flow_may_ahead(struct ramfile *file)
{
	struct amount amount = reading(1, 1);

	return next_due(file, &amount, false) <= clock_ns();
}

void flow_take_read(struct ramfile *file, uint64_t values, uint64_t bytes)
{
	struct amount amount = reading(values, bytes);

	take_by(file, &amount, false, UINT64_MAX, clock_ns());
}

int flow_put(struct ramfile *file, enum store_use use, const struct store_item *items, size_t count)
{
	struct store *store = engine_store(file->engine);
	struct amount amount = { 0 };
	int err = store->ops->put(store, use, items, count);

	for (size_t i = 0; i < count; i++) {
		amount.of[FLOW_WRITE_BYTES] += items[i].length_bytes;
		if (!err)
			store_meter_write(&file->flow.meter[use], items[i].length_bytes);
	}
	/* Also if it failed: some may have been written. */
	take_by(file, &amount, use == STORE_DEMOTION, UINT64_MAX, clock_ns());
	return err;
}

/* --- calls that wait ------------------------------------------------------------------------------------------ */

static int sleep_until(struct engine *engine, uint64_t until_ns, bool patient)
{
	uint64_t now;

	while ((now = clock_ns()) < until_ns && !is_lifted(engine)) {
		uint64_t left = until_ns - now < LOOK_NS ? until_ns - now : LOOK_NS;

		if (!patient && interrupted())
			return -EINTR;
		nanosleep(&(struct timespec){ .tv_nsec = (long)left }, NULL);
	}
	return 0;
}

/* Until its turn is near, in steps, for the limit may become another one meanwhile; then for the turn. */
static int await_turn(struct ramfile *file, const struct amount *amount, bool patient)
{
	for (;;) {
		uint64_t now = clock_ns(), at = take_by(file, amount, false, now + TURN_NS, now);
		int err;

		if (at <= now + TURN_NS) {
			err = sleep_until(file->engine, at, patient);
			if (err)
				give_back(file, amount, false);
			return err;
		}
		err = sleep_until(file->engine, now + TURN_NS, patient);
		if (err)
			return err;
	}
}

static int wait_turn(struct ramfile *file, const struct amount *amount, bool patient)
{
	struct engine *engine = file->engine;
	bool may = engine_begin_wait(engine, ENGINE_WAIT_LIMIT, WAITING_ALL_MAX);
	int err = -EUSERS;

	may &= atomic_fetch_add(&file->flow.waiting, 1) < WAITING_MAX;
	if (may || patient) {
		atomic_fetch_add(&file->flow.waited, 1);
		err = await_turn(file, amount, patient);
	}
	atomic_fetch_sub(&file->flow.waiting, 1);
	engine_end_wait(engine, ENGINE_WAIT_LIMIT);
	return err;
}

static struct amount cold_in(struct ramfile *file, uint64_t first, uint64_t count)
{
	struct amount amount = { 0 };

	LOCK_SCOPE(&file->lock);
	for (uint64_t block = first; block < first + count && block < file->blocks.count; block++)
		if (blocks_state(&file->blocks, block) == BLOCK_COLD) {
			amount.of[FLOW_READ_OPS]++;
			amount.of[FLOW_READ_BYTES] += file->blocks.stored_bytes[block];
		}
	return amount;
}

bool flow_take_read_now(struct ramfile *file, uint64_t first, uint64_t count)
{
	uint64_t now = clock_ns();
	struct amount amount;

	if (!atomic_load(&file->engine->tenants.limits))
		return true;
	amount = cold_in(file, first, count);
	return !amount.of[FLOW_READ_OPS] || take_by(file, &amount, false, now, now) <= now;
}

int flow_wait_read(struct ramfile *file, uint64_t first, uint64_t count, bool patient)
{
	struct amount amount;

	if (flow_take_read_now(file, first, count))
		return 0;
	amount = cold_in(file, first, count);
	return wait_turn(file, &amount, patient);
}

int flow_begin_write(struct ramfile *file, uint64_t bytes, bool patient)
{
	struct amount amount = { .of = { [FLOW_WRITE_BYTES] = bytes } };
	uint64_t now = clock_ns();

	return take_by(file, &amount, false, now, now) <= now ? 0 : wait_turn(file, &amount, patient);
}

void flow_end_write(struct ramfile *file, uint64_t bytes)
{
	struct amount amount = { .of = { [FLOW_WRITE_BYTES] = bytes } };

	give_back(file, &amount, false);
}

void flow_wait_fill(struct ramfile *file, uint64_t first, uint64_t count)
{
	struct engine *engine = file->engine;
	uint64_t now = clock_ns(), at;
	struct amount amount;

	if (!atomic_load(&engine->tenants.limits))
		return;
	amount = cold_in(file, first, count);
	at = take_by(file, &amount, true, UINT64_MAX, now);
	if (at <= now)
		return;
	atomic_fetch_add(&file->flow.waited, 1);
	if (engine_begin_wait(engine, ENGINE_WAIT_FILL, FILLS_MAX))
		sleep_until(engine, at < now + FILL_NS ? at : now + FILL_NS, false);
	engine_end_wait(engine, ENGINE_WAIT_FILL);
}

uint64_t flow_take_move(struct engine *engine, struct tenant *tenant, uint64_t values, uint64_t bytes)
{
	struct tenants *tenants = &engine->tenants;
	struct amount amount = reading(values, bytes);
	uint64_t now = clock_ns(), at;

	amount.of[FLOW_WRITE_BYTES] = bytes;
	if (!tenant || !atomic_load(&tenants->limits) || is_lifted(engine))
		return 0;
	LOCK_SCOPE(&tenants->lock);
	at = due(tenant, &amount, false);
	if (at > now)
		return at - now;
	take(tenant, &amount, false, now);
	return 0;
}

bool flow_holds_back(struct ramfile *file)
{
	_Atomic uint64_t *held = &file->engine->flows.held_ns;
	uint64_t at = write_due(file, true);

	if (at <= clock_ns())
		return false;
	tenant_hold(file, at);
	for (uint64_t first = atomic_load(held); at < first && !atomic_compare_exchange_weak(held, &first, at);)
		;
	return true;
}

uint64_t flow_next_held(struct engine *engine)
{
	uint64_t first_ns = atomic_load(&engine->flows.held_ns);

	/* Who is held still says so when he is looked at next. */
	if (first_ns <= clock_ns() && atomic_compare_exchange_strong(&engine->flows.held_ns, &first_ns, UINT64_MAX))
		return clock_ns();
	return first_ns;
}

void flow_lift(struct engine *engine)
{
	atomic_store(&engine->flows.lifted, true);
}

/* --- faults whose turn comes ----------------------------------------------------------------------------------- */

void flow_wake_at(struct engine *engine, uint64_t due_ns)
{
	struct flows *flows = &engine->flows;

	if (flows->due_ns && flows->due_ns <= due_ns)
		return;
	flows->due_ns = due_ns;
	pthread_cond_signal(&flows->news);
}

static void *tell_turns(void *arg)
{
	struct engine *engine = arg;
	struct flows *flows = &engine->flows;

	LOCK_SCOPE(&engine->room.lock);
	while (!flows->stopping) {
		uint64_t now = clock_ns();

		if (!flows->due_ns) {
			lock_wait(&engine->room.lock, &flows->news);
		} else if (now < flows->due_ns) {
			lock_wait_until(&engine->room.lock, &flows->news, flows->due_ns);
		} else {
			flows->due_ns = 0; /* who looks says when the next one is */
			if (engine->room.on_room)
				engine->room.on_room(engine->room.on_room_arg);
		}
	}
	return NULL;
}

void flows_init(struct flows *flows)
{
	lock_cond_init(&flows->news);
	atomic_init(&flows->held_ns, UINT64_MAX);
}

int flows_start(struct engine *engine)
{
	int err = -pthread_create(&engine->flows.thread, NULL, tell_turns, engine);

	engine->flows.thread_runs = !err;
	if (!err)
		pthread_setname_np(engine->flows.thread, "tierfs-turns");
	return err;
}

void flows_fini(struct engine *engine)
{
	struct flows *flows = &engine->flows;

	if (flows->thread_runs) {
		lock_get(&engine->room.lock);
		flows->stopping = true;
		pthread_cond_signal(&flows->news);
		lock_put(&engine->room.lock);
		pthread_join(flows->thread, NULL);
	}
	pthread_cond_destroy(&flows->news);
}
