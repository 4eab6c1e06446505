/* lib/lib_store_mem.c - values and records in two hash tables under one mutex; walks sort what they found.
 *
 * The durable state is a second pair of tables, replaced by a copy at each sync: slow, plain, and right. Callbacks of
 * walks run on copies, without the mutex, so that they may call back into the store.
 */
#include "lib_store_mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Out of memory is an error, and not the end of the test. */
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cold/codec.h"
#include "cold/meta.h"

#define KEY_MAX 512
#define VALUE_MAX (64 * 1024)

/* Blocks and metadata alike: a key of some bytes, a value of some bytes. Block keys are big-endian, so that order of
 * bytes is order of blocks. */
struct entry {
	UT_hash_handle hh;
	size_t key_len, value_len;
	unsigned char *value;
	unsigned char key[];
};

struct state {
	struct entry *blocks;
	struct entry *meta;
};

struct fault {
	uint64_t countdown; /* 0: none */
	int error;
	int error_all;
	uint64_t delay_ns;
	uint64_t calls;
};

struct store_mem {
	struct store base;
	pthread_mutex_t mutex; /* guards all that follows */
	struct state now;
	struct state durable;
	struct fault fault[STORE_MEM_CALLS + 1];
	uint64_t epoch; /* crashes so far */
	uint64_t tear;  /* state of the random choice; 0: off */
	struct store_figures figures;
};

static struct store_mem *mem_of(struct store *store)
{
	return (struct store_mem *)store;
}

static void unlockp(struct store_mem **mem)
{
	if (*mem)
		pthread_mutex_unlock(&(*mem)->mutex);
}
#define MEM_SCOPE(m) \
	__attribute__((cleanup(unlockp), unused)) struct store_mem *held = (pthread_mutex_lock(&(m)->mutex), (m))

/* --- tables --- */

static void block_key(struct store_key key, unsigned char out[static 16])
{
	for (int i = 0; i < 8; i++) {
		out[i] = (unsigned char)(key.ino >> (56 - 8 * i));
		out[8 + i] = (unsigned char)(key.block >> (56 - 8 * i));
	}
}

static struct store_key block_of(const unsigned char *at)
{
	struct store_key key = { 0 };

	for (int i = 0; i < 8; i++) {
		key.ino = key.ino << 8 | at[i];
		key.block = key.block << 8 | at[8 + i];
	}
	return key;
}

static void entry_drop(struct entry **table, struct entry *entry)
{
	HASH_DEL(*table, entry);
	free(entry->value);
	free(entry);
}

static int entry_set(struct entry **table, const void *key, size_t key_len, const void *value, size_t value_len)
{
	unsigned char *copy = malloc(value_len ? value_len : 1);
	struct entry *entry;

	if (!copy)
		return -ENOMEM;
	if (value_len)
		memcpy(copy, value, value_len);
	HASH_FIND(hh, *table, key, key_len, entry);
	if (!entry) {
		entry = calloc(1, sizeof(*entry) + key_len);
		if (!entry) {
			free(copy);
			return -ENOMEM;
		}
		memcpy(entry->key, key, key_len);
		entry->key_len = key_len;
		HASH_ADD_KEYPTR(hh, *table, entry->key, key_len, entry);
		if (!entry->hh.tbl) {
			free(entry);
			free(copy);
			return -ENOMEM;
		}
	}
	free(entry->value);
	entry->value = copy;
	entry->value_len = value_len;
	return 0;
}

static void table_free(struct entry **table)
{
	struct entry *entry, *next;

	HASH_ITER(hh, *table, entry, next)
		entry_drop(table, entry);
}

static int table_copy(struct entry **to, struct entry *from)
{
	table_free(to);
	for (struct entry *entry = from; entry; entry = entry->hh.next) {
		int r = entry_set(to, entry->key, entry->key_len, entry->value, entry->value_len);

		if (r < 0)
			return r;
	}
	return 0;
}

static int state_copy(struct state *to, const struct state *from)
{
	int r = table_copy(&to->blocks, from->blocks);

	return r < 0 ? r : table_copy(&to->meta, from->meta);
}

/* --- a sorted copy of part of a table, for walks --- */

struct copy {
	size_t key_len, value_len;
	unsigned char *value;
	unsigned char key[KEY_MAX];
};

struct copies {
	struct copy *at;
	size_t count;
};

static void copies_fini(struct copies *copies)
{
	for (size_t i = 0; i < copies->count; i++)
		free(copies->at[i].value);
	free(copies->at);
}

/* Copies at_most bytes of the value; its length is remembered as it is. */
static int copies_add(struct copies *copies, const struct entry *entry, size_t at_most)
{
	size_t len = entry->value_len < at_most ? entry->value_len : at_most;
	struct copy *grown, *copy;

	if (!(copies->count & (copies->count + 1))) { /* room for 1, 3, 7, ... */
		grown = realloc(copies->at, (2 * copies->count + 1) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		copies->at = grown;
	}
	copy = &copies->at[copies->count];
	copy->value = malloc(len ? len : 1);
	if (!copy->value)
		return -ENOMEM;
	memcpy(copy->key, entry->key, entry->key_len);
	memcpy(copy->value, entry->value, len);
	copy->key_len = entry->key_len;
	copy->value_len = entry->value_len;
	copies->count++;
	return 0;
}

static int copy_compare(const void *left, const void *right)
{
	const struct copy *a = left, *b = right;
	size_t common = a->key_len < b->key_len ? a->key_len : b->key_len;
	int order = memcmp(a->key, b->key, common);

	if (order)
		return order;
	return a->key_len < b->key_len ? -1 : a->key_len > b->key_len;
}

static void copies_sort(struct copies *copies)
{
	if (copies->count)
		qsort(copies->at, copies->count, sizeof(*copies->at), copy_compare);
}

/* --- faults --- */

static int fault_due(struct fault *fault)
{
	fault->calls++;
	if (fault->countdown && --fault->countdown == 0)
		return -fault->error;
	return -fault->error_all;
}

/* Counts the call, sleeps, and says whether it is to fail. The mutex is not held on entry and on return it is. */
static int begin(struct store_mem *mem, enum store_mem_call call)
{
	uint64_t epoch, delay_ns;
	int r, any;

	pthread_mutex_lock(&mem->mutex);
	epoch = mem->epoch;
	r = fault_due(&mem->fault[call]);
	any = fault_due(&mem->fault[STORE_MEM_CALLS]);
	if (r == 0)
		r = any;
	delay_ns = mem->fault[call].delay_ns + mem->fault[STORE_MEM_CALLS].delay_ns;
	if (delay_ns) {
		struct timespec delay = { (time_t)(delay_ns / NS_PER_S), (long)(delay_ns % NS_PER_S) };

		pthread_mutex_unlock(&mem->mutex);
		nanosleep(&delay, NULL);
		pthread_mutex_lock(&mem->mutex);
	}
	if (epoch != mem->epoch)
		r = -EIO;
	if (r == -EIO || r == -ENOSPC || r == -EBADMSG)
		mem->figures.errors++;
	return r;
}

static void note_read(struct store_mem *mem, enum store_use use, size_t bytes)
{
	mem->figures.traffic[use].reads++;
	mem->figures.traffic[use].read_bytes += bytes;
}

/* --- the contract --- */

static int mem_get(struct store *store, enum store_use use, struct store_key key, void *buf, size_t cap,
		   size_t *ret_len)
{
	struct store_mem *mem = mem_of(store);
	unsigned char bytes[16];
	struct entry *entry;
	int r = begin(mem, STORE_MEM_GET);
	__attribute__((cleanup(unlockp))) struct store_mem *held = mem;

	if (r < 0)
		return r;
	block_key(key, bytes);
	HASH_FIND(hh, held->now.blocks, bytes, sizeof(bytes), entry);
	if (!entry)
		return -ENOENT;
	if (entry->value_len > cap)
		return -ENOBUFS;
	memcpy(buf, entry->value, entry->value_len);
	*ret_len = entry->value_len;
	held->figures.get_blocks++;
	held->figures.get_bytes += entry->value_len;
	note_read(held, use, entry->value_len);
	return 0;
}

static bool in_range(struct store_key key, uint64_t ino, uint64_t first, uint64_t count)
{
	return key.ino == ino && key.block >= first && key.block - first < count;
}

static int collect_range(struct store_mem *mem, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
			 size_t at_most, struct copies *copies)
{
	int r = begin(mem, STORE_MEM_WALK);
	__attribute__((cleanup(unlockp))) struct store_mem *held = mem;

	for (struct entry *entry = held->now.blocks; r == 0 && entry; entry = entry->hh.next) {
		if (!in_range(block_of(entry->key), ino, first, count))
			continue;
		r = copies_add(copies, entry, at_most);
		if (at_most == SIZE_MAX) {
			held->figures.get_blocks++;
			held->figures.get_bytes += entry->value_len;
			note_read(held, use, entry->value_len);
		}
	}
	return r;
}

static int walk_up_to(struct store *store, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
		      size_t at_most, store_walk_fn *fn, void *arg)
{
	__attribute__((cleanup(copies_fini))) struct copies copies = { 0 };
	int r = collect_range(mem_of(store), use, ino, first, count, at_most, &copies);

	if (r < 0)
		return r;
	copies_sort(&copies);
	for (size_t i = 0; i < copies.count; i++) {
		r = fn(arg, block_of(copies.at[i].key), copies.at[i].value, (uint32_t)copies.at[i].value_len);
		if (r != 0)
			return r;
	}
	return 0;
}

static int mem_walk(struct store *store, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
		    store_walk_fn *fn, void *arg)
{
	return walk_up_to(store, use, ino, first, count, SIZE_MAX, fn, arg);
}

/* Copies no more than the head, so that a reader that goes beyond it is found by the sanitizers. */
static int mem_heads(struct store *store, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	return walk_up_to(store, STORE_DIRECT, ino, first, count, STORE_HEAD_BYTES, fn, arg);
}

static bool tear(struct store_mem *mem)
{
	mem->tear = mem->tear * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return mem->tear >> 63;
}

static int mem_put(struct store *store, enum store_use use, const struct store_item *items, size_t count)
{
	struct store_mem *mem = mem_of(store);
	int r = begin(mem, STORE_MEM_PUT);
	__attribute__((cleanup(unlockp))) struct store_mem *held = mem;

	held->figures.full = r == -ENOSPC;
	if (r < 0 && !held->tear)
		return r;
	for (size_t i = 0; i < count; i++) {
		unsigned char key[16];

		if (r < 0 && !tear(held))
			continue;
		block_key(items[i].key, key);
		if (entry_set(&held->now.blocks, key, sizeof(key), items[i].value, items[i].length_bytes) < 0)
			return -ENOMEM;
		held->figures.put_blocks++;
		held->figures.put_bytes += items[i].length_bytes;
		held->figures.traffic[use].writes++;
		held->figures.traffic[use].written_bytes += items[i].length_bytes;
	}
	return r;
}

static bool mem_renew(struct store *store, struct store_key key)
{
	(void)store;
	return key.block % 2;
}

/* Nothing is kept of them; but each must be of the content that is stored. */
static void mem_put_copies(struct store *store, const struct store_item *items, size_t count)
{
	MEM_SCOPE(mem_of(store));

	for (size_t i = 0; i < count; i++) {
		struct codec_info copy, stored;
		unsigned char key[16];
		struct entry *entry;

		block_key(items[i].key, key);
		HASH_FIND(hh, held->now.blocks, key, sizeof(key), entry);
		if (!entry || codec_peek(items[i].value, items[i].length_bytes, &copy) < 0 ||
		    codec_peek(entry->value, (uint32_t)entry->value_len, &stored) < 0 ||
		    !ident_same(copy.ident, stored.ident)) {
			fprintf(stderr, "a copy of block %llu is not what is stored\n",
				(unsigned long long)items[i].key.block);
			abort();
		}
	}
}

static int mem_remove(struct store *store, uint64_t ino, uint64_t first, uint64_t count)
{
	struct store_mem *mem = mem_of(store);
	struct entry *entry, *next;
	int r = begin(mem, STORE_MEM_REMOVE);
	__attribute__((cleanup(unlockp))) struct store_mem *held = mem;

	if (r < 0)
		return r;
	HASH_ITER(hh, held->now.blocks, entry, next) {
		if (in_range(block_of(entry->key), ino, first, count))
			entry_drop(&held->now.blocks, entry);
	}
	return 0;
}

/* Copies: nothing here is the same in memory, and that is what sharing promises to look like. */
static int share_one(struct store_mem *mem, const struct store_share *share, const struct entry *entry)
{
	struct store_key from = block_of(entry->key), to = { share->to, from.block };
	uint8_t head[STORE_HEAD_BYTES] = { 0 };
	CLEANUP_FREE unsigned char *value = malloc(entry->value_len + 1);
	struct codec_info info;
	unsigned char key[16];

	if (!value)
		return -ENOMEM;
	memcpy(value, entry->value, entry->value_len);
	memcpy(head, value, entry->value_len < sizeof(head) ? entry->value_len : sizeof(head));
	if (share->edit)
		share->edit(share->arg, from.block, head);
	if (codec_peek(head, entry->value_len, &info) == 0)
		codec_rekey(value, entry->value_len, from, to, &info.hotness);
	block_key(to, key);
	return entry_set(&mem->now.blocks, key, sizeof(key), value, entry->value_len);
}

static int mem_share(struct store *store, const struct store_share *share)
{
	struct store_mem *mem = mem_of(store);
	int r = begin(mem, STORE_MEM_SHARE);
	__attribute__((cleanup(unlockp))) struct store_mem *held = mem;
	struct entry *entry, *next;

	if (r < 0 && !held->tear)
		return r;
	HASH_ITER(hh, held->now.blocks, entry, next) {
		if (!in_range(block_of(entry->key), share->from, share->first, share->count) || (r < 0 && !tear(held)))
			continue;
		if (share_one(held, share, entry) < 0)
			return -ENOMEM;
	}
	return r;
}

static uint64_t mem_shared_bytes(struct store *store, uint64_t ino)
{
	(void)store;
	(void)ino;
	return 0;
}

static int meta_apply(struct entry **table, const struct meta_change *change)
{
	struct entry *entry;

	if (change->value)
		return entry_set(table, change->key, change->key_len, change->value, change->value_len);
	HASH_FIND(hh, *table, change->key, change->key_len, entry);
	if (entry)
		entry_drop(table, entry);
	return 0;
}

static int mem_meta_put(struct store *store, const struct meta_change *changes, size_t count, bool durable)
{
	struct store_mem *mem = mem_of(store);
	int r = begin(mem, STORE_MEM_META_PUT);
	__attribute__((cleanup(unlockp))) struct store_mem *held = mem;

	for (size_t i = 0; r == 0 && i < count; i++) {
		if (!changes[i].key_len || changes[i].key_len > KEY_MAX || changes[i].value_len > VALUE_MAX)
			r = -EINVAL;
	}
	for (size_t i = 0; r == 0 && i < count; i++)
		r = meta_apply(&held->now.meta, &changes[i]);
	if (r == 0 && durable) /* one log for all records: a durable one takes those before it along */
		r = table_copy(&held->durable.meta, held->now.meta);
	return r;
}

static int collect_prefix(struct store_mem *mem, const void *prefix, size_t prefix_len, struct copies *copies)
{
	int r = begin(mem, STORE_MEM_META_WALK);
	__attribute__((cleanup(unlockp))) struct store_mem *held = mem;

	for (struct entry *entry = held->now.meta; r == 0 && entry; entry = entry->hh.next) {
		if (entry->key_len >= prefix_len && !(prefix_len && memcmp(entry->key, prefix, prefix_len)))
			r = copies_add(copies, entry, SIZE_MAX);
	}
	return r;
}

static int mem_meta_walk(struct store *store, const void *prefix, size_t prefix_len, meta_fn *fn, void *arg)
{
	__attribute__((cleanup(copies_fini))) struct copies copies = { 0 };
	int r = collect_prefix(mem_of(store), prefix, prefix_len, &copies);

	if (r < 0)
		return r;
	copies_sort(&copies);
	for (size_t i = 0; i < copies.count; i++) {
		const struct copy *copy = &copies.at[i];

		r = fn(arg, copy->key, copy->key_len, copy->value, copy->value_len);
		if (r != 0)
			return r;
	}
	return 0;
}

static int mem_sync(struct store *store)
{
	struct store_mem *mem = mem_of(store);
	int r = begin(mem, STORE_MEM_SYNC);
	__attribute__((cleanup(unlockp))) struct store_mem *held = mem;

	return r < 0 ? r : state_copy(&held->durable, &held->now);
}

static void mem_figures(struct store *store, struct store_figures *ret)
{
	MEM_SCOPE(mem_of(store));
	uint64_t bytes = 0;

	for (struct entry *entry = held->now.blocks; entry; entry = entry->hh.next)
		bytes += entry->value_len;
	*ret = held->figures;
	ret->disk_bytes = bytes;
	ret->memory_bytes = bytes;
}

static void mem_free(struct store *store)
{
	struct store_mem *mem = mem_of(store);

	if (!mem)
		return;
	table_free(&mem->now.blocks);
	table_free(&mem->now.meta);
	table_free(&mem->durable.blocks);
	table_free(&mem->durable.meta);
	pthread_mutex_destroy(&mem->mutex);
	free(mem);
}

static const struct meta_ops META = { .put = mem_meta_put, .walk = mem_meta_walk };

static const struct store_ops mem_ops = {
	.get = mem_get,
	.walk = mem_walk,
	.heads = mem_heads,
	.put = mem_put,
	.renew = mem_renew,
	.put_copies = mem_put_copies,
	.remove = mem_remove,
	.share = mem_share,
	.shared_bytes = mem_shared_bytes,
	.sync = mem_sync,
	.figures = mem_figures,
	.free = mem_free,
};

int store_mem_new(struct store **ret)
{
	struct store_mem *mem = calloc(1, sizeof(*mem));

	if (!mem)
		return -ENOMEM;
	mem->base.ops = &mem_ops;
	mem->base.meta = &META;
	pthread_mutex_init(&mem->mutex, NULL);
	*ret = &mem->base;
	return 0;
}

/* --- what tests do to it --- */

void store_mem_fail_nth(struct store *store, enum store_mem_call call, uint64_t nth, int error)
{
	MEM_SCOPE(mem_of(store));

	held->fault[call].countdown = error ? nth : 0;
	held->fault[call].error = error;
}

void store_mem_fail_all(struct store *store, enum store_mem_call call, int error)
{
	MEM_SCOPE(mem_of(store));

	held->fault[call].error_all = error;
}

void store_mem_delay(struct store *store, enum store_mem_call call, uint64_t delay_ns)
{
	MEM_SCOPE(mem_of(store));

	held->fault[call].delay_ns = delay_ns;
}

void store_mem_tear_puts(struct store *store, uint64_t seed)
{
	MEM_SCOPE(mem_of(store));

	held->tear = seed;
}

uint64_t store_mem_calls(struct store *store, enum store_mem_call call)
{
	MEM_SCOPE(mem_of(store));

	return held->fault[call].calls;
}

static void restart(struct store_mem *mem)
{
	for (int call = 0; call <= STORE_MEM_CALLS; call++)
		mem->fault[call] = (struct fault){ .calls = mem->fault[call].calls };
	mem->epoch++;
	mem->figures.full = false;
}

void store_mem_crash(struct store *store)
{
	MEM_SCOPE(mem_of(store));

	restart(held);
}

void store_mem_power_loss(struct store *store)
{
	MEM_SCOPE(mem_of(store));

	restart(held);
	if (state_copy(&held->now, &held->durable) < 0)
		abort();
}

int store_mem_damage(struct store *store, struct store_key key, uint64_t bit)
{
	MEM_SCOPE(mem_of(store));
	unsigned char bytes[16];
	struct entry *entry;

	block_key(key, bytes);
	HASH_FIND(hh, held->now.blocks, bytes, sizeof(bytes), entry);
	if (!entry || !entry->value_len)
		return -ENOENT;
	entry->value[bit / 8 % entry->value_len] ^= (unsigned char)(1U << bit % 8);
	return 0;
}

uint64_t store_mem_count(struct store *store, uint64_t ino)
{
	MEM_SCOPE(mem_of(store));
	uint64_t count = 0;

	for (struct entry *entry = held->now.blocks; entry; entry = entry->hh.next)
		count += !ino || block_of(entry->key).ino == ino;
	return count;
}
