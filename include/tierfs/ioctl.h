/* tierfs/ioctl.h - the one ioctl that a tierfs mount answers.
 *
 * It tells a program whose file this is, where the daemon's sockets are, and hands out a one-time token that
 * proves to those sockets that the caller holds an open file descriptor: the descriptor is the capability.
 * Works on RAM files and on directories. Anything that is not tierfs answers ENOTTY.
 *
 * FUSE runs ioctls in restricted mode: the structure has a fixed size and holds no pointers.
 */
#pragma once

#include <linux/ioctl.h>
#include <linux/types.h>

#define TIERFS_ABI_VERSION 1
#define TIERFS_RUN_ROOT "/run/tierfs" /* root's alone: the runtime directory of each daemon is in it */
#define TIERFS_RUN_DIR_LEN 64
#define TIERFS_TOKEN_LEN 16

/* Rights that the token carries, from the access mode of the descriptor. */
#define TIERFS_RIGHT_READ (1U << 0)
#define TIERFS_RIGHT_WRITE (1U << 1)

struct tierfs_ioc_info {
	__u32 abi_version;                /* TIERFS_ABI_VERSION of the daemon */
	__u32 rights;                     /* TIERFS_RIGHT_* of this descriptor */
	__u64 ino;                        /* inode number; 1 is the mount's root */
	__u64 size_bytes;                 /* 0 for a directory */
	__u32 block_bytes;                /* unit of tiering of the pool */
	__u32 dram_mib;                   /* the mount's budget of DRAM, in MiB, at least 1; 0: an older daemon */
	char run_dir[TIERFS_RUN_DIR_LEN]; /* absolute path of the daemon's runtime directory, NUL-terminated */
	__u8 token[TIERFS_TOKEN_LEN]; /* fresh on every call; accepted once, for 60 seconds, by any of the sockets */
};

#define TIERFS_IOC_INFO _IOR('t', 1, struct tierfs_ioc_info)

/* Names of the sockets below run_dir. */
#define TIERFS_ATTACH_SOCKET "attach.sock"   /* tierfs/protocol.h, SOCK_SEQPACKET */
#define TIERFS_CONTROL_SOCKET "control.sock" /* JSON lines, SOCK_STREAM: docs/format/control.md */
#define TIERFS_ACCESS_SOCKET "access.sock"   /* tierfs/access_protocol.h, SOCK_SEQPACKET: docs/format/access.md */
