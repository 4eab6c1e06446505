/* cold/store_error.c - a table of what the database says, most telling words first. */
#include "cold/store_error.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

static const struct {
	const char *words;
	int error;
} errors[] = {
	{ "No space left on device", -ENOSPC },
	{ "Disk quota exceeded", -ENOSPC },
	{ "Space limit reached", -ENOSPC },
	{ "Corruption", -EBADMSG },
	{ "lock hold by current process", -EBUSY },
	{ "LOCK: Resource temporarily unavailable", -EBUSY },
	{ "does not exist (create_if_missing is false)", -ENOENT },
	{ "Direct I/O is not supported", -ENOTSUP },
	{ "Not implemented", -ENOTSUP },
	{ "Cannot allocate memory", -ENOMEM },
	{ "Memory limit reached", -ENOMEM },
};

int store_error_number(const char *text)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (strstr(text, errors[i].words))
			return errors[i].error;
	}
	return -EIO;
}
