/* front/bdi.h - how much dirty memory of the mount the kernel keeps before it makes writers wait. */
#pragma once

/* Lifts the limits that the kernel puts on every FUSE mount: without that a plainly mapped file may have one percent of
 * the host's memory dirty. Of this mount alone, nothing of the host is changed. If it is not permitted, one warning
 * says what that costs. Asks nothing of the mount, so it may be called by who serves it. */
void bdi_lift_limits(const char *mountpoint);
