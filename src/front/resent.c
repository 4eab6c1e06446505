/* front/resent.c - see resent.h. */
#include "front/resent.h"

#include <errno.h>
#include <linux/fuse.h>
#include <unistd.h>

#define UNIQUE_RESENT (UINT64_C(1) << 63) /* FUSE_UNIQUE_RESEND of later headers */

static __thread bool is_resent;

ssize_t resent_read(int fd, void *buf, size_t len, void *userdata)
{
	const struct fuse_in_header *header = buf;
	ssize_t got = read(fd, buf, len);

	(void)userdata;
	is_resent = got >= (ssize_t)sizeof(*header) && header->unique & UNIQUE_RESENT;
	return got;
}

bool resent_is(void)
{
	return is_resent;
}

int resent_create(struct ns *ns, uint64_t parent, const char *name, mode_t mode, int rc, struct stat *ret)
{
	struct stat attr;

	if (rc != -EEXIST || !is_resent || ns_lookup(ns, parent, name, &attr) < 0)
		return rc;
	if ((attr.st_mode ^ mode) & S_IFMT)
		return rc;
	rc = ns_remember(ns, attr.st_ino);
	if (rc == 0)
		*ret = attr;
	return rc;
}

int resent_link(struct ns *ns, uint64_t ino, uint64_t parent, const char *name, int rc, struct stat *ret)
{
	struct stat attr;

	if (rc != -EEXIST || !is_resent || ns_lookup(ns, parent, name, &attr) < 0 || attr.st_ino != ino)
		return rc;
	*ret = attr;
	return 0;
}

int resent_remove(int rc)
{
	return rc == -ENOENT && is_resent ? 0 : rc;
}

int resent_rename(struct ns *ns, uint64_t new_parent, const char *new_name, int rc)
{
	struct stat attr;

	return rc == -ENOENT && is_resent && ns_lookup(ns, new_parent, new_name, &attr) == 0 ? 0 : rc;
}
