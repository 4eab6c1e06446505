/* engine/interrupt.h - whether the request that a thread works on was given up by who made it.
 *
 * Whoever takes a request says how to ask; whoever waits for long asks. Each thread for itself.
 */
#pragma once

#include <stdbool.h>

typedef bool interrupted_fn(void *arg);
/* For the calling thread, until it is called again. NULL: never, which is so at first. */
void interrupt_on(interrupted_fn *fn, void *arg);
bool interrupted(void);
