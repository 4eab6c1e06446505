/* front/resent.h - requests that an earlier daemon may have carried out without answering.
 *
 * The successor has the kernel send again what was not answered, marked as such. Most requests can be done twice:
 *reads, writes, sizes, opens. Those that change names cannot; but the kernel lets nobody else change a directory while
 *such a request is under way, and nothing but this mount changes names. So the state of the directory tells whether it
 *was done:
 *
 *	create, mkdir, link    the name is there: done
 *	unlink, rmdir          the name is not there: done
 *	rename                 the old name is not there and the new one is: done
 *	rename that exchanges  cannot be told: EIO, and the kernel is made to look both names up again (front/fuse.c)
 *
 * The mark is known to the thread that read the request, until it reads the next one. Functions take the result rc of
 *doing it now, and return the result to answer.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "core/ns.h"

/* As read(2), of one request from the FUSE device. */
ssize_t resent_read(int fd, void *buf, size_t len, void *userdata);
bool resent_is(void);

/* ret as of ns_create(), with a lookup reference. */
int resent_create(struct ns *ns, uint64_t parent, const char *name, mode_t mode, int rc, struct stat *ret);
int resent_link(struct ns *ns, uint64_t ino, uint64_t parent, const char *name, int rc, struct stat *ret);
int resent_remove(int rc);
int resent_rename(struct ns *ns, uint64_t new_parent, const char *new_name, int rc);
