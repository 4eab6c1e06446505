/* unit/test_shares.c - what a share can say, what is promised to a tree of files, and that it is kept. TIERFS_SEED
 * repeats the random one. */
/* link: -Wl,--wrap=ramfile_clone */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cold/meta.h"
#include "cold/stores.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/ramfile.h"
#include "engine/room.h"
#include "engine/tenant.h"
#include "engine/write.h"
#include "lib/lib_process.h"
#include "lib/lib_scratch.h"
#include "lib/lib_store_mem.h"
#include "names/days.h"
#include "names/names.h"
#include "names/record.h"
#include "names/shares.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define GIB (UINT64_C(1) << 30)
#define PROMISABLE (10 * GIB)

static struct scratch scratch;
static struct store *store;
static struct engine *engine;
static struct ns *ns;
static int arena_dir;

static const struct share *defaults;
static uint64_t file_max, uid_files, uid_bytes;

static int load(bool survived)
{
	struct ns_config config = { .root_mode = 0755,
				    .arenas_survived = survived,
				    .store = store,
				    .defaults = defaults,
				    .file_max_bytes = file_max,
				    .uid_files = uid_files,
				    .uid_bytes = uid_bytes };
	struct engine_config engine_config = {
		.store = store,
		.arena_dir = arena_dir,
		.block_bytes = 16384,
		.dram_bytes = PROMISABLE + (UINT64_C(256) << 20), /* with what is kept free */
		.min_idle_ns = 1000000,
		.level = 1,
	};

	ck_assert_int_eq(tiering_new(&engine_config, &engine), 0);
	config.engine = engine;
	return ns_load(&config, &ns);
}

static void unload(void)
{
	ns_free(ns);
	tiering_free(engine);
}

static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	scratch_new(&scratch, "shares");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	ck_assert_int_eq(load(false), 0);
}

static void teardown(void)
{
	unload();
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

static uint64_t make(uint64_t parent, const char *name, mode_t type)
{
	struct stat attr;

	ck_assert_int_eq(ns_create(ns, parent, name, type | 0700, 1, 2, &attr), 0);
	ns_forget(ns, attr.st_ino, 1);
	return attr.st_ino;
}

/* As the kernel does: it has looked up what it removes. */
static int take_away(uint64_t parent, const char *name, uint64_t ino, bool dir)
{
	int err;

	ck_assert_int_eq(ns_remember(ns, ino), 0);
	err = dir ? ns_rmdir(ns, parent, name) : ns_unlink(ns, parent, name);
	ns_forget(ns, ino, 1);
	return err;
}

static int set(uint64_t ino, enum share_id id, uint64_t value)
{
	struct shares_change change = { id, value };
	uint64_t left;

	return shares_set(ns, ino, &change, 1, PROMISABLE, &left);
}

static uint64_t get(uint64_t ino, enum share_id id)
{
	struct share share;

	ck_assert_int_eq(shares_get(ns, ino, &share), 0);
	return share.value[id];
}

/* --- words -------------------------------------------------------------------------------------------------------- */

static uint64_t parsed(const char *name, const char *text)
{
	enum share_id id;
	uint64_t value = 0;
	int err;

	ck_assert_int_eq(share_find(name, &id), 0);
	err = share_parse(id, text, &value);
	return err ? (uint64_t)(int64_t)err : value;
}

START_TEST(values_are_read_and_written)
{
	char text[SHARE_TEXT_LEN];
	enum share_id id;

	ck_assert_uint_eq(parsed("dram.min", "1G"), GIB);
	ck_assert_uint_eq(parsed("dram.min", "0"), 0);
	ck_assert_uint_eq(parsed("dram.max", "none"), SHARE_NONE);
	ck_assert_uint_eq(parsed("dram.weight", "5K"), 5000);
	ck_assert_int_eq((int)parsed("dram.weight", "2m"), -ERANGE);
	ck_assert_uint_eq(parsed("dram.weight", "10000"), 10000);
	ck_assert_int_eq((int)parsed("dram.weight", "10001"), -ERANGE);
	ck_assert_int_eq((int)parsed("dram.weight", "0"), -ERANGE);
	ck_assert_int_eq((int)parsed("dram.max", "4K"), -ERANGE);
	for (const char *const *bad = (const char *const[]){ "", "-1", "x", "5Kb", "5 K", "0x5", NULL }; *bad; bad++)
		ck_assert_int_eq((int)parsed("dram.weight", *bad), -EINVAL);
	ck_assert_int_eq((int)parsed("dram.weight", "99999999999999999999"), -ERANGE);
	ck_assert_int_eq((int)parsed("dram.weight", "18446744073709551G"), -ERANGE);
	ck_assert_int_eq(share_find("dram", &id), -ENOENT);
	ck_assert_uint_eq(parsed("cold.write_day", "100G"), 100 * GIB);
	ck_assert_uint_eq(parsed("disk.max", "1M"), 1 << 20);
	ck_assert_int_eq((int)parsed("disk.max", "1023K"), -ERANGE);
	ck_assert_int_eq(share_find("disk", &id), -ENOENT);
	ck_assert_str_eq(share_format(SHARE_DRAM_MAX, 4 * GIB, text), "4G");
	ck_assert_str_eq(share_format(SHARE_DRAM_WEIGHT, 5000, text), "5000");
	ck_assert_str_eq(share_format(SHARE_DRAM_MAX, SHARE_NONE, text), "none");
}
END_TEST

/* All numbers and names differ, or a record would say something else. */
START_TEST(rows_are_told_apart)
{
	for (unsigned int i = 0; i < SHARE_COUNT; i++) {
		enum share_id id;

		ck_assert_int_eq(share_of_number(share_spec((enum share_id)i)->number, &id), 0);
		ck_assert_uint_eq(id, i);
		ck_assert_int_eq(share_find(share_spec((enum share_id)i)->name, &id), 0);
		ck_assert_uint_eq(id, i);
		ck_assert(!share_may_be((enum share_id)i, SHARE_NONE));
	}
}
END_TEST

/* --- kept --------------------------------------------------------------------------------------------------------- */

START_TEST(a_share_outlives_the_power)
{
	uint64_t dir = make(NS_ROOT_INO, "tenant", S_IFDIR), file = make(dir, "vm", S_IFREG);

	ck_assert_int_eq(set(file, SHARE_DRAM_MIN, GIB), 0);
	ck_assert_int_eq(set(file, SHARE_DRAM_WEIGHT, 200), 0);
	ck_assert_int_eq(set(dir, SHARE_DRAM_WEIGHT, 5000), 0);
	unload();
	store_mem_power_loss(store);
	ck_assert_int_eq(load(false), 0);
	ck_assert_uint_eq(get(file, SHARE_DRAM_MIN), GIB);
	ck_assert_uint_eq(get(file, SHARE_DRAM_WEIGHT), 200);
	ck_assert_uint_eq(get(file, SHARE_DRAM_MAX), SHARE_NONE);
	ck_assert_uint_eq(get(dir, SHARE_DRAM_WEIGHT), 5000);
	ck_assert_uint_eq(shares_promised(ns), GIB);
	/* What says nothing any more leaves no record. */
	ck_assert_int_eq(set(dir, SHARE_DRAM_WEIGHT, SHARE_NONE), 0);
	unload();
	store_mem_power_loss(store);
	ck_assert_int_eq(load(false), 0);
	ck_assert_uint_eq(get(dir, SHARE_DRAM_WEIGHT), SHARE_NONE);
	/* The number of a removed file is never another's, so its share is no one's. */
	ck_assert_int_eq(take_away(dir, "vm", file, false), 0);
	ck_assert_uint_eq(shares_promised(ns), 0);
	unload();
	store_mem_crash(store);
	ck_assert_int_eq(load(true), 0);
	ck_assert_uint_eq(shares_promised(ns), 0);
}
END_TEST

START_TEST(a_set_that_fails_changes_nothing)
{
	uint64_t file = make(NS_ROOT_INO, "vm", S_IFREG);

	ck_assert_int_eq(set(file, SHARE_DRAM_MIN, GIB), 0);
	store_mem_fail_all(store, STORE_MEM_META_PUT, EIO);
	ck_assert_int_eq(set(file, SHARE_DRAM_MIN, 2 * GIB), -EIO);
	ck_assert_int_eq(set(file, SHARE_DRAM_MIN, SHARE_NONE), -EIO);
	store_mem_fail_all(store, STORE_MEM_META_PUT, 0);
	ck_assert_uint_eq(get(file, SHARE_DRAM_MIN), GIB);
	ck_assert_uint_eq(shares_promised(ns), GIB);
	ck_assert_int_eq(set(file + 100, SHARE_DRAM_MIN, GIB), -ENOENT);
	ck_assert_int_eq(set(file, SHARE_DRAM_MIN, 2 * GIB), 0);
}
END_TEST

static int parse(const uint8_t *value, size_t length)
{
	struct share share;
	uint64_t ino;

	return record_parse_share("H\0\0\0\0\0\0\0\7", 9, value, length, &ino, &share);
}

START_TEST(a_record_that_makes_no_sense_is_refused)
{
	struct record_batch batch = { .count = 0 };
	struct share share = share_nothing();
	uint8_t *value = batch.value[0];

	share.value[SHARE_DRAM_MIN] = GIB;
	share.value[SHARE_DRAM_MAX] = 2 * GIB;
	record_batch_share(&batch, 7, &share);
	ck_assert_uint_eq(batch.change[0].value_len, 40);
	ck_assert_int_eq(parse(value, 40), 0);
	ck_assert_int_eq(parse(value, 39), -EBADMSG);
	ck_assert_int_eq(parse(value, 4), -EBADMSG);
	value[0] = 3;
	ck_assert_int_eq(parse(value, 40), -EPROTONOSUPPORT);
	value[0] = 2;
	ck_assert_int_eq(parse(value, 40), 0);
	value[9] = 2; /* an unknown flag */
	ck_assert_int_eq(parse(value, 40), -EBADMSG);
	value[9] = 0;
	value[0] = 1;
	value[8] = 99;
	ck_assert_int_eq(parse(value, 40), -EPROTONOSUPPORT);
	value[8] = value[24]; /* twice */
	ck_assert_int_eq(parse(value, 40), -EBADMSG);
	value[8] = 1;
	value[16 + 5] = 1; /* dram.min is above dram.max */
	ck_assert_int_eq(parse(value, 40), -EBADMSG);
	value[1] = 0;
	ck_assert_int_eq(parse(value, 8), -EBADMSG);
}
END_TEST

/* --- promised ----------------------------------------------------------------------------------------------------- */

START_TEST(no_more_is_promised_than_there_is)
{
	uint64_t dir = make(NS_ROOT_INO, "tenant", S_IFDIR), a = make(dir, "a", S_IFREG), b = make(dir, "b", S_IFREG);
	uint64_t other = make(NS_ROOT_INO, "other", S_IFREG), left;
	struct shares_change change[2] = { { SHARE_DRAM_MIN, 2 * GIB }, { SHARE_DRAM_MAX, GIB } };
	struct share share;

	ck_assert_int_eq(set(dir, SHARE_DRAM_MIN, 6 * GIB), 0);
	ck_assert_int_eq(set(a, SHARE_DRAM_MIN, 4 * GIB), 0);
	ck_assert_uint_eq(shares_promised(ns), 6 * GIB); /* within what the directory has */
	ck_assert_int_eq(set(b, SHARE_DRAM_MIN, 3 * GIB), 0);
	ck_assert_uint_eq(shares_promised(ns), 7 * GIB);
	ck_assert_int_eq(set(other, SHARE_DRAM_MIN, 3 * GIB), 0);
	change[0].value = 3 * GIB + 1;
	ck_assert_int_eq(shares_set(ns, other, change, 1, PROMISABLE, &left), -EDQUOT);
	ck_assert_uint_eq(left, 3 * GIB);
	ck_assert_uint_eq(get(other, SHARE_DRAM_MIN), 3 * GIB);
	/* Both or none. */
	change[0].value = 2 * GIB;
	ck_assert_int_eq(shares_set(ns, other, change, 2, PROMISABLE, &left), -EINVAL);
	ck_assert_uint_eq(get(other, SHARE_DRAM_MAX), SHARE_NONE);
	/* Where the budget became smaller, a promise may become less, and nothing may become more. */
	ck_assert_int_eq(shares_set(ns, other, change, 1, 5 * GIB, &left), 0);
	change[0].value = 2 * GIB + 1;
	ck_assert_int_eq(shares_set(ns, other, change, 1, 5 * GIB, &left), -EDQUOT);
	ck_assert_uint_eq(left, 0);
	/* Of what bounds, the least on the way up holds. */
	ck_assert_int_eq(set(dir, SHARE_DRAM_MAX, 8 * GIB), 0);
	ck_assert_int_eq(set(a, SHARE_DRAM_MAX, 9 * GIB), 0);
	ck_assert_int_eq(set(NS_ROOT_INO, SHARE_DRAM_MAX, 100 * GIB), 0);
	ck_assert_int_eq(set(b, SHARE_DRAM_MAX, 3 * GIB), 0);
	ck_assert_int_eq(shares_effective(ns, a, &share), 0);
	ck_assert_uint_eq(share.value[SHARE_DRAM_MAX], 8 * GIB);
	ck_assert_uint_eq(share.value[SHARE_DRAM_MIN], 4 * GIB);
	ck_assert_int_eq(shares_effective(ns, b, &share), 0);
	ck_assert_uint_eq(share.value[SHARE_DRAM_MAX], 3 * GIB);
	ck_assert_int_eq(shares_effective(ns, other, &share), 0);
	ck_assert_uint_eq(share.value[SHARE_DRAM_MAX], 100 * GIB);
	ck_assert_int_eq(set(NS_ROOT_INO, SHARE_DRAM_MAX, SHARE_NONE), 0);
	ck_assert_int_eq(shares_effective(ns, other, &share), 0);
	ck_assert_uint_eq(share.value[SHARE_DRAM_MAX], SHARE_NONE);
}
END_TEST

/* --- who is charged to whom --------------------------------------------------------------------------------------- */

static uint64_t charged_to(uint64_t ino)
{
	uint64_t bytes = 0;

	return tenant_used(engine, ino, &bytes) ? UINT64_MAX : bytes;
}

static struct ramfile *fill(uint64_t ino, uint64_t blocks)
{
	struct ns_setattr longer = { .set_size = true, .size_bytes = blocks * 16384 };
	uint8_t data[16384];
	struct ramfile *file;
	struct stat attr;

	memset(data, 7, sizeof(data));
	ck_assert_int_eq(ns_setattr(ns, ino, &longer, &attr), 0);
	ck_assert_int_eq(ns_open(ns, ino, &file), 0);
	for (uint64_t block = 0; block < blocks; block++)
		ck_assert_int_eq(ramfile_write(file, data, sizeof(data), block * sizeof(data), false), 0);
	return file;
}

START_TEST(names_decide_who_is_charged)
{
	uint64_t a = make(NS_ROOT_INO, "a", S_IFDIR), b = make(NS_ROOT_INO, "b", S_IFDIR);
	uint64_t in = make(a, "in", S_IFDIR), file = make(in, "file", S_IFREG);
	struct stat attr;

	fill(file, 10);
	ck_assert_uint_eq(charged_to(a), UINT64_MAX);
	ck_assert_int_eq(set(a, SHARE_DRAM_MAX, GIB), 0);
	ck_assert_int_eq(set(b, SHARE_DRAM_MAX, GIB), 0);
	ck_assert_uint_eq(charged_to(a), 10 * 16384);
	/* With its directory, and alone. */
	ck_assert_int_eq(ns_rename(ns, a, "in", b, "in", 0), 0);
	ck_assert_uint_eq(charged_to(a), 0);
	ck_assert_uint_eq(charged_to(b), 10 * 16384);
	ck_assert_int_eq(ns_rename(ns, in, "file", NS_ROOT_INO, "file", 0), 0);
	ck_assert_uint_eq(charged_to(b), 0);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "file", in, "file", 0), 0);
	ck_assert_uint_eq(charged_to(b), 10 * 16384);
	/* No name of it elsewhere. */
	ck_assert_int_eq(ns_link(ns, file, a, "link", &attr), -EXDEV);
	ck_assert_int_eq(ns_link(ns, file, NS_ROOT_INO, "link", &attr), -EXDEV);
	ck_assert_int_eq(ns_link(ns, file, b, "link", &attr), 0);
	ns_forget(ns, file, 1);
	ck_assert_int_eq(ns_rename(ns, b, "link", a, "link", 0), -EXDEV);
	ck_assert_int_eq(ns_rename(ns, b, "link", b, "other", 0), 0);
	ck_assert_int_eq(ns_unlink(ns, in, "file"), 0);
	/* Without a name, and without the directories that it was in. */
	ck_assert_int_eq(ns_rename(ns, b, "other", in, "other", 0), 0);
	ck_assert_int_eq(ns_unlink(ns, in, "other"), 0);
	ck_assert_uint_eq(charged_to(b), 10 * 16384);
	ck_assert_int_eq(take_away(b, "in", in, true), 0);
	ck_assert_uint_eq(charged_to(b), 10 * 16384);
	ck_assert_int_eq(set(b, SHARE_DRAM_MAX, 2 * GIB), 0);
	ck_assert_uint_eq(charged_to(b), 10 * 16384);
	ns_put(ns, file);
	ck_assert_uint_eq(charged_to(b), 0);
	ck_assert_int_eq(set(a, SHARE_DRAM_MAX, SHARE_NONE), 0);
	ck_assert_uint_eq(charged_to(a), UINT64_MAX);
}
END_TEST

/* A share that is set where a file has names in two tenants: the directory with the lowest number counts, at every
 * moment. */
START_TEST(several_names_in_two_tenants)
{
	uint64_t a = make(NS_ROOT_INO, "a", S_IFDIR), b = make(NS_ROOT_INO, "b", S_IFDIR);
	uint64_t ino = make(a, "f", S_IFREG);
	struct stat attr;

	fill(ino, 3);
	ck_assert_int_eq(ns_link(ns, ino, b, "f", &attr), 0);
	ns_forget(ns, ino, 1);
	ck_assert_int_eq(set(a, SHARE_DRAM_MAX, GIB), 0);
	ck_assert_int_eq(set(b, SHARE_DRAM_MAX, GIB), 0);
	ck_assert_uint_eq(charged_to(a), 3 * 16384);
	ck_assert_int_eq(ns_rename(ns, a, "f", b, "f", 0), 0); /* nothing to do, says POSIX */
	ck_assert_uint_eq(charged_to(a), 3 * 16384);
	ck_assert_int_eq(ns_unlink(ns, a, "f"), 0);
	ck_assert_uint_eq(charged_to(a), 0);
	ck_assert_uint_eq(charged_to(b), 3 * 16384);
	ck_assert_int_eq(ns_rename(ns, b, "f", a, "f", 0), 0);
	ck_assert_uint_eq(charged_to(a), 3 * 16384);
	ns_put(ns, ino);
}
END_TEST

static void on_room(void *arg)
{
	atomic_store((_Atomic bool *)arg, true);
}

/* Faults that wait for a max go on when there is none any more, also where nothing can be demoted. */
START_TEST(a_fault_goes_on_when_its_max_does)
{
	uint64_t dir = make(NS_ROOT_INO, "tenant", S_IFDIR), ino = make(dir, "file", S_IFREG), word = 1, touched = 0;
	struct ramfile *file = fill(ino, 1);
	struct ns_setattr longer = { .set_size = true, .size_bytes = 200 * 16384 };
	struct process *process;
	static _Atomic bool told;
	struct stat attr;

	ck_assert_int_eq(ns_setattr(ns, ino, &longer, &attr), 0);
	ck_assert_int_eq(process_map(file, 1, &process), 0);
	ck_assert_int_eq(set(dir, SHARE_DRAM_MAX, 1 << 20), 0);
	while (process_touch(process, touched * 16384, &word, sizeof(word), true))
		touched++;
	ck_assert_uint_eq(touched, 64);
	ck_assert(!fault_resume(engine));
	room_on_room(engine, on_room, &told);
	ck_assert(!atomic_load(&told));
	ck_assert_int_eq(set(dir, SHARE_DRAM_MAX, SHARE_NONE), 0);
	ck_assert(atomic_load(&told));
	ck_assert(fault_resume(engine));
	room_on_room(engine, NULL, NULL);
	ck_assert(process_touch(process, touched * 16384, &word, sizeof(word), true));
	process_unmap(process);
	ns_put(ns, ino);
}
END_TEST

/* --- at random ---------------------------------------------------------------------------------------------------- */

#define NODES 24

static struct node {
	uint64_t ino, minimum;
	int above; /* index; -1: the root */
	bool dir, there;
} node[NODES];

static uint64_t promise_of(int i)
{
	uint64_t below = 0;

	for (int k = 0; k < NODES && node[i].dir; k++)
		if (node[k].there && node[k].above == i)
			below += promise_of(k);
	return node[i].minimum > below ? node[i].minimum : below;
}

static uint64_t promised(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < NODES; i++)
		if (node[i].there && node[i].above < 0)
			sum += promise_of(i);
	return sum;
}

static bool is_below(int i, int above)
{
	for (; i >= 0; i = node[i].above)
		if (i == above)
			return true;
	return false;
}

static uint64_t state;

static uint64_t rnd(uint64_t below)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (state >> 33) % below;
}

/* The root, or a directory that is there. */
static int some_dir(void)
{
	int i = (int)rnd(NODES);

	return node[i].there && node[i].dir ? i : -1;
}

static uint64_t ino_of(int i)
{
	return i < 0 ? NS_ROOT_INO : node[i].ino;
}

static void random_step(void)
{
	int i = (int)rnd(NODES), to = some_dir();
	uint64_t minimum = rnd(4) ? rnd(GIB) : SHARE_NONE, before;
	char name[16];

	snprintf(name, sizeof(name), "n%d", i);
	if (!node[i].there) {
		node[i] = (struct node){ .above = to, .dir = rnd(2), .there = true };
		node[i].ino = make(ino_of(to), name, node[i].dir ? S_IFDIR : S_IFREG);
	} else if (!rnd(6)) {
		int err = take_away(ino_of(node[i].above), name, node[i].ino, node[i].dir);

		if (!err)
			node[i] = (struct node){ 0 };
		else
			ck_assert_int_eq(err, -ENOTEMPTY);
	} else if (!rnd(5) && to != node[i].above && !is_below(to, i)) {
		int from = node[i].above, err = ns_rename(ns, ino_of(from), name, ino_of(to), name, 0);

		before = promised();
		node[i].above = to;
		ck_assert_int_eq(err, promised() > PROMISABLE && promised() > before ? -EDQUOT : 0);
		if (err)
			node[i].above = from;
	} else {
		before = node[i].minimum;
		node[i].minimum = minimum == SHARE_NONE ? 0 : minimum;
		if (set(node[i].ino, SHARE_DRAM_MIN, minimum)) {
			ck_assert_uint_gt(promised(), PROMISABLE);
			node[i].minimum = before;
		}
	}
}

START_TEST(promises_at_random)
{
	const char *text = getenv("TIERFS_SEED");

	state = text ? strtoull(text, NULL, 10) : clock_ns();
	printf("TIERFS_SEED=%llu\n", (unsigned long long)state);
	memset(node, 0, sizeof(node));
	for (int step = 0; step < 3000; step++) {
		random_step();
		ck_assert_uint_eq(shares_promised(ns), promised());
		if (!rnd(500)) {
			unload();
			store_mem_crash(store);
			ck_assert_int_eq(load(true), 0);
		}
	}
}
END_TEST

/* --- stores ------------------------------------------------------------------------------------------------------- */

static struct store *devices[2];

static void open_router(void)
{
	static const uint8_t token[STORES_TOKEN_BYTES] = { 1 };

	ck_assert_int_eq(stores_open((struct stores_device){ .store = devices[0] }, &store), 0);
	ck_assert_int_eq(stores_add(store, "other", token, (struct stores_device){ .store = devices[1] }), 0);
	ck_assert_int_eq(load(false), 0);
}

static void setup_router(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	scratch_new(&scratch, "shares");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(store_mem_new(&devices[i]), 0);
	open_router();
}

static unsigned int at(uint64_t ino)
{
	struct stores_where where;

	stores_where(store, ino, &where);
	return where.at;
}

static int see_super(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	(void)key;
	ck_assert_uint_eq(key_len, 1);
	ck_assert_uint_eq(value_len, RECORD_SUPER_LEN);
	*(uint8_t *)arg = *(const uint8_t *)value;
	return 0;
}

/* What programs from before there were stores look at. */
static uint8_t super_version(void)
{
	uint8_t version = 0;

	ck_assert_int_eq(store->meta->walk(store, "S", 1, see_super, &version), 0);
	return version;
}

/* The nearest one that is said holds, for what is there, what is made, and what comes by a rename; also in the next
 * life. */
START_TEST(store_of_the_nearest)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), below = make(dir, "below", S_IFDIR);
	uint64_t old = make(below, "old", S_IFREG), own = make(below, "own", S_IFREG), made;
	struct share share;

	ck_assert_uint_eq(super_version(), 1);
	ck_assert_int_eq(set(own, SHARE_STORE, 0), 0);
	ck_assert_int_eq(set(dir, SHARE_STORE, 1), 0);
	ck_assert_uint_eq(super_version(), 2);
	made = make(below, "made", S_IFREG);
	ck_assert(at(old) == 1 && at(own) == 0 && at(made) == 1);
	ck_assert_int_eq(shares_effective(ns, old, &share), 0);
	ck_assert_uint_eq(share.value[SHARE_STORE], 1);
	ck_assert_int_eq(shares_effective(ns, own, &share), 0);
	ck_assert_uint_eq(share.value[SHARE_STORE], 0);
	ck_assert_int_eq(ns_rename(ns, below, "old", NS_ROOT_INO, "old", 0), 0);
	ck_assert_uint_eq(at(old), 0);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "old", dir, "old", 0), 0);
	ck_assert_uint_eq(at(old), 1);
	ck_assert_int_eq(ns_rename(ns, dir, "below", NS_ROOT_INO, "below", 0), 0);
	ck_assert_uint_eq(at(made), 0);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "below", dir, "below", 0), 0);
	ck_assert_uint_eq(at(made), 1);
	ck_assert_int_eq(store->ops->sync(store), 0);
	unload();
	ck_assert_int_eq(load(false), 0);
	ck_assert(at(old) == 1 && at(own) == 0 && at(made) == 1);
	ck_assert_int_eq(set(dir, SHARE_STORE, SHARE_NONE), 0);
	ck_assert(at(old) == 0 && at(made) == 0);
	ck_assert_uint_eq(super_version(), 2); /* something may be there still */
}
END_TEST

/* A file that began elsewhere, and is removed, leaves nothing; nor does one whose removal was cut short before that. */
START_TEST(store_of_one_that_is_gone)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), file, other;
	struct store_item item = { { 0, 5 }, "value", 5 };

	ck_assert_int_eq(set(dir, SHARE_STORE, 1), 0);
	file = make(dir, "file", S_IFREG);
	other = make(dir, "other", S_IFREG);
	item.key.ino = file;
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0);
	ck_assert_uint_eq(store_mem_count(devices[1], file), 1);
	ck_assert_int_eq(take_away(dir, "file", file, false), 0);
	while (stores_step(store))
		;
	ck_assert_uint_eq(store_mem_count(devices[1], 0), 0);
	ck_assert_uint_eq(stores_files(store, 1), 1);
	item.key.ino = other + 100; /* what a daemon that was killed then would leave: a record, and no inode */
	ck_assert_int_eq(stores_begun(store, other + 100, 1), 0);
	ck_assert_int_eq(store->ops->put(store, STORE_DEMOTION, &item, 1), 0);
	unload();
	ck_assert_int_eq(load(false), 0);
	while (stores_step(store))
		;
	ck_assert_uint_eq(store_mem_count(devices[1], 0), 0);
	ck_assert_uint_eq(stores_files(store, 1), 1);
}
END_TEST

/* Its limits hold for what moves. */
START_TEST(store_within_limits)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), file = make(dir, "file", S_IFREG);

	ck_assert_uint_eq(ns_pace(ns, file, 100, 1 << 20), 0);
	ck_assert_int_eq(set(dir, SHARE_WRITE_BPS, 1 << 20), 0);
	ck_assert_uint_eq(ns_pace(ns, file, 100, 10 << 20), 0);
	ck_assert_uint_gt(ns_pace(ns, file, 100, 1 << 20), NS_PER_S);
	ck_assert_int_eq(set(dir, SHARE_WRITE_BPS, SHARE_NONE), 0);
	ck_assert_uint_eq(ns_pace(ns, file, 100, 1 << 20), 0);
	ck_assert_int_eq(set(dir, SHARE_READ_IOPS, 10), 0);
	ck_assert_uint_eq(ns_pace(ns, file, 100, 1 << 20), 0);
	ck_assert_uint_gt(ns_pace(ns, file, 100, 1 << 20), NS_PER_S);
}
END_TEST

/* --- what is stored, and written in a day ------------------------------------------------------------------------- */

static uint64_t fake_ns;

static uint64_t fake_now(void)
{
	return fake_ns;
}

static struct quota_figures usage(uint64_t ino)
{
	struct quota_figures figures;

	ck_assert_int_eq(shares_usage(ns, ino, &figures), 0);
	return figures;
}

static void write_some(uint64_t ino, uint64_t blocks)
{
	static uint8_t data[16384];
	struct ramfile *file;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)rand();
	ck_assert_int_eq(ns_extend(ns, ino, blocks * sizeof(data)), 0);
	ck_assert_int_eq(ns_open(ns, ino, &file), 0);
	for (uint64_t i = 0; i < blocks; i++)
		ck_assert_int_eq(ramfile_write(file, data, sizeof(data), i * sizeof(data), true), 0);
	ns_put(ns, ino);
}

static void restart(bool clean)
{
	if (clean)
		ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	unload();
	store_mem_crash(store);
	ck_assert_int_eq(load(true), 0);
}

/* What is not loaded counts as well, where it is. */
START_TEST(what_is_stored_is_known_after_a_restart)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), also = make(NS_ROOT_INO, "also", S_IFDIR);
	uint64_t a = make(dir, "a", S_IFREG), b = make(dir, "b", S_IFREG), was;
	struct ramfile *file;

	ck_assert_int_eq(set(dir, SHARE_DISK_MAX, GIB), 0);
	ck_assert_int_eq(set(also, SHARE_DISK_MAX, 2 * GIB), 0);
	write_some(a, 8);
	write_some(b, 4);
	was = usage(dir).stored_bytes;
	ck_assert_uint_ge(was, UINT64_C(12) * 16384);
	ck_assert_uint_eq(usage(a).stored_bytes, was);
	for (int clean = 0; clean < 2; clean++) {
		restart(clean);
		ck_assert_uint_eq(usage(dir).stored_bytes, was);
	}
	ck_assert_uint_eq(usage(dir).stored_left_bytes, GIB - was);
	ck_assert_int_eq(ns_rename(ns, dir, "a", also, "a", 0), 0);
	ck_assert_uint_lt(usage(dir).stored_bytes, was);
	ck_assert_uint_eq(usage(dir).stored_bytes + usage(also).stored_bytes, was);
	ck_assert_int_eq(ns_open(ns, a, &file), 0);
	ns_put(ns, a);
	ck_assert_uint_eq(usage(dir).stored_bytes + usage(also).stored_bytes, was);
	ck_assert_int_eq(set(also, SHARE_DRAM_WEIGHT, 7), 0);
	ck_assert_uint_eq(usage(dir).stored_bytes + usage(also).stored_bytes, was);
	ck_assert_int_eq(take_away(dir, "b", b, false), 0); /* never loaded */
	ck_assert_uint_eq(usage(dir).stored_bytes, 0);
	ck_assert_int_eq(take_away(also, "a", a, false), 0);
	ck_assert_uint_eq(usage(also).stored_bytes, 0);
}
END_TEST

START_TEST(a_clone_needs_room)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), from = make(NS_ROOT_INO, "from", S_IFREG);
	uint64_t into = make(dir, "into", S_IFREG), again = make(dir, "again", S_IFREG);
	struct ramfile_cloned cloned;
	struct stat attr;

	write_some(from, 50);
	ck_assert_int_eq(set(dir, SHARE_DISK_MAX, 1 << 20), 0);
	ck_assert_int_eq(ns_clone(ns, from, into, NULL, NULL, &cloned), 0);
	ck_assert_uint_eq(usage(dir).stored_bytes, cloned.shared_bytes);
	ck_assert_int_eq(ns_clone(ns, from, again, NULL, NULL, &cloned), -EDQUOT);
	ck_assert_uint_eq(usage(dir).stored_bytes, cloned.shared_bytes);
	ck_assert_int_eq(ns_getattr(ns, again, &attr), 0);
	ck_assert_int_eq(attr.st_size, 0);
	ck_assert_int_eq(set(dir, SHARE_DISK_MAX, SHARE_NONE), 0);
	ck_assert_int_eq(ns_clone(ns, from, again, NULL, NULL, &cloned), 0);
}
END_TEST

/* After a kill what was saved last is known, after a clean end all. */
START_TEST(a_day_outlives_the_daemon)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), file = make(dir, "file", S_IFREG), was;

	engine->tenants.now_ns = fake_now;
	fake_ns = 100 * 3600 * NS_PER_S;
	ck_assert_int_eq(set(dir, SHARE_WRITE_DAY, GIB), 0);
	ck_assert_uint_eq(usage(dir).written_bytes, 0);
	write_some(file, 8);
	was = usage(dir).written_bytes;
	ck_assert_uint_ge(was, UINT64_C(8) * 16384);
	ck_assert_uint_eq(usage(dir).written_left_bytes, GIB - was);
	restart(false);
	ck_assert_uint_eq(usage(dir).written_bytes, 0);
	write_some(file, 8);
	days_save(ns);
	write_some(file, 4);
	restart(false);
	ck_assert_uint_eq(usage(dir).written_bytes, was);
	ck_assert_int_eq(set(dir, SHARE_DISK_MAX, GIB), 0); /* another key: the day goes on */
	ck_assert_uint_eq(usage(dir).written_bytes, was);
	write_some(file, 8);
	restart(true);
	ck_assert_uint_eq(usage(dir).written_bytes, 2 * was);
	ck_assert_uint_le(usage(dir).next_free_ns, 25 * 3600 * NS_PER_S);
	engine->tenants.now_ns = fake_now;
	fake_ns = clock_boot_ns() + 25 * 3600 * NS_PER_S;
	ck_assert_uint_eq(usage(dir).written_bytes, 0);
	/* Taken back, nothing is kept. */
	ck_assert_int_eq(set(dir, SHARE_WRITE_DAY, SHARE_NONE), 0);
	ck_assert_int_eq(set(dir, SHARE_WRITE_DAY, GIB), 0);
	restart(true);
	ck_assert_uint_eq(usage(dir).written_bytes, 0);
}
END_TEST

/* The time of day may have been set back, or stand wherever it likes. */
START_TEST(the_time_of_day_may_go_back)
{
	static const struct {
		int64_t ago_s;
		uint64_t left; /* of 3 bytes: of the running hour, of the one before, of 24 hours ago */
	} row[] = { { -400 * 86400, 3 }, { -5, 3 },        { 0, 3 },         { 3600, 2 },
		    { 23 * 3600, 2 },    { 24 * 3600, 1 }, { 25 * 3600, 0 }, { INT64_MAX / 2, 0 } };
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR);

	ck_assert_int_eq(set(dir, SHARE_WRITE_DAY, GIB), 0);
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		struct record_day day = { .saved_s = (int64_t)time(NULL) - row[i].ago_s };
		struct record_batch batch = { .count = 0 };

		day.bytes[0] = day.bytes[1] = day.bytes[24] = 1;
		restart(true);
		record_batch_day(&batch, dir, &day);
		ck_assert_int_eq(record_batch_put(&batch, store, true), 0);
		restart(false);
		ck_assert_msg(usage(dir).written_bytes == row[i].left, "row %zu: %llu", i,
			      (unsigned long long)usage(dir).written_bytes);
	}
}
END_TEST

static bool is_default(uint64_t ino, enum share_id id)
{
	struct share share;

	ck_assert_int_eq(shares_get(ns, ino, &share), 0);
	return share.by_default[id];
}

/* Of files that are made from then on, where no share above says anything of that; and they keep it. */
START_TEST(new_files_get_defaults)
{
	uint64_t old = make(NS_ROOT_INO, "old", S_IFREG), dir = make(NS_ROOT_INO, "dir", S_IFDIR), file, within;
	struct share given = share_nothing();
	struct stat attr;

	ck_assert_int_eq(set(dir, SHARE_DISK_MAX, 8 * GIB), 0);
	ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	unload();
	given.value[SHARE_DISK_MAX] = GIB;
	given.value[SHARE_DRAM_MAX] = 2 * GIB;
	defaults = &given;
	ck_assert_int_eq(load(true), 0);
	file = make(NS_ROOT_INO, "file", S_IFREG);
	within = make(dir, "within", S_IFREG);
	ck_assert_uint_eq(get(old, SHARE_DISK_MAX), SHARE_NONE);
	ck_assert_uint_eq(get(make(dir, "below", S_IFDIR), SHARE_DRAM_MAX), SHARE_NONE);
	ck_assert_uint_eq(get(file, SHARE_DISK_MAX), GIB);
	ck_assert_uint_eq(get(within, SHARE_DISK_MAX), SHARE_NONE);
	ck_assert_uint_eq(get(within, SHARE_DRAM_MAX), 2 * GIB);
	ck_assert(is_default(file, SHARE_DISK_MAX) && is_default(within, SHARE_DRAM_MAX));
	ck_assert_int_eq(set(file, SHARE_DISK_MAX, GIB), 0);
	ck_assert(!is_default(file, SHARE_DISK_MAX) && is_default(file, SHARE_DRAM_MAX));
	write_some(file, 8);
	ck_assert_uint_ge(usage(file).stored_bytes, UINT64_C(8) * 16384);
	/* One that fails leaves nothing. */
	store_mem_fail_nth(store, STORE_MEM_META_PUT, 1, EIO);
	ck_assert_int_eq(ns_create(ns, dir, "none", S_IFREG | 0600, 1, 2, &attr), -EIO);
	ck_assert_int_eq(ns_lookup(ns, dir, "none", &attr), -ENOENT);
	defaults = NULL;
	restart(true);
	ck_assert_uint_eq(get(file, SHARE_DRAM_MAX), 2 * GIB);
	ck_assert(!is_default(file, SHARE_DISK_MAX) && is_default(file, SHARE_DRAM_MAX));
	ck_assert_uint_eq(get(make(NS_ROOT_INO, "last", S_IFREG), SHARE_DRAM_MAX), SHARE_NONE);
	ck_assert_int_eq(take_away(NS_ROOT_INO, "file", file, false), 0);
}
END_TEST

/* With defaults every file has a share: to make, rename and remove one goes through no others. */
START_TEST(a_file_more_or_less_places_nobody_anew)
{
	struct share given = share_nothing();
	uint64_t dir, also, file[50], rebuilt;
	char name[16];

	ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	unload();
	given.value[SHARE_DISK_MAX] = given.value[SHARE_DRAM_MAX] = GIB;
	defaults = &given;
	ck_assert_int_eq(load(true), 0);
	dir = make(NS_ROOT_INO, "dir", S_IFDIR);
	also = make(NS_ROOT_INO, "also", S_IFDIR);
	ck_assert_int_eq(set(dir, SHARE_WRITE_BPS, 1 << 20), 0);
	ck_assert_int_eq(set(also, SHARE_DRAM_MIN, GIB), 0);
	rebuilt = engine->tenants.rebuilt;
	for (size_t i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "f%zu", i);
		file[i] = make(i % 2 ? dir : NS_ROOT_INO, name, S_IFREG);
		write_some(file[i], 1 + i % 3);
	}
	ck_assert_uint_ge(usage(dir).stored_bytes, 25 * UINT64_C(16384));
	ck_assert_uint_eq(usage(also).stored_bytes, 0);
	for (size_t i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "f%zu", i);
		ck_assert_int_eq(ns_rename(ns, i % 2 ? dir : NS_ROOT_INO, name, also, name, 0), 0);
		ck_assert_uint_ge(usage(file[i]).stored_bytes, (1 + i % 3) * UINT64_C(16384));
	}
	ck_assert_uint_eq(usage(dir).stored_bytes, 0);
	ck_assert_uint_ge(usage(also).stored_bytes, 50 * UINT64_C(16384));
	for (size_t i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "f%zu", i);
		ck_assert_int_eq(take_away(also, name, file[i], false), 0);
	}
	ck_assert_uint_eq(usage(also).stored_bytes, 0);
	ck_assert_uint_eq(engine->tenants.rebuilt, rebuilt);
	defaults = NULL;
}
END_TEST

/* Out of a directory that says something a file gets what the mount says; a directory with files in it stays, so that
 * nobody gets rid of both. */
START_TEST(nobody_moves_away_from_his_defaults)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), promised = make(dir, "promised", S_IFREG), file, sub;
	struct share given = share_nothing();

	ck_assert_int_eq(set(dir, SHARE_DISK_MAX, 8 * GIB), 0);
	ck_assert_int_eq(set(dir, SHARE_DRAM_MAX, 8 * GIB), 0);
	ck_assert_int_eq(set(promised, SHARE_DRAM_MIN, 3 * GIB), 0);
	ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	unload();
	given.value[SHARE_DISK_MAX] = GIB;
	given.value[SHARE_DRAM_MAX] = 2 * GIB;
	defaults = &given;
	ck_assert_int_eq(load(true), 0);
	file = make(dir, "file", S_IFREG);
	write_some(file, 4);
	ck_assert_uint_eq(get(file, SHARE_DISK_MAX), SHARE_NONE);
	/* One that fails gives nothing. */
	store_mem_fail_nth(store, STORE_MEM_META_PUT, 1, EIO);
	ck_assert_int_eq(ns_rename(ns, dir, "file", NS_ROOT_INO, "file", 0), -EIO);
	ck_assert_uint_eq(get(file, SHARE_DISK_MAX), SHARE_NONE);
	ck_assert_int_eq(ns_rename(ns, dir, "file", dir, "renamed", 0), 0);
	ck_assert_uint_eq(get(file, SHARE_DISK_MAX), SHARE_NONE);
	ck_assert_int_eq(ns_rename(ns, dir, "renamed", NS_ROOT_INO, "file", 0), 0);
	ck_assert_uint_eq(get(file, SHARE_DISK_MAX), GIB);
	ck_assert_uint_eq(get(file, SHARE_DRAM_MAX), 2 * GIB);
	ck_assert(is_default(file, SHARE_DISK_MAX));
	ck_assert_uint_ge(usage(file).stored_bytes, UINT64_C(4) * 16384);
	ck_assert_uint_eq(usage(dir).stored_bytes, 0);
	/* What was promised to it goes before the default. */
	ck_assert_int_eq(ns_rename(ns, dir, "promised", NS_ROOT_INO, "promised", 0), 0);
	ck_assert_uint_eq(get(promised, SHARE_DRAM_MAX), SHARE_NONE);
	ck_assert_uint_eq(get(promised, SHARE_DISK_MAX), GIB);
	sub = make(dir, "sub", S_IFDIR);
	ck_assert_int_eq(ns_rename(ns, dir, "sub", NS_ROOT_INO, "sub", 0), 0);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "sub", dir, "sub", 0), 0);
	make(sub, "within", S_IFREG);
	ck_assert_int_eq(ns_rename(ns, dir, "sub", NS_ROOT_INO, "sub", 0), -EXDEV);
	ck_assert_int_eq(ns_rename(ns, dir, "sub", NS_ROOT_INO, "file", RENAME_EXCHANGE), -EXDEV);
	make(dir, "last", S_IFREG);
	ck_assert_int_eq(ns_rename(ns, dir, "last", NS_ROOT_INO, "file", RENAME_EXCHANGE), 0);
	restart(true);
	ck_assert_uint_eq(get(file, SHARE_DISK_MAX), GIB);
	ck_assert(is_default(file, SHARE_DISK_MAX));
	defaults = NULL;
}
END_TEST

/* More than its record says, which is as of its last fsync. */
START_TEST(what_was_stored_counts_after_a_loss_of_power)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR), file = make(dir, "file", S_IFREG), was;
	struct ramfile *open;

	ck_assert_int_eq(set(dir, SHARE_DISK_MAX, GIB), 0);
	write_some(file, 4);
	ck_assert_int_eq(ns_fsync(ns, file), 0);
	write_some(file, 20);
	was = usage(dir).stored_bytes;
	ck_assert_uint_ge(was, UINT64_C(20) * 16384);
	unload(); /* all that was put has come to the disk, the arenas are gone */
	ck_assert_int_eq(load(false), 0);
	ck_assert_uint_eq(usage(dir).stored_bytes, was);
	ck_assert_int_eq(ns_open(ns, file, &open), 0);
	ns_put(ns, file);
	ck_assert_uint_eq(usage(dir).stored_bytes, was);
}
END_TEST

/* The pool opens; what is not known counts as much as it may be, and becomes less by the hour. */
START_TEST(a_damaged_day_keeps_nobody_out)
{
	uint64_t dir = make(NS_ROOT_INO, "dir", S_IFDIR);
	const struct record_day day = { .saved_s = 5, .into_hour_ns = UINT64_MAX };
	struct record_batch batch = { .count = 0 };

	ck_assert_int_eq(set(dir, SHARE_WRITE_DAY, GIB), 0);
	ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	record_batch_day(&batch, dir, &day);
	record_batch_day(&batch, 12345, &day);
	ck_assert_int_eq(record_batch_put(&batch, store, true), 0);
	unload();
	ck_assert_int_eq(load(true), 0);
	ck_assert_uint_eq(usage(dir).written_left_bytes, 0);
	engine->tenants.now_ns = fake_now;
	fake_ns = clock_boot_ns() + 13 * 3600 * NS_PER_S;
	ck_assert_uint_ge(usage(dir).written_left_bytes, GIB / 3);
	ck_assert_uint_le(usage(dir).written_left_bytes, GIB / 2 + GIB / 24);
	fake_ns += 13 * 3600 * NS_PER_S;
	ck_assert_uint_eq(usage(dir).written_left_bytes, GIB);
}
END_TEST

/* Grown while it is cloned: what the clone has in the end counts. */
static uint64_t grows, grows_to;

int __real_ramfile_clone(struct ramfile *file, uint64_t to, file_progress_fn *progress, void *arg,
			 struct ramfile_cloned *ret);
int __wrap_ramfile_clone(struct ramfile *file, uint64_t to, file_progress_fn *progress, void *arg,
			 struct ramfile_cloned *ret);

int __wrap_ramfile_clone(struct ramfile *file, uint64_t to, file_progress_fn *progress, void *arg,
			 struct ramfile_cloned *ret)
{
	if (grows)
		ck_assert_int_eq(ns_extend(ns, grows, grows_to), 0);
	return __real_ramfile_clone(file, to, progress, arg, ret);
}

START_TEST(a_clone_counts_for_its_owner)
{
	uint64_t from, into;
	struct ramfile_cloned cloned;
	struct stat attr;

	ck_assert_int_eq(ns_create(ns, NS_ROOT_INO, "from", S_IFREG | 0600, 0, 0, &attr), 0);
	from = attr.st_ino;
	ck_assert_int_eq(ns_extend(ns, from, GIB), 0);
	ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	unload();
	uid_bytes = 2 * GIB;
	ck_assert_int_eq(load(true), 0);
	into = make(NS_ROOT_INO, "into", S_IFREG);
	grows = from;
	grows_to = 3 * GIB;
	ck_assert_int_eq(ns_clone(ns, from, into, NULL, NULL, &cloned), -EDQUOT);
	grows = 0;
	ck_assert_int_eq(ns_getattr(ns, into, &attr), 0);
	ck_assert_int_eq(attr.st_size, 0);
	ck_assert_int_eq(ns_extend(ns, into, 2 * GIB), 0); /* nothing of it is left */
	ck_assert_int_eq(ns_extend(ns, into, 2 * GIB + 1), -EDQUOT);
	uid_bytes = 0;
}
END_TEST

/* What is larger goes on, and does not grow. */
START_TEST(no_file_grows_beyond_a_size)
{
	uint64_t large = make(NS_ROOT_INO, "large", S_IFREG), into;
	struct ns_setattr change = { .set_size = true };
	struct ramfile_cloned cloned;
	struct stat attr;

	ck_assert_int_eq(ns_extend(ns, large, 2 * GIB), 0);
	ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	unload();
	file_max = GIB;
	ck_assert_int_eq(load(true), 0);
	into = make(NS_ROOT_INO, "into", S_IFREG);
	ck_assert_int_eq(ns_extend(ns, into, GIB), 0);
	ck_assert_int_eq(ns_extend(ns, into, GIB + 1), -EFBIG);
	ck_assert_int_eq(ns_extend(ns, large, 2 * GIB + 1), -EFBIG);
	ck_assert_int_eq(ns_extend(ns, large, 2 * GIB), 0);
	change.size_bytes = 2 * GIB - 4096;
	ck_assert_int_eq(ns_setattr(ns, large, &change, &attr), 0);
	change.size_bytes = 0;
	ck_assert_int_eq(ns_setattr(ns, into, &change, &attr), 0);
	ck_assert_int_eq(ns_clone(ns, large, into, NULL, NULL, &cloned), -EFBIG);
	change.size_bytes = GIB;
	ck_assert_int_eq(ns_setattr(ns, large, &change, &attr), 0);
	ck_assert_int_eq(ns_clone(ns, large, into, NULL, NULL, &cloned), 0);
	file_max = 0;
}
END_TEST

/* Everything here is made by user 1. */
START_TEST(a_user_has_bounds)
{
	struct ns_setattr give = { .set_uid = true, .uid = 5 }, size = { .set_size = true };
	uint64_t a = make(NS_ROOT_INO, "a", S_IFREG), b, dir;
	struct ramfile_cloned cloned;
	struct stat attr;

	ck_assert_int_eq(ns_extend(ns, a, GIB), 0);
	ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	unload();
	uid_files = 3;
	uid_bytes = 2 * GIB;
	ck_assert_int_eq(load(true), 0);
	b = make(NS_ROOT_INO, "b", S_IFREG);
	dir = make(NS_ROOT_INO, "dir", S_IFDIR);
	ck_assert_int_eq(ns_create(ns, dir, "c", S_IFREG | 0600, 1, 2, &attr), -EDQUOT);
	ck_assert_int_eq(ns_create(ns, dir, "c", S_IFDIR | 0700, 1, 2, &attr), -EDQUOT);
	ck_assert_int_eq(ns_lookup(ns, dir, "c", &attr), -ENOENT);
	for (int i = 0; i < 5; i++) { /* root */
		char name[] = { 'r', (char)('0' + i), 0 };

		ck_assert_int_eq(ns_create(ns, dir, name, S_IFREG | 0600, 0, 0, &attr), 0);
		ck_assert_int_eq(ns_extend(ns, attr.st_ino, 4 * GIB), 0);
		ns_forget(ns, attr.st_ino, 1);
	}
	ck_assert_int_eq(ns_extend(ns, b, GIB + 1), -EDQUOT);
	ck_assert_int_eq(ns_getattr(ns, b, &attr), 0);
	ck_assert_int_eq(attr.st_size, 0);
	ck_assert_int_eq(ns_extend(ns, b, GIB), 0);
	size.size_bytes = GIB / 2;
	ck_assert_int_eq(ns_setattr(ns, a, &size, &attr), 0);
	ck_assert_int_eq(ns_extend(ns, b, 3 * GIB / 2), 0);
	ck_assert_int_eq(ns_extend(ns, a, GIB / 2 + 1), -EDQUOT);
	size.size_bytes = 0;
	ck_assert_int_eq(ns_setattr(ns, b, &size, &attr), 0);
	ck_assert_int_eq(ns_clone(ns, a, b, NULL, NULL, &cloned), 0);
	ck_assert_int_eq(ns_extend(ns, b, 3 * GIB / 2 + 1), -EDQUOT);
	ck_assert_int_eq(ns_extend(ns, b, 3 * GIB / 2), 0);
	/* Given away, it is another's; he has more than he may then, and may make it smaller. */
	ck_assert_int_eq(ns_setattr(ns, b, &give, &attr), 0);
	ck_assert_int_eq(ns_create(ns, dir, "c", S_IFREG | 0600, 1, 2, &attr), 0);
	ck_assert_int_eq(ns_extend(ns, attr.st_ino, 3 * GIB / 2), 0);
	ck_assert_int_eq(ns_setattr(ns, attr.st_ino, &give, &attr), 0);
	ck_assert_int_eq(ns_extend(ns, b, 3 * GIB / 2 + 1), -EDQUOT);
	size.size_bytes = GIB;
	ck_assert_int_eq(ns_setattr(ns, b, &size, &attr), 0);
	ck_assert_int_eq(take_away(NS_ROOT_INO, "a", a, false), 0);
	ck_assert_uint_ne(make(NS_ROOT_INO, "d", S_IFREG), 0);
	ck_assert_uint_ne(make(NS_ROOT_INO, "e", S_IFREG), 0);
	ck_assert_int_eq(ns_create(ns, dir, "f", S_IFREG | 0600, 1, 2, &attr), -EDQUOT);
	restart(true);
	ck_assert_int_eq(ns_create(ns, dir, "f", S_IFREG | 0600, 1, 2, &attr), -EDQUOT);
	uid_files = uid_bytes = 0;
}
END_TEST

START_TEST(records_of_days_that_are_damaged)
{
	const struct record_day day = { .saved_s = 5, .into_hour_ns = 6, .bytes = { 7, [24] = 8 } };
	struct record_batch batch = { .count = 0 };
	struct record_day back;
	uint64_t ino;

	record_batch_day(&batch, 9, &day);
	ck_assert_int_eq(record_parse_day(batch.key[0], 9, batch.value[0], RECORD_DAY_LEN, &ino, &back), 0);
	ck_assert_uint_eq(ino, 9);
	ck_assert(!memcmp(&day, &back, sizeof(day)));
	ck_assert_int_eq(record_parse_day(batch.key[0], 9, batch.value[0], RECORD_DAY_LEN - 1, &ino, &back), -EBADMSG);
	ck_assert_int_eq(record_parse_day(batch.key[0], 8, batch.value[0], RECORD_DAY_LEN, &ino, &back), -EBADMSG);
	batch.value[0][23] = 1;
	ck_assert_int_eq(record_parse_day(batch.key[0], 9, batch.value[0], RECORD_DAY_LEN, &ino, &back), -EBADMSG);
	batch.value[0][0] = 2;
	ck_assert_int_eq(record_parse_day(batch.key[0], 9, batch.value[0], RECORD_DAY_LEN, &ino, &back),
			 -EPROTONOSUPPORT);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("shares");
	TCase *tests = tcase_create("shares");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, values_are_read_and_written);
	tcase_add_test(tests, rows_are_told_apart);
	tcase_add_test(tests, a_share_outlives_the_power);
	tcase_add_test(tests, a_set_that_fails_changes_nothing);
	tcase_add_test(tests, a_record_that_makes_no_sense_is_refused);
	tcase_add_test(tests, no_more_is_promised_than_there_is);
	tcase_add_test(tests, names_decide_who_is_charged);
	tcase_add_test(tests, several_names_in_two_tenants);
	tcase_add_test(tests, a_fault_goes_on_when_its_max_does);
	tcase_add_test(tests, promises_at_random);
	tcase_add_test(tests, what_is_stored_is_known_after_a_restart);
	tcase_add_test(tests, a_clone_needs_room);
	tcase_add_test(tests, a_day_outlives_the_daemon);
	tcase_add_test(tests, the_time_of_day_may_go_back);
	tcase_add_test(tests, new_files_get_defaults);
	tcase_add_test(tests, a_file_more_or_less_places_nobody_anew);
	tcase_add_test(tests, nobody_moves_away_from_his_defaults);
	tcase_add_test(tests, what_was_stored_counts_after_a_loss_of_power);
	tcase_add_test(tests, a_damaged_day_keeps_nobody_out);
	tcase_add_test(tests, a_clone_counts_for_its_owner);
	tcase_add_test(tests, no_file_grows_beyond_a_size);
	tcase_add_test(tests, a_user_has_bounds);
	tcase_add_test(tests, records_of_days_that_are_damaged);
	suite_add_tcase(suite, tests);
	tests = tcase_create("stores");
	tcase_add_checked_fixture(tests, setup_router, teardown);
	tcase_add_test(tests, store_of_the_nearest);
	tcase_add_test(tests, store_of_one_that_is_gone);
	tcase_add_test(tests, store_within_limits);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
