/* front/mountpoint.h - whether a directory can be mounted on.
 *
 * Functions return 0 or -errno and, where it says so, have logged one line.
 */
#pragma once

#include <stdbool.h>

/* The canonical name of a directory that no tierfs is mounted on; the caller frees it. A dead mount of a tierfs that
 * was killed is taken away first. -EBUSY: a live one is there. One line was logged. */
int mountpoint_claim(const char *path, char **ret);

/* The canonical name, whatever is there; the caller frees it. */
int mountpoint_name(const char *path, char **ret);

/* The device of the tierfs that is mounted there, and whether one of that device is mounted anywhere. An unreadable
 * mount table counts as yes. */
#define MOUNTPOINT_DEVICE_LEN 32
int mountpoint_device(const char *path, char ret[static MOUNTPOINT_DEVICE_LEN]);
bool mountpoint_has_device(const char *device);

/* Tells umount(8) that this mount has a helper of its own, so that umount(8) returns when the daemon has finished: the
 * entry that mount(8) would make for helper=. Without it umount works, and returns earlier. */
void mountpoint_register(const char *source, const char *mountpoint);

/* As umount(8) without helpers; lazy: also when it is in use, and then it is gone when its last user is. */
int mountpoint_unmount(const char *mountpoint, bool lazy);

/* The pool may not lie below its own mount: the daemon would wait for itself. */
int mountpoint_check_pool(const char *mountpoint, const char *pool_dir);

/* Pure, for tests: whether the line of /proc/self/mountinfo is a tierfs mount on that directory. */
int mountpoint_match(const char *line, const char *path);
