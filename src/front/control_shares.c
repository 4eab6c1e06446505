/* front/control_shares.c - see control_shares.h. */
#include "front/control_shares.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "cold/stores.h"
#include "engine/engine.h"
#include "engine/tenant.h"
#include "names/names.h"
#include "names/shares.h"

/* --- telling ----------------------------------------------------------------------------------------------------- */

static uint64_t or_fallback(enum share_id id, uint64_t value)
{
	uint64_t fallback = share_spec(id)->fallback;

	return value == SHARE_NONE && fallback ? fallback : value;
}

/* SHARE_TEXT_LEN or STORES_NAME_MAX and the end, whichever is more. */
#define VALUE_LEN (SHARE_TEXT_LEN > STORES_NAME_MAX + 1 ? SHARE_TEXT_LEN : STORES_NAME_MAX + 1)

static const char *value_text(const struct control_request *request, enum share_id id, uint64_t value,
			      char buf[static VALUE_LEN])
{
	struct store *store = request->config->store;

	if (share_spec(id)->kind == SHARE_KIND_STORE && value != SHARE_NONE)
		snprintf(buf, VALUE_LEN, "%s",
			 store && value < stores_count(store) ? stores_name(store, (unsigned int)value)
							      : STORES_DEFAULT);
	else
		share_format(id, value, buf);
	return buf;
}

static json_t *share_object(const struct control_request *request, const struct share *share, const enum share_id *only,
			    bool effective)
{
	json_t *object = json_object();
	char text[VALUE_LEN];

	for (unsigned int i = 0; i < SHARE_COUNT; i++) {
		enum share_id id = (enum share_id)i;
		uint64_t value = effective ? or_fallback(id, share->value[i]) : share->value[i];

		if (value != SHARE_NONE && (!only || *only == id))
			json_object_set_new(object, share_spec(id)->name,
					    json_string(value_text(request, id, value, text)));
	}
	return object;
}

static void set_limit(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, value == SHARE_NONE ? json_null() : json_integer((json_int_t)value));
}

/* What is used and left of the bounds that hold. all: null where there is none, else nothing. */
static void set_usage(const struct control_request *request, uint64_t ino, const struct share *effective, bool all,
		      json_t *object)
{
	bool disk = effective->value[SHARE_DISK_MAX] != SHARE_NONE,
	     day = effective->value[SHARE_WRITE_DAY] != SHARE_NONE;
	struct quota_figures figures;

	if (shares_usage(request->config->ns, ino, &figures))
		return;
	if (disk || all)
		set_limit(object, "disk_used_bytes", disk ? figures.stored_bytes : SHARE_NONE);
	if (disk || all)
		set_limit(object, "disk_left_bytes", figures.stored_left_bytes);
	if (day || all)
		set_limit(object, "cold_write_day_used_bytes", day ? figures.written_bytes : SHARE_NONE);
	if (day || all)
		set_limit(object, "cold_write_day_left_bytes", figures.written_left_bytes);
	if (day || all)
		set_limit(object, "cold_write_day_next_free_ns", figures.next_free_ns);
}

/* Names of what came from an option of the mount. */
static json_t *defaults_array(const struct share *own)
{
	json_t *array = json_array();

	for (unsigned int i = 0; i < SHARE_COUNT; i++)
		if (own->value[i] != SHARE_NONE && own->by_default[i])
			json_array_append_new(array, json_string(share_spec((enum share_id)i)->name));
	return array;
}

static json_t *usage_object(const struct control_request *request, const struct share *effective)
{
	json_t *object = json_object();

	set_usage(request, request->ino, effective, false, object);
	return object;
}

int control_shares_tell(struct control_request *request, const enum share_id *only, json_t *object, json_t **ret)
{
	struct share own, effective;
	int err = shares_get(request->config->ns, request->ino, &own);

	if (!err)
		err = shares_effective(request->config->ns, request->ino, &effective);
	if (!err && (json_object_set_new(object, "shares", share_object(request, &own, only, false)) ||
		     json_object_set_new(object, "effective", share_object(request, &effective, only, true)) ||
		     json_object_set_new(object, "defaults", defaults_array(&own)) ||
		     json_object_set_new(object, "usage", usage_object(request, &effective))))
		err = -ENOMEM;
	if (err)
		json_decref(object);
	else
		*ret = object;
	return err;
}

/* Of the size of the file: blocks beyond its end move as well, and are not told. */
static uint64_t moved_bytes(const struct control_request *request, uint64_t ino, const struct stores_where *where)
{
	uint64_t block_bytes = engine_block_bytes(request->config->engine), blocks, first, last;
	struct stat attr;

	if (ns_getattr(request->config->ns, ino, &attr))
		return 0;
	blocks = ((uint64_t)attr.st_size + block_bytes - 1) / block_bytes;
	first = where->first < blocks ? where->first : blocks;
	last = where->count > blocks - first ? blocks : first + where->count;
	if (first == last)
		return 0;
	last *= block_bytes;
	return (last < (uint64_t)attr.st_size ? last : (uint64_t)attr.st_size) - first * block_bytes;
}

/* Where what is cold of a file is, and how far it has come if it moves. */
static void stores_object(const struct control_request *request, uint64_t ino, json_t *object)
{
	struct store *store = request->config->store;
	struct stores_where where = { .here = true };
	const char *name = STORES_DEFAULT;

	if (store) {
		stores_where(store, ino, &where);
		name = stores_name(store, where.at);
	}
	json_object_set_new(object, "store", json_string(name));
	json_object_set_new(object, "store_here", json_boolean(where.here));
	json_object_set_new(object, "store_from",
			    where.at == where.from ? json_null() : json_string(stores_name(store, where.from)));
	json_object_set_new(object, "store_moved_bytes",
			    where.at == where.from ? json_null()
						   : json_integer((json_int_t)moved_bytes(request, ino, &where)));
	json_object_set_new(object, "store_error", where.error ? json_string(strerror(-where.error)) : json_null());
}

void control_shares_figures(const struct control_request *request, uint64_t ino, json_t *object)
{
	struct share share;
	uint64_t min, max;

	if (shares_effective(request->config->ns, ino, &share))
		share = share_nothing();
	min = share.value[SHARE_DRAM_MIN];
	max = share.value[SHARE_DRAM_MAX];
	json_object_set_new(object, "dram_min_bytes", json_integer(min == SHARE_NONE ? 0 : (json_int_t)min));
	set_limit(object, "dram_max_bytes", max);
	json_object_set_new(object, "dram_weight",
			    json_integer((json_int_t)or_fallback(SHARE_DRAM_WEIGHT, share.value[SHARE_DRAM_WEIGHT])));
	set_limit(object, "cold_read_iops", share.value[SHARE_READ_IOPS]);
	set_limit(object, "cold_read_bps", share.value[SHARE_READ_BPS]);
	set_limit(object, "cold_write_bps", share.value[SHARE_WRITE_BPS]);
	set_limit(object, "cold_write_day_bytes", share.value[SHARE_WRITE_DAY]);
	set_limit(object, "disk_max_bytes", share.value[SHARE_DISK_MAX]);
	set_usage(request, ino, &share, true, object);
	stores_object(request, ino, object);
}

/* --- setting ----------------------------------------------------------------------------------------------------- */

/* A store by its name, which files may go to. */
static int parse_store(struct control_request *request, const char *text, uint64_t *ret)
{
	struct store *store = request->config->store;
	unsigned int index;

	if (!strcmp(text, "none")) {
		*ret = SHARE_NONE;
		return 0;
	}
	if (!store || stores_find(store, text, &index))
		return control_request_fail(request, -ENOENT,
					    "store: %.64s: the pool has no such store; mount it with store.%.64s=DIR",
					    text, text);
	if (!stores_here(store, index))
		return control_request_fail(request, -ENODEV,
					    "store: %s: is not here; mount the pool with store.%s=DIR", text, text);
	*ret = index;
	return 0;
}

/* JSON has each key once, so that there are at most SHARE_COUNT. */
static int parse_changes(struct control_request *request, json_t *shares, struct shares_change change[SHARE_COUNT],
			 size_t *ret_count)
{
	size_t count = 0;
	const char *key;
	json_t *value;

	if (!json_object_size(shares))
		return control_request_fail(request, -EINVAL, "shares is an object with at least one key");
	json_object_foreach(shares, key, value) {
		const char *text = json_string_value(value);
		int err = share_find(key, &change[count].id);

		if (err)
			return control_request_fail(request, err, "%.64s: no such share", key);
		if (!text)
			return control_request_fail(request, -EINVAL, "%.64s: its value is a string", key);
		if (share_spec(change[count].id)->kind == SHARE_KIND_STORE) {
			err = parse_store(request, text, &change[count].value);
			if (err)
				return err;
			count++;
			continue;
		}
		err = share_parse(change[count].id, text, &change[count].value);
		if (err)
			return control_request_fail(request, err, "%.64s: %.64s: not a value it can have", key, text);
		count++;
	}
	*ret_count = count;
	return 0;
}

/* Not more than there are: what is named can be had. */
static char *left_text(uint64_t bytes, char buf[static SHARE_TEXT_LEN])
{
	char text[SIZE_TEXT_LEN];
	uint64_t back;

	if (!size_parse(size_format(bytes, text), &back) && back <= bytes)
		snprintf(buf, SHARE_TEXT_LEN, "%s", text);
	else
		snprintf(buf, SHARE_TEXT_LEN, "%llu", (unsigned long long)bytes);
	return buf;
}

/* Why shares_set() refused it. */
static int refuse(struct control_request *request, int err, const struct shares_change *change, size_t count,
		  uint64_t left)
{
	char min[SHARE_TEXT_LEN], other[SHARE_TEXT_LEN];
	struct share share;

	if ((err != -EINVAL && err != -EDQUOT) || shares_get(request->config->ns, request->ino, &share))
		return err;
	for (size_t i = 0; i < count; i++)
		share.value[change[i].id] = change[i].value;
	share_format(SHARE_DRAM_MIN, share.value[SHARE_DRAM_MIN], min);
	share_format(SHARE_DRAM_MAX, share.value[SHARE_DRAM_MAX], other);
	if (err == -EINVAL && share_makes_sense(&share))
		return control_request_fail(request, err, "dram.max: %s is less than what is promised below it", other);
	if (err == -EINVAL)
		return control_request_fail(request, err, "dram.min: %s is above dram.max, which is %s", min, other);
	return control_request_fail(request, err, "dram.min: %s is more than can be promised: %s are left", min,
				    left_text(left, other));
}

int control_shares_set(struct control_request *request, json_t *shares, json_t **ret)
{
	struct shares_change change[SHARE_COUNT];
	uint64_t promisable = tenant_promisable(request->config->engine), left = 0;
	size_t count = 0;
	int err = parse_changes(request, shares, change, &count);

	if (err)
		return err;
	err = shares_set(request->config->ns, request->ino, change, count, promisable, &left);
	if (err)
		return refuse(request, err, change, count, left);
	return control_shares_tell(request, NULL, json_object(), ret);
}
