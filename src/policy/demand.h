/* policy/demand.h - demotion on request, of a range.
 *
 * Offsets and lengths are bytes. Thread-safety: any thread, no lock held; they wait for scans, I/O and the evictor.
 * 0 or -errno: -EIO the file is lost; -ECANCELED by progress; those of demote.h but -EBUSY.
 */
#pragma once

#include <stdint.h>

#include "engine/file.h"

/* Demotes every block of the range that is idle. A mapped file is zapped first and given min_idle to show what is in
 * use; an unmapped one is demoted at once. */
int demand_demote(struct ramfile *file, uint64_t offset, uint64_t len, file_progress_fn *progress, void *arg,
		  struct file_done *ret);
/* Stores what the arena of a plain file holds: copies of what the kernel wrote back. For the evictor, which
 * demand_demote() waits for. Nobody may have the file attached. */
int demand_demote_staged(struct ramfile *file);
