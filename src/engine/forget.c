/* What the kernel caches of a file that is about to be attached has to go: attach_add() asks for it here, and
 * the door that can tell the kernel so (front/fuse.c) does it.
 *
 * The door may be gone before the last file is attached: an unmounted daemon serves mappings to the end. So calls are
 * counted, and the door waits for them when it leaves.
 */
#include "engine/forget.h"

#include "base/cleanup.h"
#include "engine/engine.h"

void forget_init(struct forgetting *forgetting)
{
	lock_init(&forgetting->lock, LOCK_RANK_STATS); /* a leaf */
	lock_cond_init(&forgetting->none);
}

void forget_fini(struct forgetting *forgetting)
{
	pthread_cond_destroy(&forgetting->none);
	lock_fini(&forgetting->lock);
}

void forget_on(struct engine *engine, forget_fn *fn, void *arg)
{
	LOCK_SCOPE(&engine->forgetting.lock);

	engine->forgetting.fn = fn;
	engine->forgetting.arg = arg;
}

void forget_ask(struct engine *engine, uint64_t ino)
{
	forget_fn *fn;
	void *arg;

	lock_get(&engine->forgetting.lock);
	fn = engine->forgetting.fn;
	arg = engine->forgetting.arg;
	engine->forgetting.calls += fn != NULL;
	lock_put(&engine->forgetting.lock);
	if (!fn)
		return;
	fn(arg, ino);
	lock_get(&engine->forgetting.lock);
	if (--engine->forgetting.calls == 0)
		pthread_cond_broadcast(&engine->forgetting.none);
	lock_put(&engine->forgetting.lock);
}

bool forget_wait(struct engine *engine, uint64_t deadline_ns)
{
	LOCK_SCOPE(&engine->forgetting.lock);

	while (engine->forgetting.calls)
		if (lock_wait_until(&engine->forgetting.lock, &engine->forgetting.none, deadline_ns))
			break;
	return !engine->forgetting.calls;
}
