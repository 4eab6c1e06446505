/* cold/store_error.h - the database's errors, which are texts, as errno values: the one place where that is decided. */
#pragma once

/* text: as the database reports it ("IO error: No space left on device: ..."). Returns a negative errno of the store's
 * contract: -ENOSPC, -EBADMSG, -EBUSY (another process has it open), -ENOENT (there is no database), -ENOTSUP (the
 * filesystem lacks something, as direct I/O), -ENOMEM, or -EIO for all else. */
int store_error_number(const char *text);
