/* front/through.h - how a process comes to map an arena without ever having a descriptor of it: FUSE passthrough, Linux
 * 6.9.
 *
 * Who has a descriptor of the arena can make it longer, fill it and punch it, and DRAM with it. So a process is given a
 * descriptor of the mount instead, of a door: an inode without content that is opened once, for one process, with
 * passthrough to the arena. All that a door is good for is mmap(2), which maps the arena; every other call on it comes
 * to the daemon, which refuses. It cannot be opened again, also not by way of /proc. The RAM file itself stays as it
 * is: the kernel would have all its opens map the arena, also those of processes that do not register what they map.
 *
 * A door has a name in a directory of its own while it is opened, by a process of our own: a daemon that opened files
 * of its own mount would wait for itself when it is killed. The name proves later what a door is of: in it are the
 * inode, the number of the holder (mem/arena.h) and a code that the pool's secret makes. The code is another one after
 * each boot of the host: who had a door knows its name, and the holder of that number may be another by then. No list
 * of doors is kept, so there is nothing to hand on to another daemon. The open file description of the arena that the
 * kernel was given lives as long as the door is open anywhere, with or without a daemon, and its lock with it.
 *
 * Thread-safety: all functions but new and free. 0 or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of doors' node ids, and that of their directory; no inode has it. */
#define THROUGH_NODE (UINT64_C(1) << 63)
#define THROUGH_DIRECTORY_NODE UINT64_MAX
/* In the root of the mount; nothing else may have the name. */
#define THROUGH_DIRECTORY ".tierfs-doors"
#define THROUGH_NAME_MAX 96
#define THROUGH_PREFIX ".tierfs-arena-"

#define THROUGH_CODE_BYTES 16

struct through;

/* A code of some bytes that nobody can make who does not know the pool's secret. Any thread. */
typedef int through_code_fn(void *arg, const void *bytes, size_t length, uint8_t ret[static THROUGH_CODE_BYTES]);

/* Forks the process that opens. There must be one thread. */
int through_new(struct through **ret);
void through_free(struct through *through); /* takes NULL; nobody opens any more */

/* Before all that follows. The boot is what the host has one of from one boot to the next (through_read_boot()). */
#define THROUGH_BOOT_BYTES 40
void through_set_code(struct through *through, const char boot[static THROUGH_BOOT_BYTES], through_code_fn *code,
		      void *arg);
int through_read_boot(char ret[static THROUGH_BOOT_BYTES]);
/* The session of the mount has begun: finds out whether the kernel can. fuse_fd is borrowed for as long as there are
 * requests. */
void through_begin(struct through *through, int fuse_fd, const char *mountpoint);
/* It can. */
bool through_can(const struct through *through);

/* A descriptor of a new door to the arena of that inode. arena_fd is an open file description of the arena that nobody
 * else has; the caller may close it. Waits for calls on the mount to be answered: not for a thread that answers them.
 * One door is opened after the other. Nobody can keep them waiting who has the root directory of the mount locked.
 * -EOPNOTSUPP: the kernel cannot. -ENOENT: the mount point does not lead to the mount (any more). -ETIMEDOUT, -EPIPE:
 * the process that opens did not answer. */
int through_open(struct through *through, int arena_fd, uint64_t ino, uint64_t holder, int *ret_fd);
/* What a descriptor is a door to. -ENOENT: it is none, or of another pool. Does not wait for the file's server. */
int through_find(struct through *through, int fd, uint64_t *ret_ino, uint64_t *ret_holder);

/* --- for who answers the kernel --- */

static inline bool through_is(uint64_t node)
{
	return node & THROUGH_NODE;
}

/* A name in the directory of doors. -ENOENT: not that of a door that is being opened. */
int through_lookup(struct through *through, const char *name, uint64_t *ret_node);

/* An answer to an open, as the kernel has it. */
struct through_opened {
	uint64_t fh;
	uint32_t flags;
	int32_t backing_id;
};
/* The open of a door, once. -EACCES: it is no door that is being opened; else those of the kernel. */
int through_answer_open(struct through *through, uint64_t node, struct through_opened *ret);

/* The first request of the kernel, and the answer to it before it is sent: passthrough is agreed on if it is offered.
 * Nothing if either is too short to tell. */
void through_agree(const void *request, uint64_t request_bytes, void *answer, uint64_t answer_bytes);
