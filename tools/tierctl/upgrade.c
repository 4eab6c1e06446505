/* upgrade.c - "upgrade": the daemon is told to execute its program anew, and awaited. What it does is its own affair
 * (SIGHUP, see tierfs(8)); a daemon that serves again is all there is to see. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>

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

int upgrade_run(const struct command *command, int argc, char **argv)
{
	struct conn_error error;
	struct args args;
	struct conn *conn;
	const char *path;
	pid_t daemon;
	int rc = args_parse(command, argc, argv, 1, 1, &args);

	if (rc)
		return rc < 0;
	path = args.operands[0];
	if (conn_open(path, false, &conn, &error))
		return fail(path, error.what, error.why);
	rc = conn_daemon(conn, &daemon);
	if (rc == 0 && kill(daemon, SIGHUP) < 0)
		rc = -errno;
	if (rc == 0)
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
