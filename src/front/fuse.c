/* front/fuse.c - see fuse.h: how a session begins, with a new mount or one that it takes over, runs, and ends.
 *
 * A session that takes over cannot know how often an inode is open. So a descriptor carries the number of its session
 * (door.h), and those of earlier ones are not counted. An inherited inode, with a name or without, stays until the
 * kernel forgets it. Whether a file was open for plain mapping is a mark of its arena; if so it cannot be attached
 * until then. Positions in an open directory are not kept: who reads one meanwhile may see a name twice or not at all.
 *
 * There is one descriptor of /dev/fuse: a cloned one that closes fails its requests. The loop is libfuse's low-level
 * one: the high-level one keeps paths, and RAM files have hard links and may lose their names.
 */
#include "front/fuse_operations.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "engine/forget.h"
#include "front/bdi.h"
#include "front/mountpoint.h"
#include "front/resent.h"

#define THREADS_MAX 4096 /* requests that wait for a block or for room hold one each; only as many as wait are made */
#define THREADS_IDLE 16
#define WAKE_SIGNAL SIGUSR2
/* For a call that tells the kernel to get as far as the kernel. */
#define TELL_NS (1 * NS_PER_S)
#define NOTIFY_RESEND 7 /* FUSE_NOTIFY_RESEND of later headers */

/* libfuse explains a failed mount on its own; that text goes into our one line instead. */
static __thread char fuse_said[256];

static void on_fuse_log(enum fuse_log_level level, const char *format, va_list args)
{
	if (level > FUSE_LOG_WARNING)
		return;
	vsnprintf(fuse_said, sizeof(fuse_said), format, args);
	fuse_said[strcspn(fuse_said, "\n")] = '\0';
	log_debug("libfuse: %s", fuse_said);
}

static int session_args(const struct fusedoor_config *config, struct fuse_args *args)
{
	char *options = NULL, *fsname = NULL;
	int err = -ENOMEM;

	/* A comma in the pool's name would end the option. */
	if (asprintf(&fsname, "fsname=%s", config->source) >= 0 && fuse_opt_add_opt_escaped(&options, fsname) == 0 &&
	    fuse_opt_add_opt(&options, "subtype=tierfs,default_permissions,nosuid,nodev,noexec,noatime") == 0 &&
	    (!config->allow_other || fuse_opt_add_opt(&options, "allow_other") == 0) &&
	    fuse_opt_add_arg(args, "tierfs") == 0 && fuse_opt_add_arg(args, "-o") == 0 &&
	    fuse_opt_add_arg(args, options) == 0)
		err = 0;
	free(fsname);
	free(options);
	return err;
}

/* What libfuse 3.14 cannot say in the answer to the greeting is put in on the way. */
static ssize_t write_answer(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fusedoor *door = userdata;

	if (door->through && door->first.init_len && count == 2)
		through_agree(door->first.init, door->first.init_len, iov[1].iov_base, iov[1].iov_len);
	return writev(fd, iov, count);
}

/* Requests are read our way. */
static int attach_session(struct fusedoor *door, int fuse_fd)
{
	static const struct fuse_custom_io io = { .read = resent_read, .writev = write_answer };

	return fuse_session_custom_io(door->session, &io, fuse_fd);
}

static int mount_new(struct fusedoor *door, const struct fusedoor_config *config)
{
	if (fuse_session_mount(door->session, door->mountpoint) != 0)
		return -EIO;
	door->mounted = true;
	bdi_lift_limits(door->mountpoint);
	mountpoint_register(config->source, door->mountpoint);
	return attach_session(door, fuse_session_fd(door->session));
}

/* Of a file that is about to be attached. Nobody has it open for plain mapping, so what is cached is clean, and what
 * is mapped of it is private; no device writes there. The kernel waits for pages that are being filled. */
static void forget_cache(void *arg, uint64_t ino)
{
	struct fusedoor *door = arg;
	int err = fuse_lowlevel_notify_inval_inode(door->session, ino, 0, 0);

	if (err < 0 && err != -ENOENT)
		log_debug("file %llu: the kernel could not be told to forget it: %s", (unsigned long long)ino,
			  strerror(-err));
}

/* True: nobody uses the session any more. */
static bool end_telling(struct fusedoor *door)
{
	forget_on(door->door.engine, NULL, NULL);
	return forget_wait(door->door.engine, clock_ns() + TELL_NS);
}

int fusedoor_new(const struct fusedoor_config *config, struct fusedoor **ret)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fusedoor *door = calloc(1, sizeof(*door));
	int err = -ENOMEM;

	if (!door) {
		if (config->taken)
			close(config->taken->fuse_fd);
		return -ENOMEM;
	}
	fuse_set_log_func(on_fuse_log);
	door->door = config->door;
	door->on_ready = config->on_ready;
	door->on_ready_arg = config->on_ready_arg;
	door->through = config->through;
	door->keep = config->keep;
	door->keep_arg = config->keep_arg;
	door->taken = config->taken ? *config->taken : (struct session){ .fuse_fd = -1 };
	door->mountpoint = strdup(config->mountpoint);
	if (door->mountpoint)
		err = session_args(config, &args);
	if (!err) {
		door->session = fuse_session_new(&args, &fuse_operations, sizeof(fuse_operations), door);
		err = door->session ? 0 : -EINVAL;
	}
	if (!err)
		err = config->taken ? attach_session(door, door->taken.fuse_fd) : mount_new(door, config);
	fuse_opt_free_args(&args);
	if (err < 0) {
		log_error("%s: cannot mount: %s", config->mountpoint, *fuse_said ? fuse_said : strerror(-err));
		fusedoor_free(door);
		return err;
	}
	forget_on(door->door.engine, forget_cache, door);
	*ret = door;
	return 0;
}

/* ---- the first request ---- */

/* Answers the greeting. */
static void answer_greeting(struct fusedoor *door, const struct fuse_buf *buf)
{
	if (buf->size <= sizeof(door->first.init)) {
		memcpy(door->first.init, buf->mem, buf->size);
		door->first.init_len = (uint32_t)buf->size;
	}
	fuse_session_process_buf(door->session, buf);
	door->first.init_len = 0;
	if (door->through)
		through_begin(door->through, fuse_session_fd(door->session), door->mountpoint);
}

/* The kernel's greeting, of which a copy is kept before it is answered. */
static int greet(struct fusedoor *door)
{
	struct session session = { .fuse_fd = fuse_session_fd(door->session) };
	struct fuse_buf buf = { .mem = NULL };
	int err;

	do
		err = fuse_session_receive_buf(door->session, &buf);
	while (err == -EINTR);
	if (err > 0 && door->keep && buf.size <= sizeof(session.init)) {
		session.init_len = (uint32_t)buf.size;
		memcpy(session.init, buf.mem, buf.size);
		door->keep(door->keep_arg, &session);
	}
	if (err > 0)
		answer_greeting(door, &buf);
	free(buf.mem);
	return err < 0 && err != -ENODEV ? err : 0;
}

/* The same greeting once more, for libfuse. The kernel ignores the answer, unless the daemon that read it died at just
 * that moment. Then what was read and not answered comes again. */
static void greet_again(struct fusedoor *door)
{
	struct fuse_buf buf = { .mem = door->taken.init, .size = door->taken.init_len };
	struct {
		uint32_t len;
		int32_t error;
		uint64_t unique;
	} resend = { .len = sizeof(resend), .error = NOTIFY_RESEND };

	door->mounted = true;
	answer_greeting(door, &buf);
	if (write(door->taken.fuse_fd, &resend, sizeof(resend)) < 0 && errno != ENODEV)
		log_warn("%s: the kernel cannot repeat requests (%s), which needs Linux 6.9: what waits for one that "
			 "was under way waits until it is killed",
			 door->mountpoint, strerror(errno));
}

/* Only there to interrupt the wait of fuse_session_loop_mt(). */
static void on_wake(int signal)
{
	(void)signal;
}

int fusedoor_run(struct fusedoor *door)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	struct sigaction wake = { .sa_handler = on_wake };
	int err = 0;

	if (!config)
		return -ENOMEM;
	if (door->taken.fuse_fd >= 0)
		greet_again(door);
	else
		err = greet(door);
	if (err < 0) {
		fuse_loop_cfg_destroy(config);
		return err;
	}
	/* A cloned descriptor that closes fails its requests; with one for all, a killed daemon's successor could go
	 * on. */
	fuse_loop_cfg_set_clone_fd(config, 0);
	fuse_loop_cfg_set_max_threads(config, THREADS_MAX);
	fuse_loop_cfg_set_idle_threads(config, THREADS_IDLE);
	sigaction(WAKE_SIGNAL, &wake, NULL);
	door->runner = pthread_self();
	atomic_store(&door->running, true);
	err = fuse_session_loop_mt(door->session, config);
	atomic_store(&door->running, false);
	fuse_loop_cfg_destroy(config);
	/* The connection ended while a thread was about to take a request from it; a moment later it is ENODEV, which
	 * libfuse knows. */
	return err == -ECONNABORTED ? 0 : err;
}

void fusedoor_unmount(struct fusedoor *door)
{
	int err = mountpoint_unmount(door->mountpoint, false);

	if (err == -EBUSY) {
		log_info("%s: is in use; it is taken away now and served until its last user is gone",
			 door->mountpoint);
		err = mountpoint_unmount(door->mountpoint, true);
	}
	if (err < 0)
		log_error("%s: cannot unmount: %s", door->mountpoint, strerror(-err));
}

void fusedoor_quit(struct fusedoor *door)
{
	fuse_session_exit(door->session);
	if (atomic_load(&door->running))
		pthread_kill(door->runner, WAKE_SIGNAL);
}

/* As fuse_session_unmount(), which knows only mounts of its own. */
static void unmount_taken(struct fusedoor *door)
{
	struct pollfd pollfd = { .fd = door->taken.fuse_fd };

	if (poll(&pollfd, 1, 0) == 1 && pollfd.revents & POLLERR)
		return; /* is gone */
	mountpoint_unmount(door->mountpoint, true);
}

void fusedoor_free(struct fusedoor *door)
{
	bool unused;

	if (!door)
		return;
	unused = end_telling(door);
	if (door->mounted && door->taken.fuse_fd >= 0)
		unmount_taken(door);
	else if (door->mounted)
		fuse_session_unmount(door->session);
	if (!unused && !end_telling(door))
		return; /* the kernel waits for an answer that nobody gives any more: ended by force, so is the process
			   now */
	if (door->session)
		fuse_session_destroy(door->session);
	else if (door->taken.fuse_fd >= 0)
		close(door->taken.fuse_fd);
	free(door->mountpoint);
	free(door);
}
