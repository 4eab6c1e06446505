/* client/client_lock.c - see client_lock.h.
 *
 * All of it is done by the hand, which has the descriptors. What is locked is counted by client_spans, what is about to
 * be by the connection, so that two threads cannot both have the last of it.
 */
#include "client/client_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/client.h"
#include "client/client_agent.h"
#include "client/client_filter.h"
#include "client/client_range.h"
#include "client/client_spans.h"
#include "client/client_sys.h"

#define PAGE_BYTES ((uintptr_t)4096)

struct request {
	uintptr_t from, end; /* whole pages */
	struct client_claim *claim;
	struct client_refusal *why;
	int err;
};

static struct request request_of(const void *addr, size_t length)
{
	uintptr_t from = (uintptr_t)addr & ~(PAGE_BYTES - 1);
	uintptr_t end = length > UINTPTR_MAX - PAGE_BYTES - (uintptr_t)addr ? UINTPTR_MAX - PAGE_BYTES + 1
									    : (uintptr_t)addr + length;

	return (struct request){ .from = from, .end = (end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1) };
}

/* The next part of [*from, end) that is attached, or NULL; *from and *ret_to become its bounds. */
static struct client_range *next_part(uintptr_t *from, uintptr_t end, uintptr_t *ret_to)
{
	struct client_range *range = *from < end ? client_range_find(*from, end - *from) : NULL;

	if (!range)
		return NULL;
	*ret_to = range->addr + range->length_bytes;
	if (*ret_to > end)
		*ret_to = end;
	if (range->addr > *from)
		*from = range->addr;
	return range;
}

static struct client_range *find_of(const struct request *request, const struct client_conn *conn)
{
	struct client_range *range;
	uintptr_t to;

	for (uintptr_t from = request->from; (range = next_part(&from, request->end, &to)); from = to)
		if (range->mapping->conn == conn)
			return range;
	return NULL;
}

/* A budget can be changed, and a daemon may have a successor. Nobody waits for one here: the hand is needed for other
 * mounts, and what the last one said is as good. */
static void ask_budget(const struct request *request, struct client_conn *conn)
{
	struct client_agent_guard guard;
	struct tierfs_ioc_info info;
	struct client_range *range;
	long fd = -1;

	client_agent_enter(&guard);
	range = conn->state == CLIENT_CONN_UP ? find_of(request, conn) : NULL;
	if (range)
		fd = client_sys(SYS_fcntl, range->mapping->file_fd, F_DUPFD_CLOEXEC, 0);
	client_agent_leave(&guard);
	if (fd < 0)
		return;
	if (client_info((int)fd, &info) == 0) {
		client_agent_enter(&guard);
		/* It may have become the connection of another mount meanwhile. */
		if (conn->state != CLIENT_CONN_FREE && !strcmp(conn->run_dir, info.run_dir))
			conn->dram_bytes = (uint64_t)info.dram_mib << 20;
		client_agent_leave(&guard);
	}
	close((int)fd);
}

static void ask_budgets(const struct request *request)
{
	for (int i = 0; i < CLIENT_CONN_MAX && client_filter_allows(CLIENT_FILTER_ATTACH); i++)
		ask_budget(request, &client_conns[i]);
}

/* --- locking ---------------------------------------------------------------------------------------------------- */

static void explain(const struct request *request, const struct client_conn *conn, uint64_t wanted)
{
	const struct client_range *range = find_of(request, conn);
	char link[64];
	long length = -1;

	if (range) {
		snprintf(link, sizeof(link), "/proc/thread-self/fd/%d", range->mapping->file_fd);
		length = client_sys(SYS_readlinkat, AT_FDCWD, link, request->why->file, CLIENT_LOCK_NAME_LEN - 1);
	}
	request->why->file[length > 0 ? length : 0] = '\0';
	request->why->no_room = !client_spans_has_room();
	request->why->wanted_bytes = wanted;
	request->why->limit_bytes = client_conn_lock_max(conn);
}

static int run_lock(void *arg)
{
	struct request *request = arg;
	struct client_claim *claim = request->claim;
	struct client_agent_guard guard;
	uintptr_t to;

	ask_budgets(request);
	client_agent_enter(&guard);
	for (uintptr_t from = request->from;; from = to) {
		struct client_range *range = next_part(&from, request->end, &to);

		if (!range)
			break;
		claim->bytes[range->mapping->conn - client_conns] += to - from - client_spans_bytes(from, to);
		claim->any = true;
	}
	for (int i = 0; i < CLIENT_CONN_MAX && !request->err; i++) {
		uint64_t wanted = claim->bytes[i] + client_range_locked(&client_conns[i]);
		uint64_t limit = client_conn_lock_max(&client_conns[i]);

		if (!claim->bytes[i] || (wanted + client_conns[i].locking_bytes <= limit && client_spans_has_room()))
			continue;
		explain(request, &client_conns[i], wanted);
		request->err = -ENOMEM;
	}
	for (int i = 0; i < CLIENT_CONN_MAX && !request->err; i++)
		client_conns[i].locking_bytes += claim->bytes[i];
	client_agent_leave(&guard);
	return 0;
}

int client_lock_begin(const void *addr, size_t length, struct client_claim *ret, struct client_refusal *why)
{
	struct request request = request_of(addr, length);

	*ret = (struct client_claim){};
	request.claim = ret;
	request.why = why;
	if (client_is_attached((void *)request.from, request.end - request.from))
		client_agent_do(run_lock, &request);
	return request.err;
}

static void give_back(uint64_t *from, uint64_t bytes)
{
	*from -= bytes < *from ? bytes : *from;
}

/* Whether any of it is. Where a filter may forbid the question, rather too much is counted than too little. */
static bool is_locked(uintptr_t from, uintptr_t end)
{
	return !client_filter_allows_all(CLIENT_FILTER_LOCKED) ||
	       client_sys(SYS_msync, from, end - from, MS_INVALIDATE) == -EBUSY;
}

/* A call that fails at a hole, or could not fill what it locked, leaves locked what it came to before. It goes on from
 * low addresses to high ones: where the first page is not locked that was not before, none is. */
static bool was_reached(uintptr_t from, uintptr_t end)
{
	uintptr_t first = client_spans_after(from);

	return first < end && is_locked(first, first + PAGE_BYTES);
}

void client_lock_end(const void *addr, size_t length, const struct client_claim *claim, bool done)
{
	struct request request = request_of(addr, length);
	struct client_agent_guard guard;
	uintptr_t to;

	if (!claim->any)
		return;
	client_agent_enter(&guard);
	for (int i = 0; i < CLIENT_CONN_MAX; i++)
		give_back(&client_conns[i].locking_bytes, claim->bytes[i]);
	for (uintptr_t from = request.from; next_part(&from, request.end, &to); from = to)
		if (done || was_reached(from, to))
			client_spans_add(from, to);
	client_agent_leave(&guard);
}

void client_lock_drop(const void *addr, size_t length, bool done)
{
	struct request request = request_of(addr, length);
	struct client_agent_guard guard;
	uintptr_t to;

	if (!client_range_maybe(request.from, request.end - request.from))
		return;
	client_agent_enter(&guard);
	for (uintptr_t from = request.from; next_part(&from, request.end, &to); from = to)
		if (done || !is_locked(from, to))
			client_spans_remove(from, to);
	client_agent_leave(&guard);
}

void client_lock_set_future(int flags)
{
	struct client_agent_guard guard;

	client_agent_enter(&guard);
	client_spans_set_future(flags);
	client_agent_leave(&guard);
}

/* --- populating ------------------------------------------------------------------------------------------------- */

static int run_populate(void *arg)
{
	struct request *request = arg;
	struct client_claim *claim = request->claim;
	struct client_agent_guard guard;
	struct client_range *range;
	uintptr_t from, to;

	ask_budgets(request);
	client_agent_enter(&guard);
	for (from = request->from; (range = next_part(&from, request->end, &to)); from = to) {
		struct client_conn *conn = range->mapping->conn;
		uint64_t limit = client_conn_populate_max(conn), room;

		room = limit > conn->populating_bytes ? limit - conn->populating_bytes : 0;
		if (to - from > room) {
			to = from + (room & ~(uint64_t)(PAGE_BYTES - 1));
			request->end = to;
		}
		conn->populating_bytes += to - from;
		claim->bytes[conn - client_conns] += to - from;
	}
	client_agent_leave(&guard);
	return 0;
}

size_t client_populate_begin(const void *addr, size_t length, struct client_claim *ret)
{
	struct request request = request_of(addr, length);
	uintptr_t end = request.end;

	*ret = (struct client_claim){};
	request.claim = ret;
	client_agent_do(run_populate, &request);
	return request.end == end ? length : request.end - request.from;
}

void client_populate_end(const struct client_claim *claim)
{
	struct client_agent_guard guard;

	client_agent_enter(&guard);
	for (int i = 0; i < CLIENT_CONN_MAX; i++)
		give_back(&client_conns[i].populating_bytes, claim->bytes[i]);
	client_agent_leave(&guard);
}
