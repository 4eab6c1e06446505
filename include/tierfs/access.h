/* tierfs/access.h - the C API of cold access: read and write blocks of a RAM file where they are, with one result for
 * each, without moving any of them.
 *
 * A read or a mapping of swapped memory brings it back; these calls do not. Nothing is promoted, no generation, tier or
 * counter of promotions changes, and what is resident is left alone unless the caller asks for it. A whole range goes
 * in one call: the payload travels in a buffer that caller and daemon share.
 *
 *	tierfs_access_open(fd, 0, &access);
 *	for (block = 0; block < info.blocks; block = answer.next_block) {
 *		tierfs_access_read(access, block, info.blocks - block, TIERFS_ACCESS_STORED, &answer);
 *		for (i = 0; i < answer.count; i++)
 *			use(&answer.record[i], tierfs_access_payload(access, &answer.record[i]));
 *	}
 *	tierfs_access_close(access);
 *
 * The open descriptor is the permission: reading needs one that is open for reading, the calls that change something
 * one that is open for writing. It may be closed afterwards.
 *
 * Thread-safety: a handle belongs to one thread at a time; any number of handles may be at work on one file. Functions
 * return 0 or a negative errno value. What they point to in the shared buffer (records, payload) is valid until the
 * next call with the same handle.
 *
 * Errors of every call: -ENOTCONN the daemon is gone, or was replaced: open again (a write that was under way may have
 * been carried out in part); -EINVAL a range, flag or record that makes no sense; -EACCES the descriptor does not allow
 * it; -EIO the file is lost, or the mark that it changes could not be stored; -ENOMEM. What happens to a single block
 * is in its record and not an error of the call.
 *
 * Limits: 16 handles of ordinary users at a time for each mount, and as many for root; a buffer of 1 MiB to 64 MiB;
 * TIERFS_ACCESS_RECORDS_MAX records in a call. A call may end early, at a limit or where the buffer is full; it says
 * where to go on.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <tierfs/ident.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TIERFS_ACCESS_RECORDS_MAX 65536
#define TIERFS_ACCESS_BUFFER_MIN (UINT64_C(1) << 20)
#define TIERFS_ACCESS_BUFFER_MAX (UINT64_C(64) << 20)
#define TIERFS_ACCESS_BUFFER_DEFAULT (UINT64_C(16) << 20)

/* What became of a block. */
enum tierfs_access_result {
	TIERFS_ACCESS_READ_OK = 1, /* was cold; the payload is its content */
	TIERFS_ACCESS_WRITE_OK,    /* was cold or a hole; done, and safe from a kill of the daemon */
	TIERFS_ACCESS_SET_OK,      /* generation and tier are set */
	TIERFS_ACCESS_RESIDENT,    /* in DRAM: nothing was done to it. Use the mapping, or the file. With
				    * TIERFS_ACCESS_ALSO_RESIDENT it has a payload, unless the kernel caches it */
	TIERFS_ACCESS_HOLE,        /* no content: reads as zeros */
	TIERFS_ACCESS_BUSY,        /* on its way between tiers, or being changed: nothing was done; try again */
	TIERFS_ACCESS_ERROR,       /* error in the record says what; nothing was done */
};

/* Where a block is. */
enum tierfs_access_state {
	TIERFS_STATE_HOLE,
	TIERFS_STATE_COLD,
	TIERFS_STATE_RESIDENT,
	TIERFS_STATE_PASSING,
};

/* What is known about the content of a block and its copy in the store. The daemon does not watch writes to memory, so
 * of a resident block that has a copy it knows nothing until it compares (TIERFS_ACCESS_COMPARE), and then it knows it
 * for that moment. */
enum tierfs_access_copy {
	TIERFS_COPY_NONE,    /* no stored copy: a hole, or changed since it last had one */
	TIERFS_COPY_SAME,    /* cold; or compared, and equal by the identity of its content */
	TIERFS_COPY_DIFFERS, /* compared, and changed since it was stored */
	TIERFS_COPY_UNKNOWN, /* resident with a stored copy, not compared */
};

/* Form of a payload. */
enum tierfs_access_form {
	TIERFS_FORM_NONE,   /* no payload; in a write: the block becomes a hole */
	TIERFS_FORM_PLAIN,  /* the content; a whole block, shorter only where the file ends */
	TIERFS_FORM_STORED, /* as it lies in the store (docs/format/store.md), under file 0: see docs/format/access.md
			     */
	TIERFS_FORM_AWAY, /* in a write: there is content of that identity on another host. Who needs it waits until it
			   * is written (TIERFS_BLOCK_AWAY) */
};

/* Flags of a record. */
#define TIERFS_BLOCK_PINNED (1U << 0)  /* out: never demoted */
#define TIERFS_BLOCK_DAMAGED (1U << 1) /* out: its stored copy failed its checksum */
#define TIERFS_BLOCK_CACHED \
	(1U << 2) /* out: the kernel's page cache may hold newer content; read it through the file */
#define TIERFS_BLOCK_SET_AGE \
	(1U << 3) /* in, write: generation and tier apply. Without it a cold block keeps its own, \
		   * and a hole begins with 0 */
#define TIERFS_BLOCK_TO_DRAM \
	(1U << 4) /* in, write: make it resident. Without room beside the reserve of the budget it \
		   * becomes cold; state in the answer says which */

#define TIERFS_BLOCK_ZERO \
	(1U << 5) /* out: resident, asked for as stored or for its hash, and all zero: as stored it has no payload */
#define TIERFS_BLOCK_IN_PLACE \
	(1U << 6) /* in, write: a block that is resident is written where it is, instead of RESIDENT (not if the \
		   * kernel caches it) */
#define TIERFS_BLOCK_AWAY \
	(1U << 7) /* out: its content is on another host. In, write: only if that is so; else it is left alone, and \
		   * the result says where it is */

/* One block, or, with count > 1, a run of neighbours that are alike in everything and have no payload. */
struct tierfs_access_record {
	uint64_t block;            /* number in the file: offset / block_bytes */
	struct tierfs_ident ident; /* of the content, where it is known without work or was asked for */
	uint32_t count;            /* blocks */
	uint32_t payload_at;       /* in the buffer */
	uint32_t payload_bytes;    /* 0: none */
	uint16_t error;            /* positive errno value with TIERFS_ACCESS_ERROR, else 0 */
	uint8_t result;            /* enum tierfs_access_result */
	uint8_t state;             /* enum tierfs_access_state, when it was looked at; after a write: what it is now */
	uint8_t generation;        /* scans since it was last seen in use */
	uint8_t tier;              /* 0 to 3 */
	uint8_t copy;              /* enum tierfs_access_copy */
	uint8_t form;              /* enum tierfs_access_form */
	uint8_t flags;             /* TIERFS_BLOCK_* */
	uint8_t reserved[3];       /* 0 */
};

/* Flags of a call. */
#define TIERFS_ACCESS_STORED (1U << 0)        /* payload as stored; of resident blocks: encoded for it */
#define TIERFS_ACCESS_ALSO_RESIDENT (1U << 1) /* payload of resident blocks too, from the arena */
#define TIERFS_ACCESS_NO_PAYLOAD (1U << 2)    /* states and hotness alone */
#define TIERFS_ACCESS_MERGE (1U << 3)         /* neighbours that are alike and have no payload share a record */
#define TIERFS_ACCESS_COMPARE (1U << 4)       /* resident blocks with a stored copy: hash and compare */
#define TIERFS_ACCESS_WAIT (1U << 5)          /* wait for blocks that are on their way, instead of BUSY */
#define TIERFS_ACCESS_HASH (1U << 6)          /* ident of resident blocks too, and TIERFS_BLOCK_ZERO */
#define TIERFS_ACCESS_CHANGED \
	(1U << 7) /* read_list: no payload where the content is that of the identity in the request */
#define TIERFS_ACCESS_POLITE (1U << 9)  /* nobody waits: what machines do goes first */
#define TIERFS_ACCESS_URGENT (1U << 10) /* a machine stands still: this goes first (of root only) */
#define TIERFS_ACCESS_QUICK (1U << 8)   /* as stored, of resident blocks: encoded for speed, not for size */

struct tierfs_access;

struct tierfs_access_info {
	uint64_t ino;
	uint64_t size_bytes; /* of the file, when the handle was opened */
	uint64_t blocks;     /* size_bytes / block_bytes, rounded up */
	uint32_t block_bytes;
	uint32_t rights;       /* TIERFS_RIGHT_* */
	uint32_t stored_max;   /* the largest payload as stored */
	uint32_t buffer_bytes; /* size of the shared buffer */
};

struct tierfs_access_answer {
	const struct tierfs_access_record *record;
	size_t count;
	uint64_t next_block;  /* read: the first block without an answer; at the end of the file: info.blocks */
	uint64_t away_blocks; /* wanted: blocks of the file that are away */
};

/* fd: a RAM file. buffer_bytes: 0 for the default. -ENOTTY: not tierfs; -EISDIR: a directory; -EUSERS: too many
 * handles; -EPROTO: a daemon of another version. */
int tierfs_access_open(int fd, size_t buffer_bytes, struct tierfs_access **ret);
void tierfs_access_close(struct tierfs_access *access); /* takes NULL */
const struct tierfs_access_info *tierfs_access_info(const struct tierfs_access *access);
/* The shared buffer as a descriptor (memfd), for splice(2) and the like; payload_at is an offset in it. Borrowed. */
int tierfs_access_buffer_fd(const struct tierfs_access *access);
/* Payload of a record of the last answer; NULL if it has none. */
const void *tierfs_access_payload(const struct tierfs_access *access, const struct tierfs_access_record *record);

/* Reads blocks [first, first + count), in order, as far as records and buffer reach: at least one block. What lies
 * beyond the end of the file is left out. */
int tierfs_access_read(struct tierfs_access *access, uint64_t first, uint64_t count, uint32_t flags,
		       struct tierfs_access_answer *ret);

/* Requests of single blocks, in any order, are collected and then sent as one call. add copies the record (block,
 * ident, generation, tier, form, flags and payload_bytes count) and the payload; -ENOBUFS: the buffer or the
 * records are full, send first. */
int tierfs_access_add(struct tierfs_access *access, const struct tierfs_access_record *record, const void *payload);
/* Room for bytes of payload in the buffer, to be filled by the caller and given to tierfs_access_add(), which then
 * copies nothing. NULL: no room. A second call without an add between gives the same room. */
void *tierfs_access_room(struct tierfs_access *access, size_t bytes);
/* How many records were added and not sent. */
size_t tierfs_access_added(const struct tierfs_access *access);
/* Forgets what was added. */
void tierfs_access_drop(struct tierfs_access *access);

/* Each sends what was added and forgets it. The answer has a record for each that was added, in the same order. A block
 * that is named twice is written twice.
 *
 * read_list: as tierfs_access_read(), for the blocks that were added. Those for which the buffer has no room say ERROR
 * with ENOBUFS: add them again.
 *
 * write: a block that is resident says RESIDENT, unless TIERFS_BLOCK_IN_PLACE has it written, with content (its
 * generation and tier stay without SET_AGE); one on its way says BUSY; both are unchanged. A payload as stored is
 * decoded completely before it is taken: EBADMSG if it is damaged, of another block number, of another block size, or
 * has content beyond the end of the file; ESTALE if it is not the content that the block has on the other host
 * (TIERFS_BLOCK_AWAY); EPROTONOSUPPORT if it is of a format that this daemon does not know. ENOSPC
 * and EIO come from the store. Content of zeros makes a hole. A write is safe (it survives a kill of the daemon) when
 * the call returns, and durable after fsync(2) of the file. If the daemon is killed within a write to DRAM, pages of
 * the block are old or new.
 *
 * set: generation and tier of blocks in any state; holes have none and say HOLE. A resident block of higher generation
 * is taken for idle when a scan has confirmed that nothing uses it, and not before. Ages that are set are kept until
 * the daemon ends; a cold block that is written with SET_AGE keeps its age for good. */
int tierfs_access_read_list(struct tierfs_access *access, uint32_t flags, struct tierfs_access_answer *ret);
int tierfs_access_write(struct tierfs_access *access, uint32_t flags, struct tierfs_access_answer *ret);
int tierfs_access_set(struct tierfs_access *access, uint32_t flags, struct tierfs_access_answer *ret);

/* Of each record the identity of its payload, the plain content of a block that the caller read through the file: what
 * the kernel caches the daemon does not have. */
int tierfs_access_identify(struct tierfs_access *access, struct tierfs_access_answer *ret);

/* read_list and write in two halves: begin sends what was added and returns (-ENODATA: nothing was), end waits for the
 * answer. In between the daemon works, and the handle and its buffer are not to be touched. With some handles a program
 * keeps the daemon busy while it works itself. */
int tierfs_access_begin_read_list(struct tierfs_access *access, uint32_t flags);
int tierfs_access_begin_write(struct tierfs_access *access, uint32_t flags);
int tierfs_access_end(struct tierfs_access *access, struct tierfs_access_answer *ret);

#define TIERFS_GENERATIONS 256

/* What generations mean in time, now: a block of generation g was last seen in use between age_ns[g] and age_ns[g + 1]
 * ago. 0 for those of which no time is known (before the first scan, or since the daemon started). The last generation
 * holds everything that is older. */
struct tierfs_access_ages {
	uint64_t age_ns[TIERFS_GENERATIONS];
	uint64_t scans;        /* rounds since the daemon loaded the file */
	uint64_t promotions;   /* blocks that came back, since then */
	uint64_t budget_bytes; /* of the mount */
	uint64_t budget_used_bytes;
	uint64_t uptime_ns; /* since the daemon loaded the file */
};

int tierfs_access_ages(struct tierfs_access *access, struct tierfs_access_ages *ret);

/* Blocks of which somebody waits for content that is on another host, as far as this handle was not told of them. Waits
 * up to a second for one. A handle that calls this is the supplier of the file: it writes (TIERFS_BLOCK_AWAY) what is
 * wanted first, and the rest when nothing is, until no block is away. The newest handle that calls it is the supplier;
 * an older one is answered -EBUSY. */
int tierfs_access_wanted(struct tierfs_access *access, struct tierfs_access_answer *ret);

/* "READ_OK" and the like, for a person. */
const char *tierfs_access_result_name(unsigned int result);

#ifdef __cplusplus
}
#endif
