/* front/resent.h - requests that an earlier daemon may have carried out without answering.
 *
 * The successor has the kernel send again what was not answered, marked as such. Most requests can be done twice:
 * reads, writes, sizes, opens; the kernel lets nobody else at the inode while such a one is under way. Those that
 * change names cannot. Which of them were carried out is in the store, by number (names/outcome.h).
 *
 * Number and mark are known to the thread that read the request, until it reads the next one.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "names/names.h"

/* As read(2), of one request from the FUSE device; and who is killed meanwhile leaves the request to the successor. Any
 * thread; it may be cancelled while it waits. */
ssize_t resent_read(int fd, void *buf, size_t len, void *userdata);

/* Before a request that changes names is carried out. True: that was done, answer so; *ret_ino is the inode it was
 * about. False: do it now, on this thread. */
bool resent_is_done(struct ns *ns, uint64_t *ret_ino);
