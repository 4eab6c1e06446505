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
 * daemon that answers on the first is the one that the second is with, and the second ends with it. */
static int connect_to_living(const char *path, struct conn **ret, struct conn_error *error)
{
	int rc = connect_answered(path, ret, error);

	if (rc)
		return rc;
	conn_close(*ret);
	return connect_answered(path, ret, error);
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
	if (connect_to_living(path, &conn, &error))
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
