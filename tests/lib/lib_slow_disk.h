/* lib/lib_slow_disk.h - a disk whose reads end when the test says so. Root only.
 *
 * A FUSE file of the test's own answers no read before slow_disk_answer(). The disk is that file, or a loop device on
 * it, so that a read with O_DIRECT goes through the kernel's block layer.
 */
#pragma once

#include <stdint.h>

enum slow_disk_kind { SLOW_DISK_FUSE, SLOW_DISK_BLOCK };

struct slow_disk;

/* All bytes of it are fill. -errno if the host cannot. */
int slow_disk_new(enum slow_disk_kind kind, uint64_t bytes, uint8_t fill, struct slow_disk **ret);
void slow_disk_free(struct slow_disk *disk); /* answers all; descriptors must be closed before */

int slow_disk_open(struct slow_disk *disk);    /* for reading, O_DIRECT; a descriptor or -errno */
void slow_disk_wait(struct slow_disk *disk);   /* until a read waits for its answer */
void slow_disk_answer(struct slow_disk *disk); /* those that wait, and all to come */
