/* front/access.c - see access.h. */
#include "front/access.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/vfs.h>

#include <tierfs/access_protocol.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "engine/interrupt.h"
#include "engine/access.h"
#include "engine/away.h"
#include "engine/ramfile.h"
#include "front/server.h"
#include "names/names.h"
#include "pool/token.h"
#include "wire/wire.h"

#define CLIENTS 32
#define CLIENTS_OF_ROOT 16
#define OPEN_SECONDS 5
#define ANSWER_SECONDS 10

/* A call that says which blocks are wanted waits so long for one, in pieces, so that the end of the daemon is noticed.
 */
#define WANTED_PIECES 10
#define WANTED_PIECE_NS (100 * NS_PER_MS)

/* Of the thread of a conversation. */
#define NICE_POLITE 19
#define NICE_URGENT (-15)

#define FLAGS_PACE (TIERFS_ACCESS_POLITE | TIERFS_ACCESS_URGENT)
#define FLAGS_READ \
	(FLAGS_PACE | TIERFS_ACCESS_STORED | TIERFS_ACCESS_ALSO_RESIDENT | TIERFS_ACCESS_NO_PAYLOAD | \
	 TIERFS_ACCESS_MERGE | TIERFS_ACCESS_COMPARE | TIERFS_ACCESS_WAIT | TIERFS_ACCESS_HASH | TIERFS_ACCESS_QUICK)

struct access_server {
	struct access_config config; /* immutable */
	struct server *server;
};

/* One connection; belongs to its thread. */
struct conversation {
	const struct access_config *config;
	int sock;
	struct ramfile *file; /* NULL: not opened yet */
	uint64_t ino;
	uint32_t rights;
	uint64_t supplier; /* 0: it is none */
	const atomic_bool *stopping;
	uint8_t *buffer; /* shared with the client */
	size_t buffer_bytes;
	bool by_root;
	uint32_t pace; /* flags that the thread runs by */
};

/* --- OPEN ------------------------------------------------------------------------------------------------------- */

/* Only a memfd of small pages that cannot shrink may be mapped: nothing that its owner does can raise SIGBUS here. */
static int map_buffer(struct conversation *conversation, int fd, size_t bytes)
{
	struct statfs fs;
	struct stat attr;
	void *at;
	int seals;

	if (bytes < TIERFS_ACCESS_BUFFER_MIN || bytes > TIERFS_ACCESS_BUFFER_MAX || fd < 0)
		return -EINVAL;
	if (fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC || fstat(fd, &attr) < 0 || !S_ISREG(attr.st_mode))
		return -EINVAL;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || (uint64_t)attr.st_size < bytes)
		return -EINVAL;
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	conversation->buffer = at;
	conversation->buffer_bytes = bytes;
	return 0;
}

static int open_file(struct conversation *conversation, const uint8_t token[static TIERFS_TOKEN_LEN])
{
	struct token_grant grant;
	struct ramfile *file;
	int err = token_redeem(conversation->config->tokens, token, &grant);

	if (err)
		return err;
	err = ns_open(conversation->config->ns, grant.ino, &file);
	if (err)
		return err;
	conversation->file = file;
	conversation->ino = grant.ino;
	conversation->rights = grant.rights;
	return 0;
}

static int serve_open(struct conversation *conversation, struct tierfs_access_msg *msg, int fd)
{
	struct ramfile_figures figures;
	uint32_t bytes = msg->u.open.buffer_bytes;
	int err;

	if (conversation->file || msg->u.open.abi_version != TIERFS_ACCESS_ABI)
		return -EPROTO;
	err = map_buffer(conversation, fd, bytes);
	if (!err)
		err = open_file(conversation, msg->u.open.token);
	if (err)
		return err == -EPROTO ? -EIO : err;
	ramfile_figures(conversation->file, &figures);
	msg->type = TIERFS_ACCESS_OPENED;
	memset(&msg->u, 0, sizeof(msg->u));
	msg->u.opened.ino = conversation->ino;
	msg->u.opened.size_bytes = figures.size_bytes;
	msg->u.opened.block_bytes = (uint32_t)figures.block_bytes;
	msg->u.opened.rights = conversation->rights;
	msg->u.opened.stored_max = (uint32_t)access_payload_max(conversation->file);
	return 0;
}

static void fini(struct conversation *conversation)
{
	if (conversation->file)
		away_leave(conversation->file, conversation->supplier);
	if (conversation->file)
		ns_put(conversation->config->ns, conversation->ino);
	if (conversation->buffer)
		munmap(conversation->buffer, conversation->buffer_bytes);
}

/* --- CALL ------------------------------------------------------------------------------------------------------- */

struct operation {
	uint32_t right;
	uint32_t flags;
	bool has_records, has_payload;
};

static const struct operation operations[] = {
	[TIERFS_ACCESS_OP_READ] = { TIERFS_RIGHT_READ, FLAGS_READ, true, true },
	[TIERFS_ACCESS_OP_LIST] = { TIERFS_RIGHT_READ, (FLAGS_READ & ~TIERFS_ACCESS_MERGE) | TIERFS_ACCESS_CHANGED,
				    true, true },
	[TIERFS_ACCESS_OP_WRITE] = { TIERFS_RIGHT_WRITE, FLAGS_PACE | TIERFS_ACCESS_WAIT, true, false },
	[TIERFS_ACCESS_OP_SET] = { TIERFS_RIGHT_WRITE, TIERFS_ACCESS_WAIT, true, false },
	[TIERFS_ACCESS_OP_AGES] = { TIERFS_RIGHT_READ, 0, false, true },
	[TIERFS_ACCESS_OP_WANTED] = { TIERFS_RIGHT_WRITE, 0, true, false },
	[TIERFS_ACCESS_OP_IDENTIFY] = { TIERFS_RIGHT_READ, FLAGS_PACE, true, false },
};

static int check_call(const struct conversation *conversation, const struct tierfs_access_msg *msg)
{
	const struct operation *operation;
	uint64_t records_end = (uint64_t)msg->u.call.records_at +
			       (uint64_t)msg->u.call.records * sizeof(struct tierfs_access_record);
	uint64_t payload_end = (uint64_t)msg->u.call.payload_at + msg->u.call.payload_bytes;
	uint32_t op = msg->u.call.op;

	if (op < TIERFS_ACCESS_OP_READ || op > TIERFS_ACCESS_OP_IDENTIFY)
		return -EINVAL;
	operation = &operations[op];
	if ((conversation->rights & operation->right) == 0)
		return -EACCES;
	if (msg->u.call.flags & ~operation->flags || msg->u.call.records > TIERFS_ACCESS_RECORDS_MAX ||
	    (msg->u.call.records == 0) == operation->has_records || msg->u.call.records_at % 8 ||
	    msg->u.call.payload_at % 8 || (msg->u.call.payload_bytes && !operation->has_payload))
		return -EINVAL;
	if (records_end > conversation->buffer_bytes || payload_end > conversation->buffer_bytes)
		return -EINVAL;
	if (operation->has_records && msg->u.call.payload_bytes && records_end > msg->u.call.payload_at &&
	    payload_end > msg->u.call.records_at)
		return -EINVAL;
	return 0;
}

static void set_pace(struct conversation *conversation, uint32_t pace)
{
	if (!conversation->by_root)
		pace &= ~TIERFS_ACCESS_URGENT;
	if (pace == conversation->pace)
		return;
	conversation->pace = pace;
	setpriority(PRIO_PROCESS, 0, /* of a thread, here */
		    pace & TIERFS_ACCESS_URGENT   ? NICE_URGENT
		    : pace & TIERFS_ACCESS_POLITE ? NICE_POLITE
						  : 0);
}

static int serve_ages(struct conversation *conversation, const struct access_buffer *buffer)
{
	struct tierfs_access_ages ages;

	if (buffer->payload_bytes < sizeof(ages))
		return -EINVAL;
	access_ages(conversation->file, &ages);
	memcpy(conversation->buffer + buffer->payload_at, &ages, sizeof(ages));
	return 0;
}

static int serve_wanted(struct conversation *conversation, const struct access_buffer *buffer, size_t *ret_records,
			uint64_t *ret_away)
{
	size_t most = buffer->records < AWAY_TOLD_MAX ? buffer->records : AWAY_TOLD_MAX, count = 0;
	uint64_t block[AWAY_TOLD_MAX];
	int err = 0;

	for (int i = 0; !err && !count && i < WANTED_PIECES && !atomic_load(conversation->stopping); i++) {
		err = away_wanted(conversation->file, &conversation->supplier, WANTED_PIECE_NS, block, most, &count,
				  ret_away);
		if (!*ret_away)
			break;
	}
	for (size_t i = 0; !err && i < count; i++)
		buffer->record[i] = (struct tierfs_access_record){
			.block = block[i], .count = 1, .state = TIERFS_STATE_COLD, .flags = TIERFS_BLOCK_AWAY
		};
	*ret_records = count;
	return err;
}

static int serve_call(struct conversation *conversation, struct tierfs_access_msg *msg)
{
	uint32_t op = msg->u.call.op, flags = msg->u.call.flags;
	struct access_buffer buffer;
	size_t records = msg->u.call.records;
	uint64_t next_block = 0;
	int err;

	if (!conversation->file)
		return -EPROTO;
	err = check_call(conversation, msg);
	if (err)
		return err;
	buffer = (struct access_buffer){
		.base = conversation->buffer,
		.bytes = conversation->buffer_bytes,
		.record = (struct tierfs_access_record *)(conversation->buffer + msg->u.call.records_at),
		.records = records,
		.payload_at = msg->u.call.payload_at,
		.payload_bytes = msg->u.call.payload_bytes,
	};
	set_pace(conversation, flags & FLAGS_PACE);
	switch ((enum tierfs_access_op)op) {
	case TIERFS_ACCESS_OP_READ:
		err = access_read(conversation->file, flags, msg->u.call.first_block, msg->u.call.count_blocks, &buffer,
				  &records, &next_block);
		break;
	case TIERFS_ACCESS_OP_LIST:
		err = access_read_list(conversation->file, flags, &buffer);
		break;
	case TIERFS_ACCESS_OP_WRITE:
		err = access_write(conversation->file, flags, &buffer);
		break;
	case TIERFS_ACCESS_OP_SET:
		err = access_set(conversation->file, flags, &buffer);
		break;
	case TIERFS_ACCESS_OP_AGES:
		err = serve_ages(conversation, &buffer);
		break;
	case TIERFS_ACCESS_OP_WANTED:
		err = serve_wanted(conversation, &buffer, &records, &next_block);
		break;
	case TIERFS_ACCESS_OP_IDENTIFY:
		err = access_identify(conversation->file, &buffer);
		break;
	}
	if (err)
		return err == -EPROTO ? -EIO : err;
	msg->type = TIERFS_ACCESS_DONE;
	memset(&msg->u, 0, sizeof(msg->u));
	msg->u.done.records = (uint32_t)records;
	msg->u.done.next_block = next_block;
	return 0;
}

/* --- the conversation ------------------------------------------------------------------------------------------- */

static int answer_failed(int sock, struct tierfs_access_msg *msg, int err)
{
	msg->type = TIERFS_ACCESS_FAILED;
	memset(&msg->u, 0, sizeof(msg->u));
	msg->u.failed.code = -err;
	return wire_send_access(sock, msg, -1);
}

/* One packet. An error ends the conversation. */
static int serve_one(struct conversation *conversation)
{
	struct tierfs_access_msg msg = { 0 };
	int fd = -1;
	int err = wire_recv_access(conversation->sock, &msg, &fd);

	if (!err && msg.type == TIERFS_ACCESS_OPEN)
		err = serve_open(conversation, &msg, fd);
	else if (!err)
		err = msg.type == TIERFS_ACCESS_CALL && fd < 0 ? serve_call(conversation, &msg) : -EPROTO;
	else if (err != -EPROTO)
		return err;
	if (fd >= 0)
		close(fd);
	if (!err)
		return wire_send_access(conversation->sock, &msg, -1);
	/* Without a file there is nothing to go on with. */
	if (answer_failed(conversation->sock, &msg, err) || err == -EPROTO || !conversation->file)
		return -EPROTO;
	return 0;
}

/* Cold access waits for no other host. */
static bool do_not_wait(void *arg)
{
	(void)arg;
	return true;
}

void access_serve(const struct access_config *config, int fd, uid_t uid, const atomic_bool *stopping)
{
	struct conversation conversation = { .config = config, .sock = fd, .stopping = stopping, .by_root = uid == 0 };
	struct timeval open_time = { .tv_sec = OPEN_SECONDS }, answer_time = { .tv_sec = ANSWER_SECONDS }, ever = { 0 };
	int err;

	thread_set_slice(THREAD_SLICE_LONG_NS); /* a machine that moves works meanwhile */
	interrupt_on(do_not_wait, NULL);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &open_time, sizeof(open_time));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &answer_time, sizeof(answer_time));
	err = serve_one(&conversation);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &ever, sizeof(ever));
	while (!err && !atomic_load(stopping))
		err = serve_one(&conversation);
	fini(&conversation);
	interrupt_on(NULL, NULL);
}

static void serve(void *arg, int fd, uid_t uid, const atomic_bool *stopping)
{
	const struct access_server *server = arg;

	access_serve(&server->config, fd, uid, stopping);
}

static void refuse(void *arg, int fd, int err, const char *why)
{
	struct tierfs_access_msg msg = { 0 };

	(void)arg;
	log_debug("%s: %s", TIERFS_ACCESS_SOCKET, why);
	answer_failed(fd, &msg, err == -EBUSY ? -EUSERS : err);
}

int access_start(const struct access_config *config, struct access_server **ret)
{
	struct access_server *server = calloc(1, sizeof(*server));
	struct server_config server_config = { .run_dir = config->run_dir,
					       .name = TIERFS_ACCESS_SOCKET,
					       .type = SOCK_SEQPACKET,
					       .clients = CLIENTS,
					       .clients_of_root = CLIENTS_OF_ROOT,
					       .accept_thread = "tierfs-access",
					       .client_thread = "tierfs-reader",
					       .serve = serve,
					       .refuse = refuse,
					       .arg = server,
					       .keeper = config->keeper };
	int err;

	if (!server)
		return -ENOMEM;
	server->config = *config;
	err = server_start(&server_config, &server->server);
	if (err) {
		free(server);
		return err;
	}
	*ret = server;
	return 0;
}

void access_stop(struct access_server *server)
{
	if (!server)
		return;
	server_stop(server->server);
	free(server);
}
