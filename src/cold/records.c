/* cold/records.c - the index in the database: one record for each value, which says where it lies.
 *
 * The table of places is built from the records. When a write of the database fails, nobody knows what it kept. Then
 * the store is doubtful: the next change first reopens the database and builds the table anew from it. Until that works
 * changes fail, reads go on, and no segment is unlinked: what the database turns out to name may be in any of them.
 */
#include "cold/records.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cold/garbage.h"
#include "cold/index.h"
#include "cold/owners.h"

#define REOPEN_INTERVAL_NS NS_PER_S
#define TELL_INTERVAL_NS (60 * NS_PER_S)

#define FORMAT_KEY "format"
#define FORMAT_BYTES sizeof(uint32_t)

struct loading {
	struct places places;
	struct shares shares;
};

static int load_record(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct loading *loading = arg;
	struct store_key at;
	struct place place, old;
	uint64_t origin;
	int err;

	if (!index_unpack(key, key_len, value, value_len, &at, &place, &origin))
		return 0;
	err = places_reserve(&loading->places, at);
	if (!err && origin != at.ino)
		err = shares_reserve(&loading->shares, 1);
	if (err < 0)
		return err;
	places_set(&loading->places, at, place, &old);
	if (origin != at.ino)
		shares_add(&loading->shares, place, origin, 0);
	return 0;
}

static void count_use(void *arg, struct store_key key, struct place place)
{
	struct store_rocks *store = arg;

	(void)key;
	/* Of a file that did not survive: its number may not come again while a record names it. */
	if (place.segment != PLACE_NOWHERE && place.segment > store->segments.last_id)
		store->segments.last_id = place.segment;
	owners_use(store, place);
}

/* Nobody else changes places meanwhile. */
int records_load(struct store_rocks *store)
{
	static const struct rocks_range all = { "", 0, NULL, 0 };
	struct loading fresh = { 0 }, old;
	int err = rocks_walk(store->rocks, ROCKS_INDEX, &all, load_record, &fresh);

	if (err < 0) {
		places_clear(&fresh.places);
		shares_clear(&fresh.shares);
		return err;
	}
	lock_get(&store->segments.lock);
	old = (struct loading){ store->places, store->shares };
	store->places = fresh.places;
	store->shares = fresh.shares;
	segments_revive(&store->segments);
	places_each(&store->places, count_use, store);
	for (struct segment *segment = store->segments.table; segment; segment = segment->hh.next)
		segments_check_dead(&store->segments, segment);
	store->segments.keep_dead = false;
	garbage_poke(store);
	lock_put(&store->segments.lock);
	places_clear(&old.places);
	shares_clear(&old.shares);
	return 0;
}

void records_doubt(struct store_rocks *store, int err)
{
	store->doubtful = true;
	store->doubtful_error = err == -ENOSPC ? err : -EIO;
	lock_get(&store->segments.lock);
	store->segments.keep_dead = true;
	lock_put(&store->segments.lock);
}

int records_make_sure(struct store_rocks *store)
{
	uint64_t now = clock_ns();
	int err;

	if (!store->doubtful)
		return 0;
	if (store->reopened_at_ns && now - store->reopened_at_ns < REOPEN_INTERVAL_NS)
		return store->doubtful_error;
	store->reopened_at_ns = now;
	err = headroom_check(&store->headroom, HEADROOM_RECORDS); /* to open it has to write */
	if (!err)
		err = rocks_reopen(store->rocks);
	if (!err)
		err = records_load(store);
	if (err < 0)
		return err == -ENOSPC ? err : -EIO;
	pthread_mutex_lock(&store->sync);
	store->log_failed = false;
	pthread_mutex_unlock(&store->sync);
	store->doubtful = false;
	if (!store->told_at_ns || now - store->told_at_ns > TELL_INTERVAL_NS) {
		store->told_at_ns = now;
		log_warn("store %s: the database was reopened after an error", store->dir);
	}
	return 0;
}

int records_write(struct store_rocks *store, const struct rocks_change *changes, size_t count, bool durable)
{
	int err = rocks_write(store->rocks, changes, count, durable);

	if (!err)
		return 0;
	records_doubt(store, err);
	err = records_make_sure(store);
	return err < 0 ? err : -EAGAIN;
}

static int check_version(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	uint32_t *version = arg;

	(void)key;
	(void)key_len;
	*version = 0;
	if (value_len == FORMAT_BYTES)
		memcpy(version, value, sizeof(*version));
	*version = le32toh(*version);
	return 1;
}

int records_upgrade(struct store_rocks *store)
{
	uint32_t number = htole32(RECORDS_FORMAT);
	struct rocks_change change = {
		ROCKS_INDEX, ROCKS_PUT, FORMAT_KEY, sizeof(FORMAT_KEY) - 1, &number, FORMAT_BYTES
	};
	int err;

	if (store->format == RECORDS_FORMAT)
		return 0;
	err = rocks_write(store->rocks, &change, 1, true);
	if (!err)
		store->format = RECORDS_FORMAT;
	return err;
}

/* One of an earlier version stays so until the first record is written; one of an unknown version is left alone. */
int records_open(struct store_rocks *store)
{
	static const struct rocks_range range = { FORMAT_KEY, sizeof(FORMAT_KEY) - 1, FORMAT_KEY, sizeof(FORMAT_KEY) };
	static const struct rocks_range all = { "", 0, NULL, 0 };
	uint32_t version = UINT32_MAX, any = UINT32_MAX;
	int err = rocks_walk(store->rocks, ROCKS_INDEX, &range, check_version, &version);

	if (err < 0)
		return err;
	if (err == 1 && version >= RECORDS_FORMAT_FIRST && version <= RECORDS_FORMAT) {
		store->format = version;
		return 0;
	}
	if (!err) { /* none: then there must be no records either */
		err = rocks_walk(store->rocks, ROCKS_INDEX, &all, check_version, &any);
		if (!err)
			return records_upgrade(store);
	}
	log_error("store %s: of format %u, this program knows %u to %u", store->dir, version, RECORDS_FORMAT_FIRST,
		  RECORDS_FORMAT);
	return err < 0 ? err : -EPROTONOSUPPORT;
}
