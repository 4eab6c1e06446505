/* lib/lib_gate.h - a gate that a thread meets, as at a sync, and at which it stays for as long as the test wants.
 *
 * One for each program. Thread-safety: all functions.
 */
#pragma once

#include <stdbool.h>

/* Waits while it is shut. */
void gate_pass(void);
/* Shuts or opens it; whoever met it before is forgotten. */
void gate_set(bool shut);
/* Waits until a thread has met it shut. */
void gate_await(void);
