/* engine/parked.h - faults that wait for room in the budget, or for their file's own limit. They are taken up again by
 * whoever serves faults (fault.h).
 *
 * A fault that waits counts as a call into its mapper.
 * Thread-safety: all functions, from any thread, without a lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "engine/mapper.h"
#include "engine/waits.h"
#include "mem/budget.h"

struct ramfile;
struct engine;

enum fault_kind {
	FAULT_MISSING,
	FAULT_URGENT, /* missing, and others wait for the thread: it comes before the others of its file */
	FAULT_PROTECTED,
};

/* A fault that waits for room in the budget. */
struct parked {
	TAILQ_ENTRY(parked) link;
	struct ramfile *file;
	struct mapper *mapper;
	uint64_t offset;
	enum fault_kind kind;
	bool own;      /* it is a limit of the file's own, or of its tenant's, that it waits for */
	bool for_turn; /* it waits for its turn to be read (flow.h); else for room */
	uint64_t arrived_ns;
	struct wait wait;
};

TAILQ_HEAD(parked_list, parked);

static inline enum budget_need fault_needs(enum fault_kind kind)
{
	return kind == FAULT_URGENT ? BUDGET_URGENT : BUDGET_MUST;
}

/* The fault found no room: it waits, and the demoter is kicked; or, with turn_ns, its block may not be read before
 * then. A thread that was interrupted while it waits comes again: the same page of a mapper waits once. Without memory
 * for it, or where very many wait, the toucher is woken to come again. offset: in the file; arrived_ns: as of
 * fault_serve(). */
void parked_add(struct engine *engine, struct ramfile *file, struct mapper *mapper, uint64_t offset,
		enum fault_kind kind, uint64_t arrived_ns, uint64_t turn_ns);
/* The one to be taken up next, out of the list: of those for which there is room, or whose turn has come, one of whom
 * has had least (tenant_passed()). NULL: none. The caller frees it, and drops the mapper. */
struct parked *parked_next(struct engine *engine);
/* Some that waits for room is of a file that the demoter does not pass over (flow.h), and that need not leave what is
 * free to others. */
bool parked_of_others(struct engine *engine);
/* The mapper is leaving: its faults are forgotten, also those of read-ahead and of retries. */
void parked_forget(struct engine *engine, struct mapper *mapper);
