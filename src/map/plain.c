#include "map/plain.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/cache.h"
#include "engine/ramfile.h"
#include "engine/room.h"
#include "engine/tenant.h"
#include "names/names.h"
#include "policy/demand.h"

#define FILES_MAX 256
#define TURN_NS (1 * NS_PER_S)
/* Between two turns under pressure, when the last one found nothing to drop. */
#define REST_NS (20 * NS_PER_MS)
/* How long copies of what the kernel brought back may stay in the arena while nobody needs the room. */
#define STAGED_NS (5 * NS_PER_S)
/* One request to the helper: enough to be worth it, little enough not to stall a guest that touches it meanwhile. */
#define PORTION_BYTES (UINT64_C(8) << 20)
#define MEASURE_BLOCKS 65536
/* A piece of a file, which is looked at block by block only where something is cached. */
#define PIECE_BLOCKS 1024

struct plain {
	struct plain_config config;
	dev_t dev;
	pthread_t thread;
	_Atomic bool stopping;
	bool thread_runs;
	uint64_t measured_ns, staged_ns; /* when the last rounds of these were */
	uint8_t *cached, *coarse;        /* MEASURE_BLOCKS each */
};

/* A file that is worked on. */
struct subject {
	uint64_t ino;
	struct ramfile *file;
	char path[PATH_MAX];
	struct ramfile_figures figures;
};

static bool subject_open(struct plain *plain, uint64_t ino, struct subject *ret)
{
	char below[PATH_MAX];
	int len;

	ret->ino = ino;
	if (ns_open(plain->config.ns, ino, &ret->file))
		return false;
	if (ns_path(plain->config.ns, ino, below, sizeof(below)) || below[0] != '/')
		below[0] = '\0'; /* unlinked: the helper finds it through a process that maps it */
	len = snprintf(ret->path, sizeof(ret->path), "%s%s", plain->config.mountpoint, below);
	if (!below[0] || len >= (int)sizeof(ret->path))
		ret->path[0] = '\0';
	ramfile_figures(ret->file, &ret->figures);
	return true;
}

static void subject_close(struct plain *plain, struct subject *subject)
{
	ns_put(plain->config.ns, subject->ino);
}

/* What the kernel holds of a range, told to the engine. False: it could not be found out. */
static bool measure(struct plain *plain, struct subject *subject, uint64_t offset, uint64_t length)
{
	uint64_t block_bytes = subject->figures.block_bytes;
	uint64_t first = offset / block_bytes, end = (offset + length + block_bytes - 1) / block_bytes;

	while (first < end) {
		uint64_t count = end - first < MEASURE_BLOCKS ? end - first : MEASURE_BLOCKS, bytes;
		uint64_t marks[CACHE_MARKS];
		int err;

		cache_marks(subject->file, marks);
		err = evict_measure(plain->config.evict, plain->dev, subject->ino,
				    subject->path[0] ? subject->path : NULL, first * block_bytes, block_bytes, count,
				    plain->cached, &bytes);

		if (err == -ENOENT)
			memset(plain->cached, 0, count); /* no name and no mapper: the kernel is about to forget it */
		else if (err)
			return false;
		cache_set(subject->file, first, count, plain->cached, marks);
		first += count;
	}
	return true;
}

/* A whole file, which may be far larger than what is cached of it: first by pieces, then those of which the kernel has
 * something, or was thought to have. False: not all of it could be. */
static bool measure_whole(struct plain *plain, struct subject *subject)
{
	uint64_t piece_bytes = PIECE_BLOCKS * subject->figures.block_bytes, size = subject->figures.size_bytes;
	uint64_t pieces = (size + piece_bytes - 1) / piece_bytes;

	for (uint64_t first = 0; first < pieces; first += MEASURE_BLOCKS) {
		uint64_t count = pieces - first < MEASURE_BLOCKS ? pieces - first : MEASURE_BLOCKS, bytes, known = 0;
		int err = evict_measure(plain->config.evict, plain->dev, subject->ino,
					subject->path[0] ? subject->path : NULL, first * piece_bytes, piece_bytes,
					count, plain->coarse, &bytes);

		if (err == -ENOENT)
			memset(plain->coarse, 0, count);
		else if (err)
			return false;
		for (uint64_t i = 0; i < count; i++) {
			uint64_t offset = (first + i) * piece_bytes;

			if (known < offset)
				known = cache_next(subject->file, offset);
			if ((plain->coarse[i] || known < offset + piece_bytes) &&
			    !measure(plain, subject, offset, size - offset < piece_bytes ? size - offset : piece_bytes))
				return false;
		}
	}
	return true;
}

/* Drops up to a portion of the oldest blocks. Returns the bytes that left the kernel's cache. */
static uint64_t drop_some(struct plain *plain, struct subject *subject, uint64_t wanted)
{
	struct cache_range pick[EVICT_RANGES_MAX];
	struct evict_range range[EVICT_RANGES_MAX];
	struct evict_answer answer[EVICT_RANGES_MAX];
	struct evict_summary summary;
	struct ramfile_figures after;
	uint64_t marks[CACHE_MARKS];
	size_t count;
	int err;

	count = cache_pick(subject->file, 0, UINT64_MAX, wanted, pick, EVICT_RANGES_MAX);
	if (!count)
		return 0;
	for (size_t i = 0; i < count; i++)
		range[i] = (struct evict_range){ .offset = pick[i].offset, .length = pick[i].length };
	cache_marks(subject->file, marks);
	err = evict_out(plain->config.evict, plain->dev, subject->ino, subject->path[0] ? subject->path : NULL, range,
			count, answer, &summary);
	if (err) {
		log_debug("file %llu: pages cannot be taken out of the kernel's cache: %s",
			  (unsigned long long)subject->ino, strerror(-err));
		return 0;
	}
	for (size_t i = 0; i < count; i++) {
		uint64_t blocks = (range[i].length + subject->figures.block_bytes - 1) / subject->figures.block_bytes;

		if (answer[i].cached_bytes) {
			measure(plain, subject, range[i].offset, range[i].length);
			continue;
		}
		memset(plain->cached, 0, blocks);
		cache_set(subject->file, range[i].offset / subject->figures.block_bytes, blocks, plain->cached, marks);
	}
	ramfile_figures(subject->file, &after);
	return subject->figures.cached_bytes > after.cached_bytes ? subject->figures.cached_bytes - after.cached_bytes
								  : 0;
}

/* One portion of every file in turn, the share of each by what the kernel caches of it. */
static uint64_t squeeze(struct plain *plain, const uint64_t *ino, size_t files, uint64_t missing)
{
	uint64_t dropped = 0;

	if (missing > PORTION_BYTES)
		missing = PORTION_BYTES;
	for (size_t i = 0; i < files && dropped < missing; i++) {
		struct subject subject;

		if (!subject_open(plain, ino[i], &subject))
			continue;
		if (subject.figures.cached_bytes)
			dropped += drop_some(plain, &subject, missing - dropped);
		subject_close(plain, &subject);
	}
	return dropped;
}

/* Of files whose tenant has come near to its max: what the kernel caches of them counts for it. Returns in how long to
 * look again: soon while some of it goes, later and later while it does not. */
static uint64_t squeeze_tenants(struct plain *plain, const uint64_t *ino, size_t files, uint64_t rest_ns)
{
	bool near = false, gone = false;

	for (size_t i = 0; i < files; i++) {
		struct subject subject;
		uint64_t missing;

		if (!subject_open(plain, ino[i], &subject))
			continue;
		missing = tenant_missing(subject.file);
		if (missing && subject.figures.cached_bytes) {
			near = true;
			gone |= drop_some(plain, &subject, missing < PORTION_BYTES ? missing : PORTION_BYTES) > 0;
		}
		subject_close(plain, &subject);
	}
	if (gone)
		return REST_NS;
	return near && 2 * rest_ns < TURN_NS ? 2 * rest_ns : TURN_NS;
}

/* Somebody asked for a file to be demoted. What stays is in use, dirty again, or mapped twice. */
static void drop_wanted(struct plain *plain, const uint64_t *ino, size_t files)
{
	for (size_t i = 0; i < files; i++) {
		struct subject subject;
		uint64_t most;

		if (!subject_open(plain, ino[i], &subject)) {
			cache_evict_failed(plain->config.engine, ino[i]);
			continue;
		}
		if (cache_evict_wanted(subject.file)) {
			/* Blocks that stay are picked again and again: twice the file is enough for one pass over all.
			 */
			for (most = 2 * subject.figures.size_bytes; most;
			     most -= most < PORTION_BYTES ? most : PORTION_BYTES) {
				ramfile_figures(subject.file, &subject.figures);
				if (!drop_some(plain, &subject, PORTION_BYTES))
					break;
			}
			cache_evicted(subject.file);
		}
		subject_close(plain, &subject);
	}
}

static void measure_all(struct plain *plain, const uint64_t *ino, size_t files)
{
	for (size_t i = 0; i < files; i++) {
		struct subject subject;

		if (!subject_open(plain, ino[i], &subject))
			continue;
		if (!subject.figures.cached_opens) {
			/* Nobody has it open any more: what the kernel keeps of it helps nobody who maps. */
			struct evict_range all = { .length = subject.figures.size_bytes };
			struct evict_answer answer;
			struct evict_summary summary;

			evict_drop(plain->config.evict, plain->dev, subject.ino, subject.path[0] ? subject.path : NULL,
				   &all, 1, &answer, &summary);
		}
		if (measure_whole(plain, &subject))
			cache_measured(subject.file);
		subject_close(plain, &subject);
	}
}

/* Copies of what the kernel brought back go to the store. */
static void store_staged(struct plain *plain, const uint64_t *ino, size_t files)
{
	for (size_t i = 0; i < files; i++) {
		struct subject subject;

		if (!subject_open(plain, ino[i], &subject))
			continue;
		/* Without such opens the arena's is not a second copy. */
		if (subject.figures.arena_bytes && subject.figures.cached_opens && !subject.figures.mappers)
			demand_demote_staged(subject.file);
		subject_close(plain, &subject);
	}
}

/* Others may end its waits as often as they like. */
static void rest_until(uint64_t until_ns)
{
	uint64_t now = clock_ns();

	if (now < until_ns)
		clock_sleep(until_ns - now);
}

static void *evictor(void *arg)
{
	struct plain *plain = arg;
	uint64_t ino[FILES_MAX];
	uint64_t rest_ns = TURN_NS;

	while (!atomic_load(&plain->stopping)) {
		uint64_t began_ns = clock_ns(), missing = room_wait_squeeze(plain->config.engine, began_ns + rest_ns);
		size_t files;
		uint64_t now;

		if (!missing)
			rest_until(began_ns + REST_NS);
		files = room_plain_files(plain->config.engine, ino, FILES_MAX);
		now = clock_ns();

		if (atomic_load(&plain->stopping))
			break;
		drop_wanted(plain, ino, files);
		if (now < began_ns + rest_ns && rest_ns == TURN_NS)
			rest_ns = REST_NS; /* it was ended: somebody has come near */
		rest_ns = squeeze_tenants(plain, ino, files, rest_ns);
		if (missing && (!files || !squeeze(plain, ino, files, missing))) {
			struct timespec rest = { .tv_nsec = REST_NS };

			nanosleep(&rest, NULL);
		}
		if (files && now >= plain->measured_ns + TURN_NS) {
			plain->measured_ns = now;
			measure_all(plain, ino, files);
		}
		if (files && now >= plain->staged_ns + STAGED_NS) {
			plain->staged_ns = now;
			store_staged(plain, ino, files);
		}
	}
	return NULL;
}

int plain_start(const struct plain_config *config, struct plain **ret)
{
	struct plain *plain = calloc(1, sizeof(*plain));
	struct statx root;
	int err = 0;

	if (!plain)
		return -ENOMEM;
	plain->config = *config;
	plain->staged_ns = clock_ns();
	plain->cached = malloc(MEASURE_BLOCKS);
	plain->coarse = malloc(MEASURE_BLOCKS);
	if (!plain->cached || !plain->coarse)
		err = -ENOMEM;
	else if (statx(AT_FDCWD, config->mountpoint, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &root) < 0)
		err = -errno; /* without a question to the mount, which nobody may be serving yet */
	if (!err) {
		plain->dev = makedev(root.stx_dev_major, root.stx_dev_minor);
		err = -pthread_create(&plain->thread, NULL, evictor, plain);
	}
	if (err) {
		free(plain->cached);
		free(plain->coarse);
		free(plain);
		return err;
	}
	pthread_setname_np(plain->thread, "tierfs-evictor");
	plain->thread_runs = true;
	room_set_evictor(config->engine, true);
	*ret = plain;
	return 0;
}

void plain_stop(struct plain *plain)
{
	if (!plain)
		return;
	atomic_store(&plain->stopping, true);
	room_set_evictor(plain->config.engine, false);
	room_end_squeeze(plain->config.engine);
	if (plain->thread_runs)
		pthread_join(plain->thread, NULL);
	cache_evict_failed(plain->config.engine, 0);
	free(plain->cached);
	free(plain->coarse);
	free(plain);
}
