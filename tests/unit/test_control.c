/* The control socket on a real engine with a store in memory: every operation, who may ask, and what bad clients can
 * do.
 *
 * As an ordinary user the cases run that a token decides; those that root decides need root.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <jansson.h>

#include "../lib/lib_scratch.h"
#include "../lib/lib_store_mem.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/write.h"
#include "front/control.h"
#include "front/control_line.h"
#include "names/names.h"
#include "names/shares.h"
#include "policy/tiering.h"
#include "pool/token.h"
#include "lib_check.h"

#define BLOCK 16384U
#define FILE_BYTES (8U * BLOCK)
#define NOBODY 65534U

static struct scratch scratch;
static int arena_dir;
static struct store *store;
static struct engine *engine;
static struct ns *ns;
static struct token_table *tokens;
static struct control *control;
static uint64_t ino;

static int option(void *arg, const char *name, char *buf, size_t cap)
{
	(void)arg;
	if (strcmp(name, "level"))
		return -ENOENT;
	snprintf(buf, cap, "1");
	return 0;
}

static const char *option_name(void *arg, size_t index)
{
	(void)arg;
	return index == 0 ? "level" : index == 1 ? "dram" : NULL;
}

static uint64_t create(const char *name, uid_t uid, char fill)
{
	struct ns_setattr change = { .set_size = true, .size_bytes = FILE_BYTES };
	struct ramfile *file;
	struct stat attr;
	char data[BLOCK];

	ck_assert_int_eq(ns_create(ns, NS_ROOT_INO, name, S_IFREG | 0600, uid, uid, &attr), 0);
	ck_assert_int_eq(ns_setattr(ns, attr.st_ino, &change, &attr), 0);
	ck_assert_int_eq(ns_open(ns, attr.st_ino, &file), 0);
	for (unsigned int i = 0; fill && i < BLOCK; i++)
		data[i] = (char)(fill + i % 7);
	for (unsigned int i = 0; fill && i < 4; i++)
		ck_assert_int_eq(ramfile_write(file, data, BLOCK, (uint64_t)i * BLOCK, false), 0);
	ns_put(ns, attr.st_ino);
	return attr.st_ino;
}

static void start(void)
{
	struct control_config config = {
		.engine = engine,
		.ns = ns,
		.tokens = tokens,
		.store = store,
		.run_dir = scratch.path,
		.mountpoint = "/mnt/ram",
		.pool = "/pool",
		.option = option,
		.option_name = option_name,
	};

	ck_assert_int_eq(control_start(&config, &control), 0);
}

static void setup(void)
{
	struct engine_config engine_config = {
		.block_bytes = BLOCK, .dram_bytes = 64 << 20, .min_idle_ns = NS_PER_S, .level = 1
	};
	struct ns_config ns_config = { .uid = 0, .gid = 0, .root_mode = 0755 };

	scratch_new(&scratch, "control");
	arena_dir = open(scratch.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(arena_dir, 0);
	ck_assert_int_eq(chmod(scratch.path, 0755), 0);
	ck_assert_int_eq(store_mem_new(&store), 0);
	engine_config.store = ns_config.store = store;
	engine_config.arena_dir = arena_dir;
	ck_assert_int_eq(tiering_new(&engine_config, &engine), 0);
	ns_config.engine = engine;
	ck_assert_int_eq(ns_load(&ns_config, &ns), 0);
	ck_assert_int_eq(token_table_new(&tokens), 0);
	ino = create("vm0", NOBODY, 'a');
	create("other \xc3\x28", 0, 0); /* not UTF-8 */
	start();
}

static void teardown(void)
{
	control_stop(control);
	token_table_free(tokens);
	ns_close(ns, NULL, NULL);
	ns_free(ns);
	tiering_free(engine);
	store->ops->free(store);
	close(arena_dir);
	scratch_free(&scratch);
}

/* --- clients ------------------------------------------------------------------------------------------------------ */

/* Connects as that user; only this thread changes. */
static FILE *connect_as(uid_t uid)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", scratch.path, TIERFS_CONTROL_SOCKET);
	if (geteuid() == 0)
		ck_assert_int_eq(syscall(SYS_setresuid, -1, uid, -1), 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	if (uid != 0 && getuid() == 0)
		ck_assert_int_eq(syscall(SYS_setresuid, -1, 0, -1), 0);
	return fdopen(fd, "r+");
}

/* The next line that is a result or an error; pieces and progress are appended to *pieces, if that is wanted. */
static json_t *answer(FILE *stream, json_t *pieces)
{
	char *text = NULL;
	size_t cap = 0;
	json_t *line = NULL;

	while (!line && getline(&text, &cap, stream) > 0) {
		line = json_loads(text, 0, NULL);
		ck_assert_ptr_nonnull(line);
		if (json_object_get(line, "result") || json_object_get(line, "error"))
			break;
		if (pieces)
			json_array_append(pieces, line);
		json_decref(line);
		line = NULL;
	}
	free(text);
	return line;
}

/* Who is refused may be hung up on before it has spoken, and reads why. */
static void say(FILE *stream, const char *line)
{
	send(fileno(stream), line, strlen(line), MSG_NOSIGNAL);
}

static json_t *ask(FILE *stream, const char *request)
{
	say(stream, request);
	say(stream, "\n");
	return answer(stream, NULL);
}

/* Puts a fresh token of the inode into a request with one %s. */
static json_t *ask_with_token(FILE *stream, uint64_t about, uint32_t rights, const char *format)
{
	uint8_t token[TIERFS_TOKEN_LEN];
	char text[2 * TIERFS_TOKEN_LEN + 1], request[512];

	token_issue(tokens, (struct token_grant){ about, rights }, token);
	for (size_t i = 0; i < TIERFS_TOKEN_LEN; i++)
		sprintf(text + 2 * i, "%02x", token[i]);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(request, sizeof(request), format, text);
#pragma GCC diagnostic pop
	return ask(stream, request);
}

static int error_of(json_t *line)
{
	json_t *error = json_object_get(line, "error");
	int code = (int)json_integer_value(json_object_get(error, "errno"));

	if (error)
		ck_assert_ptr_nonnull(json_string_value(json_object_get(error, "text")));
	json_decref(line);
	return code;
}

static long long figure(json_t *line, const char *key)
{
	json_t *value = json_object_get(json_object_get(line, "result"), key);

	ck_assert_msg(json_is_integer(value), "no %s", key);
	return json_integer_value(value);
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

static const char *const stat_keys[] = {
	"path",
	"size_bytes",
	"block_bytes",
	"mapping",
	"mappers",
	"resident_bytes",
	"cold_bytes",
	"hole_bytes",
	"stored_bytes",
	"promotions",
	"demotions",
	"clean_demotions",
	"demotions_aborted",
	"direct_read_bytes",
	"direct_write_bytes",
	"fault_count",
	"fault_p50_ns",
	"fault_p99_ns",
	"errors",
	"waiting_faults",
	"longest_wait_ns",
};

START_TEST(test_stat)
{
	FILE *stream = connect_as(NOBODY);
	json_t *line = ask_with_token(stream, ino, TIERFS_RIGHT_READ, "{\"op\": \"stat\", \"token\": \"%s\"}");

	for (size_t i = 0; i < sizeof(stat_keys) / sizeof(stat_keys[0]); i++)
		ck_assert_msg(json_object_get(json_object_get(line, "result"), stat_keys[i]), "no %s", stat_keys[i]);
	ck_assert_int_eq(figure(line, "size_bytes"), FILE_BYTES);
	ck_assert_int_eq(figure(line, "resident_bytes"), 4 * BLOCK);
	ck_assert_int_eq(figure(line, "hole_bytes"), 4 * BLOCK);
	ck_assert_str_eq(json_string_value(json_object_get(json_object_get(line, "result"), "path")), "/mnt/ram/vm0");
	ck_assert_str_eq(json_string_value(json_object_get(json_object_get(line, "result"), "mapping")), "none");
	json_decref(line);
	/* The same connection again, about the mount. */
	line = ask_with_token(stream, NS_ROOT_INO, TIERFS_RIGHT_READ, "{\"op\": \"stat\", \"token\": \"%s\"}");
	for (size_t i = 0; i < sizeof(stat_keys) / sizeof(stat_keys[0]); i++)
		ck_assert_msg(json_object_get(json_object_get(line, "result"), stat_keys[i]), "no %s", stat_keys[i]);
	ck_assert_int_eq(figure(line, "size_bytes"), 2 * FILE_BYTES);
	ck_assert_int_eq(figure(line, "files"), 2);
	ck_assert_int_eq(figure(line, "dram_bytes"), 64 << 20);
	figure(line, "metadata_bytes");
	ck_assert(json_is_object(json_object_get(json_object_get(line, "result"), "store")));
	json_decref(line);
	fclose(stream);
}
END_TEST

START_TEST(test_ls)
{
	static const char request[] = "{\"op\": \"ls\", \"token\": \"%s\"}";
	FILE *stream = connect_as(NOBODY);
	json_t *line = ask_with_token(stream, NS_ROOT_INO, TIERFS_RIGHT_READ, request), *files, *file;

	files = json_object_get(json_object_get(line, "result"), "files");
	if (getuid() == 0) {
		/* A user sees what he owns. */
		ck_assert_uint_eq(json_array_size(files), 1);
		file = json_array_get(files, 0);
		ck_assert_str_eq(json_string_value(json_object_get(file, "path")), "/vm0");
		ck_assert(json_is_false(json_object_get(file, "lost")));
		ck_assert_int_eq(json_integer_value(json_object_get(file, "uid")), NOBODY);
		json_decref(line);
		fclose(stream);
		stream = connect_as(0);
		line = ask(stream, "{\"op\": \"ls\"}");
		files = json_object_get(json_object_get(line, "result"), "files");
		ck_assert_uint_eq(json_array_size(files), 2);
		/* A name that is not text is shown as well as can be. */
		ck_assert_str_eq(json_string_value(json_object_get(json_array_get(files, 0), "path")), "/other ?(");
	} else {
		ck_assert(json_is_array(files));
	}
	json_decref(line);
	ck_assert_int_eq(error_of(ask_with_token(stream, ino, TIERFS_RIGHT_READ, request)), EINVAL);
	fclose(stream);
}
END_TEST

START_TEST(test_move)
{
	FILE *stream = connect_as(NOBODY);
	json_t *line, *pieces = json_array(), *runs = json_array();

	line = ask_with_token(stream, ino, TIERFS_RIGHT_READ | TIERFS_RIGHT_WRITE,
			      "{\"op\": \"pin\", \"token\": \"%s\", \"offset\": 0, \"length\": 16384}");
	ck_assert_int_eq(figure(line, "pinned_bytes"), BLOCK);
	json_decref(line);
	line = ask_with_token(stream, ino, TIERFS_RIGHT_WRITE, "{\"op\": \"demote\", \"token\": \"%s\"}");
	ck_assert_int_eq(figure(line, "moved_bytes"), 3 * BLOCK);
	ck_assert_int_eq(figure(line, "skipped_bytes"), BLOCK);
	json_decref(line);
	line = ask_with_token(stream, ino, TIERFS_RIGHT_WRITE,
			      "{\"op\": \"promote\", \"token\": \"%s\", \"offset\": 16384, \"length\": 16384}");
	ck_assert_int_eq(figure(line, "moved_bytes"), BLOCK);
	json_decref(line);

	line = ask_with_token(stream, ino, TIERFS_RIGHT_READ, "{\"op\": \"stat\", \"token\": \"%s\"}");
	ck_assert_int_eq(figure(line, "cold_bytes"), 2 * BLOCK);
	ck_assert_int_eq(figure(line, "resident_bytes"), 2 * BLOCK);
	json_decref(line);

	json_decref(
		ask_with_token(stream, ino, TIERFS_RIGHT_WRITE, "{\"op\": \"pin\", \"token\": \"%s\", \"on\": false}"));
	fclose(stream);

	stream = connect_as(NOBODY);
	uint8_t token[TIERFS_TOKEN_LEN];

	token_issue(tokens, (struct token_grant){ ino, TIERFS_RIGHT_READ }, token);
	fprintf(stream, "{\"op\": \"map\", \"token\": \"");
	for (size_t i = 0; i < TIERFS_TOKEN_LEN; i++)
		fprintf(stream, "%02x", token[i]);
	fprintf(stream, "\"}\n");
	fflush(stream);
	line = answer(stream, pieces);
	ck_assert_int_eq(figure(line, "size_bytes"), FILE_BYTES);
	ck_assert_int_eq(figure(line, "block_bytes"), BLOCK);
	for (size_t i = 0; i < json_array_size(pieces); i++)
		json_array_extend(runs, json_object_get(json_array_get(pieces, i), "runs"));
	ck_assert_int_eq(figure(line, "run_count"), (int)json_array_size(runs));
	ck_assert_int_ge((int)json_array_size(runs), 3);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(runs, 0), "state")), "resident");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(runs, json_array_size(runs) - 1), "state")),
			 "hole");
	json_decref(line);
	json_decref(pieces);
	json_decref(runs);
	fclose(stream);
}
END_TEST

START_TEST(test_tokens)
{
	FILE *stream = connect_as(NOBODY);
	uint8_t token[TIERFS_TOKEN_LEN];
	char request[200];
	int used = snprintf(request, sizeof(request), "{\"op\": \"stat\", \"token\": \"");

	token_issue(tokens, (struct token_grant){ ino, TIERFS_RIGHT_READ }, token);
	for (size_t i = 0; i < TIERFS_TOKEN_LEN; i++)
		used += sprintf(request + used, "%02x", token[i]);
	strcpy(request + used, "\"}");
	ck_assert_int_eq(error_of(ask(stream, request)), 0);
	ck_assert_int_eq(error_of(ask(stream, request)), EACCES); /* used up */
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"stat\", \"token\": \"00\"}")), EACCES);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"stat\", \"token\": \"zz112233445566778899aabbccddeeff\"}")),
			 EACCES);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"stat\", \"token\": \"00112233445566778899aabbccddeeff\"}")),
			 EACCES);
	/* A descriptor that reads does not move. */
	ck_assert_int_eq(error_of(ask_with_token(stream, ino, TIERFS_RIGHT_READ,
						 "{\"op\": \"demote\", \"token\": \"%s\"}")),
			 EACCES);
	ck_assert_int_eq(error_of(ask_with_token(stream, ino, TIERFS_RIGHT_WRITE,
						 "{\"op\": \"map\", \"token\": \"%s\"}")),
			 EACCES);
	/* Names are root's. */
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"stat\", \"path\": \"/vm0\"}")), EACCES);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"stat\", \"ino\": 2}")), EACCES);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"stat\"}")), EACCES);
	ck_assert_int_eq(
		error_of(ask_with_token(stream, NS_ROOT_INO, TIERFS_RIGHT_READ,
					"{\"op\": \"set\", \"token\": \"%s\", \"name\": \"dram\", \"value\": \"1G\"}")),
		EPERM);
	fclose(stream);
}
END_TEST

START_TEST(test_requests)
{
	FILE *stream = connect_as(NOBODY);

	ck_assert_int_eq(error_of(ask(stream, "{}")), EINVAL);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": 3}")), EINVAL);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"format\"}")), EOPNOTSUPP);
	ck_assert_int_eq(error_of(ask_with_token(stream, ino, 3,
						 "{\"op\": \"map\", \"token\": \"%s\", \"offset\": -1}")),
			 EINVAL);
	ck_assert_int_eq(error_of(ask_with_token(stream, ino, 3,
						 "{\"op\": \"map\", \"token\": \"%s\", \"length\": \"4K\"}")),
			 EINVAL);
	ck_assert_int_eq(error_of(ask_with_token(stream, ino, 3, "{\"op\": \"pin\", \"token\": \"%s\", \"on\": 1}")),
			 EINVAL);
	ck_assert_int_eq(error_of(ask_with_token(stream, NS_ROOT_INO, 3, "{\"op\": \"demote\", \"token\": \"%s\"}")),
			 EISDIR);
	ck_assert_int_eq(error_of(ask_with_token(stream, 999, 3, "{\"op\": \"stat\", \"token\": \"%s\"}")), ENOENT);
	/* What reaches beyond the end is left out. */
	json_t *line = ask_with_token(
		stream, ino, 3,
		"{\"op\": \"demote\", \"token\": \"%s\", \"offset\": 9223372036854775807, \"length\": 5}");

	ck_assert_int_eq(figure(line, "moved_bytes"), 0);
	json_decref(line);
	fclose(stream);
}
END_TEST

START_TEST(test_root)
{
	FILE *stream = connect_as(0);
	json_t *line = ask(stream, "{\"op\": \"stat\", \"path\": \"/vm0\"}");

	ck_assert_int_eq(figure(line, "ino"), (long long)ino);
	json_decref(line);
	line = ask(stream, "{\"op\": \"stat\", \"path\": \"/\"}");
	ck_assert_int_eq(figure(line, "files"), 2);
	json_decref(line);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"stat\", \"path\": \"/nobody\"}")), ENOENT);
	line = ask(stream, "{\"op\": \"set\", \"name\": \"dram\", \"value\": \"128M\"}");
	ck_assert_str_eq(json_string_value(
				 json_object_get(json_object_get(json_object_get(line, "result"), "options"), "dram")),
			 "128M");
	json_decref(line);
	json_decref(ask(stream, "{\"op\": \"set\", \"name\": \"min_idle\", \"value\": \"2.5\"}"));
	ck_assert_uint_eq(engine_min_idle(engine), 2500 * NS_PER_MS);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"set\", \"name\": \"dram\", \"value\": \"much\"}")), EINVAL);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"set\", \"name\": \"level\", \"value\": \"3\"}")), EBUSY);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"set\", \"name\": \"colour\", \"value\": \"3\"}")), ENOENT);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"set\", \"name\": \"dram\"}")), EINVAL);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"get\", \"name\": \"colour\"}")), ENOENT);
	line = ask(stream, "{\"op\": \"get\"}");
	ck_assert_uint_eq(json_object_size(json_object_get(json_object_get(line, "result"), "options")), 3);
	json_decref(line);
	fclose(stream);
}
END_TEST

/* --- shares ------------------------------------------------------------------------------------------------------- */

static const char *text_of(json_t *line, const char *object, const char *key)
{
	return json_string_value(json_object_get(json_object_get(json_object_get(line, "result"), object), key));
}

static size_t size_of(json_t *line, const char *object)
{
	return json_object_size(json_object_get(json_object_get(line, "result"), object));
}

/* As root, who names it. */
static json_t *set_shares(FILE *stream, uint64_t about, const char *shares)
{
	char request[512];

	snprintf(request, sizeof(request), "{\"op\": \"set\", \"ino\": %llu, \"shares\": %s}",
		 (unsigned long long)about, shares);
	return ask(stream, request);
}

static void refused(FILE *stream, uint64_t about, const char *shares, int code, const char *text)
{
	json_t *line = set_shares(stream, about, shares), *error = json_object_get(line, "error");

	ck_assert_msg(error, "%s was not refused", shares);
	ck_assert_str_eq(json_string_value(json_object_get(error, "text")), text);
	ck_assert_int_eq(error_of(line), code);
}

static uint64_t make_dir(uint64_t parent, const char *name)
{
	struct stat attr;

	ck_assert_int_eq(ns_create(ns, parent, name, S_IFDIR | 0755, NOBODY, NOBODY, &attr), 0);
	return attr.st_ino;
}

START_TEST(test_shares_set)
{
	FILE *stream = connect_as(0);
	uint64_t dir = make_dir(NS_ROOT_INO, "tenant"), below = make_dir(dir, "below");
	json_t *line = set_shares(stream, ino, "{\"dram.min\": \"4M\", \"dram.max\": \"1025K\"}");

	ck_assert_int_eq(error_of(line), EINVAL);
	/* 12345678 has no short form that is exact. */
	line = set_shares(stream, ino, "{\"dram.min\": \"4M\", \"dram.max\": \"12345678\"}");
	ck_assert_str_eq(text_of(line, "shares", "dram.min"), "4M");
	ck_assert_str_eq(text_of(line, "shares", "dram.max"), "12345678");
	ck_assert_uint_eq(size_of(line, "shares"), 2);
	ck_assert_str_eq(text_of(line, "effective", "dram.weight"), "100");
	ck_assert_uint_eq(size_of(line, "effective"), 4);
	ck_assert_uint_eq(size_of(line, "options"), 0);
	json_decref(line);
	line = set_shares(stream, ino, "{\"dram.max\": \"none\"}");
	ck_assert_uint_eq(size_of(line, "shares"), 1);
	ck_assert_uint_eq(size_of(line, "effective"), 3);
	json_decref(line);
	/* A directory below the root, and the root. */
	line = set_shares(stream, dir, "{\"dram.max\": \"32M\", \"dram.weight\": \"1K\"}");
	ck_assert_str_eq(text_of(line, "shares", "dram.weight"), "1000");
	json_decref(line);
	line = set_shares(stream, NS_ROOT_INO, "{\"dram.max\": \"48M\"}");
	ck_assert_str_eq(text_of(line, "shares", "dram.max"), "48M");
	json_decref(line);
	line = ask(stream, "{\"op\": \"get\", \"path\": \"/tenant/below\"}");
	ck_assert_uint_eq(size_of(line, "shares"), 0);
	ck_assert_str_eq(text_of(line, "effective", "dram.max"), "32M");
	ck_assert_str_eq(text_of(line, "effective", "dram.weight"), "100");
	ck_assert_str_eq(text_of(line, "effective", "store"), "default");
	ck_assert_uint_eq(size_of(line, "effective"), 3);
	ck_assert_ptr_null(json_object_get(json_object_get(line, "result"), "options"));
	json_decref(line);
	line = ask(stream, "{\"op\": \"get\", \"path\": \"/vm0\"}");
	ck_assert_str_eq(text_of(line, "effective", "dram.max"), "48M");
	ck_assert_uint_eq(size_of(line, "options"), 3);
	json_decref(line);
	line = ask(stream, "{\"op\": \"get\", \"path\": \"/tenant\", \"name\": \"dram.max\"}");
	ck_assert_uint_eq(json_object_size(json_object_get(line, "result")), 4);
	ck_assert_uint_eq(size_of(line, "shares"), 1);
	ck_assert_uint_eq(size_of(line, "effective"), 1);
	json_decref(line);
	ck_assert_int_eq(error_of(set_shares(stream, below + 100, "{\"dram.max\": \"48M\"}")), ENOENT);
	fclose(stream);
}
END_TEST

START_TEST(test_shares_refused)
{
	FILE *stream = connect_as(0);
	uint64_t dir = make_dir(NS_ROOT_INO, "tenant");
	json_t *line;

	json_decref(set_shares(stream, ino, "{\"dram.min\": \"16M\"}"));
	refused(stream, ino, "{\"dram.foo\": \"1G\"}", ENOENT, "dram.foo: no such share");
	refused(stream, ino, "{\"dram.max\": \"12Q\"}", EINVAL, "dram.max: 12Q: not a value it can have");
	refused(stream, ino, "{\"dram.max\": \"4K\"}", ERANGE, "dram.max: 4K: not a value it can have");
	refused(stream, ino, "{\"dram.weight\": 7}", EINVAL, "dram.weight: its value is a string");
	refused(stream, ino, "{\"disk.min\": \"1G\"}", ENOENT, "disk.min: no such share");
	refused(stream, ino, "{}", EINVAL, "shares is an object with at least one key");
	refused(stream, ino, "7", EINVAL, "shares is an object with at least one key");
	refused(stream, ino, "{\"dram.max\": \"8M\"}", EINVAL, "dram.min: 16M is above dram.max, which is 8M");
	refused(stream, dir, "{\"dram.min\": \"49M\"}", EDQUOT,
		"dram.min: 49M is more than can be promised: 44M are left");
	/* All or nothing, in whatever order. */
	refused(stream, ino, "{\"dram.weight\": \"200\", \"dram.max\": \"x\"}", EINVAL,
		"dram.max: x: not a value it can have");
	refused(stream, dir, "{\"dram.weight\": \"200\", \"dram.min\": \"1G\"}", EDQUOT,
		"dram.min: 1G is more than can be promised: 44M are left");
	line = ask(stream, "{\"op\": \"get\", \"path\": \"/tenant\"}");
	ck_assert_uint_eq(size_of(line, "shares"), 0);
	json_decref(line);
	line = ask(stream, "{\"op\": \"get\", \"path\": \"/vm0\"}");
	ck_assert_uint_eq(size_of(line, "shares"), 1);
	json_decref(line);
	/* What is left is what can be had. */
	ck_assert_int_eq(error_of(set_shares(stream, dir, "{\"dram.min\": \"44M\"}")), 0);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"set\", \"name\": \"dram\", \"value\": \"1G\","
					      " \"shares\": {\"dram.max\": \"1G\"}}")),
			 EINVAL);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"get\", \"name\": \"dram.foo\"}")), ENOENT);
	/* Options are the mount's, and of a directory figures are not told. */
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"get\", \"path\": \"/tenant\", \"name\": \"dram\"}")), EINVAL);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"set\", \"path\": \"/tenant\", \"name\": \"dram\","
					      " \"value\": \"1G\"}")),
			 EINVAL);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"stat\", \"path\": \"/tenant\"}")), EINVAL);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"get\", \"path\": \"/tenant/none\"}")), ENOENT);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"get\", \"path\": \"/vm0/none\"}")), ENOENT);
	ck_assert_int_eq(error_of(ask(stream, "{\"op\": \"get\", \"path\": \"vm0\"}")), ENOENT);
	fclose(stream);
}
END_TEST

/* Who can open it for reading reads its share, and nobody but root sets one. */
START_TEST(test_shares_of_users)
{
	static const char get[] = "{\"op\": \"get\", \"token\": \"%s\"}";
	static const char set[] = "{\"op\": \"set\", \"token\": \"%s\", \"shares\": {\"dram.max\": \"32M\"}}";
	FILE *stream = connect_as(NOBODY);
	uint64_t dir = make_dir(NS_ROOT_INO, "tenant"), left;
	struct shares_change change = { SHARE_DRAM_MAX, 32 << 20 };
	json_t *line;

	ck_assert_int_eq(shares_set(ns, dir, &change, 1, 64 << 20, &left), 0);
	change.value = 16 << 20;
	ck_assert_int_eq(shares_set(ns, ino, &change, 1, 64 << 20, &left), 0);
	line = ask_with_token(stream, dir, TIERFS_RIGHT_READ, get);
	ck_assert_str_eq(text_of(line, "shares", "dram.max"), "32M");
	json_decref(line);
	line = ask_with_token(stream, ino, TIERFS_RIGHT_READ, get);
	ck_assert_str_eq(text_of(line, "effective", "dram.max"), "16M");
	json_decref(line);
	ck_assert_int_eq(error_of(ask_with_token(stream, ino, TIERFS_RIGHT_WRITE, get)), EACCES);
	if (getuid() == 0)
		for (size_t i = 0; i < 3; i++)
			ck_assert_int_eq(error_of(ask_with_token(stream, (uint64_t[]){ ino, dir, NS_ROOT_INO }[i],
								 TIERFS_RIGHT_READ | TIERFS_RIGHT_WRITE, set)),
					 EPERM);
	line = ask_with_token(stream, ino, TIERFS_RIGHT_READ, "{\"op\": \"stat\", \"token\": \"%s\"}");
	ck_assert_int_eq(figure(line, "dram_max_bytes"), 16 << 20);
	ck_assert_int_eq(figure(line, "dram_min_bytes"), 0);
	ck_assert_int_eq(figure(line, "dram_weight"), 100);
	json_decref(line);
	change.value = SHARE_NONE;
	ck_assert_int_eq(shares_set(ns, ino, &change, 1, 64 << 20, &left), 0);
	line = ask_with_token(stream, ino, TIERFS_RIGHT_READ, "{\"op\": \"stat\", \"token\": \"%s\"}");
	ck_assert(json_is_null(json_object_get(json_object_get(line, "result"), "dram_max_bytes")));
	json_decref(line);
	fclose(stream);
}
END_TEST

/* --- what bad clients do ------------------------------------------------------------------------------------------ */

/* Sends bytes and expects one error and the end. */
static void expect_end(const char *bytes, size_t length, int code)
{
	FILE *stream = connect_as(NOBODY);

	fwrite(bytes, 1, length, stream);
	fflush(stream);
	ck_assert_int_eq(error_of(answer(stream, NULL)), code);
	ck_assert_int_eq(fgetc(stream), EOF);
	fclose(stream);
}

START_TEST(test_garbage)
{
	char *long_line = malloc(CONTROL_LINE_MAX + 1);
	FILE *stream;

	expect_end("garbage\n", 8, EBADMSG);
	expect_end("[1, 2]\n", 7, EBADMSG);
	expect_end("{\"op\": \"stat\", \"op\": \"ls\"}\n", 27, EBADMSG);
	expect_end("\0\0\0\n", 4, EBADMSG);
	expect_end("{\"op\": \"\xff\xfe\"}\n", 13, EBADMSG);
	memset(long_line, ' ', CONTROL_LINE_MAX + 1);
	expect_end(long_line, CONTROL_LINE_MAX, EMSGSIZE);
	memset(long_line, '[', CONTROL_LINE_MAX);
	long_line[CONTROL_LINE_MAX - 1] = '\n';
	expect_end(long_line, CONTROL_LINE_MAX, EBADMSG);
	free(long_line);
	/* Half a line, and gone: nobody notices. */
	stream = connect_as(NOBODY);
	fputs("{\"op\"", stream);
	fclose(stream);
	/* Two lines in one packet, and a client that has no more to say. */
	stream = connect_as(NOBODY);
	fputs("{}\n{}\n", stream);
	fflush(stream);
	shutdown(fileno(stream), SHUT_WR);
	ck_assert_int_eq(error_of(answer(stream, NULL)), EINVAL);
	ck_assert_int_eq(error_of(answer(stream, NULL)), EINVAL);
	ck_assert_int_eq(fgetc(stream), EOF);
	fclose(stream);
}
END_TEST

START_TEST(test_many_clients)
{
	FILE *streams[CONTROL_CLIENTS_MAX];
	int served = 0, refused = 0;

	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		streams[i] = connect_as(NOBODY);
		say(streams[i], "{}\n");
	}
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++) {
		int code = error_of(answer(streams[i], NULL));

		served += code == EINVAL;
		refused += code == EBUSY;
	}
	ck_assert_int_eq(served + refused, CONTROL_CLIENTS_MAX);
	/* 4 places are kept for root, and one user gets half of the others. */
	ck_assert_int_eq(refused, 10);
	if (getuid() == 0) {
		FILE *root = connect_as(0), *other = connect_as(NOBODY - 1);

		ck_assert_int_eq(error_of(ask(other, "{}")), EINVAL);
		fclose(other);

		ck_assert_int_eq(error_of(ask(root, "{\"op\": \"stat\"}")), 0);
		fclose(root);
	}
	for (int i = 0; i < CONTROL_CLIENTS_MAX; i++)
		fclose(streams[i]);
	/* Places come back. */
	for (int i = 0, code = EBUSY; code == EBUSY; i++) {
		FILE *stream = connect_as(NOBODY);

		ck_assert_int_lt(i, 1000);
		code = error_of(ask(stream, "{}"));
		fclose(stream);
	}
}
END_TEST

START_TEST(test_stop)
{
	FILE *idle = connect_as(NOBODY), *half = connect_as(NOBODY);
	uint64_t start_ns = clock_ns();

	ck_assert_int_eq(error_of(ask(idle, "{}")), EINVAL);
	fputs("{\"op", half);
	fflush(half);
	control_stop(control);
	ck_assert_uint_lt(clock_ns() - start_ns, 5 * NS_PER_S);
	ck_assert_int_eq(fgetc(idle), EOF);
	fclose(idle);
	fclose(half);
	/* Again on the same directory, as after a crash that left the socket. */
	start();
	control_stop(NULL);
	ck_assert_int_eq(error_of(ask(idle = connect_as(NOBODY), "{}")), EINVAL);
	fclose(idle);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("control");
	TCase *all = tcase_create("all");

	tcase_add_checked_fixture(all, setup, teardown);
	tcase_set_timeout(all, 30);
	tcase_add_test(all, test_stat);
	tcase_add_test(all, test_ls);
	tcase_add_test(all, test_move);
	tcase_add_test(all, test_tokens);
	tcase_add_test(all, test_requests);
	if (getuid() == 0) {
		tcase_add_test(all, test_root);
		tcase_add_test(all, test_shares_set);
		tcase_add_test(all, test_shares_refused);
	}
	tcase_add_test(all, test_shares_of_users);
	tcase_add_test(all, test_garbage);
	tcase_add_test(all, test_many_clients);
	tcase_add_test(all, test_stop);
	suite_add_tcase(suite, all);
	return check_run(suite);
}
