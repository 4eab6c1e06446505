#include "base/thread.h"

#include <errno.h>
#include <limits.h>
#include <linux/sched/types.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

/* The C library has no functions for these two, and its <sched.h> does not go with the kernel's header. */
static int get(struct sched_attr *ret)
{
	return syscall(SYS_sched_getattr, 0, ret, sizeof(*ret), 0) < 0 ? -errno : 0;
}

static int set(struct sched_attr *attr)
{
	return syscall(SYS_sched_setattr, 0, attr, 0) < 0 ? -errno : 0;
}

int thread_set_slice(uint64_t slice_ns)
{
	struct sched_attr attr = { .size = sizeof(attr) };
	int err = get(&attr);

	attr.sched_runtime = slice_ns;
	if (!err)
		err = set(&attr);
	if (err)
		log_debug("a thread has no slice of its own");
	return err;
}

#define URGENT_NICE (-10)

void thread_set_urgent(void)
{
	if (setpriority(PRIO_PROCESS, (id_t)gettid(), URGENT_NICE) < 0)
		log_debug("a thread has no priority of its own");
	thread_set_slice(THREAD_SLICE_SHORT_NS);
}

#define CPUS_MAX 1024U
#define MASK_BITS (sizeof(unsigned long) * CHAR_BIT)

int thread_set_cpu(unsigned int cpu)
{
	unsigned long mask[CPUS_MAX / MASK_BITS] = { 0 };

	if (cpu >= CPUS_MAX)
		return -EINVAL;
	mask[cpu / MASK_BITS] = 1UL << cpu % MASK_BITS;
	return syscall(SYS_sched_setaffinity, 0, sizeof(mask), mask) < 0 ? -errno : 0;
}

int thread_slice(uint64_t *ret_ns)
{
	struct sched_attr attr = { .size = sizeof(attr) };
	int err = get(&attr);

	*ret_ns = attr.sched_runtime;
	return err;
}
