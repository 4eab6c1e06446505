/* client/client_range.c - see client_range.h. */
#include "client/client_range.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "client/client_spans.h"

static struct client_range ranges[CLIENT_RANGE_MAX];
static size_t range_count;
static struct client_mapping mappings[CLIENT_MAPPING_MAX];
static size_t dropped_count;

/* What the unlocked question looks at: everything attached lies in [bounds_low, bounds_high). Written under the lock.
 */
static _Atomic uintptr_t bounds_low = UINTPTR_MAX;
static _Atomic uintptr_t bounds_high;

static void update_bounds(void)
{
	if (range_count == 0) {
		atomic_store(&bounds_low, UINTPTR_MAX);
		atomic_store(&bounds_high, 0);
		return;
	}
	atomic_store(&bounds_low, ranges[0].addr);
	atomic_store(&bounds_high, ranges[range_count - 1].addr + ranges[range_count - 1].length_bytes);
}

bool client_range_maybe(uintptr_t addr, size_t length)
{
	return addr < atomic_load(&bounds_high) && length > 0 &&
	       (addr >= atomic_load(&bounds_low) || length > atomic_load(&bounds_low) - addr);
}

struct client_mapping *client_range_new_mapping(struct client_conn *conn, int arena_fd, int uffd_fd, int file_fd)
{
	for (size_t i = 0; i < CLIENT_MAPPING_MAX; i++) {
		struct client_mapping *mapping = &mappings[i];

		if (mapping->conn)
			continue;
		*mapping = (struct client_mapping){
			.arena_fd = arena_fd, .uffd_fd = uffd_fd, .file_fd = file_fd, .conn = conn
		};
		return mapping;
	}
	return NULL;
}

void client_range_drop_mapping(struct client_mapping *mapping)
{
	mapping->dropped = true;
	dropped_count++;
}

bool client_range_has_dropped(void)
{
	return dropped_count > 0;
}

bool client_range_take_dropped(int ret_fds[CLIENT_RANGE_FDS])
{
	if (!dropped_count)
		return false;
	for (size_t i = 0; i < CLIENT_MAPPING_MAX; i++) {
		if (!mappings[i].dropped)
			continue;
		ret_fds[0] = mappings[i].arena_fd;
		ret_fds[1] = mappings[i].uffd_fd;
		ret_fds[2] = mappings[i].file_fd;
		mappings[i] = (struct client_mapping){};
		dropped_count--;
		return true;
	}
	return false;
}

/* Index of the first range that ends beyond addr. */
static size_t lower_bound(uintptr_t addr)
{
	size_t low = 0, high = range_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (ranges[middle].addr + ranges[middle].length_bytes <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void insert_at(size_t index, struct client_range range)
{
	memmove(&ranges[index + 1], &ranges[index], (range_count - index) * sizeof(ranges[0]));
	ranges[index] = range;
	range_count++;
	range.mapping->pieces++;
}

int client_range_add(struct client_mapping *mapping, uintptr_t addr, size_t length, uint64_t offset)
{
	size_t index = lower_bound(addr);

	if (range_count == CLIENT_RANGE_MAX)
		return -ENOMEM;
	if (index < range_count && ranges[index].addr < addr + length)
		return -EEXIST;
	insert_at(index, (struct client_range){
				 .addr = addr,
				 .length_bytes = length,
				 .offset = offset,
				 .state = CLIENT_RANGE_NEW,
				 .mapping = mapping,
			 });
	update_bounds();
	return 0;
}

struct client_range *client_range_find(uintptr_t addr, size_t length)
{
	size_t index = lower_bound(addr);

	if (length == 0 || index == range_count)
		return NULL;
	/* Subtraction, not addition: callers pass lengths that reach beyond the address space. */
	if (ranges[index].addr > addr && ranges[index].addr - addr >= length)
		return NULL;
	return &ranges[index];
}

static void remove_at(size_t index)
{
	struct client_mapping *mapping = ranges[index].mapping;

	range_count--;
	memmove(&ranges[index], &ranges[index + 1], (range_count - index) * sizeof(ranges[0]));
	if (--mapping->pieces == 0)
		client_range_drop_mapping(mapping);
}

int client_range_may_cut(uintptr_t addr, size_t length)
{
	const struct client_range *range = &ranges[lower_bound(addr)];
	bool splits = addr > range->addr && addr + length < range->addr + range->length_bytes;

	return splits && range_count == CLIENT_RANGE_MAX ? -ENOMEM : 0;
}

void client_range_cut(uintptr_t addr, size_t length)
{
	size_t index = lower_bound(addr);
	struct client_range *range = &ranges[index];
	size_t before = addr - range->addr;
	size_t after = range->length_bytes - before - length;

	client_spans_remove(addr, addr + length);
	if (before && after) {
		struct client_range tail = *range;

		tail.addr = addr + length;
		tail.length_bytes = after;
		tail.offset += before + length;
		range->length_bytes = before;
		insert_at(index + 1, tail);
	} else if (before) {
		range->length_bytes = before;
	} else if (after) {
		range->addr += length;
		range->offset += length;
		range->length_bytes = after;
	} else {
		remove_at(index);
	}
	update_bounds();
}

struct client_range *client_range_at(size_t index)
{
	return index < range_count ? &ranges[index] : NULL;
}

size_t client_range_count(const struct client_conn *conn)
{
	size_t count = 0;

	for (size_t i = 0; i < range_count; i++)
		count += ranges[i].mapping->conn == conn;
	return count;
}

size_t client_range_locked_in(const struct client_conn *conn, uintptr_t from, uintptr_t end)
{
	size_t bytes = 0;

	for (size_t i = lower_bound(from); i < range_count && ranges[i].addr < end; i++) {
		uintptr_t low = ranges[i].addr, high = low + ranges[i].length_bytes;

		if (ranges[i].mapping->conn == conn)
			bytes += client_spans_bytes(low > from ? low : from, high < end ? high : end);
	}
	return bytes;
}

size_t client_range_locked(const struct client_conn *conn)
{
	return client_range_locked_in(conn, 0, UINTPTR_MAX);
}

void client_range_forget(void)
{
	client_spans_forget();
	memset(mappings, 0, sizeof(mappings));
	range_count = dropped_count = 0;
	update_bounds();
}
