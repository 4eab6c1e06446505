/* front/control_request.c - see control_request.h. */
#include "front/control_request.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int control_request_fail(struct control_request *request, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(request->why, sizeof(request->why), format, args);
	va_end(args);
	return err;
}

bool control_request_wanted(const struct control_request *request)
{
	return !atomic_load(request->stopping) && control_line_alive(request->line);
}

int control_request_number(struct control_request *request, const char *key, uint64_t otherwise, uint64_t *ret)
{
	json_t *value = json_object_get(request->params, key);

	if (value && (!json_is_integer(value) || json_integer_value(value) < 0))
		return control_request_fail(request, -EINVAL, "%s: not a number of bytes", key);
	*ret = value ? (uint64_t)json_integer_value(value) : otherwise;
	return 0;
}

const char *control_request_string(const struct control_request *request, const char *key)
{
	return json_string_value(json_object_get(request->params, key));
}

/* --- tokens ----------------------------------------------------------------------------------------------------- */

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

int control_request_grant(struct control_request *request, const char *text, struct token_grant *ret)
{
	uint8_t token[TIERFS_TOKEN_LEN];
	int err = parse_token(text, token);

	if (!err)
		err = token_redeem(request->config->tokens, token, ret);
	return err ? control_request_fail(request, -EACCES, "the token is not valid (any more)") : 0;
}

int control_request_token(struct control_request *request, const char *key, uint32_t rights, uint64_t *ret_ino)
{
	const char *text = control_request_string(request, key);
	struct token_grant grant;
	int err;

	if (!text)
		return control_request_fail(request, -EINVAL, "the request has no token \"%s\"", key);
	err = control_request_grant(request, text, &grant);
	if (!err && (grant.rights & rights) != rights)
		err = control_request_fail(request, -EACCES, "\"%s\" does not have the rights for it", key);
	if (!err)
		*ret_ino = grant.ino;
	return err;
}
