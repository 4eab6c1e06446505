/* cold/store_share.c - values that several files have.
 *
 * A file shares a value with another by a record of its own that names the same place. No record says how many do:
 * the table of shares counts them, and is built from the records when the store opens. So a removal, or a put over a
 * shared value, is what it always was, one change of one record, and a value goes with its last one.
 *
 * The checksum of a value says whose it is: the file that put it, the origin. A record of another file carries the
 * origin. Readers are given the value with a checksum for the key that they asked for, once the stored one was
 * verified (codec_rekey()); nobody above needs to know. The collector copies values as they are.
 */
#include "cold/store_share.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cold/index.h"
#include "cold/owners.h"
#include "cold/records.h"
#include "cold/store_sync.h"

/* Records in one write: the commit mutex is held for it. */
#define SHARE_RECORDS 1024U

/* --- counting -------------------------------------------------------------------------------------------------- */

struct sum {
	struct store_rocks *store;
	uint64_t bytes;
};

static void add_shared(void *arg, struct store_key key, struct place place)
{
	struct sum *sum = arg;
	const struct share *share = shares_find(&sum->store->shares, place);

	(void)key;
	if (share && share->refs > 1)
		sum->bytes += place.length_bytes;
}

uint64_t store_share_bytes(struct store *base, uint64_t ino)
{
	struct sum sum = { .store = (struct store_rocks *)base };
	struct lock *lock = &sum.store->segments.lock;
	uint64_t from = 0;

	lock_get(lock);
	while (sum.store->shares.count && places_some(&sum.store->places, ino, &from, add_shared, &sum))
		lock_pass(lock);
	lock_put(lock);
	return sum.bytes;
}

/* --- sharing --------------------------------------------------------------------------------------------------- */

struct sharing {
	struct store_rocks *store;
	const struct store_share *share;
	uint64_t next, last; /* blocks */
	size_t count;
	struct {
		uint64_t block, origin;
		struct place place;
		uint8_t key[INDEX_KEY_BYTES];
		struct index_record record;
	} value[SHARE_RECORDS];
	struct rocks_change change[SHARE_RECORDS];
};

static int collect_record(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct sharing *sharing = arg;
	const struct store_share *share = sharing->share;
	uint8_t head[STORE_HEAD_BYTES];
	struct store_key at;
	struct place place;
	uint64_t origin;
	size_t i = sharing->count, length;

	if (!index_unpack(key, key_len, value, value_len, &at, &place, &origin))
		return 0;
	index_head(value, value_len, head);
	if (share->edit)
		share->edit(share->arg, at.block, head);
	at.ino = share->to;
	sharing->value[i].block = at.block;
	sharing->value[i].place = place;
	sharing->value[i].origin = origin;
	index_key(at, sharing->value[i].key);
	length = index_pack(at, place, origin, head, sizeof(head), &sharing->value[i].record);
	sharing->change[i] = (struct rocks_change){
		.family = ROCKS_INDEX,
		.kind = ROCKS_PUT,
		.key = sharing->value[i].key,
		.key_len = INDEX_KEY_BYTES,
		.value = &sharing->value[i].record,
		.value_len = length,
	};
	sharing->count++;
	return sharing->count == SHARE_RECORDS;
}

/* 1: there may be more. */
static int collect_records(struct sharing *sharing)
{
	uint8_t begin[INDEX_KEY_BYTES], end[INDEX_KEY_BYTES + 1] = { 0 };
	struct rocks_range range = { begin, sizeof(begin), end, sizeof(end) };

	index_key((struct store_key){ sharing->share->from, sharing->next }, begin);
	index_key((struct store_key){ sharing->share->from, sharing->last }, end);
	sharing->count = 0;
	return rocks_walk(sharing->store->rocks, ROCKS_INDEX, &range, collect_record, sharing);
}

static int reserve(struct sharing *sharing)
{
	struct store_rocks *store = sharing->store;
	LOCK_SCOPE(&store->segments.lock);
	int err = shares_reserve(&store->shares, sharing->count);

	for (size_t i = 0; !err && i < sharing->count; i++)
		err = places_reserve(&store->places, (struct store_key){ sharing->share->to, sharing->value[i].block });
	return err;
}

static void publish(struct sharing *sharing)
{
	struct store_rocks *store = sharing->store;
	LOCK_SCOPE(&store->segments.lock);

	for (size_t i = 0; i < sharing->count; i++) {
		struct store_key key = { sharing->share->to, sharing->value[i].block };
		struct place place = sharing->value[i].place, old;

		/* Not in the table so far: its one user is counted. */
		shares_add(&store->shares, place, sharing->value[i].origin, 1);
		owners_use(store, place);
		if (places_set(&store->places, key, place, &old))
			owners_drop(store, old);
	}
}

/* The commit mutex is held. 1: there may be more. */
static int share_some(struct sharing *sharing)
{
	struct store_rocks *store = sharing->store;
	int err = records_make_sure(store), more = 0;

	for (int attempt = 0; !err || (err == -EAGAIN && attempt < 2); attempt++) {
		uint64_t disk_bytes, memory_bytes;

		rocks_figures(store->rocks, &disk_bytes, &memory_bytes); /* records alone make it grow, too */
		atomic_store(&store->headroom.index_bytes, disk_bytes);
		err = store_sync_room(store, HEADROOM_VALUES);
		if (!err)
			err = records_upgrade(store);
		if (!err)
			err = more = collect_records(sharing);
		if (err >= 0)
			err = reserve(sharing);
		if (!err && sharing->count)
			err = records_write(store, sharing->change, sharing->count, false);
		if (!err) {
			publish(sharing);
			return more;
		}
	}
	return err == -EAGAIN ? store->doubtful_error : err;
}

int store_share_blocks(struct store *base, const struct store_share *share)
{
	struct store_rocks *store = (struct store_rocks *)base;
	CLEANUP_FREE struct sharing *sharing = malloc(sizeof(*sharing));
	int err = 1;

	if (!share->count)
		return 0;
	if (!sharing)
		return -ENOMEM;
	sharing->store = store;
	sharing->share = share;
	sharing->next = share->first;
	sharing->last = share->count - 1 > UINT64_MAX - share->first ? UINT64_MAX : share->first + (share->count - 1);
	while (err == 1) {
		pthread_mutex_lock(&store->commit);
		err = share_some(sharing);
		pthread_mutex_unlock(&store->commit);
		if (err != 1)
			break;
		sharing->next = sharing->value[sharing->count - 1].block;
		if (sharing->next++ == sharing->last)
			err = 0;
	}
	return err < 0 ? store_error_note(&store->errors, err, store->dir, "cannot share blocks", NULL) : 0;
}
