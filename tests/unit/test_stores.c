/* unit/test_stores.c - the store over several devices (cold/stores.h): random puts, removals, clones, moves that change
 * their mind, and ends of the daemon and of the host at every call of a device, against plain arrays.
 *
 * TIERFS_SEED=N repeats a run.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../lib/lib_gate.h"
#include "../lib/lib_store_mem.h"
#include "base/cleanup.h"
#include "cold/meta.h"
#include "cold/stores.h"
#include "lib_check.h"

#define DEVICES 3U
#define FILES 4U
#define BLOCKS 1400U
#define VALUE_MAX 256U
#define PAST 24U
/* ThreadSanitizer makes a life many times as long, and looks for what several threads do. */
#ifdef __SANITIZE_THREAD__
#define LIVES 4
#define STRIDE 9
#else
#define LIVES 40
#define STRIDE 1
#endif
#define STEPS 60

/* --- devices that end with the process: no call has an effect after the one that is said ------------------------ */

struct mortal {
	struct store store;
	struct store *below;
	unsigned int index;
};

static struct store *memory[DEVICES]; /* what is on the disks */
static struct store *router;
static uint8_t tokens[DEVICES][STORES_TOKEN_BYTES];
static _Atomic int64_t calls_left = -1; /* -1: any number */
static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	rng = rng * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (rng >> 33) % below;
}

static _Atomic bool dead;
/* What the router was told to keep, and what each device was (store.h, keep). */
static bool promised[FILES + 1], kept[DEVICES][FILES + 1];
static void (*on_get)(void); /* once, before a device reads */

static struct store *under(struct store *store)
{
	return ((struct mortal *)store)->below;
}

static unsigned int index_of(struct store *store)
{
	return ((struct mortal *)store)->index;
}

static bool ends(void)
{
	if (calls_left > 0)
		calls_left--;
	if (calls_left == 0)
		dead = true;
	return dead;
}

static int mortal_get(struct store *store, enum store_use use, struct store_key key, void *buf, size_t cap, size_t *len)
{
	void (*hook)(void) = on_get;

	if (hook) {
		on_get = NULL;
		hook();
	}
	return dead ? -EIO : under(store)->ops->get(under(store), use, key, buf, cap, len);
}

static int mortal_walk(struct store *store, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
		       store_walk_fn *fn, void *arg)
{
	return dead ? -EIO : under(store)->ops->walk(under(store), use, ino, first, count, fn, arg);
}

static int mortal_heads(struct store *store, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	return dead ? -EIO : under(store)->ops->heads(under(store), ino, first, count, fn, arg);
}

/* As each device does. Tests with threads keep nothing. */
static void mortal_keep(struct store *store, uint64_t ino, bool keep)
{
	if (ino && ino <= FILES && !dead)
		kept[index_of(store)][ino] = keep;
}

static int mortal_put(struct store *store, enum store_use use, const struct store_item *items, size_t count)
{
	for (size_t i = 0; i < count && !dead; i++)
		ck_assert(items[i].key.ino > FILES || !promised[items[i].key.ino] ||
			  kept[index_of(store)][items[i].key.ino]);
	return ends() ? -EIO : under(store)->ops->put(under(store), use, items, count);
}

static int mortal_remove(struct store *store, uint64_t ino, uint64_t first, uint64_t count)
{
	int err = ends() ? -EIO : under(store)->ops->remove(under(store), ino, first, count);

	if (!err && !first && count == UINT64_MAX)
		mortal_keep(store, ino, false);
	return err;
}

static int mortal_share(struct store *store, const struct store_share *share)
{
	return ends() ? -EIO : under(store)->ops->share(under(store), share);
}

static uint64_t mortal_shared(struct store *store, uint64_t ino)
{
	(void)store;
	(void)ino;
	return 0;
}

static int mortal_sync(struct store *store)
{
	return ends() ? -EIO : under(store)->ops->sync(under(store));
}

static void mortal_figures(struct store *store, struct store_figures *ret)
{
	under(store)->ops->figures(under(store), ret);
}

static void mortal_free(struct store *store)
{
	free(store);
}

/* Of a record that was written when the process ended it is not known whether it is there. */
static int mortal_meta_put(struct store *store, const struct meta_change *changes, size_t count, bool durable)
{
	if (dead)
		return -EIO;
	if (!ends())
		return under(store)->meta->put(under(store), changes, count, durable);
	if (rnd(2))
		under(store)->meta->put(under(store), changes, count, durable);
	return -EIO;
}

static int mortal_meta_walk(struct store *store, const void *prefix, size_t prefix_len, meta_fn *fn, void *arg)
{
	return under(store)->meta->walk(under(store), prefix, prefix_len, fn, arg);
}

static const struct meta_ops mortal_meta = { .put = mortal_meta_put, .walk = mortal_meta_walk };
static const struct store_ops mortal_ops = {
	.get = mortal_get,
	.walk = mortal_walk,
	.heads = mortal_heads,
	.put = mortal_put,
	.remove = mortal_remove,
	.share = mortal_share,
	.shared_bytes = mortal_shared,
	.keep = mortal_keep,
	.sync = mortal_sync,
	.figures = mortal_figures,
	.free = mortal_free,
};

static struct stores_device new_mortal(struct store *below, unsigned int index)
{
	struct mortal *mortal = calloc(1, sizeof(*mortal));

	ck_assert_ptr_nonnull(mortal);
	mortal->store.ops = &mortal_ops;
	mortal->store.meta = &mortal_meta;
	mortal->below = below;
	mortal->index = index;
	return (struct stores_device){ .store = &mortal->store };
}

static void begin_life_without(unsigned int missing)
{
	dead = false;
	calls_left = -1;
	memset(kept, 0, sizeof(kept));
	ck_assert_int_eq(stores_open(new_mortal(memory[0], 0), &router), 0);
	for (unsigned int i = 1; i < DEVICES; i++) {
		char name[8];

		snprintf(name, sizeof(name), "dev%u", i);
		tokens[i][0] = (uint8_t)i;
		if (i != missing)
			ck_assert_int_eq(stores_add(router, name, tokens[i], new_mortal(memory[i], i)), 0);
	}
	/* As whoever loads the names says, before anything is stored. */
	for (uint64_t ino = 1; ino <= FILES; ino++)
		if (promised[ino])
			router->ops->keep(router, ino, true);
}

static void begin_life(void)
{
	begin_life_without(DEVICES);
}

static void begin_all(void)
{
	for (unsigned int i = 0; i < DEVICES; i++)
		ck_assert_int_eq(store_mem_new(&memory[i]), 0);
	begin_life();
}

static void end_all(void)
{
	router->ops->free(router);
	for (unsigned int i = 0; i < DEVICES; i++)
		memory[i]->ops->free(memory[i]);
}

/* --- what each block has, and had since the last sync: the last one counts, and any of them after a loss of power - */

struct past {
	uint32_t content[PAST]; /* 0: nothing */
	uint32_t count;
};

static struct past past[FILES + 1][BLOCKS];
static uint32_t next_content;

static void seed(void)
{
	const char *text = getenv("TIERFS_SEED");

	rng = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
	printf("TIERFS_SEED=%llu\n", (unsigned long long)rng);
	fflush(stdout);
	memset(promised, 0, sizeof(promised));
	memset(past, 0, sizeof(past));
	for (size_t ino = 0; ino <= FILES; ino++)
		for (size_t block = 0; block < BLOCKS; block++)
			past[ino][block].count = 1;
}

static uint32_t now_of(uint64_t ino, uint64_t block)
{
	return past[ino][block].content[past[ino][block].count - 1];
}

static void only(uint64_t ino, uint64_t block, uint32_t content)
{
	past[ino][block].content[0] = content;
	past[ino][block].count = 1;
}

static void sync_all(void)
{
	if (router->ops->sync(router) != 0) {
		ck_assert(dead);
		return;
	}
	for (uint64_t ino = 1; ino <= FILES; ino++)
		for (uint64_t block = 0; block < BLOCKS; block++)
			only(ino, block, now_of(ino, block));
}

/* Of a call that failed nobody knows whether it took effect: then the older one counts, until it was looked at. */
static void becomes(uint64_t ino, uint64_t block, uint32_t content, bool certain)
{
	struct past *of = &past[ino][block];
	uint32_t old = now_of(ino, block);

	ck_assert_uint_lt(of->count + 1, PAST);
	of->content[of->count++] = content;
	if (!certain)
		of->content[of->count++] = old;
}

static bool room_for_more(void)
{
	for (uint64_t ino = 1; ino <= FILES; ino++)
		for (uint64_t block = 0; block < BLOCKS; block++)
			if (past[ino][block].count + 2 >= PAST)
				return false;
	return true;
}

static uint32_t length_of(uint32_t content)
{
	return 4 + content * 2654435761U % (VALUE_MAX - 4);
}

static void fill(uint8_t *at, uint32_t content)
{
	memset(at, (int)(content & 0xff), length_of(content));
	memcpy(at, &content, sizeof(content));
}

static uint32_t content_in(const void *value, uint32_t length, bool whole)
{
	uint8_t want[VALUE_MAX];
	uint32_t content;

	memcpy(&content, value, sizeof(content));
	ck_assert_uint_eq(length, length_of(content));
	fill(want, content);
	ck_assert_mem_eq(value, want, whole || length < STORE_HEAD_BYTES ? length : STORE_HEAD_BYTES);
	return content;
}

/* --- operations --------------------------------------------------------------------------------------------------- */

static void put(uint64_t ino, uint64_t first, uint64_t count)
{
	CLEANUP_FREE struct store_item *items = calloc(count, sizeof(*items));
	CLEANUP_FREE uint8_t *values = malloc(count * VALUE_MAX);
	int err;

	for (uint64_t i = 0; i < count; i++) {
		fill(values + i * VALUE_MAX, ++next_content);
		items[i] = (struct store_item){ { ino, first + i }, values + i * VALUE_MAX, length_of(next_content) };
	}
	err = router->ops->put(router, STORE_DEMOTION, items, count);
	ck_assert(err == 0 || dead);
	for (uint64_t i = 0; i < count; i++)
		becomes(ino, first + i, next_content - (uint32_t)(count - 1 - i), !err);
}

static void removed(uint64_t ino, uint64_t first, uint64_t count)
{
	int err = router->ops->remove(router, ino, first, count);

	ck_assert(err == 0 || dead);
	if (!first && count == UINT64_MAX)
		promised[ino] = false; /* also if it failed: it was to end */
	for (uint64_t block = first; block < BLOCKS && block - first < count; block++)
		becomes(ino, block, 0, !err);
}

static void clone_file(uint64_t from, uint64_t to)
{
	struct store_share share = { .from = from, .to = to };
	int err;

	removed(to, 0, UINT64_MAX);
	if (dead)
		return;
	err = stores_clone_begin(router, from, to);
	ck_assert(err == 0 || dead);
	if (err)
		return;
	for (uint64_t first = 0; first < BLOCKS && !dead; first += share.count) {
		share.first = first;
		share.count = 1 + rnd(BLOCKS - first);
		err = router->ops->share(router, &share);
		ck_assert(err == 0 || dead);
		for (uint64_t i = 0; i < share.count; i++)
			becomes(to, first + i, now_of(from, first + i), !err);
		while (rnd(2) && stores_step(router)) /* neither of them moves */
			;
	}
	stores_clone_end(router, from, to);
}

struct seen {
	uint64_t ino, next;
};

static void expect(uint64_t ino, uint64_t block, uint32_t content)
{
	ck_assert_msg(now_of(ino, block) == content, "file %llu block %llu has %u, wanted %u", (unsigned long long)ino,
		      (unsigned long long)block, content, now_of(ino, block));
}

static int see(void *arg, struct store_key key, const void *value, uint32_t length)
{
	struct seen *seen = arg;

	ck_assert_uint_eq(key.ino, seen->ino);
	for (; seen->next < key.block; seen->next++)
		expect(key.ino, seen->next, 0);
	expect(key.ino, key.block, content_in(value, length, true));
	seen->next++;
	return 0;
}

static int see_head(void *arg, struct store_key key, const void *value, uint32_t length)
{
	struct seen *seen = arg;

	for (; seen->next < key.block; seen->next++)
		expect(key.ino, seen->next, 0);
	expect(key.ino, key.block, content_in(value, length, false));
	seen->next++;
	return 0;
}

static uint32_t look(uint64_t ino, uint64_t block)
{
	uint8_t value[VALUE_MAX];
	size_t length;
	int err = router->ops->get(router, STORE_GUEST, (struct store_key){ ino, block }, value, sizeof(value),
				   &length);

	if (err == -ENOENT)
		return 0;
	ck_assert_int_eq(err, 0);
	return content_in(value, (uint32_t)length, true);
}

static void check_file(uint64_t ino)
{
	struct seen walked = { .ino = ino }, peeked = { .ino = ino };

	ck_assert_int_eq(router->ops->walk(router, STORE_DIRECT, ino, 0, BLOCKS, see, &walked), 0);
	for (; walked.next < BLOCKS; walked.next++)
		expect(ino, walked.next, 0);
	ck_assert_int_eq(router->ops->heads(router, ino, 0, UINT64_MAX, see_head, &peeked), 0);
	for (; peeked.next < BLOCKS; peeked.next++)
		expect(ino, peeked.next, 0);
	for (int i = 0; i < 20; i++) {
		uint64_t block = rnd(BLOCKS);

		expect(ino, block, look(ino, block));
	}
}

/* A file that is at rest has nothing anywhere else. */
static void check_garbage(uint64_t ino)
{
	struct stores_where where;
	uint64_t count = 0;

	stores_where(router, ino, &where);
	if (where.at != where.from)
		return;
	for (uint64_t block = 0; block < BLOCKS; block++)
		count += now_of(ino, block) != 0;
	for (unsigned int i = 0; i < DEVICES; i++)
		ck_assert_uint_eq(store_mem_count(memory[i], ino), i == where.at ? count : 0);
}

static void operate(void)
{
	uint64_t ino = 1 + rnd(FILES), to = 1 + rnd(FILES), first = rnd(BLOCKS), count = 1 + rnd(BLOCKS - first);

	if (!room_for_more())
		sync_all();
	switch (rnd(12)) {
	case 0:
	case 1:
		put(ino, first, count);
		break;
	case 2:
		put(ino, first, count < 20 ? count : 20);
		break;
	case 3:
		removed(ino, first, count);
		break;
	case 4:
		if (rnd(3) == 0)
			removed(ino, 0, UINT64_MAX);
		break;
	case 5:
		if (to != ino)
			clone_file(ino, to);
		break;
	case 6:
		if (rnd(4) == 0)
			sync_all();
		break;
	case 7:
		ck_assert_int_eq(stores_want(router, ino, (unsigned int)rnd(DEVICES)), 0);
		break;
	case 8:
		promised[ino] = true;
		router->ops->keep(router, ino, true);
		break;
	default:
		for (uint64_t i = rnd(5); i > 0 && !dead; i--)
			stores_step(router);
		break;
	}
}

/* --- ends of lives ------------------------------------------------------------------------------------------------ */

/* What is found is one of those that may be there, and counts from now on. */
static void look_again(bool power)
{
	for (uint64_t ino = 1; ino <= FILES; ino++)
		for (uint64_t block = 0; block < BLOCKS; block++) {
			const struct past *of = &past[ino][block];
			uint32_t content = look(ino, block), from = power || of->count < 3 ? 0 : of->count - 3;
			bool found = false;

			/* Without a loss of power the last one, or what a call that had no answer would have made. */
			if (!power && of->count >= 2 && of->content[of->count - 1] == content)
				found = true;
			for (uint32_t i = from; i < of->count; i++)
				found |= of->content[i] == content;
			ck_assert_msg(found, "file %llu block %llu has %u after %s", (unsigned long long)ino,
				      (unsigned long long)block, content, power ? "a loss of power" : "a kill");
			if (power)
				only(ino, block, content);
			else
				past[ino][block].content[of->count - 1] = content;
		}
}

static void rest(void)
{
	for (int i = 0; i < 10000 && stores_step(router); i++)
		;
	for (uint64_t ino = 1; ino <= FILES; ino++) {
		struct stores_where where;

		stores_where(router, ino, &where);
		ck_assert_uint_eq(where.at, where.from);
		check_file(ino);
		check_garbage(ino);
	}
}

static void live(void)
{
	bool power = rnd(3) == 0;

	calls_left = rnd(5) ? 1 + (int64_t)rnd(80) : -1;
	for (int i = 0; i < STEPS && !dead; i++) {
		operate();
		if (!dead && rnd(8) == 0)
			check_file(1 + rnd(FILES));
	}
	dead = true;
	router->ops->free(router);
	for (unsigned int i = 0; i < DEVICES; i++)
		if (power)
			store_mem_power_loss(memory[i]);
		else
			store_mem_crash(memory[i]);
	begin_life();
	look_again(power);
	for (uint64_t ino = 1; ino <= FILES; ino++)
		check_file(ino);
	if (rnd(4) == 0)
		rest();
}

START_TEST(as_arrays)
{
	seed();
	begin_all();
	for (int i = 0; i < LIVES; i++)
		live();
	rest();
	end_all();
}
END_TEST

/* --- a move that ends at each call of a device -------------------------------------------------------------------- */

static void fill_file(uint64_t ino)
{
	put(ino, 0, BLOCKS);
	removed(ino, 100, 50);
	sync_all();
}

static void end_life(bool power)
{
	dead = true;
	router->ops->free(router);
	for (unsigned int i = 0; i < DEVICES; i++)
		if (power)
			store_mem_power_loss(memory[i]);
		else
			store_mem_crash(memory[i]);
	begin_life();
}

/* _i: the call that is the last one of its life, and whether the host ends as well. When there is nothing left to end
 * the move was through. */
START_TEST(ended_at_every_call)
{
	bool through = false, power = _i;

	for (int64_t last = 1; !through; last += STRIDE) {
		ck_assert_int_lt(last, 200);
		seed();
		begin_all();
		fill_file(1);
		ck_assert_int_eq(stores_want(router, 1, 1), 0);
		calls_left = last;
		while (!dead && stores_step(router))
			;
		through = !dead;
		end_life(power);
		check_file(1);
		ck_assert_int_eq(stores_want(router, 1, 1), 0); /* as whoever loads the names says */
		rest();
		ck_assert_uint_eq(store_mem_count(memory[1], 1), BLOCKS - 50);
		end_all();
	}
}
END_TEST

/* The same, when it has changed its mind half way. */
START_TEST(turned_round_at_every_call)
{
	for (int64_t last = 1; last < 60; last += STRIDE) {
		seed();
		begin_all();
		fill_file(1);
		stores_want(router, 1, 2);
		for (int i = 0; i < 3; i++)
			stores_step(router);
		put(1, 90, 600); /* on both sides of the mark */
		removed(1, 3, 4);
		stores_want(router, 1, 0);
		calls_left = last;
		while (!dead && stores_step(router))
			;
		end_life(_i);
		look_again(_i);
		stores_want(router, 1, 0);
		rest();
		ck_assert_uint_eq(store_mem_count(memory[2], 1), 0);
		end_all();
	}
}
END_TEST

/* --- devices that fail -------------------------------------------------------------------------------------------- */

static int put_error(uint64_t ino, uint64_t block)
{
	struct store_item item = { { ino, block }, "value", 5 };

	return router->ops->put(router, STORE_DEMOTION, &item, 1);
}

/* The new device has no room: the file stays readable and writable on both sides, and can go back. */
START_TEST(full_on_the_way)
{
	struct stores_where where;

	seed();
	begin_all();
	fill_file(1);
	stores_want(router, 1, 1);
	for (int i = 0; i < 2; i++)
		ck_assert(stores_step(router));
	store_mem_fail_all(memory[1], STORE_MEM_PUT, ENOSPC);
	ck_assert(stores_step(router));
	stores_where(router, 1, &where);
	ck_assert_int_eq(where.error, -ENOSPC);
	ck_assert(where.at == 1 && where.from == 0 && where.count > 0 && where.count < BLOCKS);
	check_file(1);
	ck_assert_int_eq(put_error(1, 0), -ENOSPC);
	put(1, BLOCKS - 10, 10);
	put(2, 0, 10);
	stores_want(router, 1, 0);
	rest();
	ck_assert_uint_eq(store_mem_count(memory[1], 1), 0);
	end_all();
}
END_TEST

/* What is on a device that fails, or is not here, fails; the rest goes on, and a sync of one that is elsewhere. */
START_TEST(fails_alone)
{
	uint8_t value[VALUE_MAX];
	size_t length;

	seed();
	begin_all();
	ck_assert_int_eq(stores_begun(router, 2, 1), 0);
	put(1, 0, 20);
	put(2, 0, 20);
	ck_assert_uint_eq(store_mem_count(memory[1], 2), 20);
	store_mem_fail_all(memory[1], STORE_MEM_CALLS, EIO);
	check_file(1);
	put(1, 5, 10);
	ck_assert_int_eq(put_error(2, 0), -EIO);
	ck_assert_int_eq(router->ops->get(router, STORE_GUEST, (struct store_key){ 2, 3 }, value, sizeof(value),
					  &length),
			 -EIO);
	ck_assert_int_eq(router->ops->sync_file(router, 1), 0);
	ck_assert_int_eq(router->ops->sync_file(router, 2), -EIO);
	ck_assert_int_eq(router->ops->sync(router), -EIO);
	store_mem_fail_all(memory[1], STORE_MEM_CALLS, 0);
	check_file(2);
	ck_assert_int_eq(router->ops->sync(router), 0);
	end_all();
}
END_TEST

static int no_head(void *arg, struct store_key key, const void *value, uint32_t length)
{
	(void)arg;
	(void)key;
	(void)value;
	(void)length;
	return 0;
}

START_TEST(not_here)
{
	uint8_t value[VALUE_MAX];
	size_t length;

	seed();
	begin_all();
	fill_file(1);
	stores_want(router, 1, 1);
	rest();
	dead = true;
	router->ops->free(router);
	dead = false;
	ck_assert_int_eq(stores_open(new_mortal(memory[0], 0), &router), 0);
	ck_assert_uint_eq(stores_count(router), DEVICES);
	ck_assert_str_eq(stores_name(router, 1), "dev1");
	ck_assert(!stores_here(router, 1));
	ck_assert_uint_eq(stores_files(router, 1), 1);
	ck_assert_int_eq(router->ops->get(router, STORE_GUEST, (struct store_key){ 1, 3 }, value, sizeof(value),
					  &length),
			 -EIO);
	ck_assert_int_eq(router->ops->heads(router, 1, 0, UINT64_MAX, no_head, NULL), -EIO); /* not: there are none */
	ck_assert_int_eq(router->ops->remove(router, 1, 0, UINT64_MAX), -EIO);
	put(2, 0, 10);
	check_file(2);
	ck_assert_int_eq(router->ops->sync(router), 0);
	router->ops->free(router);
	begin_life();
	check_file(1);
	end_all();
}
END_TEST

/* A record that cannot be written is in doubt: what would be changed by it cannot be changed before that is settled. */
START_TEST(record_in_doubt)
{
	struct stores_where where;

	seed();
	begin_all();
	fill_file(1);
	stores_want(router, 1, 1);
	ck_assert(stores_step(router)); /* it has begun */
	store_mem_fail_all(memory[0], STORE_MEM_META_PUT, EIO);
	ck_assert(stores_step(router));
	ck_assert_int_eq(put_error(1, 0), -EIO);
	check_file(1);
	put(1, BLOCKS - 1, 1);
	store_mem_fail_all(memory[0], STORE_MEM_META_PUT, 0);
	stores_want(router, 1, 2); /* it is looked at now, and not in a while */
	ck_assert(stores_step(router));
	put(1, 0, 1);
	rest();
	stores_where(router, 1, &where);
	ck_assert_uint_eq(where.at, 2);
	end_all();
}
END_TEST

/* A small file moves in one window, which is all of it there, and what was promised of it goes with it. */
START_TEST(kept_all_the_way)
{
	seed();
	begin_all();
	put(1, 0, 10);
	promised[1] = true;
	router->ops->keep(router, 1, true);
	for (unsigned int i = 1; i <= DEVICES; i++) {
		stores_want(router, 1, i % DEVICES);
		rest();
		ck_assert(kept[i % DEVICES][1]);
		put(1, 3, 10);
	}
	removed(1, 0, UINT64_MAX);
	for (unsigned int i = 0; i < DEVICES; i++)
		ck_assert(!kept[i][1]);
	end_all();
}
END_TEST

/* All of a file is removed, or none of it: what is on a device that is not here cannot be. */
START_TEST(removed_when_one_is_missing)
{
	struct stores_where where;

	seed();
	begin_all();
	fill_file(1);
	stores_want(router, 1, 1);
	for (int i = 0; i < 2; i++)
		ck_assert(stores_step(router));
	stores_where(router, 1, &where);
	ck_assert(where.at == 1 && where.from == 0 && where.count > 0 && where.count < BLOCKS);
	for (unsigned int missing = 1; missing < DEVICES; missing++) {
		dead = true;
		router->ops->free(router);
		begin_life_without(missing);
		stores_where(router, 1, &where);
		ck_assert(where.here == (missing != 1));
		if (missing == 1)
			ck_assert_int_eq(router->ops->remove(router, 1, 0, UINT64_MAX), -EIO);
		else
			check_file(1);
	}
	end_all();
}
END_TEST

/* A mark at an end: one of the two has nothing that counts. */
START_TEST(here_without_the_old_one)
{
	struct stores_where where;

	seed();
	begin_all();
	put(1, 0, 10);
	sync_all();
	stores_want(router, 1, 2);
	rest();
	stores_want(router, 1, 1);
	ck_assert(stores_step(router)); /* it has begun, and all is at the old one */
	dead = true;
	router->ops->free(router);
	begin_life_without(1);
	stores_where(router, 1, &where);
	ck_assert(where.here);
	check_file(1);
	ck_assert_int_eq(router->ops->sync_file(router, 1), 0);
	dead = true;
	router->ops->free(router);
	begin_life();
	stores_want(router, 1, 1);
	ck_assert(stores_step(router)); /* all is at the new one, and the old one is to be cleared */
	dead = true;
	router->ops->free(router);
	begin_life_without(2);
	stores_where(router, 1, &where);
	ck_assert(where.here && where.at == 1);
	check_file(1);
	ck_assert_int_eq(router->ops->sync_file(router, 1), 0);
	end_all();
}
END_TEST

/* Nobody knows where a file in doubt is, so it is not cloned; who tries is told so, and does not wait. */
START_TEST(cloned_in_doubt)
{
	seed();
	begin_all();
	fill_file(1);
	stores_want(router, 1, 1);
	ck_assert(stores_step(router));
	store_mem_fail_all(memory[0], STORE_MEM_META_PUT, EIO);
	ck_assert(stores_step(router));
	ck_assert_int_eq(stores_clone_begin(router, 1, 2), -EIO);
	ck_assert_int_eq(stores_clone_begin(router, 2, 1), -EIO);
	store_mem_fail_all(memory[0], STORE_MEM_META_PUT, 0);
	stores_want(router, 1, 2);
	ck_assert(stores_step(router));
	clone_file(1, 2);
	rest();
	end_all();
}
END_TEST

/* While a device reads for somebody the file moves from there, and turns; what would be cleared is read still. */
static void move_and_turn(void)
{
	ck_assert(stores_step(router));
	store_mem_fail_all(memory[0], STORE_MEM_PUT, ENOSPC);
	stores_want(router, 1, 0);
	ck_assert(stores_step(router));
}

START_TEST(read_while_it_turns)
{
	struct stores_where where;

	seed();
	begin_all();
	fill_file(1);
	stores_want(router, 1, 1);
	for (int i = 0; i < 2; i++)
		ck_assert(stores_step(router));
	stores_where(router, 1, &where);
	ck_assert_uint_lt(where.count, BLOCKS - 600);
	on_get = move_and_turn;
	expect(1, where.count + 400, look(1, where.count + 400));
	ck_assert_ptr_null(on_get);
	store_mem_fail_all(memory[0], STORE_MEM_PUT, 0);
	stores_want(router, 1, 2);
	stores_want(router, 1, 0);
	rest();
	end_all();
}
END_TEST

/* What is damaged stays damaged; it neither vanishes nor keeps the others from moving. */
START_TEST(damaged_value)
{
	uint8_t value[VALUE_MAX], want[VALUE_MAX];
	size_t length;

	seed();
	begin_all();
	put(1, 0, 10);
	ck_assert_int_eq(store_mem_damage(memory[0], (struct store_key){ 1, 4 }, 31), 0);
	ck_assert_int_eq(memory[0]->ops->get(memory[0], STORE_GUEST, (struct store_key){ 1, 4 }, want, sizeof(want),
					     &length),
			 0);
	stores_want(router, 1, 1);
	for (int i = 0; i < 20 && stores_step(router); i++)
		;
	ck_assert_uint_eq(store_mem_count(memory[1], 1), 10);
	ck_assert_int_eq(router->ops->get(router, STORE_GUEST, (struct store_key){ 1, 4 }, value, sizeof(value),
					  &length),
			 0);
	ck_assert_mem_eq(value, want, length);
	end_all();
}
END_TEST

START_TEST(forgotten)
{
	seed();
	begin_all();
	fill_file(1);
	stores_want(router, 1, 1);
	for (int i = 0; i < 2; i++)
		stores_step(router);
	removed(1, 0, UINT64_MAX);
	stores_forget(router, 1);
	while (stores_step(router))
		;
	ck_assert_uint_eq(stores_files(router, 1), 0);
	end_life(false);
	ck_assert_uint_eq(stores_files(router, 1), 0);
	for (unsigned int i = 0; i < DEVICES; i++)
		ck_assert_uint_eq(store_mem_count(memory[i], 1), 0);
	end_all();
}
END_TEST

START_TEST(names)
{
	static const char *const bad[] = { "", "A", "a.b", "a b", "01234567890123456789012345678901", NULL };
	static const uint8_t other[STORES_TOKEN_BYTES] = { 77 };
	unsigned int index;
	struct store *more;

	begin_all();
	for (int i = 0; bad[i]; i++)
		ck_assert(!stores_name_valid(bad[i]));
	ck_assert(stores_name_valid("0123456789012345678901234567890") && stores_name_valid("a-b_c"));
	ck_assert_int_eq(stores_find(router, "dev2", &index), 0);
	ck_assert_uint_eq(index, 2);
	ck_assert_int_eq(stores_find(router, "dev9", &index), -ENOENT);
	ck_assert_int_eq(stores_find(memory[0], "default", &index), 0); /* of no router */
	ck_assert_int_eq(store_mem_new(&more), 0);
	store_mem_fail_nth(memory[0], STORE_MEM_META_PUT, 1, EIO);
	ck_assert_int_eq(stores_add(router, "more", other, (struct stores_device){ more, NULL }), -EIO);
	ck_assert_uint_eq(stores_count(router), DEVICES);
	for (unsigned int i = DEVICES; i < STORES_MAX; i++) {
		char name[8];

		snprintf(name, sizeof(name), "more%u", i);
		ck_assert_int_eq(stores_add(router, name, other, new_mortal(memory[0], 0)), 0);
	}
	ck_assert_int_eq(stores_add(router, "more", other, (struct stores_device){ more, NULL }), -ENOSPC);
	more->ops->free(more);
	end_all();
}
END_TEST

/* --- who must not wait ------------------------------------------------------------------------------------------- */

/* A device that syncs for as long as the test wants. */
static int gated_sync(struct store *store)
{
	gate_pass();
	return mortal_sync(store);
}

static struct store_ops gated_ops;

static void *step_once(void *arg)
{
	(void)arg;
	stores_step(router);
	return NULL;
}

static int put_held(uint64_t ino, uint64_t block)
{
	struct store_hold hold;
	int err = -EBUSY;

	store_hold(router, ino, &hold);
	if (!store_is_busy(&hold, block))
		err = put_error(ino, block);
	store_let_go(router, &hold);
	return err;
}

/* A file is on its way to a device that can be made not to sync; so many windows have moved. */
static void begin_gated(unsigned int windows)
{
	seed();
	begin_all();
	gated_ops = mortal_ops;
	gated_ops.sync = gated_sync;
	fill_file(1);
	stores_want(router, 1, 1);
	ck_assert(stores_step(router));
	dead = true;
	router->ops->free(router);
	begin_life_without(1);
	{
		struct stores_device device = new_mortal(memory[1], 1);

		device.store->ops = &gated_ops;
		ck_assert_int_eq(stores_add(router, "dev1", tokens[1], device), 0);
	}
	while (windows--)
		ck_assert(stores_step(router));
	gate_set(true);
}

/* A window is on its way, and its sync does not end. Who holds the file learns what he must not touch; the rest, reads
 * of it, and other files of its shard go on. */
START_TEST(held_while_a_window_moves)
{
	pthread_t mover;

	begin_gated(0);
	ck_assert_int_eq(pthread_create(&mover, NULL, step_once, NULL), 0);
	gate_await();
	ck_assert_int_eq(put_held(1, 5), -EBUSY);
	ck_assert_int_eq(put_held(1, BLOCKS + 1), 0);
	ck_assert_int_eq(put_held(65, 5), 0); /* of the same shard */
	ck_assert_int_eq(put_held(2, 5), 0);
	expect(1, 5, look(1, 5));
	gate_set(false);
	pthread_join(mover, NULL);
	ck_assert_int_eq(put_held(1, 5), 0);
	end_all();
}
END_TEST

/* A batch of blocks on both sides of it has none of it, and does not wait for it. */
START_TEST(put_around_a_window_that_moves)
{
	static const uint8_t value[] = "around";
	struct store_item items[] = { { { 1, 3 }, value, sizeof(value) }, { { 1, BLOCKS + 1 }, value, sizeof(value) } };
	struct stores_where where;
	uint8_t got[sizeof(value)];
	pthread_t mover;
	size_t length;

	begin_gated(1); /* not the last one, which goes on to the end */
	stores_where(router, 1, &where);
	ck_assert_uint_gt(where.count, 3);
	ck_assert_uint_lt(where.count, BLOCKS);
	ck_assert_int_eq(pthread_create(&mover, NULL, step_once, NULL), 0);
	gate_await();
	ck_assert_int_eq(put_held(1, where.count + 5), -EBUSY);
	ck_assert_int_eq(router->ops->put(router, STORE_DEMOTION, items, 2), 0);
	gate_set(false);
	pthread_join(mover, NULL);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(router->ops->get(router, STORE_GUEST, items[i].key, got, sizeof(got), &length), 0);
		ck_assert_mem_eq(got, value, sizeof(value));
	}
	put(1, 3, 1);
	removed(1, BLOCKS + 1, 1);
	end_all();
}
END_TEST

static bool is_asked_for(uint64_t ino, uint64_t block)
{
	struct store_hold hold;
	bool busy;

	store_hold(router, ino, &hold);
	busy = store_is_busy(&hold, block);
	store_let_go(router, &hold);
	return busy;
}

/* A window is asked for while somebody holds the file. True: it moved then, as he did not have to wait for it. */
static bool moves_after_holder(void)
{
	struct store_hold hold;
	struct stores_where where;
	pthread_t mover;

	stores_want(router, 1, 2); /* it is looked at now, and not in a while */
	stores_want(router, 1, 1);
	store_hold(router, 1, &hold);
	ck_assert(!store_is_busy(&hold, 5));
	ck_assert_int_eq(pthread_create(&mover, NULL, step_once, NULL), 0);
	while (!is_asked_for(1, 5))
		usleep(100);
	put(1, 5, 1);
	stores_where(router, 1, &where);
	ck_assert_uint_eq(where.count, 0);
	store_let_go(router, &hold);
	pthread_join(mover, NULL);
	stores_where(router, 1, &where);
	return where.count > 0;
}

START_TEST(held_before_a_window_moves)
{
	bool moved = false;

	seed();
	begin_all();
	fill_file(1);
	stores_want(router, 1, 1);
	ck_assert(stores_step(router));
	/* On a machine that is very busy the mover may give up before it was let go. */
	for (int i = 0; i < 5 && !moved; i++)
		moved = moves_after_holder();
	ck_assert(moved);
	rest();
	end_all();
}
END_TEST

/* --- threads: who puts, gets and removes goes on while the files move to and fro ---------------------------------- */

#define THREADS 3
#define ROUNDS 40

static _Atomic int wrong;
static _Atomic bool stop;

static void *work(void *arg)
{
	uint64_t ino = 1 + (uint64_t)(uintptr_t)arg, rounds = 0;
	uint8_t value[64], got[64];
	size_t length;

	for (; rounds < ROUNDS; rounds++) {
		for (uint64_t block = 0; block < 700; block++) {
			struct store_item item = { { ino, block }, value, sizeof(value) };

			struct store_hold hold;

			memset(value, (int)(rounds + block), sizeof(value));
			store_hold(router, ino, &hold);
			if (store_is_busy(&hold, block) || block % 3 == 0) {
				store_let_go(router, &hold);
				hold.at = NULL;
			}
			if (router->ops->put(router, STORE_DEMOTION, &item, 1) ||
			    router->ops->get(router, STORE_GUEST, item.key, got, sizeof(got), &length) ||
			    memcmp(value, got, sizeof(value)) != 0)
				wrong++;
			store_let_go(router, &hold);
		}
		if (router->ops->remove(router, ino, 300, 10) ||
		    router->ops->get(router, STORE_GUEST, (struct store_key){ ino, 305 }, got, sizeof(got), &length) !=
			    -ENOENT)
			wrong++;
	}
	return NULL;
}

static void *change_minds(void *arg)
{
	unsigned int turn = 0;

	(void)arg;
	while (!stop) {
		stores_want(router, 1 + turn % THREADS, turn / THREADS % DEVICES);
		turn++;
		usleep(500);
	}
	return NULL;
}

START_TEST(while_threads_work)
{
	pthread_t thread[THREADS], changer;

	begin_all();
	wrong = 0;
	stop = false;
	ck_assert_int_eq(stores_start(router, NULL, NULL), 0);
	ck_assert_int_eq(pthread_create(&changer, NULL, change_minds, NULL), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, work, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	stop = true;
	pthread_join(changer, NULL);
	ck_assert_int_eq(wrong, 0);
	end_all();
}
END_TEST

/* --- limits ------------------------------------------------------------------------------------------------------- */

static uint64_t asked, granted;

static uint64_t pace(void *arg, uint64_t ino, uint64_t values, uint64_t bytes)
{
	(void)arg;
	ck_assert_uint_eq(ino, 1);
	ck_assert(values || bytes);
	ck_assert_uint_le(values, 1); /* what is granted is owed: nobody owes a window */
	return asked++ % 100 ? (granted += values, 0) : 1;
}

START_TEST(paced)
{
	seed();
	begin_all();
	fill_file(1);
	ck_assert_int_eq(stores_start(router, pace, NULL), 0);
	stores_want(router, 1, 1);
	for (struct stores_where where = { .from = 9 }; where.at != where.from || where.at != 1;) {
		usleep(1000);
		stores_where(router, 1, &where);
	}
	stores_stop(router);
	ck_assert_uint_ge(granted, BLOCKS - 50);
	check_file(1);
	end_all();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("stores");
	TCase *tests = tcase_create("stores");

	tcase_set_timeout(tests, 240);
	tcase_add_test(tests, as_arrays);
	tcase_add_loop_test(tests, ended_at_every_call, 0, 2);
	tcase_add_loop_test(tests, turned_round_at_every_call, 0, 2);
	tcase_add_test(tests, full_on_the_way);
	tcase_add_test(tests, fails_alone);
	tcase_add_test(tests, not_here);
	tcase_add_test(tests, record_in_doubt);
	tcase_add_test(tests, kept_all_the_way);
	tcase_add_test(tests, removed_when_one_is_missing);
	tcase_add_test(tests, here_without_the_old_one);
	tcase_add_test(tests, cloned_in_doubt);
	tcase_add_test(tests, read_while_it_turns);
	tcase_add_test(tests, held_while_a_window_moves);
	tcase_add_test(tests, put_around_a_window_that_moves);
	tcase_add_test(tests, held_before_a_window_moves);
	tcase_add_test(tests, damaged_value);
	tcase_add_test(tests, forgotten);
	tcase_add_test(tests, names);
	tcase_add_test(tests, while_threads_work);
	tcase_add_test(tests, paced);
	suite_add_tcase(suite, tests);
	return check_run(suite);
}
