/* wire/wire.h - packets of tierfs/protocol.h and tierfs/access_protocol.h on a socket, with the descriptors that travel
 * with them.
 *
 * Stateless; nothing here allocates. 0 or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <tierfs/access_protocol.h>
#include <tierfs/protocol.h>

#define WIRE_FDS_MAX 4

/* A packet that was received. The descriptors belong to the receiver, unused ones are -1. */
struct wire_packet {
	struct tierfs_msg msg;
	int fds[WIRE_FDS_MAX];
	int fd_count;
};

/* Bytes of a packet of this type (ZAP: with count ranges); 0 for an unknown type. */
size_t wire_length(uint32_t type, uint32_t zap_count);

/* Fills in magic and length and sends, never blocking. -EAGAIN: the socket is full; -EPIPE, -ECONNRESET: the peer is
 * gone. */
int wire_send(int sock, struct tierfs_msg *msg, const int *fds, int fd_count);

/* Receives one packet, never blocking, and checks what can be checked without a state: magic, type, length, counts.
 * -EAGAIN: nothing there; -ECONNRESET: end of file; -EPROTO: a packet that breaks the rules. No descriptor is kept on
 * errors. */
int wire_recv(int sock, struct wire_packet *ret);

/* --- any message with descriptors ----------------------------------------------------------------------------------
 */

/* Room for the descriptors of one message. */
union wire_control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
};

/* Adds descriptors to a message that is about to be sent; none for fd_count 0. control is used until it is sent. */
void wire_put_fds(struct msghdr *head, union wire_control *control, const int *fds, int fd_count);
/* One message. flags as for sendmsg(2) and recvmsg(2). */
int wire_send_bytes(int sock, const void *bytes, size_t length, const int *fds, int fd_count, int flags);
/* Errors as wire_recv(), but for what is in the message, of which *ret_length is the length. fds has room for
 * WIRE_FDS_MAX; those that did not come are -1, and after an error all are closed. */
int wire_recv_bytes(int sock, void *bytes, size_t cap, int *fds, int *fd_count, int flags, size_t *ret_length);

/* Ends a connection so that the peer still reads what was sent to it. A socket that is closed with packets in it that
 * nobody read makes the peer's next recvmsg(2) fail with ECONNRESET, before it sees what is there for it: the reason of
 * a refusal, to one who spoke at once. Only close(2) may follow. */
void wire_hang_up(int sock);

/* Moves a descriptor up, out of the way of programs that expect small numbers. Always returns a usable one. */
int wire_raise_fd(int fd);
void wire_close_fds(struct wire_packet *packet);

/* --- access.sock: these wait, as long as the socket's own timeouts say ----------------------------------------------
 */

/* Fills in magic and sends; fd -1: none. Errors as wire_send(); -EAGAIN: a timeout. */
int wire_send_access(int sock, struct tierfs_access_msg *msg, int fd);
/* *ret_fd: the descriptor that came along, or -1; it belongs to the caller. Errors as wire_recv(); -EPROTO also for
 * more than one descriptor. */
int wire_recv_access(int sock, struct tierfs_access_msg *ret, int *ret_fd);
