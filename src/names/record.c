/* names/record.c - see record.h. The layout is docs/format/namespace.md's; offsets below are that table's. */
#include "names/record.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "cold/stores.h"

#define RECORD_VERSION 1
#define RECORD_INODE_VERSION 2
#define RECORD_SUPER_VERSION 2 /* 1 unless there are files in other stores */
#define OUTCOME_KEY_LEN 7
#define SHARE_HEAD_LEN 8
#define SHARE_ROW_LEN 16
#define SHARE_VERSION 2 /* only where a row has a flag; else 1 is written */
#define SHARE_FLAG_DEFAULT (1U << 0)
#define FLAG_DIRTY (1U << 0)
#define FLAG_LOST (1U << 1)
#define FLAG_KEPT (1U << 2)
#define FLAG_FELL_BACK (1U << 3)
#define FLAGS_1 (FLAG_DIRTY | FLAG_LOST) /* of version 1 */
#define FLAGS_KNOWN (FLAGS_1 | FLAG_KEPT | FLAG_FELL_BACK)

static void put32(uint8_t *at, uint32_t value)
{
	value = htole32(value);
	memcpy(at, &value, sizeof(value));
}

static void put64(uint8_t *at, uint64_t value)
{
	value = htole64(value);
	memcpy(at, &value, sizeof(value));
}

static uint32_t get32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static uint64_t get64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

/* Numbers in keys are big-endian, so that the store's order is theirs. */
static void put_key64(uint8_t *at, uint64_t value)
{
	value = htobe64(value);
	memcpy(at, &value, sizeof(value));
}

static uint64_t get_key64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return be64toh(value);
}

/* ---- batches ---- */

static struct meta_change *batch_add(struct record_batch *batch, char prefix, uint8_t **ret_value)
{
	size_t i = batch->count++;

	assert(i < RECORD_BATCH_MAX);
	batch->key[i][0] = (uint8_t)prefix;
	batch->change[i] = (struct meta_change){ .key = batch->key[i], .key_len = 1 };
	*ret_value = batch->value[i];
	return &batch->change[i];
}

static struct meta_change *batch_add_inode(struct record_batch *batch, uint64_t ino, uint8_t **ret_value)
{
	struct meta_change *change = batch_add(batch, RECORD_PREFIX_INODE, ret_value);

	put_key64((uint8_t *)change->key + 1, ino);
	change->key_len += 8;
	return change;
}

static struct meta_change *batch_add_entry(struct record_batch *batch, uint64_t parent, const char *name,
					   uint8_t **ret_value)
{
	struct meta_change *change = batch_add(batch, RECORD_PREFIX_ENTRY, ret_value);
	size_t len = strlen(name);

	assert(len <= NAME_MAX);
	put_key64((uint8_t *)change->key + 1, parent);
	memcpy((uint8_t *)change->key + 9, name, len);
	change->key_len += 8 + len;
	return change;
}

void record_batch_inode(struct record_batch *batch, uint64_t ino, const struct record_inode *inode)
{
	uint8_t *value;
	struct meta_change *change = batch_add_inode(batch, ino, &value);

	memset(value, 0, RECORD_INODE_LEN);
	value[0] = RECORD_INODE_VERSION;
	value[1] = (inode->dirty ? FLAG_DIRTY : 0) | (inode->lost ? FLAG_LOST : 0) | (inode->kept ? FLAG_KEPT : 0) |
		   (inode->fell_back ? FLAG_FELL_BACK : 0);
	put32(value + 4, inode->mode);
	put32(value + 8, inode->uid);
	put32(value + 12, inode->gid);
	put32(value + 16, inode->nlink);
	put64(value + 24, inode->size_bytes);
	put64(value + 32, inode->stored_bytes);
	put64(value + 40, (uint64_t)inode->atime.tv_sec);
	put64(value + 48, (uint64_t)inode->mtime.tv_sec);
	put64(value + 56, (uint64_t)inode->ctime.tv_sec);
	put32(value + 64, (uint32_t)inode->atime.tv_nsec);
	put32(value + 68, (uint32_t)inode->mtime.tv_nsec);
	put32(value + 72, (uint32_t)inode->ctime.tv_nsec);
	change->value = value;
	change->value_len = RECORD_INODE_LEN;
}

void record_batch_drop_inode(struct record_batch *batch, uint64_t ino)
{
	uint8_t *value;

	batch_add_inode(batch, ino, &value);
}

void record_batch_entry(struct record_batch *batch, uint64_t parent, const char *name, uint64_t child)
{
	uint8_t *value;
	struct meta_change *change = batch_add_entry(batch, parent, name, &value);

	put_key64(value, child);
	change->value = value;
	change->value_len = 8;
}

void record_batch_drop_entry(struct record_batch *batch, uint64_t parent, const char *name)
{
	uint8_t *value;

	batch_add_entry(batch, parent, name, &value);
}

void record_batch_super(struct record_batch *batch, uint64_t next_ino, bool many)
{
	uint8_t *value;
	struct meta_change *change = batch_add(batch, RECORD_PREFIX_SUPER, &value);

	memset(value, 0, RECORD_SUPER_LEN);
	value[0] = many ? RECORD_SUPER_VERSION : RECORD_VERSION;
	put64(value + 8, next_ino);
	change->value = value;
	change->value_len = RECORD_SUPER_LEN;
}

void record_batch_place(struct record_batch *batch, uint64_t ino, unsigned int store)
{
	uint8_t *value;
	struct meta_change *change = batch_add(batch, RECORD_PREFIX_PLACE, &value);

	stores_new_record(ino, store, (uint8_t *)change->key, value);
	change->key_len = STORES_KEY_BYTES;
	change->value = value;
	change->value_len = STORES_PLACE_BYTES;
}

static struct meta_change *batch_add_outcome(struct record_batch *batch, uint32_t session, uint16_t slot,
					     uint8_t **ret_value)
{
	struct meta_change *change = batch_add(batch, RECORD_PREFIX_OUTCOME, ret_value);

	session = htobe32(session);
	slot = htobe16(slot);
	memcpy((uint8_t *)change->key + 1, &session, sizeof(session));
	memcpy((uint8_t *)change->key + 5, &slot, sizeof(slot));
	change->key_len = OUTCOME_KEY_LEN;
	return change;
}

void record_batch_outcome(struct record_batch *batch, uint32_t session, uint16_t slot, uint64_t request, uint64_t ino)
{
	uint8_t *value;
	struct meta_change *change = batch_add_outcome(batch, session, slot, &value);

	memset(value, 0, RECORD_OUTCOME_LEN);
	value[0] = RECORD_VERSION;
	put64(value + 8, request);
	put64(value + 16, ino);
	change->value = value;
	change->value_len = RECORD_OUTCOME_LEN;
}

void record_batch_drop_outcome(struct record_batch *batch, uint32_t session, uint16_t slot)
{
	uint8_t *value;

	batch_add_outcome(batch, session, slot, &value);
}

void record_batch_share(struct record_batch *batch, uint64_t ino, const struct share *share)
{
	uint8_t *value;
	struct meta_change *change = batch_add(batch, RECORD_PREFIX_SHARE, &value);
	uint8_t *at = value + SHARE_HEAD_LEN;

	put_key64((uint8_t *)change->key + 1, ino);
	change->key_len += 8;
	memset(value, 0, RECORD_SHARE_MAX);
	value[0] = RECORD_VERSION;
	for (unsigned int i = 0; i < SHARE_COUNT; i++) {
		if (share->value[i] == SHARE_NONE)
			continue;
		value[1]++;
		at[0] = share_spec((enum share_id)i)->number;
		at[1] = share->by_default[i] ? SHARE_FLAG_DEFAULT : 0;
		if (at[1])
			value[0] = SHARE_VERSION;
		put64(at + 8, share->value[i]);
		at += SHARE_ROW_LEN;
	}
	if (!value[1])
		return;
	change->value = value;
	change->value_len = (size_t)(at - value);
}

void record_batch_day(struct record_batch *batch, uint64_t ino, const struct record_day *day)
{
	uint8_t *value;
	struct meta_change *change = batch_add(batch, RECORD_PREFIX_DAY, &value);

	put_key64((uint8_t *)change->key + 1, ino);
	change->key_len += 8;
	if (!day)
		return;
	memset(value, 0, RECORD_DAY_LEN);
	value[0] = RECORD_VERSION;
	put64(value + 8, (uint64_t)day->saved_s);
	put64(value + 16, day->into_hour_ns);
	for (int i = 0; i < RECORD_DAY_HOURS; i++)
		put64(value + 24 + (size_t)i * 8, day->bytes[i]);
	change->value = value;
	change->value_len = RECORD_DAY_LEN;
}

int record_batch_put(const struct record_batch *batch, struct store *store, bool durable)
{
	return store->meta->put(store, batch->change, batch->count, durable);
}

/* ---- parsing ---- */

static int parse_version(const uint8_t *value, size_t len, size_t expected_len, uint8_t newest)
{
	if (len < 1)
		return -EBADMSG;
	if (value[0] == 0 || value[0] > newest)
		return -EPROTONOSUPPORT;
	return len == expected_len ? 0 : -EBADMSG;
}

static int parse_time(const uint8_t *seconds, const uint8_t *nanoseconds, struct timespec *ret)
{
	ret->tv_sec = (time_t)get64(seconds);
	ret->tv_nsec = get32(nanoseconds);
	return ret->tv_nsec < 1000000000 ? 0 : -EBADMSG;
}

int record_parse_inode(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_ino,
		       struct record_inode *ret)
{
	const uint8_t *v = value;
	struct record_inode inode;
	int err = parse_version(v, value_len, RECORD_INODE_LEN, RECORD_INODE_VERSION);

	if (err < 0)
		return err;
	if (key_len != 9 || get_key64((const uint8_t *)key + 1) == 0 ||
	    (v[1] & ~(v[0] == 1 ? FLAGS_1 : FLAGS_KNOWN)) != 0)
		return -EBADMSG;
	inode = (struct record_inode){
		.mode = get32(v + 4),
		.uid = get32(v + 8),
		.gid = get32(v + 12),
		.nlink = get32(v + 16),
		.size_bytes = get64(v + 24),
		.stored_bytes = get64(v + 32),
		.dirty = v[1] & FLAG_DIRTY,
		.lost = v[1] & FLAG_LOST,
		.kept = v[1] & FLAG_KEPT,
		.fell_back = v[1] & FLAG_FELL_BACK,
	};
	if (parse_time(v + 40, v + 64, &inode.atime) || parse_time(v + 48, v + 68, &inode.mtime) ||
	    parse_time(v + 56, v + 72, &inode.ctime))
		return -EBADMSG;
	if (!(S_ISREG(inode.mode) || S_ISDIR(inode.mode)) || inode.size_bytes > INT64_MAX ||
	    (v[0] == 1 && inode.size_bytes % 4096 != 0))
		return -EBADMSG;
	*ret_ino = get_key64((const uint8_t *)key + 1);
	*ret = inode;
	return 0;
}

int record_parse_entry(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_parent,
		       char ret_name[static NAME_MAX + 1], uint64_t *ret_child)
{
	const uint8_t *k = key;

	if (key_len < 10 || key_len > RECORD_KEY_MAX || value_len != 8)
		return -EBADMSG;
	if (memchr(k + 9, '/', key_len - 9) || memchr(k + 9, '\0', key_len - 9))
		return -EBADMSG;
	*ret_parent = get_key64(k + 1);
	memcpy(ret_name, k + 9, key_len - 9);
	ret_name[key_len - 9] = '\0';
	*ret_child = get_key64(value);
	return 0;
}

int record_parse_super(const void *value, size_t value_len, uint64_t *ret_next_ino, bool *ret_many)
{
	int err = parse_version(value, value_len, RECORD_SUPER_LEN, RECORD_SUPER_VERSION);

	if (err < 0)
		return err;
	*ret_next_ino = get64((const uint8_t *)value + 8);
	*ret_many = *(const uint8_t *)value == RECORD_SUPER_VERSION;
	return 0;
}

int record_parse_outcome(const void *key, size_t key_len, const void *value, size_t value_len, uint32_t *ret_session,
			 uint16_t *ret_slot, uint64_t *ret_request, uint64_t *ret_ino)
{
	const uint8_t *v = value;
	uint32_t session;
	uint16_t slot;
	int err = parse_version(v, value_len, RECORD_OUTCOME_LEN, RECORD_VERSION);

	if (err < 0)
		return err;
	if (key_len != OUTCOME_KEY_LEN)
		return -EBADMSG;
	memcpy(&session, (const uint8_t *)key + 1, sizeof(session));
	memcpy(&slot, (const uint8_t *)key + 5, sizeof(slot));
	*ret_session = be32toh(session);
	*ret_slot = be16toh(slot);
	*ret_request = get64(v + 8);
	*ret_ino = get64(v + 16);
	return 0;
}

int record_parse_day(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_ino,
		     struct record_day *ret)
{
	const uint8_t *v = value;
	int err = parse_version(v, value_len, RECORD_DAY_LEN, RECORD_VERSION);

	if (key_len == 9)
		*ret_ino = get_key64((const uint8_t *)key + 1);
	if (err < 0)
		return err;
	if (key_len != 9 || get_key64((const uint8_t *)key + 1) == 0 || get64(v + 16) >= 3600 * UINT64_C(1000000000))
		return -EBADMSG;
	ret->saved_s = (int64_t)get64(v + 8);
	ret->into_hour_ns = get64(v + 16);
	for (int i = 0; i < RECORD_DAY_HOURS; i++)
		ret->bytes[i] = get64(v + 24 + (size_t)i * 8);
	return 0;
}

int record_parse_share(const void *key, size_t key_len, const void *value, size_t value_len, uint64_t *ret_ino,
		       struct share *ret)
{
	const uint8_t *v = value, *at = v + SHARE_HEAD_LEN;
	struct share share = share_nothing();
	enum share_id id;

	if (value_len < SHARE_HEAD_LEN || key_len != 9 || get_key64((const uint8_t *)key + 1) == 0)
		return -EBADMSG;
	if (v[0] != RECORD_VERSION && v[0] != SHARE_VERSION)
		return -EPROTONOSUPPORT;
	if (!v[1] || value_len != SHARE_HEAD_LEN + (size_t)v[1] * SHARE_ROW_LEN)
		return -EBADMSG;
	for (unsigned int i = 0; i < v[1]; i++, at += SHARE_ROW_LEN) {
		if (share_of_number(at[0], &id))
			return -EPROTONOSUPPORT;
		if (share.value[id] != SHARE_NONE || !share_may_be(id, get64(at + 8)) || at[1] & ~SHARE_FLAG_DEFAULT)
			return -EBADMSG;
		share.by_default[id] = v[0] == SHARE_VERSION && at[1];
		share.value[id] = get64(at + 8);
	}
	if (!share_makes_sense(&share))
		return -EBADMSG;
	*ret_ino = get_key64((const uint8_t *)key + 1);
	*ret = share;
	return 0;
}
