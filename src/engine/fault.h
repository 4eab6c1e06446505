/* engine/fault.h - a thread of a mapper waits for a page.
 *
 * Thread-safety: all functions, from any thread, without a lock. They never fail: what cannot be read is poisoned.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/parked.h"

struct mapper;
struct ramfile;
struct engine;

/* A thread of the mapper waits at offset. Not called after or during attach_remove(). Resolves it and wakes the
 * thread, now or later (when there is room). arrived_ns: when the event was read, for the latency figures. Never fails:
 * what cannot be read is poisoned. */
void fault_serve(struct ramfile *file, struct mapper *mapper, uint64_t offset, enum fault_kind kind,
		 uint64_t arrived_ns);
/* Before fault_serve(): who touches offset holds up others, so a cold block stays in DRAM for longer. True: it will. */
bool fault_favour(struct ramfile *file, uint64_t offset);
/* Takes up the next fault that waited for room (parked.h). False: there is none for which there is room. */
bool fault_resume(struct engine *engine);
