#include "mem/budget.h"

#include <assert.h>

#define MIB (UINT64_C(1) << 20)

void budget_init(struct budget *budget, uint64_t limit_bytes)
{
	atomic_init(&budget->limit_bytes, limit_bytes);
	atomic_init(&budget->used_bytes, 0);
}

bool budget_reserve(struct budget *budget, uint64_t bytes, enum budget_need need)
{
	uint64_t limit = atomic_load(&budget->limit_bytes);
	uint64_t kept = need != BUDGET_OPTIONAL ? 0 : budget_reserve_bytes(budget);
	uint64_t used = atomic_load(&budget->used_bytes);

	do {
		if (used + bytes + kept > limit)
			return false;
	} while (!atomic_compare_exchange_weak(&budget->used_bytes, &used, used + bytes));
	return true;
}

void budget_release(struct budget *budget, uint64_t bytes)
{
	uint64_t before = atomic_fetch_sub(&budget->used_bytes, bytes);

	assert(before >= bytes);
	(void)before;
}

void budget_force(struct budget *budget, uint64_t bytes)
{
	atomic_fetch_add(&budget->used_bytes, bytes);
}

uint64_t budget_used(struct budget *budget)
{
	return atomic_load(&budget->used_bytes);
}

uint64_t budget_free(struct budget *budget)
{
	uint64_t limit = atomic_load(&budget->limit_bytes);
	uint64_t used = atomic_load(&budget->used_bytes);

	return used < limit ? limit - used : 0;
}

uint64_t budget_reserve_bytes(struct budget *budget)
{
	uint64_t limit = atomic_load(&budget->limit_bytes);
	uint64_t kept = limit / 16;

	if (kept < MIB)
		kept = MIB;
	if (kept > 256 * MIB)
		kept = 256 * MIB;
	return kept < limit / 4 ? kept : limit / 4;
}
