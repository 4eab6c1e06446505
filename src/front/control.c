/* front/control.c - see control.h. Connections and threads are those of front/server.h. */
#include "front/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "front/control_line.h"
#include "front/control_ops.h"
#include "front/server.h"

#define CLIENTS_OF_ROOT 4

struct control {
	struct control_config config; /* immutable; its strings are owned */
	struct server *server;
};

static json_t *error_object(int err, const char *why)
{
	return json_pack("{s:{s:i, s:s}}", "error", "errno", -err, "text", why[0] ? why : strerror(-err));
}

/* One request. Returns an error only if the connection is to end. */
static int serve_one(struct control *control, uid_t uid, const atomic_bool *stopping, struct control_line *line)
{
	struct control_request request = {
		.config = &control->config,
		.line = line,
		.stopping = stopping,
		.uid = uid,
	};
	json_t *result = NULL;
	int err = control_line_read(line, &request.params);

	if (err) {
		if (err == -EMSGSIZE || err == -EBADMSG)
			control_line_write(line, error_object(err, err == -EBADMSG ? "not a JSON object"
										   : "the line is too long"));
		return err;
	}
	err = control_ops_run(&request, &result);
	json_decref(request.params);
	if (err)
		return control_line_write(line, error_object(err, request.why));
	return control_line_write(line, json_pack("{s:o}", "result", result));
}

static void serve(void *arg, int fd, uid_t uid, const atomic_bool *stopping)
{
	struct control_line line;
	int err = control_line_init(&line, fd);

	while (!err && !atomic_load(stopping))
		err = serve_one(arg, uid, stopping, &line);
	control_line_fini(&line);
}

static void refuse(void *arg, int fd, int err, const char *why)
{
	struct control_line line = { .fd = fd };

	(void)arg;
	control_line_write(&line, error_object(err, why));
}

static int copy_strings(struct control_config *config)
{
	config->run_dir = strdup(config->run_dir);
	config->mountpoint = strdup(config->mountpoint ? config->mountpoint : "");
	config->pool = strdup(config->pool ? config->pool : "");
	return config->run_dir && config->mountpoint && config->pool ? 0 : -ENOMEM;
}

int control_start(const struct control_config *config, struct control **ret)
{
	struct control *control = calloc(1, sizeof(*control));
	struct server_config server = { .run_dir = config->run_dir,
					.name = TIERFS_CONTROL_SOCKET,
					.type = SOCK_STREAM,
					.clients = CONTROL_CLIENTS_MAX,
					.clients_of_root = CLIENTS_OF_ROOT,
					.accept_thread = "tierfs-control",
					.client_thread = "tierfs-client",
					.serve = serve,
					.refuse = refuse,
					.arg = control,
					.keeper = config->keeper };
	int err;

	if (!control)
		return -ENOMEM;
	control->config = *config;
	err = copy_strings(&control->config);
	if (!err)
		err = server_start(&server, &control->server);
	if (err) {
		control_stop(control);
		return err;
	}
	*ret = control;
	return 0;
}

void control_stop(struct control *control)
{
	if (!control)
		return;
	server_stop(control->server);
	free((char *)control->config.run_dir);
	free((char *)control->config.mountpoint);
	free((char *)control->config.pool);
	free(control);
}
