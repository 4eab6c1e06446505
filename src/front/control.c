/* front/control.c - see control.h.
 *
 * The accepting thread owns the slots of clients: it starts their threads and joins those that are done. A client's
 * thread only marks its slot and closes the connection's conversation; the descriptor is closed after the join, so that
 * control_stop() may shut it down at any time. Four of the slots are kept for root, which must get in when users hold
 * the rest.
 */
#include "front/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/lock.h"
#include "base/log.h"
#include "front/control_line.h"
#include "front/control_ops.h"

#define CLIENTS_OF_ROOT 4

struct client {
	struct control *control; /* immutable */
	pthread_t thread;
	int fd; /* -1: the slot is free; changed by the accepting thread, under the lock */
	uid_t uid;
	atomic_bool done; /* the thread is about to end */
};

struct control {
	struct control_config config; /* immutable; its strings are owned */
	char *path;
	int listen_fd;
	int wake_fd;
	pthread_t thread;
	bool running;
	atomic_bool stopping;
	struct lock lock; /* guards clients[].fd */
	struct client clients[CONTROL_CLIENTS_MAX];
};

/* --- a client --------------------------------------------------------------------------------------------------- */

static json_t *error_object(int err, const char *why)
{
	return json_pack("{s:{s:i, s:s}}", "error", "errno", -err, "text", why[0] ? why : strerror(-err));
}

/* One request. Returns an error only if the connection is to end. */
static int serve_one(struct client *client, struct control_line *line)
{
	struct control_request request = {
		.config = &client->control->config,
		.line = line,
		.stopping = &client->control->stopping,
		.uid = client->uid,
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

static void *client_main(void *arg)
{
	struct client *client = arg;
	struct control *control = client->control;
	struct control_line line;
	uint64_t one = 1;
	int err;

	prctl(PR_SET_NAME, "tierfs-client");
	err = control_line_init(&line, client->fd);
	while (!err && !atomic_load(&control->stopping))
		err = serve_one(client, &line);
	control_line_fini(&line);
	shutdown(client->fd, SHUT_RDWR);
	atomic_store(&client->done, true);
	if (write(control->wake_fd, &one, sizeof(one)) < 0)
		log_debug("control socket: cannot wake the accepting thread: %s", strerror(errno));
	return NULL;
}

/* --- accepting -------------------------------------------------------------------------------------------------- */

static void refuse(int fd, int err, const char *why)
{
	struct control_line line = { .fd = fd };

	control_line_write(&line, error_object(err, why));
}

static struct client *free_client(struct control *control, uid_t uid)
{
	struct client *found = NULL;
	int unused = 0;

	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		if (control->clients[i].fd >= 0)
			continue;
		found = &control->clients[i];
		unused++;
	}
	return uid == 0 || unused > CLIENTS_OF_ROOT ? found : NULL;
}

static void set_fd(struct client *client, int fd)
{
	LOCK_SCOPE(&client->control->lock);
	client->fd = fd;
}

static void accept_one(struct control *control)
{
	CLEANUP_CLOSE int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer;
	socklen_t length = sizeof(peer);
	struct client *client;
	int err;

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return;
	client = free_client(control, peer.uid);
	if (!client) {
		refuse(fd, -EBUSY, "too many clients");
		return;
	}
	client->uid = peer.uid;
	atomic_store(&client->done, false);
	set_fd(client, fd);
	err = -pthread_create(&client->thread, NULL, client_main, client);
	if (err) {
		set_fd(client, -1);
		refuse(fd, err, "no thread for another client");
		return;
	}
	STEAL_FD(fd);
}

/* Joins threads: those that are done, or all. */
static void reap(struct control *control, bool all)
{
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		struct client *client = &control->clients[i];
		int fd = client->fd;

		if (fd < 0 || (!all && !atomic_load(&client->done)))
			continue;
		pthread_join(client->thread, NULL);
		set_fd(client, -1);
		close(fd);
	}
}

static void *accept_main(void *arg)
{
	struct control *control = arg;

	prctl(PR_SET_NAME, "tierfs-control");
	while (!atomic_load(&control->stopping)) {
		struct pollfd polls[2] = {
			{ .fd = control->listen_fd, .events = POLLIN },
			{ .fd = control->wake_fd, .events = POLLIN },
		};
		uint64_t count;

		if (poll(polls, 2, -1) < 0)
			continue;
		if (polls[1].revents && read(control->wake_fd, &count, sizeof(count)) < 0)
			continue;
		reap(control, false);
		if (polls[0].revents && !atomic_load(&control->stopping))
			accept_one(control);
	}
	return NULL;
}

/* --- start and stop --------------------------------------------------------------------------------------------- */

static int open_socket(struct control *control)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (asprintf(&control->path, "%s/%s", control->config.run_dir, TIERFS_CONTROL_SOCKET) < 0) {
		control->path = NULL;
		return -ENOMEM;
	}
	if (strlen(control->path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, control->path);
	control->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (control->listen_fd < 0)
		return -errno;
	unlink(control->path);
	if (bind(control->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	if (chmod(control->path, 0666) < 0 || listen(control->listen_fd, 2 * CONTROL_CLIENTS_MAX) < 0)
		return -errno;
	return 0;
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
	int err;

	if (!control)
		return -ENOMEM;
	control->config = *config;
	control->listen_fd = control->wake_fd = -1;
	lock_init(&control->lock, LOCK_RANK_CONTROL);
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		control->clients[i] = (struct client){ .control = control, .fd = -1 };
	err = copy_strings(&control->config);
	if (err)
		goto err;
	control->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = control->wake_fd < 0 ? -errno : open_socket(control);
	if (err)
		goto err;
	err = -pthread_create(&control->thread, NULL, accept_main, control);
	if (err)
		goto err;
	control->running = true;
	*ret = control;
	return 0;
err:
	control_stop(control);
	return err;
}

/* Ends the conversations, so that no thread waits for a client. */
static void shut_clients(struct control *control)
{
	LOCK_SCOPE(&control->lock);
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (control->clients[i].fd >= 0)
			shutdown(control->clients[i].fd, SHUT_RDWR);
}

void control_stop(struct control *control)
{
	uint64_t one = 1;

	if (!control)
		return;
	if (control->running) {
		atomic_store(&control->stopping, true);
		if (write(control->wake_fd, &one, sizeof(one)) < 0)
			log_debug("control socket: cannot wake the accepting thread: %s", strerror(errno));
		pthread_join(control->thread, NULL);
		shut_clients(control);
		reap(control, true);
		unlink(control->path);
	}
	if (control->listen_fd >= 0)
		close(control->listen_fd);
	if (control->wake_fd >= 0)
		close(control->wake_fd);
	lock_fini(&control->lock);
	free(control->path);
	free((char *)control->config.run_dir);
	free((char *)control->config.mountpoint);
	free((char *)control->config.pool);
	free(control);
}
