/* policy/payer.h - who gives up DRAM when it is short: of those below a tenant, or below the mount, the one with most
 * above its share.
 *
 * A share's price is what it pays for a byte above its minimum: weight / (used - min). Whoever pays least gives, until
 * the next one pays no more than he does. So all end at the same price, and what is above the minimums is divided by
 * weight; whoever wants less than his part leaves it to the others. (Min-funding revocation: C. A. Waldspurger and
 * W. E. Weihl, Stride Scheduling, 1995; as ESX has it for memory, Waldspurger, OSDI 2002.)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy/going.h"

struct engine;

/* Payers that had nothing to give are left out for a while. */
#define PAYERS_OUT 256

struct payers_out {
	struct payer_out {
		uint64_t ino, until_ns;
	} list[PAYERS_OUT];
	size_t count;
};

/* Where there is no place, the one that was added first is forgotten. */
void payers_add(struct payers_out *out, uint64_t ino, uint64_t until_ns);
/* Those whose time is over. */
void payers_forget(struct payers_out *out, uint64_t now_ns);

struct payer {
	uint64_t ino;           /* of a tenant, or of a file */
	bool is_file;           /* that is charged to the tenant above itself */
	uint64_t most_bytes;    /* that it gives until another one is to pay */
	uint64_t surplus_bytes; /* above its minimum */
	bool over;              /* clearly more than its part, by weight, of what all have above their minimums */
};

/* above: number of the tenant below which somebody pays; 0: the mount. What is going is not had any more. False: nobody
 * has anything above his minimum. */
bool payer_find(struct engine *engine, uint64_t above, const struct payers_out *out, const struct going *going,
		struct payer *ret);
