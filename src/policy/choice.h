/* policy/choice.h - which blocks are demoted to make room: the oldest ones (mem/heat.h) of all files of the mount, of a
 * tenant, or of one file. Where shares say who has to pay (payer.h), the oldest ones of his. For the demoter alone.
 */
#pragma once

#include <stdint.h>

#include "mem/heat.h"
#include "policy/payer.h"

struct ramfile;
struct engine;

/* Blocks that are demoted in one step. */
#define CHOICE_BLOCKS 512

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
	uint32_t pick[CHOICE_BLOCKS];
};

/* Demotes some blocks of the files that are charged to a tenant (0: of all), of the oldest ones of which there are
 * needed. *ret_demoted: how many, 0 if none is idle. Returns the error of a store that refused them; then, too, some
 * may have been demoted. */
int choice_demote(struct choice *choice, struct engine *engine, uint64_t tenant, uint64_t needed,
		  uint64_t *ret_demoted);
/* The same among the blocks of one file. */
int choice_demote_of(struct choice *choice, struct ramfile *file, uint64_t needed, uint64_t *ret_demoted);
