/* front/server.c - see server.h.
 *
 * A client's thread only marks its slot and closes the conversation; the descriptor is closed after the join, so that
 * server_stop() may shut it down at any time.
 */
#include "front/server.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/lock.h"
#include "base/log.h"
#include "wire/wire.h"

#define FULL_MS 100

struct client {
	struct server *server; /* immutable */
	pthread_t thread;
	int fd; /* -1: the slot is free; changed by the accepting thread, under the lock */
	uid_t uid;
	atomic_bool done; /* the thread is about to end */
};

struct server {
	struct server_config config; /* immutable */
	char *path;
	int listen_fd;
	int wake_fd;
	pthread_t thread;
	bool running;
	atomic_bool stopping;
	struct lock lock; /* guards clients[].fd */
	struct client clients[SERVER_CLIENTS_MAX];
};

static void wake(struct server *server)
{
	uint64_t one = 1;

	if (write(server->wake_fd, &one, sizeof(one)) < 0)
		log_debug("%s: cannot wake the accepting thread: %s", server->path, strerror(errno));
}

static void *client_main(void *arg)
{
	struct client *client = arg;
	struct server *server = client->server;

	prctl(PR_SET_NAME, server->config.client_thread);
	server->config.serve(server->config.arg, client->fd, client->uid, &server->stopping);
	wire_hang_up(client->fd);
	atomic_store(&client->done, true);
	wake(server);
	return NULL;
}

/* --- accepting -------------------------------------------------------------------------------------------------- */

static struct client *free_client(struct server *server, uid_t uid)
{
	struct client *found = NULL;
	unsigned int unused = 0, of_user = 0;

	for (unsigned int i = 0; i < server->config.clients; i++) {
		if (server->clients[i].fd >= 0) {
			of_user += server->clients[i].uid == uid;
			continue;
		}
		found = &server->clients[i];
		unused++;
	}
	if (uid == 0)
		return found;
	return unused > server->config.clients_of_root &&
			       of_user < (server->config.clients - server->config.clients_of_root + 1) / 2
		       ? found
		       : NULL;
}

static void refuse(struct server *server, int fd, int err, const char *why)
{
	server->config.refuse(server->config.arg, fd, err, why);
	wire_hang_up(fd);
}

static void set_fd(struct client *client, int fd)
{
	LOCK_SCOPE(&client->server->lock);
	client->fd = fd;
}

/* -EMFILE and its like: nobody can be accepted for a while. */
static int accept_one(struct server *server)
{
	CLEANUP_CLOSE int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer;
	socklen_t length = sizeof(peer);
	struct client *client;
	int err;

	if (fd < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
		return 0;
	client = free_client(server, peer.uid);
	if (!client) {
		refuse(server, fd, -EBUSY, "too many clients");
		return 0;
	}
	client->uid = peer.uid;
	atomic_store(&client->done, false);
	set_fd(client, fd);
	err = -pthread_create(&client->thread, NULL, client_main, client);
	if (err) {
		set_fd(client, -1);
		refuse(server, fd, err, "no thread for another client");
		return 0;
	}
	STEAL_FD(fd);
	return 0;
}

/* Joins threads: those that are done, or all. */
static void reap(struct server *server, bool all)
{
	for (unsigned int i = 0; i < server->config.clients; i++) {
		struct client *client = &server->clients[i];
		int fd = client->fd;

		if (fd < 0 || (!all && !atomic_load(&client->done)))
			continue;
		pthread_join(client->thread, NULL);
		set_fd(client, -1);
		close(fd);
	}
}

static bool is_full(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOBUFS;
}

static void *accept_main(void *arg)
{
	struct server *server = arg;
	bool full = false; /* no descriptors: not looked at for a moment, since it would only turn the loop */

	prctl(PR_SET_NAME, server->config.accept_thread);
	while (!atomic_load(&server->stopping)) {
		struct pollfd polls[2] = {
			{ .fd = full ? -1 : server->listen_fd, .events = POLLIN },
			{ .fd = server->wake_fd, .events = POLLIN },
		};
		uint64_t count;

		if (poll(polls, 2, full ? FULL_MS : -1) < 0)
			continue;
		full = false;
		if (polls[1].revents && read(server->wake_fd, &count, sizeof(count)) < 0)
			continue;
		reap(server, false);
		if (polls[0].revents && !atomic_load(&server->stopping))
			full = is_full(accept_one(server));
	}
	return NULL;
}

/* --- start and stop --------------------------------------------------------------------------------------------- */

int server_start(const struct server_config *config, struct server **ret)
{
	struct server *server = calloc(1, sizeof(*server));
	int err;

	if (!server)
		return -ENOMEM;
	server->config = *config;
	server->listen_fd = server->wake_fd = -1;
	lock_init(&server->lock, LOCK_RANK_CONTROL);
	for (int i = 0; i < SERVER_CLIENTS_MAX; i++)
		server->clients[i] = (struct client){ .server = server, .fd = -1 };
	if (asprintf(&server->path, "%s/%s", config->run_dir, config->name) < 0) {
		server->path = NULL;
		err = -ENOMEM;
		goto err;
	}
	server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = server->wake_fd < 0 ? -errno : 0;
	if (!err)
		err = listener_open(config->run_dir, config->name, config->type, 2 * (int)config->clients,
				    config->keeper, &server->listen_fd);
	if (err)
		goto err;
	err = -pthread_create(&server->thread, NULL, accept_main, server);
	if (err)
		goto err;
	server->running = true;
	*ret = server;
	return 0;
err:
	server_stop(server);
	return err;
}

/* Ends the conversations, so that no thread waits for a client. */
static void shut_clients(struct server *server)
{
	LOCK_SCOPE(&server->lock);
	for (unsigned int i = 0; i < server->config.clients; i++)
		if (server->clients[i].fd >= 0)
			shutdown(server->clients[i].fd, SHUT_RDWR);
}

void server_stop(struct server *server)
{
	if (!server)
		return;
	if (server->running) {
		atomic_store(&server->stopping, true);
		wake(server);
		pthread_join(server->thread, NULL);
		shut_clients(server);
		reap(server, true);
		unlink(server->path);
	}
	if (server->listen_fd >= 0)
		close(server->listen_fd);
	if (server->wake_fd >= 0)
		close(server->wake_fd);
	lock_fini(&server->lock);
	free(server->path);
	free(server);
}
