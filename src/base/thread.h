/* base/thread.h - how the kernel's scheduler shall see a thread of the daemon.
 *
 * Since Linux 6.12 a thread of the ordinary policy may ask for a slice of its own (sched_setattr(2), sched_runtime;
 * kernel/sched/fair.c, PREEMPT_SHORT): who wakes up with a shorter slice than the running thread has takes the
 * processor at once, where it would wait for the end of that slice otherwise, 3 ms and more. Shares of the processor
 * stay what they are. Older kernels ignore it.
 */
#pragma once

#include <stdint.h>

/* Somebody waits for what the thread does, and it does little. The kernel's least. */
#define THREAD_SLICE_SHORT_NS UINT64_C(100000)
/* The thread works in the background: everybody else may go first. The kernel's most. */
#define THREAD_SLICE_LONG_NS UINT64_C(100000000)

/* For the calling thread. 0 or -errno; what is refused costs time and nothing else. */
int thread_set_slice(uint64_t slice_ns);
/* For the calling thread, for which others wait: a short slice, and a nice value that gives it most of a processor that
 * it shares. */
void thread_set_urgent(void);
/* The calling thread runs on that processor alone. 0 or -errno. */
int thread_set_cpu(unsigned int cpu);
/* What it has. Older kernels: 0. */
int thread_slice(uint64_t *ret_ns);
