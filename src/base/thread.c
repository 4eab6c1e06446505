#include "base/thread.h"

#include <errno.h>
#include <linux/sched/types.h>
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

int thread_slice(uint64_t *ret_ns)
{
	struct sched_attr attr = { .size = sizeof(attr) };
	int err = get(&attr);

	*ret_ns = attr.sched_runtime;
	return err;
}
