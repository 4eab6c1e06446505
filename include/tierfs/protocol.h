/* tierfs/protocol.h - what libtierfs and the daemon say to each other on attach.sock.
 *
 * A Unix SOCK_SEQPACKET socket; one connection for each process that maps RAM files ("the agent connection").
 * Every packet is one struct tierfs_msg, at most TIERFS_MSG_MAX bytes, in host byte order (both ends are one
 * host). File descriptors travel as SCM_RIGHTS with the packet that names them. The connection is the life of the
 * mappings that were made on it: when it closes, the daemon takes the process for gone, unless the process comes
 * back with RESUME.
 *
 *  client                               daemon
 *  HELLO {abi}                    ->
 *                                 <-    WELCOME {abi, block_bytes}
 *  OPEN {token}                   ->                                     proves an open FUSE descriptor
 *                                 <-    ARENA {ino, size} + fds: of the arena, /dev/userfaultfd
 *  (mmap the arena, make a userfaultfd with UFFDIO_API done, features TIERFS_UFFD_FEATURES; do not register)
 *  MAP {addr, length, offset} + fd: userfaultfd     (the arena is the one of the last OPEN with that ino)
 *                                 ->
 *                                 <-    DONE {map_id}                    registered: memory may be touched now
 *  RESUME {addr, length, offset} + fds: arena, userfaultfd               the same after the daemon was restarted; the
 *                                 ->                                     arena descriptor is the proof
 *                                 <-    DONE {map_id}
 *  UNMAP {map_id, addr, length}   ->    before munmap; a part of a mapping may go
 *                                 <-    DONE
 *  DISCARD {map_id, offset, length} ->  offset in the file, any 4 KiB multiple: becomes a hole
 *                                 <-    DONE
 *  ADVISE {map_id, offset, length} ->   where the process would have huge pages; offset in the file
 *                                 <-    DONE
 *                                 <-    ZAP {seq, ranges}                madvise(MADV_DONTNEED) each range, in order
 *  ZAPPED {seq}                   ->
 *  any request may be answered by        ERROR {code, text}              the connection stays, unless code is EPROTO
 *
 * Requests carry a seq chosen by the client that the answer repeats; ZAP carries the daemon's own. A packet
 * that breaks these rules is answered with ERROR EPROTO and the connection is closed; nothing else is harmed.
 * Limits: TIERFS_ZAP_MAX ranges a packet, TIERFS_MAPPINGS_MAX mappings a connection, 256 files that were opened and not
 * mapped (the first of them is forgotten then), 5 s from connect to HELLO; and of each user what the mount's options
 * uid_connections and uid_maps say.
 */
#pragma once

#include <stdint.h>

#include <tierfs/ioctl.h>

#define TIERFS_MSG_MAGIC 0x53464954U /* "TIFS" */
#define TIERFS_ZAP_MAX 248
#define TIERFS_TEXT_MAX 200
#define TIERFS_MAPPINGS_MAX 4096 /* a process */

#define TIERFS_FEATURE_ADVISE (1U << 0)  /* ADVISE */
#define TIERFS_FEATURE_THROUGH (1U << 1) /* the descriptor maps the arena, and is good for nothing else */

enum tierfs_msg_type {
	TIERFS_MSG_HELLO = 1,
	TIERFS_MSG_WELCOME,
	TIERFS_MSG_OPEN,
	TIERFS_MSG_ARENA,
	TIERFS_MSG_MAP,
	TIERFS_MSG_RESUME,
	TIERFS_MSG_UNMAP,
	TIERFS_MSG_DISCARD,
	TIERFS_MSG_DONE,
	TIERFS_MSG_ZAP,
	TIERFS_MSG_ZAPPED,
	TIERFS_MSG_ERROR,
	TIERFS_MSG_ADVISE,
};

struct tierfs_range {
	uint64_t addr; /* in the mapping process */
	uint64_t length_bytes;
};

/* The first 24 bytes are common to all; only the member that belongs to the type is sent, so a packet is
 * offsetof(struct tierfs_msg, u) + sizeof(that member) long, and ZAP only as long as its count needs. */
struct tierfs_msg {
	uint32_t magic; /* TIERFS_MSG_MAGIC */
	uint32_t type;  /* enum tierfs_msg_type */
	uint64_t seq;
	uint64_t reserved; /* 0 */
	union {
		struct {
			uint32_t abi_version;
			uint32_t flags; /* 0 */
		} hello;                /* HELLO */
		struct {
			uint32_t abi_version;
			uint32_t block_bytes;
		} welcome; /* WELCOME */
		struct {
			uint8_t token[TIERFS_TOKEN_LEN];
		} open; /* OPEN */
		struct {
			uint64_t ino;
			uint64_t size_bytes;
			uint32_t rights;   /* TIERFS_RIGHT_*; without WRITE the arena descriptor is read-only */
			uint32_t features; /* TIERFS_FEATURE_*: what the daemon knows beyond the first version */
		} arena;                   /* ARENA */
		struct {
			uint64_t ino;          /* MAP: from ARENA. RESUME: 0, the arena descriptor tells */
			uint64_t addr;         /* page aligned */
			uint64_t length_bytes; /* multiple of 4 KiB */
			uint64_t offset;       /* in the file; multiple of 4 KiB */
		} map;                         /* MAP, RESUME */
		struct {
			uint64_t map_id;
			uint64_t where; /* UNMAP: address; DISCARD: offset in the file */
			uint64_t length_bytes;
		} part; /* UNMAP, DISCARD */
		struct {
			uint64_t map_id;
			uint64_t offset;       /* in the file */
			uint64_t length_bytes; /* 0: nowhere */
		} advise;                      /* ADVISE */
		struct {
			uint64_t map_id; /* MAP and RESUME; else 0 */
		} done;                  /* DONE */
		struct {
			uint32_t count; /* 1 to TIERFS_ZAP_MAX */
			uint32_t reserved;
			struct tierfs_range range[TIERFS_ZAP_MAX];
		} zap; /* ZAP; ZAPPED has no member */
		struct {
			int32_t code;               /* errno value, positive */
			char text[TIERFS_TEXT_MAX]; /* one line, NUL-terminated */
		} error;                            /* ERROR */
	} u;
};

#define TIERFS_MSG_MAX sizeof(struct tierfs_msg)

/* Features that the client asks for with UFFDIO_API: missing faults and write-protection on shmem, and which thread it
 * was; the faulting address exact to the byte is not needed. All kernels that have the former have the latter, and the
 * daemon does without it. POISON is asked for where the kernel offers it. */
#define TIERFS_UFFD_FEATURES \
	(UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | \
	 UFFD_FEATURE_THREAD_ID)
