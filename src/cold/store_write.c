/* cold/store_write.c - changing what is stored: puts, moves of the collector, removals.
 *
 * Append, commit, publish: values are written to segments by each thread for itself; then one thread at a time writes
 * the index records and enters the new places in the table. What was replaced becomes garbage of its segment. A
 * reservation in a segment stays pending from the append until it is published or given up, so that the segment cannot
 * go in between.
 */
#include "cold/store_write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cold/garbage.h"
#include "cold/index.h"
#include "cold/owners.h"
#include "cold/records.h"
#include "cold/store_sync.h"

/* A removal of more values than that is one range, of fewer so many records. */
#define SINGLE_REMOVALS 64U

static int failed(struct store_rocks *store, int err, const char *doing)
{
	return store_error_note(&store->errors, err, store->dir, doing, NULL);
}

static int may_write(struct store_rocks *store, enum headroom_use use)
{
	int err = store_sync_room(store, use);

	if (use == HEADROOM_VALUES)
		atomic_store(&store->full, err == -ENOSPC);
	return err;
}

/* --- putting: append, commit, publish --- */

struct appended {
	struct place place;
	uint64_t origin;         /* the file that put the value */
	struct segment *segment; /* NULL: not appended yet */
	bool ends_run;           /* the last value of one reservation: settles it */
	bool skip;               /* moved or removed meanwhile: not to be published */
};

struct put {
	struct store_rocks *store;
	const struct store_write *move;
	struct appended *appended;
};

/* The value of the item before, under the key of another file: it is moved once for all of them. */
static bool repeats(const struct store_write *move, size_t i)
{
	return i && move->places && place_equal(move->places[i], move->places[i - 1]);
}

/* Values from first on that one transfer takes: their number, and the bytes they span. */
static size_t measure(const struct put *put, size_t first, uint64_t limit, uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	size_t i = first;

	for (; i < put->move->count; i++) {
		uint32_t span = repeats(put->move, i) ? 0 : place_span(put->move->items[i].length_bytes);

		if (bytes + span > limit)
			break;
		bytes += span;
	}
	*ret_bytes = bytes;
	return i - first;
}

/* (lock) Values that move may need what is left of this segment; new ones wait until there is room for both. */
static bool keeps_off(const struct segments *segments, enum headroom_use use)
{
	return use == HEADROOM_VALUES && segments->current && segments->current->scarce;
}

static void end_scarcity(struct segments *segments)
{
	LOCK_SCOPE(&segments->lock);

	if (segments->current)
		segments->current->scarce = false;
}

static int make_segment(struct store_rocks *store, enum headroom_use use, uint64_t need)
{
	bool scarce = use != HEADROOM_VALUES && headroom_check(&store->headroom, HEADROOM_VALUES) < 0;

	return segments_grow(&store->segments, need, scarce);
}

/* New segments are where space is used up: there the disk is looked at. Also before new values go to a segment that the
 * collector made for itself when there was little: each put would take the rest of it, and the collector another one,
 * until neither had any. */
static int reserve(struct store_rocks *store, enum headroom_use use, uint64_t need, uint64_t want, struct segment **ret,
		   uint32_t *ret_offset, uint32_t *ret_bytes)
{
	int err;

	do {
		uint64_t disk, memory;
		bool scarce;

		lock_get(&store->segments.lock);
		scarce = keeps_off(&store->segments, use);
		err = scarce ? -EAGAIN : segments_reserve(&store->segments, need, want, ret, ret_offset, ret_bytes);
		lock_put(&store->segments.lock);
		if (err != -EAGAIN)
			return err;
		rocks_figures(store->rocks, &disk, &memory);
		atomic_store(&store->headroom.index_bytes, disk);
		err = may_write(store, use);
		if (!err && scarce)
			end_scarcity(&store->segments);
		else if (!err)
			err = make_segment(store, use, need);
	} while (!err);
	return err;
}

static void settle(struct store_rocks *store, struct segment *segment)
{
	lock_get(&store->segments.lock);
	segments_settled(&store->segments, segment);
	garbage_poke(store);
	lock_put(&store->segments.lock);
}

/* What was reserved could not be written. */
static void give_up(struct store_rocks *store, struct segment *segment)
{
	bool cut;

	lock_get(&store->segments.lock);
	cut = segments_seal(&store->segments, segment);
	lock_put(&store->segments.lock);
	if (cut)
		segments_trim(&store->segments, segment);
	settle(store, segment);
}

/* Appends values from first on, as many as one transfer and the segment take. */
static int append_some(struct put *put, void *buffer, size_t first, size_t *ret_count)
{
	const struct store_item *items = put->move->items;
	struct store_rocks *store = put->store;
	struct segment *segment = NULL;
	uint32_t offset, granted;
	uint64_t need, used = 0;
	size_t count;
	int err;

	if (!measure(put, first, STORE_TRANSFER_BYTES, &need))
		return -EINVAL;
	err = reserve(store, put->move->room, place_span(items[first].length_bytes), need, &segment, &offset, &granted);
	if (err < 0)
		return err;
	count = measure(put, first, granted, &used);
	for (size_t i = first, at = 0; i < first + count; i++) {
		uint32_t length = items[i].length_bytes, span = place_span(length);

		if (repeats(put->move, i)) {
			put->appended[i].place = put->appended[i - 1].place;
			continue;
		}
		if (length)
			memcpy((char *)buffer + at, items[i].value, length);
		memset((char *)buffer + at + length, 0, span - length);
		put->appended[i].place = (struct place){ segment->id, (uint32_t)(offset + at), length };
		at += span;
	}
	memset((char *)buffer + used, 0, granted - used);
	err = segments_write(&store->segments, put->move->use, segment, buffer, granted, offset);
	if (err < 0) {
		give_up(store, segment);
		return err;
	}
	for (size_t i = first; i < first + count; i++)
		put->appended[i].segment = segment;
	put->appended[first + count - 1].ends_run = true;
	*ret_count = count;
	return 0;
}

static int append_all(struct put *put)
{
	void *buffer = buffers_get(&put->store->transfers);
	size_t count = 0;
	int err = buffer ? 0 : -ENOMEM;

	for (size_t first = 0; !err && first < put->move->count; first += count)
		err = append_some(put, buffer, first, &count);
	buffers_put(&put->store->transfers, buffer);
	return err;
}

static bool moved_meanwhile(const struct put *put, size_t i)
{
	struct place now;

	return !places_get(&put->store->places, put->move->items[i].key, &now) ||
	       !place_equal(now, put->move->places[i]);
}

/* A value that began to be shared after it was listed stays where it is, with all its records: without the new ones it
 * would be copied, and be there twice. Returns how many items it has. */
static size_t select_value(struct put *put, size_t first)
{
	const struct share *share = shares_find(&put->store->shares, put->move->places[first]);
	size_t end = first, records = 0;

	do {
		put->appended[end].skip = moved_meanwhile(put, end);
		records += !put->appended[end].skip;
		end++;
	} while (end < put->move->count && repeats(put->move, end));
	if (share && share->refs != records && share->refs <= STORE_WRITE_VALUES)
		for (size_t i = first; i < end; i++)
			put->appended[i].skip = true;
	return end - first;
}

/* Which values are (still) to be published, whose they are, and room for them in the tables. */
static int select_values(struct put *put)
{
	struct store_rocks *store = put->store;
	LOCK_SCOPE(&store->segments.lock);
	size_t shared = 0;

	for (size_t i = 0; put->move->places && i < put->move->count;)
		i += select_value(put, i);

	for (size_t i = 0; i < put->move->count; i++) {
		struct store_key key = put->move->items[i].key;
		struct appended *appended = &put->appended[i];
		int err = 0;

		appended->origin = key.ino;
		if (!appended->skip)
			err = places_reserve(&store->places, key);
		if (err < 0)
			return err;
		if (put->move->places)
			appended->origin = owners_origin(store, key, put->move->places[i]);
		shared += appended->origin != key.ino || repeats(put->move, i);
	}
	return shared ? shares_reserve(&store->shares, shared) : 0;
}

struct record_room {
	uint8_t key[INDEX_KEY_BYTES];
	struct index_record record;
};

static int write_index(struct put *put, struct rocks_change *changes, struct record_room *room)
{
	size_t count = 0, length;
	int err = records_upgrade(put->store);

	if (err < 0)
		return err;
	for (size_t i = 0; i < put->move->count; i++) {
		const struct store_item *item = &put->move->items[i];

		if (put->appended[i].skip)
			continue;
		index_key(item->key, room[count].key);
		length = index_pack(item->key, put->appended[i].place, put->appended[i].origin, item->value,
				    item->length_bytes, &room[count].record);
		changes[count] = (struct rocks_change){
			.family = ROCKS_INDEX,
			.kind = ROCKS_PUT,
			.key = room[count].key,
			.key_len = sizeof(room[count].key),
			.value = &room[count].record,
			.value_len = length,
		};
		count++;
	}
	return count ? records_write(put->store, changes, count, false) : 0;
}

static void publish(struct put *put)
{
	struct store_rocks *store = put->store;
	LOCK_SCOPE(&store->segments.lock);

	/* Entries first: whoever uses a value then is counted there. */
	for (size_t i = 0; i < put->move->count; i++) {
		const struct appended *appended = &put->appended[i];

		if (!appended->skip && (appended->origin != put->move->items[i].key.ino || repeats(put->move, i)))
			shares_add(&store->shares, appended->place, appended->origin, 0);
	}
	for (size_t i = 0; i < put->move->count; i++) {
		const struct appended *appended = &put->appended[i];
		struct place old;

		if (appended->skip)
			continue;
		owners_use(store, appended->place);
		if (places_set(&store->places, put->move->items[i].key, appended->place, &old))
			owners_drop(store, old);
	}
	garbage_poke(store);
}

/* The commit mutex is held. */
static int commit(struct put *put)
{
	CLEANUP_FREE struct rocks_change *changes = calloc(put->move->count, sizeof(*changes));
	CLEANUP_FREE struct record_room *room = calloc(put->move->count, sizeof(*room));
	int err;

	if (!changes || !room)
		return -ENOMEM;
	err = records_make_sure(put->store);
	if (!err)
		err = store_sync_room(put->store, HEADROOM_RECORDS);
	for (int attempt = 0; !err || (err == -EAGAIN && attempt < 2); attempt++) {
		err = select_values(put);
		if (!err)
			err = write_index(put, changes, room);
		if (!err) {
			publish(put);
			return 0;
		}
	}
	return err == -EAGAIN ? put->store->doubtful_error : err;
}

static void settle_all(struct put *put)
{
	for (size_t i = 0; i < put->move->count; i++) {
		if (put->appended[i].segment && put->appended[i].ends_run)
			settle(put->store, put->appended[i].segment);
	}
}

/* A record may become durable at any time from its commit on, and what it named before was durable. */
static bool must_be_durable(struct store_rocks *store, const struct store_write *move)
{
	LOCK_SCOPE(&store->segments.lock);

	return move->places || careful_any(&store->careful, move->items, move->count);
}

/* A sync that passes says nothing of a segment that another one has made suspect meanwhile. */
static int make_durable(struct put *put)
{
	struct store_rocks *store = put->store;
	int err = store_sync_values(store);
	LOCK_SCOPE(&store->segments.lock);

	for (size_t i = 0; !err && i < put->move->count; i++) {
		if (put->appended[i].segment && put->appended[i].segment->suspect)
			err = -EIO;
	}
	return err;
}

int store_write_move(struct store_rocks *store, const struct store_write *move)
{
	CLEANUP_FREE struct appended *appended = calloc(move->count, sizeof(*appended));
	struct put put = { store, move, appended };
	int err;

	if (!appended)
		return -ENOMEM;
	err = append_all(&put);
	if (!err && must_be_durable(store, move))
		err = make_durable(&put);
	if (!err) {
		pthread_mutex_lock(&store->commit);
		err = commit(&put);
		pthread_mutex_unlock(&store->commit);
	}
	settle_all(&put);
	return err;
}

static void hurry(struct store_rocks *store)
{
	LOCK_SCOPE(&store->segments.lock);

	store->hurry = true;
	garbage_poke(store);
}

int store_write_put(struct store *base, enum store_use use, const struct store_item *items, size_t count)
{
	struct store_rocks *store = store_rocks_of(base);
	struct store_write move = { items, NULL, count, HEADROOM_VALUES, use };
	uint64_t bytes = 0;
	int err;

	if (!count)
		return 0;
	for (size_t i = 0; i < count; i++) {
		if (items[i].length_bytes > store->value_max_bytes)
			return -EINVAL;
		bytes += items[i].length_bytes;
	}
	err = store_write_move(store, &move);
	if (err == -ENOSPC) {
		atomic_store(&store->full, true);
		hurry(store);
	}
	if (err < 0)
		return failed(store, err, "cannot store blocks");
	atomic_store(&store->full, false);
	store_error_clear(&store->errors, store->dir);
	atomic_fetch_add(&store->put_blocks, count);
	atomic_fetch_add(&store->put_bytes, bytes);
	return 0;
}

/* --- removing --- */

struct removal {
	struct store_rocks *store;
	uint64_t ino, first, last;
	uint64_t blocks[SINGLE_REMOVALS]; /* those that are there, if they are few */
	size_t count;                     /* SINGLE_REMOVALS + 1: more */
};

static void find_present(struct removal *removal)
{
	LOCK_SCOPE(&removal->store->segments.lock);
	struct store_key key = { removal->ino, removal->first };
	struct place place;

	removal->count = 0;
	while (places_next(&removal->store->places, &key, removal->last, &place)) {
		if (removal->count < SINGLE_REMOVALS)
			removal->blocks[removal->count] = key.block;
		if (removal->count++ == SINGLE_REMOVALS || key.block == removal->last)
			break;
		key.block++;
	}
}

static int write_singles(const struct removal *removal)
{
	struct rocks_change changes[SINGLE_REMOVALS];
	uint8_t keys[SINGLE_REMOVALS][INDEX_KEY_BYTES];

	for (size_t i = 0; i < removal->count; i++) {
		index_key((struct store_key){ removal->ino, removal->blocks[i] }, keys[i]);
		changes[i] = (struct rocks_change){ ROCKS_INDEX, ROCKS_DELETE, keys[i], sizeof(keys[i]), NULL, 0 };
	}
	return records_write(removal->store, changes, removal->count, false);
}

static int write_range(const struct removal *removal)
{
	uint8_t first[INDEX_KEY_BYTES], end[INDEX_KEY_BYTES + 1];
	struct rocks_change change = { ROCKS_INDEX, ROCKS_DELETE_RANGE, first, sizeof(first), end, sizeof(end) };

	index_key((struct store_key){ removal->ino, removal->first }, first);
	index_key((struct store_key){ removal->ino, removal->last }, end);
	end[INDEX_KEY_BYTES] = 0; /* right behind the last key, also behind the last there is */
	return records_write(removal->store, &change, 1, false);
}

static void drop_place(void *arg, struct store_key key, struct place place)
{
	(void)key;
	owners_drop(arg, place);
}

/* In pieces: gets need the lock. */
static void forget_places(struct removal *removal)
{
	struct store_rocks *store = removal->store;
	uint64_t last = removal->last;

	lock_get(&store->segments.lock);
	while (places_remove_some(&store->places, removal->ino, removal->first, &last, drop_place, store))
		lock_pass(&store->segments.lock);
	garbage_poke(store);
	lock_put(&store->segments.lock);
}

/* The commit mutex is held. What is not there costs nothing. */
static int remove_range(struct removal *removal)
{
	int err = records_make_sure(removal->store);

	for (int attempt = 0; !err || (err == -EAGAIN && attempt < 2); attempt++) {
		find_present(removal);
		if (!removal->count)
			return 0;
		err = store_sync_room(removal->store, HEADROOM_RECORDS);
		if (!err)
			err = removal->count <= SINGLE_REMOVALS ? write_singles(removal) : write_range(removal);
		if (!err) {
			forget_places(removal);
			return 0;
		}
	}
	return err == -EAGAIN ? removal->store->doubtful_error : err;
}

int store_write_remove(struct store *base, uint64_t ino, uint64_t first, uint64_t count)
{
	struct store_rocks *store = store_rocks_of(base);
	struct removal removal = { .store = store, .ino = ino, .first = first };
	int err;

	if (!count)
		return 0;
	removal.last = count - 1 > UINT64_MAX - first ? UINT64_MAX : first + (count - 1);
	pthread_mutex_lock(&store->commit);
	err = remove_range(&removal);
	pthread_mutex_unlock(&store->commit);
	if (!err && !first && count == UINT64_MAX)
		store->base.ops->keep(base, ino, false);
	return err < 0 ? failed(store, err, "cannot remove blocks") : 0;
}
