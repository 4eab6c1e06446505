/* Faults of a mapping that were read, and not served yet: those of the main thread go first. And a mapping that ends
 * while one waits for room. The process may have another mapping of the same userfaultfd by then, after a restart of
 * the daemon: the fault has to come again. The engine and the userfaultfd are real, the store is in memory. Root only.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <tierfs/protocol.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "engine/mappers.h"
#include "engine/ramfile.h"
#include "engine/resize.h"
#include "engine/room.h"
#include "engine/waits.h"
#include "engine/write.h"
#include "lib_check.h"
#include "map/events.h"
#include "map/mapping_ops.h"
#include "map/table.h"
#include "map/uffd.h"
#include "policy/tiering.h"

#define BLOCK 16384U
#define BUDGET_BLOCKS 64U
#define FILE_BYTES (BUDGET_BLOCKS * BLOCK)
#define WAIT_MS 20000

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ramfile *full, *file;
static struct map_table *table;
static uint8_t *memory;

static int open_uffd(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = TIERFS_UFFD_FEATURES };
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	if (device < 0)
		return -1;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The budget is used but for its reserve, and nobody makes room: there is no demoter. */
static void setup(void)
{
	static uint8_t data[BLOCK];
	struct engine_config config = {
		.block_bytes = BLOCK, .dram_bytes = BUDGET_BLOCKS * BLOCK, .min_idle_ns = 1000, .level = 1
	};
	int arena;

	scratch_new(&scratch, "ended");
	/* It goes with the process, however the test ends. */
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	ck_assert_int_eq(mount("ended", scratch.path, "tmpfs", 0, "size=16M"), 0);
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	config.store = store;
	config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	ck_assert_int_eq(ramfile_load(engine, 7, FILE_BYTES, false, &full), 0);
	ck_assert_int_eq(ramfile_load(engine, 8, FILE_BYTES, false, &file), 0);
	for (uint64_t block = 0; block < BUDGET_BLOCKS; block++) {
		data[0] = (uint8_t)(block + 1);
		ck_assert_int_eq(ramfile_write(full, data, sizeof(data), block * BLOCK, false), 0);
	}
	ck_assert_int_eq(mappers_arena_fd(file, true, &arena), 0);
	memory = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, arena, 0);
	ck_assert(memory != MAP_FAILED);
	close(arena);
	ck_assert_int_eq(map_table_new(engine, false, &table), 0);
}

static void teardown(void)
{
	map_table_free(table);
	munmap(memory, FILE_BYTES);
	ramfile_unload(file);
	ramfile_unload(full);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	ck_assert_int_eq(umount2(scratch.path, MNT_DETACH), 0);
	scratch_free(&scratch);
}

static struct mapping *mapping_of(int uffd)
{
	struct mapping_spec spec = {
		.id = 1,
		.ino = 8,
		.pid = getpid(),
		.segment = { .addr = (uintptr_t)memory, .length = FILE_BYTES },
		.file = file,
		.block_bytes = BLOCK,
		.uffd = uffd,
		.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
		.pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0),
		.sock = -1,
		.arena_fd = -1,
		.peers = map_table_peers(table),
		.engine = engine,
	};
	struct mapping *mapping;

	ck_assert_int_eq(mapping_ops_new(&spec, &mapping), 0);
	close(spec.pidfd);
	return mapping;
}

static void *touch(void *arg)
{
	for (size_t at = 0; at < FILE_BYTES; at += BLOCK)
		((volatile uint8_t *)arg)[at] = 1;
	return NULL;
}

START_TEST(its_fault_comes_again)
{
	int uffd = open_uffd(), other = fcntl(uffd, F_DUPFD_CLOEXEC, 0);
	struct pollfd poll_fd = { .fd = other, .events = POLLIN };
	struct ramfile_figures figures;
	struct mapping *mapping;
	pthread_t thread;

	ck_assert_int_ge(other, 0);
	ck_assert_int_eq(uffd_register(uffd, (uintptr_t)memory, FILE_BYTES), 0);
	mapping = mapping_of(uffd);
	ck_assert_int_eq(map_table_add(table, mapping), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, touch, memory), 0);
	for (int i = 0; i < WAIT_MS && !room_parked(engine); i++)
		usleep(1000);
	ck_assert_uint_eq(room_parked(engine), 1);
	ramfile_figures(file, &figures);
	ck_assert_uint_eq(figures.waiting_for_room, 1);
	ck_assert_uint_eq(figures.waiting_faults, 1);
	ck_assert_int_eq(poll(&poll_fd, 1, 0), 0); /* it was read */
	map_table_remove(table, mapping);
	ck_assert_uint_eq(room_parked(engine), 0);
	ramfile_figures(file, &figures);
	ck_assert_uint_eq(figures.waiting_faults, 0);
	ck_assert_int_eq(poll(&poll_fd, 1, WAIT_MS), 1);
	/* Its successor has it, as soon as there is room. */
	mapping = mapping_of(other);
	ck_assert_int_eq(map_table_add(table, mapping), 0);
	ck_assert_int_eq(ramfile_truncate(full, 0), 0);
	pthread_join(thread, NULL);
	map_table_remove(table, mapping);
}
END_TEST

/* --- faults of a mapping that nobody serves yet ----------------------------------------------------------------- */

struct toucher {
	pthread_t thread;
	_Atomic pid_t tid;
	uint64_t block;
};

static void *touch_one(void *arg)
{
	struct toucher *toucher = arg;

	atomic_store(&toucher->tid, gettid());
	((volatile uint8_t *)memory)[toucher->block * BLOCK] = 1;
	return NULL;
}

/* They touch one after the other, and each is waited for until its event was read. */
static void read_each(struct mapping *mapping, struct toucher *toucher, unsigned int count)
{
	struct pollfd poll_fd = { .fd = mapping->uffd, .events = POLLIN };

	for (unsigned int i = 0; i < count; i++) {
		ck_assert_int_eq(pthread_create(&toucher[i].thread, NULL, touch_one, &toucher[i]), 0);
		ck_assert_int_eq(poll(&poll_fd, 1, WAIT_MS), 1);
		if (i == 2) /* this one is the main thread, for once */
			mapping->main_tid = atomic_load(&toucher[i].tid);
		ck_assert_int_eq(events_fill(mapping, 0), 0);
		ck_assert_uint_eq(mapping->events.count, i + 1);
	}
}

START_TEST(the_main_thread_goes_first)
{
	static const unsigned int order[] = { 2, 0, 1, 3 };
	struct toucher toucher[4] = { { .block = 1 }, { .block = 3 }, { .block = 5 }, { .block = 7 } };
	int uffd = open_uffd();
	struct mapping *mapping;
	struct mapping_event event;
	struct waits_sum sum = { 0 };
	bool urgent;

	ck_assert_int_eq(uffd_register(uffd, (uintptr_t)memory, FILE_BYTES), 0);
	mapping = mapping_of(uffd);
	ck_assert_int_eq(mapping->main_tid, getpid());
	/* As a fault worker: where a read may sleep, it enters its process. */
	ck_assert_int_eq(peers_enlist(map_table_peers(table), NULL, NULL), 0);
	ck_assert_int_eq(events_fill(mapping, 0), -EAGAIN);
	read_each(mapping, toucher, 4);
	ck_assert(events_there(mapping, &urgent));
	ck_assert(urgent);
	mapping->mapper.ops->waits(&mapping->mapper, &sum);
	ck_assert_uint_eq(sum.count[WAIT_TURN], 4);
	for (unsigned int i = 0; i < 4; i++) {
		ck_assert(events_take(mapping, &event));
		ck_assert_uint_eq(event.addr, (uintptr_t)memory + toucher[order[i]].block * BLOCK);
		ck_assert_int_eq(event.urgent, i == 0);
		ck_assert(events_there(mapping, &urgent) == (i < 3));
		ck_assert(!urgent);
	}
	ck_assert(!events_take(mapping, &event));
	sum = (struct waits_sum){ 0 };
	mapping->mapper.ops->waits(&mapping->mapper, &sum);
	ck_assert_uint_eq(sum.count[WAIT_TURN], 0);
	/* Read and not served: they come again for whoever serves them. */
	ck_assert_int_eq(ramfile_truncate(full, 0), 0);
	ck_assert_int_eq(map_table_add(table, mapping), 0);
	mapping_wake_all(mapping);
	for (unsigned int i = 0; i < 4; i++)
		pthread_join(toucher[i].thread, NULL);
	map_table_remove(table, mapping);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("mappings that end");
	TCase *tcase = tcase_create("ended");
	int uffd = open_uffd();

	if (uffd < 0) {
		printf("skipped: there is no userfaultfd with what is needed, or it takes root\n");
		return check_skip(suite);
	}
	close(uffd);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, its_fault_comes_again);
	tcase_add_test(tcase, the_main_thread_goes_first);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
