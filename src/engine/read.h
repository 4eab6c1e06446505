/* engine/read.h - read and seek, as by system call. Nothing is promoted.
 *
 * Offsets and lengths are bytes. Thread-safety: any thread, no lock held; they block on I/O and on blocks in passing
 * states. 0 or -errno: -EIO a block is damaged, the file is lost, or the store failed; what away_wait() says of blocks
 * that are away.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "engine/away.h"

struct ramfile;

/* Short reads at the end of file: *ret_len. */
int ramfile_read(struct ramfile *file, void *buf, size_t len, uint64_t offset, size_t *ret_len);
/* SEEK_DATA or SEEK_HOLE. -ENXIO as lseek(2). */
int ramfile_seek(struct ramfile *file, uint64_t offset, int whence, uint64_t *ret_offset);
/* As ramfile_read(), and the same for a fill: cache_fill(). */
int read_for(struct ramfile *file, enum away_for what, void *buf, size_t len, uint64_t offset, size_t *ret_len);
