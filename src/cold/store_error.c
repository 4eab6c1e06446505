/* cold/store_error.c - a table of what the database says, most telling words first. */
#include "cold/store_error.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

#define REMIND_NS (60 * NS_PER_S)
#define QUIET_NS NS_PER_S

static const struct {
	const char *words;
	int error;
} errors_by_words[] = {
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
	for (size_t i = 0; i < sizeof(errors_by_words) / sizeof(errors_by_words[0]); i++) {
		if (strstr(text, errors_by_words[i].words))
			return errors_by_words[i].error;
	}
	return -EIO;
}

int store_error_note(struct store_errors *errors, int err, const char *dir, const char *doing, const char *text)
{
	uint64_t now = clock_ns();

	atomic_fetch_add(&errors->count, 1);
	atomic_store(&errors->failed_at_ns, now);
	if (atomic_exchange(&errors->kind, err) == err && now - atomic_load(&errors->told_at_ns) < REMIND_NS)
		return err;
	atomic_store(&errors->told_at_ns, now);
	log_error("store %s: %s: %s", dir, doing, text ? text : strerror(-err));
	return err;
}

void store_error_clear(struct store_errors *errors, const char *dir)
{
	if (!atomic_load_explicit(&errors->kind, memory_order_relaxed) ||
	    clock_ns() - atomic_load(&errors->failed_at_ns) < QUIET_NS)
		return;
	if (atomic_exchange(&errors->kind, 0) && dir)
		log_info("store %s: works again", dir);
}
