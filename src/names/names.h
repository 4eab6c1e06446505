/* names/names.h - names: inodes, directories, owners, modes, times, and which RAM file an inode is.
 *
 * The tree is held in memory and every change is written through to the store's metadata as one atomic batch before
 * the call returns. Inode numbers are never reused in the life of a pool; 1 is the root. Removing the last link of an
 * open file keeps it until the last close; what a crash left behind is reaped at the next load.
 *
 * Access is the kernel's business (default_permissions); this file enforces only what a filesystem must: link counts,
 * types, limits (names up to 255 bytes), setgid inheritance, rename rules (RENAME_NOREPLACE, RENAME_EXCHANGE; no
 * loops). Thread-safety: all functions. 0 or -errno with the values of the system call they serve. Offsets, sizes:
 * bytes.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "cold/store.h"
#include "engine/clone.h"
#include "engine/ramfile.h"
#include "names/share.h"
#include "policy/tiering.h"

struct ns;

#define NS_ROOT_INO UINT64_C(1)

struct ns_config {
	struct store *store;   /* borrowed */
	struct engine *engine; /* borrowed */
	uid_t uid;             /* owner of the root when the pool is new */
	gid_t gid;
	mode_t root_mode;
	bool arenas_survived; /* the arenas' tmpfs was already there: the daemon was killed, the host was not */
	bool takes_over;      /* the mount of an earlier daemon goes on: the kernel has inodes and opens of it */
	const struct share *defaults;  /* of files that are made from now on; NULL: they have none */
	uint64_t file_max_bytes;       /* no file grows beyond it; 0: as large as there can be */
	uint64_t uid_files, uid_bytes; /* bounds of what a user owns; 0: none */
	uint32_t session;              /* 0, and one more in each daemon that took over the mount */
};

/* Loads the tree, reaps orphans. A file that is marked dirty and whose arena is gone becomes lost. */
int ns_load(const struct ns_config *config, struct ns **ret);
/* Demotes and unloads every RAM file, marks them clean, writes what is pending. Nobody may use the ns meanwhile.
 * progress (may be NULL) is called about once a second. An error was logged: what could not be demoted is still in the
 * arenas. */
typedef void ns_progress_fn(void *arg, uint64_t left_bytes);
int ns_close(struct ns *ns, ns_progress_fn *progress, void *arg);
void ns_free(struct ns *ns); /* takes NULL */

int ns_lookup(struct ns *ns, uint64_t parent, const char *name, struct stat *ret);
int ns_getattr(struct ns *ns, uint64_t ino, struct stat *ret);

/* References of the kernel: an inode without a name lives until its opens and these are gone. ns_lookup() and ns_link()
 * take none, so a door that hands an inode out takes one, and skips what has gone meanwhile (-ENOENT). */
int ns_remember(struct ns *ns, uint64_t ino);
void ns_forget(struct ns *ns, uint64_t ino, uint64_t count);

struct ns_setattr {
	bool set_mode, set_uid, set_gid, set_size, set_atime, set_mtime, set_ctime;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	uint64_t size_bytes;
	struct timespec atime, mtime, ctime;
};
int ns_setattr(struct ns *ns, uint64_t ino, const struct ns_setattr *change, struct stat *ret);

/* Sizes, of a file that grows: -EFBIG beyond file_max_bytes; -EDQUOT beyond what its owner may have. */
/* Makes the file at least that long, as a write beyond its end does. */
int ns_extend(struct ns *ns, uint64_t ino, uint64_t size_bytes);

/* What the calling thread does next is for a request of the kernel, by its number, which no other has while the mount
 * is there. If that changes names, it is remembered with the change. True: an earlier daemon did it already, and
 * answered nobody; *ret_ino is the inode that was made, linked, moved or removed. */
bool ns_serve(struct ns *ns, uint64_t request, uint64_t *ret_ino);

/* mode carries the type: S_IFREG or S_IFDIR (others: -EPERM). -EDQUOT: he owns as many as he may. Creates and takes one
 * lookup reference. */
int ns_create(struct ns *ns, uint64_t parent, const char *name, mode_t mode, uid_t uid, gid_t gid, struct stat *ret);
int ns_link(struct ns *ns, uint64_t ino, uint64_t parent, const char *name, struct stat *ret);
int ns_unlink(struct ns *ns, uint64_t parent, const char *name);
int ns_rmdir(struct ns *ns, uint64_t parent, const char *name);
int ns_rename(struct ns *ns, uint64_t parent, const char *name, uint64_t new_parent, const char *new_name,
	      unsigned int flags);

/* "." and "..", then the entries after cookie (0: from the start), called without a lock; fn returns non-zero to stop.
 * Cookies are stable while a directory is open. */
typedef int ns_entry_fn(void *arg, const char *name, const struct stat *attr, uint64_t next_cookie);
int ns_readdir(struct ns *ns, uint64_t ino, uint64_t cookie, ns_entry_fn *fn, void *arg);

/* The RAM file of an inode, loaded if it was not. Each open takes one reference, each put gives one back. -EISDIR for
 * directories. */
int ns_open(struct ns *ns, uint64_t ino, struct ramfile **ret);
void ns_put(struct ns *ns, uint64_t ino);
/* As ns_open, by the arena's descriptor (a mapper that comes back after a restart). */
int ns_open_by_arena(struct ns *ns, int arena_fd, uint64_t *ret_ino, struct ramfile **ret);

/* Truncates, discards or writes change mtime and ctime; the door calls this afterwards. */
/* The times are written to the store at the latest at the last close. */
void ns_touch(struct ns *ns, uint64_t ino, bool modified);
/* What the file holds now survives a loss of power: what is resident is stored, and stays resident. Of what changes
 * meanwhile or later each block may be old or new then. -ENOSPC, -EIO: nothing is promised, but what an earlier call
 * did. */
int ns_fsync(struct ns *ns, uint64_t ino);

/* The content of a RAM file becomes that of an empty one, too (ramfile_clone()), durably, and shows all at once: a
 * crash leaves it empty or whole. Nobody may write to the empty one meanwhile. -EINVAL: the same file twice;
 * -ENOTEMPTY; -EISDIR. After an error it is empty. */
int ns_clone(struct ns *ns, uint64_t from, uint64_t to, file_progress_fn *progress, void *arg,
	     struct ramfile_cloned *ret);

/* What cold/stores.h asks before it moves values of a file: whether its limits, and those of the directories above it,
 * let them be read and written now. arg: the ns. */
uint64_t ns_pace(void *arg, uint64_t ino, uint64_t values, uint64_t bytes);

/* Path of an inode below the mount point ("/vm0"), for reports; "(unlinked)" if it has no name. */
int ns_path(struct ns *ns, uint64_t ino, char *buf, size_t cap);
/* Every RAM file, in path order. */
struct ns_file {
	uint64_t ino;
	const char *path;
	struct stat attr;
	bool lost, fell_back;
	unsigned int opens;
};
typedef int ns_file_fn(void *arg, const struct ns_file *file);
int ns_files(struct ns *ns, ns_file_fn *fn, void *arg);
