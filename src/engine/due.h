/* engine/due.h - which files the scanner has to look at, and when: a heap, ordered by time.
 *
 * In it are the files that need rounds (rounds.h): those that have something in DRAM and are mapped attached, and those
 * that were mapped plain. All others are asleep: they cost nothing, however many they are. A file that is asleep grows
 * older by time; what that makes is counted when it is visited (file_visit()).
 *
 * Who changes whether a file needs rounds calls due_look() afterwards; who changes how soon it needs one, due_pull().
 * The heap has room for every listed file, so neither can fail.
 * Thread-safety: all functions, from any thread. look() and pull() with the file's lock held or without; the others
 * without a lock.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/lock.h"

struct engine;
struct ramfile;

/* Of a file that sleeps: the time that counts as a round. */
#define DUE_ROUND_NS UINT64_C(15000000000)

/* A file's part; under the lock of struct dues. */
struct due {
	size_t slot;        /* in the heap, from 1 on; 0: in none */
	uint64_t at_ns;     /* of a file in the heap: when it is due */
	bool listed;        /* it may be in the heap */
	bool taken;         /* the scanner is at it */
	bool pulled;        /* meanwhile: it shall be looked at again */
	bool spared;        /* it was put at a slow pace for as long as others pay (engine/tenant.h) */
	bool sleeps;        /* it needs no rounds, */
	uint64_t asleep_ns; /* since then, */
	uint64_t counted;   /* of which so many rounds were counted, */
	uint64_t owed;      /* and those of sleeps before that were not */
};

struct dues {
	struct lock lock;
	struct ramfile **heap; /* under lock, as all that follows: the first is due first */
	size_t count, room;
	size_t listed;     /* files for which there has to be room */
	size_t spared;     /* files in the heap that are */
	_Atomic bool all;  /* every file shall be looked at again, */
	_Atomic bool near; /* or those whose tenant is near to its max */
};

void dues_init(struct dues *dues);
void dues_fini(struct dues *dues); /* takes a zeroed struct */

/* The file is in the engine's list, or will be in a moment; it is not any more. add: -ENOMEM. */
int due_add(struct ramfile *file);
void due_remove(struct ramfile *file);

/* Whether the file needs rounds may have changed: it wakes, and is due at once, or falls asleep. */
void due_look(struct ramfile *file);
/* Unless it sleeps the file is due now: what it waits for has come, or it has to be quicker. */
void due_pull(struct ramfile *file);
/* The same for all of them, soon; and for those whose tenant is near to its max then. */
void due_pull_all(struct engine *engine);
void due_pull_near(struct engine *engine);
/* The scanner looks how quick it has to be. */
void due_tell_scanner(struct engine *engine);
/* Rounds that went by while the file slept and were not told yet. */
uint64_t due_slept(struct ramfile *file, uint64_t now_ns);
/* How many rounds the file has been asleep for; 0: it is awake. */
uint64_t due_asleep(struct ramfile *file, uint64_t now_ns);

/* --- for the scanner --- */

/* The file that is due first, if it is by then: it leaves the heap, and the caller visits it (engine.h). NULL: none. */
struct ramfile *due_take(struct engine *engine, uint64_t now_ns);
/* What was pulled up to now is known: the caller looks at the file after this. */
void due_begin(struct ramfile *file);
/* Ends the take: the file is due then, or earlier, if it was pulled meanwhile; or it sleeps. The caller leaves it. */
void due_put(struct ramfile *file, uint64_t at_ns, bool spared);
/* Those of which fn says so are due now; NULL: all. fn is called under the lock of the heap, and must not block. */
typedef bool due_fn(struct ramfile *file);
void due_raise(struct engine *engine, uint64_t now_ns, due_fn *fn);
/* The same for those that were spared and are not any more. */
void due_raise_spared(struct engine *engine, uint64_t now_ns);
/* When the first one is due; UINT64_MAX: never. */
uint64_t due_next(struct engine *engine);
/* Files in the heap. */
size_t due_count(struct engine *engine);
