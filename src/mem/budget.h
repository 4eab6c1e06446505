/* mem/budget.h - the bytes of DRAM that blocks may use: one number that every fill asks first.
 *
 * A reservation is made before a block enters DRAM and given back after it left, so resident bytes never exceed the
 * limit, except when the limit itself is lowered. The last part of the budget (the reserve) is kept for those who
 * cannot do without DRAM: faults. Lock-free; thread-safe.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct budget {
	_Atomic uint64_t limit_bytes;
	_Atomic uint64_t used_bytes;
};

enum budget_need {
	BUDGET_URGENT,   /* a fault that others wait for: may use everything, */
	BUDGET_MUST,     /* and so may another one; engine/room.h has what it leaves to others */
	BUDGET_OPTIONAL, /* a buffered write, read-ahead, promotion on request: leaves the reserve alone */
};

void budget_init(struct budget *budget, uint64_t limit_bytes);
bool budget_reserve(struct budget *budget, uint64_t bytes, enum budget_need need);
void budget_release(struct budget *budget, uint64_t bytes);
/* Counts bytes that are in DRAM already, whatever the limit says: found in an arena at load. */
void budget_force(struct budget *budget, uint64_t bytes);

uint64_t budget_used(struct budget *budget);
uint64_t budget_free(struct budget *budget);
/* Free bytes that the demoter keeps in store for faults: 1/16 of the limit, 1 MiB to 256 MiB, at most 1/4 of the limit.
 */
uint64_t budget_reserve_bytes(struct budget *budget);
