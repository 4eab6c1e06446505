/* engine/resize.h - a RAM file gets another size.
 *
 * Thread-safety: any thread, no lock held, one at a time for each file. Blocks on I/O. 0 or -errno: -EFBIG, -ENOMEM,
 * -EIO, those of the store.
 */
#pragma once

#include <stdint.h>

struct ramfile;

/* Any size. Growing makes holes, allocates nothing; what a mapping wrote behind the old end becomes zeros. Who changes
 * the size of a file does so alone. */
int ramfile_truncate(struct ramfile *file, uint64_t size_bytes);
