/* lib/lib_store_hook.h - a store in front of another: calls a function before and after each change.
 *
 * What a test does in the hook happens at the moment where a real store would be at its I/O: no lock of the engine is
 * held, passing states are on. Single-threaded use.
 */
#pragma once

#include "cold/store.h"

enum store_hook_moment { STORE_HOOK_BEFORE, STORE_HOOK_AFTER };

typedef void store_hook_fn(void *arg, enum store_hook_moment moment);

/* below is borrowed, and is not freed with it. */
int store_hook_new(struct store *below, store_hook_fn *fn, void *arg, struct store **ret);
