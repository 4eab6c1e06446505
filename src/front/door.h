/* front/door.h - what the calls on a mount do, without FUSE: size and alignment rules, modes of new files, tokens.
 *
 * front/fuse_operations.c translates requests into these and answers them; names/names.h and engine/ramfile.h do the
 * work.
 * Functions return 0 or -errno with the values of the system call they serve. Thread-safety: all functions.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include <tierfs/ioctl.h>

#include "front/options.h"
#include "names/names.h"
#include "policy/tiering.h"
#include "pool/token.h"

#define DOOR_PAGE_BYTES 4096U

/* What the kernel's read-ahead asks for in one piece at most: its window, doubled by POSIX_FADV_SEQUENTIAL. */
#define DOOR_FILL_MAX (256U << 10)

struct opener;

/* Of all files, since the mount. */
struct door_counts {
	_Atomic uint64_t fill_bytes;       /* given to the kernel's cache */
	_Atomic uint64_t refused_fills;    /* bursts of read-ahead that were not answered with data */
	_Atomic uint64_t write_back_bytes; /* dirty pages that came back from it */
};

/* The process that opens files for the daemon itself (0: none); see door_open(). */
typedef pid_t door_helper_fn(void *arg);

/* Immutable; what it points to outlives the mount. */
struct door {
	struct ns *ns;
	struct engine *engine;
	struct token_table *tokens;
	const struct options *options;
	const char *run_dir;
	const char *pool_dir;
	struct opener *opener;
	struct door_counts *counts;
	door_helper_fn *helper; /* may be NULL */
	void *helper_arg;
	uint32_t session; /* 0, and one more in each daemon that took over the mount */
};

/* mode as asked for; type S_IFREG or S_IFDIR. Takes one lookup reference. */
int door_create(const struct door *door, uint64_t parent, const char *name, mode_t mode, uid_t uid, gid_t gid,
		struct stat *ret);

/* What the kernel keeps of an open: all there is to know about it later. The low bits are TIERFS_RIGHT_*. */
#define DOOR_FH_RIGHTS UINT64_C(0xff)
#define DOOR_FH_CACHED UINT64_C(0x100) /* counted by cache_open_file() */
#define DOOR_FH_HELPER UINT64_C(0x200) /* of the helper, which maps nothing */
#define DOOR_FH_SESSION_SHIFT 32       /* above: which session opened it; only its own are counted */

struct door_opened {
	uint64_t fh;
	bool cached; /* the kernel may cache content, so that the file can be mapped plain */
	bool fresh;  /* what it cached before is void */
};

/* Takes an open by a thread of a user; door_release() gives it back. Who is going to attach, or uses O_DIRECT, or
 * cannot read gets one that is not cached, and so does everybody else while the file is attached, or when the mount
 * says map=attached. The helper's opens are cached, and keep nobody from attaching. */
struct door_caller {
	pid_t tid;
	uid_t uid;
};
int door_open(const struct door *door, uint64_t ino, int flags, struct door_caller caller, struct door_opened *ret);
void door_release(const struct door *door, uint64_t ino, uint64_t fh); /* of an earlier session: does nothing */

/* Pages for the kernel's cache. -EINVAL: the file is attached (cache_fill()); to sendfile(2) and splice(2) that says
 * to read instead, to who touches a private mapping it is SIGBUS. -EAGAIN, and nothing was read: more than
 * DOOR_FILL_MAX, which only the read-ahead of memory with MADV_HUGEPAGE asks for, 4 MiB at a time; the kernel then asks
 * again for the one page it needs. */
int door_fill(const struct door *door, uint64_t ino, void *buf, size_t len, uint64_t offset, size_t *ret_len);
/* Dirty pages from it. Errors of write back reach no caller, so those that may pass are waited for. */
int door_write_back(const struct door *door, uint64_t ino, const void *buf, size_t len, uint64_t offset);

/* direct: the descriptor has O_DIRECT. -EINVAL: not aligned then; the last piece of a file may have any
 * length. */
int door_read(const struct door *door, uint64_t ino, bool direct, void *buf, size_t len, uint64_t offset,
	      size_t *ret_len);
/* cached: the kernel keeps the pages that were written (a write(2) on a cached open). *ret_len: less than len where a
 * limit of what is stored ended it half way. */
int door_write(const struct door *door, uint64_t ino, bool direct, bool cached, const void *buf, size_t len,
	       uint64_t offset, size_t *ret_len);
/* From one file to another, or within one: what a read and a write would do. *ret_len: how much, at most len, which is
 * the room in buf. */
int door_copy(const struct door *door, uint64_t from, uint64_t from_offset, uint64_t to, uint64_t to_offset, void *buf,
	      size_t len, size_t *ret_len);
int door_fallocate(const struct door *door, uint64_t ino, int mode, uint64_t offset, uint64_t len);
int door_seek(const struct door *door, uint64_t ino, uint64_t offset, int whence, uint64_t *ret_offset);

/* What TIERFS_IOC_INFO answers, with a fresh token. */
int door_info(const struct door *door, uint64_t ino, uint32_t rights, struct tierfs_ioc_info *ret);
int door_statfs(const struct door *door, struct statvfs *ret);
