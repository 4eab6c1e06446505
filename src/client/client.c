/* client/client.c - see client.h.
 *
 * The order of an attach matters. Everything that can fail without a trace comes first (token, arena, userfaultfd).
 * Then the arena is mapped without access, the daemon registers the range, and only then the memory gets its
 * protection: nobody can touch an absent page while it would still read as zeros. Unmapping is the reverse:
 * inaccessible memory replaces the range in one step, then the daemon is told, then the address is free.
 *
 * System calls are made directly: the wrappers of the preload library must not see the library's own.
 */
#include "client/client.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "client/client_agent.h"
#include "base/wire.h"
#include "client/client_range.h"

#define PAGE_BYTES ((size_t)4096)
#define HUGE_BYTES ((size_t)2 << 20)
#define FLAGS_KNOWN \
	(MAP_TYPE | MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_LOCKED | \
	 MAP_STACK | MAP_DENYWRITE | MAP_EXECUTABLE)

/* Headers of older kernels lack it. */
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif

/* What an attach collects on its way; descriptors are closed with it unless taken out. */
struct attempt {
	const struct client_wish *wish;
	size_t length_bytes;
	struct tierfs_ioc_info info;
	struct client_conn *conn;
	uint64_t ino;
	uint32_t features;
	int arena_fd, device_fd, uffd_fd, file_fd;
	char *why;
};

static void *sys_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, addr, length, prot, flags, fd, offset);
}

static void say(char *why, const char *text)
{
	if (why)
		snprintf(why, CLIENT_WHY_LEN, "%s", text);
}

int client_info(int fd, struct tierfs_ioc_info *ret)
{
	struct tierfs_ioc_info info = {};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return errno == ENOTCONN ? -ENOTCONN : -ENOTTY;
	if (fs.f_type != FUSE_SUPER_MAGIC)
		return -ENOTTY;
	if (ioctl(fd, TIERFS_IOC_INFO, &info) < 0) {
		switch (errno) {
		case ENOTCONN:
		case ENOMEM:
			return -errno;
		default:
			return -ENOTTY;
		}
	}
	if (info.run_dir[0] != '/' || !memchr(info.run_dir, '\0', sizeof(info.run_dir)))
		return -EPROTO;
	*ret = info;
	return 0;
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

/* --- attach ----------------------------------------------------------------------------------------------------- */

static int check_wish(struct attempt *attempt)
{
	const struct client_wish *wish = attempt->wish;
	int prot_known = PROT_READ | PROT_WRITE | PROT_EXEC;

	if (wish->length_bytes == 0 || wish->length_bytes > SIZE_MAX - PAGE_BYTES)
		return -EINVAL;
	if (wish->offset < 0 || wish->offset % (off_t)PAGE_BYTES || (wish->prot & ~prot_known))
		return -EINVAL;
	if ((wish->flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) && (uintptr_t)wish->addr % PAGE_BYTES)
		return -EINVAL;
	if (wish->flags & MAP_SYNC)
		return -EOPNOTSUPP;
	if (wish->flags & ~FLAGS_KNOWN)
		return -EINVAL;
	attempt->length_bytes = (wish->length_bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	return 0;
}

/* A write-protected and missing-tracked range needs a descriptor that could write, whatever the protection is. */
static int check_rights(const struct attempt *attempt)
{
	if (!(attempt->info.rights & TIERFS_RIGHT_READ))
		return -EACCES;
	if (!(attempt->info.rights & TIERFS_RIGHT_WRITE)) {
		say(attempt->why, "the file is open for reading only, attaching needs it open for reading and writing");
		return -EACCES;
	}
	return 0;
}

static int open_arena(struct attempt *attempt, struct client_agent_guard *guard)
{
	const struct client_wish *wish = attempt->wish;
	struct client_call call = { .type = TIERFS_MSG_OPEN };
	int err;

	memcpy(call.token, attempt->info.token, sizeof(call.token));
	err = client_agent_call(guard, attempt->conn, &call);
	if (err) {
		say(attempt->why, call.text);
		return err;
	}
	attempt->ino = call.ino;
	attempt->features = call.features;
	attempt->arena_fd = call.arena_fd;
	attempt->device_fd = call.device_fd;
	if ((uint64_t)wish->offset > call.size_bytes ||
	    attempt->length_bytes > call.size_bytes - (uint64_t)wish->offset) {
		say(attempt->why, "the range ends beyond the end of the file");
		return -EINVAL;
	}
	return 0;
}

static int new_userfaultfd(struct attempt *attempt)
{
	struct uffdio_api api = { .api = UFFD_API, .features = TIERFS_UFFD_FEATURES | UFFD_FEATURE_POISON };
	int fd;

	if (attempt->device_fd >= 0)
		fd = (int)ioctl(attempt->device_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	else
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		int err = -errno;

		say(attempt->why, "no userfaultfd can be made in this process");
		return err;
	}
	attempt->uffd_fd = wire_raise_fd(fd);
	if (!ioctl(attempt->uffd_fd, UFFDIO_API, &api))
		return 0;
	api = (struct uffdio_api){ .api = UFFD_API, .features = TIERFS_UFFD_FEATURES };
	if (!ioctl(attempt->uffd_fd, UFFDIO_API, &api))
		return 0;
	say(attempt->why, "this kernel's userfaultfd has no write-protection of shared memory (Linux 5.19 has it)");
	return -EOPNOTSUPP;
}

static bool is_replacing(const struct client_wish *wish)
{
	return (wish->flags & MAP_FIXED) && !(wish->flags & MAP_FIXED_NOREPLACE);
}

/* Address space for a mapping that can have huge pages: address and offset are aligned alike. NULL: there is none. */
static void *reserve_aligned(const struct attempt *attempt)
{
	size_t length = attempt->length_bytes, before;
	uintptr_t addr;
	char *room = sys_mmap(NULL, length + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		return NULL;
	addr = (uintptr_t)room;
	before = ((uintptr_t)attempt->wish->offset - addr) % HUGE_BYTES;
	if (before)
		syscall(SYS_munmap, room, before);
	syscall(SYS_munmap, room + before + length, HUGE_BYTES - before);
	return room + before;
}

/* Puts the arena in its place, without access. */
static int place(struct attempt *attempt, void **ret)
{
	const struct client_wish *wish = attempt->wish;
	int flags = MAP_SHARED | (wish->flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE));
	void *addr = wish->addr, *reserved = NULL;
	int err;

	if (is_replacing(wish)) {
		err = client_give_up(wish->addr, attempt->length_bytes);
		if (err)
			return err;
	}
	if (!addr && attempt->length_bytes >= HUGE_BYTES)
		addr = reserved = reserve_aligned(attempt);
	if (reserved)
		flags |= MAP_FIXED;
	addr = sys_mmap(addr, attempt->length_bytes, PROT_NONE, flags, attempt->arena_fd, wish->offset);
	if (addr == MAP_FAILED) {
		err = -errno;
		if (reserved)
			syscall(SYS_munmap, reserved, attempt->length_bytes);
		return err;
	}
	if (syscall(SYS_madvise, addr, attempt->length_bytes, MADV_DONTFORK) < 0) {
		err = -errno;
		syscall(SYS_munmap, addr, attempt->length_bytes);
		return err;
	}
	*ret = addr;
	return 0;
}

/* Takes away what place() put there. What a fixed address replaced is gone, as after any mmap that fails late; the hole
 * is filled with inaccessible memory, because it may lie in the middle of somebody's reservation. */
static void unplace(struct attempt *attempt, void *addr)
{
	if (is_replacing(attempt->wish))
		sys_mmap(addr, attempt->length_bytes, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
	else
		syscall(SYS_munmap, addr, attempt->length_bytes);
}

/* Enters the memory into the table and has it registered. Takes the descriptors out of the attempt. On an error the
 * memory is gone. */
static int map(struct attempt *attempt, struct client_agent_guard *guard, void *addr)
{
	struct client_call call = {
		.type = TIERFS_MSG_MAP,
		.ino = attempt->ino,
		.addr = (uintptr_t)addr,
		.length_bytes = attempt->length_bytes,
		.offset = (uint64_t)attempt->wish->offset,
		.uffd_fd = attempt->uffd_fd,
	};
	struct client_mapping *mapping;
	int err = -ENOMEM;

	mapping = client_range_new_mapping(attempt->conn, attempt->arena_fd, attempt->uffd_fd, attempt->file_fd);
	if (!mapping)
		goto err;
	mapping->features = attempt->features;
	attempt->arena_fd = attempt->uffd_fd = attempt->file_fd = -1;
	err = client_range_add(mapping, (uintptr_t)addr, attempt->length_bytes, call.offset);
	if (err) {
		client_range_drop_mapping(mapping);
		goto err;
	}
	err = client_agent_call(guard, attempt->conn, &call);
	if (!err) {
		client_conn_changed(attempt->conn);
		return 0;
	}
	say(attempt->why, call.text);
	unplace(attempt, addr); /* while it is in the table: the address cannot be somebody else's yet */
	client_range_cut((uintptr_t)addr, attempt->length_bytes);
	client_conn_changed(attempt->conn);
	return err;
err:
	unplace(attempt, addr);
	return err;
}

/* From a connection on to memory that is registered; *ret has no access yet. */
static int attach_on(struct attempt *attempt, struct client_agent_guard *guard, void **ret)
{
	void *addr = NULL;
	int err;

	err = open_arena(attempt, guard);
	if (err)
		return err;
	client_agent_leave(guard);
	err = new_userfaultfd(attempt);
	if (!err)
		err = place(attempt, &addr);
	client_agent_enter(guard);
	if (!err)
		err = map(attempt, guard, addr);
	if (!err)
		*ret = addr;
	return err;
}

static int attach_to_daemon(struct attempt *attempt, void **ret)
{
	struct client_agent_guard guard;
	int err;

	client_agent_enter(&guard);
	err = client_agent_get(&guard, attempt->info.run_dir, &attempt->conn);
	if (!err) {
		err = attach_on(attempt, &guard, ret);
		client_agent_put(attempt->conn);
	} else if (err == -EPROTO) {
		say(attempt->why, "the daemon speaks another version of the protocol");
	} else {
		say(attempt->why, "the daemon does not answer on its socket");
	}
	client_agent_leave(&guard);
	return err;
}

static int attach(struct attempt *attempt, void **ret)
{
	int err;

	err = client_info(attempt->wish->fd, &attempt->info);
	if (err)
		return err;
	if (attempt->info.abi_version != TIERFS_ABI_VERSION) {
		say(attempt->why, "the daemon speaks another version of the protocol");
		return -EPROTO;
	}
	err = check_wish(attempt);
	if (!err)
		err = check_rights(attempt);
	if (!err)
		err = client_agent_start();
	if (err)
		return err;
	attempt->file_fd = wire_raise_fd(fcntl(attempt->wish->fd, F_DUPFD_CLOEXEC, 0));
	if (attempt->file_fd < 0)
		return -errno;
	return attach_to_daemon(attempt, ret);
}

int client_attach(const struct client_wish *wish, void **ret, char why[CLIENT_WHY_LEN])
{
	struct attempt attempt = {
		.wish = wish, .arena_fd = -1, .device_fd = -1, .uffd_fd = -1, .file_fd = -1, .why = why
	};
	void *addr = NULL;
	int err;

	say(why, "");
	err = attach(&attempt, &addr);
	cleanup_closep(&attempt.arena_fd);
	cleanup_closep(&attempt.device_fd);
	cleanup_closep(&attempt.uffd_fd);
	cleanup_closep(&attempt.file_fd);
	if (err)
		return err;
	if (syscall(SYS_mprotect, addr, attempt.length_bytes, wish->prot) < 0) {
		err = -errno;
		client_give_up(addr, attempt.length_bytes);
		unplace(&attempt, addr);
		return err;
	}
	*ret = addr;
	return 0;
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
	if (sys_mmap((void *)from, to - from, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
		     0) == MAP_FAILED)
		return -errno;
	err = client_range_cut(from, to - from);
	if (err)
		return err;
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

/* Two descriptors of one open file. */
static bool is_same_file(int fd, int other)
{
	pid_t pid = getpid();

	return syscall(SYS_kcmp, pid, pid, KCMP_FILE, (unsigned long)fd, (unsigned long)other) == 0;
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

int client_discard_file(int fd, off_t offset, off_t length)
{
	uint64_t from = (uint64_t)offset, end = from + (uint64_t)length, left = 0;
	int err = 0;

	/* All of it first, so that a discard that cannot be done does nothing. */
	for (uint64_t at = from; at < end; at += left)
		if (!find_by_offset(fd, at, &left))
			return -ENXIO;
	while (!err && from < end) {
		void *addr = find_by_offset(fd, from, &left);

		if (!addr)
			return -ENXIO;
		if (left > end - from)
			left = end - from;
		err = client_discard(addr, left);
		from += left;
	}
	return err;
}
