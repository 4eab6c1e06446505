/* move/channel.h - where the bytes of a stream come from and go to: a pipe, a TCP connection, or a command's standard
 * input and output. Belongs to one thread. 0 or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct channel {
	int in_fd, out_fd;   /* -1: this direction does not exist */
	int break_fd;        /* of what is no socket: an eventfd; 0 or less: there is none */
	bool two_way;        /* the receiver can answer */
	uint64_t rate_bytes; /* at most so many bytes a second are written; 0: no limit */
	uint64_t written_bytes;
	uint64_t start_ns; /* of the account that rate_bytes limits */
	uint64_t account_bytes;
	bool hurry; /* the limit does not count now */
	pid_t child;
};

#define CHANNEL_WHY_LEN 256

/* Each fills in a channel, or why for a person. */
/* Waits for one connection at HOST:PORT ("[::1]:80", ":0"), and says on stderr where. */
int channel_listen(const char *address, struct channel *ret, char why[static CHANNEL_WHY_LEN]);
int channel_connect(const char *address, struct channel *ret, char why[static CHANNEL_WHY_LEN]);
/* "sh -c COMMAND" with both ends. */
int channel_command(const char *command, struct channel *ret, char why[static CHANNEL_WHY_LEN]);
/* Standard input and output; answer: both are used. */
int channel_standard(bool sending, bool answer, struct channel *ret, char why[static CHANNEL_WHY_LEN]);
/* Takes a closed one. Waits for the command, whose failure is an error: -ECHILD. */
int channel_close(struct channel *channel);
/* Nothing more is written: the other side sees the end. */
void channel_end_writing(struct channel *channel);
/* For another thread: who reads, now or later, sees the end; of what is no socket, -ECANCELED. */
void channel_break(struct channel *channel);

/* A reader_fn and a writer_fn. */
ssize_t channel_read(void *arg, void *buf, size_t length);
int channel_write(void *arg, const void *buf, size_t length);
