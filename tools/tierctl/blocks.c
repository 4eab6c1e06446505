/* blocks.c - demote, promote, pin. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "conn.h"
#include "move/progress.h"
#include "tierctl.h"

/* One of demote, promote and pin, for every file that is named or lies in a mount that is named. */
struct job {
	const char *op;
	const char *done; /* "demoted" */
	const struct args *args;
	json_t *results;
};

static json_t *job_params(const struct job *job)
{
	const struct args *args = job->args;
	json_t *params = json_object();

	json_object_set_new(params, "offset", json_integer((json_int_t)args->offset));
	if (args->length != UINT64_MAX)
		json_object_set_new(params, "length", json_integer((json_int_t)args->length));
	if (!strcmp(job->op, "pin"))
		json_object_set_new(params, "on", json_boolean(!args->off));
	return params;
}

static void on_progress(void *arg, json_t *line)
{
	json_t *progress = json_object_get(line, "progress");

	if (progress)
		progress_show(arg, (uint64_t)json_integer_value(json_object_get(progress, "done_bytes")),
			      (uint64_t)json_integer_value(json_object_get(progress, "total_bytes")));
}

static char *size_text(const struct job *job, const json_t *result, const char *key, char buf[static 24])
{
	uint64_t bytes = (uint64_t)json_integer_value(json_object_get(result, key));
	char text[SIZE_TEXT_LEN];

	if (job->args->bytes)
		snprintf(buf, 24, "%llu", (unsigned long long)bytes);
	else
		snprintf(buf, 24, "%s", size_format(bytes, text));
	return buf;
}

static void print_result(const struct job *job, const char *path, const json_t *result)
{
	char moved[24], skipped[24];

	if (!strcmp(job->op, "pin"))
		printf("%s: %s now pinned\n", path, size_text(job, result, "pinned_bytes", moved));
	else
		printf("%s: %s %s, %s left where it was\n", path, size_text(job, result, "moved_bytes", moved),
		       job->done, size_text(job, result, "skipped_bytes", skipped));
}

static int do_mount(const struct job *job, const char *path, struct conn *conn);

static int do_path(const struct job *job, const char *path)
{
	struct progress progress;
	struct conn_error error;
	struct conn *conn;
	json_t *result;
	int err;

	if (conn_open(path, true, &conn, &error))
		return fail(path, error.what, error.why);
	if (conn_info(conn)->ino == 1)
		return do_mount(job, path, conn);
	progress_start(&progress, job->done);
	err = conn_ask(conn, job->op, job_params(job), on_progress, &progress, &result, &error);
	progress_end(&progress);
	conn_close(conn);
	if (err)
		return fail(path, error.what, error.why);
	if (job->args->json) {
		json_object_set_new(result, "path", json_string(path));
		json_array_append_new(job->results, result);
	} else {
		print_result(job, path, result);
		json_decref(result);
	}
	return 0;
}

/* The root of a mount stands for all of its files. Closes conn. */
static int do_mount(const struct job *job, const char *path, struct conn *conn)
{
	struct conn_error error;
	json_t *list, *file;
	size_t i;
	int err = conn_ask(conn, "ls", NULL, NULL, NULL, &list, &error);
	int rc = 0;

	conn_close(conn);
	if (err)
		return fail(path, error.what, error.why);
	json_array_foreach(json_object_get(list, "files"), i, file) {
		const char *name = json_string_value(json_object_get(file, "path"));
		char full[2 * PATH_MAX];

		if (!name || json_is_true(json_object_get(file, "lost")))
			continue;
		snprintf(full, sizeof(full), "%s%s", path, name);
		rc = do_path(job, full);
		if (rc)
			break;
	}
	json_decref(list);
	return rc;
}

static int run_job(const struct command *command, int argc, char **argv, const char *done)
{
	struct args args;
	struct job job = { .op = command->name, .done = done, .args = &args, .results = json_array() };
	int rc = args_parse(command, argc, argv, 1, -1, &args);

	for (int i = 0; !rc && i < args.count; i++)
		rc = -do_path(&job, args.operands[i]);
	if (!rc && args.json)
		return print_json(json_pack("{s:o}", "files", job.results));
	json_decref(job.results);
	return rc < 0;
}

int demote_run(const struct command *command, int argc, char **argv)
{
	return run_job(command, argc, argv, "demoted");
}

int promote_run(const struct command *command, int argc, char **argv)
{
	return run_job(command, argc, argv, "promoted");
}

int pin_run(const struct command *command, int argc, char **argv)
{
	return run_job(command, argc, argv, "pinned");
}
