/* Fail the Nth call, for every function of the namespace: of allocations and system calls (lib_fail), of store calls. N
 * goes up until nothing is failed any more. Each time
 *
 *   - the tree is the old one or the new one, and a new daemon on what a kill leaves finds the same;
 *   - the content of the files is what it was, or what the call makes of it;
 *   - descriptors and memory are as before, and nothing is left of files that are gone;
 *   - the same call, made once more, does what it is for.
 *
 * Prints how many points were failed in each function.
 */
/* timeout: 600 */
/* link: @tests/lib/lib_fail.flags */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/lib_fail.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/log.h"
#include "engine/clone.h"
#include "engine/engine.h"
#include "engine/mappers.h"
#include "engine/read.h"
#include "engine/write.h"
#include "names/names.h"
#include "names/shares.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U
#define TEXT 4096

static struct scratch scratch;
static struct store *store;
static struct engine *engine;
static struct ns *ns;
static int arena_dir;
static uint64_t dir, below, hot, cold, empty; /* inode numbers */
static uint8_t data[4 * BLOCK], got[8 * BLOCK];

/* --- a world with a few names in it
 * ------------------------------------------------------------------------------------ */

/* No assertion in it, for it is called while calls fail. */
static int load(bool survived)
{
	struct ns_config config = { .root_mode = 0755, .arenas_survived = survived };
	struct engine_config engine_config = {
		.store = store, .arena_dir = arena_dir, .block_bytes = BLOCK, .dram_bytes = 8 << 20, .level = 1
	};
	int rc = tiering_new(&engine_config, &engine);

	if (rc < 0)
		return rc;
	config.store = store;
	config.engine = engine;
	rc = ns_load(&config, &ns);
	if (rc < 0) {
		tiering_free(engine);
		engine = NULL;
		ns = NULL;
	}
	return rc;
}

static void unload(void)
{
	ns_free(ns);
	ns = NULL;
	ck_assert_uint_eq(budget_used(engine_budget(engine)), 0);
	tiering_free(engine);
	engine = NULL;
}

static uint64_t make(uint64_t parent, const char *name, mode_t mode)
{
	struct stat attr;

	ck_assert_int_eq(ns_create(ns, parent, name, mode, 1, 2, &attr), 0);
	ns_forget(ns, attr.st_ino, 1);
	return attr.st_ino;
}

static int resize(uint64_t ino, uint64_t size)
{
	struct ns_setattr change = { .set_size = true, .size_bytes = size };
	struct stat attr;

	return ns_setattr(ns, ino, &change, &attr);
}

static void fill(uint64_t ino, uint8_t which, bool direct)
{
	struct ramfile *file;

	memset(data, which, sizeof(data));
	ck_assert_int_eq(resize(ino, sizeof(data)), 0);
	ck_assert_int_eq(ns_open(ns, ino, &file), 0);
	ck_assert_int_eq(ramfile_write(file, data, sizeof(data), 0, direct), 0);
	ns_put(ns, ino);
}

static int set_share(uint64_t ino, enum share_id id, uint64_t value)
{
	struct shares_change change = { .id = id, .value = value };
	uint64_t left;

	return shares_set(ns, ino, &change, 1, 8 << 20, &left);
}

/* /dir, /dir/below with a share, /hot in DRAM, /cold in the store, /dir/also the same, /empty */
static void world_new(void)
{
	struct stat attr;

	scratch_new(&scratch, "fail");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_eq(store_mem_new(&store), 0);
	ck_assert_int_eq(load(false), 0);
	dir = make(NS_ROOT_INO, "dir", S_IFDIR | 0755);
	below = make(dir, "below", S_IFDIR | 0755);
	hot = make(NS_ROOT_INO, "hot", S_IFREG | 0600);
	cold = make(NS_ROOT_INO, "cold", S_IFREG | 0600);
	empty = make(NS_ROOT_INO, "empty", S_IFREG | 0600);
	fill(hot, 1, false);
	fill(cold, 2, true);
	ck_assert_int_eq(ns_link(ns, cold, dir, "also", &attr), 0);
	ck_assert_int_eq(set_share(below, SHARE_DRAM_MAX, 4 << 20), 0);
}

static void world_free(void)
{
	unload();
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* --- what there is
 * ---------------------------------------------------------------------------------------------------------- */

struct walk {
	char *text;
	size_t used;
	const char *prefix;
	uint64_t below[8];
	char path[8][32];
	size_t count;
};

static int walk_entry(void *arg, const char *name, const struct stat *attr, uint64_t next_cookie)
{
	struct walk *walk = arg;
	/* What is made later has another number after a failure: that one is not given again. */
	unsigned long ino = attr->st_ino > empty ? 0 : attr->st_ino;

	(void)next_cookie;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return 0;
	walk->used += (size_t)snprintf(walk->text + walk->used, TEXT - walk->used, "%s/%s %lu %o %lu %lu\n",
				       walk->prefix, name, ino, attr->st_mode, (unsigned long)attr->st_nlink,
				       (unsigned long)attr->st_size);
	if (S_ISDIR(attr->st_mode)) {
		snprintf(walk->path[walk->count], sizeof(walk->path[0]), "%.15s/%.14s", walk->prefix, name);
		walk->below[walk->count++] = attr->st_ino;
	}
	return 0;
}

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The first byte of each block of the file, as text; "-" for one that is no more, "E" for one that cannot be read. */
static void content_text(uint64_t ino, char *text)
{
	struct ramfile *file;
	size_t length = 0, used = 0;
	int err = ns_open(ns, ino, &file);

	text[0] = '-';
	text[1] = '\0';
	if (err == -ENOENT)
		return;
	ck_assert_int_eq(err, 0);
	err = ramfile_read(file, got, sizeof(got), 0, &length);
	ns_put(ns, ino);
	text[0] = err ? 'E' : '=';
	for (size_t at = 0; at < length && !err; at += BLOCK)
		used += (size_t)snprintf(text + 1 + used, 40 - used, "%u", got[at]);
}

static void share_text(uint64_t ino, char *text)
{
	struct share share;

	*text = '\0';
	if (!shares_get(ns, ino, &share))
		for (unsigned int i = 0; i < SHARE_COUNT; i++)
			text += sprintf(text, "%lld ", (long long)share.value[i]);
}

/* The tree, its shares, and the content of its files, in order. */
static void world_text(char *text)
{
	static struct walk walk;
	char shares[2][64], lines[TEXT], *line[64], *rest = lines, content[48];
	size_t count = 0;

	walk = (struct walk){ .text = lines, .below = { NS_ROOT_INO }, .count = 1 };
	lines[0] = '\0';
	for (size_t i = 0; i < walk.count; i++) {
		walk.prefix = walk.path[i];
		ck_assert_int_eq(ns_readdir(ns, walk.below[i], 0, walk_entry, &walk), 0);
	}
	/* Entries come in the order in which they were made, and by name after a load. */
	while (count < 64 && (line[count] = strsep(&rest, "\n")) && *line[count])
		count++;
	qsort(line, count, sizeof(line[0]), compare_lines);
	text[0] = '\0';
	for (size_t i = 0; i < count; i++)
		strcat(strcat(text, line[i]), "\n");
	share_text(below, shares[0]);
	share_text(hot, shares[1]);
	strcat(strcat(strcat(text, shares[0]), shares[1]), "\n");
	for (int i = 0; i < 3; i++) {
		content_text(i == 0 ? hot : i == 1 ? cold : empty, content);
		strcat(strcat(text, content), "\n");
	}
}

/* kill -9, and a new daemon. What belongs to no file is gone then. */
static void check_restart(const char *what)
{
	static char now[TEXT], again[TEXT];
	struct stat attr;

	world_text(now);
	unload();
	store_mem_crash(store);
	ck_assert_int_eq(load(true), 0);
	world_text(again);
	ck_assert_msg(!strcmp(now, again), "%s: before a kill\n%sand after it\n%s", what, now, again);
	for (uint64_t ino = dir; ino < dir + 10; ino++)
		if (ns_getattr(ns, ino, &attr) == -ENOENT)
			ck_assert_msg(!store_mem_count(store, ino), "%s: blocks of a file that is gone", what);
}

/* --- failing
 * --------------------------------------------------------------------------------------------------------------- */

struct function {
	const char *name;
	int (*call)(void);
	bool cuts; /* content is gone before the size is another one */
};

static char text_before[TEXT], text_wanted[TEXT], text_now[TEXT];

static void arm(bool by_store, unsigned int nth)
{
	if (by_store)
		store_mem_fail_nth(store, STORE_MEM_CALLS, nth, EIO);
	else
		fail_arm(FAIL_ANY, nth);
}

static bool disarm(bool by_store, unsigned int nth, uint64_t calls)
{
	if (!by_store)
		return fail_disarm();
	store_mem_fail_nth(store, STORE_MEM_CALLS, 0, 0);
	return store_mem_calls(store, STORE_MEM_CALLS) >= calls + nth;
}

/* Names, sizes and content, or without the content. */
static bool is_old(const char *text, bool cut)
{
	size_t names = (size_t)(strstr(text_before, "\n=") - text_before);

	return cut ? !strncmp(text, text_before, names) : !strcmp(text, text_before);
}

static bool fail_one(const struct function *function, bool by_store, unsigned int nth)
{
	unsigned int descriptors;
	uint64_t calls;
	char what[160];
	bool hit;
	int err;

	nth = fail_point(nth);
	fail_memory_begin();
	world_new();
	descriptors = fail_descriptors();
	calls = store_mem_calls(store, STORE_MEM_CALLS);
	arm(by_store, nth);
	err = function->call();
	hit = disarm(by_store, nth, calls);
	snprintf(what, sizeof(what), "%s, %s %u %s: %s", function->name, by_store ? "store" : "call", nth,
		 by_store ? "" : fail_what(), strerror(-err));
	ck_assert_msg(hit || !err, "%s, and nothing was failed", what);
	world_text(text_now);
	ck_assert_msg(!strcmp(text_now, text_wanted) || (err && is_old(text_now, function->cuts)), "%s: \n%s", what,
		      text_now);
	if (err) {
		err = function->call();
		ck_assert_msg(!err, "%s: once more: %s", what, strerror(-err));
		world_text(text_now);
		ck_assert_msg(!strcmp(text_now, text_wanted), "%s: once more: \n%s", what, text_now);
	}
	check_restart(what);
	ck_assert_msg(fail_descriptors() <= descriptors + 3, "%s: descriptors", what); /* of files that were loaded */
	world_free();
	ck_assert_msg(fail_memory_left(0) == 0, "%s: memory is left", what);
	fail_memory_end();
	return hit;
}

static void fail_all(const struct function *function)
{
	unsigned int points[2] = { 0 };

	world_new();
	world_text(text_before);
	ck_assert_int_eq(function->call(), 0);
	world_text(text_wanted);
	world_free();
	for (int by_store = 0; by_store < 2; by_store++)
		while (fail_one(function, by_store, points[by_store] + 1))
			points[by_store]++;
	printf("%-28s %4u calls, %3u store calls\n", function->name, points[0], points[1]);
	fflush(stdout);
}

/* --- the functions
 * ---------------------------------------------------------------------------------------------------------- */

static int create(void)
{
	struct stat attr;
	int rc = ns_create(ns, dir, "new", S_IFREG | 0644, 1, 2, &attr);

	if (rc == 0)
		ns_forget(ns, attr.st_ino, 1);
	return rc;
}

static int make_dir(void)
{
	struct stat attr;
	int rc = ns_create(ns, dir, "new", S_IFDIR | 0755, 1, 2, &attr);

	if (rc == 0)
		ns_forget(ns, attr.st_ino, 1);
	return rc;
}

static int look(void)
{
	struct stat attr;
	char path[64];
	int rc = ns_lookup(ns, NS_ROOT_INO, "hot", &attr);

	if (rc == 0)
		rc = ns_getattr(ns, cold, &attr);
	if (rc == 0)
		rc = ns_remember(ns, cold);
	if (rc == 0)
		rc = ns_path(ns, cold, path, sizeof(path));
	return rc;
}

static int set_mode(void)
{
	struct ns_setattr change = { .set_mode = true, .mode = 0640 };
	struct stat attr;

	return ns_setattr(ns, hot, &change, &attr);
}

static int grow(void)
{
	return resize(cold, 6 * BLOCK);
}

static int extend(void)
{
	return ns_extend(ns, hot, 6 * BLOCK);
}

static int cut(void)
{
	return resize(hot, BLOCK);
}

static int link_name(void)
{
	struct stat attr;

	return ns_link(ns, hot, dir, "new", &attr);
}

static int unlink_last(void)
{
	return ns_unlink(ns, NS_ROOT_INO, "hot");
}

static int unlink_one(void)
{
	return ns_unlink(ns, NS_ROOT_INO, "cold");
}

static int remove_dir(void)
{
	return ns_rmdir(ns, dir, "below");
}

static int move(void)
{
	return ns_rename(ns, NS_ROOT_INO, "hot", dir, "moved", 0);
}

static int move_over(void)
{
	return ns_rename(ns, NS_ROOT_INO, "cold", NS_ROOT_INO, "hot", 0);
}

static int exchange(void)
{
	return ns_rename(ns, dir, "below", NS_ROOT_INO, "hot", RENAME_EXCHANGE);
}

static int open_and_put(void)
{
	struct ramfile *file;
	int rc = ns_open(ns, empty, &file);

	if (rc == 0)
		ns_put(ns, empty);
	return rc;
}

static int open_by_arena(void)
{
	struct ramfile *file, *again;
	uint64_t ino;
	int rc = ns_open(ns, hot, &file), fd;

	if (rc < 0)
		return rc;
	rc = mappers_arena_fd(file, true, &fd);
	if (rc == 0) {
		rc = ns_open_by_arena(ns, fd, &ino, &again);
		if (rc == 0)
			ns_put(ns, ino);
		if (rc == 0 && ino != hot)
			rc = -EILSEQ;
		close(fd);
	}
	ns_put(ns, hot);
	/* Who hears that no file has it gives up for good. */
	return rc == -ENOENT ? -EOWNERDEAD : rc;
}

static int sync_content(void)
{
	ns_touch(ns, cold, true);
	return ns_fsync(ns, cold);
}

static int clone_file(void)
{
	struct ramfile_cloned cloned;

	return ns_clone(ns, hot, empty, NULL, NULL, &cloned);
}

static int see_file(void *arg, const struct ns_file *file)
{
	(void)file;
	++*(int *)arg;
	return 0;
}

static int list(void)
{
	int count = 0, rc = ns_files(ns, see_file, &count);

	return rc < 0 ? rc : count == 3 ? 0 : -ERANGE;
}

static int close_all(void)
{
	return ns_close(ns, NULL, NULL);
}

static int set_a_share(void)
{
	return set_share(hot, SHARE_DRAM_MIN, 1 << 20);
}

static int change_a_share(void)
{
	return set_share(below, SHARE_DRAM_MAX, 2 << 20);
}

static int set_a_day(void)
{
	return set_share(below, SHARE_WRITE_DAY, 1 << 20);
}

static int take_a_share_back(void)
{
	return set_share(below, SHARE_DRAM_MAX, SHARE_NONE);
}

static const struct function FUNCTIONS[] = {
	{ .name = "ns_create", .call = create },
	{ .name = "ns_create, a directory", .call = make_dir },
	{ .name = "ns_lookup, ns_getattr", .call = look },
	{ .name = "ns_setattr, mode", .call = set_mode },
	{ .name = "ns_setattr, longer", .call = grow },
	{ .name = "ns_setattr, shorter", .call = cut, .cuts = true },
	{ .name = "ns_extend", .call = extend },
	{ .name = "ns_link", .call = link_name },
	{ .name = "ns_unlink", .call = unlink_last },
	{ .name = "ns_unlink, one of two", .call = unlink_one },
	{ .name = "ns_rmdir", .call = remove_dir },
	{ .name = "ns_rename", .call = move },
	{ .name = "ns_rename, over another", .call = move_over },
	{ .name = "ns_rename, exchange", .call = exchange },
	{ .name = "ns_open, ns_put", .call = open_and_put },
	{ .name = "ns_open_by_arena", .call = open_by_arena },
	{ .name = "ns_fsync", .call = sync_content },
	{ .name = "ns_clone", .call = clone_file },
	{ .name = "shares_set", .call = set_a_share },
	{ .name = "shares_set, another value", .call = change_a_share },
	{ .name = "shares_set, with a day", .call = set_a_day },
	{ .name = "shares_set, none", .call = take_a_share_back },
	{ .name = "ns_files", .call = list },
	{ .name = "ns_close", .call = close_all },
};

START_TEST(fails_at_every_point)
{
	fail_all(&FUNCTIONS[_i]);
}
END_TEST

/* _i: 0 after a kill, 1 after the host went down, with nothing in DRAM. A load that fails is made once more. */
START_TEST(a_load_fails_at_every_point)
{
	unsigned int points[2] = { 0 };

	world_new();
	if (_i)
		ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	world_text(text_wanted);
	for (int by_store = 0; by_store < 2; by_store++) {
		for (bool hit = true; hit; points[by_store] += hit) {
			unsigned int nth = points[by_store] + 1;
			uint64_t calls;
			int err;

			unload();
			store_mem_crash(store);
			calls = store_mem_calls(store, STORE_MEM_CALLS);
			arm(by_store, nth);
			err = load(!_i);
			hit = disarm(by_store, nth, calls);
			ck_assert(hit || !err);
			if (err)
				ck_assert_int_eq(load(!_i), 0);
			world_text(text_now);
			ck_assert_msg(!strcmp(text_now, text_wanted), "ns_load, %s %u %s: %s\n%s",
				      by_store ? "store" : "call", nth, fail_what(), strerror(-err), text_now);
		}
	}
	printf("%-28s %4u calls, %3u store calls\n", _i ? "ns_load" : "ns_load, after a kill", points[0], points[1]);
	fflush(stdout);
	world_free();
}
END_TEST

static Suite *fail_suite(void)
{
	Suite *suite = suite_create("names, failing at every point");
	TCase *tcase = tcase_create("functions");

	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	tcase_set_timeout(tcase, 300);
	tcase_add_loop_test(tcase, fails_at_every_point, 0, (int)(sizeof(FUNCTIONS) / sizeof(*FUNCTIONS)));
	tcase_add_loop_test(tcase, a_load_fails_at_every_point, 0, 2);
	suite_add_tcase(suite, tcase);
	return suite;
}

int main(void)
{
	return check_run(fail_suite());
}
