/* The namespace on a store in memory: what it answers, what it keeps over a crash, and that a change that the store
 * refuses has not happened. The same script of operations is run with every call of the store failing once. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "engine/mappers.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/write.h"
#include "mem/arena.h"
#include "names/names.h"
#include "lib/lib_scratch.h"
#include "lib/lib_store_mem.h"
#include "names/record.h"
#include "policy/demand.h"
#include "policy/tiering.h"
#include "lib_check.h"

#define BLOCK 16384U

static struct scratch scratch;
static struct store *store;
static struct engine *engine;
static struct ns *ns;
static int arena_dir;

static int load(bool survived)
{
	struct ns_config config = { .uid = 10, .gid = 20, .root_mode = 0755, .arenas_survived = survived };
	struct engine_config engine_config = {
		.store = store,
		.arena_dir = arena_dir,
		.block_bytes = BLOCK,
		.dram_bytes = 8 << 20,
		.min_idle_ns = 1000000,
		.level = 1,
	};

	ck_assert_int_eq(tiering_new(&engine_config, &engine), 0);
	config.store = store;
	config.engine = engine;
	return ns_load(&config, &ns);
}

static void unload(void)
{
	ns_free(ns);
	ns = NULL;
	tiering_free(engine);
	engine = NULL;
}

static void setup(void)
{
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	ck_assert(freopen("/dev/null", "w", stderr) != NULL);
	scratch_new(&scratch, "ns");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY);
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

static void remount_clean(void)
{
	ck_assert_int_eq(ns_close(ns, NULL, NULL), 0);
	unload();
	ck_assert_int_eq(load(false), 0);
}

/* kill -9: the arenas stay. */
static void remount_crashed(void)
{
	unload();
	store_mem_crash(store);
	ck_assert_int_eq(load(true), 0);
}

static void remove_arenas(void)
{
	char command[600];

	snprintf(command, sizeof(command), "rm -f '%s'/*", scratch.path);
	ck_assert_int_eq(system(command), 0);
}

static void remount_power_loss(void)
{
	unload();
	remove_arenas();
	store_mem_power_loss(store);
	ck_assert_int_eq(load(false), 0);
}

/* ---- short forms ---- */

static int try_make(uint64_t parent, const char *name, mode_t mode, uint64_t *ret)
{
	struct stat attr;
	int rc = ns_create(ns, parent, name, mode, 1, 2, &attr);

	if (rc == 0) {
		*ret = attr.st_ino;
		ns_forget(ns, attr.st_ino, 1);
	}
	return rc;
}

static uint64_t make(uint64_t parent, const char *name, mode_t mode)
{
	uint64_t ino = 0;

	ck_assert_int_eq(try_make(parent, name, mode, &ino), 0);
	return ino;
}

static uint64_t file(uint64_t parent, const char *name)
{
	return make(parent, name, S_IFREG | 0600);
}

static uint64_t dir(uint64_t parent, const char *name)
{
	return make(parent, name, S_IFDIR | 0755);
}

static struct stat attr_of(uint64_t ino)
{
	struct stat attr = { 0 };

	ck_assert_int_eq(ns_getattr(ns, ino, &attr), 0);
	return attr;
}

static int look(uint64_t parent, const char *name)
{
	struct stat attr;

	return ns_lookup(ns, parent, name, &attr);
}

static uint64_t found(uint64_t parent, const char *name)
{
	struct stat attr;

	ck_assert_int_eq(ns_lookup(ns, parent, name, &attr), 0);
	return attr.st_ino;
}

static int resize(uint64_t ino, uint64_t size)
{
	struct ns_setattr change = { .set_size = true, .size_bytes = size };
	struct stat attr;

	return ns_setattr(ns, ino, &change, &attr);
}

static int fill(uint64_t ino, uint8_t byte, size_t len)
{
	struct ramfile *content;
	void *data = malloc(len);
	int rc = ns_open(ns, ino, &content);

	memset(data, byte, len);
	if (rc == 0) {
		rc = ramfile_write(content, data, len, 0, false);
		ns_put(ns, ino);
	}
	free(data);
	return rc;
}

static int check_fill(uint64_t ino, uint8_t byte, size_t len)
{
	struct ramfile *content;
	uint8_t *data = calloc(1, len);
	size_t got = 0;
	int rc = ns_open(ns, ino, &content);

	if (rc == 0) {
		rc = ramfile_read(content, data, len, 0, &got);
		ns_put(ns, ino);
	}
	for (size_t i = 0; rc == 0 && i < len; i++)
		if (got != len || data[i] != byte)
			rc = -EILSEQ;
	free(data);
	return rc;
}

/* The whole tree as text, in path order; times left out. */
struct walk {
	char *text;
	size_t cap, used;
	const char *prefix;
	uint64_t dirs[64];
	char path[64][64];
	size_t count;
};

static int walk_entry(void *arg, const char *name, const struct stat *attr, uint64_t next_cookie)
{
	struct walk *walk = arg;

	(void)next_cookie;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return 0;
	walk->used += (size_t)snprintf(walk->text + walk->used, walk->cap - walk->used, "%s/%s %lu %o %lu %lu\n",
				       walk->prefix, name, (unsigned long)attr->st_ino, attr->st_mode,
				       (unsigned long)attr->st_nlink, (unsigned long)attr->st_size);
	if (S_ISDIR(attr->st_mode)) {
		snprintf(walk->path[walk->count], sizeof(walk->path[0]), "%.30s/%.30s", walk->prefix, name);
		walk->dirs[walk->count++] = attr->st_ino;
	}
	return 0;
}

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void tree_text(char *text, size_t cap)
{
	static struct walk walk;
	char *line[256], *copy, *rest;
	size_t count = 0;

	walk = (struct walk){ .text = text, .cap = cap, .dirs = { NS_ROOT_INO }, .count = 1 };
	text[0] = '\0';
	for (size_t i = 0; i < walk.count; i++) {
		walk.prefix = walk.path[i];
		ck_assert_int_eq(ns_readdir(ns, walk.dirs[i], 0, walk_entry, &walk), 0);
	}
	/* Entries come in the order in which they were made, and by name after a load. */
	rest = copy = strdup(text);
	while (count < 256 && (line[count] = strsep(&rest, "\n")) && *line[count])
		count++;
	qsort(line, count, sizeof(line[0]), compare_lines);
	text[0] = '\0';
	for (size_t i = 0; i < count; i++)
		strcat(strcat(text, line[i]), "\n");
	free(copy);
}

/* ---- names ---- */

START_TEST(a_new_pool)
{
	struct stat attr = attr_of(NS_ROOT_INO);

	ck_assert_uint_eq(attr.st_mode, S_IFDIR | 0755);
	ck_assert_uint_eq(attr.st_nlink, 2);
	ck_assert_uint_eq(attr.st_uid, 10);
	ck_assert_uint_eq(attr.st_gid, 20);
	ck_assert_int_eq(look(NS_ROOT_INO, "a"), -ENOENT);
	ck_assert_int_eq(ns_getattr(ns, 2, &attr), -ENOENT);
}
END_TEST

START_TEST(limits)
{
	char name[300];
	uint64_t ino, f = file(NS_ROOT_INO, "f");

	memset(name, 'n', sizeof(name));
	name[255] = '\0';
	ck_assert_int_eq(try_make(NS_ROOT_INO, name, S_IFREG | 0600, &ino), 0);
	ck_assert_int_eq(look(NS_ROOT_INO, name), 0);
	name[255] = 'n';
	name[256] = '\0';
	ck_assert_int_eq(try_make(NS_ROOT_INO, name, S_IFREG | 0600, &ino), -ENAMETOOLONG);
	ck_assert_int_eq(look(NS_ROOT_INO, name), -ENAMETOOLONG);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "f", NS_ROOT_INO, name, 0), -ENAMETOOLONG);
	ck_assert_int_eq(try_make(NS_ROOT_INO, "l", S_IFLNK | 0777, &ino), -EPERM);
	ck_assert_int_eq(try_make(NS_ROOT_INO, "p", S_IFIFO | 0777, &ino), -EPERM);
	ck_assert_int_eq(try_make(f, "x", S_IFREG | 0600, &ino), -ENOTDIR);
	ck_assert_int_eq(try_make(999, "x", S_IFREG | 0600, &ino), -ENOENT);
	ck_assert_int_eq(resize(f, 100), 0);
	ck_assert_int_eq(resize(f, INT64_MAX & ~UINT64_C(4095)), -EFBIG);
	ck_assert_int_eq(resize(NS_ROOT_INO, 4096), -EISDIR);
}
END_TEST

START_TEST(a_removed_directory_takes_nothing)
{
	struct stat attr;
	uint64_t d = dir(NS_ROOT_INO, "d"), f = file(NS_ROOT_INO, "f"), ino;

	ck_assert_int_eq(ns_remember(ns, d), 0);
	ck_assert_int_eq(ns_rmdir(ns, NS_ROOT_INO, "d"), 0);
	ck_assert_int_eq(try_make(d, "x", S_IFREG | 0600, &ino), -ENOENT);
	ck_assert_int_eq(ns_link(ns, f, d, "x", &attr), -ENOENT);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "f", d, "x", 0), -ENOENT);
	ck_assert_uint_eq(attr_of(d).st_nlink, 0);
	ns_forget(ns, d, 1);
	ck_assert_int_eq(ns_getattr(ns, d, &attr), -ENOENT);
}
END_TEST

START_TEST(loops_are_refused)
{
	uint64_t a = dir(NS_ROOT_INO, "a"), b = dir(a, "b"), c = dir(b, "c");

	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "a", c, "x", 0), -EINVAL);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "a", a, "x", 0), -EINVAL);
	ck_assert_int_eq(ns_rename(ns, b, "c", NS_ROOT_INO, "a", RENAME_EXCHANGE), -EINVAL);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "a", b, "c", RENAME_EXCHANGE), -EINVAL);
	ck_assert_int_eq(ns_rename(ns, b, "c", NS_ROOT_INO, "c", 0), 0);
	ck_assert_int_eq(ns_rename(ns, NS_ROOT_INO, "a", c, "a", 0), 0);
	ck_assert_uint_eq(attr_of(NS_ROOT_INO).st_nlink, 3);
	ck_assert_uint_eq(attr_of(c).st_nlink, 3);
}
END_TEST

static int stop_after(void *arg, const char *name, const struct stat *attr, uint64_t next_cookie)
{
	uint64_t *at = arg;

	(void)name;
	(void)attr;
	at[0] = next_cookie;
	return --at[1] == 0;
}

START_TEST(cookies_hold_while_entries_come_and_go)
{
	uint64_t at[2] = { 0, 52 };
	char name[16];

	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		file(NS_ROOT_INO, name);
	}
	ck_assert_int_eq(ns_readdir(ns, NS_ROOT_INO, 0, stop_after, at), 0); /* ".", "..", f0 to f49 */
	for (int i = 30; i < 70; i++) {
		snprintf(name, sizeof(name), "f%d", i);
		ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, name), 0);
	}
	file(NS_ROOT_INO, "late");
	at[1] = 1000;
	ck_assert_int_eq(ns_readdir(ns, NS_ROOT_INO, at[0], stop_after, at), 0);
	ck_assert_uint_eq(at[1], 1000 - 31); /* f70 to f99, late */
}
END_TEST

START_TEST(paths)
{
	uint64_t d = dir(NS_ROOT_INO, "d"), f = file(d, "f");
	struct stat attr;
	char path[64];

	ck_assert_int_eq(ns_path(ns, f, path, sizeof(path)), 0);
	ck_assert_str_eq(path, "/d/f");
	ck_assert_int_eq(ns_path(ns, NS_ROOT_INO, path, sizeof(path)), 0);
	ck_assert_str_eq(path, "/");
	ck_assert_int_eq(ns_path(ns, f, path, 4), -ERANGE);
	ck_assert_int_eq(ns_link(ns, f, NS_ROOT_INO, "g", &attr), 0);
	ck_assert_int_eq(ns_unlink(ns, d, "f"), 0);
	ck_assert_int_eq(ns_path(ns, f, path, sizeof(path)), 0);
	ck_assert_str_eq(path, "/g");
	ns_remember(ns, f);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "g"), 0);
	ck_assert_int_eq(ns_path(ns, f, path, sizeof(path)), 0);
	ck_assert_str_eq(path, "(unlinked)");
}
END_TEST

/* ---- content and its life ---- */

START_TEST(content_goes_with_the_last_use)
{
	uint64_t f = file(NS_ROOT_INO, "f");
	struct ramfile *content;
	struct stat attr;

	ck_assert_int_eq(resize(f, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 7, 4 * BLOCK), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert_int_eq(ns_remember(ns, f), 0);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), 0);
	ck_assert_int_eq(check_fill(f, 7, 4 * BLOCK), 0);
	ns_forget(ns, f, 1);
	ck_assert_int_eq(check_fill(f, 7, 4 * BLOCK), 0);
	ns_put(ns, f);
	ck_assert_int_eq(ns_getattr(ns, f, &attr), -ENOENT);
	ck_assert_uint_eq(store_mem_count(store, f), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), -ENOENT);
}
END_TEST

START_TEST(orphans_are_reaped_at_the_next_load)
{
	uint64_t f = file(NS_ROOT_INO, "f"), d = dir(NS_ROOT_INO, "d");
	struct stat attr;

	ck_assert_int_eq(resize(f, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 7, 4 * BLOCK), 0);
	remount_clean();
	ck_assert_uint_gt(store_mem_count(store, f), 0);
	ck_assert_int_eq(ns_remember(ns, f), 0);
	ck_assert_int_eq(ns_remember(ns, d), 0);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), 0);
	ck_assert_int_eq(ns_rmdir(ns, NS_ROOT_INO, "d"), 0);
	remount_crashed();
	ck_assert_int_eq(ns_getattr(ns, f, &attr), -ENOENT);
	ck_assert_int_eq(ns_getattr(ns, d, &attr), -ENOENT);
	ck_assert_uint_eq(store_mem_count(store, f), 0);
	ck_assert_uint_gt(file(NS_ROOT_INO, "g"), d);
}
END_TEST

/* As QEMU does it: the file has no name while it is mapped. The daemon is killed, the process is not. */
START_TEST(a_process_keeps_its_file_without_a_name)
{
	uint64_t f = file(NS_ROOT_INO, "f"), other = file(NS_ROOT_INO, "other"), ino = 0;
	struct ramfile *content;
	struct stat attr;
	int fd;

	ck_assert_int_eq(resize(f, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 7, 4 * BLOCK), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), 0);
	ck_assert_int_eq(mappers_arena_fd(content, true, &fd), 0);
	ck_assert_int_eq(arena_hold(fd, 1), 0);
	for (int i = 0; i < 2; i++) {
		remount_crashed();
		ck_assert_int_eq(ns_open_by_arena(ns, fd, &ino, &content), 0);
		ck_assert_uint_eq(ino, f);
		ck_assert_int_eq(check_fill(f, 7, 4 * BLOCK), 0);
	}
	/* It goes without a word; the next one who closes anything finds out. */
	ns_put(ns, f);
	ck_assert_int_eq(ns_getattr(ns, f, &attr), 0);
	close(fd);
	ck_assert_int_eq(ns_open(ns, other, &content), 0);
	ns_put(ns, other);
	ck_assert_int_eq(ns_getattr(ns, f, &attr), -ENOENT);
	ck_assert_uint_eq(store_mem_count(store, f), 0);
	remount_clean();
}
END_TEST

/* Who has given back its mapping and holds the arena still can make no memory in what is gone. */
START_TEST(removed_file_leaves_no_memory)
{
	uint64_t f = file(NS_ROOT_INO, "f");
	struct ramfile *content;
	struct stat attr;
	int fd;

	ck_assert_int_eq(resize(f, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 7, 4 * BLOCK), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert_int_eq(mappers_arena_fd(content, true, &fd), 0);
	ck_assert_int_eq(arena_hold(fd, 1), 0);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), 0);
	ns_forget(ns, f, 1);
	ns_put(ns, f);
	ck_assert_int_eq(ns_getattr(ns, f, &attr), -ENOENT);
	ck_assert_int_eq(fstat(fd, &attr), 0);
	ck_assert_int_eq(attr.st_size, 0);
	ck_assert_int_eq(attr.st_blocks, 0);
	close(fd);
	remount_clean();
}
END_TEST

/* Nobody has a descriptor of the arena but who held it before anything was loaded. */
START_TEST(removed_file_stays_held)
{
	uint64_t f = file(NS_ROOT_INO, "f"), other = file(NS_ROOT_INO, "other");
	struct ramfile *content;
	struct stat attr;
	int fd, copy;

	ck_assert_int_eq(resize(f, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 7, 4 * BLOCK), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), 0);
	ck_assert_int_eq(arena_open_held(arena_dir, f, 5, &fd), 0);
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	ck_assert_int_ge(copy, 0);
	remount_crashed();
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert(mappers_is_held_by(content, 5));
	ck_assert(mappers_stranger(content));
	ck_assert_int_eq(check_fill(f, 7, 4 * BLOCK), 0);
	/* A copy that is open still holds nothing. */
	arena_let_go(fd);
	ck_assert(!mappers_have_arena(content));
	ns_put(ns, f);
	ck_assert_int_eq(ns_open(ns, other, &content), 0);
	ns_put(ns, other);
	ck_assert_int_eq(ns_getattr(ns, f, &attr), -ENOENT);
	ck_assert_int_eq(arena_open_held(arena_dir, f, 5, &fd), -ENOENT);
	close(copy);
	remount_clean();
}
END_TEST

START_TEST(content_persists)
{
	uint64_t f = file(NS_ROOT_INO, "f");

	ck_assert_int_eq(resize(f, 8 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 3, 8 * BLOCK), 0);
	remount_clean();
	ck_assert_int_eq(check_fill(f, 3, 8 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 4, 8 * BLOCK), 0);
	remount_crashed();
	ck_assert_int_eq(check_fill(f, 4, 8 * BLOCK), 0);
	remount_crashed();
	remount_clean();
	ck_assert_int_eq(check_fill(f, 4, 8 * BLOCK), 0);
}
END_TEST

START_TEST(blocks_are_what_is_held)
{
	uint64_t f = file(NS_ROOT_INO, "f");

	ck_assert_int_eq(resize(f, 64 * BLOCK), 0);
	ck_assert_uint_eq(attr_of(f).st_blocks, 0);
	ck_assert_int_eq(fill(f, 9, 2 * BLOCK), 0);
	ck_assert_uint_eq(attr_of(f).st_blocks, 2 * BLOCK / 512);
	remount_clean();
	/* One pattern: stored as that, and known before the file is loaded. */
	ck_assert_uint_gt(attr_of(f).st_blocks, 0);
	ck_assert_uint_le(attr_of(f).st_blocks, 2);
}
END_TEST

static bool is_lost(uint64_t ino)
{
	return check_fill(ino, 0, 4096) == -EIO;
}

START_TEST(power_loss)
{
	uint64_t hot = file(NS_ROOT_INO, "hot"), clean = file(NS_ROOT_INO, "clean"), empty = file(NS_ROOT_INO, "empty");

	ck_assert_int_eq(resize(hot, 4 * BLOCK), 0);
	ck_assert_int_eq(resize(clean, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(clean, 1, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(hot, 1, 4 * BLOCK), 0);
	remount_clean();
	ck_assert_int_eq(fill(hot, 2, 100), 0);
	ck_assert_int_eq(check_fill(clean, 1, 4 * BLOCK), 0);
	remount_power_loss();
	ck_assert(is_lost(hot));
	ck_assert_int_eq(check_fill(clean, 1, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(hot, 3, 4096), -EIO);
	/* Also when the daemon is killed or the host goes down again, and after a clean end. */
	remount_crashed();
	ck_assert(is_lost(hot));
	remount_power_loss();
	ck_assert(is_lost(hot));
	remount_clean();
	ck_assert(is_lost(hot));
	ck_assert_uint_eq(attr_of(hot).st_size, 4 * BLOCK);
	ck_assert_int_eq(resize(hot, 0), 0);
	ck_assert_int_eq(resize(hot, BLOCK), 0);
	ck_assert_int_eq(fill(hot, 4, BLOCK), 0);
	ck_assert_int_eq(check_fill(hot, 4, BLOCK), 0);
	ck_assert_uint_eq(found(NS_ROOT_INO, "empty"), empty);
	ck_assert(check_fill(empty, 0, 0) == 0);
	remount_clean();
	ck_assert_int_eq(check_fill(hot, 4, BLOCK), 0);
	remount_power_loss();
	ck_assert_int_eq(check_fill(hot, 4, BLOCK), 0);
}
END_TEST

/* The size of a new file may be lost with the power; that it had content is not. */
START_TEST(power_loss_before_any_sync)
{
	uint64_t f = file(NS_ROOT_INO, "f");

	ck_assert_int_eq(resize(f, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 1, 4 * BLOCK), 0);
	remount_power_loss();
	ck_assert(is_lost(f));
	ck_assert_int_eq(resize(f, 0), 0);
	ck_assert_int_eq(resize(f, BLOCK), 0);
	ck_assert_int_eq(check_fill(f, 0, BLOCK), 0);
}
END_TEST

START_TEST(fsync_of_a_cold_file_makes_it_clean)
{
	uint64_t f = file(NS_ROOT_INO, "f");
	struct file_done done;
	struct ramfile *content;

	ck_assert_int_eq(resize(f, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 5, 4 * BLOCK), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert_int_eq(demand_demote(content, 0, UINT64_MAX, NULL, NULL, &done), 0);
	ns_put(ns, f);
	ck_assert_int_eq(ns_fsync(ns, f), 0);
	remount_power_loss();
	ck_assert_int_eq(check_fill(f, 5, 4 * BLOCK), 0);
	/* Resident again: that is stored as well, and stays. */
	ck_assert_int_eq(fill(f, 6, 4 * BLOCK), 0);
	ck_assert_int_eq(ns_fsync(ns, f), 0);
	remount_power_loss();
	ck_assert_int_eq(check_fill(f, 6, 4 * BLOCK), 0);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), 0);
	ck_assert_uint_eq(store_mem_count(store, f), 0);
}
END_TEST

static uint64_t resident_bytes(uint64_t ino)
{
	struct ramfile_figures figures;
	struct ramfile *content;

	ck_assert_int_eq(ns_open(ns, ino, &content), 0);
	ramfile_figures(content, &figures);
	ns_put(ns, ino);
	return figures.resident_bytes;
}

/* All that was changed so far reaches the disk, as it may at any time. */
static void sync_store(void)
{
	ck_assert_int_eq(store->ops->sync(store), 0);
}

START_TEST(fsync_means_durable)
{
	uint64_t f = file(NS_ROOT_INO, "f");

	ck_assert_int_eq(resize(f, 4 * BLOCK - 100), 0);
	ck_assert_int_eq(fill(f, 5, 4 * BLOCK - 100), 0);
	ck_assert_uint_gt(resident_bytes(f), 0);
	ck_assert_int_eq(ns_fsync(ns, f), 0);
	ck_assert_uint_eq(resident_bytes(f), 4 * BLOCK);
	/* What comes later does not make it lost. */
	ck_assert_int_eq(fill(f, 6, 100), 0);
	remount_crashed();
	ck_assert_int_eq(check_fill(f, 6, 100), 0);
	remount_power_loss();
	ck_assert_int_eq(check_fill(f, 5, 4 * BLOCK - 100), 0);
	/* Nor does it after the file was clean. */
	remount_clean();
	ck_assert_int_eq(fill(f, 7, 100), 0);
	sync_store();
	remount_power_loss();
	ck_assert_int_eq(check_fill(f, 5, 4 * BLOCK - 100), 0);
}
END_TEST

START_TEST(discard_after_fsync_takes_only_what_it_names)
{
	uint64_t f = file(NS_ROOT_INO, "f");
	struct ramfile *content;
	uint8_t got[4096];
	size_t length;

	ck_assert_int_eq(resize(f, BLOCK), 0);
	ck_assert_int_eq(fill(f, 5, BLOCK), 0);
	ck_assert_int_eq(ns_fsync(ns, f), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert_int_eq(ramfile_discard(content, 4096, 4096), 0);
	ns_put(ns, f);
	sync_store();
	remount_power_loss();
	ck_assert_int_eq(check_fill(f, 5, 4096), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert_int_eq(ramfile_read(content, got, sizeof(got), 8192, &length), 0);
	ck_assert_uint_eq(length, sizeof(got));
	for (size_t i = 0; i < length; i++)
		ck_assert_uint_eq(got[i], 5);
	ns_put(ns, f);
}
END_TEST

/* Its content was given up; zeros in its place would be worse than none. */
START_TEST(what_is_truncated_after_fsync_is_lost_again)
{
	uint64_t f = file(NS_ROOT_INO, "f");

	ck_assert_int_eq(resize(f, BLOCK), 0);
	ck_assert_int_eq(fill(f, 5, BLOCK), 0);
	ck_assert_int_eq(ns_fsync(ns, f), 0);
	ck_assert_int_eq(resize(f, 0), 0);
	ck_assert_int_eq(resize(f, BLOCK), 0);
	ck_assert_int_eq(fill(f, 6, BLOCK), 0);
	sync_store();
	remount_power_loss();
	ck_assert(is_lost(f));
}
END_TEST

START_TEST(a_dirty_mark_that_cannot_be_written_stops_the_write)
{
	uint64_t f = file(NS_ROOT_INO, "f");

	ck_assert_int_eq(resize(f, BLOCK), 0);
	remount_clean();
	store_mem_fail_all(store, STORE_MEM_META_PUT, EIO);
	ck_assert_int_eq(fill(f, 1, BLOCK), -EIO);
	store_mem_fail_all(store, STORE_MEM_META_PUT, 0);
	ck_assert_int_eq(check_fill(f, 0, BLOCK), 0);
	ck_assert_int_eq(fill(f, 1, BLOCK), 0);
	ck_assert_int_eq(check_fill(f, 1, BLOCK), 0);
}
END_TEST

START_TEST(a_store_that_is_full_keeps_the_memory)
{
	uint64_t f = file(NS_ROOT_INO, "f");
	char data[BLOCK];
	struct ramfile *content;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * i >> 3);
	ck_assert_int_eq(resize(f, BLOCK), 0);
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	ck_assert_int_eq(ramfile_write(content, data, sizeof(data), 0, false), 0);
	ns_put(ns, f);
	store_mem_fail_all(store, STORE_MEM_PUT, ENOSPC);
	ck_assert_int_lt(ns_close(ns, NULL, NULL), 0);
	remount_crashed();
	ck_assert_int_eq(ns_open(ns, f, &content), 0);
	{
		char back[BLOCK];
		size_t got;

		ck_assert_int_eq(ramfile_read(content, back, sizeof(back), 0, &got), 0);
		ck_assert(got == BLOCK && memcmp(data, back, BLOCK) == 0);
	}
	ns_put(ns, f);
	remount_clean();
}
END_TEST

START_TEST(blocks_that_cannot_be_freed_are_at_the_next_load)
{
	uint64_t f = file(NS_ROOT_INO, "f");

	ck_assert_int_eq(resize(f, 4 * BLOCK), 0);
	ck_assert_int_eq(fill(f, 7, 4 * BLOCK), 0);
	remount_clean();
	store_mem_fail_all(store, STORE_MEM_REMOVE, EIO);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "f"), 0);
	ck_assert_int_eq(look(NS_ROOT_INO, "f"), -ENOENT);
	remount_clean();
	ck_assert_uint_gt(store_mem_count(store, f), 0);
	store_mem_fail_all(store, STORE_MEM_REMOVE, 0);
	remount_clean();
	ck_assert_uint_eq(store_mem_count(store, f), 0);
}
END_TEST

START_TEST(by_arena)
{
	uint64_t f = file(NS_ROOT_INO, "f"), g = file(NS_ROOT_INO, "g"), ino = 0;
	struct ramfile *content, *again;
	int fd, other;

	ck_assert_int_eq(resize(f, BLOCK), 0);
	ck_assert_int_eq(resize(g, BLOCK), 0);
	ck_assert_int_eq(ns_open(ns, g, &content), 0);
	ck_assert_int_eq(mappers_arena_fd(content, true, &fd), 0);
	ck_assert_int_eq(ns_open_by_arena(ns, fd, &ino, &again), 0);
	ck_assert_uint_eq(ino, g);
	ck_assert_ptr_eq(content, again);
	ns_put(ns, g);
	ns_put(ns, g);
	other = open("/dev/null", O_RDWR);
	ck_assert_int_eq(ns_open_by_arena(ns, other, &ino, &again), -ENOENT);
	close(other);
	/* Also after a restart. */
	ck_assert_int_eq(fill(g, 1, 1), 0);
	remount_crashed();
	ck_assert_int_eq(ns_open_by_arena(ns, fd, &ino, &again), 0);
	ck_assert_uint_eq(ino, g);
	ns_put(ns, g);
	close(fd);
}
END_TEST

struct listing {
	char text[512];
};

static int list_file(void *arg, const struct ns_file *listed)
{
	struct listing *listing = arg;
	size_t used = strlen(listing->text);

	snprintf(listing->text + used, sizeof(listing->text) - used, "%s %lu %u%s\n", listed->path,
		 (unsigned long)listed->attr.st_size, listed->opens,
		 listed->lost        ? " lost"
		 : listed->fell_back ? " fell back"
				     : "");
	return 0;
}

START_TEST(files)
{
	uint64_t d = dir(NS_ROOT_INO, "d"), b = file(NS_ROOT_INO, "b"), a = file(d, "a"), u = file(NS_ROOT_INO, "u");
	struct listing listing = { .text = "" };
	struct ramfile *content;

	ck_assert_int_eq(resize(b, BLOCK), 0);
	ck_assert_int_eq(fill(b, 1, BLOCK), 0);
	ck_assert_int_eq(ns_fsync(ns, b), 0);
	remount_power_loss();
	ck_assert_int_eq(ns_open(ns, a, &content), 0);
	ck_assert_int_eq(ns_open(ns, u, &content), 0);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "u"), 0);
	ck_assert_int_eq(ns_files(ns, list_file, &listing), 0);
	ck_assert_str_eq(listing.text, "(unlinked) 0 1\n/b 16384 0 fell back\n/d/a 0 1\n");
	ns_put(ns, a);
	ns_put(ns, u);
}
END_TEST

/* ---- every failure, every crash ---- */

#define STEPS 19

/* The steps of the script; each is one operation. Inode numbers are found by name, since a failed step may be repeated.
 */
static int step(int number)
{
	struct ns_setattr mode = { .set_mode = true, .mode = 0640 };
	struct stat attr;
	uint64_t ino;

	switch (number) {
	case 0:
		return try_make(NS_ROOT_INO, "d", S_IFDIR | 0755, &ino);
	case 1:
		return try_make(found(NS_ROOT_INO, "d"), "e", S_IFDIR | 02755, &ino);
	case 2:
		return try_make(NS_ROOT_INO, "f", S_IFREG | 0600, &ino);
	case 3:
		return try_make(found(NS_ROOT_INO, "d"), "g", S_IFREG | 0600, &ino);
	case 4:
		return ns_setattr(ns, found(NS_ROOT_INO, "f"), &mode, &attr);
	case 5:
		return resize(found(NS_ROOT_INO, "f"), 2 * BLOCK);
	case 6:
		return ns_link(ns, found(NS_ROOT_INO, "f"), found(NS_ROOT_INO, "d"), "h", &attr);
	case 7:
		return ns_rename(ns, NS_ROOT_INO, "f", found(NS_ROOT_INO, "d"), "i", 0);
	case 8:
		return ns_rename(ns, found(NS_ROOT_INO, "d"), "e", NS_ROOT_INO, "e", RENAME_NOREPLACE);
	case 9:
		return ns_rename(ns, NS_ROOT_INO, "e", NS_ROOT_INO, "e2", 0);
	case 10:
		return ns_rename(ns, NS_ROOT_INO, "e2", found(NS_ROOT_INO, "d"), "g", RENAME_EXCHANGE);
	case 11:
		return ns_rename(ns, found(NS_ROOT_INO, "d"), "h", found(NS_ROOT_INO, "d"), "i", 0);
	case 12:
		return ns_rename(ns, found(NS_ROOT_INO, "d"), "i", NS_ROOT_INO, "e2", 0);
	case 13:
		return try_make(NS_ROOT_INO, "k", S_IFDIR | 0700, &ino);
	case 14:
		return ns_rename(ns, NS_ROOT_INO, "k", found(NS_ROOT_INO, "d"), "g", 0);
	case 15:
		return ns_rmdir(ns, found(NS_ROOT_INO, "d"), "g");
	case 16:
		return ns_unlink(ns, found(NS_ROOT_INO, "d"), "h");
	case 17:
		return ns_rmdir(ns, NS_ROOT_INO, "d");
	default:
		return ns_unlink(ns, NS_ROOT_INO, "e2");
	}
}

/* _i: which call that writes metadata fails. What failed has not happened, and can be done again. */
START_TEST(refused_changes_have_not_happened)
{
	static char before[8192], after[8192];
	bool failed = false;

	store_mem_fail_nth(store, STORE_MEM_META_PUT, (uint64_t)_i + 1, EIO);
	for (int i = 0; i < STEPS; i++) {
		int rc;

		tree_text(before, sizeof(before));
		rc = step(i);
		if (rc == 0)
			continue;
		ck_assert_msg(rc == -EIO && !failed, "step %d: %d", i, rc);
		failed = true;
		tree_text(after, sizeof(after));
		/* A size that was set is there already, and is saved by the next change. */
		if (i != 5)
			ck_assert_str_eq(before, after);
		ck_assert_int_eq(step(i), 0);
	}
	tree_text(before, sizeof(before));
	ck_assert_str_eq(before, "");
	remount_crashed();
	tree_text(after, sizeof(after));
	ck_assert_str_eq(after, "");
	ck_assert_uint_eq(attr_of(NS_ROOT_INO).st_nlink, 2);
}
END_TEST

/* _i: after how many steps the daemon is killed. What was acknowledged is there. */
START_TEST(acknowledged_changes_survive)
{
	static char before[8192], after[8192];

	for (int i = 0; i < STEPS; i++) {
		ck_assert_int_eq(step(i), 0);
		if (i != _i)
			continue;
		tree_text(before, sizeof(before));
		remount_crashed();
		tree_text(after, sizeof(after));
		ck_assert_str_eq(before, after);
	}
}
END_TEST

/* ---- damaged stores ---- */

static void put_raw(const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct meta_change change = {
		.key = key,
		.key_len = key_len,
		.value = value,
		.value_len = value_len,
	};

	ck_assert_int_eq(store->meta->put(store, &change, 1, true), 0);
}

static int damaged(const void *key, size_t key_len, const void *value, size_t value_len)
{
	int rc;

	unload();
	put_raw(key, key_len, value, value_len);
	rc = load(true);
	if (rc < 0) {
		/* For the teardown, and the next damage. */
		put_raw(key, key_len, NULL, 0);
		tiering_free(engine);
		ck_assert_int_eq(load(true), 0);
	}
	return rc;
}

/* Pools of earlier programs open; they knew whole pages only. */
START_TEST(records_of_version_1)
{
	struct record_inode inode = { .mode = S_IFREG | 0600, .nlink = 1, .size_bytes = 12288 }, got;
	struct record_batch batch = { .count = 0 };
	uint8_t *value = batch.value[0];
	uint64_t ino;

	record_batch_inode(&batch, 9, &inode);
	value[0] = 1;
	ck_assert_int_eq(record_parse_inode(batch.key[0], 9, value, RECORD_INODE_LEN, &ino, &got), 0);
	ck_assert_uint_eq(got.size_bytes, 12288);
	batch.count = 0;
	inode.size_bytes = 12289;
	record_batch_inode(&batch, 9, &inode);
	ck_assert_int_eq(record_parse_inode(batch.key[0], 9, value, RECORD_INODE_LEN, &ino, &got), 0);
	ck_assert_uint_eq(got.size_bytes, 12289);
	value[0] = 1;
	ck_assert_int_eq(record_parse_inode(batch.key[0], 9, value, RECORD_INODE_LEN, &ino, &got), -EBADMSG);
}
END_TEST

START_TEST(damage_is_found)
{
	uint64_t d = dir(NS_ROOT_INO, "d"), f = file(NS_ROOT_INO, "f");
	uint8_t value[RECORD_INODE_LEN] = { 1 };
	struct record_batch batch;
	struct record_inode inode = { .mode = S_IFREG | 0600, .nlink = 1 };

	/* Entries that lead nowhere, come from nowhere, or come from a file; names that no name can be. */
	ck_assert_int_eq(damaged("D\0\0\0\0\0\0\0\1x", 10, "\0\0\0\0\0\0\0\77", 8), -EBADMSG);
	ck_assert_int_eq(damaged("D\0\0\0\0\0\0\0\77x", 10, "\0\0\0\0\0\0\0\3", 8), -EBADMSG);
	ck_assert_int_eq(damaged("D\0\0\0\0\0\0\0\3x", 10, "\0\0\0\0\0\0\0\3", 8), -EBADMSG);
	ck_assert_int_eq(damaged("D\0\0\0\0\0\0\0\1a/b", 12, "\0\0\0\0\0\0\0\3", 8), -EBADMSG);
	ck_assert_int_eq(damaged("D\0\0\0\0\0\0\0\1", 9, "\0\0\0\0\0\0\0\3", 8), -EBADMSG);
	ck_assert_int_eq(damaged("D\0\0\0\0\0\0\0\1x", 10, "\0\0\0\0\0\0\0\3", 7), -EBADMSG);
	/* A second name: of a directory, and of the root. */
	ck_assert_uint_eq(d, 2);
	ck_assert_uint_eq(f, 3);
	ck_assert_int_eq(damaged("D\0\0\0\0\0\0\0\1x", 10, "\0\0\0\0\0\0\0\2", 8), -EBADMSG);
	ck_assert_int_eq(damaged("D\0\0\0\0\0\0\0\2x", 10, "\0\0\0\0\0\0\0\1", 8), -EBADMSG);
	/* Inodes: too short, of another version, of a number that was never given out, with content and no name. */
	ck_assert_int_eq(damaged("I\0\0\0\0\0\0\0\11", 9, value, 10), -EBADMSG);
	value[0] = 3;
	ck_assert_int_eq(damaged("I\0\0\0\0\0\0\0\11", 9, value, sizeof(value)), -EPROTONOSUPPORT);
	batch.count = 0;
	record_batch_inode(&batch, 9, &inode);
	ck_assert_int_eq(damaged("I\0\0\0\0\0\0\0\11", 9, batch.value[0], RECORD_INODE_LEN), -EBADMSG);
	file(NS_ROOT_INO, "g");
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "g"), 0);
	batch.count = 0;
	inode.size_bytes = 1;
	record_batch_inode(&batch, 4, &inode);
	ck_assert_int_eq(damaged("I\0\0\0\0\0\0\0\4", 9, batch.value[0], RECORD_INODE_LEN), -EBADMSG);
	/* What was right is right again. */
	ck_assert_uint_eq(found(NS_ROOT_INO, "f"), f);
}
END_TEST

/* A change that is refused, and is in the store all the same. */
static const struct meta_ops *true_meta;

static int doubtful_put(struct store *base, const struct meta_change *changes, size_t count, bool durable)
{
	int err = true_meta->put(base, changes, count, durable);

	return err ? err : -EIO;
}

static void set_doubtful(bool doubtful)
{
	static struct meta_ops meta;

	if (doubtful) {
		true_meta = store->meta;
		meta = *true_meta;
		meta.put = doubtful_put;
		store->meta = &meta;
	} else {
		store->meta = true_meta;
	}
}

static void refused_but_there(uint64_t parent, const char *name, mode_t mode)
{
	uint64_t ino;

	set_doubtful(true);
	ck_assert_int_eq(try_make(parent, name, mode, &ino), -EIO);
	set_doubtful(false);
}

START_TEST(what_was_refused_may_be_there)
{
	uint64_t d = dir(NS_ROOT_INO, "d"), gone = dir(NS_ROOT_INO, "gone"), f, g;
	struct stat attr;

	/* Another number for the next; the same name again; a directory that counts; one in what is removed. */
	refused_but_there(NS_ROOT_INO, "first", S_IFREG | 0600);
	refused_but_there(NS_ROOT_INO, "f", S_IFREG | 0600);
	f = file(NS_ROOT_INO, "f");
	refused_but_there(NS_ROOT_INO, "again", S_IFDIR | 0700);
	ck_assert_int_eq(ns_rmdir(ns, NS_ROOT_INO, "again"), -ENOENT);
	dir(NS_ROOT_INO, "again");
	refused_but_there(d, "below", S_IFDIR | 0700);
	file(d, "beside");
	refused_but_there(gone, "in", S_IFREG | 0600);
	ck_assert_int_eq(ns_rmdir(ns, NS_ROOT_INO, "gone"), 0);
	/* A second name of what goes. */
	g = file(NS_ROOT_INO, "g");
	set_doubtful(true);
	ck_assert_int_eq(ns_link(ns, g, d, "g", &attr), -EIO);
	set_doubtful(false);
	ck_assert_int_eq(ns_unlink(ns, NS_ROOT_INO, "g"), 0);
	/* A second name of what stays. */
	set_doubtful(true);
	ck_assert_int_eq(ns_link(ns, f, d, "f", &attr), -EIO);
	set_doubtful(false);
	ck_assert_int_eq(resize(f, BLOCK), 0);
	ck_assert_int_eq(fill(f, 7, BLOCK), 0);
	for (int i = 0; i < 2; i++) {
		remount_crashed();
		ck_assert_uint_eq(found(NS_ROOT_INO, "f"), f);
		ck_assert_uint_eq(found(d, "f"), f);
		ck_assert_uint_eq(attr_of(f).st_nlink, 2);
		ck_assert_int_eq(check_fill(f, 7, BLOCK), 0);
		ck_assert_int_ne(found(NS_ROOT_INO, "first"), f);
		ck_assert_int_eq(look(NS_ROOT_INO, "gone"), -ENOENT);
		ck_assert_int_eq(look(d, "g"), -ENOENT);
		ck_assert_int_eq(look(d, "below"), 0);
		ck_assert_int_eq(look(d, "beside"), 0);
		ck_assert_uint_eq(attr_of(d).st_nlink, 3);
		ck_assert_uint_eq(attr_of(NS_ROOT_INO).st_nlink, 4);
		ck_assert_int_eq(ns_getattr(ns, f - 1, &attr), -ENOENT); /* that of the same name */
	}
}
END_TEST

START_TEST(a_directory_in_itself_is_found)
{
	uint64_t a = dir(NS_ROOT_INO, "a"), b = dir(a, "b");

	ck_assert(a == 2 && b == 3);
	unload();
	put_raw("D\0\0\0\0\0\0\0\1a", 10, NULL, 0);
	put_raw("D\0\0\0\0\0\0\0\3a", 10, "\0\0\0\0\0\0\0\2", 8);
	ck_assert_int_eq(load(true), -EBADMSG);
	tiering_free(engine);
	put_raw("D\0\0\0\0\0\0\0\3a", 10, NULL, 0);
	put_raw("D\0\0\0\0\0\0\0\1a", 10, "\0\0\0\0\0\0\0\2", 8);
	ck_assert_int_eq(load(true), 0);
}
END_TEST

/* ---- threads ---- */

#define THREADS 4
#define ROUNDS 150

static void *stir(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg;
	struct ramfile *content;
	char name[8], other[8];
	struct stat attr;
	uint64_t at[2];

	for (int i = 0; i < ROUNDS; i++) {
		snprintf(name, sizeof(name), "f%d", rand_r(&seed) % 6);
		snprintf(other, sizeof(other), "f%d", rand_r(&seed) % 6);
		switch (rand_r(&seed) % 7) {
		case 0:
			if (ns_create(ns, NS_ROOT_INO, name, S_IFREG | 0600, 0, 0, &attr) == 0)
				ns_forget(ns, attr.st_ino, 1);
			break;
		case 1:
			ns_unlink(ns, NS_ROOT_INO, name);
			break;
		case 2:
			ns_rename(ns, NS_ROOT_INO, name, NS_ROOT_INO, other, rand_r(&seed) % 2 ? RENAME_EXCHANGE : 0);
			break;
		case 3:
			if (ns_lookup(ns, NS_ROOT_INO, name, &attr) == 0)
				ns_link(ns, attr.st_ino, NS_ROOT_INO, other, &attr);
			break;
		case 4:
			if (ns_lookup(ns, NS_ROOT_INO, name, &attr) != 0 || ns_open(ns, attr.st_ino, &content) != 0)
				break;
			ns_extend(ns, attr.st_ino, BLOCK);
			ramfile_write(content, "x", 1, 0, false);
			ns_touch(ns, attr.st_ino, true);
			ns_put(ns, attr.st_ino);
			break;
		case 5:
			if (ns_lookup(ns, NS_ROOT_INO, name, &attr) == 0)
				ns_fsync(ns, attr.st_ino);
			break;
		default:
			at[0] = 0;
			at[1] = 100;
			ns_readdir(ns, NS_ROOT_INO, 0, stop_after, at);
		}
	}
	return NULL;
}

START_TEST(threads)
{
	static char before[8192], after[8192];
	pthread_t thread[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, stir, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	tree_text(before, sizeof(before));
	remount_crashed();
	tree_text(after, sizeof(after));
	ck_assert_str_eq(before, after);
	remount_clean();
	tree_text(after, sizeof(after));
	ck_assert_str_eq(before, after);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ns");
	TCase *tcase = tcase_create("ns");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, a_new_pool);
	tcase_add_test(tcase, limits);
	tcase_add_test(tcase, a_removed_directory_takes_nothing);
	tcase_add_test(tcase, loops_are_refused);
	tcase_add_test(tcase, cookies_hold_while_entries_come_and_go);
	tcase_add_test(tcase, paths);
	tcase_add_test(tcase, content_goes_with_the_last_use);
	tcase_add_test(tcase, orphans_are_reaped_at_the_next_load);
	tcase_add_test(tcase, a_process_keeps_its_file_without_a_name);
	tcase_add_test(tcase, removed_file_stays_held);
	tcase_add_test(tcase, removed_file_leaves_no_memory);
	tcase_add_test(tcase, content_persists);
	tcase_add_test(tcase, blocks_are_what_is_held);
	tcase_add_test(tcase, power_loss);
	tcase_add_test(tcase, power_loss_before_any_sync);
	tcase_add_test(tcase, fsync_of_a_cold_file_makes_it_clean);
	tcase_add_test(tcase, fsync_means_durable);
	tcase_add_test(tcase, discard_after_fsync_takes_only_what_it_names);
	tcase_add_test(tcase, what_is_truncated_after_fsync_is_lost_again);
	tcase_add_test(tcase, a_dirty_mark_that_cannot_be_written_stops_the_write);
	tcase_add_test(tcase, a_store_that_is_full_keeps_the_memory);
	tcase_add_test(tcase, blocks_that_cannot_be_freed_are_at_the_next_load);
	tcase_add_test(tcase, by_arena);
	tcase_add_test(tcase, files);
	tcase_add_loop_test(tcase, refused_changes_have_not_happened, 0, STEPS + 4);
	tcase_add_loop_test(tcase, acknowledged_changes_survive, 0, STEPS);
	tcase_add_test(tcase, damage_is_found);
	tcase_add_test(tcase, what_was_refused_may_be_there);
	tcase_add_test(tcase, records_of_version_1);
	tcase_add_test(tcase, a_directory_in_itself_is_found);
	tcase_add_test(tcase, threads);
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
