/* The process that keeps a mount, with a mount of no content that nobody ever serves. Root only; elsewhere just the
 * messages.
 *
 * timeout: 120 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "base/log.h"
#include "front/holder.h"
#include "front/holder_message.h"
#include "lib_check.h"
#include "lib_scratch.h"

#define PATIENCE_MS 20000
#define GREETING "what the kernel said first"

static struct scratch scratch;
static char dir[SCRATCH_PATH_LEN + 8], log_path[SCRATCH_PATH_LEN + 8], socket_path[SCRATCH_PATH_LEN + 16];

/* Of the holder, too, which is a fork of ours. */
void syslog(int priority, const char *format, ...)
{
	FILE *file = fopen(log_path, "ae");
	va_list args;

	(void)priority;
	if (!file)
		return;
	va_start(args, format);
	vfprintf(file, format, args);
	va_end(args);
	fputc('\n', file);
	fclose(file);
}

static bool was_logged(const char *text)
{
	FILE *file = fopen(log_path, "re");
	char line[1024];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = strstr(line, text) != NULL;
	if (file)
		fclose(file);
	return found;
}

static void setup(void)
{
	scratch_new(&scratch, "holder");
	snprintf(dir, sizeof(dir), "%s/mnt", scratch.path);
	snprintf(log_path, sizeof(log_path), "%s/log", scratch.path);
	snprintf(socket_path, sizeof(socket_path), "%s/%s", scratch.path, HOLDER_SOCKET);
	ck_assert_int_eq(mkdir(dir, 0755), 0);
	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	ck_assert(freopen("/dev/null", "w", stderr) != NULL);
}

static void teardown(void)
{
	umount2(dir, MNT_DETACH);
	scratch_free(&scratch);
}

/* ---- a daemon of no use ---- */

static int mount_empty(void)
{
	char options[128];
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	if (fd < 0 || mount("test", dir, "fuse.tierfs", MS_NOSUID | MS_NODEV, options) < 0)
		_exit(10);
	return fd;
}

/* Two that one can tell apart, of which one takes the place of another. */
static void give_listeners(struct holder *holder)
{
	static const struct {
		const char *name, *path;
	} files[] = { { "a.sock", "/dev/zero" }, { "b.sock", "/dev/null" }, { "a.sock", "/dev/full" } };

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		int fd = open(files[i].path, O_RDONLY | O_CLOEXEC);

		holder_keep_listener(holder, files[i].name, fd);
		close(fd);
	}
}

/* Mounts, gives the session to a holder, and does what is asked for by a byte. */
static void be_daemon(const struct holder_config *config, int conn)
{
	struct session session = { .init_len = sizeof(GREETING), .init = GREETING };
	struct holder *holder;
	char byte = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (holder_start(config, &holder) < 0)
		_exit(11);
	give_listeners(holder);
	session.fuse_fd = mount_empty();
	if (holder_keep(holder, scratch.path, dir, &session) < 0)
		_exit(12);
	if (write(conn, "", 1) != 1 || read(conn, &byte, 1) != 1)
		_exit(13);
	if (byte == 'e') {
		umount2(dir, MNT_DETACH);
		holder_end(holder);
	}
	_exit(0);
}

struct daemon {
	pid_t pid;
	int conn;
};

static struct daemon start_daemon(bool foreground)
{
	static char *argv[] = { (char *)"false", NULL };
	struct holder_config config = { .foreground = foreground, .program = "/bin/false", .argv = argv };
	struct daemon daemon;
	int pair[2];
	char byte;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	daemon.pid = fork();
	if (daemon.pid == 0)
		be_daemon(&config, pair[1]);
	ck_assert_int_gt(daemon.pid, 0);
	close(pair[1]);
	daemon.conn = pair[0];
	ck_assert_int_eq(read(daemon.conn, &byte, 1), 1);
	return daemon;
}

/* order: 'e' ends on purpose, 'x' just ends; 0: is killed. */
static void end_daemon(struct daemon *daemon, char order)
{
	int status;

	if (order)
		ck_assert_int_eq(write(daemon->conn, &order, 1), 1);
	else
		kill(daemon->pid, SIGKILL);
	ck_assert_int_eq(waitpid(daemon->pid, &status, 0), daemon->pid);
	ck_assert_int_eq(status, order ? 0 : SIGKILL);
	close(daemon->conn);
}

/* Whether the holder is gone in time, and what it leaves. */
static bool holder_goes(void)
{
	for (int waited_ms = 0; waited_ms < PATIENCE_MS; waited_ms += 10) {
		if (access(socket_path, F_OK) < 0)
			return true;
		usleep(10000);
	}
	return false;
}

static bool mount_is_dead(void)
{
	struct statfs fs;

	for (int waited_ms = 0; waited_ms < PATIENCE_MS; waited_ms += 10) {
		/* While somebody has the descriptor it would wait for ever, and not fail. */
		pid_t child = fork();
		int status = 0;

		if (child == 0) {
			alarm(2);
			_exit(statfs(dir, &fs) < 0 && (errno == ENOTCONN || errno == ECONNABORTED) ? 1 : 2);
		}
		waitpid(child, &status, 0);
		if (WIFEXITED(status))
			return WEXITSTATUS(status) == 1;
	}
	return false;
}

/* ---- messages ---- */

START_TEST(messages)
{
	struct holder_message message = { .version = HOLDER_VERSION, .type = HOLDER_ASK, .init_len = 3 }, got;
	int pair[2], fd = -1;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	ck_assert_int_eq(holder_message_receive(pair[0], 1, &got, &fd), -ETIMEDOUT);
	memset(message.mountpoint, 'x', sizeof(message.mountpoint));
	ck_assert_int_eq(holder_message_send(pair[1], &message, STDIN_FILENO), 0);
	ck_assert_int_eq(holder_message_receive(pair[0], 1000, &got, &fd), 0);
	ck_assert_uint_eq(got.type, HOLDER_ASK);
	ck_assert_uint_eq(strlen(got.mountpoint), sizeof(got.mountpoint) - 1);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	ck_assert_int_eq(holder_message_send(pair[1], &message, -1), 0);
	ck_assert_int_eq(holder_message_receive(pair[0], 1000, &got, &fd), 0);
	ck_assert_int_eq(fd, -1);
	message.init_len = SESSION_INIT_MAX + 1;
	ck_assert_int_eq(holder_message_send(pair[1], &message, -1), 0);
	ck_assert_int_eq(holder_message_receive(pair[0], 1000, &got, &fd), -EPROTO);
	message.init_len = 0;
	message.version++;
	ck_assert_int_eq(holder_message_send(pair[1], &message, -1), 0);
	ck_assert_int_eq(holder_message_receive(pair[0], 1000, &got, &fd), -EPROTO);
	ck_assert_int_eq(send(pair[1], &message, 5, 0), 5);
	ck_assert_int_eq(holder_message_receive(pair[0], 1000, &got, &fd), -EPROTO);
	close(pair[1]);
	ck_assert_int_eq(holder_message_receive(pair[0], 1000, &got, &fd), -EPIPE);
	close(pair[0]);
}
END_TEST

START_TEST(nobody_holds)
{
	struct holder *holder;
	uint32_t session;
	int fd;

	ck_assert_int_eq(holder_find(scratch.path, dir, &holder, &session), -ENOENT);
	fd = open(socket_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	ck_assert_int_eq(holder_find(scratch.path, dir, &holder, &session), -ENOENT);
}
END_TEST

/* ---- the life of a session ---- */

START_TEST(a_daemon_ends_on_purpose)
{
	struct daemon daemon = start_daemon(false);
	struct holder *holder;
	uint32_t session;

	ck_assert_int_eq(holder_find(scratch.path, dir, &holder, &session), -EBUSY);
	end_daemon(&daemon, 'e');
	ck_assert_int_lt(access(socket_path, F_OK), 0); /* before the daemon ends */
}
END_TEST

/* One dies, another comes by hand, and dies as well. */
START_TEST(a_successor_takes_the_session)
{
	struct daemon daemon = start_daemon(true);
	struct session taken;
	struct holder *holder;
	uint32_t session;
	pid_t child;
	int status;

	end_daemon(&daemon, 'x');
	for (uint32_t i = 1; i <= 3; i++) {
		child = fork();
		if (child == 0) {
			bool good = holder_find(scratch.path, dir, &holder, &session) == 0 && session == i &&
				    holder_take(holder, &taken) == 0 && taken.number == i &&
				    taken.init_len == sizeof(GREETING) && strcmp((char *)taken.init, GREETING) == 0 &&
				    fcntl(taken.fuse_fd, F_GETFD) == FD_CLOEXEC;

			_exit(good ? 0 : 1);
		}
		ck_assert_int_eq(waitpid(child, &status, 0), child);
		ck_assert_int_eq(status, 0);
	}
	ck_assert_int_eq(holder_find(scratch.path, dir, &holder, &session), 0);
	ck_assert_int_eq(holder_take(holder, &taken), 0);
	child = fork();
	if (child == 0)
		_exit(holder_find(scratch.path, dir, &holder, &session) == -EBUSY ? 0 : 1);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	close(taken.fuse_fd);
	umount2(dir, MNT_DETACH);
	holder_end(holder);
	ck_assert(holder_goes());
}
END_TEST

static void on_listener(void *arg, const char *name, int fd)
{
	unsigned int *seen = arg;
	struct stat attr;

	ck_assert_int_eq(fstat(fd, &attr), 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	if (strcmp(name, "a.sock") == 0 && attr.st_rdev == makedev(1, 7))
		*seen += 1;
	else if (strcmp(name, "b.sock") == 0 && attr.st_rdev == makedev(1, 3))
		*seen += 0x10;
	else
		ck_abort_msg("%s was not kept like this", name);
	close(fd);
}

/* Also to one that goes on elsewhere, and again to the one after it. */
START_TEST(sockets_are_handed_over)
{
	struct daemon daemon = start_daemon(true);
	struct holder *holder;
	uint32_t session;
	unsigned int seen = 0;

	ck_assert_int_eq(holder_fetch_listeners(scratch.path, on_listener, &seen), -EBUSY);
	end_daemon(&daemon, 0);
	for (unsigned int i = 1; i <= 2; i++) {
		ck_assert_int_eq(holder_fetch_listeners(scratch.path, on_listener, &seen), 0);
		ck_assert_uint_eq(seen, 0x11 * i);
	}
	ck_assert_int_eq(holder_find(scratch.path, "/elsewhere", &holder, &session), -ENOENT);
	ck_assert(holder_goes());
	ck_assert_int_eq(holder_fetch_listeners(scratch.path, on_listener, &seen), -ENOENT);
}
END_TEST

START_TEST(names_of_sockets)
{
	struct holder_message message = { .type = HOLDER_LISTENER, .init_len = 7, .init = "a.sock" };

	ck_assert_str_eq(holder_message_listener(&message), "a.sock");
	message.init_len = 6; /* without its end */
	ck_assert(holder_message_listener(&message) == NULL);
	message.init_len = 8;
	ck_assert(holder_message_listener(&message) == NULL);
	message.init_len = 0;
	ck_assert(holder_message_listener(&message) == NULL);
	memset(message.init, 'x', sizeof(message.init));
	message.init[HOLDER_NAME_MAX] = '\0';
	message.init_len = HOLDER_NAME_MAX + 1;
	ck_assert(holder_message_listener(&message) == NULL);
}
END_TEST

START_TEST(the_pool_goes_on_elsewhere)
{
	struct daemon daemon = start_daemon(true);
	struct holder *holder;
	uint32_t session;

	end_daemon(&daemon, 0);
	ck_assert_int_eq(holder_find(scratch.path, "/elsewhere", &holder, &session), -ENOENT);
	ck_assert(holder_goes());
	ck_assert(mount_is_dead());
}
END_TEST

START_TEST(the_mount_is_taken_away)
{
	struct daemon daemon = start_daemon(true);

	end_daemon(&daemon, 0);
	ck_assert_int_eq(umount2(dir, MNT_DETACH), 0);
	ck_assert(holder_goes());
}
END_TEST

START_TEST(who_talks_nonsense_is_not_answered)
{
	struct daemon daemon = start_daemon(true);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	struct session taken;
	struct holder *holder;
	uint32_t session;
	char byte;

	snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", socket_path);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(send(fd, "x", 1, 0), 1);
	ck_assert_int_eq(poll(&pollfd, 1, PATIENCE_MS), 1);
	ck_assert_int_eq(recv(fd, &byte, 1, 0), 0);
	close(fd);
	end_daemon(&daemon, 0);
	ck_assert_int_eq(holder_find(scratch.path, dir, &holder, &session), 0);
	ck_assert_int_eq(holder_take(holder, &taken), 0);
	close(taken.fuse_fd);
	umount2(dir, MNT_DETACH);
	holder_end(holder);
}
END_TEST

/* Whoever it starts ends at once. Who waits for the mount gets an error, not an endless wait. */
START_TEST(it_gives_up)
{
	struct daemon daemon = start_daemon(false);
	struct statfs fs;
	pid_t waiter;
	int status;

	waiter = fork();
	if (waiter == 0) {
		alarm(PATIENCE_MS / 1000);
		_exit(statfs(dir, &fs) < 0 && (errno == ENOTCONN || errno == ECONNABORTED) ? 0 : 1);
	}
	usleep(50000);
	end_daemon(&daemon, 0);
	ck_assert_int_eq(waitpid(waiter, &status, 0), waiter);
	ck_assert_int_eq(status, 0);
	ck_assert(holder_goes());
	ck_assert(mount_is_dead());
	ck_assert(was_logged("takes over"));
	ck_assert(was_logged("tierfs dies again and again; the mount is dead"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("holder");
	TCase *tcase = tcase_create("holder");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, messages);
	tcase_add_test(tcase, nobody_holds);
	tcase_add_test(tcase, names_of_sockets);
	if (geteuid() == 0 && access("/dev/fuse", W_OK) == 0) {
		tcase_add_test(tcase, a_daemon_ends_on_purpose);
		tcase_add_test(tcase, a_successor_takes_the_session);
		tcase_add_test(tcase, sockets_are_handed_over);
		tcase_add_test(tcase, the_pool_goes_on_elsewhere);
		tcase_add_test(tcase, the_mount_is_taken_away);
		tcase_add_test(tcase, who_talks_nonsense_is_not_answered);
		tcase_add_test(tcase, it_gives_up);
	}
	suite_add_tcase(suite, tcase);
	return check_run(suite);
}
