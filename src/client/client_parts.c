/* client/client_parts.c - see client.h: what is done to parts of attached memory.
 *
 * Memory goes first and the daemon is told afterwards, but everything that can fail comes before the memory goes.
 */
#include "client/client.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "client/client_agent.h"
#include "client/client_filter.h"
#include "client/client_range.h"
#include "client/client_sys.h"

#define PAGE_BYTES ((size_t)4096)

int client_blank(void *addr, size_t length)
{
	long at = client_sys(SYS_mmap, addr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
			     -1, 0);

	return at < 0 && at > -4096 ? (int)at : 0;
}

bool client_is_attached(const void *addr, size_t length)
{
	struct client_agent_guard guard;
	bool found;

	if (!client_range_maybe((uintptr_t)addr, length))
		return false;
	client_agent_enter(&guard);
	found = client_range_find((uintptr_t)addr, length) != NULL;
	client_agent_leave(&guard);
	return found;
}

bool client_is_all_attached(const void *addr, size_t length)
{
	uintptr_t from = (uintptr_t)addr, end = from + length;
	struct client_agent_guard guard;
	struct client_range *range;

	if (!client_range_maybe(from, length) || end < from)
		return false;
	client_agent_enter(&guard);
	while (from < end && (range = client_range_find(from, 1)))
		from = range->addr + range->length_bytes;
	client_agent_leave(&guard);
	return from >= end;
}

/* --- detach, discard --------------------------------------------------------------------------------------------- */

/* Gives up the part of one range that lies in [from, end). */
static int give_up_part(struct client_agent_guard *guard, struct client_range *range, uintptr_t from, uintptr_t end)
{
	struct client_conn *conn = range->mapping->conn;
	struct client_call call = { .type = TIERFS_MSG_UNMAP, .map_id = range->map_id };
	bool live = range->state == CLIENT_RANGE_LIVE;
	uintptr_t to = range->addr + range->length_bytes;
	int err;

	if (range->addr > from)
		from = range->addr;
	if (to > end)
		to = end;
	call.addr = from;
	call.length_bytes = to - from;
	/* Everything that can fail comes before the memory goes. */
	err = client_range_may_cut(from, to - from);
	if (!err)
		err = client_blank((void *)from, to - from);
	if (err)
		return err;
	client_range_cut(from, to - from);
	if (live)
		client_agent_call(guard, conn, &call); /* the daemon's opinion changes nothing: the memory is gone */
	return 0;
}

int client_give_up(void *addr, size_t length)
{
	uintptr_t from = (uintptr_t)addr, end;
	struct client_agent_guard guard;
	struct client_range *range;
	int err = 0;

	if (!client_range_maybe(from, length))
		return 0;
	end = length > UINTPTR_MAX - from ? UINTPTR_MAX : from + length;
	end = end > UINTPTR_MAX - PAGE_BYTES ? end : (end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	client_agent_enter(&guard);
	while (!err && (range = client_range_find(from, end - from))) {
		/* An answer that is on its way decides what the daemon knows of it. */
		if (range->state == CLIENT_RANGE_RESUMING || range->state == CLIENT_RANGE_NEW)
			client_agent_wait(&guard, range->mapping->conn);
		else
			err = give_up_part(&guard, range, from, end);
	}
	client_agent_reap(&guard); /* the mount is not busy any more when this returns */
	client_agent_leave(&guard);
	return err;
}

int client_discard(void *addr, size_t length)
{
	uintptr_t from = (uintptr_t)addr, end = from + length;
	struct client_agent_guard guard;
	struct client_range *range;
	int err = 0;

	if (from % PAGE_BYTES || length % PAGE_BYTES || end < from)
		return -EINVAL;
	client_agent_enter(&guard);
	while (!err && from < end && (range = client_range_find(from, end - from))) {
		uintptr_t to = range->addr + range->length_bytes;
		struct client_call call = { .type = TIERFS_MSG_DISCARD };

		if (range->addr > from)
			from = range->addr;
		if (to > end)
			to = end;
		call.addr = from;
		call.length_bytes = to - from;
		err = client_agent_call(&guard, range->mapping->conn, &call);
		from = to;
	}
	client_agent_leave(&guard);
	return err;
}

/* The part of one mapping, as the hull of all that was advised. */
static void advise_part(struct client_agent_guard *guard, struct client_range *range, uint64_t start, uint64_t end,
			bool on)
{
	struct client_mapping *mapping = range->mapping;
	struct client_call call = { .type = TIERFS_MSG_ADVISE, .map_id = range->map_id };

	if (!on && (start > mapping->huge_start || end < mapping->huge_end))
		return;
	if (!on)
		start = end = 0;
	if (on && mapping->huge_end) {
		start = start < mapping->huge_start ? start : mapping->huge_start;
		end = end > mapping->huge_end ? end : mapping->huge_end;
	}
	mapping->huge_start = start;
	mapping->huge_end = end;
	if (range->state != CLIENT_RANGE_LIVE) /* said when it is */
		return;
	range->advised = true;
	call.offset = start;
	call.length_bytes = end - start;
	client_agent_call(guard, mapping->conn, &call);
}

void client_advise_huge(void *addr, size_t length, bool on)
{
	uintptr_t from = (uintptr_t)addr, end = from + length;
	struct client_agent_guard guard;
	struct client_range *range;

	client_agent_enter(&guard);
	while (from < end && (range = client_range_find(from, end - from))) {
		uintptr_t to = range->addr + range->length_bytes;

		if (range->addr > from)
			from = range->addr;
		if (to > end)
			to = end;
		if (range->mapping->features & TIERFS_FEATURE_ADVISE)
			advise_part(&guard, range, range->offset + (from - range->addr),
				    range->offset + (to - range->addr), on);
		from = to;
	}
	client_agent_leave(&guard);
}

/* Two descriptors of one open file; in the hand, whose they are. */
static bool is_same_file(int fd, int other)
{
	long tid = client_sys(SYS_gettid);

	return client_sys(SYS_kcmp, tid, tid, KCMP_FILE, fd, other) == 0;
}

/* Address of the part of attached memory that holds offset, and how far it goes. NULL: there is none. */
static void *find_by_offset(int fd, uint64_t offset, uint64_t *ret_left)
{
	struct client_agent_guard guard;
	struct client_range *range;
	void *addr = NULL;

	client_agent_enter(&guard);
	for (size_t i = 0; !addr && (range = client_range_at(i)); i++) {
		if (offset < range->offset || offset - range->offset >= range->length_bytes)
			continue;
		if (!is_same_file(fd, range->mapping->file_fd))
			continue;
		addr = (void *)(range->addr + (offset - range->offset));
		*ret_left = range->length_bytes - (offset - range->offset);
	}
	client_agent_leave(&guard);
	return addr;
}

struct discard {
	int fd, tid;
	uint64_t from, end;
	void *addr; /* the answer: where from is attached, and for how long */
	uint64_t length_bytes;
};

/* A discard may wait for the next daemon, so the hand only says where to. */
static int run_find(void *arg)
{
	struct discard *discard = arg;
	CLEANUP_CLOSE int fd = -1;
	uint64_t left = 0;
	int err;

	if (!client_filter_allows(CLIENT_FILTER_COMPARE))
		return -ENXIO;
	err = client_agent_take_fd(discard->fd, discard->tid, &fd);
	/* All of it first, so that a discard that cannot be done does nothing. */
	for (uint64_t at = discard->from; !err && at < discard->end; at += left)
		if (!find_by_offset(fd, at, &left))
			err = -ENXIO;
	if (err)
		return err;
	discard->addr = find_by_offset(fd, discard->from, &left);
	discard->length_bytes = left < discard->end - discard->from ? left : discard->end - discard->from;
	return discard->addr ? 0 : -ENXIO;
}

int client_discard_file(int fd, off_t offset, off_t length)
{
	struct discard discard = { .fd = fd, .from = (uint64_t)offset, .end = (uint64_t)offset + (uint64_t)length };
	int err = 0;

	if (!client_range_maybe(0, SIZE_MAX))
		return -ENXIO;
	while (!err && discard.from < discard.end) {
		err = client_agent_do_for(run_find, &discard, &discard.tid);
		if (!err)
			err = client_discard(discard.addr, discard.length_bytes);
		discard.from += discard.length_bytes;
	}
	return err;
}
