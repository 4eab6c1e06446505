/* lib/lib_process.h - a simulated process that maps a RAM file: page tables, write-protection, faults.
 *
 * It stands for the kernel's half of an attached mapping. Pages live in the file's arena; what the process sees of them
 * is an entry that is mapped or not, and write-protected or not (a protection outlives the entry, as on shmem). A touch
 * of an absent page is a missing fault, a write to a protected one a protect fault; both go to fault_serve() on the
 * caller's thread and the touch is tried again. A fault that is not resolved at once leaves the toucher waiting:
 * process_touch() says so. One thread uses it; the engine may call from others.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/ramfile.h"

struct process;

/* Maps the whole file. The size must not change while it is mapped. */
int process_map(struct ramfile *file, uint64_t holder, struct process **ret);
void process_unmap(struct process *process);
/* Ends, which the engine is told of by process_unmap() only. */
void process_end(struct process *process);

/* Copies length bytes of one page out of, or into, memory. False: the thread waits for a fault that others will
 * resolve. */
bool process_touch(struct process *process, uint64_t offset, void *buf, uint64_t length, bool write);
/* True if a page was poisoned when it was touched last. */
bool process_poisoned(struct process *process);
/* Drops all entries, so poison too. */
void process_map_anew(struct process *process);
/* The kernel has no memory for the nth page from now on that is filled, once; 0: it has. */
void process_fail_fill(struct process *process, unsigned int nth);
/* Calls of the engine into the process. */
enum process_call {
	PROCESS_PROTECT,
	PROCESS_FILL,
	PROCESS_FILL_ZERO,
	PROCESS_WAKE,
	PROCESS_LOOK,
	PROCESS_ZAP,
	PROCESS_HEAL,
	PROCESS_CALLS
};
/* The nth call of that kind (PROCESS_CALLS: of any) from now on fails before it has any effect, once, with -ENOMEM; 0:
 * none does. */
void process_fail_call(struct process *process, enum process_call call, unsigned int nth);
/* Calls of any kind so far. */
uint64_t process_calls(struct process *process);
/* Bytes of the range were woken since the last call of this. */
bool process_was_woken(struct process *process, uint64_t offset, uint64_t length);
/* Zaps are acknowledged when this is called, as a slow agent would. */
void process_run_agent(struct process *process);
