/* engine/write_run.h - whole blocks that are not in DRAM, written in batches. For write.c, within a change.
 *
 * Thread-safety: any thread, no lock held; blocks on I/O. 0 or -errno: those of the store, -ENOMEM.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct ramfile;

/* Before anything is changed: what such a request would store has room within the limits of the file (quota.h). Who
 * comes meanwhile may still take it. -EDQUOT. */
int write_run_check(struct ramfile *file, const uint8_t *data, uint64_t offset, size_t len);
/* Writes the run of whole cold blocks or holes at the start of the request. *ret_bytes: 0 if there is none. */
int write_run(struct ramfile *file, const uint8_t *data, uint64_t offset, size_t len, size_t *ret_bytes);
