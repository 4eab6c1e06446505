/* conn.h - a conversation with the daemon of a mount, found by any path in it. docs/format/control.md. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <jansson.h>

#include <tierfs/ioctl.h>

struct conn;

/* What went wrong, for fail(). */
struct conn_error {
	const char *what;
	char why[256];
};

/* Opens path (writing: with the right to change the file) and connects. 0 or -errno with *error filled in. */
int conn_open(const char *path, bool writing, struct conn **ret, struct conn_error *error);
void conn_close(struct conn *conn); /* takes NULL */

/* The descriptor of the path; stays the connection's. */
int conn_fd(const struct conn *conn);
/* A token as requests carry it. */
#define CONN_TOKEN_TEXT (2 * TIERFS_TOKEN_LEN + 1)
void conn_token_text(const struct tierfs_ioc_info *info, char ret[static CONN_TOKEN_TEXT]);
/* The next request takes a fresh token. */
void conn_renew(struct conn *conn);
const struct tierfs_ioc_info *conn_info(const struct conn *conn);
/* The process of the daemon. */
int conn_daemon(const struct conn *conn, pid_t *ret);
/* Waits until the daemon has closed the connection. -ETIMEDOUT. */
int conn_wait_closed(const struct conn *conn, int timeout_ms);

/* Called for each line that is not the last: progress and pieces of the result. */
typedef void conn_line_fn(void *arg, json_t *line);

/* Sends op with params (taken over; NULL: none) and the token, and waits for the result, which is a new reference. fn
 * may be NULL. */
int conn_ask(struct conn *conn, const char *op, json_t *params, conn_line_fn *fn, void *arg, json_t **ret,
	     struct conn_error *error);

/* The tierfs mounts in /proc/self/mountinfo. fn non-zero ends the walk and is returned. */
typedef int conn_mount_fn(void *arg, const char *mountpoint, const char *source);
int conn_mounts(conn_mount_fn *fn, void *arg);
