#include "map/table.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "engine/attach.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/parked.h"
#include "engine/room.h"
#include "engine/tenant.h"
#include "map/events.h"
#include "map/groups.h"
#include "map/uffd.h"

#define ID_ROOM 0          /* the eventfd that says: parked faults may go on, or stop */
#define ID_MORE UINT64_MAX /* that of a set: somebody waits for a worker. Mapping ids are between them */
/* Every event wakes a worker of each set, so there is a set for each processor only where they are few. */
#define SETS_MAX 4U
#define WORKERS_OF_A_PROCESSOR 3U
#define WORKERS_MIN 4U
#define WORKERS_MAX 32U
/* With those that are late in a process. */
#define WORKERS_LATE_MAX 512U
/* So many workers are with one tenant or process at most, and with parked faults: all but a part, and one at least. */
#define OTHERS_DIVISOR 4U
/* Events of one mapping that a worker serves before it looks who else waits. */
#define TURN_EVENTS 16U
/* Events of the set that a worker takes at once when no other is free. */
#define DRAIN 16
/* Of the faults of a mapping so many are favoured at most, and so many in any case: generations and tiers are compared
 * across tenants, and a program of one thread is not to gain by it. */
#define FAVOURED_DIVISOR 8
#define FAVOURED_MIN 64
/* How often a client may take O_NONBLOCK off its descriptor. */
#define UNBLOCKED_MAX 1000U

struct entry {
	uint64_t id;
	struct mapping *mapping;
	UT_hash_handle hh;
};

/* Workers that wait together: those of one processor, or all. */
struct set {
	int epoll;         /* the userfaultfd of each mapping, one shot at a time; room; and more */
	int more;          /* eventfd: wakes one of its workers */
	int cpu;           /* where its workers run; -1: anywhere */
	unsigned int idle; /* under the table's lock: workers that wait in epoll, or are about to */
};

struct worker {
	struct map_table *table;
	struct set *set;
	pthread_t thread;
	bool resuming; /* under lock of the table: it counts there */
};

struct map_table {
	struct engine *engine;
	struct groups *groups; /* immutable */
	int room;              /* eventfd */
	_Atomic bool stopping;
	struct peers *peers;
	struct lock lock;
	struct entry *entries; /* under lock: uthash */
	struct turns turns;    /* under lock: who waits for a worker */
	pthread_cond_t unused; /* a mapping's refs fell */
	unsigned int sets;
	struct set set[SETS_MAX];
	unsigned int wanted;   /* immutable: workers that are not late */
	unsigned int workers;  /* under lock, like all that follows */
	unsigned int most;     /* immutable: of them, with one tenant or process */
	unsigned int resuming; /* workers that take parked faults up again */
	bool resume_again;     /* one more wanted to */
	int late;              /* may be below 0 for a moment */
	struct worker *worker[WORKERS_LATE_MAX];
};

static struct turn_owner owner_of(const struct mapping *mapping)
{
	struct turn_owner owner = { .process = mapping->peer };

	owner.tenant = tenant_nearest(mapping->file, &owner.weight);
	return owner;
}

static struct mapping *of_turn(struct turn *turn)
{
	return (struct mapping *)((char *)turn - offsetof(struct mapping, turn));
}

static unsigned int index_of(const struct map_table *table, const struct set *set)
{
	return (unsigned int)(set - table->set);
}

/* Under lock: it has events that were read, and waits for a worker of the set. */
static void wait_for_worker(struct map_table *table, struct mapping *mapping, const struct set *set, bool urgent)
{
	struct turn_owner owner = owner_of(mapping);

	turns_wait(&table->turns, &mapping->turn, &owner, index_of(table, set), urgent);
}

/* Under lock: if somebody waits, and a worker of its set does nothing. That one does the same. */
static void wake_idle(struct map_table *table)
{
	uint64_t one = 1;

	for (unsigned int i = 0; i < table->sets; i++)
		if (table->set[i].idle && turns_pending(&table->turns, i) &&
		    write(table->set[i].more, &one, sizeof(one)) < 0)
			log_debug("a fault worker was woken before");
}

/* Whose turn it is. NULL: nobody's. */
static struct mapping *begin_turn(struct map_table *table, const struct set *set, struct turn_unit **ret_unit)
{
	struct turn *turn;

	LOCK_SCOPE(&table->lock);
	turn = turns_next(&table->turns, index_of(table, set), ret_unit);
	wake_idle(table);
	if (!turn)
		return NULL;
	of_turn(turn)->refs++;
	return of_turn(turn);
}

/* more: it had events that were read, maybe urgent ones. */
static void end_turn(struct worker *worker, struct mapping *mapping, struct turn_unit *unit, unsigned int events,
		     bool more, bool urgent)
{
	struct map_table *table = worker->table;

	LOCK_SCOPE(&table->lock);
	turns_done(&table->turns, unit, events);
	if (more)
		wait_for_worker(table, mapping, worker->set, urgent);
	wake_idle(table);
	mapping->refs--;
	pthread_cond_broadcast(&table->unused);
}

void map_table_keep(struct mapping *mapping)
{
	LOCK_SCOPE(&mapping->table->lock);

	mapping->refs++;
}

void map_table_drop(struct mapping *mapping)
{
	LOCK_SCOPE(&mapping->table->lock);

	mapping->refs--;
	pthread_cond_broadcast(&mapping->table->unused);
}

/* --- workers ------------------------------------------------------------------------------------------------ */

/* What the calling worker serves. armed: other workers of its set are told of further events. */
static _Thread_local struct {
	struct set *set;
	struct mapping *mapping;
	bool armed;
} serving;

/* From here on the next event of the mapping, or one that is there already, wakes a worker of the set, or not. */
static void arm(bool on)
{
	struct epoll_event event = { .events = on ? EPOLLIN | EPOLLONESHOT : 0, .data.u64 = serving.mapping->id };

	/* Fails when the mapping is not watched any more. */
	epoll_ctl(serving.set->epoll, EPOLL_CTL_MOD, serving.mapping->uffd, &event);
	serving.armed = on;
}

/* A worker that does not sleep is the one to take the next event as well: when the toucher faults again at once, which
 * is often before its last fault is quite finished, nobody has to be woken up for it, and no second processor. */
void map_table_waiting(struct mapping *mapping, bool on)
{
	bool urgent;

	if (serving.mapping != mapping || serving.armed == on)
		return;
	arm(on);
	if (!on || !events_there(mapping, &urgent))
		return;
	LOCK_SCOPE(&mapping->table->lock);
	wait_for_worker(mapping->table, mapping, serving.set, urgent);
	wake_idle(mapping->table);
}

/* Few faults count for more than others. */
static bool is_favoured(struct mapping *mapping, const struct mapping_event *event)
{
	uint64_t faults = atomic_fetch_add(&mapping->faults, 1);
	uint64_t most = FAVOURED_MIN + faults / FAVOURED_DIVISOR;

	return event->urgent && event->kind == UFFD_EVENT_MISSING && atomic_load(&mapping->favoured) < most;
}

static void serve_event(struct mapping *mapping, const struct mapping_event *event)
{
	uint64_t offset;

	if (mapping_offset(mapping, event->addr, &offset)) {
		uffd_wake(mapping->uffd, event->addr, 4096); /* being unmapped */
		return;
	}
	if (is_favoured(mapping, event) && fault_favour(mapping->file, offset))
		atomic_fetch_add(&mapping->favoured, 1);
	fault_serve(mapping->file, &mapping->mapper, offset, events_fault(event), event->arrived_ns);
}

/* An error of epoll. Who keeps clearing the flag is not looked at any more: only its own faults wait. */
static bool unblocked(struct mapping *mapping)
{
	if (!uffd_unblock(mapping->uffd))
		return true;
	if (atomic_fetch_add(&mapping->unblocked, 1) < UNBLOCKED_MAX)
		return true;
	log_warn("process %d makes its userfaultfd block: its faults are not served any more", (int)mapping->pid);
	return false;
}

static void serve_mapping(struct worker *worker, struct mapping *mapping, struct turn_unit *unit)
{
	struct mapping_event event;
	unsigned int served = 0;
	bool more, urgent;
	int err = 0;

	serving.set = worker->set;
	serving.mapping = mapping;
	serving.armed = false; /* the one shot was fired */
	while (served < TURN_EVENTS && !err) {
		if (events_take(mapping, &event)) {
			serve_event(mapping, &event);
			served++;
		} else {
			err = events_fill(mapping, 0);
		}
	}
	/* What is left is at the end of the queue now. Of who is stalled, it comes when that is over. */
	more = events_there(mapping, &urgent);
	if (!more && err != -EBUSY)
		map_table_waiting(mapping, true);
	serving.mapping = NULL;
	end_turn(worker, mapping, unit, served, more, urgent);
}

/* Under lock. */
static bool end_resuming(struct worker *worker)
{
	bool was = worker->resuming;

	worker->resuming = false;
	worker->table->resuming -= was;
	return was;
}

/* Bounded as a tenant is: what was parked may all be of one. */
static void serve_room(struct worker *worker)
{
	struct map_table *table = worker->table;
	uint64_t count;

	if (read(table->room, &count, sizeof(count)) < 0)
		return; /* another worker took it */
	lock_get(&table->lock);
	table->resume_again = table->resuming == table->most;
	if (table->resume_again) {
		lock_put(&table->lock);
		return;
	}
	table->resuming++;
	worker->resuming = true;
	do {
		table->resume_again = false;
		lock_put(&table->lock);
		while (fault_resume(table->engine))
			;
		lock_get(&table->lock);
	} while (table->resume_again);
	end_resuming(worker);
	lock_put(&table->lock);
}

/* An event came in the set: what it is about is read, and waits for its turn. A read that may sleep is for the turn. */
static void admit(struct worker *worker, const struct epoll_event *event, uint64_t woken_ns)
{
	struct map_table *table = worker->table;
	struct mapping *mapping = NULL;
	struct entry *entry;
	bool urgent, there;
	int err = -EBUSY;

	lock_get(&table->lock);
	HASH_FIND(hh, table->entries, &event->data.u64, sizeof(event->data.u64), entry);
	if (entry) {
		mapping = entry->mapping;
		mapping->refs++;
	}
	lock_put(&table->lock);
	if (!mapping)
		return;
	if (!(event->events & EPOLLERR) || unblocked(mapping))
		err = uffd_read_may_sleep() ? 0 : events_fill(mapping, woken_ns);
	there = events_there(mapping, &urgent) || !err;
	serving.set = worker->set;
	serving.mapping = mapping;
	if (!there && err != -EBUSY)
		arm(true); /* another one has read it */
	serving.mapping = NULL;
	LOCK_SCOPE(&table->lock);
	if (there)
		wait_for_worker(table, mapping, worker->set, urgent);
	mapping->refs--;
	pthread_cond_broadcast(&table->unused);
}

/* What came in the set. Who waits already for a worker of it is not passed over for that: if anybody does, or no other
 * worker is free, all that came is taken at once, and waits with them. */
static int await_events(struct worker *worker, struct epoll_event event[static DRAIN])
{
	struct map_table *table = worker->table;
	struct set *set = worker->set;
	bool pending, alone;
	int count, more = 0;

	lock_get(&table->lock);
	pending = turns_pending(&table->turns, index_of(table, set));
	set->idle += !pending;
	lock_put(&table->lock);
	if (pending)
		return epoll_wait(set->epoll, event, DRAIN, 0);
	count = epoll_wait(set->epoll, event, 1, -1);
	lock_get(&table->lock);
	set->idle--;
	alone = !set->idle;
	lock_put(&table->lock);
	if (count > 0 && alone)
		more = epoll_wait(set->epoll, event + 1, DRAIN - 1, 0);
	return count + (more > 0 ? more : 0);
}

static void work(struct worker *worker)
{
	struct map_table *table = worker->table;
	struct epoll_event event[DRAIN];
	int count = await_events(worker, event);
	uint64_t woken_ns = clock_ns();
	struct turn_unit *unit;
	struct mapping *mapping;
	bool room = false;

	for (int i = 0; i < count; i++) {
		room |= event[i].data.u64 == ID_ROOM;
		if (event[i].data.u64 != ID_ROOM && event[i].data.u64 != ID_MORE)
			admit(worker, &event[i], woken_ns);
	}
	if (atomic_load(&table->stopping))
		return;
	mapping = begin_turn(table, worker->set, &unit);
	if (mapping)
		serve_mapping(worker, mapping, unit);
	if (room)
		serve_room(worker);
}

/* A worker on the processor of the toucher, which sleeps now, begins at once: no other processor has to wake up. */
static void settle_down(const struct worker *worker)
{
	thread_set_urgent();
	if (worker->set->cpu >= 0 && thread_set_cpu((unsigned int)worker->set->cpu))
		log_debug("a fault worker may not run on processor %d alone", worker->set->cpu);
}

static int worker_start(struct map_table *table, struct set *set);

static void on_room(void *arg)
{
	struct map_table *table = arg;
	uint64_t one = 1;

	if (write(table->room, &one, sizeof(one)) < 0)
		log_debug("room for waiting faults was announced before");
}

/* A worker is late in a process, or is back. */
static void on_late(void *arg, bool late)
{
	struct worker *worker = arg;
	struct map_table *table = worker->table;

	LOCK_SCOPE(&table->lock);
	table->late += late ? 1 : -1;
	if (late && end_resuming(worker)) /* another one goes on with it */
		on_room(table);
	if ((int)table->workers - table->late < (int)table->wanted && !atomic_load(&table->stopping) &&
	    worker_start(table, worker->set))
		log_error("a fault worker that hangs cannot be replaced");
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct map_table *table = worker->table;

	settle_down(worker);
	if (peers_enlist(table->peers, on_late, worker))
		log_warn("a fault worker cannot be replaced if it hangs");
	while (!atomic_load(&table->stopping))
		work(worker);
	return NULL;
}

/* Under lock. */
static int worker_start(struct map_table *table, struct set *set)
{
	struct worker *worker;
	int err;

	if (table->workers == WORKERS_LATE_MAX)
		return -EAGAIN;
	worker = malloc(sizeof(*worker));
	if (!worker)
		return -ENOMEM;
	*worker = (struct worker){ .table = table, .set = set };
	err = -pthread_create(&worker->thread, NULL, worker_main, worker);
	if (err) {
		free(worker);
		return err;
	}
	pthread_setname_np(worker->thread, "tierfs-fault");
	table->worker[table->workers++] = worker;
	return 0;
}

/* The last late call into a process came back. */
static void on_recovered(void *arg, struct peer *peer)
{
	struct map_table *table = arg;
	struct entry *entry, *next;

	LOCK_SCOPE(&table->lock);
	HASH_ITER(hh, table->entries, entry, next) {
		struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = entry->id };

		if (entry->mapping->peer != peer)
			continue;
		mapping_wake_all(entry->mapping);
		/* Nobody has read its events, and the one shot may be fired. */
		for (unsigned int i = 0; i < table->sets; i++)
			epoll_ctl(table->set[i].epoll, EPOLL_CTL_MOD, entry->mapping->uffd, &event);
	}
}

static int set_open(struct map_table *table, int cpu)
{
	struct epoll_event room = { .events = EPOLLIN, .data.u64 = ID_ROOM };
	/* Never read: each write wakes one. */
	struct epoll_event more = { .events = EPOLLIN | EPOLLET, .data.u64 = ID_MORE };
	struct set *set = &table->set[table->sets];

	set->cpu = cpu;
	set->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (set->epoll < 0)
		return -errno;
	table->sets++;
	set->more = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (set->more < 0)
		return -errno;
	return epoll_ctl(set->epoll, EPOLL_CTL_ADD, table->room, &room) < 0 ||
			       epoll_ctl(set->epoll, EPOLL_CTL_ADD, set->more, &more) < 0
		       ? -errno
		       : 0;
}

/* One for each of the processors that the daemon may use, or one for all. */
static int open_sets(struct map_table *table, const cpu_set_t *cpus, bool each)
{
	int err = 0;

	table->room = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (table->room < 0)
		return -errno;
	if (!each)
		return set_open(table, -1);
	for (int cpu = 0; cpu < CPU_SETSIZE && !err; cpu++)
		if (CPU_ISSET((size_t)cpu, cpus))
			err = set_open(table, cpu);
	return err;
}

static unsigned int workers_for(unsigned int cpus, bool each)
{
	unsigned int workers = each ? cpus * WORKERS_OF_A_PROCESSOR : cpus;

	return workers < WORKERS_MIN ? WORKERS_MIN : workers > WORKERS_MAX ? WORKERS_MAX : workers;
}

static unsigned int most_of_one(unsigned int workers)
{
	unsigned int others = workers / OTHERS_DIVISOR;

	return workers - (others ? others : 1);
}

int map_table_new(struct engine *engine, bool quick, struct map_table **ret)
{
	struct map_table *table;
	unsigned int count = 0, workers;
	cpu_set_t cpus;
	bool each;
	int err;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
		count = (unsigned int)CPU_COUNT(&cpus);
	each = quick && count && count <= SETS_MAX;
	workers = workers_for(count, each);
	table = calloc(1, sizeof(*table));
	if (!table)
		return -ENOMEM;
	table->engine = engine;
	table->wanted = workers;
	table->most = most_of_one(workers);
	turns_init(&table->turns, table->most);
	table->room = -1;
	lock_init(&table->lock, LOCK_RANK_ATTACH);
	lock_cond_init(&table->unused);
	err = groups_new(engine, &table->groups);
	if (!err)
		err = peers_new(on_recovered, table, &table->peers);
	if (!err)
		err = open_sets(table, &cpus, each);
	lock_get(&table->lock);
	while (!err && table->workers < workers)
		err = worker_start(table, &table->set[table->workers % table->sets]);
	lock_put(&table->lock);
	if (err) {
		map_table_free(table);
		return err;
	}
	room_on_room(engine, on_room, table);
	*ret = table;
	return 0;
}

void map_table_free(struct map_table *table)
{
	if (!table)
		return;
	room_on_room(table->engine, NULL, NULL);
	groups_free(table->groups);
	atomic_store(&table->stopping, true);
	for (unsigned int i = 0; i < table->workers; i++) {
		/* A worker that stops leaves the event for the next. */
		on_room(table);
		pthread_join(table->worker[i]->thread, NULL);
	}
	peers_free(table->peers);
	for (unsigned int i = 0; i < table->workers; i++)
		free(table->worker[i]);
	for (unsigned int i = 0; i < table->sets; i++) {
		close(table->set[i].epoll);
		if (table->set[i].more >= 0)
			close(table->set[i].more);
	}
	if (table->room >= 0)
		close(table->room);
	pthread_cond_destroy(&table->unused);
	lock_fini(&table->lock);
	free(table);
}

/* --- adding and removing ------------------------------------------------------------------------------------ */

static void unwatch(struct map_table *table, struct mapping *mapping)
{
	for (unsigned int i = 0; i < table->sets; i++)
		epoll_ctl(table->set[i].epoll, EPOLL_CTL_DEL, mapping->uffd, NULL);
}

static int watch(struct map_table *table, struct mapping *mapping)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.u64 = mapping->id };

	for (unsigned int i = 0; i < table->sets; i++)
		if (epoll_ctl(table->set[i].epoll, EPOLL_CTL_ADD, mapping->uffd, &event) < 0)
			return -errno;
	return 0;
}

/* Into the table. */
static int enter_table(struct map_table *table, struct mapping *mapping)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	struct turn_owner owner = owner_of(mapping);
	int err;

	if (!entry)
		return -ENOMEM;
	entry->id = mapping->id;
	entry->mapping = mapping;
	LOCK_SCOPE(&table->lock);
	err = turns_join(&table->turns, &mapping->turn, &owner);
	if (!err) {
		HASH_ADD(hh, table->entries, id, sizeof(entry->id), entry);
		if (!entry->hh.tbl) {
			turns_leave(&table->turns, &mapping->turn);
			err = -ENOMEM;
		}
	}
	if (err)
		free(entry);
	return err;
}

/* Out of the table. Waits until no worker and no arm is with it. */
static void leave_table(struct map_table *table, struct mapping *mapping)
{
	struct entry *entry;

	unwatch(table, mapping);
	lock_get(&table->lock);
	HASH_FIND(hh, table->entries, &mapping->id, sizeof(mapping->id), entry);
	HASH_DEL(table->entries, entry);
	turns_leave(&table->turns, &mapping->turn);
	while (mapping->refs > 1)
		lock_wait(&table->lock, &table->unused);
	lock_put(&table->lock);
	free(entry);
	attach_remove(mapping->file, &mapping->mapper);
	lock_get(&table->lock);
	while (mapping->refs > 1) /* what the engine asked for last */
		lock_wait(&table->lock, &table->unused);
	lock_put(&table->lock);
	groups_remove(table->groups, mapping->pid, mapping->file);
}

int map_table_add(struct map_table *table, struct mapping *mapping)
{
	int err;

	mapping->table = table;
	/* Its limits are known before its first fault. */
	err = groups_add(table->groups, mapping->pid, mapping->file);
	if (err)
		return err;
	err = attach_add(mapping->file, &mapping->mapper);
	if (!err) {
		err = enter_table(table, mapping);
		if (err)
			attach_remove(mapping->file, &mapping->mapper);
	}
	if (err) {
		groups_remove(table->groups, mapping->pid, mapping->file);
		return err;
	}
	err = watch(table, mapping);
	if (err)
		leave_table(table, mapping);
	return err;
}

void map_table_remove(struct map_table *table, struct mapping *mapping)
{
	leave_table(table, mapping);
	/* Its process may have come back and have another mapping of the same userfaultfd. A fault that was read for
	 * this one, and waited for room, brings a new event. */
	mapping_wake_all(mapping);
	mapping_free(mapping);
}

struct peers *map_table_peers(struct map_table *table)
{
	return table->peers;
}

unsigned int map_table_count(struct map_table *table)
{
	LOCK_SCOPE(&table->lock);

	return HASH_COUNT(table->entries);
}
