/* settings.c - get and set: options of a mount, shares of files and directories. A name with a dot is a share's, and
 * "store"; "store.NAME" is an option. */
#include <stdio.h>
#include <string.h>

#include "conn.h"
#include "tierctl.h"

static bool is_share(const char *name)
{
	return !strcmp(name, "store") || (strchr(name, '.') && strncmp(name, "store.", 6) != 0);
}

/* What is set; else what holds, if that is asked for. */
static void add_share(json_t *settings, const char *name, json_t *result, bool what_holds)
{
	json_t *value = json_object_get(json_object_get(result, "shares"), name);

	if (!value && what_holds)
		value = json_object_get(json_object_get(result, "effective"), name);
	json_object_set_new(settings, name, value ? json_incref(value) : json_string("none"));
}

/* What is set, and how much is used of it. */
static void add_all(json_t *settings, json_t *result)
{
	const char *key;
	json_t *value;

	json_object_update(settings, json_object_get(result, "shares"));
	if (json_array_size(json_object_get(result, "defaults")))
		json_object_set(settings, "defaults", json_object_get(result, "defaults"));
	json_object_foreach(json_object_get(result, "new_files"), key, value) {
		char name[64];

		snprintf(name, sizeof(name), "new.%s", key);
		json_object_set(settings, name, value);
	}
	json_object_foreach(json_object_get(result, "usage"), key, value) {
		char text[32];

		if (!json_is_integer(value))
			continue;
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
		json_object_set_new(settings, key, json_string(text));
	}
}

static void take_answer(json_t *settings, const json_t *question, json_t *result)
{
	const char *name = json_string_value(json_object_get(question, "name")), *share;
	json_t *value;

	json_object_update(settings, json_object_get(result, "options"));
	if (name && is_share(name))
		add_share(settings, name, result, true);
	else if (!name && !json_object_get(question, "shares"))
		add_all(settings, result);
	json_object_foreach(json_object_get(question, "shares"), share, value)
		add_share(settings, share, result, false);
}

static bool is_among(const json_t *names, const char *name)
{
	const json_t *one;
	size_t i;

	json_array_foreach(names, i, one)
		if (!strcmp(json_string_value(one) ? json_string_value(one) : "", name))
			return true;
	return false;
}

static int print_settings(json_t *settings, bool json)
{
	json_t *value, *defaults = json_object_get(settings, "defaults");
	const char *name;

	if (json)
		return print_json(settings);
	json_object_foreach(settings, name, value)
		if (value != defaults)
			printf("%s=%s%s\n", name, json_string_value(value) ? json_string_value(value) : "",
			       is_among(defaults, name) ? " (default)" : "");
	json_decref(settings);
	return 0;
}

/* Puts all questions, frees them, and prints the answers together. */
static int ask_all(const char *path, const char *op, json_t *questions, bool json)
{
	json_t *settings = json_object(), *question;
	struct conn *conn = NULL;
	struct conn_error error;
	size_t i;
	int err = conn_open(path, false, &conn, &error);

	json_array_foreach(questions, i, question) {
		json_t *result;

		if (!err)
			err = conn_ask(conn, op, json_incref(question), NULL, NULL, &result, &error);
		if (err)
			break;
		take_answer(settings, question, result);
		json_decref(result);
	}
	conn_close(conn);
	json_decref(questions);
	if (!err)
		return print_settings(settings, json);
	json_decref(settings);
	return fail(path, error.what, error.why);
}

int get_run(const struct command *command, int argc, char **argv)
{
	json_t *questions;
	struct args args;
	int rc = args_parse(command, argc, argv, 1, -1, &args);

	if (rc)
		return rc < 0;
	questions = json_array();
	for (int i = 1; i < args.count; i++)
		json_array_append_new(questions, json_pack("{s:s}", "name", args.operands[i]));
	if (args.count == 1)
		json_array_append_new(questions, json_object());
	return ask_all(args.operands[0], "get", questions, args.json);
}

/* An option is a question of its own; shares go together, for all or none of them to be set. */
static int add_setting(json_t *questions, json_t *shares, char *setting)
{
	char *value = strchr(setting, '=');
	int err;

	if (!value)
		return fail(setting, "not a setting", "write NAME=VALUE");
	*value++ = '\0';
	if (is_share(setting))
		err = json_object_set_new(shares, setting, json_string(value));
	else
		err = json_array_append_new(questions, json_pack("{s:s, s:s}", "name", setting, "value", value));
	return err ? fail(setting, "not a setting", "it is not UTF-8") : 0;
}

int set_run(const struct command *command, int argc, char **argv)
{
	json_t *questions, *shares;
	struct args args;
	int rc = args_parse(command, argc, argv, 2, -1, &args);

	if (rc)
		return rc < 0;
	questions = json_array();
	shares = json_object();
	for (int i = 1; i < args.count && !rc; i++)
		rc = add_setting(questions, shares, args.operands[i]);
	if (json_object_size(shares))
		json_array_append_new(questions, json_pack("{s:O}", "shares", shares));
	json_decref(shares);
	if (!rc)
		return ask_all(args.operands[0], "set", questions, args.json);
	json_decref(questions);
	return rc;
}
