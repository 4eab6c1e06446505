/* Mount options: any text is refused or gives values that are within the limits of the table. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "front/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_values(const struct options *options)
{
	char text[256];

	for (unsigned int i = 0; i < OPTION_COUNT; i++) {
		const struct option_spec *spec = &option_table[i];

		if (!options->given[i])
			continue;
		if (spec->kind != OPTION_KIND_FLAG && spec->kind != OPTION_KIND_CHOICE &&
		    (options->value[i] < spec->min || options->value[i] > spec->max))
			abort();
		if (options_format(options, spec->name, text, sizeof(text)))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size);
	struct options options;

	if (!text)
		return 0;
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	options_init(&options);
	if (!options_parse(&options, text)) {
		check_values(&options);
		options_finish(&options);
	}
	free(text);
	return 0;
}
