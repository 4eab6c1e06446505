/* front/resent.c - see resent.h. */
#include "front/resent.h"

#include <linux/fuse.h>
#include <unistd.h>

#define UNIQUE_RESENT (UINT64_C(1) << 63) /* FUSE_UNIQUE_RESEND of later headers */

static __thread uint64_t unique;

ssize_t resent_read(int fd, void *buf, size_t len, void *userdata)
{
	const struct fuse_in_header *header = buf;
	ssize_t got = read(fd, buf, len);

	(void)userdata;
	unique = got >= (ssize_t)sizeof(*header) ? header->unique : 0;
	return got;
}

bool resent_is_done(struct ns *ns, uint64_t *ret_ino)
{
	uint64_t ino;

	/* What comes for the first time cannot have been done, whatever was written of a request of that number. */
	if (!ns_serve(ns, unique & ~UNIQUE_RESENT, &ino) || !(unique & UNIQUE_RESENT))
		return false;
	*ret_ino = ino;
	return true;
}
