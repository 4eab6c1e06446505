/* engine/batch.h - blocks of a file that one thread owns, from when it takes them until they settle: where content is
 * made a value and given to the store.
 *
 * Who has content to store goes these steps, in this order. Each leaves out what it has no need of.
 *
 *   begin    no mapper comes in, until end. For who protects, or works on blocks that are resident
 *   take     a block at rest that nobody owns comes into a passing state. What the table says of it is noted
 *   protect  in every mapper: readers go on, writers fault
 *   read     what the block is: the pages that the arena has, and below them its stored copy if it is partial
 *   encode   the verdict. Zeros: the key shall go. Equal to the stored copy, by its identity: nothing to do. Else a
 *            value
 *   put      all values with one call. The table says what the store has now, also after an error
 *   forget   the keys of blocks that are zeros go
 *   settle   each block is at rest again, in the state that the caller says
 *   wake     threads that waited for one of them try again
 *
 * Ownership. From take to settle nobody else changes the key of a block, its stored copy or what the table says of it.
 * Its content changes only by who maps the file and is not protected. The caller settles every block that it took,
 * whatever failed. Demotion has steps of its own (demote.c): its blocks can be taken back meanwhile.
 *
 * Errors. 0 or -errno, of the store: -ENOSPC, -EIO. -EDQUOT (quota.h). -ENOMEM. After an error the blocks are the
 * caller's still.
 *
 * Thread-safety: a batch belongs to one thread, but for the three that make values, which several may call for
 * different blocks. "Under lock" is that of the file; all others are called without a lock, and block on I/O.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/codec.h"
#include "cold/store.h"
#include "engine/mapper.h"
#include "engine/work.h"
#include "mem/blocks.h"

struct ramfile;

enum batch_verdict {
	BATCH_LEFT,  /* nothing is done with it. So is each block that was taken */
	BATCH_ZERO,  /* zeros, or a hole: no key */
	BATCH_SAME,  /* the stored copy is its content */
	BATCH_STORE, /* its value is to be put */
};

struct batch_block {
	uint64_t block;
	uint64_t length;  /* bytes of it that are in the arena when it is resident */
	uint64_t content; /* of those, bytes that are in the file */
	enum block_state was;
	enum batch_verdict verdict;
	struct codec_hotness hotness; /* what its value will say: its age when it was taken, or what the caller sets */
	struct tierfs_ident stored;   /* of a resident block's stored copy, if that is known */
	struct tierfs_ident ident;    /* of the content; set by encode */
	uint8_t *value;               /* its slot, once it has one */
	uint32_t value_bytes;
	bool partial; /* pages that the arena lacks are in the stored copy */
	bool damaged; /* the stored copy cannot be read */
	bool anyway;  /* no limit of what is stored holds for it (quota.h) */
	bool refused; /* by put: it would need room that its tenants do not have */
	bool young;   /* by put, which made it LEFT: it would be written, and is to be idle for longer before */
	bool done;    /* ZERO: it has no key now. STORE: the store has the value */
	int err;      /* of put or forget */
	bool waiters; /* somebody waited when it settled */
};

struct batch {
	struct ramfile *file;
	size_t count, most;
	struct batch_block *block;
	struct mapper_run *run; /* for protect */
	size_t most_values;
	_Atomic size_t values_used;
	struct store_item *item;
	uint8_t *values; /* slots of codec_bound() */
	bool lent;       /* they are the caller's */
};

/* Room for so many blocks, and values of so many of them. -ENOMEM. */
int batch_init(struct batch *batch, struct ramfile *file, size_t blocks, size_t values);
/* The same, the values in a buffer of the caller's. */
int batch_init_in(struct batch *batch, struct ramfile *file, size_t blocks, size_t values, uint8_t *buffer);
void batch_fini(struct batch *batch); /* takes a zeroed struct, and one whose init failed */
/* Forgets the blocks, which have settled: the batch is empty. */
void batch_clear(struct batch *batch);

/* Under lock. begin() drops it while a mapper is coming in. */
void batch_begin(struct batch *batch);
void batch_end(struct batch *batch);

/* Under lock: the block comes into that state. It is at rest, nobody owns it, and there is room in the batch. Who takes
 * for STORING owns it (BLOCK_OWNED) also when a write fault has taken the block back, and gives that up himself. */
struct batch_block *batch_take(struct batch *batch, uint64_t block, enum block_state passing);

typedef bool batch_pick(const struct batch_block *one);
/* The picked blocks, neighbours in one run. run: room for batch->count. Returns how many runs. */
size_t batch_runs(const struct batch *batch, batch_pick *pick, struct mapper_run *run);
/* Write-protects the picked blocks in every mapper, or lifts that. Goes on after an error. Returns the first one. */
int batch_protect(struct batch *batch, batch_pick *pick, bool on);

/* The content of a resident block, with zeros behind the end of the file. -EIO: pages that the arena lacks cannot be
 * read. */
int batch_read(struct batch *batch, struct work *work, const struct batch_block *one, uint8_t *raw);
/* The verdict, and a value if one is to be put. raw: the content, aligned to 8 bytes. */
int batch_encode(struct batch *batch, struct work *work, struct batch_block *one, const uint8_t *raw);
/* A value whatever it is, for who has found out ident and says the verdict himself. */
int batch_make_value(struct batch *batch, struct work *work, struct batch_block *one, const uint8_t *raw);
/* Where the value of the block goes, codec_bound() bytes: for who makes it without the codec, and sets value_bytes. */
uint8_t *batch_slot(struct batch *batch, struct batch_block *one);
/* All that are BATCH_STORE, which are `done` if it returns 0. -EDQUOT: of those that are not to be put anyway none was,
 * and the others are done. A demotion does not get that: what there is no room for is LEFT. After another error each
 * key is old or new. Then the table says that a
 * resident block has a key that equals nothing. A hole shall stay one after a crash, too, so its key is removed; if
 * that fails as well the table remembers that there may be one. */
int batch_put(struct batch *batch, enum store_use use);
/* All that are BATCH_ZERO, each of which is then `done`, up to one that fails. */
int batch_forget(struct batch *batch);
int batch_forget_one(struct batch *batch, struct batch_block *one);

/* What a block is now that is not in DRAM: by its verdict if that is done, else what it was. */
enum block_state batch_state(const struct batch_block *one);
/* Under lock. */
void batch_settle(struct batch *batch, struct batch_block *one, enum block_state now);
void batch_wake(const struct batch *batch);

/* Encode, put or forget for one block that the caller took otherwise: work->raw becomes its stored copy. anyway: as in
 * struct batch_block. *ret: as of batch_state(). */
int batch_store_one(struct ramfile *file, struct work *work, uint64_t block, enum block_state was, bool anyway,
		    enum block_state *ret);
