/* map/evict.h - takes pages of a plainly mapped RAM file out of the kernel's page cache, and says what is in it.
 *
 * The work is done by a helper process that does not hold /dev/fuse: it opens files of the mount and waits for their
 * write-back, which the daemon answers, so that a daemon that died would otherwise wait for itself. Pages leave by the
 * kernel's own reclaim, which leaves alone what is dirty, pinned (a disk reads into it) or mapped by two processes; the
 * answer shows that they stayed. Nothing here can lose a byte, whatever the addresses and files turn out to be. (To
 * invalidate the inode would be quicker, and loses what a device writes meanwhile.)
 *
 * Calls may come from any thread and are served one at a time. They wait for FUSE_OPEN and FUSE_WRITE of the file to be
 * answered: call with no lock held, and never from a thread that answers the kernel.
 *
 * -EPIPE: the helper ended; the next call has a new one. -ETIMEDOUT: it did not answer in time and was replaced. Both
 * are logged. What was asked may have been done in part.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define EVICT_RANGES_MAX 256U

struct evict;

/* Whole pages. */
struct evict_range {
	uint64_t offset, length;
};

/* What of a range is still in the page cache. */
struct evict_answer {
	uint64_t cached_bytes;
	uint64_t dirty_bytes; /* of these, dirty or being written */
};

struct evict_summary {
	bool opened;          /* false: nothing was done, the answers are empty */
	int open_error;       /* why not, as -errno */
	int sync_error;       /* of write-back, 0 or the first -errno */
	unsigned int mappers; /* processes that map the file, shared or private, as far as they can be seen */
	uint64_t other;       /* of these, those that could not be asked to let go, or of a part only */
	int other_error;      /* why, as -errno of the last: -EINVAL is memory that is locked */
};

/* To be called before the process has threads, and after it became a daemon: the helper ends when the calling thread
 * does. -ENOSYS: the kernel is older than Linux 6.5 and has no cachestat(2). */
int evict_start(struct evict **ret);
void evict_stop(struct evict *evict);

/* The helper's process, for telling its FUSE_OPENs from others'; 0 while there is none. */
pid_t evict_pid(const struct evict *evict);

/* How long a call waits for its answer; 30 s without this. Not while calls are under way. */
void evict_set_timeout(struct evict *evict, uint64_t timeout_ns);

/* Writes back up to EVICT_RANGES_MAX ranges and takes them out of the cache and of every mapping. dev and ino are those
 * of fstat(). path is absolute; without one, or if it leads to another file, the file is opened by way of a process
 * that maps it, which works for files that are unlinked or in another mount namespace too. per_range has count
 * elements. */
int evict_out(struct evict *evict, dev_t dev, uint64_t ino, const char *path, const struct evict_range *ranges,
	      size_t count, struct evict_answer *per_range, struct evict_summary *ret);

/* The same for a file that nobody maps: nobody is looked for, unless there is no other way to open it. */
int evict_drop(struct evict *evict, dev_t dev, uint64_t ino, const char *path, const struct evict_range *ranges,
	       size_t count, struct evict_answer *per_range, struct evict_summary *ret);

/* cached[i] becomes 1 if any page of block i, counted from offset, is in the cache, else 0. offset and block_bytes are
 * multiples of the page size. When the file cannot be opened, the error is that of open(2). */
int evict_measure(struct evict *evict, dev_t dev, uint64_t ino, const char *path, uint64_t offset, uint64_t block_bytes,
		  uint64_t count, uint8_t *cached, uint64_t *ret_cached_bytes);
