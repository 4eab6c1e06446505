/* policy/choice.h - which blocks of all files of a mount are demoted to make room: the oldest ones (mem/heat.h). For
 * one thread, the demoter. */
#pragma once

#include <stdint.h>

#include "mem/heat.h"

struct ramfile;
struct engine;

/* Blocks that are demoted in one step. */
#define CHOICE_BLOCKS 512

/* How many blocks of each class may be demoted, over all files. */
struct census {
	uint64_t in_class[HEAT_CLASSES];
	uint64_t min_idle_ns;
	uint64_t taken_ns; /* 0: never */
	uint64_t lasts_ns;
};

struct choice {
	struct census census;
	uint32_t pick[CHOICE_BLOCKS];
};

/* Demotes some blocks, of the oldest ones of which there are needed. *ret_demoted: how many, 0 if none is idle. Returns
 * the error of a store that refused them; then, too, some may have been demoted. */
int choice_demote(struct choice *choice, struct engine *engine, uint64_t needed, uint64_t *ret_demoted);
/* The same among the blocks of one file. */
int choice_demote_of(struct choice *choice, struct ramfile *file, uint64_t needed, uint64_t *ret_demoted);
