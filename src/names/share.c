/* What can be said in a share, by the table in share.def. */
#include "names/share.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

static const struct share_spec specs[SHARE_COUNT] = {
#define SHARE(id, id_number, ...) [SHARE_##id] = { .number = (id_number), __VA_ARGS__ },
#include "names/share.def"
#undef SHARE
};

const struct share_spec *share_spec(enum share_id id)
{
	return &specs[id];
}

int share_find(const char *name, enum share_id *ret)
{
	for (unsigned int i = 0; i < SHARE_COUNT; i++)
		if (!strcmp(specs[i].name, name)) {
			*ret = (enum share_id)i;
			return 0;
		}
	return -ENOENT;
}

int share_of_number(uint8_t number, enum share_id *ret)
{
	for (unsigned int i = 0; i < SHARE_COUNT; i++)
		if (specs[i].number == number) {
			*ret = (enum share_id)i;
			return 0;
		}
	return -ENOENT;
}

/* "5000", "5K". */
static int parse_count(const char *text, uint64_t *ret)
{
	static const char units[] = "KMG";
	uint64_t count, scale = 1;
	const char *unit;
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	count = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		unit = strchr(units, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end);
		if (!unit || end[1])
			return -EINVAL;
		for (const char *at = units; at <= unit; at++)
			scale *= 1000;
	}
	return __builtin_mul_overflow(count, scale, ret) ? -ERANGE : 0;
}

bool share_may_be(enum share_id id, uint64_t value)
{
	return value >= specs[id].min && value <= specs[id].max;
}

bool share_may_be_default(enum share_id id)
{
	return id != SHARE_DRAM_MIN;
}

int share_parse(enum share_id id, const char *text, uint64_t *ret)
{
	const struct share_spec *spec = &specs[id];
	uint64_t value;
	int err;

	if (!strcmp(text, "none")) {
		*ret = SHARE_NONE;
		return 0;
	}
	if (spec->kind == SHARE_KIND_STORE)
		return -EINVAL;
	err = spec->kind == SHARE_KIND_BYTES ? size_parse(text, &value) : parse_count(text, &value);
	if (!err && !share_may_be(id, value))
		err = -ERANGE;
	if (!err)
		*ret = value;
	return err;
}

char *share_format(enum share_id id, uint64_t value, char buf[static SHARE_TEXT_LEN])
{
	if (value == SHARE_NONE)
		snprintf(buf, SHARE_TEXT_LEN, "none");
	else if (specs[id].kind == SHARE_KIND_BYTES)
		size_format_exact(value, buf);
	else
		snprintf(buf, SHARE_TEXT_LEN, "%llu", (unsigned long long)value);
	return buf;
}

struct share share_nothing(void)
{
	struct share share = { 0 };

	for (unsigned int i = 0; i < SHARE_COUNT; i++)
		share.value[i] = SHARE_NONE;
	return share;
}

bool share_is_nothing(const struct share *share)
{
	for (unsigned int i = 0; i < SHARE_COUNT; i++)
		if (share->value[i] != SHARE_NONE)
			return false;
	return true;
}

bool share_makes_sense(const struct share *share)
{
	return share->value[SHARE_DRAM_MIN] == SHARE_NONE ||
	       share->value[SHARE_DRAM_MIN] <= share->value[SHARE_DRAM_MAX];
}
