/* engine/ahead.h - read-ahead: threads that bring cold blocks which nobody waits for yet.
 *
 * Work comes in pieces of some blocks, so that several threads expand one window, and a toucher that is faster than
 * they are waits for a piece and not for all of it. Fault workers only put pieces into the queue; a piece that
 * does not fit is forgotten, as is one for which there is no room in DRAM when its turn comes. A piece that waits or is
 * at work counts as a call into the mapper.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct ahead;
struct mapper;
struct ramfile;

int ahead_new(struct ahead **ret);
void ahead_free(struct ahead *ahead); /* no mapper may be left. Takes NULL */

/* Blocks [first, first + count) of the file, as far as they are cold. Call without a lock. With ahead NULL they are
 * brought at once. */
void ahead_bring(struct ahead *ahead, struct ramfile *file, struct mapper *mapper, uint64_t first, uint64_t count);
/* Forgets the pieces of a mapper that is leaving. Takes NULL. */
void ahead_forget(struct ahead *ahead, struct mapper *mapper);
/* One of the threads is late in a mapper, or is back. While it is late another one does its work. Takes NULL. */
void ahead_late(struct ahead *ahead, bool late);
