/* engine/claim.h - what of the budget nobody else can get from a tenant: its claim.
 *
 * That is what was promised to it (dram.min), or what it has in DRAM and may not write to the store, if that is more:
 * beyond what its disk.max and cold.write_day leave nothing of it can be demoted. What of the promises within it is not
 * used yet comes on top of the latter. The claim of a directory is at least the sum of those in it.
 *
 * All claims together are kept within what may be promised: who would claim more gets no more DRAM, and may not use up
 * by a call the room in the store that his memory needs. So nobody breaks a promise by filling DRAM with what stays.
 *
 * Thread-safety: all functions, from any thread, those of a tenant under the lock of tenants; none blocks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct engine;
struct ramfile;
struct tenant;
struct tenants;

struct claim {
	uint64_t bytes;
	uint64_t below_bytes;       /* of those directly below it */
	uint64_t unmet_bytes;       /* what it does not use of its own */
	uint64_t unmet_below_bytes; /* the same of those directly below it */
};

/* Bytes that may still be stored, and be written today. UINT64_MAX: there is no such limit. */
uint64_t claim_disk_left(const struct tenant *tenant);
uint64_t claim_day_left(const struct tenants *tenants, struct tenant *tenant);

/* What all together may claim: the budget without what is kept free for faults. */
uint64_t claim_most(struct engine *engine);
/* When the tree was made anew, from the deepest ones up. */
void claim_sum(struct engine *engine, struct tenant *tenant);
/* What it uses, what is stored or written of it, or what is promised to it has changed, and so of all above it. */
void claim_follow(struct engine *engine, struct tenant *tenant);
/* It is taken out of the tree, or comes to lie elsewhere. */
void claim_leave(struct engine *engine, struct tenant *tenant);

/* What somebody is about to do: bytes more in DRAM; so many more in the store; so many that are written there. */
struct claim_change {
	uint64_t used_bytes, stored_bytes, written_bytes;
};
/* True: the claims do not grow by it, or all of them are within what may be promised then. NULL: nobody. */
bool claim_allows(struct engine *engine, struct tenant *tenant, const struct claim_change *change);
/* Not a block more of it finds room in the store, or may be written there today. */
bool claim_is_stuck(struct engine *engine, struct tenant *tenant);
/* It and those above it have something that waits for room in DRAM until some of it can leave. Returns false. */
bool claim_await(struct tenant *tenant);

/* --- of a file --- */

/* Nothing of it that needs room in the store can be demoted: one of its tenants is stuck. */
bool claim_stays(struct ramfile *file);
/* Who keeps what is in DRAM of it from the store: is stuck, or may not write for now (tenant_hold()). The number of the
 * uppermost one; 0: nobody. *ret_first: nobody has asked for that one by that look yet; looks are numbered. */
uint64_t claim_holder(struct ramfile *file, uint64_t look, bool *ret_first);
/* So many bytes more of it in DRAM break no promise. */
bool claim_leaves(struct ramfile *file, uint64_t bytes);
