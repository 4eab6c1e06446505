/* front/control_ops.c - see control_ops.h.
 *
 * A request is about one inode. Root may name it (ino or path) or leave it out, which means the mount; everybody else
 * presents a token, which names it and says what the holder's descriptor allows. Nothing else is taken from the
 * request on trust.
 */
#include "front/control_ops.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum about { ABOUT_FILE, ABOUT_MOUNT, ABOUT_EITHER };

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
	{ "demote", control_move_demote, ABOUT_FILE, TIERFS_RIGHT_WRITE, false },
	{ "promote", control_move_promote, ABOUT_FILE, TIERFS_RIGHT_WRITE, false },
	{ "clone", control_move_clone, ABOUT_FILE, TIERFS_RIGHT_READ, false },
	{ "pin", control_move_pin, ABOUT_FILE, TIERFS_RIGHT_WRITE, false },
	{ "get", control_move_get, ABOUT_EITHER, TIERFS_RIGHT_READ, false },
	{ "set", control_move_set, ABOUT_EITHER, TIERFS_RIGHT_READ, true },
};

int control_ops_fail(struct control_request *request, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(request->why, sizeof(request->why), format, args);
	va_end(args);
	return err;
}

bool control_ops_wanted(const struct control_request *request)
{
	return !atomic_load(request->stopping) && control_line_alive(request->line);
}

int control_ops_number(struct control_request *request, const char *key, uint64_t otherwise, uint64_t *ret)
{
	json_t *value = json_object_get(request->params, key);

	if (value && (!json_is_integer(value) || json_integer_value(value) < 0))
		return control_ops_fail(request, -EINVAL, "%s: not a number of bytes", key);
	*ret = value ? (uint64_t)json_integer_value(value) : otherwise;
	return 0;
}

const char *control_ops_string(const struct control_request *request, const char *key)
{
	return json_string_value(json_object_get(request->params, key));
}

/* --- what the request is about ----------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

static int parse_token(const char *text, uint8_t ret[static TIERFS_TOKEN_LEN])
{
	if (strlen(text) != 2 * TIERFS_TOKEN_LEN)
		return -EACCES;
	for (size_t i = 0; i < TIERFS_TOKEN_LEN; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return -EACCES;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

static int by_token(struct control_request *request, const char *text, struct token_grant *ret)
{
	uint8_t token[TIERFS_TOKEN_LEN];
	int err = parse_token(text, token);

	if (!err)
		err = token_redeem(request->config->tokens, token, ret);
	return err ? control_ops_fail(request, -EACCES, "the token is not valid (any more)") : 0;
}

int control_ops_token(struct control_request *request, const char *key, uint32_t rights, uint64_t *ret_ino)
{
	const char *text = control_ops_string(request, key);
	struct token_grant grant;
	int err;

	if (!text)
		return control_ops_fail(request, -EINVAL, "the request has no token \"%s\"", key);
	err = by_token(request, text, &grant);
	if (!err && (grant.rights & rights) != rights)
		err = control_ops_fail(request, -EACCES, "\"%s\" does not have the rights for it", key);
	if (!err)
		*ret_ino = grant.ino;
	return err;
}

struct search {
	const char *path;
	uint64_t ino;
};

static int match_path(void *arg, const struct ns_file *file)
{
	struct search *search = arg;

	if (strcmp(file->path, search->path))
		return 0;
	search->ino = file->ino;
	return 1;
}

static int by_path(struct control_request *request, const char *path, uint64_t *ret_ino)
{
	struct search search = { .path = path };
	int err;

	if (!strcmp(path, "/")) {
		*ret_ino = NS_ROOT_INO;
		return 0;
	}
	err = ns_files(request->config->ns, match_path, &search);
	if (err < 0)
		return err;
	if (!search.ino)
		return control_ops_fail(request, -ENOENT, "no such RAM file");
	*ret_ino = search.ino;
	return 0;
}

static int find_grant(struct control_request *request, struct token_grant *ret)
{
	const char *token = control_ops_string(request, "token");
	const char *path = control_ops_string(request, "path");
	struct token_grant grant = { .ino = NS_ROOT_INO, .rights = TIERFS_RIGHT_READ | TIERFS_RIGHT_WRITE };
	int err = 0;

	if (token)
		err = by_token(request, token, &grant);
	else if (request->uid != 0)
		err = control_ops_fail(request, -EACCES, "a token is needed (an ordinary user names nothing)");
	else if (path)
		err = by_path(request, path, &grant.ino);
	else
		err = control_ops_number(request, "ino", NS_ROOT_INO, &grant.ino);
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

	if (err)
		return err;
	if (op->about == ABOUT_MOUNT || (op->about == ABOUT_EITHER && !S_ISREG(attr.st_mode))) {
		if (request->ino != NS_ROOT_INO)
			return control_ops_fail(request, -EINVAL, "neither a RAM file nor the root of the mount");
	} else if (!S_ISREG(attr.st_mode)) {
		return control_ops_fail(request, -EISDIR, "not a RAM file");
	}
	return 0;
}

int control_ops_run(struct control_request *request, json_t **ret)
{
	const char *name = control_ops_string(request, "op");
	const struct op *op = NULL;
	struct token_grant grant;
	int err;

	if (!name)
		return control_ops_fail(request, -EINVAL, "the request has no op");
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (!strcmp(ops[i].name, name))
			op = &ops[i];
	if (!op)
		return control_ops_fail(request, -EOPNOTSUPP, "unknown op");
	err = find_grant(request, &grant);
	if (err)
		return err;
	if ((grant.rights & op->rights) != op->rights)
		return control_ops_fail(request, -EACCES, "the file must be open for %s",
					op->rights & TIERFS_RIGHT_WRITE ? "writing" : "reading");
	if (op->root_only && request->uid != 0)
		return control_ops_fail(request, -EPERM, "only root may do that");
	request->ino = grant.ino;
	err = check_about(request, op);
	return err ? err : op->handler(request, ret);
}
