/* map/events.h - faults of a mapping that were read from its userfaultfd and are not served yet.
 *
 * Whoever serves the mapping next takes them, those of the process's main thread first: that is who holds the locks
 * that all others wait for (QEMU's main loop does). Whoever puts some in sees that somebody comes.
 * Thread-safety: all functions, without the mapping's lock, but only while the mapping is kept.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/parked.h"
#include "map/mapping.h"

/* Reads what has come, as far as there is room. woken_ns: when the reader was woken for it; 0: it was awake. 0, and
 * there are some, maybe taken since; -EAGAIN: nothing has come; -EBUSY: the process keeps its address space locked, and
 * nobody may read. */
int events_fill(struct mapping *mapping, uint64_t woken_ns);
/* The next one. False: there is none. */
bool events_take(struct mapping *mapping, struct mapping_event *ret);
/* There are some; *ret_urgent: one of the main thread is among them. */
bool events_there(struct mapping *mapping, bool *ret_urgent);
/* What fault_serve() is to be told. */
enum fault_kind events_fault(const struct mapping_event *event);
/* The number of the main thread of a process, as the process has it; 0: not known. */
pid_t events_main_thread(pid_t pid);
