/* front/control_ops.c - see control_ops.h.
 *
 * A request is about one inode. Root may name it (ino or path) or leave it out, which means the mount; everybody else
 * presents a token, which names it and says what the holder's descriptor allows. Nothing else is taken from the
 * request on trust.
 */
#include "front/control_ops.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "front/control_blocks.h"
#include "front/control_options.h"
#include "front/control_report.h"
#include "names/names.h"

enum about { ABOUT_FILE, ABOUT_MOUNT, ABOUT_EITHER, ABOUT_ANY /* a directory, too */ };

struct op {
	const char *name;
	control_handler *handler;
	enum about about;
	uint32_t rights; /* that a token must carry */
	bool root_only;
};

static const struct op ops[] = {
	{ "stat", control_report_stat, ABOUT_EITHER, TIERFS_RIGHT_READ, false },
	{ "ls", control_report_ls, ABOUT_MOUNT, TIERFS_RIGHT_READ, false },
	{ "map", control_report_map, ABOUT_FILE, TIERFS_RIGHT_READ, false },
	{ "demote", control_blocks_demote, ABOUT_FILE, TIERFS_RIGHT_WRITE, false },
	{ "promote", control_blocks_promote, ABOUT_FILE, TIERFS_RIGHT_WRITE, false },
	{ "clone", control_blocks_clone, ABOUT_FILE, TIERFS_RIGHT_READ, false },
	{ "pin", control_blocks_pin, ABOUT_FILE, TIERFS_RIGHT_WRITE, false },
	{ "get", control_options_get, ABOUT_ANY, TIERFS_RIGHT_READ, false },
	{ "set", control_options_set, ABOUT_ANY, TIERFS_RIGHT_READ, true },
};

/* --- what the request is about ----------------------------------------------------------------------------------- */

/* Name by name from the root. */
static int by_path(struct control_request *request, const char *path, uint64_t *ret_ino)
{
	struct stat attr = { .st_ino = NS_ROOT_INO };
	char name[NAME_MAX + 1];

	if (*path != '/')
		return control_request_fail(request, -ENOENT, "a path begins with a slash");
	for (const char *at = path + strspn(path, "/"); *at; at += strspn(at, "/")) {
		size_t length = strcspn(at, "/");
		int err = length < sizeof(name) ? 0 : -ENOENT;

		if (!err) {
			memcpy(name, at, length);
			name[length] = '\0';
			err = ns_lookup(request->config->ns, attr.st_ino, name, &attr);
		}
		if (err)
			return control_request_fail(request, -ENOENT, "no such RAM file or directory");
		at += length;
	}
	*ret_ino = attr.st_ino;
	return 0;
}

static int find_grant(struct control_request *request, struct token_grant *ret)
{
	const char *token = control_request_string(request, "token");
	const char *path = control_request_string(request, "path");
	struct token_grant grant = { .ino = NS_ROOT_INO, .rights = TIERFS_RIGHT_READ | TIERFS_RIGHT_WRITE };
	int err = 0;

	if (token)
		err = control_request_grant(request, token, &grant);
	else if (request->uid != 0)
		err = control_request_fail(request, -EACCES, "a token is needed (an ordinary user names nothing)");
	else if (path)
		err = by_path(request, path, &grant.ino);
	else
		err = control_request_number(request, "ino", NS_ROOT_INO, &grant.ino);
	if (err)
		return err;
	if (request->uid == 0)
		grant.rights |= TIERFS_RIGHT_READ | TIERFS_RIGHT_WRITE;
	*ret = grant;
	return 0;
}

static int check_about(struct control_request *request, const struct op *op)
{
	struct stat attr;
	int err = ns_getattr(request->config->ns, request->ino, &attr);

	if (err || op->about == ABOUT_ANY)
		return err;
	if (op->about == ABOUT_MOUNT || (op->about == ABOUT_EITHER && !S_ISREG(attr.st_mode))) {
		if (request->ino != NS_ROOT_INO)
			return control_request_fail(request, -EINVAL, "neither a RAM file nor the root of the mount");
	} else if (!S_ISREG(attr.st_mode)) {
		return control_request_fail(request, -EISDIR, "not a RAM file");
	}
	return 0;
}

int control_ops_run(struct control_request *request, json_t **ret)
{
	const char *name = control_request_string(request, "op");
	const struct op *op = NULL;
	struct token_grant grant;
	int err;

	if (!name)
		return control_request_fail(request, -EINVAL, "the request has no op");
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (!strcmp(ops[i].name, name))
			op = &ops[i];
	if (!op)
		return control_request_fail(request, -EOPNOTSUPP, "unknown op");
	err = find_grant(request, &grant);
	if (err)
		return err;
	if ((grant.rights & op->rights) != op->rights)
		return control_request_fail(request, -EACCES, "the file must be open for %s",
					    op->rights & TIERFS_RIGHT_WRITE ? "writing" : "reading");
	if (op->root_only && request->uid != 0)
		return control_request_fail(request, -EPERM, "only root may do that");
	request->ino = grant.ino;
	err = check_about(request, op);
	return err ? err : op->handler(request, ret);
}
