/* front/service.c - see service.h.
 *
 * libsystemd would do the talking in as many calls as this has functions. The protocol is stable, its own documentation
 * invites to write it down again, and a daemon that all memory of a host depends on loads several libraries less.
 *
 * Descriptors are stored with FDPOLL=0: polled, the connection would wake the service manager with each request, since
 * it would wait on the queue that the FUSE workers wait on.
 *
 * What comes back is not believed: environments are inherited and mistyped, and the kernel tells nobody when the mount
 * of a connection goes. The memfd says for which pool, mount point and device it was made; the descriptor has to be one
 * of a live connection; the device has to be mounted.
 */
#include "front/service.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <tierfs/ioctl.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "front/mountpoint.h"
#include "wire/wire.h"

#define FIRST_FD 3
#define PASSED_MAX 1024 /* descriptors */
#define BARRIER_MS 5000
#define FUSE_MAJOR 10
#define FUSE_MINOR 229
#define KEPT_MAGIC "tierfs-session-1"

/* The first two are the session; the rest are sockets. */
enum slot { SLOT_FUSE, SLOT_INIT, SLOT_ATTACH, SLOT_ACCESS, SLOT_CONTROL, SLOTS, SLOTS_SESSION = SLOT_ATTACH };

static const char *const slot_name[SLOTS] = { SERVICE_FUSE_NAME, SERVICE_INIT_NAME, TIERFS_ATTACH_SOCKET,
					      TIERFS_ACCESS_SOCKET, TIERFS_CONTROL_SOCKET };

/* The content of the memfd. */
struct kept {
	char magic[sizeof(KEPT_MAGIC)];
	uint32_t number; /* of the session that wrote it */
	uint32_t init_len;
	char device[MOUNTPOINT_DEVICE_LEN];
	char run_dir[TIERFS_RUN_DIR_LEN];
	char mountpoint[PATH_MAX];
	uint8_t init[SESSION_INIT_MAX];
};

struct service {
	int socket;
	struct sockaddr_un address;
	socklen_t address_len;
	bool has[SLOTS];    /* else /dev/null has the place */
	bool stored[SLOTS]; /* the service manager was given it */
	struct kept kept;
};

/* ---- telling ---- */

static int send_state(const struct service *service, const char *state, const int *fds, int count)
{
	union wire_control control;
	struct iovec iov = { .iov_base = (void *)state, .iov_len = strlen(state) };
	struct msghdr msg = {
		.msg_name = (void *)&service->address,
		.msg_namelen = service->address_len,
		.msg_iov = &iov,
		.msg_iovlen = 1,
	};

	wire_put_fds(&msg, &control, fds, count);
	return sendmsg(service->socket, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

void service_tell(struct service *service, const char *state)
{
	int err = send_state(service, state, NULL, 0);

	if (err < 0)
		log_warn("the service manager cannot be told (%s): %s", strerror(-err), state);
}

/* Returns when the service manager has dealt with all it was told before. */
static void wait_for_manager(struct service *service)
{
	int pipe_fd[2], err;
	struct pollfd pollfd;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return;
	err = send_state(service, "BARRIER=1", &pipe_fd[1], 1);
	close(pipe_fd[1]);
	pollfd = (struct pollfd){ .fd = pipe_fd[0] };
	if (!err && poll(&pollfd, 1, BARRIER_MS) != 1)
		log_warn("the service manager does not listen");
	close(pipe_fd[0]);
}

/* FDPOLL=0: else each request of the mount would wake the service manager, which waits for the end of the connection on
 * the queue that our threads wait on. */
static int store(struct service *service, enum slot slot)
{
	char state[128];
	int fd = FIRST_FD + (int)slot;

	int err;

	snprintf(state, sizeof(state), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", slot_name[slot]);
	err = send_state(service, state, &fd, 1);
	service->stored[slot] = !err;
	return err;
}

static void forget(struct service *service, enum slot slot)
{
	char state[128];

	snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%s", slot_name[slot]);
	service_tell(service, state);
}

/* ---- the places ---- */

static int place(struct service *service, enum slot slot, int fd)
{
	if (dup3(fd, FIRST_FD + (int)slot, O_CLOEXEC) < 0)
		return -errno;
	service->has[slot] = true;
	service->stored[slot] = false;
	return 0;
}

static int place_nothing(struct service *service, enum slot slot)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int err = null < 0 ? -errno : 0;

	if (!err && null != FIRST_FD + (int)slot) {
		err = place(service, slot, null);
		close(null);
	}
	service->has[slot] = service->stored[slot] = false;
	return err;
}

static void let_go(struct service *service)
{
	for (enum slot slot = 0; slot < SLOTS_SESSION; slot++) {
		forget(service, slot);
		place_nothing(service, slot);
	}
	/* With its last descriptor a connection ends, and who looks at its mount is not kept waiting. */
	wait_for_manager(service);
}

/* ---- what was passed ---- */

/* How many descriptors, from FIRST_FD on, are meant for this process. */
static unsigned int passed_count(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	char *end;
	unsigned long count;

	if (!pid || !fds || strtoul(pid, &end, 10) != (unsigned long)getpid() || *end)
		return 0;
	errno = 0;
	count = strtoul(fds, &end, 10);
	if (errno || end == fds || *end || count > PASSED_MAX) {
		log_warn("LISTEN_FDS=%s is no number of descriptors; none is taken", fds);
		return 0;
	}
	return (unsigned int)count;
}

static enum slot slot_of(const char *name)
{
	enum slot slot = 0;

	while (slot < SLOTS && strcmp(name, slot_name[slot]) != 0)
		slot++;
	return slot;
}

/* Sorts what was passed into the places. The rest is closed. */
static int sort_passed(struct service *service)
{
	CLEANUP_FREE char *names = strdup(getenv("LISTEN_FDNAMES") ? getenv("LISTEN_FDNAMES") : "");
	unsigned int count = passed_count(), strange = 0;
	int found[SLOTS], err = names ? 0 : -ENOMEM;
	char *rest = names;

	for (enum slot slot = 0; slot < SLOTS; slot++)
		found[slot] = -1;
	for (unsigned int i = 0; i < count && !err; i++) {
		const char *name = strsep(&rest, ":");
		enum slot slot = slot_of(name ? name : "");

		if (slot == SLOTS || found[slot] >= 0)
			strange++;
		else if ((found[slot] = fcntl(FIRST_FD + (int)i, F_DUPFD_CLOEXEC, FIRST_FD + PASSED_MAX)) < 0)
			log_warn("descriptor %u, %s, was passed and is not there", FIRST_FD + i, name);
	}
	if (count > 0)
		close_range(FIRST_FD, FIRST_FD + count - 1, 0);
	if (strange > 0)
		log_warn("%u of %u descriptors in LISTEN_FDS are not of tierfs, and were closed", strange, count);
	for (enum slot slot = 0; slot < SLOTS; slot++) {
		if (!err)
			err = found[slot] < 0 ? place_nothing(service, slot) : place(service, slot, found[slot]);
		service->stored[slot] = service->has[slot];
		if (found[slot] >= 0)
			close(found[slot]);
	}
	return err;
}

static int set_address(struct service *service, const char *name)
{
	size_t len = strlen(name);

	if ((name[0] != '/' && name[0] != '@') || len < 2 || len >= sizeof(service->address.sun_path))
		return -EAFNOSUPPORT;
	service->address.sun_family = AF_UNIX;
	memcpy(service->address.sun_path, name, len);
	if (name[0] == '@')
		service->address.sun_path[0] = '\0';
	service->address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	return 0;
}

/* A program that the service runs may have inherited the variable, and is not the one that is waited for. */
static const char *manager_socket(void)
{
	const char *name = getenv("NOTIFY_SOCKET"), *pid = getenv("SYSTEMD_EXEC_PID");

	return name && *name && (!pid || strtol(pid, NULL, 10) == (long)getpid()) ? name : NULL;
}

int service_new(struct service **ret)
{
	const char *name = manager_socket();
	struct service *service;
	int err;

	*ret = NULL;
	if (!name)
		return 0;
	service = calloc(1, sizeof(*service));
	if (!service)
		return -ENOMEM;
	err = sort_passed(service); /* first: it makes room for them */
	service->socket = -1;
	if (!err)
		err = set_address(service, name);
	if (!err) {
		service->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		err = service->socket < 0 ? -errno : 0;
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (err < 0) {
		log_error("NOTIFY_SOCKET=%s: cannot be used: %s", name, strerror(-err));
		free(service);
		return err;
	}
	*ret = service;
	return 0;
}

/* ---- what was kept ---- */

static bool is_text(const char *text, size_t cap)
{
	return memchr(text, '\0', cap) != NULL;
}

/* NULL: it can be used. Else what is wrong. */
static const char *check_init(struct kept *kept)
{
	struct stat attr;

	if (fstat(FIRST_FD + SLOT_INIT, &attr) < 0 || !S_ISREG(attr.st_mode) || attr.st_size != sizeof(*kept) ||
	    pread(FIRST_FD + SLOT_INIT, kept, sizeof(*kept), 0) != sizeof(*kept) ||
	    memcmp(kept->magic, KEPT_MAGIC, sizeof(kept->magic)) != 0 || kept->init_len > sizeof(kept->init) ||
	    !is_text(kept->device, sizeof(kept->device)) || !is_text(kept->run_dir, sizeof(kept->run_dir)) ||
	    !is_text(kept->mountpoint, sizeof(kept->mountpoint)))
		return SERVICE_INIT_NAME " is not of this version of tierfs";
	return NULL;
}

static const char *check_fuse(void)
{
	struct pollfd pollfd = { .fd = FIRST_FD + SLOT_FUSE };
	struct stat attr;

	if (fstat(pollfd.fd, &attr) < 0 || !S_ISCHR(attr.st_mode) || attr.st_rdev != makedev(FUSE_MAJOR, FUSE_MINOR))
		return SERVICE_FUSE_NAME " is not /dev/fuse";
	return poll(&pollfd, 1, 0) == 0 ? NULL : SERVICE_FUSE_NAME " has no mount any more";
}

static const char *check_session(struct service *service, const char *run_dir, const char *mountpoint)
{
	const char *wrong;

	if (!service->has[SLOT_FUSE] || !service->has[SLOT_INIT])
		return service->has[SLOT_FUSE] ? SERVICE_INIT_NAME " is missing" : SERVICE_FUSE_NAME " is missing";
	wrong = check_init(&service->kept);
	if (!wrong)
		wrong = check_fuse();
	if (!wrong && strcmp(service->kept.run_dir, run_dir) != 0)
		wrong = "it is of another pool";
	if (!wrong && strcmp(service->kept.mountpoint, mountpoint) != 0)
		wrong = "it is of another mount point";
	if (!wrong && !mountpoint_has_device(service->kept.device))
		wrong = "its mount is gone";
	return wrong;
}

int service_find(struct service *service, const char *run_dir, const char *mountpoint)
{
	const char *wrong;

	if (!service->has[SLOT_FUSE] && !service->has[SLOT_INIT])
		return -ENOENT;
	wrong = check_session(service, run_dir, mountpoint);
	if (!wrong)
		return 0;
	log_warn("%s: what the service manager kept is no session that can go on: %s; it is given up", mountpoint,
		 wrong);
	let_go(service);
	return -ENOENT;
}

uint32_t service_session(const struct service *service)
{
	return service->kept.number + 1;
}

/* ---- keeping ---- */

static int write_kept(const struct service *service)
{
	ssize_t put = pwrite(FIRST_FD + SLOT_INIT, &service->kept, sizeof(service->kept), 0);

	return put == sizeof(service->kept) ? 0 : put < 0 ? -errno : -EIO;
}

static int fill_kept(struct kept *kept, const char *run_dir, const char *mountpoint, const struct session *session)
{
	int err;

	*kept = (struct kept){ .magic = KEPT_MAGIC, .number = session->number, .init_len = session->init_len };
	memcpy(kept->init, session->init, session->init_len);
	err = session_put_text(kept->run_dir, sizeof(kept->run_dir), run_dir);
	if (!err)
		err = session_put_text(kept->mountpoint, sizeof(kept->mountpoint), mountpoint);
	return err < 0 ? err : mountpoint_device(mountpoint, kept->device);
}

static void store_listener(struct service *service, enum slot slot)
{
	int err = store(service, slot);

	if (err < 0)
		log_warn("the service manager cannot keep %s: %s", slot_name[slot], strerror(-err));
}

int service_keep(struct service *service, const char *run_dir, const char *mountpoint, const struct session *session)
{
	CLEANUP_CLOSE int fd = memfd_create(SERVICE_INIT_NAME, MFD_CLOEXEC);
	int err = fd < 0 ? -errno : fill_kept(&service->kept, run_dir, mountpoint, session);

	if (!err)
		err = place(service, SLOT_INIT, fd);
	if (!err)
		err = place(service, SLOT_FUSE, session->fuse_fd);
	if (!err)
		err = write_kept(service);
	if (!err)
		err = store(service, SLOT_INIT);
	if (!err)
		err = store(service, SLOT_FUSE);
	for (enum slot slot = SLOTS_SESSION; slot < SLOTS && !err; slot++)
		if (service->has[slot] && !service->stored[slot])
			store_listener(service, slot);
	return err;
}

int service_take(struct service *service, struct session *ret)
{
	int fd = fcntl(FIRST_FD + SLOT_FUSE, F_DUPFD_CLOEXEC, FIRST_FD + SLOTS), err;

	if (fd < 0)
		return -errno;
	service->kept.number++;
	err = write_kept(service);
	if (err < 0) {
		close(fd);
		return err;
	}
	*ret = (struct session){ .fuse_fd = fd, .number = service->kept.number, .init_len = service->kept.init_len };
	memcpy(ret->init, service->kept.init, ret->init_len);
	return 0;
}

/* ---- sockets ---- */

int service_take_listener(const struct service *service, const char *name)
{
	enum slot slot = slot_of(name);

	if (slot < SLOTS_SESSION || slot == SLOTS || !service->has[slot])
		return -1;
	return fcntl(FIRST_FD + (int)slot, F_DUPFD_CLOEXEC, FIRST_FD + SLOTS);
}

static bool is_same(int fd, int other)
{
	struct stat one, two;

	return fstat(fd, &one) == 0 && fstat(other, &two) == 0 && one.st_dev == two.st_dev && one.st_ino == two.st_ino;
}

void service_keep_listener(struct service *service, const char *name, int fd)
{
	enum slot slot = slot_of(name);
	int err;

	if (slot < SLOTS_SESSION || slot == SLOTS || (service->has[slot] && is_same(FIRST_FD + (int)slot, fd)))
		return;
	if (service->has[slot])
		forget(service, slot);
	err = place(service, slot, fd);
	if (err < 0)
		log_warn("the service manager cannot keep %s: %s", name, strerror(-err));
	else if (service->stored[SLOT_FUSE]) /* else with the session */
		store_listener(service, slot);
}

/* ---- another program ---- */

static int set_close_on_exec(int flag)
{
	for (int fd = FIRST_FD; fd < FIRST_FD + SLOTS; fd++)
		if (fcntl(fd, F_SETFD, flag) < 0)
			return -errno;
	return 0;
}

int service_pass_on(struct service *service)
{
	char pid[16], count[16], names[128] = "", state[128];
	struct timespec now;
	size_t length = 0;

	for (enum slot slot = 0; slot < SLOTS; slot++)
		length += (size_t)snprintf(names + length, sizeof(names) - length, "%s%s", slot ? ":" : "",
					   service->has[slot] ? slot_name[slot] : "nothing");
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	snprintf(count, sizeof(count), "%d", SLOTS);
	if (setenv("LISTEN_PID", pid, 1) < 0 || setenv("LISTEN_FDS", count, 1) < 0 ||
	    setenv("LISTEN_FDNAMES", names, 1) < 0)
		return -ENOMEM;
	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%llu",
		 (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
	service_tell(service, state);
	return set_close_on_exec(0);
}

void service_pass_nothing(struct service *service)
{
	set_close_on_exec(FD_CLOEXEC);
	service_tell(service, "READY=1");
}

void service_release(struct service *service)
{
	for (enum slot slot = 0; slot < SLOTS; slot++) {
		if (service->has[slot])
			forget(service, slot);
		place_nothing(service, slot);
	}
}

void service_free(struct service *service)
{
	if (!service)
		return;
	close(service->socket);
	free(service);
}
