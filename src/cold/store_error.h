/* cold/store_error.h - errors of the store: the database's texts as errno values, and what the log is told of them. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

/* text: as the database reports it ("IO error: No space left on device: ..."). Returns a negative errno of the store's
 * contract: -ENOSPC, -EBADMSG, -EBUSY (another process has it open), -ENOENT (there is no database), -ENOTSUP (the
 * filesystem lacks something, as direct I/O), -ENOMEM, or -EIO for all else. */
int store_error_number(const char *text);

struct store_errors {
	_Atomic int kind; /* of the last failure; 0: none since a success */
	_Atomic uint64_t count;
};

/* A call on dir failed with r (negative): counted, and logged if the last one did not fail in the same way. text may be
 * NULL. Returns r. */
int store_error_note(struct store_errors *errors, int r, const char *dir, const char *doing, const char *text);
/* A write went well: the next failure is news again. Says that it works again if it did not. */
void store_error_clear(struct store_errors *errors, const char *dir);
