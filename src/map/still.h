/* map/still.h - whether a process stands still: it was stopped (SIGSTOP, a frozen cgroup), and cannot answer.
 *
 * What stops a process need not show in its state, and differs between the versions of cgroups. What shows is that it
 * uses no processor time, which is counted to 10 ms. Who does not answer either, and has not for STILL_NS, stands
 * still: nothing that it maps is in use. A few instructions now and then may not be seen; who is wrong about that
 * demotes memory in use, and loses nothing.
 *
 * Not thread-safe, but for still_ticks(), which waits for no lock of the process.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"

/* A process that is only slow answers within this, and one that is debugged is looked at for longer. */
#define STILL_NS (5 * NS_PER_S)

/* Zeroed: nothing is known. */
struct still {
	uint64_t ticks;    /* processor time that it had used, */
	uint64_t since_ns; /* and since when; 0: not known */
	bool stands;
};

/* What all threads of the process have used, in ticks of the kernel (10 ms); 0: it cannot be had. */
uint64_t still_ticks(pid_t pid);
/* It owes an answer, and has used so much. True: it stands still, and has for STILL_NS. */
bool still_ask(struct still *still, uint64_t ticks, uint64_t now_ns);
/* It stood still when it was asked, and has not moved since. */
bool still_holds(struct still *still, uint64_t ticks);
/* It answered. */
void still_end(struct still *still);
