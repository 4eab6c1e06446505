/* front/door.h - what the calls on a mount do, without FUSE: size and alignment rules, modes of new files, tokens.
 *
 * front/fuse.c translates requests into these and answers them; core/ns.h and core/ramfile.h do the work. Functions
 * return 0 or -errno with the values of the system call they serve. Thread-safety: all functions.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include <tierfs/ioctl.h>

#include "base/options.h"
#include "core/ns.h"
#include "core/tier.h"
#include "core/token.h"

#define DOOR_PAGE_BYTES 4096U

/* Immutable; what it points to outlives the mount. */
struct door {
	struct ns *ns;
	struct tier *tier;
	struct token_table *tokens;
	const struct options *options;
	const char *run_dir;
	const char *pool_dir;
};

/* mode as asked for; type S_IFREG or S_IFDIR. Takes one lookup reference. */
int door_create(const struct door *door, uint64_t parent, const char *name, mode_t mode, uid_t uid, gid_t gid,
		struct stat *ret);

/* Takes an open; *ret_rights: TIERFS_RIGHT_* of the access mode in flags. door_release() gives it back. */
int door_open(const struct door *door, uint64_t ino, int flags, uint32_t *ret_rights);
void door_release(const struct door *door, uint64_t ino);

/* direct: the descriptor has O_DIRECT. -EINVAL: not aligned then, or the write would leave an odd size. */
int door_read(const struct door *door, uint64_t ino, bool direct, void *buf, size_t len, uint64_t offset,
	      size_t *ret_len);
int door_write(const struct door *door, uint64_t ino, bool direct, const void *buf, size_t len, uint64_t offset);
int door_fallocate(const struct door *door, uint64_t ino, int mode, uint64_t offset, uint64_t len);
int door_seek(const struct door *door, uint64_t ino, uint64_t offset, int whence, uint64_t *ret_offset);

/* What TIERFS_IOC_INFO answers, with a fresh token. */
int door_info(const struct door *door, uint64_t ino, uint32_t rights, struct tierfs_ioc_info *ret);
int door_statfs(const struct door *door, struct statvfs *ret);
