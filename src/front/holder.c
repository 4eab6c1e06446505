/* front/holder.c - see holder.h: the daemon's side. */
#include "front/holder.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "front/holder_main.h"
#include "front/holder_message.h"
#include "wire/wire.h"

#define ANSWER_MS 5000
#define SAY_MS 1000

struct holder {
	int conn;
	pid_t child; /* 0: somebody else's */
};

/* ---- asking ---- */

/* Sends, and waits for the answer, of which the type is returned. */
static int ask(struct holder *holder, struct holder_message *message, int fd, int *ret_fd)
{
	int err;

	message->version = HOLDER_VERSION;
	err = holder_message_send(holder->conn, message, fd);
	if (!err)
		err = holder_message_receive(holder->conn, ANSWER_MS, message, ret_fd);
	return err < 0 ? err : (int)message->type;
}

/* ---- beginning ---- */

int holder_start(const struct holder_config *config, struct holder **ret)
{
	struct holder *holder = calloc(1, sizeof(*holder));
	pid_t daemon = getpid();
	int pair[2], err = 0;

	if (!holder)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		err = -errno;
		free(holder);
		return err;
	}
	fflush(NULL);
	holder->child = fork();
	if (holder->child == 0)
		holder_main(pair[1], daemon, config);
	if (holder->child < 0)
		err = -errno;
	close(pair[1]);
	if (err < 0) {
		close(pair[0]);
		free(holder);
		return err;
	}
	holder->conn = pair[0];
	*ret = holder;
	return 0;
}

static int connect_to(const char *run_dir, int *ret)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", run_dir, HOLDER_SOCKET) >=
	    (int)sizeof(address.sun_path))
		return -ENAMETOOLONG;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return errno == ECONNREFUSED ? -ENOENT : -errno;
	*ret = STEAL_FD(fd);
	return 0;
}

int holder_find(const char *run_dir, const char *mountpoint, struct holder **ret, uint32_t *ret_session)
{
	struct holder_message message = { .type = HOLDER_ASK };
	struct holder *holder;
	int err, fd = -1;

	err = session_put_text(message.mountpoint, sizeof(message.mountpoint), mountpoint);
	if (err < 0)
		return err;
	holder = calloc(1, sizeof(*holder));
	if (!holder)
		return -ENOMEM;
	err = connect_to(run_dir, &holder->conn);
	if (err < 0) {
		free(holder);
		return err;
	}
	err = ask(holder, &message, -1, &fd);
	if (fd >= 0)
		close(fd);
	if (err == HOLDER_YES) {
		*ret_session = message.number + 1;
		*ret = holder;
		return 0;
	}
	close(holder->conn);
	free(holder);
	/* One that ends at this moment just closes. */
	if (err == HOLDER_NO || err == -EPIPE || err == -ECONNRESET)
		return -ENOENT;
	return err < 0 ? err : -EBUSY;
}

/* ---- the session ---- */

int holder_keep(struct holder *holder, const char *run_dir, const char *mountpoint, const struct session *session)
{
	struct holder_message message = { .type = HOLDER_KEEP, .init_len = session->init_len };
	int err, fd = -1;

	memcpy(message.init, session->init, session->init_len);
	err = session_put_text(message.run_dir, sizeof(message.run_dir), run_dir);
	if (!err)
		err = session_put_text(message.mountpoint, sizeof(message.mountpoint), mountpoint);
	if (!err)
		err = ask(holder, &message, session->fuse_fd, &fd);
	if (fd >= 0)
		close(fd);
	return err == HOLDER_YES ? 0 : err < 0 ? err : -EPROTO;
}

int holder_take(struct holder *holder, struct session *ret)
{
	struct holder_message message = { .type = HOLDER_TAKE };
	int fd = -1, err = ask(holder, &message, -1, &fd);

	if (err == HOLDER_YES && fd >= 0) {
		*ret = (struct session){
			.fuse_fd = fd,
			.number = message.number,
			.init_len = message.init_len,
		};
		memcpy(ret->init, message.init, message.init_len);
		return 0;
	}
	if (fd >= 0)
		close(fd);
	return err < 0 ? err : -EPROTO;
}

/* ---- userfaultfds ---- */

/* The holder may be busy for a moment; it never is for long. */
static int say(int conn, struct holder_message *message, int fd)
{
	struct pollfd pollfd = { .fd = conn, .events = POLLOUT };
	int err = holder_message_send(conn, message, fd);

	if (err == -EAGAIN && poll(&pollfd, 1, SAY_MS) > 0)
		err = holder_message_send(conn, message, fd);
	return err;
}

static void tell(struct holder *holder, enum holder_type type, const struct kept_mapping *mapping, int fd)
{
	struct holder_message message = { .version = HOLDER_VERSION, .type = type, .init_len = sizeof(*mapping) };
	int err;

	memcpy(message.init, mapping, sizeof(*mapping));
	err = say(holder->conn, &message, fd);
	if (err < 0)
		log_warn("the holder cannot keep a descriptor for process %d: %s", (int)mapping->pid, strerror(-err));
}

void holder_stash(struct holder *holder, const struct kept_mapping *mapping, int fd)
{
	tell(holder, HOLDER_STASH, mapping, fd);
}

void holder_unstash(struct holder *holder, uint64_t id)
{
	struct kept_mapping mapping = { .id = id };

	tell(holder, HOLDER_UNSTASH, &mapping, -1);
}

/* Calls fn for each answer of that type, with the descriptor. */
typedef void answer_fn(void *fn_arg, const struct holder_message *message, int fd);

static int fetch(const char *run_dir, enum holder_type question, enum holder_type answer, answer_fn *fn, void *arg)
{
	struct holder_message message = { .version = HOLDER_VERSION, .type = question };
	CLEANUP_CLOSE int conn = -1;
	int fd = -1, err = connect_to(run_dir, &conn);

	if (!err)
		err = holder_message_send(conn, &message, -1);
	while (!err) {
		err = holder_message_receive(conn, ANSWER_MS, &message, &fd);
		if (err < 0 || message.type != answer || fd < 0)
			break;
		fn(arg, &message, fd);
		fd = -1;
	}
	if (fd >= 0)
		close(fd);
	if (err < 0)
		return err == -EPIPE || err == -ECONNRESET ? -ENOENT : err;
	return message.type == HOLDER_BUSY ? -EBUSY : 0;
}

struct fetching {
	holder_fetched_fn *fn;
	holder_listener_fn *listener_fn;
	void *arg;
};

static void on_mapping(void *arg, const struct holder_message *message, int fd)
{
	const struct fetching *fetching = arg;
	struct kept_mapping mapping;

	if (message->init_len != sizeof(mapping)) {
		close(fd);
		return;
	}
	memcpy(&mapping, message->init, sizeof(mapping));
	fetching->fn(fetching->arg, &mapping, fd);
}

int holder_fetch(const char *run_dir, holder_fetched_fn *fn, void *arg)
{
	struct fetching fetching = { .fn = fn, .arg = arg };

	return fetch(run_dir, HOLDER_FETCH, HOLDER_STASH, on_mapping, &fetching);
}

/* ---- sockets ---- */

void holder_keep_listener(struct holder *holder, const char *name, int fd)
{
	struct holder_message message = { .version = HOLDER_VERSION, .type = HOLDER_LISTENER };
	size_t size = strlen(name) + 1;
	int err = size > HOLDER_NAME_MAX ? -ENAMETOOLONG : 0;

	if (!err) {
		message.init_len = (uint32_t)size;
		memcpy(message.init, name, size);
		err = say(holder->conn, &message, fd);
	}
	if (err < 0)
		log_warn("the holder cannot keep %s: %s", name, strerror(-err));
}

static void on_listener(void *arg, const struct holder_message *message, int fd)
{
	const struct fetching *fetching = arg;
	const char *name = holder_message_listener(message);

	if (name)
		fetching->listener_fn(fetching->arg, name, fd);
	else
		close(fd);
}

int holder_fetch_listeners(const char *run_dir, holder_listener_fn *fn, void *arg)
{
	struct fetching fetching = { .listener_fn = fn, .arg = arg };

	return fetch(run_dir, HOLDER_LISTENERS, HOLDER_LISTENER, on_listener, &fetching);
}

/* ---- the end ---- */

void holder_end(struct holder *holder)
{
	struct holder_message message = { .version = HOLDER_VERSION, .type = HOLDER_BYE };
	int fd = -1;

	if (!holder)
		return;
	/* It closes when its socket file is gone. A hung one is not waited for. */
	if (holder_message_send(holder->conn, &message, -1) == 0 &&
	    holder_message_receive(holder->conn, ANSWER_MS, &message, &fd) == -EPIPE && holder->child > 0)
		while (waitpid(holder->child, NULL, 0) < 0 && errno == EINTR)
			;
	if (fd >= 0)
		close(fd);
	close(holder->conn);
	free(holder);
}
