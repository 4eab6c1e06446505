/* cold/stores.h - the store of a pool that has several devices: which of them has what of which file.
 *
 * A store of store.h (the router) in front of others (devices), each a store of its own: on RocksDB in a directory of
 * its own, with a warm part of its own if there is one. Device 0 is the pool's own, by the name "default"; it has all
 * metadata. What comes for a file goes to the device that has that block of it. A device that is full or fails fails
 * the calls about blocks that it has, and no others.
 *
 * Where a file is. Its layout is two devices and a mark: blocks below the mark are on `low`, the others on `high`. Both
 * are the same one while it is at rest. So each block has one place at every moment, and nothing is merged, whatever
 * was put, removed or cloned meanwhile. A file moves by moving its mark, up or down, window by window:
 *
 *   step     what is done                                              after a kill, or a loss of power, here
 *   begin    record: low is the new device, mark 0; durable            it means what the old record meant
 *   claim    who holds the file is waited for (store.h, hold), then    nothing has changed
 *            writers of the window wait; those before are waited for,
 *            and readers that outlasted the release of a window before
 *   clear    the window is removed from the device that is to have it  it had garbage there, at the most
 *   copy     its values are put there                                  garbage there, which the next clear removes
 *   sync     of that device                                            the same
 *   record   the mark behind the window; durable                       garbage on the old device, beyond the mark
 *   release  writers go on, now on the new device; readers that
 *            began before are waited for
 *   remove   the window from the old device                            the same
 *   finish   when the mark is at its end: all of the file is removed   the mark is at its end still: done again
 *            from the old device, that is synced, then the record says
 *            that the file is at rest; durable
 *
 * Reads never wait for a move. A change of its mind only turns the mark round: what was moved so far goes back the same
 * way, also if the new device is full. If it failed for good, what it has cannot be read from anywhere.
 * A value that is damaged becomes one that is damaged there. What two files share is two values once one was moved.
 *
 * While a record is in doubt (writing it failed) nothing of the window can be changed: -EIO, until it was written.
 *
 * Every function here takes any store: one that is no router has the device 0 alone. Thread-safety: all of them.
 * 0 or -errno, of the store's contract unless it is said.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cold/store.h"

#define STORES_MAX 16
#define STORES_NAME_MAX 31
#define STORES_TOKEN_BYTES 16
#define STORES_DEFAULT "default"

/* A device: the store, and the same without what it keeps in DRAM, if it is a warm one (cold/warm.h). Each device has a
 * warm part of its own, as one below all would stop for all when one device fails. */
struct stores_device {
	struct store *store;
	struct store *below; /* NULL: the same. Borrowed: it is freed with the other one */
};

/* A router with one device, that of the pool. It is owned from success on. Reads what the pool knows of others: their
 * names, and where files are; they are not here until stores_add(). -EBADMSG, -EPROTONOSUPPORT: those records. */
int stores_open(struct stores_device first, struct store **ret);

/* 1 to STORES_NAME_MAX of [a-z0-9_-]. */
bool stores_name_valid(const char *name);
/* The devices that the pool knows, with those that are not here. */
unsigned int stores_count(struct store *store);
/* Valid as long as the store is. index < stores_count(). */
const char *stores_name(struct store *store, unsigned int index);
/* -ENOENT */
int stores_find(struct store *store, const char *name, unsigned int *ret);
bool stores_here(struct store *store, unsigned int index);
/* The token by which pool and directory know each other. */
const uint8_t *stores_token(struct store *store, unsigned int index);
/* Files that have something there, or are to have. */
uint64_t stores_files(struct store *store, unsigned int index);
/* Of that device alone; all 0 if it is not here. */
void stores_figures(struct store *store, unsigned int index, struct store_figures *ret);

/* A device comes, before stores_start(). A name that the pool did not know, or knew by another token, is remembered
 * durably. Owned from success on. -ENOSPC: the pool has STORES_MAX. */
int stores_add(struct store *store, const char *name, const uint8_t token[static STORES_TOKEN_BYTES],
	       struct stores_device device);

/* The owner of a file's limits: so many values of so many bytes are about to be moved, one value or a part of it at a
 * time. 0: they may, and were taken; else nanoseconds until it is worth asking again. Called without a lock. */
typedef uint64_t stores_pace_fn(void *arg, uint64_t ino, uint64_t values, uint64_t bytes);
/* Starts the thread that moves files; pace may be NULL. Nothing is moved before. */
int stores_start(struct store *store, stores_pace_fn *pace, void *arg);
/* Ends it. What is half way goes on in the next life. */
void stores_stop(struct store *store);
/* For tests, without the thread: one step of one file. False: there is nothing to do now. */
bool stores_step(struct store *store);

/* Where the file is to be. It begins to move if it is elsewhere, or turns round. No I/O. -ENOMEM. */
int stores_want(struct store *store, uint64_t ino, unsigned int index);
/* A new file begins on that device: the record that says so, for the batch that makes it; then stores_begun(). */
#define STORES_KEY_BYTES 9
#define STORES_PLACE_BYTES 16
void stores_new_record(uint64_t ino, unsigned int index, uint8_t key[static STORES_KEY_BYTES],
		       uint8_t value[static STORES_PLACE_BYTES]);
int stores_begun(struct store *store, uint64_t ino, unsigned int index);
/* The file is gone, and everything of it was removed. Its record goes when that is durable. */
void stores_forget(struct store *store, uint64_t ino);
/* Files of which the pool has a record. fn returns non-zero to end it. */
typedef int stores_file_fn(void *arg, uint64_t ino);
int stores_each(struct store *store, stores_file_fn *fn, void *arg);

struct stores_where {
	unsigned int at, from; /* the same if it is at rest */
	/* Blocks of the range are at `at` already. */
	uint64_t first, count;
	bool here; /* all devices that have something of it are */
	int error; /* the last step failed so; 0 */
};
void stores_where(struct store *store, uint64_t ino, struct stores_where *ret);

/* Around a clone: `to`, of which nothing is stored, is where `from` is, and neither moves before the end. It waits for
 * the step that is going on. */
int stores_clone_begin(struct store *store, uint64_t from, uint64_t to);
void stores_clone_end(struct store *store, uint64_t from, uint64_t to);
