/* client/access.c - include/tierfs/access.h: the buffer, and one request at a time to the daemon.
 *
 * The buffer is a memfd: records at its start, payload behind them, both in the order in which they were added or come
 * back. It is allocated as it is used, and belongs to this process whatever the daemon does.
 */
#include <tierfs/access.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <tierfs/access_protocol.h>
#include <tierfs/tierfs.h>

#include "client/client.h"
#include "client/client_conn.h"
#include "client/client_filter.h"
#include "client/client_sys.h"
#include "wire/wire.h"

#define EXPORT __attribute__((visibility("default")))
#define PAYLOAD_ALIGN 64U
/* So much of the buffer is for records, at most: a sixteenth holds one for every 640 bytes of payload. */
#define RECORDS_SHARE 16

struct tierfs_access {
	int sock;
	int buffer_fd;
	uint64_t sock_ino, buffer_ino; /* what they are: a program that closes all it does not know closes these, too */
	uint8_t *buffer;
	struct tierfs_access_info info;
	size_t records_cap;
	size_t payload_at; /* behind the records */
	size_t added;      /* requests that wait to be sent */
	size_t used;       /* bytes of payload that belong to them */
	size_t begun;      /* records of the request that is under way */
	uint64_t last_seq;
};

/* --- life ------------------------------------------------------------------------------------------------------- */

/* Takes a new descriptor in: *ret_ino is the number of what it is open to, among its kind. Closes it on an error. */
static int take_in(int fd, int *ret, uint64_t *ret_ino)
{
	struct stat st;
	int raised = wire_raise_fd(fd), err = (int)client_sys(SYS_fstat, raised, &st);

	if (err) {
		close(raised);
		return err;
	}
	*ret = raised;
	*ret_ino = st.st_ino;
	return 0;
}

/* Nothing is sent to, and nothing closed, that has our number by now. */
static bool is_ours(int fd, uint64_t ino)
{
	struct stat st;
	long err = fd < 0 ? -EBADF : client_sys(SYS_fstat, fd, &st);

	return err ? err != -EBADF : st.st_ino == ino;
}

static int make_buffer(struct tierfs_access *access, size_t bytes)
{
	long at, err, fd = client_sys(SYS_memfd_create, "tierfs-access", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return (int)fd;
	err = take_in((int)fd, &access->buffer_fd, &access->buffer_ino);
	if (err)
		return (int)err;
	err = client_sys(SYS_ftruncate, access->buffer_fd, bytes);
	if (!err)
		err = client_sys(SYS_fcntl, access->buffer_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
	if (err)
		return (int)err;
	at = client_sys(SYS_mmap, NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, access->buffer_fd, 0);
	if (at < 0 && at > -4096)
		return (int)at;
	access->buffer = (void *)at;
	access->info.buffer_bytes = (uint32_t)bytes;
	access->records_cap = bytes / RECORDS_SHARE / sizeof(struct tierfs_access_record);
	if (access->records_cap > TIERFS_ACCESS_RECORDS_MAX)
		access->records_cap = TIERFS_ACCESS_RECORDS_MAX;
	access->payload_at = (access->records_cap * sizeof(struct tierfs_access_record) + 4095) & ~(size_t)4095;
	return 0;
}

static int connect_to(struct tierfs_access *access, const struct tierfs_ioc_info *info)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), err;

	if (fd < 0)
		return -errno;
	err = take_in(fd, &access->sock, &access->sock_ino);
	if (err)
		return err;
	snprintf(address.sun_path, sizeof(address.sun_path), "%.*s/%s", TIERFS_RUN_DIR_LEN - 1, info->run_dir,
		 TIERFS_ACCESS_SOCKET);
	if (connect(access->sock, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -ENOTCONN;
	return client_filter_allows_all(CLIENT_FILTER_PEER) && !client_conn_is_trusted(access->sock) ? -EPERM : 0;
}

static int hang_up(struct tierfs_access *access)
{
	if (is_ours(access->sock, access->sock_ino))
		close(access->sock);
	access->sock = -1;
	return -ENOTCONN;
}

static int send_request(struct tierfs_access *access, struct tierfs_access_msg *msg, int fd)
{
	int err;

	if (!is_ours(access->sock, access->sock_ino))
		return hang_up(access);
	msg->seq = ++access->last_seq;
	err = wire_send_access(access->sock, msg, fd);
	/* A refusal may have come before our first packet. */
	return !err || err == -EPIPE ? 0 : hang_up(access);
}

/* Waits for the answer to the last request, of the type expected. */
static int take_answer(struct tierfs_access *access, struct tierfs_access_msg *msg, uint32_t expected)
{
	int came_fd = -1;
	int err;

	if (!is_ours(access->sock, access->sock_ino))
		return hang_up(access);
	err = wire_recv_access(access->sock, msg, &came_fd);
	if (came_fd >= 0)
		close(came_fd);
	if (!err && msg->type == TIERFS_ACCESS_FAILED && msg->u.failed.code > 0)
		return -msg->u.failed.code;
	return !err && msg->type == expected && msg->seq == access->last_seq ? 0 : hang_up(access);
}

static int ask(struct tierfs_access *access, struct tierfs_access_msg *msg, int fd, uint32_t expected)
{
	int err = send_request(access, msg, fd);

	return err ? err : take_answer(access, msg, expected);
}

static int open_at_daemon(struct tierfs_access *access, const struct tierfs_ioc_info *info)
{
	struct tierfs_access_msg msg = { .type = TIERFS_ACCESS_OPEN };
	int err;

	msg.u.open.abi_version = TIERFS_ACCESS_ABI;
	msg.u.open.buffer_bytes = access->info.buffer_bytes;
	memcpy(msg.u.open.token, info->token, TIERFS_TOKEN_LEN);
	err = ask(access, &msg, access->buffer_fd, TIERFS_ACCESS_OPENED);
	if (err)
		return err;
	if (!msg.u.opened.block_bytes)
		return -EPROTO;
	access->info.ino = msg.u.opened.ino;
	access->info.size_bytes = msg.u.opened.size_bytes;
	access->info.block_bytes = msg.u.opened.block_bytes;
	access->info.blocks = (msg.u.opened.size_bytes + msg.u.opened.block_bytes - 1) / msg.u.opened.block_bytes;
	access->info.rights = msg.u.opened.rights;
	access->info.stored_max = msg.u.opened.stored_max;
	return 0;
}

EXPORT int tierfs_access_open(int fd, size_t buffer_bytes, struct tierfs_access **ret)
{
	struct tierfs_ioc_info info;
	struct tierfs_access *access;
	int err = client_info(fd, &info);

	if (err)
		return err;
	if (!buffer_bytes)
		buffer_bytes = TIERFS_ACCESS_BUFFER_DEFAULT;
	buffer_bytes = (buffer_bytes + 4095) & ~(size_t)4095;
	if (buffer_bytes < TIERFS_ACCESS_BUFFER_MIN || buffer_bytes > TIERFS_ACCESS_BUFFER_MAX)
		return -EINVAL;
	access = calloc(1, sizeof(*access));
	if (!access)
		return -ENOMEM;
	access->sock = access->buffer_fd = -1;
	err = make_buffer(access, buffer_bytes);
	if (!err)
		err = connect_to(access, &info);
	/* The connection may wait for another daemon than the one that made the token. */
	if (!err)
		err = client_info(fd, &info);
	if (!err)
		err = open_at_daemon(access, &info);
	if (err) {
		tierfs_access_close(access);
		return err;
	}
	*ret = access;
	return 0;
}

EXPORT void tierfs_access_close(struct tierfs_access *access)
{
	if (!access)
		return;
	if (access->buffer)
		client_sys(SYS_munmap, access->buffer, access->info.buffer_bytes);
	if (is_ours(access->buffer_fd, access->buffer_ino))
		close(access->buffer_fd);
	if (is_ours(access->sock, access->sock_ino))
		close(access->sock);
	free(access);
}

EXPORT const struct tierfs_access_info *tierfs_access_info(const struct tierfs_access *access)
{
	return &access->info;
}

EXPORT int tierfs_access_buffer_fd(const struct tierfs_access *access)
{
	return access->buffer_fd;
}

EXPORT const void *tierfs_access_payload(const struct tierfs_access *access, const struct tierfs_access_record *record)
{
	size_t at = record->payload_at, bytes = record->payload_bytes;

	if (!bytes || bytes > access->info.buffer_bytes || at > access->info.buffer_bytes - bytes)
		return NULL;
	return access->buffer + at;
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static struct tierfs_access_record *records(const struct tierfs_access *access)
{
	return (struct tierfs_access_record *)access->buffer;
}

static struct tierfs_access_msg call_of(enum tierfs_access_op op, uint32_t flags)
{
	struct tierfs_access_msg msg = { .type = TIERFS_ACCESS_CALL };

	msg.u.call.op = op;
	msg.u.call.flags = flags;
	return msg;
}

static void offer_payload(const struct tierfs_access *access, struct tierfs_access_msg *msg)
{
	msg->u.call.payload_at = (uint32_t)access->payload_at;
	msg->u.call.payload_bytes = (uint32_t)(access->info.buffer_bytes - access->payload_at);
}

/* As many as the buffer takes. */
static int ask_for_records(struct tierfs_access *access, struct tierfs_access_msg *msg,
			   struct tierfs_access_answer *ret)
{
	int err;

	msg->u.call.records = (uint32_t)access->records_cap;
	err = ask(access, msg, -1, TIERFS_ACCESS_DONE);
	if (err)
		return err;
	if (msg->u.done.records > access->records_cap)
		return -EPROTO;
	*ret = (struct tierfs_access_answer){ .record = records(access), .count = msg->u.done.records };
	return 0;
}

EXPORT int tierfs_access_read(struct tierfs_access *access, uint64_t first, uint64_t count, uint32_t flags,
			      struct tierfs_access_answer *ret)
{
	struct tierfs_access_msg msg = call_of(TIERFS_ACCESS_OP_READ, flags);
	int err;

	if (access->added)
		return -EINVAL;
	msg.u.call.first_block = first;
	msg.u.call.count_blocks = count;
	offer_payload(access, &msg);
	err = ask_for_records(access, &msg, ret);
	if (!err)
		ret->next_block = msg.u.done.next_block;
	return err;
}

static uint8_t *room_at(const struct tierfs_access *access, size_t bytes)
{
	size_t room = access->info.buffer_bytes - access->payload_at;

	if (access->used > room || bytes > room - access->used)
		return NULL;
	return access->buffer + access->payload_at + access->used;
}

EXPORT void *tierfs_access_room(struct tierfs_access *access, size_t bytes)
{
	return room_at(access, bytes);
}

EXPORT int tierfs_access_add(struct tierfs_access *access, const struct tierfs_access_record *record,
			     const void *payload)
{
	struct tierfs_access_record request = { .block = record->block,
						.ident = record->ident,
						.count = 1,
						.generation = record->generation,
						.tier = record->tier,
						.form = record->form,
						.flags = record->flags };
	uint8_t *room;

	if (access->added == access->records_cap)
		return -ENOBUFS;
	if (record->form != TIERFS_FORM_NONE && record->form != TIERFS_FORM_AWAY) {
		room = room_at(access, record->payload_bytes);
		if (!room)
			return -ENOBUFS;
		if (payload != room)
			memcpy(room, payload, record->payload_bytes);
		request.payload_at = (uint32_t)(room - access->buffer);
		request.payload_bytes = record->payload_bytes;
		access->used += (record->payload_bytes + PAYLOAD_ALIGN - 1) & ~(size_t)(PAYLOAD_ALIGN - 1);
	}
	records(access)[access->added++] = request;
	return 0;
}

EXPORT size_t tierfs_access_added(const struct tierfs_access *access)
{
	return access->added;
}

EXPORT void tierfs_access_drop(struct tierfs_access *access)
{
	access->added = access->used = 0;
}

/* Sends what was added. */
static int begin(struct tierfs_access *access, enum tierfs_access_op op, uint32_t flags)
{
	struct tierfs_access_msg msg = call_of(op, flags);

	access->begun = access->added;
	tierfs_access_drop(access);
	if (!access->begun)
		return -ENODATA;
	msg.u.call.records = (uint32_t)access->begun;
	if (op == TIERFS_ACCESS_OP_LIST)
		offer_payload(access, &msg);
	return send_request(access, &msg, -1);
}

EXPORT int tierfs_access_end(struct tierfs_access *access, struct tierfs_access_answer *ret)
{
	struct tierfs_access_msg msg;
	int err = take_answer(access, &msg, TIERFS_ACCESS_DONE);

	if (!err)
		*ret = (struct tierfs_access_answer){ .record = records(access), .count = access->begun };
	return err;
}

EXPORT int tierfs_access_begin_read_list(struct tierfs_access *access, uint32_t flags)
{
	return begin(access, TIERFS_ACCESS_OP_LIST, flags);
}

EXPORT int tierfs_access_begin_write(struct tierfs_access *access, uint32_t flags)
{
	return begin(access, TIERFS_ACCESS_OP_WRITE, flags);
}

/* Both halves; of nothing, nothing. */
static int do_added(struct tierfs_access *access, enum tierfs_access_op op, uint32_t flags,
		    struct tierfs_access_answer *ret)
{
	int err = begin(access, op, flags);

	if (err == -ENODATA) {
		*ret = (struct tierfs_access_answer){ .record = records(access) };
		return 0;
	}
	return err ? err : tierfs_access_end(access, ret);
}

EXPORT int tierfs_access_read_list(struct tierfs_access *access, uint32_t flags, struct tierfs_access_answer *ret)
{
	return do_added(access, TIERFS_ACCESS_OP_LIST, flags, ret);
}

EXPORT int tierfs_access_write(struct tierfs_access *access, uint32_t flags, struct tierfs_access_answer *ret)
{
	return do_added(access, TIERFS_ACCESS_OP_WRITE, flags, ret);
}

EXPORT int tierfs_access_set(struct tierfs_access *access, uint32_t flags, struct tierfs_access_answer *ret)
{
	return do_added(access, TIERFS_ACCESS_OP_SET, flags, ret);
}

EXPORT int tierfs_access_identify(struct tierfs_access *access, struct tierfs_access_answer *ret)
{
	return do_added(access, TIERFS_ACCESS_OP_IDENTIFY, 0, ret);
}

EXPORT int tierfs_access_ages(struct tierfs_access *access, struct tierfs_access_ages *ret)
{
	struct tierfs_access_msg msg = call_of(TIERFS_ACCESS_OP_AGES, 0);
	int err;

	if (access->added)
		return -EINVAL;
	offer_payload(access, &msg);
	err = ask(access, &msg, -1, TIERFS_ACCESS_DONE);
	if (!err)
		memcpy(ret, access->buffer + access->payload_at, sizeof(*ret));
	return err;
}

EXPORT int tierfs_access_wanted(struct tierfs_access *access, struct tierfs_access_answer *ret)
{
	struct tierfs_access_msg msg = call_of(TIERFS_ACCESS_OP_WANTED, 0);
	int err;

	if (access->added)
		return -EINVAL;
	err = ask_for_records(access, &msg, ret);
	if (!err)
		ret->away_blocks = msg.u.done.next_block;
	return err;
}

EXPORT const char *tierfs_access_result_name(unsigned int result)
{
	static const char *const names[] = {
		[TIERFS_ACCESS_READ_OK] = "READ_OK", [TIERFS_ACCESS_WRITE_OK] = "WRITE_OK",
		[TIERFS_ACCESS_SET_OK] = "SET_OK",   [TIERFS_ACCESS_RESIDENT] = "RESIDENT",
		[TIERFS_ACCESS_HOLE] = "HOLE",       [TIERFS_ACCESS_BUSY] = "BUSY",
		[TIERFS_ACCESS_ERROR] = "ERROR",
	};

	return result < sizeof(names) / sizeof(names[0]) && names[result] ? names[result] : "?";
}
