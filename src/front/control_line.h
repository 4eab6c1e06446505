/* front/control_line.h - lines of JSON on a stream socket, with limits on everything the peer may do.
 *
 * A line is at most CONTROL_LINE_MAX bytes and must arrive within a deadline; a line that the peer does not take is
 * given up after another. Belongs to one thread. 0 or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

struct control_line {
	int fd;      /* borrowed */
	char *buf;   /* CONTROL_LINE_MAX bytes, owned */
	size_t used; /* received bytes that no line was made of yet */
};

int control_line_init(struct control_line *line, int fd);
void control_line_fini(struct control_line *line);

/* The next line as a JSON object (a new reference). -ECONNRESET: end of file; -ETIMEDOUT: nothing, or half a line, for
 * too long; -EMSGSIZE: too long a line; -EBADMSG: not a JSON object, or bytes that are not UTF-8. */
int control_line_read(struct control_line *line, json_t **ret);

/* Sends the object as one line; takes the reference over, also on errors. -EPIPE: the peer has gone; -ETIMEDOUT: it
 * does not read; -ENOMEM, also for object NULL. */
int control_line_write(struct control_line *line, json_t *object);

/* False once the peer has closed the connection. */
bool control_line_alive(const struct control_line *line);
