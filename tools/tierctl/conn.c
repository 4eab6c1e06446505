/* conn.c - see conn.h. */
#include "conn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <tierfs/tierfs.h>

#include "base/cleanup.h"

struct conn {
	int file_fd;
	FILE *stream;
	struct tierfs_ioc_info info;
	bool token_used;
};

static int set_error(struct conn_error *error, int err, const char *what, const char *why)
{
	error->what = what;
	snprintf(error->why, sizeof(error->why), "%s", why ? why : strerror(-err));
	return err;
}

/* With O_DIRECT, which says that we do not want to map the file: else nobody could attach it meanwhile. */
static int open_with(const char *path, int access)
{
	int flags = access | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd = open(path, flags | O_DIRECT);

	return fd < 0 && errno == EINVAL ? open(path, flags) : fd;
}

static int open_file(const char *path, bool writing)
{
	int fd = -1;

	if (writing)
		fd = open_with(path, O_RDWR);
	/* Directories cannot be opened for writing, and root needs no such right. */
	if (fd < 0 && (!writing || errno == EISDIR || geteuid() == 0))
		fd = open_with(path, O_RDONLY);
	return fd < 0 ? -errno : fd;
}

/* A fresh token: one is good for one request. */
static int get_info(struct conn *conn, struct conn_error *error)
{
	int err = tierfs_info(conn->file_fd, &conn->info);

	if (err == -ENOTTY)
		return set_error(error, err, "not in a tierfs mount", "it is of another filesystem");
	if (err)
		return set_error(error, err, "cannot ask the daemon", err == -ENOTCONN ? "it is gone" : NULL);
	if (conn->info.abi_version != TIERFS_ABI_VERSION)
		return set_error(error, -EPROTO, "cannot ask the daemon", "it is of another version");
	conn->token_used = false;
	return 0;
}

static int connect_control(struct conn *conn, struct conn_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0)
		return set_error(error, -errno, "cannot make a socket", NULL);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.*s/%s", TIERFS_RUN_DIR_LEN - 1, conn->info.run_dir,
		 TIERFS_CONTROL_SOCKET);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return set_error(error, -errno, "cannot reach the daemon", NULL);
	/* Any FUSE filesystem answers the question where its daemon is as it likes. */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || (peer.uid != 0 && peer.uid != geteuid()))
		return set_error(error, -EPERM, "cannot ask the daemon",
				 "who answers on its socket is neither root nor this user");
	conn->stream = fdopen(fd, "r+");
	if (!conn->stream)
		return set_error(error, -errno, "cannot reach the daemon", NULL);
	STEAL_FD(fd);
	return 0;
}

int conn_open(const char *path, bool writing, struct conn **ret, struct conn_error *error)
{
	struct conn *conn = calloc(1, sizeof(*conn));
	int err;

	if (!conn)
		return set_error(error, -ENOMEM, "cannot open", NULL);
	conn->file_fd = open_file(path, writing);
	if (conn->file_fd < 0)
		err = set_error(error, conn->file_fd, "cannot open", NULL);
	else
		err = get_info(conn, error);
	if (!err)
		err = connect_control(conn, error);
	if (err) {
		conn_close(conn);
		return err;
	}
	/* The connection may have waited for another daemon than the one that made the token. */
	conn->token_used = true;
	*ret = conn;
	return 0;
}

void conn_close(struct conn *conn)
{
	if (!conn)
		return;
	if (conn->stream)
		fclose(conn->stream);
	if (conn->file_fd >= 0)
		close(conn->file_fd);
	free(conn);
}

int conn_fd(const struct conn *conn)
{
	return conn->file_fd;
}

void conn_token_text(const struct tierfs_ioc_info *info, char ret[static CONN_TOKEN_TEXT])
{
	for (size_t i = 0; i < TIERFS_TOKEN_LEN; i++)
		sprintf(ret + 2 * i, "%02x", info->token[i]);
}

void conn_renew(struct conn *conn)
{
	conn->token_used = true;
}

const struct tierfs_ioc_info *conn_info(const struct conn *conn)
{
	return &conn->info;
}

int conn_daemon(const struct conn *conn, pid_t *ret)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fileno(conn->stream), SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -errno;
	*ret = peer.pid;
	return peer.pid > 0 ? 0 : -ESRCH; /* 0: in another PID namespace */
}

int conn_wait_closed(const struct conn *conn, int timeout_ms)
{
	struct pollfd pollfd = { .fd = fileno(conn->stream), .events = POLLRDHUP };
	int err = poll(&pollfd, 1, timeout_ms);

	return err < 0 ? -errno : err == 0 ? -ETIMEDOUT : 0;
}

static int send_all(int sock, const char *bytes, size_t length)
{
	while (length) {
		ssize_t sent = send(sock, bytes, length, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -errno;
		bytes += sent;
		length -= (size_t)sent;
	}
	return 0;
}

/* A daemon that refuses the client hangs up at once: its answer, which is read next, says why. */
static int send_request(struct conn *conn, const char *op, json_t *params)
{
	char token[CONN_TOKEN_TEXT];
	json_t *request = params ? params : json_object();
	char *text;
	int err;

	conn_token_text(&conn->info, token);
	conn->token_used = true;
	json_object_set_new(request, "op", json_string(op));
	json_object_set_new(request, "token", json_string(token));
	text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (!text)
		return -ENOMEM;
	err = send_all(fileno(conn->stream), text, strlen(text));
	if (!err)
		err = send_all(fileno(conn->stream), "\n", 1);
	free(text);
	return err == -EPIPE ? 0 : err;
}

/* 1: the result. 0: another line follows. */
static int take_line(json_t *line, conn_line_fn *fn, void *arg, json_t **ret, struct conn_error *error)
{
	json_t *result = json_object_get(line, "result");
	json_t *failure = json_object_get(line, "error");

	if (failure) {
		int err = -(int)json_integer_value(json_object_get(failure, "errno"));
		const char *text = json_string_value(json_object_get(failure, "text"));

		return set_error(error, err < 0 ? err : -EPROTO, "the daemon refuses", text);
	}
	if (result) {
		*ret = json_incref(result);
		return 1;
	}
	if (fn)
		fn(arg, line);
	return 0;
}

int conn_ask(struct conn *conn, const char *op, json_t *params, conn_line_fn *fn, void *arg, json_t **ret,
	     struct conn_error *error)
{
	char *text = NULL;
	size_t cap = 0;
	int err = conn->token_used ? get_info(conn, error) : 0;

	if (err) {
		json_decref(params);
		return err;
	}
	err = send_request(conn, op, params);
	if (err)
		return set_error(error, err, "cannot ask the daemon", strerror(-err));
	while (err == 0) {
		json_t *line;

		if (getline(&text, &cap, conn->stream) < 0) {
			err = set_error(error, -ECONNRESET, "no answer", "the daemon closed the connection");
			break;
		}
		line = json_loads(text, 0, NULL);
		err = line ? take_line(line, fn, arg, ret, error)
			   : set_error(error, -EPROTO, "no answer", "the daemon's words are not JSON");
		json_decref(line);
	}
	free(text);
	return err < 0 ? err : 0;
}

/* Space, tab, newline and backslash are written as \ooo. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		if (from[0] == '\\' && from[1] && from[2] && from[3]) {
			*to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

/* Fields: id parent major:minor root mountpoint options ... - type source options. */
static bool parse_mount(char *line, char **mountpoint, char **source)
{
	char *save, *word = strtok_r(line, " \n", &save), *type;
	int field = 0;

	for (; word && field < 4; field++)
		word = strtok_r(NULL, " \n", &save);
	*mountpoint = word;
	while (word && strcmp(word, "-"))
		word = strtok_r(NULL, " \n", &save);
	type = word ? strtok_r(NULL, " \n", &save) : NULL;
	*source = type ? strtok_r(NULL, " \n", &save) : NULL;
	if (!*source || (strcmp(type, "fuse.tierfs") && strcmp(type, "tierfs")))
		return false;
	unescape(*mountpoint);
	unescape(*source);
	return true;
}

int conn_mounts(conn_mount_fn *fn, void *arg)
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, *mountpoint, *source;
	size_t cap = 0;
	int err = 0;

	if (!file)
		return -errno;
	while (!err && getline(&line, &cap, file) >= 0)
		if (parse_mount(line, &mountpoint, &source))
			err = fn(arg, mountpoint, source);
	free(line);
	fclose(file);
	return err;
}
