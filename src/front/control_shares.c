/* front/control_shares.c - see control_shares.h. */
#include "front/control_shares.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "engine/tenant.h"
#include "names/shares.h"

/* --- telling ----------------------------------------------------------------------------------------------------- */

static uint64_t or_fallback(enum share_id id, uint64_t value)
{
	uint64_t fallback = share_spec(id)->fallback;

	return value == SHARE_NONE && fallback ? fallback : value;
}

static json_t *share_object(const struct share *share, const enum share_id *only, bool effective)
{
	json_t *object = json_object();
	char text[SHARE_TEXT_LEN];

	for (unsigned int i = 0; i < SHARE_COUNT; i++) {
		enum share_id id = (enum share_id)i;
		uint64_t value = effective ? or_fallback(id, share->value[i]) : share->value[i];

		if (value != SHARE_NONE && (!only || *only == id))
			json_object_set_new(object, share_spec(id)->name, json_string(share_format(id, value, text)));
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
	if (!err && (json_object_set_new(object, "shares", share_object(&own, only, false)) ||
		     json_object_set_new(object, "effective", share_object(&effective, only, true)) ||
		     json_object_set_new(object, "defaults", defaults_array(&own)) ||
		     json_object_set_new(object, "usage", usage_object(request, &effective))))
		err = -ENOMEM;
	if (err)
		json_decref(object);
	else
		*ret = object;
	return err;
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
}

/* --- setting ----------------------------------------------------------------------------------------------------- */

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
