/* client/client.h - attach, detach and discard: what the C API and the preload library are made of.
 *
 * All functions are thread-safe and return 0 or -errno. why (may be NULL) receives one line that says what is wrong,
 * for a person; it is empty where the errno says it all.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <tierfs/ioctl.h>
#include <tierfs/protocol.h>

#define CLIENT_WHY_LEN TIERFS_TEXT_MAX

/* -ENOTTY: not tierfs; cheap for files of other filesystems. -ENOTCONN: its daemon is gone. */
int client_info(int fd, struct tierfs_ioc_info *ret);

/* Whether fd is a RAM file: 0, or an error as above. For the program's own threads under whatever filter. */
int client_is_tierfs(int fd);

struct client_wish {
	int fd;
	void *addr;
	size_t length_bytes;
	int prot;
	int flags; /* MAP_*; the type is ignored: it is always shared */
	off_t offset;
};

int client_attach(const struct client_wish *wish, void **ret, char why[CLIENT_WHY_LEN]);

/* Inaccessible memory in place of what is there: the address cannot become somebody else's. */
int client_blank(void *addr, size_t length);

/* Gives up what is attached in the range and leaves inaccessible memory there, so that nobody can come in between:
 * the caller unmaps it, or maps over it. addr is page aligned. */
int client_give_up(void *addr, size_t length);

/* True if anything in the range is attached; costs two loads when nothing is near. */
bool client_is_attached(const void *addr, size_t length);
/* True if all of it is. */
bool client_is_all_attached(const void *addr, size_t length);

/* Where the program would have huge pages, or not any more (on = false). No promise: the daemon knows, and does what it
 * can. */
void client_advise_huge(void *addr, size_t length, bool on);

/* Discards what is attached in the range. */
int client_discard(void *addr, size_t length);

/* The same for a range of a file, as far as fd is a duplicate of a descriptor that attached memory was made from.
 * -ENXIO: nothing of the kind covers all of the range. For descriptors whose mount died with its daemon, while the
 * memory lives on. */
int client_discard_file(int fd, off_t offset, off_t length);
