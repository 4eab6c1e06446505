#include "map/table.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
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
#include "engine/stages.h"
#include "map/groups.h"
#include "map/uffd.h"

/* A thread waits for what a worker does, and it does little. */
#define WORKER_NICE (-10)
#define ID_ROOM 0 /* the eventfd that says: parked faults may go on, or stop; mapping ids begin above */
/* Every event wakes a worker of each set, so there is a set for each processor only where they are few. */
#define SETS_MAX 4U
#define WORKERS_OF_A_PROCESSOR 3U
#define WORKERS_MIN 4U
#define WORKERS_MAX 32U
/* With those that are late in a process. */
#define WORKERS_LATE_MAX 512U
/* So many workers are with one process at most: all but a part of them, and one at least. */
#define OTHERS_DIVISOR 4U
/* Events of one mapping that a worker serves before it looks who else waits. */
#define TURN_EVENTS 16U
/* How often a client may take O_NONBLOCK off its descriptor. */
#define UNBLOCKED_MAX 1000U

struct entry {
	uint64_t id;
	struct mapping *mapping;
	UT_hash_handle hh;
};

/* Mappings of a process that has its part of the workers, in the order in which their events came. */
TAILQ_HEAD(hungry, mapping);

/* What the workers do for a process. */
struct guest {
	struct peer *peer; /* the key; lives as long as its mappings do */
	unsigned int mappings, workers;
	struct hungry hungry;
	UT_hash_handle hh;
};

/* Workers that wait together: those of one processor, or all. */
struct set {
	int epoll; /* the userfaultfd of each mapping, one shot at a time; and room */
	int cpu;   /* where its workers run; -1: anywhere */
};

struct worker {
	struct map_table *table;
	struct set *set;
	pthread_t thread;
};

struct map_table {
	struct engine *engine;
	struct groups *groups; /* immutable */
	int room;              /* eventfd */
	_Atomic bool stopping;
	struct peers *peers;
	struct lock lock;
	struct entry *entries; /* under lock: uthash */
	struct guest *guests;  /* under lock: uthash */
	pthread_cond_t unused; /* a mapping's refs fell */
	unsigned int sets;
	struct set set[SETS_MAX];
	unsigned int wanted;  /* immutable: workers that are not late */
	unsigned int workers; /* under lock, like the next two */
	int late;             /* may be below 0 for a moment */
	struct worker *worker[WORKERS_LATE_MAX];
};

/* Under lock. */
static struct guest *guest_of(struct map_table *table, const struct mapping *mapping)
{
	struct guest *guest;

	HASH_FIND_PTR(table->guests, &mapping->peer, guest);
	return guest;
}

static unsigned int guest_workers_max(const struct map_table *table)
{
	unsigned int others = table->wanted / OTHERS_DIVISOR;

	return table->wanted - (others ? others : 1);
}

/* A mapping of which an event came in the set. NULL: it is gone, or waits for the turn of its process. */
static struct mapping *begin_turn(struct map_table *table, uint64_t id, const struct set *set)
{
	struct mapping *mapping;
	struct entry *entry;
	struct guest *guest;

	LOCK_SCOPE(&table->lock);
	HASH_FIND(hh, table->entries, &id, sizeof(id), entry);
	if (!entry)
		return NULL;
	mapping = entry->mapping;
	guest = guest_of(table, mapping);
	if (guest->workers >= guest_workers_max(table)) {
		if (!mapping->hungry)
			TAILQ_INSERT_TAIL(&guest->hungry, mapping, in_queue);
		mapping->hungry |= 1U << (set - table->set);
		return NULL;
	}
	guest->workers++;
	mapping->refs++;
	return mapping;
}

/* Under lock: its events come again where one was not taken. */
static void feed(struct map_table *table, struct guest *guest)
{
	struct mapping *mapping = TAILQ_FIRST(&guest->hungry);
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT };

	if (!mapping)
		return;
	TAILQ_REMOVE(&guest->hungry, mapping, in_queue);
	event.data.u64 = mapping->id;
	for (unsigned int i = 0; i < table->sets; i++)
		if (mapping->hungry & 1U << i)
			epoll_ctl(table->set[i].epoll, EPOLL_CTL_MOD, mapping->uffd, &event);
	mapping->hungry = 0;
}

static void end_turn(struct map_table *table, struct mapping *mapping)
{
	struct guest *guest;

	LOCK_SCOPE(&table->lock);
	guest = guest_of(table, mapping);
	guest->workers--;
	feed(table, guest);
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

/* From here on the next event of the mapping wakes a worker of the set, or none does. One that is there already does at
 * once. */
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
	if (serving.mapping == mapping && serving.armed != on)
		arm(on);
}

static void serve_event(struct mapping *mapping, uint64_t addr, enum uffd_event_kind kind, uint64_t arrived_ns)
{
	uint64_t offset;

	if (mapping_offset(mapping, addr, &offset)) {
		uffd_wake(mapping->uffd, addr, 4096); /* being unmapped */
		return;
	}
	fault_serve(mapping->file, &mapping->mapper, offset,
		    kind == UFFD_EVENT_PROTECTED ? FAULT_PROTECTED : FAULT_MISSING, arrived_ns);
}

/* A read that might sleep counts as a call into the process: who makes it sleep is found out. */
static int next_event(struct mapping *mapping, uint64_t *ret_addr, enum uffd_event_kind *ret_kind)
{
	bool inside = uffd_next_may_sleep();
	int err;

	if (inside && !peer_enter(mapping->peer))
		return -EBUSY;
	err = uffd_next(mapping->uffd, ret_addr, ret_kind);
	if (inside)
		peer_leave(mapping->peer);
	return err;
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

static void serve_mapping(struct worker *worker, const struct epoll_event *event, uint64_t woken_ns)
{
	struct map_table *table = worker->table;
	struct stages *stages = engine_stages(table->engine);
	struct mapping *mapping = begin_turn(table, event->data.u64, worker->set);
	enum uffd_event_kind kind;
	uint64_t addr;
	int err = 0;

	if (!mapping)
		return;
	if (event->events & EPOLLERR && !unblocked(mapping)) {
		end_turn(table, mapping);
		return;
	}
	serving.set = worker->set;
	serving.mapping = mapping;
	serving.armed = false; /* the one shot was fired */
	for (unsigned int i = 0; i < TURN_EVENTS && (err = next_event(mapping, &addr, &kind)) == 0; i++) {
		uint64_t arrived_ns = woken_ns ? stage_end(stages, STAGE_EVENT, mapping->ino,
							   addr / mapping->block_bytes, woken_ns)
					       : clock_ns();

		woken_ns = 0;
		serve_event(mapping, addr, kind, arrived_ns);
	}
	/* What is left is at the end of the queue now. Of who is stalled, it comes when that is over. */
	if (err != -EBUSY)
		map_table_waiting(mapping, true);
	serving.mapping = NULL;
	end_turn(table, mapping);
}

static void serve_room(struct map_table *table)
{
	uint64_t count;

	if (read(table->room, &count, sizeof(count)) < 0)
		return; /* another worker took it */
	while (fault_resume(table->engine))
		;
}

/* A worker on the processor of the toucher, which sleeps now, begins at once: no other processor has to wake up. */
static void settle_down(const struct worker *worker)
{
	cpu_set_t cpus;

	if (setpriority(PRIO_PROCESS, (id_t)gettid(), WORKER_NICE) < 0)
		log_debug("fault workers have no priority of their own");
	thread_set_slice(THREAD_SLICE_SHORT_NS);
	if (worker->set->cpu < 0)
		return;
	CPU_ZERO(&cpus);
	CPU_SET((size_t)worker->set->cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) < 0)
		log_debug("a fault worker may not run on processor %d alone", worker->set->cpu);
}

static int worker_start(struct map_table *table, struct set *set);

/* A worker is late in a process, or is back. */
static void on_late(void *arg, bool late)
{
	struct worker *worker = arg;
	struct map_table *table = worker->table;

	LOCK_SCOPE(&table->lock);
	table->late += late ? 1 : -1;
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
	while (!atomic_load(&table->stopping)) {
		struct epoll_event event;
		int count = epoll_wait(worker->set->epoll, &event, 1, -1);

		if (count <= 0)
			continue;
		if (event.data.u64 != ID_ROOM)
			serve_mapping(worker, &event, clock_ns());
		else if (!atomic_load(&table->stopping))
			serve_room(table);
	}
	return NULL;
}

static void on_room(void *arg)
{
	struct map_table *table = arg;
	uint64_t one = 1;

	if (write(table->room, &one, sizeof(one)) < 0)
		log_debug("room for waiting faults was announced before");
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
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = ID_ROOM };
	struct set *set = &table->set[table->sets];

	set->cpu = cpu;
	set->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (set->epoll < 0)
		return -errno;
	table->sets++;
	return epoll_ctl(set->epoll, EPOLL_CTL_ADD, table->room, &event) < 0 ? -errno : 0;
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
	for (unsigned int i = 0; i < table->sets; i++)
		close(table->set[i].epoll);
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

/* Under lock. */
static int guest_add(struct map_table *table, struct mapping *mapping)
{
	struct guest *guest = guest_of(table, mapping);

	if (!guest) {
		guest = calloc(1, sizeof(*guest));
		if (!guest)
			return -ENOMEM;
		guest->peer = mapping->peer;
		TAILQ_INIT(&guest->hungry);
		HASH_ADD_PTR(table->guests, peer, guest);
		if (!guest->hh.tbl) {
			free(guest);
			return -ENOMEM;
		}
	}
	guest->mappings++;
	return 0;
}

/* Under lock. */
static void guest_remove(struct map_table *table, const struct mapping *mapping)
{
	struct guest *guest = guest_of(table, mapping);

	if (--guest->mappings)
		return;
	HASH_DEL(table->guests, guest);
	free(guest);
}

/* Into the table. */
static int enter_table(struct map_table *table, struct mapping *mapping)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	int err;

	if (!entry)
		return -ENOMEM;
	entry->id = mapping->id;
	entry->mapping = mapping;
	LOCK_SCOPE(&table->lock);
	err = guest_add(table, mapping);
	if (!err) {
		HASH_ADD(hh, table->entries, id, sizeof(entry->id), entry);
		if (!entry->hh.tbl) {
			guest_remove(table, mapping);
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
	if (mapping->hungry)
		TAILQ_REMOVE(&guest_of(table, mapping)->hungry, mapping, in_queue);
	mapping->hungry = 0;
	while (mapping->refs > 1)
		lock_wait(&table->lock, &table->unused);
	lock_put(&table->lock);
	free(entry);
	attach_remove(mapping->file, &mapping->mapper);
	lock_get(&table->lock);
	while (mapping->refs > 1) /* what the engine asked for last */
		lock_wait(&table->lock, &table->unused);
	guest_remove(table, mapping);
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
