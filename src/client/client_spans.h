/* client/client_spans.h - which parts of attached memory the program has locked (mlock(2)).
 *
 * Spans never overlap or touch, and are sorted by address. All functions need the agent's lock, and nothing allocates.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* There is room for one more span, whatever it is. */
bool client_spans_has_room(void);
void client_spans_add(uintptr_t from, uintptr_t end);
/* A span that would be split, and finds no room for its second half, stays whole: too much is counted then. */
void client_spans_remove(uintptr_t from, uintptr_t end);
/* The first address from addr on that is not locked. */
uintptr_t client_spans_after(uintptr_t addr);
/* So much of [from, end) is locked. */
size_t client_spans_bytes(uintptr_t from, uintptr_t end);

/* What mlockall(2) said of memory that is mapped later: MCL_FUTURE, with or without MCL_ONFAULT; 0: nothing. */
void client_spans_set_future(int flags);
int client_spans_future(void);

/* In a child of fork(), which inherits no lock. */
void client_spans_forget(void);
