#include "lib_store_hook.h"

#include <errno.h>
#include <stdlib.h>

#include "cold/meta.h"

struct store_hook {
	struct store store;
	struct store *below;
	store_hook_fn *fn;
	void *arg;
};

static struct store_hook *of(struct store *store)
{
	return (struct store_hook *)store;
}

static int hook_get(struct store *store, enum store_use use, struct store_key key, void *buf, size_t cap,
		    size_t *ret_len)
{
	return of(store)->below->ops->get(of(store)->below, use, key, buf, cap, ret_len);
}

static int hook_walk(struct store *store, enum store_use use, uint64_t ino, uint64_t first, uint64_t count,
		     store_walk_fn *fn, void *arg)
{
	return of(store)->below->ops->walk(of(store)->below, use, ino, first, count, fn, arg);
}

static int hook_heads(struct store *store, uint64_t ino, uint64_t first, uint64_t count, store_walk_fn *fn, void *arg)
{
	return of(store)->below->ops->heads(of(store)->below, ino, first, count, fn, arg);
}

static int hook_put(struct store *store, enum store_use use, const struct store_item *items, size_t count)
{
	struct store_hook *hook = of(store);
	int err;

	hook->fn(hook->arg, STORE_HOOK_BEFORE);
	err = hook->below->ops->put(hook->below, use, items, count);
	hook->fn(hook->arg, STORE_HOOK_AFTER);
	return err;
}

static int hook_remove(struct store *store, uint64_t ino, uint64_t first, uint64_t count)
{
	struct store_hook *hook = of(store);
	int err;

	hook->fn(hook->arg, STORE_HOOK_BEFORE);
	err = hook->below->ops->remove(hook->below, ino, first, count);
	hook->fn(hook->arg, STORE_HOOK_AFTER);
	return err;
}

static int hook_share(struct store *store, const struct store_share *share)
{
	struct store_hook *hook = of(store);
	int err;

	hook->fn(hook->arg, STORE_HOOK_BEFORE);
	err = hook->below->ops->share(hook->below, share);
	hook->fn(hook->arg, STORE_HOOK_AFTER);
	return err;
}

static uint64_t hook_shared_bytes(struct store *store, uint64_t ino)
{
	return of(store)->below->ops->shared_bytes(of(store)->below, ino);
}

static int hook_meta_put(struct store *store, const struct meta_change *changes, size_t count, bool durable)
{
	return of(store)->below->meta->put(of(store)->below, changes, count, durable);
}

static int hook_meta_walk(struct store *store, const void *prefix, size_t prefix_len, meta_fn *fn, void *arg)
{
	return of(store)->below->meta->walk(of(store)->below, prefix, prefix_len, fn, arg);
}

static void hook_keep(struct store *store, uint64_t ino, bool keep)
{
	if (of(store)->below->ops->keep)
		of(store)->below->ops->keep(of(store)->below, ino, keep);
}

static int hook_sync(struct store *store)
{
	return of(store)->below->ops->sync(of(store)->below);
}

static void hook_figures(struct store *store, struct store_figures *ret)
{
	of(store)->below->ops->figures(of(store)->below, ret);
}

static void hook_free(struct store *store)
{
	free(store);
}

static const struct meta_ops META = { .put = hook_meta_put, .walk = hook_meta_walk };

static const struct store_ops OPS = {
	.get = hook_get,
	.walk = hook_walk,
	.heads = hook_heads,
	.put = hook_put,
	.remove = hook_remove,
	.share = hook_share,
	.shared_bytes = hook_shared_bytes,
	.keep = hook_keep,
	.sync = hook_sync,
	.figures = hook_figures,
	.free = hook_free,
};

int store_hook_new(struct store *below, store_hook_fn *fn, void *arg, struct store **ret)
{
	struct store_hook *hook = calloc(1, sizeof(*hook));

	if (!hook)
		return -ENOMEM;
	hook->store.ops = &OPS;
	hook->store.meta = &META;
	hook->below = below;
	hook->fn = fn;
	hook->arg = arg;
	*ret = &hook->store;
	return 0;
}
