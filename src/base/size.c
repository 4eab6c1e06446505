/* base/size.c - sizes and durations as text.
 *
 * Numbers are decimals with an optional fraction, kept exact: a whole part and a fraction in units of 10^-18. No sign,
 * no space, no exponent, no locale.
 */
#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"

#define FRACTION_DIGITS 18
#define FRACTION_ONE UINT64_C(1000000000000000000)

struct decimal {
	uint64_t whole;
	uint64_t fraction; /* of FRACTION_ONE */
	bool too_big;      /* whole does not fit 63 bits */
};

/* Returns what follows the number, or NULL if text does not begin with one. */
static const char *decimal_parse(const char *text, struct decimal *ret)
{
	struct decimal value = { 0 };
	uint64_t unit = FRACTION_ONE;

	if (!isdigit((unsigned char)*text))
		return NULL;
	for (; isdigit((unsigned char)*text); text++) {
		uint64_t digit = (uint64_t)(*text - '0');

		if (value.whole > ((uint64_t)INT64_MAX - digit) / 10)
			value.too_big = true;
		else
			value.whole = value.whole * 10 + digit;
	}
	if (*text == '.') {
		text++;
		if (!isdigit((unsigned char)*text))
			return NULL;
		for (; isdigit((unsigned char)*text); text++) {
			unit /= 10; /* 0 from the 19th digit on: too small to matter */
			value.fraction += unit * (uint64_t)(*text - '0');
		}
	}
	*ret = value;
	return text;
}

static int decimal_scale(const struct decimal *value, uint64_t factor, uint64_t *ret)
{
	unsigned __int128 wide = factor, result;

	result = wide * value->whole + wide * value->fraction / FRACTION_ONE;
	if (value->too_big || result > INT64_MAX)
		return -ERANGE;
	*ret = (uint64_t)result;
	return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGTPE";
	struct decimal value;
	unsigned int shift = 0;
	const char *unit;

	text = decimal_parse(text, &value);
	if (!text)
		return -EINVAL;
	unit = *text ? strchr(units, toupper((unsigned char)*text)) : NULL;
	if (unit) {
		shift = 10 * (unsigned int)(unit - units + 1);
		text++;
		if (*text == 'i' && text[1] != 'B')
			return -EINVAL;
		text += *text == 'i';
	}
	text += *text == 'B';
	if (*text || (!shift && value.fraction))
		return -EINVAL;
	return decimal_scale(&value, UINT64_C(1) << shift, ret_bytes);
}

int duration_parse(const char *text, uint64_t *ret_ns)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {
		{ "", NS_PER_S }, { "s", NS_PER_S },      { "ms", NS_PER_MS },      { "us", NS_PER_US },
		{ "ns", 1 },      { "m", 60 * NS_PER_S }, { "h", 3600 * NS_PER_S },
	};
	struct decimal value;

	text = decimal_parse(text, &value);
	if (!text)
		return -EINVAL;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (!strcmp(text, units[i].name))
			return decimal_scale(&value, units[i].ns, ret_ns);
	return -EINVAL;
}

char *size_format(uint64_t bytes, char buf[static SIZE_TEXT_LEN])
{
	static const char units[] = "BKMGTPE";
	unsigned int unit = 0, decimals;
	double value = (double)bytes;
	size_t len;

	while (value >= 1023.5 && unit + 1 < sizeof(units) - 1) {
		value /= 1024;
		unit++;
	}
	if (!bytes)
		return strcpy(buf, "0");
	decimals = !unit || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
	len = (size_t)snprintf(buf, SIZE_TEXT_LEN, "%.*f", (int)decimals, value);
	while (decimals && buf[len - 1] == '0') {
		decimals--;
		len--;
	}
	if (buf[len - 1] == '.')
		len--;
	buf[len++] = units[unit];
	buf[len] = '\0';
	return buf;
}

char *size_format_exact(uint64_t bytes, char buf[static SIZE_EXACT_LEN])
{
	uint64_t back;

	if (size_parse(size_format(bytes, buf), &back) || back != bytes)
		snprintf(buf, SIZE_EXACT_LEN, "%llu", (unsigned long long)bytes);
	return buf;
}
