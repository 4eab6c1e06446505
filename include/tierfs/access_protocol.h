/* tierfs/access_protocol.h - what libtierfs and the daemon say to each other on access.sock (docs/format/access.md).
 *
 * A Unix SOCK_SEQPACKET socket; one connection for each handle of tierfs/access.h, one request at a time. Every packet
 * is one struct tierfs_access_msg, whole, in host byte order (both ends are one host).
 *
 *  client                                         daemon
 *  OPEN {abi, token, buffer_bytes} + fd: memfd ->                   proves an open FUSE descriptor
 *                                              <- OPENED {file}
 *  CALL {op, flags, blocks, records, payload}  ->                   records and payload are in the memfd
 *                                              <- DONE {records_done, next_block}
 *  any request may be answered by                 ERROR {code}      the connection ends if the code is EPROTO
 *
 * The memfd is sealed with F_SEAL_SHRINK, so that the daemon may map it. Its content is the client's at every moment:
 * the daemon copies what it judges before it judges it.
 */
#pragma once

#include <stdint.h>

#include <tierfs/access.h>
#include <tierfs/ioctl.h>

#define TIERFS_ACCESS_MAGIC 0x41464954U /* "TIFA" */
#define TIERFS_ACCESS_ABI 2

enum tierfs_access_type {
	TIERFS_ACCESS_OPEN = 1,
	TIERFS_ACCESS_OPENED,
	TIERFS_ACCESS_CALL,
	TIERFS_ACCESS_DONE,
	TIERFS_ACCESS_FAILED,
};

enum tierfs_access_op {
	TIERFS_ACCESS_OP_READ = 1, /* a range; records are output */
	TIERFS_ACCESS_OP_LIST,     /* read; records are input and output, as in all below */
	TIERFS_ACCESS_OP_WRITE,
	TIERFS_ACCESS_OP_SET,
	TIERFS_ACCESS_OP_AGES,   /* struct tierfs_access_ages at payload_at */
	TIERFS_ACCESS_OP_WANTED, /* records are output */
	TIERFS_ACCESS_OP_IDENTIFY,
};

struct tierfs_access_msg {
	uint32_t magic; /* TIERFS_ACCESS_MAGIC */
	uint32_t type;  /* enum tierfs_access_type */
	uint64_t seq;   /* an answer repeats that of its request */
	union {
		struct {
			uint32_t abi_version; /* TIERFS_ACCESS_ABI */
			uint32_t buffer_bytes;
			uint8_t token[TIERFS_TOKEN_LEN];
		} open;
		struct {
			uint64_t ino;
			uint64_t size_bytes;
			uint32_t block_bytes;
			uint32_t rights; /* TIERFS_RIGHT_* */
			uint32_t stored_max;
			uint32_t reserved;
		} opened;
		struct {
			uint32_t op;            /* enum tierfs_access_op */
			uint32_t flags;         /* TIERFS_ACCESS_* of tierfs/access.h */
			uint64_t first_block;   /* OP_READ, else 0 */
			uint64_t count_blocks;  /* OP_READ, else 0 */
			uint32_t records_at;    /* in the buffer, a multiple of 8 */
			uint32_t records;       /* room for answers (OP_READ), or number of requests */
			uint32_t payload_at;    /* OP_READ, OP_LIST: room for payload. OP_WRITE: 0, the records tell */
			uint32_t payload_bytes; /* of that room */
		} call;
		struct {
			uint32_t records;
			uint32_t reserved;
			uint64_t next_block;
		} done;
		struct {
			int32_t code; /* errno value, positive */
			uint32_t reserved;
		} failed;
		uint64_t size[6]; /* every packet has the length of the union */
	} u;
};
