/* What the kernel caches of a file that is about to be attached has to go: attach_add() asks for it here, and
 * the door that can tell the kernel so (front/fuse.c) does it.
 *
 * The door may be gone before the last file is attached: an unmounted daemon serves mappings to the end. So calls are
 * counted, and the door waits for them when it leaves.
 */
#include "engine/forget.h"

#include "base/cleanup.h"
#include "engine/engine.h"

void forget_on(struct tier *tier, forget_fn *fn, void *arg)
{
	LOCK_SCOPE(&tier->forget_lock);

	tier->forget = fn;
	tier->forget_arg = arg;
}

void forget_ask(struct tier *tier, uint64_t ino)
{
	forget_fn *fn;
	void *arg;

	lock_get(&tier->forget_lock);
	fn = tier->forget;
	arg = tier->forget_arg;
	tier->forgets += fn != NULL;
	lock_put(&tier->forget_lock);
	if (!fn)
		return;
	fn(arg, ino);
	lock_get(&tier->forget_lock);
	if (--tier->forgets == 0)
		pthread_cond_broadcast(&tier->forgotten);
	lock_put(&tier->forget_lock);
}

bool forget_wait(struct tier *tier, uint64_t deadline_ns)
{
	LOCK_SCOPE(&tier->forget_lock);

	while (tier->forgets)
		if (lock_wait_until(&tier->forget_lock, &tier->forgotten, deadline_ns))
			break;
	return !tier->forgets;
}
