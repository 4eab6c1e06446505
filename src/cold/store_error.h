/* cold/store_error.h - errors of the store: the database's texts as errno values, and what the log is told of them. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

/* text: as the database reports it ("IO error: No space left on device: ..."). Returns a negative errno of the store's
 * contract: -ENOSPC, -EBADMSG, -EBUSY (another process has it open), -ENOENT (there is no database), -ENOTSUP (the
 * filesystem lacks something, as direct I/O), -ENOMEM, or -EIO for all else. */
int store_error_number(const char *text);

struct store_errors {
	_Atomic uint64_t count;
	_Atomic int kind; /* that the log was told of; 0: none, or it was told that all works again */
	_Atomic uint64_t told_at_ns;
	_Atomic uint64_t failed_at_ns; /* the last one */
};

/* A call on dir failed with err (negative): counted, and logged if the log was not told of its kind within the last
 * minute. text may be NULL. Returns err. */
int store_error_note(struct store_errors *errors, int err, const char *dir, const char *doing, const char *text);
/* A call went well. The log is told (unless dir is NULL) if the last failure is a second old: on the brink of a full
 * disk calls fail and succeed by turns, and that is one message, not many. */
void store_error_clear(struct store_errors *errors, const char *dir);
