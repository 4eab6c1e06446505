/* engine/attach.h - mappers come and go.
 *
 * Thread-safety: all functions, from any thread, without a lock. They wait for batches, calls and fills that are under
 * way.
 */
#pragma once

struct mapper;
struct ramfile;

/* close(2) returns before the kernel's word of it has been read here, so who opened the file, closed it and attaches it
 * may come first. Waits until the file is not mapped plain, for a second at most. To be called before the arena has a
 * holder more: nothing of the file is demoted then. */
void attach_await_close(struct ramfile *file);
/* What the kernel caches of the file is dropped first. -EBUSY: the file is mapped plain; -EIO: it is lost;
 * -ENOMEM. Until the mapper is removed the file cannot be marked clean. */
int attach_add(struct ramfile *file, struct mapper *mapper);
/* Returns when no call into the mapper is running or will be made. */
void attach_remove(struct ramfile *file, struct mapper *mapper);
