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

struct entry {
	uint64_t id;
	struct mapping *mapping;
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
	bool runs;
};

struct map_table {
	struct tier *tier;
	struct groups *groups; /* immutable */
	int room;              /* eventfd */
	_Atomic bool stopping;
	struct lock lock;
	struct entry *entries; /* under lock: uthash */
	pthread_cond_t unused; /* a mapping's refs fell */
	unsigned int sets;
	struct set set[SETS_MAX];
	unsigned int workers;
	struct worker worker[];
};

static struct mapping *table_ref(struct map_table *table, uint64_t id)
{
	struct entry *entry;

	LOCK_SCOPE(&table->lock);
	HASH_FIND(hh, table->entries, &id, sizeof(id), entry);
	if (!entry)
		return NULL;
	entry->mapping->refs++;
	return entry->mapping;
}

static void table_unref(struct map_table *table, struct mapping *mapping)
{
	LOCK_SCOPE(&table->lock);

	mapping->refs--;
	pthread_cond_broadcast(&table->unused);
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
	ramfile_fault(mapping->file, &mapping->mapper, offset,
		      kind == UFFD_EVENT_PROTECTED ? RAMFILE_FAULT_PROTECTED : RAMFILE_FAULT_MISSING, arrived_ns);
}

static void serve_mapping(struct worker *worker, uint64_t id, uint64_t woken_ns)
{
	struct map_table *table = worker->table;
	struct stages *stages = tier_stages(table->tier);
	struct mapping *mapping = table_ref(table, id);
	enum uffd_event_kind kind;
	uint64_t addr;

	if (!mapping)
		return;
	serving.set = worker->set;
	serving.mapping = mapping;
	serving.armed = false; /* the one shot was fired */
	while (uffd_next(mapping->uffd, &addr, &kind) == 0) {
		uint64_t arrived_ns = woken_ns ? stage_end(stages, STAGE_EVENT, mapping->ino,
							   addr / mapping->block_bytes, woken_ns)
					       : clock_ns();

		woken_ns = 0;
		serve_event(mapping, addr, kind, arrived_ns);
	}
	map_table_waiting(mapping, true);
	serving.mapping = NULL;
	table_unref(table, mapping);
}

static void serve_room(struct map_table *table)
{
	uint64_t count;

	if (read(table->room, &count, sizeof(count)) < 0)
		return; /* another worker took it */
	while (tier_resume_fault(table->tier))
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

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct map_table *table = worker->table;

	settle_down(worker);
	while (!atomic_load(&table->stopping)) {
		struct epoll_event event;
		int count = epoll_wait(worker->set->epoll, &event, 1, -1);

		if (count <= 0)
			continue;
		if (event.data.u64 != ID_ROOM)
			serve_mapping(worker, event.data.u64, clock_ns());
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

static int worker_start(struct map_table *table, struct worker *worker, struct set *set)
{
	int err;

	worker->table = table;
	worker->set = set;
	err = -pthread_create(&worker->thread, NULL, worker_main, worker);
	if (!err) {
		worker->runs = true;
		pthread_setname_np(worker->thread, "tierfs-fault");
	}
	return err;
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

int map_table_new(struct tier *tier, bool quick, struct map_table **ret)
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
	table = calloc(1, sizeof(*table) + workers * sizeof(table->worker[0]));
	if (!table)
		return -ENOMEM;
	table->tier = tier;
	table->workers = workers;
	table->room = -1;
	lock_init(&table->lock, LOCK_RANK_ATTACH);
	lock_cond_init(&table->unused);
	err = groups_new(tier, &table->groups);
	if (!err)
		err = open_sets(table, &cpus, each);
	for (unsigned int i = 0; i < workers && !err; i++)
		err = worker_start(table, &table->worker[i], &table->set[i % table->sets]);
	if (err) {
		map_table_free(table);
		return err;
	}
	tier_on_room(tier, on_room, table);
	*ret = table;
	return 0;
}

void map_table_free(struct map_table *table)
{
	if (!table)
		return;
	tier_on_room(table->tier, NULL, NULL);
	groups_free(table->groups);
	atomic_store(&table->stopping, true);
	for (unsigned int i = 0; i < table->workers; i++) {
		struct worker *worker = &table->worker[i];

		/* A worker that stops leaves the event for the next. */
		if (worker->runs) {
			on_room(table);
			pthread_join(worker->thread, NULL);
		}
	}
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

int map_table_add(struct map_table *table, struct mapping *mapping)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	bool added;
	int err;

	if (!entry)
		return -ENOMEM;
	/* Its limits are known before its first fault. */
	err = groups_add(table->groups, mapping->pid, mapping->file);
	if (!err) {
		err = ramfile_add_mapper(mapping->file, &mapping->mapper);
		if (err)
			groups_remove(table->groups, mapping->pid, mapping->file);
	}
	if (err) {
		free(entry);
		return err;
	}
	entry->id = mapping->id;
	entry->mapping = mapping;
	lock_get(&table->lock);
	HASH_ADD(hh, table->entries, id, sizeof(entry->id), entry);
	added = entry->hh.tbl;
	lock_put(&table->lock);
	if (!added) { /* there was no memory for it */
		ramfile_remove_mapper(mapping->file, &mapping->mapper);
		free(entry);
		return -ENOMEM;
	}
	err = watch(table, mapping);
	if (err) {
		unwatch(table, mapping);
		lock_get(&table->lock);
		HASH_DEL(table->entries, entry);
		while (mapping->refs > 1)
			lock_wait(&table->lock, &table->unused);
		lock_put(&table->lock);
		free(entry);
		ramfile_remove_mapper(mapping->file, &mapping->mapper);
		groups_remove(table->groups, mapping->pid, mapping->file);
	}
	return err;
}

void map_table_remove(struct map_table *table, struct mapping *mapping)
{
	struct entry *entry;

	unwatch(table, mapping);
	lock_get(&table->lock);
	HASH_FIND(hh, table->entries, &mapping->id, sizeof(mapping->id), entry);
	HASH_DEL(table->entries, entry);
	while (mapping->refs > 1)
		lock_wait(&table->lock, &table->unused);
	lock_put(&table->lock);
	free(entry);
	ramfile_remove_mapper(mapping->file, &mapping->mapper);
	groups_remove(table->groups, mapping->pid, mapping->file);
	mapping_free(mapping);
}

unsigned int map_table_count(struct map_table *table)
{
	LOCK_SCOPE(&table->lock);

	return HASH_COUNT(table->entries);
}
