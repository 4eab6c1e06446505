/* qmp.c - see qmp.h. */
#include "qmp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

/* A QEMU that does not answer for so long will not. */
#define TIMEOUT_S 30

struct qmp {
	FILE *stream;
	char *line;
	size_t cap;
};

static int set_why(char *why, int err, const char *what, const char *detail)
{
	snprintf(why, QMP_WHY_LEN, "%s: %s", what, detail ? detail : strerror(-err));
	return err;
}

/* The next line that is not an event. */
static int next_answer(struct qmp *qmp, json_t **ret)
{
	for (;;) {
		json_t *line;

		errno = 0;
		if (getline(&qmp->line, &qmp->cap, qmp->stream) < 0)
			return errno ? -errno : -ECONNRESET;
		line = json_loads(qmp->line, 0, NULL);
		if (!line)
			return -EPROTO;
		if (!json_object_get(line, "event")) {
			*ret = line;
			return 0;
		}
		json_decref(line);
	}
}

int qmp_run(struct qmp *qmp, const char *command, json_t *arguments, json_t **ret, char why[static QMP_WHY_LEN])
{
	json_t *request = json_pack("{s:s}", "execute", command), *answer;
	const char *text;
	int err = 0;

	if (arguments)
		json_object_set_new(request, "arguments", arguments);
	if (json_dumpf(request, qmp->stream, JSON_COMPACT) || fputc('\n', qmp->stream) == EOF || fflush(qmp->stream))
		err = -EPIPE;
	json_decref(request);
	if (!err)
		err = next_answer(qmp, &answer);
	if (err)
		return set_why(why, err, command, NULL);
	if (json_object_get(answer, "return")) {
		if (ret)
			*ret = json_incref(json_object_get(answer, "return"));
	} else {
		text = json_string_value(json_object_get(json_object_get(answer, "error"), "desc"));
		err = set_why(why, -EREMOTEIO, command, text ? text : "QEMU says neither yes nor no");
	}
	json_decref(answer);
	return err;
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval timeout = { .tv_sec = TIMEOUT_S };
	CLEANUP_CLOSE int fd = -1;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0)
		return -errno;
	return STEAL_FD(fd);
}

int qmp_open(const char *path, struct qmp **ret, char why[static QMP_WHY_LEN])
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));
	json_t *greeting;
	int fd = -1, err = qmp ? 0 : -ENOMEM;

	if (!err) {
		fd = connect_to(path);
		err = fd < 0 ? fd : 0;
	}
	if (!err) {
		qmp->stream = fdopen(fd, "r+");
		if (!qmp->stream) {
			err = -errno;
			close(fd);
		}
	}
	if (!err)
		err = next_answer(qmp, &greeting);
	if (err) {
		qmp_close(qmp);
		return set_why(why, err, path, NULL);
	}
	json_decref(greeting);
	err = qmp_run(qmp, "qmp_capabilities", NULL, NULL, why);
	if (err) {
		qmp_close(qmp);
		return err;
	}
	*ret = qmp;
	return 0;
}

void qmp_close(struct qmp *qmp)
{
	if (!qmp)
		return;
	if (qmp->stream)
		fclose(qmp->stream);
	free(qmp->line);
	free(qmp);
}
