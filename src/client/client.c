/* client/client.c - see client.h.
 *
 * The order of an attach matters. Everything that can fail without a trace comes first (token, arena, userfaultfd).
 * Then the arena is mapped without access, the daemon registers the range, and only then the memory gets its
 * protection: nobody can touch an absent page while it would still read as zeros. Unmapping is the reverse:
 * inaccessible memory replaces the range in one step, then the daemon is told, then the address is free.
 *
 * A token is good for one request to the daemon that made it. The connection may be with its successor: who connects
 * while there is no daemon waits in the socket for the next one. So the token is taken anew once the connection stands.
 *
 * All of an attach is done by the hand (client_agent.h), whose table the descriptors are in; detaching is done by the
 * caller, as far as it is memory that goes.
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
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "client/client_agent.h"
#include "client/client_filter.h"
#include "client/client_range.h"
#include "client/client_spans.h"
#include "client/client_sys.h"
#include "wire/wire.h"

#define TEXT_OF_(x) #x
#define TEXT_OF(x) TEXT_OF_(x)
#define PAGE_BYTES ((size_t)4096)
#define HUGE_BYTES ((size_t)2 << 20)
#define DESCRIPTORS_TO_COME 4 /* arena, device, userfaultfd, and one to raise them */
#define FLAGS_KNOWN \
	(MAP_TYPE | MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_LOCKED | \
	 MAP_STACK | MAP_DENYWRITE | MAP_EXECUTABLE)

/* Headers of older kernels lack them. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif

/* What an attach collects on its way; descriptors are closed with it unless taken out. */
struct attempt {
	const struct client_wish *wish;
	int tid;
	size_t length_bytes;
	struct tierfs_ioc_info info;
	struct client_conn *conn;
	uint64_t ino;
	uint32_t features;
	bool locked, on_fault; /* MAP_LOCKED, or what mlockall() said */
	int arena_fd, device_fd, uffd_fd, file_fd;
	void *addr;
	char *why;
};

static const char why_no_fds[] =
	"the limit of open files (RLIMIT_NOFILE, ulimit -n) is too low: attached memory takes three for each mapping";
static const char why_version[] = "the daemon speaks another version of the protocol";

static void *sys_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
	long at = client_sys(SYS_mmap, addr, length, prot, flags, fd, offset);

	return at < 0 && at > -4096 ? NULL : (void *)at;
}

static void say(char *why, const char *text)
{
	if (why)
		snprintf(why, CLIENT_WHY_LEN, "%s", text);
}

/* --- is it tierfs? ---------------------------------------------------------------------------------------------- */

/* Exactly one component below TIERFS_RUN_ROOT, where only root makes anything. */
static bool is_run_dir(const char path[TIERFS_RUN_DIR_LEN])
{
	static const char root[] = TIERFS_RUN_ROOT "/";
	const char *id = path + sizeof(root) - 1;

	return memchr(path, '\0', TIERFS_RUN_DIR_LEN) && !strncmp(path, root, sizeof(root) - 1) && *id && *id != '.' &&
	       !strchr(id, '/');
}

/* 0: of a FUSE filesystem; -ENOTTY: not; -ENOTCONN: its daemon is gone. */
static int check_magic(int fd)
{
	struct statfs fs;
	long err = client_sys(SYS_fstatfs, fd, &fs);

	if (err < 0)
		return err == -ENOTCONN ? -ENOTCONN : -ENOTTY;
	return fs.f_type == FUSE_SUPER_MAGIC ? 0 : -ENOTTY;
}

int client_info(int fd, struct tierfs_ioc_info *ret)
{
	struct tierfs_ioc_info info = {};
	int err = check_magic(fd);

	if (err)
		return err;
	err = (int)client_sys(SYS_ioctl, fd, TIERFS_IOC_INFO, &info);
	if (err < 0)
		return err == -ENOTCONN || err == -ENOMEM ? err : -ENOTTY;
	if (!is_run_dir(info.run_dir))
		return -EPROTO;
	*ret = info;
	return 0;
}

/* What costs one system call, which every filter allows, for nearly all files: a regular file of a filesystem without a
 * device, as FUSE's are. */
static bool may_be_tierfs(int fd)
{
	struct stat st;

	return client_sys(SYS_fstat, fd, &st) == 0 && S_ISREG(st.st_mode) && major(st.st_dev) == 0;
}

struct question {
	int fd, tid;
};

static int run_question(void *arg)
{
	const struct question *question = arg;
	struct tierfs_ioc_info info;
	CLEANUP_CLOSE int fd = -1;
	int err = client_filter_allows(CLIENT_FILTER_ATTACH) ? 0 : -ENOTTY;

	if (!err)
		err = client_agent_take_fd(question->fd, question->tid, &fd);
	return err ? err : client_info(fd, &info);
}

int client_is_tierfs(int fd)
{
	struct question question = { .fd = fd };
	int err;

	if (!may_be_tierfs(fd))
		return -ENOTTY;
	if (!client_filter_any()) {
		err = check_magic(fd);
		if (err)
			return err;
	}
	return client_agent_do_for(run_question, &question, &question.tid);
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
		fd = (int)client_sys(SYS_ioctl, attempt->device_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	else
		fd = (int)client_sys(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		say(attempt->why, fd == -EMFILE ? why_no_fds : "no userfaultfd can be made in this process");
		return fd;
	}
	attempt->uffd_fd = wire_raise_fd(fd);
	if (!client_sys(SYS_ioctl, attempt->uffd_fd, UFFDIO_API, &api))
		return 0;
	api = (struct uffdio_api){ .api = UFFD_API, .features = TIERFS_UFFD_FEATURES };
	if (!client_sys(SYS_ioctl, attempt->uffd_fd, UFFDIO_API, &api))
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

	if (!room)
		return NULL;
	addr = (uintptr_t)room;
	before = ((uintptr_t)attempt->wish->offset - addr) % HUGE_BYTES;
	if (before)
		client_sys(SYS_munmap, room, before);
	client_sys(SYS_munmap, room + before + length, HUGE_BYTES - before);
	return room + before;
}

/* Takes away what place() put there. What a fixed address replaced is gone, as after any mmap that fails late; the hole
 * is filled with inaccessible memory, because it may lie in the middle of somebody's reservation. */
static void unplace(struct attempt *attempt, void *addr)
{
	if (is_replacing(attempt->wish))
		client_blank(addr, attempt->length_bytes);
	else
		client_sys(SYS_munmap, addr, attempt->length_bytes);
}

/* Puts the arena in its place, without access. */
static int place(struct attempt *attempt, void **ret)
{
	const struct client_wish *wish = attempt->wish;
	int flags = MAP_SHARED | (wish->flags & (MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_NORESERVE | MAP_LOCKED));
	void *addr = wish->addr, *reserved = NULL;
	long at;
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
	at = client_sys(SYS_mmap, addr, attempt->length_bytes, PROT_NONE, flags, attempt->arena_fd, wish->offset);
	if (at < 0 && at > -4096) {
		if (reserved)
			client_sys(SYS_munmap, reserved, attempt->length_bytes);
		return (int)at;
	}
	/* A core dump would have zeros in place of what is cold. */
	err = (int)client_sys(SYS_madvise, at, attempt->length_bytes, MADV_DONTFORK);
	if (!err)
		err = (int)client_sys(SYS_madvise, at, attempt->length_bytes, MADV_DONTDUMP);
	if (err) {
		unplace(attempt, (void *)at);
		return err;
	}
	*ret = (void *)at;
	return 0;
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
	if (!mapping) {
		say(attempt->why, "the process has " TEXT_OF(TIERFS_MAPPINGS_MAX) " mappings, which is the limit");
		err = -EMFILE;
		goto err;
	}
	mapping->features = attempt->features;
	attempt->arena_fd = attempt->uffd_fd = attempt->file_fd = -1;
	err = client_range_add(mapping, (uintptr_t)addr, attempt->length_bytes, call.offset);
	if (err) {
		client_range_drop_mapping(mapping);
		goto err;
	}
	err = client_agent_call(guard, attempt->conn, &call);
	if (!err) {
		if (attempt->locked)
			client_spans_add((uintptr_t)addr, (uintptr_t)addr + attempt->length_bytes);
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

/* So much of what it replaces is locked, and goes before it comes. */
static uint64_t replaced_locked(const struct attempt *attempt)
{
	uintptr_t from = (uintptr_t)attempt->wish->addr;

	if (!is_replacing(attempt->wish) || from > UINTPTR_MAX - attempt->length_bytes)
		return 0;
	return client_range_locked_in(attempt->conn, from, from + attempt->length_bytes);
}

/* Memory that is locked from the start: it takes room from what can be locked (client_lock.h). */
static int begin_lock(struct attempt *attempt)
{
	struct client_conn *conn = attempt->conn;
	uint64_t wanted = attempt->length_bytes + conn->locking_bytes + client_range_locked(conn);

	wanted -= replaced_locked(attempt);
	attempt->locked = (attempt->wish->flags & MAP_LOCKED) || client_spans_future();
	attempt->on_fault = !(attempt->wish->flags & MAP_LOCKED) && (client_spans_future() & MCL_ONFAULT);
	conn->dram_bytes = (uint64_t)attempt->info.dram_mib << 20;
	if (!attempt->locked)
		return 0;
	if (!client_spans_has_room()) {
		say(attempt->why, "cannot be locked (MAP_LOCKED, mlockall): " CLIENT_LOCK_PIECES);
		return -ENOMEM;
	}
	if (wanted > client_conn_lock_max(conn)) {
		if (attempt->why)
			snprintf(attempt->why, CLIENT_WHY_LEN,
				 "cannot be locked (MAP_LOCKED, mlockall): " CLIENT_LOCK_WHY, wanted,
				 client_conn_lock_max(conn));
		return -ENOMEM;
	}
	conn->locking_bytes += attempt->length_bytes;
	return 0;
}

static void end_lock(struct attempt *attempt)
{
	if (attempt->locked)
		attempt->conn->locking_bytes -= attempt->length_bytes;
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

/* A token of the daemon that serves now. */
static int ask_daemon(struct attempt *attempt)
{
	int err = client_info(attempt->file_fd, &attempt->info);

	if (err || attempt->info.abi_version == TIERFS_ABI_VERSION)
		return err;
	say(attempt->why, why_version);
	return -EPROTO;
}

/* The same once the connection stands. It may be with another daemon than the one that was asked before. */
static int ask_again(struct attempt *attempt, struct client_agent_guard *guard)
{
	int err;

	client_agent_leave(guard);
	err = ask_daemon(attempt);
	if (!err)
		err = check_rights(attempt);
	client_agent_enter(guard);
	return err || !strcmp(attempt->info.run_dir, attempt->conn->run_dir) ? err : -ENOTCONN;
}

static int attach_connected(struct attempt *attempt, struct client_agent_guard *guard)
{
	int err = ask_again(attempt, guard);

	if (!err)
		err = begin_lock(attempt);
	if (err)
		return err;
	err = attach_on(attempt, guard, &attempt->addr);
	end_lock(attempt);
	return err;
}

static int attach_to_daemon(struct attempt *attempt)
{
	struct client_agent_guard guard;
	int err;

	client_agent_enter(&guard);
	err = client_agent_get(&guard, attempt->info.run_dir, &attempt->conn);
	if (!err) {
		err = attach_connected(attempt, &guard);
		client_agent_put(attempt->conn);
	} else if (err == -EPROTO) {
		say(attempt->why, why_version);
	} else if (err == -EPERM) {
		say(attempt->why, "who answers on the daemon's socket is neither root nor this user");
	} else {
		say(attempt->why, "the daemon does not answer on its socket");
	}
	client_agent_reap(&guard);
	client_agent_leave(&guard);
	return err;
}

static int attach(struct attempt *attempt)
{
	const struct client_wish *wish = attempt->wish;
	int err;

	err = ask_daemon(attempt);
	if (!err)
		err = check_wish(attempt);
	if (!err)
		err = check_rights(attempt);
	if (!err)
		err = attach_to_daemon(attempt);
	if (err)
		return err;
	err = (int)client_sys(SYS_mprotect, attempt->addr, attempt->length_bytes, wish->prot);
	if (err) {
		client_give_up(attempt->addr, attempt->length_bytes);
		unplace(attempt, attempt->addr);
	}
	return err;
}

/* Descriptors that come with a packet and find no room break the connection, and cannot be told from garbage. */
static int check_room(int fd)
{
	int fds[DESCRIPTORS_TO_COME], count = 0, err = 0;

	while (!err && count < DESCRIPTORS_TO_COME) {
		fds[count] = (int)client_sys(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0);
		if (fds[count] < 0)
			err = fds[count];
		else
			count++;
	}
	while (count > 0)
		close(fds[--count]);
	return err;
}

/* In the hand. */
static int run_attach(void *arg)
{
	struct attempt *attempt = arg;
	int err;

	if (!client_filter_allows(CLIENT_FILTER_ATTACH)) {
		say(attempt->why, "a system-call filter on all threads of the process does not allow what it takes");
		return -EPERM;
	}
	err = client_agent_take_fd(attempt->wish->fd, attempt->tid, &attempt->file_fd);
	if (!err)
		err = check_room(attempt->file_fd);
	if (err == -EMFILE)
		say(attempt->why, why_no_fds);
	if (!err)
		err = attach(attempt);
	cleanup_closep(&attempt->arena_fd);
	cleanup_closep(&attempt->device_fd);
	cleanup_closep(&attempt->uffd_fd);
	cleanup_closep(&attempt->file_fd);
	attempt->arena_fd = attempt->device_fd = attempt->uffd_fd = attempt->file_fd = -1;
	return err;
}

int client_attach(const struct client_wish *wish, void **ret, char why[CLIENT_WHY_LEN])
{
	struct attempt attempt = {
		.wish = wish, .arena_fd = -1, .device_fd = -1, .uffd_fd = -1, .file_fd = -1, .why = why
	};
	int err;

	say(why, "");
	if (!may_be_tierfs(wish->fd))
		return -ENOTTY;
	/* Nobody starts three threads for a file of another filesystem, unless asking would be a forbidden call. */
	err = client_filter_any() ? 0 : check_magic(wish->fd);
	if (!err)
		err = client_agent_do_for(run_attach, &attempt, &attempt.tid);
	if (err == -EPERM && why && !why[0])
		say(why, "a system-call filter does not allow the library a descriptor table of its own");
	if (err)
		return err;
	/* As for any locked mapping: it is filled, and nobody is told if it cannot be. */
	if (attempt.locked && !attempt.on_fault && (wish->prot & PROT_READ))
		client_sys(SYS_madvise, attempt.addr, attempt.length_bytes, MADV_POPULATE_READ);
	*ret = attempt.addr;
	return 0;
}
