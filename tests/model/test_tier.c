/* timeout: 600 */
/* model/test_tier.c - the engine against a plain array of bytes.
 *
 * Random operations on one RAM file: buffered and direct reads and writes, touches by two simulated processes,
 * discards, demotion and promotion on request, turns of the demoter, store failures, truncation, restarts, clones: of
 * the two files that there are then either goes on, and the other one stays as it was. After each the bytes must be
 * those of the array. While a store call is on its way (lib_store_hook) the processes go on touching
 * memory, and now and then everything that would survive kill -9 at that very moment (arena and store) is copied,
 * loaded into a second engine and compared.
 *
 * Blocks go away (their content is on another host) and come back, when somebody waits for them or for no reason, by a
 * thread of their own.
 *
 * In the huge run, where the host allows it, the arena is what it is in production: fresh memory becomes huge pages
 * while the budget is far, the budget changes, and somebody holds references to pages, so that splits fail.
 *
 * TIERFS_SEED=N repeats a run, TIERFS_STEPS=N sets its length, which is an eighth under a sanitizer. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "../lib/lib_process.h"
#include "../lib/lib_scratch.h"
#include "../lib/lib_store_hook.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/access.h"
#include "engine/away.h"
#include "engine/cache.h"
#include "engine/clone.h"
#include "engine/demote.h"
#include "engine/engine.h"
#include "engine/fault.h"
#include "engine/file.h"
#include "engine/load.h"
#include "engine/quota.h"
#include "engine/ramfile.h"
#include "engine/read.h"
#include "engine/resize.h"
#include "engine/tenant.h"
#include "engine/write.h"
#include "map/holds.h"
#include "policy/demoter.h"
#include "policy/tiering.h"
#include "lib_check.h"
#include "lib/lib_ident.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOWNESS 8
#else
#define SLOWNESS 1
#endif
#define PAGE 4096U
#define PAGES_MAX 1280U
#define PAGES_SMALL 256U
#define BYTES_MAX ((uint64_t)PAGES_MAX * PAGE)
#define INO 7 /* of the first file */
#define PROCESSES 2

/* A file that nobody works on, beside the one of the model. */
struct other {
	struct ramfile *file; /* NULL: there is none */
	uint64_t ino, size;
	uint8_t *want; /* BYTES_MAX */
};

struct model {
	uint64_t rng;
	uint64_t pages; /* the file has up to this many */
	uint64_t dram_bytes;
	uint64_t plain_bytes; /* in the arena when nobody had it mapped last */
	struct holds *holds;  /* the huge run, else NULL */
	int tube[2];          /* holds references to pages */
	uint32_t block_bytes;
	struct scratch scratch;
	int arena_dir;
	struct store *mem, *store;
	struct engine *engine;
	struct ramfile *file;
	uint64_t ino, next_ino;
	struct other other;
	struct tenant tenant[2]; /* inner and outer */
	bool cloning;            /* nobody writes */
	struct process *process[PROCESSES];
	uint64_t next_holder;
	uint64_t size;
	uint8_t *want; /* BYTES_MAX */
	/* A change by system call that is on its way: its bytes may be old or new in a crash. */
	uint64_t pending_offset, pending_length;
	uint8_t *pending_old, *pending_new;
	bool in_hook;
	/* What blocks that went away have on the other host. */
	pthread_mutex_t bringing; /* held by who brings one, and who wants none to come */
	uint8_t *away;            /* BYTES_MAX */
	pthread_t supplier;
	_Atomic bool ends;
	uint64_t crashes, hook_touches, steps, clones, went_away;
	_Atomic uint64_t brought;
};

static struct model model;

static uint64_t rnd(uint64_t below)
{
	/* splitmix64 */
	uint64_t z = (model.rng += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return (z ^ (z >> 31)) % below;
}

static void fill_random(uint8_t *buf, uint64_t length)
{
	uint64_t kind = rnd(8), value = rnd(UINT64_MAX);

	for (uint64_t i = 0; i < length; i++) {
		if (kind == 0)
			buf[i] = 0;
		else if (kind == 1)
			buf[i] = (uint8_t)(value >> (i % 8 * 8));
		else if (kind == 2)
			buf[i] = (uint8_t)rnd(256);
		else
			buf[i] = (uint8_t)("tierfs"[i % 6] + (i / 100 + value) % 7);
	}
}

/* --- what survives a crash ---------------------------------------------------------------------------------- */

static int copy_value(void *arg, struct store_key key, const void *value, uint32_t length_bytes)
{
	struct store *to = arg;
	struct store_item item = { .key = key, .value = value, .length_bytes = length_bytes };

	return to->ops->put(to, STORE_DEMOTION, &item, 1);
}

static void copy_arena(int from_dir, int to_dir, uint64_t ino)
{
	static uint8_t page[PAGE];
	char name[24];
	off_t data, end;
	int from, to;

	snprintf(name, sizeof(name), "%llu", (unsigned long long)ino);
	from = openat(from_dir, name, O_RDONLY);
	to = openat(to_dir, name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	ck_assert_int_ge(from, 0);
	ck_assert_int_ge(to, 0);
	ck_assert_int_eq(ftruncate(to, lseek(from, 0, SEEK_END)), 0);
	for (data = lseek(from, 0, SEEK_DATA); data >= 0; data = lseek(from, end, SEEK_DATA)) {
		end = lseek(from, data, SEEK_HOLE);
		for (off_t at = data; at < end; at += PAGE) {
			ck_assert_int_eq(pread(from, page, PAGE, at), PAGE);
			ck_assert_int_eq(pwrite(to, page, PAGE, at), PAGE);
		}
	}
	close(from);
	close(to);
}

static bool byte_ok(uint64_t at, uint8_t got)
{
	if (model.in_hook && at >= model.pending_offset && at < model.pending_offset + model.pending_length)
		return got == model.pending_old[at - model.pending_offset] ||
		       got == model.pending_new[at - model.pending_offset];
	return got == model.want[at];
}

static void compare(const uint8_t *got, uint64_t offset, uint64_t length, const char *what)
{
	for (uint64_t i = 0; i < length; i++)
		if (!byte_ok(offset + i, got[i]))
			ck_abort_msg("%s: byte %llu is %02x, not %02x (step %llu)", what,
				     (unsigned long long)(offset + i), got[i], model.want[offset + i],
				     (unsigned long long)model.steps);
}

static int look_for_holds(void *arg, bool referenced, int arena_fd, uint64_t first_page, uint64_t count, uint8_t *held)
{
	return holds_look(arg, referenced ? HOLDS_REFERENCED : HOLDS_PINNED, arena_fd, first_page, count,
			  HOLDS_OR_LARGE, held);
}

static struct engine *new_tier(struct store *store, int arena_dir)
{
	struct engine_config config = {
		.store = store,
		.arena_dir = arena_dir,
		.block_bytes = model.block_bytes,
		.dram_bytes = model.dram_bytes,
		.holds = model.holds ? look_for_holds : NULL,
		.holds_arg = model.holds,
		.min_idle_ns = 0,
		.level = 1,
	};
	struct engine *engine;

	ck_assert_int_eq(tiering_new(&config, &engine), 0);
	return engine;
}

/* A failure was injected. */
static bool may_fail(int err)
{
	return err == -EIO || err == -ENOSPC;
}

/* Or a share does not allow it: calls that write past DRAM alone are refused, nothing that a mapping depends on. */
static bool may_refuse(int err)
{
	return may_fail(err) || err == -EDQUOT;
}

/* The block, if it is away, comes as it is on the other host. */
static void bring(struct ramfile *file, uint64_t block)
{
	static uint8_t plain[2][65536] __attribute__((aligned(64)));
	struct tierfs_access_record record = {
		.block = block, .count = 1, .form = TIERFS_FORM_PLAIN, .flags = TIERFS_BLOCK_AWAY
	};
	uint64_t at = block * model.block_bytes, size = file_size(file);
	uint64_t length = size - at < model.block_bytes ? size - at : model.block_bytes;
	uint8_t *payload = plain[file == model.file];
	struct access_buffer buffer = { .base = payload, .bytes = sizeof(plain[0]), .record = &record, .records = 1 };

	if (at >= size)
		return;
	memset(payload, 0, sizeof(plain[0]));
	memcpy(payload, model.away + at, length);
	record.ident = ident_of(payload, model.block_bytes);
	record.payload_bytes = (uint32_t)length;
	ck_assert_int_eq(access_write(file, 0, &buffer), 0);
	ck_assert_msg(record.result != TIERFS_ACCESS_ERROR || may_fail(-(int)record.error), "block %llu: %s",
		      (unsigned long long)block, strerror(record.error));
	atomic_fetch_add(&model.brought, record.result == TIERFS_ACCESS_WRITE_OK);
}

/* What is left of a file, in an engine of its own. */
static void check_copy(struct engine *engine, struct store *store, int dir, const struct other *of)
{
	static uint8_t got[BYTES_MAX];
	struct ramfile *file;
	size_t length = 0;

	ck_assert_int_eq(model.mem->ops->walk(model.mem, STORE_DIRECT, of->ino, 0, UINT64_MAX, copy_value, store), 0);
	copy_arena(model.arena_dir, dir, of->ino);
	ck_assert_int_eq(ramfile_load(engine, of->ino, of->size, false, &file), 0);
	file_check(file);
	for (uint64_t block = 0; file->blocks.away && block < file->blocks.count; block++)
		bring(file, block);
	ck_assert_int_eq(ramfile_read(file, got, of->size, 0, &length), 0);
	ck_assert_uint_eq(length, of->size);
	if (of->want == model.want)
		compare(got, 0, of->size, "after a crash");
	else
		ck_assert_mem_eq(got, of->want, of->size);
	ramfile_unload(file);
}

static void check_crash(void)
{
	struct other own = { .ino = model.ino, .size = model.size, .want = model.want };
	struct scratch scratch;
	struct store *copy;
	struct engine *engine;
	int dir;

	model.crashes++;
	scratch_new(&scratch, "model-crash");
	dir = open(scratch.path, O_RDONLY | O_DIRECTORY);
	ck_assert_int_eq(store_mem_new(&copy), 0);
	engine = new_tier(copy, dir);
	check_copy(engine, copy, dir, &own);
	if (model.other.file)
		check_copy(engine, copy, dir, &model.other);
	tiering_free(engine);
	copy->ops->free(copy);
	close(dir);
	scratch_free(&scratch);
}

/* --- operations --------------------------------------------------------------------------------------------- */

static uint64_t pages_of(uint64_t bytes)
{
	return (bytes + PAGE - 1) / PAGE;
}

/* How much of a range lies in the file: behind its end a process may write, and nobody else sees it. */
static uint64_t in_file(uint64_t offset, uint64_t length)
{
	uint64_t left = offset < model.size ? model.size - offset : 0;

	return length < left ? length : left;
}

static void touch(struct process *process, uint64_t page, bool write)
{
	uint8_t buf[64];
	uint64_t length = 1 + rnd(sizeof(buf));
	uint64_t offset = page * PAGE + rnd(PAGE - length);

	/* A process that writes where a system call writes at the same time gets what it asks for. */
	if (model.in_hook && offset / PAGE * PAGE < model.pending_offset + model.pending_length &&
	    offset + length > model.pending_offset)
		return;
	if (write)
		fill_random(buf, length);
	if (!process_touch(process, offset, buf, length, write))
		return; /* waits */
	ck_assert(!process_poisoned(process));
	if (write)
		memcpy(model.want + offset, buf, in_file(offset, length));
	else
		compare(buf, offset, in_file(offset, length), "touch");
}

/* A page, or some in order, so that what follows is read ahead; now and then the kernel has no memory for one. */
static void op_touch(void)
{
	struct process *process = model.process[rnd(PROCESSES)];
	uint64_t page, count = rnd(16) ? 1 : rnd(PAGES_MAX);
	bool write = rnd(2);

	if (!process || !model.size)
		return;
	if (!rnd(16))
		process_fail_fill(process, 1 + (unsigned int)rnd(40));
	write = write && !model.cloning;
	page = rnd(pages_of(model.size));
	for (uint64_t i = 0; i < count && page + i < pages_of(model.size); i++)
		touch(process, page + i, write && !rnd(count));
}

static bool mapped(void)
{
	for (int p = 0; p < PROCESSES; p++)
		if (model.process[p])
			return true;
	return false;
}

static void begin_pending(uint64_t offset, const uint8_t *data, uint64_t length)
{
	model.pending_offset = offset;
	model.pending_length = length;
	memcpy(model.pending_old, model.want + offset, length);
	if (data)
		memcpy(model.pending_new, data, length);
	else
		memset(model.pending_new, 0, length);
}

static void end_pending(bool done)
{
	if (done)
		memcpy(model.want + model.pending_offset, model.pending_new, model.pending_length);
	model.pending_length = 0;
}

/* After an error each byte is old or new; which, the file says. */
static void adopt(uint64_t offset, uint64_t length)
{
	static uint8_t got[BYTES_MAX];
	size_t read = 0;

	ck_assert_int_eq(ramfile_read(model.file, got, length, offset, &read), 0);
	model.in_hook = true; /* old and new are both right */
	compare(got, offset, length, "after a failed change");
	model.in_hook = false;
	memcpy(model.want + offset, got, length);
	model.pending_length = 0;
}

static bool any_away(uint64_t page, uint64_t count)
{
	for (uint64_t block = page * PAGE / model.block_bytes; block * model.block_bytes < (page + count) * PAGE;
	     block++)
		if (blocks_away(&model.file->blocks, block))
			return true;
	return false;
}

/* What the kernel does for a plain mapping: reads pages, brings dirty ones back, drops them. Not beside attached
 * processes, and not where a system call writes at the same time (the kernel serializes those). */
/* What the kernel brings back it takes without asking, also just before a process comes in the same step. */
static void note_plain(void)
{
	struct ramfile_figures figures;

	ramfile_figures(model.file, &figures);
	model.plain_bytes = figures.arena_bytes;
}

static void op_plain(void)
{
	static uint8_t data[16 * PAGE];
	uint64_t pages = pages_of(model.size), first, count, length;
	uint8_t cached[PAGES_MAX];
	size_t read;
	int err;

	if (mapped() || !pages || model.cloning)
		return;
	first = rnd(pages);
	count = 1 + rnd(pages - first < 16 ? pages - first : 16);
	if (model.in_hook &&
	    (first * PAGE) / model.block_bytes * model.block_bytes < model.pending_offset + model.pending_length &&
	    (first + count) * PAGE + model.block_bytes > model.pending_offset)
		return;
	if (model.in_hook && any_away(first, count))
		return;                /* the supplier may wait for the call that the hook is in */
	if (model.in_hook || rnd(2)) { /* a fill would wait for the call that the hook is in */
		/* The kernel cuts the last page, and may take the file to be shorter than it is. */
		length = in_file(first * PAGE, count * PAGE - (rnd(8) ? 0 : rnd(PAGE)));
		fill_random(data, length);
		if (model.in_hook) {
			/* Where the rest of a page is content it would be a change as by system call. */
			if (length % PAGE && first * PAGE + length < model.size)
				return;
			ck_assert_int_eq(cache_write_back(model.file, data, length, first * PAGE), 0);
			note_plain();
			memcpy(model.want + first * PAGE, data, length);
			return;
		}
		begin_pending(first * PAGE, data, length);
		err = cache_write_back(model.file, data, length, first * PAGE);
		note_plain();
		ck_assert(!err || (length % PAGE && may_fail(err)));
		if (err)
			adopt(first * PAGE, length);
		else
			end_pending(true);
	} else if (rnd(3)) {
		err = cache_fill(model.file, data, count * PAGE, first * PAGE, &read);
		ck_assert_int_eq(err, 0);
		ck_assert_uint_eq(read, in_file(first * PAGE, count * PAGE));
		compare(data, first * PAGE, read, "fill");
	} else {
		memset(cached, 0, sizeof(cached));
		cache_set(model.file, 0, PAGES_MAX, cached, NULL);
	}
}

static _Thread_local bool is_supplier; /* the calling thread brings what is away */

static void hook(void *arg, enum store_hook_moment moment)
{
	(void)arg;
	(void)moment;
	if (is_supplier || model.in_hook)
		return;
	model.in_hook = true;
	if (rnd(3) == 0)
		for (uint64_t i = rnd(6); i > 0; i--, model.hook_touches++) {
			op_touch();
			op_plain();
		}
	if (rnd(model.holds ? 32 : 8) == 0)
		check_crash();
	model.in_hook = false;
}

static void op_write(bool direct)
{
	static uint8_t data[BYTES_MAX];
	uint64_t unit = direct ? PAGE : 1 + rnd(PAGE);
	uint64_t most = model.size / 4, offset, length;
	int err;

	if (!model.size)
		return;
	offset = rnd(model.size) / unit * unit;
	length = (1 + rnd(most ? most : 1)) / unit * unit + unit;
	if (length > model.size - offset)
		length = model.size - offset;
	fill_random(data, length);
	begin_pending(offset, data, length);
	err = ramfile_write(model.file, data, length, offset, direct);
	ck_assert(!err || may_refuse(err));
	if (err)
		adopt(offset, length);
	else
		end_pending(true);
}

static void op_read(void)
{
	static uint8_t got[BYTES_MAX];
	uint64_t offset, length;
	size_t read = 0;
	int err;

	if (!model.size)
		return;
	offset = rnd(model.size);
	length = 1 + rnd(model.size - offset);
	err = ramfile_read(model.file, got, length, offset, &read);
	if (err)
		return; /* an injected failure */
	ck_assert_uint_eq(read, length);
	compare(got, offset, length, "read");
}

static void op_discard(void)
{
	uint64_t offset, length;
	int err;

	if (!model.size)
		return;
	offset = rnd(model.size);
	length = 1 + rnd(model.size - offset);
	if (rnd(2)) {
		offset = offset / PAGE * PAGE;
		length = (length + PAGE - 1) / PAGE * PAGE;
		if (length > model.size - offset)
			length = model.size - offset;
	}
	begin_pending(offset, NULL, length);
	err = ramfile_discard(model.file, offset, length);
	ck_assert(!err || may_fail(err));
	if (err)
		adopt(offset, length);
	else
		end_pending(true);
}

/* --- cold access -------------------------------------------------------------------------------------------- */

#define ACCESS_BYTES (BYTES_MAX + (1U << 20))

static uint8_t access_bytes[ACCESS_BYTES] __attribute__((aligned(64)));

static struct access_buffer access_buffer(size_t records)
{
	return (struct access_buffer){ .base = access_bytes,
				       .bytes = ACCESS_BYTES,
				       .record = (struct tierfs_access_record *)access_bytes,
				       .records = records,
				       .payload_at = 1 << 16,
				       .payload_bytes = ACCESS_BYTES - (1 << 16) };
}

static uint64_t block_end(uint64_t block)
{
	uint64_t end = (block + 1) * model.block_bytes;

	return end < model.size ? end : model.size;
}

/* What a record says of the content of its block must be so. */
/* Not by an assertion for each byte: Check takes a second for 400,000. */
static bool is_zero(const uint8_t *bytes, uint64_t length)
{
	return !length || (!bytes[0] && !memcmp(bytes, bytes + 1, length - 1));
}

static void check_record(const struct tierfs_access_record *record)
{
	static uint8_t plain[65536] __attribute__((aligned(64)));
	uint64_t at = record->block * model.block_bytes, length = block_end(record->block) - at;
	const uint8_t *payload = access_bytes + record->payload_at;
	uint64_t reach = record->count * (uint64_t)model.block_bytes;
	struct codec_info info;
	struct codec *codec;

	if (reach > model.size - at)
		reach = model.size - at;
	if (record->result == TIERFS_ACCESS_HOLE || record->flags & TIERFS_BLOCK_ZERO)
		ck_assert(is_zero(model.want + at, reach));
	if (!record->payload_bytes)
		return;
	if (record->form == TIERFS_FORM_PLAIN) {
		ck_assert_uint_eq(record->payload_bytes, length);
		compare(payload, at, length, "cold access");
		return;
	}
	ck_assert_int_eq(codec_new(model.block_bytes, 1, &codec), 0);
	ck_assert_int_eq(codec_decode(codec, (struct store_key){ 0, record->block }, payload, record->payload_bytes,
				      plain, &info),
			 0);
	codec_free(codec);
	ck_assert_uint_eq(info.hotness.generation, record->generation);
	ck_assert(ident_same(info.ident, ident_of(plain, model.block_bytes)));
	compare(plain, at, length, "cold access, as stored");
	ck_assert(is_zero(plain + length, model.block_bytes - length)); /* behind the end of the file */
}

static void no_failures(void)
{
	store_mem_fail_nth(model.mem, STORE_MEM_PUT, 0, 0);
	store_mem_fail_nth(model.mem, STORE_MEM_REMOVE, 0, 0);
}

/* Brings what is wanted. */
static void *supply(void *arg)
{
	uint64_t wanted[8], supplier = 0, away;
	size_t count;

	(void)arg;
	is_supplier = true;
	while (!atomic_load(&model.ends)) {
		ck_assert_int_eq(away_wanted(model.file, &supplier, 5 * NS_PER_MS, wanted, 8, &count, &away), 0);
		if (!count)
			usleep(200); /* with nothing away it does not wait */
		pthread_mutex_lock(&model.bringing);
		for (size_t i = 0; i < count; i++)
			bring(model.file, wanted[i]);
		pthread_mutex_unlock(&model.bringing);
	}
	away_leave(model.file, supplier);
	return NULL;
}

static void supply_start(void)
{
	atomic_store(&model.ends, false);
	ck_assert_int_eq(pthread_create(&model.supplier, NULL, supply, NULL), 0);
}

static void supply_stop(void)
{
	atomic_store(&model.ends, true);
	pthread_join(model.supplier, NULL);
}

/* A cold block or a hole becomes one that is away with the same content. */
static void send_away(uint64_t block)
{
	static uint8_t plain[65536] __attribute__((aligned(64)));
	struct access_buffer buffer = access_buffer(1);
	uint64_t at = block * model.block_bytes, length = block_end(block) - at;

	memset(plain, 0, sizeof(plain));
	memcpy(plain, model.want + at, length);
	if (codec_is_zero(plain, model.block_bytes))
		return;
	memcpy(model.away + at, plain, model.block_bytes); /* with the zeros behind the end: the file may grow */
	buffer.record[0] = (struct tierfs_access_record){
		.block = block, .count = 1, .form = TIERFS_FORM_AWAY, .ident = ident_of(plain, model.block_bytes)
	};
	begin_pending(at, plain, length); /* who writes there meanwhile would wait for this call */
	ck_assert_int_eq(access_write(model.file, 0, &buffer), 0);
	end_pending(false);
	model.went_away += buffer.record[0].result == TIERFS_ACCESS_WRITE_OK;
}

static void op_away(void)
{
	uint64_t blocks = (model.size + model.block_bytes - 1) / model.block_bytes;
	uint64_t first = blocks ? rnd(blocks) : 0;

	no_failures();
	pthread_mutex_lock(&model.bringing);
	for (uint64_t block = first; block < blocks && block < first + 8; block++) {
		if (rnd(3))
			send_away(block);
		else
			bring(model.file, block);
	}
	pthread_mutex_unlock(&model.bringing);
}

/* Reads where blocks are, and finds what a block is the same before and after. */
static void op_access_read(void)
{
	static struct tierfs_access_record before[PAGES_MAX], after[PAGES_MAX];
	uint64_t blocks = (model.size + model.block_bytes - 1) / model.block_bytes, next = 0;
	uint64_t promotions = atomic_load(&model.file->counts.promotions), seen;
	struct access_buffer buffer = access_buffer(PAGES_MAX);
	uint32_t flags = (uint32_t)rnd(64);
	size_t records = 0;

	if (!blocks)
		return;
	pthread_mutex_lock(&model.bringing);
	for (uint64_t block = 0; block < blocks; block++)
		access_look(model.file, block, &before[block]);
	if (access_read(model.file, flags, 0, blocks, &buffer, &records, &next)) {
		pthread_mutex_unlock(&model.bringing);
		return; /* an injected failure */
	}
	ck_assert_uint_eq(next, blocks);
	seen = 0;
	for (size_t i = 0; i < records; i++) {
		ck_assert_uint_eq(buffer.record[i].block, seen);
		check_record(&buffer.record[i]);
		seen += buffer.record[i].count;
	}
	ck_assert_uint_eq(seen, blocks);
	ck_assert_uint_eq(atomic_load(&model.file->counts.promotions), promotions);
	for (uint64_t block = 0; block < blocks; block++) {
		access_look(model.file, block, &after[block]);
		ck_assert_int_eq(memcmp(&before[block], &after[block], sizeof(before[block])), 0);
	}
	pthread_mutex_unlock(&model.bringing);
}

static void make_request(struct tierfs_access_record *record, uint64_t block, size_t *used, const uint8_t *data)
{
	static uint8_t plain[65536] __attribute__((aligned(64)));
	uint64_t length = block_end(block) - block * model.block_bytes;
	uint8_t *payload = access_bytes + (1 << 16) + *used;
	size_t bytes = length;
	struct codec *codec;

	*record = (struct tierfs_access_record){ .block = block, .count = 1, .form = TIERFS_FORM_PLAIN };
	record->generation = (uint8_t)rnd(256);
	record->tier = (uint8_t)rnd(4);
	record->flags = (uint8_t)((rnd(2) ? TIERFS_BLOCK_SET_AGE : 0) | (rnd(3) ? 0 : TIERFS_BLOCK_TO_DRAM));
	memset(plain, 0, sizeof(plain));
	memcpy(plain, data, length);
	memcpy(payload, data, length);
	if (codec_is_zero(plain, model.block_bytes)) {
		record->form = TIERFS_FORM_NONE;
		return;
	}
	if (rnd(2)) {
		record->form = TIERFS_FORM_STORED;
		ck_assert_int_eq(codec_new(model.block_bytes, 1, &codec), 0);
		ck_assert_int_eq(codec_encode(codec, (struct store_key){ 0, block }, (struct codec_hotness){ 0 }, plain,
					      ident_of(plain, model.block_bytes), payload,
					      codec_bound(model.block_bytes), &bytes),
				 0);
		codec_free(codec);
		if (rnd(16) == 0)
			payload[rnd(bytes)] ^= (uint8_t)(1 << rnd(8)); /* must be refused */
	}
	record->payload_at = (uint32_t)(payload - access_bytes);
	record->payload_bytes = (uint32_t)bytes;
	*used += (bytes + 63) & ~(size_t)63;
}

/* Writes neighbouring blocks where they are: each is either done or left as it was. */
static void op_access_write(void)
{
	static uint8_t data[BYTES_MAX];
	uint64_t blocks = (model.size + model.block_bytes - 1) / model.block_bytes, first, count, from, to;
	struct access_buffer buffer;
	size_t used = 0;

	if (!blocks)
		return;
	first = rnd(blocks);
	count = 1 + rnd(blocks - first < 20 ? blocks - first : 20);
	from = first * model.block_bytes;
	to = block_end(first + count - 1);
	fill_random(data, to - from);
	buffer = access_buffer(count);
	for (uint64_t i = 0; i < count; i++)
		make_request(&buffer.record[i], first + i, &used, data + i * model.block_bytes);
	begin_pending(from, data, to - from);
	ck_assert_int_eq(access_write(model.file, 0, &buffer), 0);
	end_pending(false);
	for (uint64_t i = 0; i < count; i++) {
		const struct tierfs_access_record *record = &buffer.record[i];
		uint64_t at = (first + i) * model.block_bytes, length = block_end(first + i) - at;

		ck_assert_uint_eq(record->block, first + i);
		if (record->result == TIERFS_ACCESS_WRITE_OK) {
			memcpy(model.want + at, data + (at - from), length);
		} else if (record->result == TIERFS_ACCESS_ERROR && record->error != EBADMSG &&
			   record->error != EPROTONOSUPPORT) {
			begin_pending(at, data + (at - from), length);
			adopt(at, length);
		}
	}
}

static void op_access_set(void)
{
	uint64_t blocks = (model.size + model.block_bytes - 1) / model.block_bytes;
	struct access_buffer buffer = access_buffer(blocks);

	for (uint64_t block = 0; block < blocks; block++)
		buffer.record[block] = (struct tierfs_access_record){ .block = block,
								      .generation = (uint8_t)rnd(256),
								      .tier = (uint8_t)rnd(4) };
	ck_assert_int_eq(access_set(model.file, 0, &buffer), 0);
}

static void op_step(void)
{
	/* A few turns: zap, acknowledge, look, demote. The pace between zap and look is real time, and short. */
	for (int i = 0; i < 3; i++) {
		demoter_step(model.engine);
		for (int p = 0; p < PROCESSES; p++)
			if (model.process[p])
				process_run_agent(model.process[p]);
		while (fault_resume(model.engine))
			;
	}
}

/* Demotes chosen blocks whatever their age: what is mapped is looked at again by the batch. */
static void op_demote(void)
{
	uint32_t pick[PAGES_MAX];
	struct demote_result result;
	size_t count = 0;
	int err;

	for (uint32_t block = 0; (uint64_t)block * model.block_bytes < model.size; block++)
		if (rnd(2))
			pick[count++] = block;
	if (rnd(2))
		for (int p = 0; p < PROCESSES; p++) /* everything absent: everything may go */
			if (model.process[p]) {
				uint8_t mark[PAGES_MAX];

				memset(mark, 1, sizeof(mark));
				((struct mapper *)model.process[p])
					->ops->zap((struct mapper *)model.process[p], 0,
						   (model.size + model.block_bytes - 1) / model.block_bytes, mark, 0);
			}
	err = demote_blocks(model.file, pick, count, rnd(2), &result);
	ck_assert(!err || may_fail(err));
}

static void op_promote(void)
{
	struct file_done done;
	int err;

	if (!model.size)
		return;
	err = load_promote(model.file, 0, model.size, NULL, NULL, &done);
	ck_assert(!err || err == -EIO);
}

/* One failure at a time: when both a put and the removal that makes up for it fail, a crash may show the bytes of the
 * write that failed. */
static void op_fail(void)
{
	static const enum store_mem_call calls[] = { STORE_MEM_PUT, STORE_MEM_REMOVE, STORE_MEM_SHARE };

	no_failures();
	store_mem_fail_nth(model.mem, calls[rnd(3)], 1 + rnd(4), rnd(2) ? EIO : ENOSPC);
}

static void unmap_all(void)
{
	for (int p = 0; p < PROCESSES; p++) {
		process_unmap(model.process[p]);
		model.process[p] = NULL;
	}
}

static void op_map(void)
{
	uint64_t p = rnd(PROCESSES);

	if (model.process[p]) {
		process_unmap(model.process[p]);
		model.process[p] = NULL;
	} else {
		ck_assert_int_eq(process_map(model.file, model.next_holder++, &model.process[p]), 0);
		if (model.holds)
			atomic_store(&((struct mapper *)model.process[p])->huge_end, BYTES_MAX);
	}
}

/* --- the huge run --------------------------------------------------------------------------------------------- */

static void op_dram(void)
{
	model.dram_bytes = rnd(2) ? BYTES_MAX / 3 : 4 * BYTES_MAX;
	ck_assert_int_eq(tiering_set_dram(model.engine, model.dram_bytes), 0);
}

/* Memory is as fresh as at the start, and there is plenty. */
static void op_fresh(void)
{
	no_failures();
	begin_pending(0, NULL, model.size);
	ck_assert_int_eq(ramfile_discard(model.file, 0, model.size), 0);
	end_pending(true);
	model.dram_bytes = 4 * BYTES_MAX;
	ck_assert_int_eq(tiering_set_dram(model.engine, model.dram_bytes), 0);
	if (!mapped())
		op_map();
	for (int i = 0; i < 8; i++)
		op_touch();
}

/* Takes a reference to a page that is present, or drops those that were taken. */
static void op_hold(void)
{
	uint64_t page = model.size ? rnd(pages_of(model.size)) : 0;
	char path[SCRATCH_PATH_LEN + 24];
	struct iovec part = { .iov_len = PAGE };
	static uint8_t drain[PAGE];
	int fd;

	if (!model.size || rnd(2)) {
		while (read(model.tube[0], drain, sizeof(drain)) > 0)
			;
		return;
	}
	snprintf(path, sizeof(path), "%s/%llu", model.scratch.path, (unsigned long long)model.ino);
	fd = open(path, O_RDWR);
	ck_assert_int_ge(fd, 0);
	if (lseek(fd, (off_t)(page * PAGE), SEEK_DATA) == (off_t)(page * PAGE)) {
		part.iov_base = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(page * PAGE));
		ck_assert_ptr_ne(part.iov_base, MAP_FAILED);
		if (vmsplice(model.tube[1], &part, 1, SPLICE_F_NONBLOCK) < 0)
			ck_assert_int_eq(errno, EAGAIN);
		munmap(part.iov_base, PAGE);
	}
	close(fd);
}

static void op_truncate(void)
{
	uint64_t size = (model.holds && rnd(2) ? model.pages : rnd(model.pages + 1)) * PAGE;

	if (size && rnd(2))
		size -= rnd(PAGE);
	unmap_all();
	no_failures();
	if (size < model.size)
		begin_pending(size, NULL, model.size - size);
	else
		begin_pending(model.size, NULL, size - model.size);
	ck_assert_int_eq(ramfile_truncate(model.file, size), 0);
	end_pending(true);
	model.size = size;
}

/* Small pieces at the end, as a pipe brings them; whoever maps the file stays. */
static void op_append(void)
{
	uint8_t data[600];
	int err;

	no_failures();
	for (uint64_t count = rnd(24); count > 0; count--) {
		uint64_t length = 1 + rnd(sizeof(data)), gap = rnd(4) ? 0 : rnd(2 * PAGE), start = model.size + gap;

		if (start + length > model.pages * PAGE)
			return;
		/* A page that a process has not mapped is not its business. */
		if (mapped() && pages_of(start + length) != pages_of(model.size))
			return;
		fill_random(data, length);
		begin_pending(model.size, NULL, gap + length);
		ck_assert_int_eq(ramfile_truncate(model.file, start + length), 0);
		end_pending(true);
		model.size = start + length;
		begin_pending(start, data, length);
		err = ramfile_write(model.file, data, length, start, false);
		ck_assert(!err || err == -EDQUOT);
		if (err)
			adopt(start, length);
		else
			end_pending(true);
	}
}

/* The daemon ends and starts again; the arenas stay. */
static void op_restart(void)
{
	struct other *other = &model.other;

	unmap_all();
	supply_stop();
	ramfile_unload(model.file);
	ramfile_unload(other->file);
	tiering_free(model.engine);
	model.engine = new_tier(model.store, model.arena_dir);
	ck_assert_int_eq(ramfile_load(model.engine, model.ino, model.size, false, &model.file), 0);
	if (other->file)
		ck_assert_int_eq(ramfile_load(model.engine, other->ino, other->size, false, &other->file), 0);
	supply_start();
}

/* --- clones ------------------------------------------------------------------------------------------------- */

/* Nothing is away then, and while `bringing` is held nothing goes. */
static void bring_all(void)
{
	no_failures();
	for (uint64_t block = 0; model.file->blocks.away && block < model.file->blocks.count; block++)
		bring(model.file, block);
}

static void make_other(void)
{
	struct other *other = &model.other;
	struct ramfile_cloned cloned;
	uint64_t ino = model.next_ino++;
	struct ramfile_figures before, after;
	struct ramfile *file;
	int err;

	pthread_mutex_lock(&model.bringing);
	if (rnd(2) && model.file->blocks.away)
		bring_all();
	ck_assert_int_eq(ramfile_load(model.engine, ino, 0, false, &file), 0);
	ramfile_figures(model.file, &before);
	model.cloning = true;
	err = ramfile_clone(model.file, ino, NULL, NULL, &cloned);
	model.cloning = false;
	ck_assert(!err || may_refuse(err) || (err == -EREMOTE && before.away_bytes));
	ck_assert(err || !before.away_bytes);
	pthread_mutex_unlock(&model.bringing);
	ramfile_figures(model.file, &after);
	ck_assert_uint_ge(after.resident_bytes, before.resident_bytes); /* the processes may have touched some */
	ck_assert(mapped() || after.promotions == before.promotions);
	if (err) {
		no_failures();
		ck_assert_int_eq(ramfile_destroy(file), 0);
		ck_assert_uint_eq(store_mem_count(model.mem, ino), 0);
		return;
	}
	ck_assert_uint_eq(cloned.size_bytes, model.size);
	ck_assert_int_eq(ramfile_adopt(file, model.size), 0);
	memcpy(other->want, model.want, model.size);
	other->ino = ino;
	other->size = model.size;
	other->file = file;
	model.clones++;
}

/* Work goes on with the other one. */
static void swap_other(void)
{
	struct other was = { .file = model.file, .ino = model.ino, .size = model.size, .want = model.want };

	unmap_all();
	supply_stop();
	bring_all();
	model.file = model.other.file;
	model.ino = model.other.ino;
	model.size = model.other.size;
	model.want = model.other.want;
	model.other = was;
	supply_start();
}

static void check_other(void)
{
	static uint8_t got[BYTES_MAX];
	struct other *other = &model.other;
	size_t length;

	file_check(other->file);
	if (ramfile_read(other->file, got, other->size, 0, &length))
		return; /* an injected failure */
	ck_assert_uint_eq(length, other->size);
	ck_assert_mem_eq(got, other->want, other->size);
}

static void drop_other(void)
{
	struct ramfile *file = model.other.file;

	if (!file)
		return;
	no_failures();
	model.other.file = NULL; /* what a file that is being removed holds after a crash is nobody's business */
	ck_assert_int_eq(ramfile_destroy(file), 0);
	ck_assert_uint_eq(store_mem_count(model.mem, model.other.ino), 0);
}

static void op_clone(void)
{
	if (!model.other.file)
		make_other();
	else if (rnd(3) == 0)
		swap_other();
	else if (rnd(2))
		check_other();
	else
		drop_other();
}

static void op_seek(void)
{
	uint64_t hole = 0;
	int err;

	if (!model.size)
		return;
	err = ramfile_seek(model.file, 0, SEEK_HOLE, &hole);
	ck_assert_int_eq(err, 0);
	if (hole < model.size) {
		uint64_t end = hole + PAGE < model.size ? hole + PAGE : model.size;

		for (uint64_t at = hole; at < end; at++)
			ck_assert_msg(model.want[at] == 0, "a hole at %llu holds data", (unsigned long long)at);
	}
}

/* The file comes to be charged to a tenant, and that to another one, with a max that may be less than it has, and with
 * limits that are met from time to time. */
static void op_share(void)
{
	struct tenant *inner = &model.tenant[0], *outer = &model.tenant[1];

	tenants_begin(model.engine);
	for (int i = 0; i < 2; i++) {
		struct tenant_share share = { .max_bytes = rnd(2) ? UINT64_MAX : (1 + rnd(12)) * model.block_bytes,
					      .min_bytes = rnd(2) * rnd(8) * model.block_bytes,
					      .weight = (uint32_t)rnd(300),
					      .per_s = { rnd(4) ? 0 : 20000, rnd(4) ? 0 : 256 << 20,
							 rnd(4) ? 0 : 128 << 20 },
					      .disk_bytes = rnd(4) ? 0 : (1 + rnd(60)) * model.block_bytes,
					      .day_bytes = rnd(6) ? 0 : (1 + rnd(300)) * model.block_bytes };

		model.tenant[i].ino = 1000 + (uint64_t)i;
		tenants_put(model.engine, &model.tenant[i], i ? NULL : outer, &share);
	}
	tenants_place(model.file, rnd(4) ? inner : rnd(2) ? outer : NULL);
	if (model.other.file)
		tenants_place(model.other.file, rnd(2) ? outer : NULL);
	tenants_end(model.engine);
}

static uint64_t charged(struct ramfile *file)
{
	LOCK_SCOPE(&model.engine->tenants.lock);

	return file && file->charge.tenant ? file->charge.bytes : 0;
}

static uint64_t stored(struct ramfile *file)
{
	bool placed;

	if (!file)
		return 0;
	lock_get(&model.engine->tenants.lock);
	placed = file->charge.tenant;
	lock_put(&model.engine->tenants.lock);
	LOCK_SCOPE(&file->lock);
	return placed ? file->blocks.stored_total_bytes : 0;
}

static void check_charges(void)
{
	uint64_t bytes;

	struct quota_figures figures;

	pthread_mutex_lock(&model.bringing);
	if (!tenant_used(model.engine, 1001, &bytes)) {
		ck_assert_uint_eq(bytes, charged(model.file) + charged(model.other.file));
		quota_figures(model.engine, &model.tenant[1], &figures);
		ck_assert_uint_eq(figures.stored_bytes, stored(model.file) + stored(model.other.file));
	}
	pthread_mutex_unlock(&model.bringing);
}

static void one_step(void)
{
	uint64_t choice = rnd(1000);

	if (model.holds && rnd(100) < 3)
		op_dram();
	if (model.holds && rnd(100) < 10)
		op_hold();
	if (model.holds && model.size && rnd(100) < 8)
		op_fresh();
	if (rnd(100) < 2)
		op_clone();
	if (rnd(100) < 2)
		op_share();
	if (choice < 440) {
		op_touch();
		op_plain();
	} else if (choice < 465)
		op_access_read();
	else if (choice < 480)
		op_access_write();
	else if (choice < 510)
		op_write(false);
	else if (choice < 570)
		op_write(true);
	else if (choice < 640)
		op_read();
	else if (choice < 680)
		op_discard();
	else if (choice < 740)
		op_step();
	else if (choice < 890)
		op_demote();
	else if (choice < 920)
		op_promote();
	else if (choice < 935)
		op_away();
	else if (choice < 942)
		op_seek();
	else if (choice < 945)
		op_access_set();
	else if (choice < 960)
		op_fail();
	else if (choice < 980)
		op_map();
	else if (choice < 990)
		op_append();
	else if (choice < 993)
		op_truncate();
	else
		op_restart();
}

static void run(uint64_t seed, uint64_t steps, uint32_t block_bytes, struct holds *holds)
{
	static uint8_t want[BYTES_MAX], old[BYTES_MAX], new[BYTES_MAX], got[BYTES_MAX], other[BYTES_MAX],
		away[BYTES_MAX];
	struct ramfile_figures figures;
	uint64_t huge_bytes = 0;
	size_t length;

	printf("model: TIERFS_SEED=%llu, %llu steps, blocks of %u\n", (unsigned long long)seed,
	       (unsigned long long)steps, block_bytes);
	fflush(stdout);
	memset(&model, 0, sizeof(model));
	memset(want, 0, sizeof(want));
	memset(other, 0, sizeof(other));
	model.ino = INO;
	model.next_ino = INO + 1;
	model.other.want = other;
	model.rng = seed;
	model.holds = holds;
	model.pages = holds ? PAGES_MAX : PAGES_SMALL;
	model.dram_bytes = model.pages * PAGE / 3;
	ck_assert_int_eq(pipe2(model.tube, O_NONBLOCK | O_CLOEXEC), 0);
	model.block_bytes = block_bytes;
	model.want = want;
	model.away = away;
	pthread_mutex_init(&model.bringing, NULL);
	model.pending_old = old;
	model.pending_new = new;
	model.next_holder = 1;
	scratch_new(&model.scratch, "model");
	if (holds)
		ck_assert_int_eq(mount("model", model.scratch.path, "tmpfs", 0, "noswap,huge=never"), 0);
	model.arena_dir = open(model.scratch.path, O_RDONLY | O_DIRECTORY);
	ck_assert_int_eq(store_mem_new(&model.mem), 0);
	store_mem_tear_puts(model.mem, seed | 1);
	ck_assert_int_eq(store_hook_new(model.mem, hook, NULL, &model.store), 0);
	model.engine = new_tier(model.store, model.arena_dir);
	ck_assert_int_eq(ramfile_load(model.engine, model.ino, 0, false, &model.file), 0);
	model.supplier = pthread_self();
	op_truncate();
	supply_start();
	for (model.steps = 0; model.steps < steps; model.steps++) {
		one_step();
		file_check(model.file);
		check_charges();
		ramfile_figures(model.file, &figures);
		huge_bytes = figures.huge_bytes > huge_bytes ? figures.huge_bytes : huge_bytes;
		if (holds)
			continue; /* its budget changes */
		if (mapped())
			ck_assert_uint_le(figures.arena_bytes, model.dram_bytes + model.plain_bytes);
		else
			model.plain_bytes = figures.arena_bytes;
	}
	no_failures();
	ck_assert_int_eq(ramfile_read(model.file, got, model.size, 0, &length), 0);
	compare(got, 0, model.size, "at the end");
	if (model.other.file)
		check_other();
	printf("model: %llu crashes compared, %llu touches during store calls, %llu demotions (%llu taken back), %llu "
	       "promotions, %llu clones\n",
	       (unsigned long long)model.crashes, (unsigned long long)model.hook_touches,
	       (unsigned long long)figures.demotions, (unsigned long long)figures.demotions_aborted,
	       (unsigned long long)figures.promotions, (unsigned long long)model.clones);
	printf("model: %llu blocks went away, %llu came back\n", (unsigned long long)model.went_away,
	       (unsigned long long)atomic_load(&model.brought));
	if (holds)
		printf("model: up to %llu bytes were huge\n", (unsigned long long)huge_bytes);
	unmap_all();
	supply_stop();
	model.in_hook = true; /* what a file that is being removed holds after a crash is nobody's business */
	ck_assert_int_eq(ramfile_destroy(model.file), 0);
	drop_other();
	ck_assert_uint_eq(store_mem_count(model.mem, 0), 0);
	tiering_free(model.engine);
	model.store->ops->free(model.store);
	model.mem->ops->free(model.mem);
	close(model.arena_dir);
	close(model.tube[0]);
	close(model.tube[1]);
	if (holds)
		ck_assert_int_eq(umount2(model.scratch.path, MNT_DETACH), 0);
	scratch_free(&model.scratch);
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 0) : otherwise;
}

START_TEST(random_operations)
{
	static const uint32_t sizes[] = { 4096, 16384, 65536 };

	run(from_environment("TIERFS_SEED", (uint64_t)time(NULL) * 1000 + (uint64_t)_i),
	    from_environment("TIERFS_STEPS", 3000 / SLOWNESS), sizes[_i], NULL);
}
END_TEST

START_TEST(huge_pages)
{
	struct holds *holds;

	if (geteuid() != 0 || holds_open(&holds)) {
		printf("model: no huge pages on this host\n");
		return;
	}
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	run(from_environment("TIERFS_SEED", (uint64_t)time(NULL) * 1000 + 3),
	    from_environment("TIERFS_STEPS", 250 / SLOWNESS), 16384, holds);
	holds_close(holds);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tier model");
	TCase *tcase = tcase_create("model"), *huge = tcase_create("huge");

	tcase_set_timeout(tcase, 240);
	tcase_set_timeout(huge, 240);
	tcase_add_loop_test(tcase, random_operations, 0, 3);
	tcase_add_test(huge, huge_pages);
	suite_add_tcase(suite, tcase);
	suite_add_tcase(suite, huge);
	return check_run(suite);
}
