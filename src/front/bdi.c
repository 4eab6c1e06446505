/* front/bdi.c - see bdi.h. */
#include "front/bdi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

static int set_knob(const struct statx *attr, const char *knob, const char *value)
{
	CLEANUP_CLOSE int fd = -1;
	char path[128];

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/%s", attr->stx_dev_major, attr->stx_dev_minor, knob);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, value, strlen(value)) < 0 ? -errno : 0;
}

void bdi_lift_limits(const char *mountpoint)
{
	struct statx attr;
	int err = 0;

	if (statx(AT_FDCWD, mountpoint, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &attr) < 0)
		err = -errno;
	if (!err)
		err = set_knob(&attr, "strict_limit", "0");
	if (!err)
		err = set_knob(&attr, "max_ratio", "100");
	if (err)
		log_warn("%s: cannot lift the kernel's limit on dirty memory of this mount (/sys/class/bdi: %s): what "
			 "plain mappings write is written back at once, and writers wait for it; attached ones are not "
			 "affected",
			 mountpoint, strerror(-err));
}
