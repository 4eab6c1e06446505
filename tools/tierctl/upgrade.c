/* upgrade.c - "upgrade": the daemon is told to execute its program anew, and awaited. What it does is its own affair
 * (SIGHUP, see tierfs(8)); a daemon that serves again is all there is to see. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "conn.h"
#include "tierctl.h"

#define CLOSE_MS 10000

/* Returns when the mount answers again: an open waits for whoever serves it. */
static int await_successor(const char *path, struct conn_error *error)
{
	struct conn *conn;
	int rc = conn_open(path, false, &conn, error);

	if (rc == 0)
		conn_close(conn);
	return rc;
}

static int connect_answered(const char *path, struct conn **ret, struct conn_error *error)
{
	json_t *result = NULL;
	int rc = conn_open(path, false, ret, error);

	if (rc)
		return rc;
	rc = conn_ask(*ret, "get", NULL, NULL, NULL, &result, error);
	json_decref(result);
	if (rc)
		conn_close(*ret);
	return rc;
}

/* A connection that waits to be served outlives the daemon, and names the one that made the socket listen. So the
 * daemon that answers on the first is the one that the second is with, and the second ends with it; unless it dies
 * between the two. */
static int connect_to_living(const char *path, struct conn **ret, struct conn_error *error)
{
	int rc = connect_answered(path, ret, error);

	if (rc)
		return rc;
	conn_close(*ret);
	return connect_answered(path, ret, error);
}

static int fail_daemon(struct conn_error *error, int err)
{
	error->what = "cannot tell the daemon";
	snprintf(error->why, sizeof(error->why), "%s", strerror(-err));
	return err;
}

/* The number of the daemon's process, and a connection that ends with it. */
static int find_daemon(const char *path, struct conn **ret, pid_t *ret_pid, struct conn_error *error)
{
	int rc = connect_to_living(path, ret, error);

	if (rc)
		return rc;
	rc = conn_daemon(*ret, ret_pid);
	if (rc == 0)
		return 0;
	conn_close(*ret);
	return fail_daemon(error, rc);
}

/* The number may be of a daemon that died meanwhile, and another process may have it by now. So a descriptor is opened
 * for it, and then the daemon is asked again: it lives, so if it has this number, then the descriptor is of it, or of
 * something that is dead. 1: it is another one now. */
static int tell_daemon(const char *path, struct conn **ret, struct conn_error *error)
{
	CLEANUP_CLOSE int fd = -1;
	pid_t daemon, again;
	int rc = find_daemon(path, ret, &daemon, error);

	if (rc)
		return rc;
	conn_close(*ret);
	fd = (int)syscall(SYS_pidfd_open, daemon, 0);
	if (fd < 0)
		return errno == ESRCH ? 1 : fail_daemon(error, -errno);
	rc = find_daemon(path, ret, &again, error);
	if (rc)
		return rc;
	if (again == daemon && syscall(SYS_pidfd_send_signal, fd, SIGHUP, NULL, 0) == 0)
		return 0;
	rc = again != daemon || errno == ESRCH ? 1 : fail_daemon(error, -errno);
	conn_close(*ret);
	return rc;
}

int upgrade_run(const struct command *command, int argc, char **argv)
{
	struct conn_error error;
	struct args args;
	struct conn *conn;
	const char *path;
	int rc = args_parse(command, argc, argv, 1, 1, &args);

	if (rc)
		return rc < 0;
	path = args.operands[0];
	do
		rc = tell_daemon(path, &conn, &error);
	while (rc > 0);
	if (rc)
		return fail(path, error.what, error.why);
	rc = conn_wait_closed(conn, CLOSE_MS);
	conn_close(conn);
	if (rc == -ETIMEDOUT)
		return fail(path, "was not replaced", "the daemon's log says why");
	if (rc)
		return fail_errno(path, "cannot tell the daemon", rc);
	if (await_successor(path, &error))
		return fail(path, error.what, error.why);
	return 0;
}
