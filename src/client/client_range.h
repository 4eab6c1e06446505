/* client/client_range.h - the table of attached memory of this process.
 *
 * A mapping is what one tierfs_attach() made: three descriptors, kept for as long as any piece of it is there. A range
 * is a piece of a mapping: the whole at first, less or several after parts were unmapped. Ranges never overlap and are
 * kept sorted by address.
 *
 * The table has a fixed size and never allocates: it is used from wrappers of mmap and munmap, which a memory allocator
 * may call with its own locks held. Everything here but client_range_maybe() needs the agent's lock.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <tierfs/protocol.h>

#define CLIENT_MAPPING_MAX TIERFS_MAPPINGS_MAX
#define CLIENT_RANGE_MAX (2 * CLIENT_MAPPING_MAX)
#define CLIENT_RANGE_FDS 3 /* of a mapping */

struct client_conn;

struct client_mapping {
	int arena_fd; /* proof for RESUME */
	int uffd_fd;  /* our copy: while it is open, faults wait for a daemon and are never answered with zeros */
	int file_fd;  /* keeps the mount busy and an unlinked file alive */
	unsigned int pieces;
	bool dropped;      /* the last piece has gone: descriptors wait to be closed */
	uint32_t features; /* TIERFS_FEATURE_* of the daemon that gave the arena */
	/* In the file: where the program would have huge pages; end 0: nowhere. */
	uint64_t huge_start, huge_end;
	struct client_conn *conn;
};

enum client_range_state {
	CLIENT_RANGE_NEW,      /* MAP is under way: not answered for after a broken connection */
	CLIENT_RANGE_LIVE,     /* map_id is valid on this connection */
	CLIENT_RANGE_LOST,     /* the connection broke: waits for RESUME */
	CLIENT_RANGE_RESUMING, /* RESUME was sent with resume_seq */
	CLIENT_RANGE_REFUSED,  /* the daemon did not take it back; asked again after a while */
};

struct client_range {
	uintptr_t addr;
	size_t length_bytes;
	uint64_t offset; /* in the file, of addr */
	uint64_t map_id; /* the daemon's name for it */
	uint64_t resume_seq;
	enum client_range_state state;
	bool advised; /* the daemon knows where huge pages shall be */
	struct client_mapping *mapping;
};

/* Takes a mapping slot; the descriptors become the table's. NULL: the table is full. */
struct client_mapping *client_range_new_mapping(struct client_conn *conn, int arena_fd, int uffd_fd, int file_fd);
/* -ENOMEM: the table is full; -EEXIST: overlaps. Counts as a piece of the mapping. */
int client_range_add(struct client_mapping *mapping, uintptr_t addr, size_t length, uint64_t offset);
/* Gives up a mapping without pieces. Whoever does so may have another descriptor table: one of the library's own
 * threads takes the descriptors, and closes them. */
void client_range_drop_mapping(struct client_mapping *mapping);
bool client_range_has_dropped(void);
/* The descriptors of one dropped mapping (-1: none), which become the caller's. False: there is none. */
bool client_range_take_dropped(int ret_fds[CLIENT_RANGE_FDS]);

/* First range that overlaps [addr, addr + length), or NULL. Valid until the next add or cut. */
struct client_range *client_range_find(uintptr_t addr, size_t length);
/* Whether [addr, addr + length), which lies within one range, can be removed. -ENOMEM: a hole in the middle needs one
 * more slot, and there is none. */
int client_range_may_cut(uintptr_t addr, size_t length);
/* Removes it; it can be. The last piece gone, the mapping is dropped. */
void client_range_cut(uintptr_t addr, size_t length);

/* The index-th range in order of addresses, or NULL. */
struct client_range *client_range_at(size_t index);
size_t client_range_count(const struct client_conn *conn);
/* So much of what is attached through the connection is locked (client_spans.h); of what lies in [from, end). */
size_t client_range_locked(const struct client_conn *conn);
size_t client_range_locked_in(const struct client_conn *conn, uintptr_t from, uintptr_t end);

/* False only if nothing attached overlaps; needs no lock. */
bool client_range_maybe(uintptr_t addr, size_t length);
/* In a child of fork(), where none of this memory exists. */
void client_range_forget(void);
