/* fault/test_store_crash.c - kill -9 in the middle of everything: what the store acknowledged is there afterwards.
 *
 * A child puts, removes and syncs at random, and says over a pipe what it begins and what was acknowledged. The parent
 * kills it at a random moment; another child opens the store and compares it with what was acknowledged. A change that
 * was begun and not acknowledged may be there or not, item by item. Segments are small, so the collector is at work all
 * the time.
 *
 * All of it once with the store alone, and once with a small warm store in front of it.
 *
 * The parent never opens the store itself: the database's threads would not survive the next fork. TIERFS_SEED repeats
 * a run.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../lib/lib_scratch.h"
#include "base/clock.h"
#include "cold/meta.h"
#include "cold/store_rocks.h"
#include "cold/warm.h"
#include "lib_check.h"

#define ROUNDS 20
#define BLOCKS 3000U
#define BATCH_MAX 96U
#define INO 5U
#define VALUE_MAX 6000U
#define METAS 16U

/* What the store must hold: the version of each block, 0 is none. Shared with the children. */
struct model {
	uint32_t version[BLOCKS];
	uint32_t maybe[BLOCKS]; /* of the change that was under way; equal to version if it does not touch the block */
	uint32_t meta[METAS], meta_maybe[METAS];
	char wrong[256];
};

enum step_kind { STEP_PUT, STEP_REMOVE, STEP_META, STEP_SYNC };

/* Everything a step does follows from the seed and its number, so parent and child agree without talking. */
struct step {
	enum step_kind kind;
	uint32_t first, count;
	uint32_t block[BATCH_MAX];
	uint32_t version;
};

static uint64_t seed;
static struct scratch scratch;
static bool warm;                            /* the store has a warm one in front */
static char dir[SCRATCH_PATH_LEN + 16];      /* of the store */
static char warm_dir[SCRATCH_PATH_LEN + 16]; /* of the warm one */

static uint64_t mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

static void make_step(uint32_t number, struct step *step)
{
	uint64_t state = mix(seed ^ mix(number));
	unsigned int dice = (unsigned int)(state % 400);

	step->version = number;
	step->kind = dice < 350 ? STEP_PUT : dice < 375 ? STEP_REMOVE : dice < 398 ? STEP_META : STEP_SYNC;
	step->count = 1 + (uint32_t)(mix(state) % BATCH_MAX);
	step->first = (uint32_t)(mix(state + 1) % BLOCKS);
	if (step->kind == STEP_REMOVE && dice >= 370)
		step->count *= 10;
	if (step->kind == STEP_REMOVE && step->count > BLOCKS - step->first)
		step->count = BLOCKS - step->first;
	for (uint32_t i = 0; step->kind == STEP_PUT && i < step->count; i++) /* half of them runs, half scattered */
		step->block[i] = (number & 1 ? step->first + i : (uint32_t)mix(state + 2 + i)) % BLOCKS;
}

static uint32_t value_of(uint32_t block, uint32_t version, uint8_t *at)
{
	uint64_t state = mix(((uint64_t)block << 32 | version) ^ seed);
	uint32_t len = 16 + (uint32_t)(state % (VALUE_MAX - 16));

	memcpy(at, &block, 4);
	memcpy(at + 4, &version, 4);
	for (uint32_t i = 8; i < len; i++)
		at[i] = (uint8_t)(state >> (i % 7 * 8)) + (uint8_t)i;
	return len;
}

static struct store *cover(struct store *below)
{
	struct store_warm_config config = {
		.below = below,
		.dir_fd = open(warm_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		.bytes = WARM_BYTES_MIN,
		.block_bytes = 16384,
	};
	struct store *store;

	if (store_warm_open(&config, &store) < 0)
		_exit(7);
	return store;
}

static struct store *open_store(bool create)
{
	struct store_rocks_config config = {
		.dir = dir,
		.create = create,
		.block_bytes = 16384,
		.write_buffer_bytes = 256 << 10,
		.segment_bytes = 1 << 20,
	};
	struct store *store;

	if (store_rocks_open(&config, &store) < 0)
		_exit(3);
	return warm ? cover(store) : store;
}

/* --- the child that changes --- */

static int do_put(struct store *store, const struct step *step)
{
	static uint8_t values[BATCH_MAX][VALUE_MAX];
	struct store_item items[BATCH_MAX];

	for (uint32_t i = 0; i < step->count; i++)
		items[i] = (struct store_item){ { INO, step->block[i] },
						values[i],
						value_of(step->block[i], step->version, values[i]) };
	return store->ops->put(store, STORE_DEMOTION, items, step->count);
}

static int do_meta(struct store *store, const struct step *step)
{
	char key[16], value[16];
	uint32_t slot = step->first % METAS;
	struct meta_change change = {
		key,
		(size_t)snprintf(key, sizeof(key), "k%u", slot),
		value,
		(size_t)snprintf(value, sizeof(value), "%u", step->version),
	};

	return store->meta->put(store, &change, 1, step->version % 64 == 0);
}

static int do_step(struct store *store, const struct step *step)
{
	switch (step->kind) {
	case STEP_PUT:
		return do_put(store, step);
	case STEP_REMOVE:
		return store->ops->remove(store, INO, step->first, step->count);
	case STEP_META:
		return do_meta(store, step);
	case STEP_SYNC:
		return store->ops->sync(store);
	}
	return -EINVAL;
}

static void changing_child(int pipe_fd, uint32_t number, bool create)
{
	struct store *store = open_store(create);

	for (;; number++) {
		struct step step;

		make_step(number, &step);
		if (do_step(store, &step) < 0)
			_exit(4);
		if (write(pipe_fd, &number, sizeof(number)) != sizeof(number))
			_exit(5);
	}
}

/* --- the model --- */

static void apply(const struct step *step, uint32_t *version, uint32_t *meta)
{
	switch (step->kind) {
	case STEP_PUT:
		for (uint32_t i = 0; i < step->count; i++)
			version[step->block[i]] = step->version;
		break;
	case STEP_REMOVE:
		for (uint32_t i = 0; i < step->count; i++)
			version[step->first + i] = 0;
		break;
	case STEP_META:
		meta[step->first % METAS] = step->version;
		break;
	case STEP_SYNC:
		break;
	}
}

/* --- the child that looks --- */

static void wrong(struct model *model, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void wrong(struct model *model, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(model->wrong, sizeof(model->wrong), format, args);
	va_end(args);
	_exit(6);
}

/* What is there must be the one or the other; from then on it is known. */
static uint32_t check_block(struct store *store, struct model *model, uint32_t block)
{
	uint8_t got[VALUE_MAX + 1], want[VALUE_MAX];
	uint32_t version = 0, len;
	size_t got_len = 0;
	int r = store->ops->get(store, STORE_GUEST, (struct store_key){ INO, block }, got, sizeof(got), &got_len);

	if (r == 0)
		memcpy(&version, got + 4, 4);
	else if (r != -ENOENT)
		wrong(model, "block %u: %s", block, strerror(-r));
	if (version != model->version[block] && version != model->maybe[block])
		wrong(model, "block %u: version %u, not %u", block, version, model->version[block]);
	len = version ? value_of(block, version, want) : 0;
	if (version && (len != got_len || memcmp(got, want, len) != 0))
		wrong(model, "block %u: content of version %u is damaged (%u bytes)", block, version,
		      (unsigned int)got_len);
	return version;
}

struct look {
	struct model *model;
	uint32_t count;
};

static int see_head(void *arg, struct store_key key, const void *head, uint32_t len)
{
	struct look *look = arg;
	uint32_t version;

	(void)len;
	memcpy(&version, (const char *)head + 4, 4);
	if (version != look->model->version[key.block])
		wrong(look->model, "head of block %u: version %u, not %u", (uint32_t)key.block, version,
		      look->model->version[key.block]);
	look->count++;
	return 0;
}

static int see_meta(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct look *look = arg;
	char text[16] = "";
	uint32_t slot, version;

	memcpy(text, key, key_len < 15 ? key_len : 15);
	slot = (uint32_t)strtoul(text + 1, NULL, 10) % METAS;
	memset(text, 0, sizeof(text));
	memcpy(text, value, value_len < 15 ? value_len : 15);
	version = (uint32_t)strtoul(text, NULL, 10);
	if (version != look->model->meta[slot] && version != look->model->meta_maybe[slot])
		wrong(look->model, "record %u: version %u, not %u", slot, version, look->model->meta[slot]);
	look->model->meta[slot] = version;
	look->count++;
	return 0;
}

static void looking_child(struct model *model)
{
	struct store *store = open_store(false);
	struct look heads = { model, 0 }, metas = { model, 0 };
	uint32_t stored = 0, records = 0;

	for (uint32_t block = 0; block < BLOCKS; block++) {
		model->version[block] = check_block(store, model, block);
		stored += model->version[block] != 0;
	}
	if (store->ops->heads(store, INO, 0, UINT64_MAX, see_head, &heads) < 0 || heads.count != stored)
		wrong(model, "%u heads, %u blocks", heads.count, stored);
	for (uint32_t i = 0; i < METAS; i++)
		records += model->meta[i] || model->meta_maybe[i];
	if (store->meta->walk(store, "k", 1, see_meta, &metas) < 0 || metas.count > records ||
	    metas.count + 1 < records)
		wrong(model, "%u records of %u", metas.count, records);
	if (!warm || model->version[0] % 2) /* else its files go on as they are */
		store->ops->free(store);
	_exit(0);
}

/* --- rounds --- */

static int wait_for(pid_t child)
{
	int status = -1;

	ck_assert_int_eq(waitpid(child, &status, 0), child);
	return status;
}

/* Runs the changing child for run_ns and kills it. Returns the number of the first step that was not acknowledged. */
static uint32_t run_and_kill(uint32_t number, uint64_t run_ns, bool create)
{
	struct timespec delay = { (time_t)(run_ns / NS_PER_S), (long)(run_ns % NS_PER_S) };
	uint32_t acknowledged;
	int fds[2], status;
	pid_t child;

	ck_assert_int_eq(pipe(fds), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		close(fds[0]);
		changing_child(fds[1], number, create);
	}
	close(fds[1]);
	/* The first acknowledgement says that it is open. Steps that fit the pipe are the most it gets ahead. */
	if (read(fds[0], &acknowledged, sizeof(acknowledged)) == sizeof(acknowledged)) {
		number = acknowledged + 1;
		nanosleep(&delay, NULL);
	}
	kill(child, SIGKILL);
	while (read(fds[0], &acknowledged, sizeof(acknowledged)) == sizeof(acknowledged))
		number = acknowledged + 1;
	close(fds[0]);
	status = wait_for(child);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child ended by itself: %x", status);
	return number;
}

static void look(struct model *model)
{
	pid_t child = fork();
	int status;

	ck_assert_int_ge(child, 0);
	if (child == 0)
		looking_child(model);
	status = wait_for(child);
	ck_assert_msg(status == 0, "status %x: %s (seed %llu)", status, model->wrong, (unsigned long long)seed);
}

START_TEST(what_was_acknowledged_is_there)
{
	struct model *model = mmap(NULL, sizeof(*model), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint32_t number = 1;

	ck_assert(model != MAP_FAILED);
	warm = _i == 1;
	snprintf(dir, sizeof(dir), "%s/%d", scratch.path, _i);
	snprintf(warm_dir, sizeof(warm_dir), "%s/warm", scratch.path);
	ck_assert_int_eq(mkdir(dir, 0700), 0);
	ck_assert(!warm || mkdir(warm_dir, 0700) == 0);
	for (int round = 0; round < ROUNDS; round++) {
		uint32_t reached = run_and_kill(number, mix(seed + (uint64_t)round) % (120 * NS_PER_MS), round == 0);
		struct step step;

		for (; number < reached; number++) {
			make_step(number, &step);
			apply(&step, model->version, model->meta);
		}
		memcpy(model->maybe, model->version, sizeof(model->maybe));
		memcpy(model->meta_maybe, model->meta, sizeof(model->meta));
		make_step(number, &step);
		apply(&step, model->maybe, model->meta_maybe);
		look(model);
		number++; /* never the same version again */
	}
	printf("%u steps in %d rounds\n", number, ROUNDS);
	munmap(model, sizeof(*model));
}
END_TEST

int main(void)
{
	const char *text = getenv("TIERFS_SEED");
	Suite *suite = suite_create("store_crash");
	TCase *tests = tcase_create("kill");
	int failed;

	seed = text ? strtoull(text, NULL, 0) : clock_ns();
	printf("TIERFS_SEED=%llu\n", (unsigned long long)seed);
	scratch_new(&scratch, "crash");
	tcase_set_timeout(tests, 300);
	tcase_add_loop_test(tests, what_was_acknowledged_is_there, 0, 2);
	suite_add_tcase(suite, tests);
	failed = check_run(suite);
	scratch_free(&scratch);
	return failed;
}
