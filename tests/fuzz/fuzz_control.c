/* Lines of the control socket, as root sends them, so that every operation is within reach: each is answered, and the
 * engine is whole afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <jansson.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/log.h"
#include "engine/engine.h"
#include "front/control_line.h"
#include "front/control_ops.h"
#include "names/names.h"
#include "policy/tiering.h"
#include "pool/token.h"

#define BLOCK 4096U
#define REQUESTS_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct scratch scratch;
static struct control_config config = { .run_dir = "/run/x", .mountpoint = "/mnt", .pool = "/pool" };

static void cleanup(void)
{
	scratch_free(&scratch);
}

/* One engine for all inputs: what one leaves behind is the next one's start. */
static void setup(void)
{
	struct engine_config engine = { .block_bytes = BLOCK, .dram_bytes = 1 << 20, .level = 1 };
	struct ns_config ns = { .root_mode = 0755 };
	struct ns_setattr change = { .set_size = true, .size_bytes = 64 * BLOCK };
	struct stat attr;

	log_init(LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	scratch_new(&scratch, "fuzz-control");
	atexit(cleanup);
	engine.arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store_mem_new(&config.store) || token_table_new(&config.tokens))
		abort();
	engine.store = ns.store = config.store;
	if (tiering_new(&engine, &config.engine))
		abort();
	ns.engine = config.engine;
	if (ns_load(&ns, &config.ns) || ns_create(config.ns, NS_ROOT_INO, "vm0", S_IFREG | 0600, 0, 0, &attr) ||
	    ns_setattr(config.ns, attr.st_ino, &change, &attr))
		abort();
}

static void drain(int fd)
{
	char buf[65536];

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

static int serve_one(struct control_line *line)
{
	static atomic_bool stopping;
	struct control_request request = { .config = &config, .line = line, .stopping = &stopping };
	json_t *result = NULL;
	int err = control_line_read(line, &request.params);

	if (err)
		return err;
	err = control_ops_run(&request, &result);
	if ((err == 0) != (result != NULL) || err > 0)
		abort();
	json_decref(result);
	json_decref(request.params);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct control_line line;
	int pair[2];

	if (!config.ns)
		setup();
	if (size > CONTROL_LINE_MAX || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return 0;
	if (send(pair[0], data, size, MSG_DONTWAIT) >= 0 && !shutdown(pair[0], SHUT_WR) &&
	    !control_line_init(&line, pair[1])) {
		for (int i = 0; i < REQUESTS_MAX && !serve_one(&line); i++)
			drain(pair[0]);
		control_line_fini(&line);
	}
	close(pair[0]);
	close(pair[1]);
	return 0;
}
