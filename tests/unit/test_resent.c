/* link: -Wl,--wrap=read */
/* Requests as they come from the device, and what an earlier daemon has done for them: on a namespace in memory whose
 * daemon dies after each change. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/engine.h"
#include "front/resent.h"
#include "names/names.h"
#include "names/outcome.h"
#include "names/record.h"
#include "policy/tiering.h"
#include "lib_check.h"
#include "lib_scratch.h"
#include "lib_store_mem.h"

#define BLOCK 16384U
#define RESENT (UINT64_C(1) << 63)
#define PAGE 4096UL
#define REQUEST_BYTES ((1UL << 20) + PAGE)
#define READERS 40 /* more than may read at a time */

static struct scratch scratch;
static struct store *store;
static struct engine *engine;
static struct ns *ns;
static uint32_t session;
static int arena_dir, device[2];

static void load(bool takes_over)
{
	struct engine_config engine_config = {
		.store = store,
		.arena_dir = arena_dir,
		.block_bytes = BLOCK,
		.dram_bytes = 8 << 20,
		.min_idle_ns = 1000000,
		.level = 1,
	};
	struct ns_config config = {
		.store = store,
		.root_mode = 0755,
		.arenas_survived = takes_over,
		.takes_over = takes_over,
		.session = session,
	};

	ck_assert_int_eq(tiering_new(&engine_config, &engine), 0);
	config.engine = engine;
	ck_assert_int_eq(ns_load(&config, &ns), 0);
}

static void unload(void)
{
	ns_free(ns);
	tiering_free(engine);
	store_mem_crash(store);
}

static void dies(void)
{
	unload();
	session++;
	load(true);
}

static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	ck_assert(freopen("/dev/null", "w", stderr) != NULL);
	scratch_new(&scratch, "resent");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(pipe2(device, O_CLOEXEC | O_NONBLOCK), 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	session = 0;
	load(false);
}

static void teardown(void)
{
	unload();
	store->ops->free(store);
	close(device[0]);
	close(device[1]);
	close(arena_dir);
	scratch_free(&scratch);
}

/* The next request that this thread works on. True: it was done. */
static bool comes(uint64_t unique, uint64_t *ret_ino)
{
	struct fuse_in_header header = { .len = sizeof(header), .unique = unique };
	char buf[4096];

	ck_assert_int_eq(write(device[1], &header, sizeof(header)), sizeof(header));
	ck_assert_int_eq(resent_read(device[0], buf, sizeof(buf), NULL), sizeof(header));
	return resent_is_done(ns, ret_ino);
}

/* --- into what they are read ---------------------------------------------------------------------------------- */

static int watched = -1;
static _Atomic unsigned int absent_pages, watched_reads;

ssize_t __real_read(int fd, void *buf, size_t len);
ssize_t __wrap_read(int fd, void *buf, size_t len);

ssize_t __wrap_read(int fd, void *buf, size_t len)
{
	uintptr_t first = (uintptr_t)buf & ~(PAGE - 1), end = ((uintptr_t)buf + len + PAGE - 1) & ~(PAGE - 1);
	static __thread unsigned char there[REQUEST_BYTES / PAGE + 2]; /* not in a frame that a cancel leaves */

	if (fd != watched)
		return __real_read(fd, buf, len);
	/* No check here: a thread may be cancelled within. */
	if ((end - first) / PAGE > sizeof(there) || mincore((void *)first, end - first, there) < 0)
		absent_pages++;
	for (size_t i = 0; i < (end - first) / PAGE && i < sizeof(there); i++)
		absent_pages += !(there[i] & 1);
	watched_reads++;
	return __real_read(fd, buf, len);
}

static void *absent_memory(void)
{
	void *memory = mmap(NULL, REQUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(memory, MAP_FAILED);
	return memory;
}

static void send_request(int fd, uint64_t unique)
{
	struct fuse_in_header header = { .len = sizeof(header), .unique = unique };

	ck_assert_int_eq(write(fd, &header, sizeof(header)), sizeof(header));
}

START_TEST(the_memory_for_a_request_is_there)
{
	void *memory = absent_memory();

	watched = device[0];
	for (uint64_t unique = 2; unique < 8; unique += 2) {
		send_request(device[1], unique);
		ck_assert_int_eq(resent_read(device[0], memory, REQUEST_BYTES, NULL), sizeof(struct fuse_in_header));
		ck_assert_uint_eq(((struct fuse_in_header *)memory)->unique, unique);
	}
	ck_assert_uint_eq(watched_reads, 3);
	ck_assert_uint_eq(absent_pages, 0);
	ck_assert_int_eq(resent_read(device[0], memory, REQUEST_BYTES, NULL), -1);
	ck_assert_int_eq(errno, EAGAIN);
	munmap(memory, REQUEST_BYTES);
}
END_TEST

static int pair[2];
static _Atomic uint64_t sum, requests;

/* As a thread of libfuse. */
static void *read_for_ever(void *memory)
{
	for (;;) {
		pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
		if (resent_read(pair[0], memory, REQUEST_BYTES, NULL) != sizeof(struct fuse_in_header))
			return memory; /* the end */
		pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
		sum += ((struct fuse_in_header *)memory)->unique;
		requests++;
	}
}

/* ThreadSanitizer does not see that a thread has left read(2) if it is cancelled there. */
#ifdef __SANITIZE_THREAD__
#define CAN_CANCEL false
#else
#define CAN_CANCEL true
#endif

static void more_readers_than_may_read(bool cancels)
{
	static void *memory[READERS];
	pthread_t reader[READERS];
	uint64_t before = sum, wanted = requests + 1000;
	void *result;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	watched = pair[0];
	for (int i = 0; i < READERS; i++) {
		memory[i] = absent_memory();
		ck_assert_int_eq(pthread_create(&reader[i], NULL, read_for_ever, memory[i]), 0);
	}
	for (uint64_t i = 1; i <= 1000; i++)
		send_request(pair[1], i);
	while (requests < wanted)
		usleep(1000);
	ck_assert_uint_eq(sum - before, 1000 * 1001 / 2);
	for (int i = 0; i < READERS && cancels; i++)
		ck_assert_int_eq(pthread_cancel(reader[i]), 0);
	if (!cancels)
		shutdown(pair[1], SHUT_WR);
	for (int i = 0; i < READERS; i++) {
		ck_assert_int_eq(pthread_join(reader[i], &result), 0);
		ck_assert_ptr_eq(result, cancels ? PTHREAD_CANCELED : memory[i]);
		munmap(memory[i], REQUEST_BYTES);
	}
	close(pair[0]);
	close(pair[1]);
}

START_TEST(threads_take_turns_and_are_cancelled)
{
	more_readers_than_may_read(CAN_CANCEL);
	more_readers_than_may_read(false);
	ck_assert_uint_eq(absent_pages, 0);
}
END_TEST

/* --- what was done -------------------------------------------------------------------------------------------- */

static uint64_t create(uint64_t unique, const char *name, mode_t mode)
{
	uint64_t ino = 0;
	struct stat attr;

	ck_assert(!comes(unique, &ino));
	ck_assert_int_eq(ns_create(ns, NS_ROOT_INO, name, mode, 0, 0, &attr), 0);
	return attr.st_ino;
}

START_TEST(every_change_is_known)
{
	uint64_t ino = 0, f = create(2, "f", S_IFREG | 0600), g, d;
	struct stat attr;

	dies();
	ck_assert(comes(2 | RESENT, &ino) && ino == f);
	g = create(4, "g", S_IFREG | 0600);
	dies();
	ck_assert(comes(4 | RESENT, &ino) && ino == g);
	d = create(6, "d", S_IFDIR | 0755);
	dies();
	ck_assert(comes(6 | RESENT, &ino) && ino == d);
	ck_assert(!comes(8, &ino));
	ck_assert_int_eq(ns_link(ns, f, d, "l", &attr), 0);
	dies();
	ck_assert(comes(8 | RESENT, &ino) && ino == f);
	ck_assert(!comes(10, &ino));
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "f", NS_ROOT_INO, "g", RENAME_EXCHANGE), 0);
	dies();
	ck_assert(comes(10 | RESENT, &ino) && ino == f);
	ck_assert_int_eq(ns_lookup(ns, NS_ROOT_INO, "g", &attr), 0);
	ck_assert_uint_eq(attr.st_ino, f);
	ck_assert(!comes(12, &ino));
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "g", NS_ROOT_INO, "f", 0), 0);
	dies();
	ck_assert(comes(12 | RESENT, &ino) && ino == f);
	ck_assert(!comes(14, &ino));
	ck_assert_int_eq(ns_unlink(ns, d, "l"), 0);
	dies();
	ck_assert(comes(14 | RESENT, &ino) && ino == f);
	ck_assert(!comes(16, &ino));
	ck_assert_int_eq(ns_rmdir(ns, NS_ROOT_INO, "d"), 0);
	dies();
	ck_assert(comes(16 | RESENT, &ino) && ino == d);
}
END_TEST

START_TEST(what_was_not_done_is_not_known)
{
	uint64_t ino = 0;
	struct stat attr;

	/* refused by the rules, refused by the store, and only looked at */
	create(2, "f", S_IFREG | 0600);
	ck_assert(!comes(4, &ino));
	ck_assert_int_eq(ns_create(ns, NS_ROOT_INO, "f", S_IFREG | 0600, 0, 0, &attr), -EEXIST);
	store_mem_fail_nth(store, STORE_MEM_META_PUT, 1, EIO);
	ck_assert(!comes(6, &ino));
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), -EIO);
	ck_assert(!comes(8, &ino));
	ck_assert_int_eq(ns_lookup(ns, NS_ROOT_INO, "f", &attr), 0);
	dies();
	for (uint64_t unique = 4; unique <= 8; unique += 2)
		ck_assert(!comes(unique | RESENT, &ino));
	/* its answer was sent: the thread has begun another */
	create(10, "g", S_IFREG | 0600);
	create(12, "h", S_IFREG | 0600);
	dies();
	ck_assert(!comes(10 | RESENT, &ino));
	ck_assert(comes(12 | RESENT, &ino));
	/* what is not resent has not been done */
	ck_assert(!comes(12, &ino));
}
END_TEST

static void *create_apart(void *arg)
{
	char name[16];

	snprintf(name, sizeof(name), "t%lu", (unsigned long)(uintptr_t)arg);
	create((uintptr_t)arg, name, S_IFREG | 0600);
	return NULL;
}

/* Several threads, one after the other: the slot of one that has ended is used again. */
START_TEST(a_slot_for_each_thread)
{
	uint64_t ino = 0;
	pthread_t thread;

	create(2, "f", S_IFREG | 0600);
	for (uintptr_t unique = 4; unique <= 8; unique += 2) {
		ck_assert_int_eq(pthread_create(&thread, NULL, create_apart, (void *)unique), 0);
		pthread_join(thread, NULL);
	}
	dies();
	ck_assert(comes(2 | RESENT, &ino));
	ck_assert(!comes(4 | RESENT, &ino));
	ck_assert(comes(8 | RESENT, &ino));
}
END_TEST

static int count_one(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	(void)key;
	(void)key_len;
	(void)value;
	(void)value_len;
	++*(unsigned int *)arg;
	return 0;
}

static unsigned int outcomes_stored(void)
{
	static const char prefix = RECORD_PREFIX_OUTCOME;
	unsigned int count = 0;

	ck_assert_int_eq(store->meta->walk(store, &prefix, 1, count_one, &count), 0);
	return count;
}

START_TEST(old_ones_go)
{
	uint64_t ino = 0;
	char name[16];

	create(2, "f", S_IFREG | 0600);
	for (unsigned int i = 1; i <= OUTCOME_SESSIONS; i++) {
		dies();
		ck_assert(comes(2 | RESENT, &ino));
		snprintf(name, sizeof(name), "f%u", i);
		create(2 + 2 * i, name, S_IFREG | 0600);
	}
	dies();
	ck_assert(!comes(2 | RESENT, &ino));
	ck_assert(comes(4 | RESENT, &ino));
	ck_assert_uint_eq(outcomes_stored(), OUTCOME_SESSIONS);
	/* of another mount */
	unload();
	session = 0;
	load(false);
	ck_assert(!comes(4 | RESENT, &ino));
	ck_assert_uint_eq(outcomes_stored(), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("resent");
	TCase *tcase = tcase_create("resent");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, every_change_is_known);
	tcase_add_test(tcase, what_was_not_done_is_not_known);
	tcase_add_test(tcase, a_slot_for_each_thread);
	tcase_add_test(tcase, old_ones_go);
	tcase_add_test(tcase, the_memory_for_a_request_is_there);
	tcase_add_test(tcase, threads_take_turns_and_are_cancelled);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
