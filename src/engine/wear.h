/* engine/wear.h - how many bytes were written in the last day: by hours, 24 of them and the one that runs.
 *
 * What was written in an hour counts until that hour ended 24 hours ago, so in no 24 hours more is written than a limit
 * allows that is kept by this. Pure functions; now_ns is any clock that never goes back (clock_boot_ns()).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define WEAR_HOURS 24
/* How choosy somebody gets at the most who comes near to his limit. */
#define WEAR_CHOOSY_MAX 3

struct wear {
	uint64_t began_ns;              /* of the hour that runs */
	uint64_t bytes[WEAR_HOURS + 1]; /* of that one, and of those before it, the last one first */
};

/* Of a zeroed struct nothing was written. */
void wear_add(struct wear *wear, uint64_t bytes, uint64_t now_ns);
/* What counts now. */
uint64_t wear_used(struct wear *wear, uint64_t now_ns);
/* So long until some of it does not count any more; UINT64_MAX: nothing counts. */
uint64_t wear_next_free_ns(struct wear *wear, uint64_t now_ns);
/* How much to save, 0 to WEAR_CHOOSY_MAX. 0: less than 3/4 of the limit is used, or, written on as in the last hour, it
 * will not be reached within a day. The sooner it would be reached, the more. */
unsigned int wear_choosy(struct wear *wear, uint64_t limit_bytes, uint64_t now_ns);
/* So much of the running hour is over, and the rest of *wear is as it was: for what was kept over an end of the daemon.
 */
void wear_resume(struct wear *wear, uint64_t into_hour_ns, uint64_t now_ns);
