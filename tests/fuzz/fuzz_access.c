/* Cold access as a client may do it: any packets, any content of the shared buffer. Each packet is answered or ends the
 * conversation, and the engine is whole afterwards. An input is a row of steps: a byte that says what, then its data.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <tierfs/access_protocol.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/file.h"
#include "front/access.h"
#include "names/names.h"
#include "policy/tiering.h"
#include "pool/token.h"
#include "wire/wire.h"
#include "lib/lib_ident.h"

#define BLOCK 4096U
#define BLOCKS 32U
#define BUFFER (1U << 20)
#define PAYLOAD_AT 65536U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct scratch scratch;
static struct access_config config = { .run_dir = "/run/x" };
static struct store *store;
static uint64_t ino;
static struct ramfile *file;
static int buffer_fd;
static uint8_t *buffer;
static struct codec *codec;

static void cleanup(void)
{
	scratch_free(&scratch);
}

/* One engine for all inputs: what one leaves behind is the next one's start. */
static void setup(void)
{
	struct engine_config engine_config = { .block_bytes = BLOCK, .dram_bytes = 1 << 20, .level = 1 };
	struct ns_config ns = { .root_mode = 0755 };
	struct ns_setattr change = { .set_size = true, .size_bytes = BLOCKS * BLOCK };
	struct stat attr;

	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	scratch_new(&scratch, "fuzz-access");
	atexit(cleanup);
	engine_config.arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store_mem_new(&store) || token_table_new(&config.tokens) || codec_new(BLOCK, 1, &codec))
		abort();
	engine_config.store = ns.store = store;
	if (tiering_new(&engine_config, &ns.engine))
		abort();
	if (ns_load(&ns, &config.ns) || ns_create(config.ns, NS_ROOT_INO, "vm0", S_IFREG | 0600, 0, 0, &attr) ||
	    ns_setattr(config.ns, attr.st_ino, &change, &attr) || ns_open(config.ns, attr.st_ino, &file))
		abort();
	ino = attr.st_ino;
	buffer_fd = memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (ftruncate(buffer_fd, BUFFER) || fcntl(buffer_fd, F_ADD_SEALS, F_SEAL_SHRINK))
		abort();
	buffer = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_SHARED, buffer_fd, 0);
	if (buffer == MAP_FAILED)
		abort();
}

static void send_open(int sock)
{
	struct tierfs_access_msg msg = { .type = TIERFS_ACCESS_OPEN };

	msg.u.open.abi_version = TIERFS_ACCESS_ABI;
	msg.u.open.buffer_bytes = BUFFER;
	token_issue(config.tokens, (struct token_grant){ ino, TIERFS_RIGHT_READ | TIERFS_RIGHT_WRITE },
		    msg.u.open.token);
	wire_send_access(sock, &msg, buffer_fd);
}

/* A value that is right, for the input to spoil. */
static void put_value(const uint8_t *data)
{
	uint8_t plain[BLOCK] __attribute__((aligned(8)));
	size_t length;

	for (size_t i = 0; i < BLOCK; i++)
		plain[i] = (uint8_t)(data[0] + i % (1 + data[1]));
	plain[0] |= 1;
	codec_encode(codec, (struct store_key){ 0, data[2] % BLOCKS }, (struct codec_hotness){ 0 }, plain,
		     ident_from(1), buffer + PAYLOAD_AT, codec_bound(BLOCK), &length);
}

/* Takes one step from the input; returns how many bytes it was, 0 at the end. */
static size_t step(int sock, const uint8_t *data, size_t size, unsigned int *packets)
{
	struct tierfs_access_msg msg = { .magic = TIERFS_ACCESS_MAGIC, .type = TIERFS_ACCESS_CALL };
	size_t take;

	if (size < 8)
		return 0;
	switch (data[0] % 5) {
	case 0: /* a packet, whatever it says */
		take = size - 1 < sizeof(msg) ? size - 1 : sizeof(msg);
		if (send(sock, data + 1, take, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
			++*packets;
		return 1 + take;
	case 1: /* a call */
		take = size - 1 < sizeof(msg.u.call) ? size - 1 : sizeof(msg.u.call);
		memcpy(&msg.u.call, data + 1, take);
		if (data[0] & 0x80) { /* one that is carried out */
			msg.u.call.op = 1 + msg.u.call.op % 5;
			msg.u.call.flags &= 63;
			msg.u.call.records = 1 + msg.u.call.records % 64;
			msg.u.call.records_at = 0;
			msg.u.call.payload_at = PAYLOAD_AT;
			msg.u.call.payload_bytes = msg.u.call.op <= TIERFS_ACCESS_OP_LIST ? BUFFER - PAYLOAD_AT : 0;
		}
		if (!wire_send_access(sock, &msg, -1))
			++*packets;
		return 1 + take;
	case 2: /* records */
		take = size - 3 < sizeof(struct tierfs_access_record) ? size - 3 : sizeof(struct tierfs_access_record);
		memcpy(buffer + data[1] % 64 * sizeof(struct tierfs_access_record), data + 3, take);
		if (data[2] & 1) {
			struct tierfs_access_record *record = (struct tierfs_access_record *)buffer + data[1] % 64;

			record->block %= BLOCKS + 1;
			record->payload_at = PAYLOAD_AT;
			record->payload_bytes %= BLOCK + 64;
			record->form %= 3;
			record->tier %= 4;
			record->flags &= TIERFS_BLOCK_SET_AGE | TIERFS_BLOCK_TO_DRAM;
		}
		return 3 + take;
	case 3: /* payload */
		take = size - 3 < 64 ? size - 3 : 64;
		memcpy(buffer + PAYLOAD_AT + data[1] + (size_t)data[2] * 16, data + 3, take);
		return 3 + take;
	default:
		put_value(data + 1);
		return 4;
	}
}

static void drain(int sock)
{
	struct tierfs_access_msg msg;

	while (recv(sock, &msg, sizeof(msg), MSG_DONTWAIT) > 0)
		if (msg.magic != TIERFS_ACCESS_MAGIC || msg.type < TIERFS_ACCESS_OPENED ||
		    msg.type > TIERFS_ACCESS_FAILED || msg.type == TIERFS_ACCESS_CALL)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const atomic_bool stopping;
	unsigned int packets = 0;
	size_t took;
	int pair[2];

	if (!file)
		setup();
	if (size > 4096 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return 0;
	if (size && data[0] & 0x40)
		send_open(pair[0]);
	/* All packets are in the socket before the server starts, and the end behind them. */
	while (packets < 16 && (took = step(pair[0], data, size, &packets)) > 0) {
		data += took;
		size -= took;
	}
	shutdown(pair[0], SHUT_WR);
	access_serve(&config, pair[1], 65534, &stopping);
	drain(pair[0]);
	close(pair[0]);
	close(pair[1]);
	file_check(file);
	return 0;
}
