/* tests/lib/move_pair.h - two pools of fake_access.h, a file in each, and what moves the one to the other: each end on
 * a thread of its own, over a pair of sockets or a pipe. Header only, as fake_access.h is.
 */
#pragma once

#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include "lib/fake_access.h"
#include "lib/lib_scratch.h"
#include "move/receiver.h"
#include "move/rest.h"
#include "move/sender.h"

#define BLOCK 4096U

static struct scratch scratch;
static char source_path[SCRATCH_PATH_LEN + 32], target_path[SCRATCH_PATH_LEN + 32], partial_path[SCRATCH_PATH_LEN + 48];

struct move {
	struct source source;
	struct sender sender;
	struct receiver receiver;
	struct rest_server server;
	struct rest_fetcher fetcher;
	struct channel out, in; /* of sender and receiver */
	int sent, received;
	bool rest, rest_only;  /* after a post-copy: the rest, too, or alone */
	void (*between)(void); /* before the rest */
};

/* --- files ------------------------------------------------------------------------------------------------------- */

static inline void pair_setup_blocks(uint32_t source_block, uint32_t target_block)
{
	char dir[SCRATCH_PATH_LEN + 8];

	signal(SIGPIPE, SIG_IGN);
	scratch_new(&scratch, "move");
	memset(fake.file, 0, sizeof(fake.file));
	memset(fake.fault, 0, sizeof(fake.fault));
	fake.hook = NULL;
	for (unsigned int i = 0; i < 2; i++) {
		snprintf(dir, sizeof(dir), "%s/%c", scratch.path, i ? 'b' : 'a');
		ck_assert_int_eq(mkdir(dir, 0700), 0);
		fake_pool_init(i, dir, i ? target_block : source_block);
	}
	snprintf(source_path, sizeof(source_path), "%s/a/vm", scratch.path);
	snprintf(target_path, sizeof(target_path), "%s/b/vm", scratch.path);
	snprintf(partial_path, sizeof(partial_path), "%s.partial", target_path);
}

static inline void pair_setup(void)
{
	pair_setup_blocks(BLOCK, BLOCK);
}

static inline void pair_teardown(void)
{
	scratch_free(&scratch);
}

static inline void make_file(const char *path, uint64_t size_bytes)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)size_bytes), 0);
	close(fd);
}

/* Content number `seed` of a block: random, text that can be compressed, or a pattern. 0: zeros. */
static inline void make_content(uint64_t seed, uint8_t *plain, size_t bytes)
{
	uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;

	memset(plain, 0, bytes);
	for (size_t i = 0; seed && i < bytes; i += sizeof(state)) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		if (seed % 3 == 0 || (seed % 3 == 1 && i % 64))
			state = seed * UINT64_C(0x0101010101010101);
		memcpy(plain + i, &state, sizeof(state));
	}
}

/* Not under the mutex of fake: who has it calls set_block_of(). */
static inline void set_block_of(struct fake_file *file, int fd, uint64_t block, struct fake_block at, uint64_t seed)
{
	static _Thread_local uint8_t plain[2 << 20];

	if (at.state == TIERFS_STATE_HOLE) {
		fake_make_hole(file, fd, block);
		return;
	}
	make_content(at.away ? 0 : seed, plain, file->pool->block_bytes);
	fake_put(file, fd, block, plain);
	file->block[block] = at;
}

static inline void set_block(const char *path, uint64_t block, enum tierfs_access_state state, uint8_t generation,
			     uint64_t seed)
{
	struct fake_block at = { .state = (uint8_t)state, .generation = generation, .tier = generation % 4 };
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct fake_file *file;

	pthread_mutex_lock(&fake.mutex);
	file = fake_file_of(fd);
	fake_must(file);
	set_block_of(file, fd, block, at, seed);
	pthread_mutex_unlock(&fake.mutex);
	close(fd);
}

/* Holes, cold and resident blocks in turns, of all ages; the end is odd. */
static inline void make_mixed(const char *path, uint64_t blocks, uint64_t seed)
{
	make_file(path, blocks * BLOCK - 1000);
	for (uint64_t block = 0; block < blocks; block++)
		set_block(path, block, (block / 3) % 3, (uint8_t)(block * 7), seed + block);
}

static inline struct fake_file *file_at(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct fake_file *file;

	ck_assert_int_ge(fd, 0);
	file = fake_file_of(fd);
	close(fd);
	ck_assert_ptr_nonnull(file);
	return file;
}

static inline uint8_t *read_file(const char *path, size_t *ret_bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *bytes;
	struct stat st;

	ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
	ck_assert_int_eq(fstat(fd, &st), 0);
	bytes = malloc((size_t)st.st_size + 1);
	ck_assert(bytes != NULL && pread(fd, bytes, (size_t)st.st_size, 0) == st.st_size);
	close(fd);
	*ret_bytes = (size_t)st.st_size;
	return bytes;
}

static inline void expect_same_content(const char *path, const char *other_path)
{
	size_t bytes, other_bytes;
	uint8_t *content = read_file(path, &bytes), *other = read_file(other_path, &other_bytes);

	ck_assert_uint_eq(bytes, other_bytes);
	for (size_t i = 0; i < bytes; i++)
		if (content[i] != other[i])
			ck_abort_msg("%s: byte %zu (block %zu) differs", other_path, i, i / BLOCK);
	free(content);
	free(other);
}

/* And where the blocks are, and how old. */
static inline void expect_same(const char *path, const char *other_path, uint64_t blocks)
{
	const struct fake_file *file = file_at(path), *other = file_at(other_path);

	expect_same_content(path, other_path);
	for (uint64_t block = 0; block < blocks; block++) {
		const struct fake_block *a = &file->block[block], *b = &other->block[block];

		ck_assert_msg(a->state == b->state && a->generation == b->generation && a->tier == b->tier && !b->away,
			      "block %llu: state %d, age %d/%d is %d, %d/%d%s", (unsigned long long)block, a->state,
			      a->generation, a->tier, b->state, b->generation, b->tier, b->away ? ", away" : "");
	}
}

static inline uint64_t count_blocks(const char *path, enum tierfs_access_state state, bool away)
{
	const struct fake_file *file = file_at(path);
	uint64_t count = 0;

	for (uint64_t block = 0; block < FAKE_BLOCKS; block++)
		count += file->block[block].state == state && file->block[block].away == away;
	return count;
}

/* --- moving ------------------------------------------------------------------------------------------------------ */

static inline void pair_close(struct channel *channel)
{
	int out_fd = channel->out_fd;

	if (out_fd >= 0 && out_fd != channel->in_fd)
		close(out_fd);
	channel_close(channel);
}

static inline void *pair_receive(void *arg)
{
	struct move *move = arg;

	move->received = move->rest_only ? 0 : receiver_run(&move->receiver);
	if (!move->received && (move->rest_only || (move->receiver.post_copy && move->rest)))
		move->received = rest_fetch(&move->fetcher);
	pair_close(&move->in);
	return NULL;
}

static inline void *pair_send(void *arg)
{
	struct move *move = arg;

	move->sent = move->rest_only ? 0 : sender_talk(&move->sender);
	if (!move->sent && move->between)
		move->between(); /* the receiver is waiting for the header */
	if (!move->sent && (move->rest_only || (move->sender.post_copy && move->rest)))
		move->sent = rest_serve(&move->server);
	pair_close(&move->out);
	return NULL;
}

/* What is asked for may be changed between move_init() and move_run(). */
static inline void move_init(struct move *move, bool two_way)
{
	const char *what = NULL;
	int fds[2];

	memset(move, 0, sizeof(*move));
	if (two_way) {
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		move->out = (struct channel){ .in_fd = fds[0], .out_fd = fds[0], .two_way = true };
		move->in = (struct channel){ .in_fd = fds[1], .out_fd = fds[1], .two_way = true };
	} else {
		ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
		move->out = (struct channel){ .in_fd = -1, .out_fd = fds[1] };
		move->in = (struct channel){ .in_fd = fds[0], .out_fd = -1 };
	}
	ck_assert_int_eq(source_open(source_path, false, &move->source, &what), 0);
	move->sender = (struct sender){ .source = &move->source, .channel = &move->out };
	move->receiver.path = target_path;
	move->receiver.channel = &move->in;
	move->server = (struct rest_server){ .source = &move->source, .channel = &move->out };
	move->fetcher = (struct rest_fetcher){ .path = target_path, .channel = &move->in };
}

static inline void move_run(struct move *move)
{
	pthread_t sender, receiver;

	ck_assert_int_eq(pthread_create(&receiver, NULL, pair_receive, move), 0);
	ck_assert_int_eq(pthread_create(&sender, NULL, pair_send, move), 0);
	pthread_join(sender, NULL);
	pthread_join(receiver, NULL);
}

static inline void move_fini(struct move *move)
{
	sender_fini(&move->sender);
	receiver_fini(&move->receiver);
	source_close(&move->source);
}

static inline void move_must(struct move *move)
{
	move_run(move);
	ck_assert_msg(!move->sent && !move->received, "sender: %d %s %s, receiver: %d %s %s", move->sent,
		      move->sender.why, move->server.why, move->received, move->receiver.why, move->fetcher.why);
}

static inline void move_once(bool two_way)
{
	struct move move;

	move_init(&move, two_way);
	move_must(&move);
	move_fini(&move);
}

/* A hook: the connection of hook_breaks ends once the first pool was asked hook_after times. */
static uint64_t hook_after;
static struct move *hook_breaks;

static int break_off(enum fake_op op, struct fake_file *file, uint64_t block)
{
	(void)block;
	if (op == FAKE_LIST && file->pool == &fake.pool[0] && hook_after-- == 0)
		shutdown(hook_breaks->out.in_fd, SHUT_RDWR);
	return 0;
}
