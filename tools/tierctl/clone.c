/* clone.c - snapshot and clone.
 *
 * The new file is made here, empty, so that the kernel decides whether the caller may; the daemon is given tokens of
 * both files and fills it, or leaves it empty. Whatever fails, the new file goes again.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tierfs/tierfs.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "conn.h"
#include "move/progress.h"
#include "tierctl.h"

struct cloning {
	const struct args *args;
	const char *parent;
	bool read_only;
	char path[PATH_MAX]; /* of the new file */
	struct conn *conn;   /* of the parent */
};

/* A name without a slash lies in the directory of the parent. */
static int make_path(struct cloning *cloning)
{
	const char *parent = cloning->parent, *name = cloning->args->operands[1], *slash = strrchr(parent, '/');
	int length = slash && !strchr(name, '/') ? (int)(slash - parent) + 1 : 0;

	if (snprintf(cloning->path, sizeof(cloning->path), "%.*s%s", length, parent, name) < (int)sizeof(cloning->path))
		return 0;
	return fail_errno(name, "cannot be made", -ENAMETOOLONG);
}

/* In the mount of the parent; else there is nothing to share. */
static int check_place(const struct cloning *cloning)
{
	const char *slash = strrchr(cloning->path, '/');
	struct stat parent, dir;
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%.*s", slash ? (int)(slash - cloning->path) + 1 : 1, slash ? cloning->path : ".");
	if (fstat(conn_fd(cloning->conn), &parent) < 0)
		return fail_errno(cloning->parent, "cannot stat", -errno);
	if (!S_ISREG(parent.st_mode))
		return fail(cloning->parent, "cannot be cloned", "not a RAM file");
	if (stat(path, &dir) < 0)
		return fail_errno(cloning->path, "cannot be made", -errno);
	if (dir.st_dev != parent.st_dev)
		return fail(cloning->path, "cannot be made", "it is not in the same mount");
	return 0;
}

static void on_progress(void *arg, json_t *line)
{
	json_t *progress = json_object_get(line, "progress");

	if (progress)
		progress_show(arg, (uint64_t)json_integer_value(json_object_get(progress, "done_bytes")),
			      (uint64_t)json_integer_value(json_object_get(progress, "total_bytes")));
}

/* Pages of the parent that the kernel caches (a plain mapping) come to the daemon first. An fsync would make all of the
 * parent durable, too, which nobody has asked for. */
static int fill(struct cloning *cloning, int fd, json_t **ret)
{
	char token[CONN_TOKEN_TEXT];
	struct tierfs_ioc_info info;
	struct conn_error error;
	struct progress progress;
	int err;

	if (cloning->read_only && fchmod(fd, 0400) < 0)
		return fail_errno(cloning->path, "cannot be made read-only", -errno);
	if (sync_file_range(conn_fd(cloning->conn), 0, 0,
			    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) < 0)
		return fail_errno(cloning->parent, "cannot be written out", -errno);
	conn_renew(cloning->conn); /* that may have taken longer than tokens live */
	err = tierfs_info(fd, &info);
	if (err)
		return fail_errno(cloning->path, "cannot be made", err);
	conn_token_text(&info, token);
	progress_start(&progress, "shared");
	err = conn_ask(cloning->conn, "clone", json_pack("{s:s}", "into", token), on_progress, &progress, ret, &error);
	progress_end(&progress);
	return err ? fail(cloning->parent, error.what, error.why) : 0;
}

static int make(struct cloning *cloning, json_t **ret)
{
	int flags = O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC | O_NOCTTY;
	CLEANUP_CLOSE int fd = open(cloning->path, flags, 0600);
	int rc;

	if (fd < 0)
		return fail_errno(cloning->path, "cannot be made", -errno);
	rc = fill(cloning, fd, ret);
	if (rc)
		unlink(cloning->path);
	return rc;
}

static int print_made(const struct cloning *cloning, json_t *result)
{
	uint64_t size = (uint64_t)json_integer_value(json_object_get(result, "size_bytes"));
	uint64_t shared = (uint64_t)json_integer_value(json_object_get(result, "shared_bytes"));
	uint64_t stored = (uint64_t)json_integer_value(json_object_get(result, "stored_bytes"));
	char size_text[SIZE_TEXT_LEN], shared_text[SIZE_TEXT_LEN], stored_text[SIZE_TEXT_LEN];

	if (cloning->args->json) {
		json_object_set_new(result, "path", json_string(cloning->path));
		json_object_set_new(result, "parent", json_string(cloning->parent));
		return print_json(result);
	}
	json_decref(result);
	if (cloning->args->bytes)
		printf("%s: %llu, %llu in the store, %llu of it new\n", cloning->path, (unsigned long long)size,
		       (unsigned long long)shared, (unsigned long long)stored);
	else
		printf("%s: %s, %s in the store, %s of it new\n", cloning->path, size_format(size, size_text),
		       size_format(shared, shared_text), size_format(stored, stored_text));
	return 0;
}

static int clone_file(const struct command *command, int argc, char **argv, bool read_only)
{
	struct args args;
	struct cloning cloning = { .args = &args, .read_only = read_only };
	struct conn_error error;
	json_t *result = NULL;
	int rc = args_parse(command, argc, argv, 2, 2, &args);

	if (rc)
		return rc < 0;
	cloning.parent = args.operands[0];
	if (make_path(&cloning))
		return 1;
	if (conn_open(cloning.parent, false, &cloning.conn, &error))
		return fail(cloning.parent, error.what, error.why);
	rc = check_place(&cloning);
	if (!rc)
		rc = make(&cloning, &result);
	conn_close(cloning.conn);
	return rc ? 1 : print_made(&cloning, result);
}

int snapshot_run(const struct command *command, int argc, char **argv)
{
	return clone_file(command, argc, argv, true);
}

int clone_run(const struct command *command, int argc, char **argv)
{
	return clone_file(command, argc, argv, false);
}
