/* Sizes and durations: no text crashes the parsers, and what is printed parses again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), printed[SIZE_TEXT_LEN];
	uint64_t value, again;

	if (!text)
		return 0;
	if (!size_parse(text, &value)) {
		int r = size_parse(size_format(value, printed), &again);

		/* Rounded up, the largest ones leave the range. */
		if (r && value < (UINT64_C(1) << 62))
			abort();
		if (!r && (again > value + value / 64 || again < value - value / 64))
			abort();
	}
	if (!duration_parse(text, &value) && value > INT64_MAX)
		abort();
	free(text);
	return 0;
}
