/* policy/choice.h - which blocks are demoted to make room: the oldest ones (mem/heat.h) of all files of the mount, of a
 * tenant, or of one file. Where shares say who has to pay (payer.h), the oldest ones of his.
 *
 * A batch of one file is chosen at a time, and is going from then on (going.h): the caller demotes it, and says what
 * became of it. Files that are out (rounds.h), or that have a batch that is late, have nothing to give.
 *
 * All functions under the lock of reclaim.h, which is not held while blocks are demoted.
 */
#pragma once

#include <stdint.h>

#include "engine/demote.h"
#include "mem/heat.h"
#include "policy/going.h"
#include "policy/payer.h"

struct ramfile;
struct engine;

/* Files that are chosen from. Both 0: all. */
struct scope {
	uint64_t tenant; /* those that are charged to it */
	uint64_t file;   /* the one of that number */
	bool held;       /* those that may not write to the store for now (engine/flow.h), or the others */
};

/* How many blocks of each class may be demoted, over all files of a scope. */
struct census {
	struct scope scope;
	uint64_t in_class[HEAT_CLASSES];
	uint64_t min_idle_ns;
	uint64_t taken_ns; /* 0: never */
	uint64_t lasts_ns;
};

/* Of so many scopes it is known at a time. */
#define CHOICE_CENSUSES 8

struct choice {
	struct census census[CHOICE_CENSUSES];
	struct payers_out out;
	struct going going;
	uint64_t at_ino; /* the hand is in this file, */
	bool behind;     /* or at the end of it */
};

struct chosen {
	bool own;             /* for the file's own limit */
	uint64_t tenant;      /* else: who had to give */
	struct ramfile *file; /* visited (engine.h) */
	struct going_batch *going;
	uint64_t since_ns;
	size_t count;
	uint32_t block[DEMOTE_BLOCKS];
};

/* A batch of the files that are charged to a tenant (0: of all), of the oldest blocks of which there are needed: those
 * that are missing without those that are going. False: none is idle. */
bool choice_take(struct choice *choice, struct engine *engine, uint64_t tenant, uint64_t needed, struct chosen *ret);
/* The same among the blocks of one file, which the caller visits. */
bool choice_take_of(struct choice *choice, struct ramfile *file, uint64_t needed, struct chosen *ret);
/* It has ended. Of a file that is to be out until then nothing is chosen; 0: it is not. The caller leaves the file. */
void choice_end(struct choice *choice, struct engine *engine, struct chosen *chosen, bool gave, uint64_t out_until_ns);
