/* engine/forget.h - what the kernel caches of a file that is about to be attached has to go.
 *
 * Thread-safety: all functions, from any thread, without a lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct tier;

/* Who can have the kernel drop all that it caches of a file, and what of it is mapped: the file is about to be
 * attached. Called on any thread, without a lock. It waits for fills that are under way, which are refused by then. */
typedef void forget_fn(void *arg, uint64_t ino);
/* NULL: there is nobody any more. */
void forget_on(struct tier *tier, forget_fn *fn, void *arg);
/* Waits until no call is under way, or the deadline; true if so. */
bool forget_wait(struct tier *tier, uint64_t deadline_ns);
/* The kernel drops what it caches of the file, and gives up what it maps of it. */
void forget_ask(struct tier *tier, uint64_t ino);
