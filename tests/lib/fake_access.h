/* tests/lib/fake_access.h - cold access (tierfs/access.h) without a daemon and without a mount, for programs that move
 * memory: what is in src/move finds this in the place of libtierfs.
 *
 * Files lie in two scratch directories, each of which stands for a pool with a secret, a block size and a budget of its
 * own. The plain content of a block is in the file; where the block is, its age and what is away are in a table here.
 * Work is done in tierfs_access_end(), so who touches a buffer that is under way is found out. Calls and records can be
 * told to fail, and a hook sees each block that is asked for.
 *
 * Header only, for one program each: TEST_LIB would give it to all. Such a program is linked with
 * -Wl,--wrap=open64 -Wl,--wrap=__open64_2 -Wl,--wrap=pwrite64 -Wl,--wrap=fallocate64 -Wl,--wrap=fsync
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tierfs/access.h>
#include <tierfs/tierfs.h>

#include "base/ident.h"
#include "cold/codec.h"
#include "cold/mac.h"

#define FAKE_FILES 16
#define FAKE_BLOCKS 1024
#define FAKE_READ_MOST 100 /* records of a range: a call may end early */
#define FAKE_FAULTS 4

enum fake_op {
	FAKE_OPEN,
	FAKE_READ,
	FAKE_LIST,
	FAKE_WRITE,
	FAKE_SET,
	FAKE_IDENTIFY,
	FAKE_WANTED,
	FAKE_PWRITE,
	FAKE_PUNCH,
	FAKE_FSYNC,
};

struct fake_pool {
	char dir[512];
	uint32_t block_bytes;
	uint64_t dram_blocks; /* that have room */
	uint8_t secret[MAC_KEY_BYTES];
};

struct fake_block {
	uint8_t state, generation, tier;
	bool cached, away;
	bool wanted, told;         /* somebody waits for it; the supplier knows */
	struct tierfs_ident ident; /* of what is away */
};

struct fake_file {
	bool used;
	ino_t ino;
	struct fake_pool *pool;
	uint64_t supplier;
	struct fake_block block[FAKE_BLOCKS];
};

/* The calls of an op, or the records in them, after so many: err, so many times. EBUSY of a record is BUSY. */
struct fake_fault {
	enum fake_op op;
	unsigned int pool;
	bool call;
	uint64_t after, times;
	int err;
};

static struct fake {
	pthread_mutex_t mutex; /* for all of it */
	struct fake_pool pool[2];
	struct fake_file file[FAKE_FILES];
	struct fake_fault fault[FAKE_FAULTS];
	uint64_t serial;
	/* Under mutex, before a record is worked on. Not 0: the record fails. */
	int (*hook)(enum fake_op op, struct fake_file *file, uint64_t block);
} fake = { .mutex = PTHREAD_MUTEX_INITIALIZER };

struct tierfs_access {
	struct tierfs_access_info info;
	struct fake_file *file;
	uint64_t serial;
	int fd;
	bool writes;
	uint8_t *buffer, *plain, *value;
	struct codec *codec, *quick;
	struct mac *mac;
	size_t records_cap, payload_at, added, used;
	bool under_way;
	enum fake_op op;
	uint32_t flags;
	size_t begun;
};

#define fake_must(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
			abort(); \
		} \
	} while (0)

/* --- what is told to fail ---------------------------------------------------------------------------------------- */

static inline void fake_fail(struct fake_fault fault)
{
	for (int i = 0; i < FAKE_FAULTS; i++)
		if (!fake.fault[i].times) {
			fake.fault[i] = fault;
			return;
		}
	abort();
}

static inline int fake_trip(enum fake_op op, const struct fake_pool *pool, bool call)
{
	for (int i = 0; i < FAKE_FAULTS; i++) {
		struct fake_fault *fault = &fake.fault[i];

		if (!fault->times || fault->op != op || pool != &fake.pool[fault->pool] || fault->call != call)
			continue;
		if (fault->after) {
			fault->after--;
			continue;
		}
		fault->times--;
		return -fault->err;
	}
	return 0;
}

/* --- files ------------------------------------------------------------------------------------------------------- */

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap___open64_2(const char *path, int flags);
ssize_t __real_pwrite64(int fd, const void *buf, size_t length, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t length, off_t offset);
int __real_fallocate64(int fd, int mode, off_t offset, off_t length);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length);
int __real_fsync(int fd);
int __wrap_fsync(int fd);

static inline void fake_pool_init(unsigned int number, const char *dir, uint32_t block_bytes)
{
	struct fake_pool *pool = &fake.pool[number];

	*pool = (struct fake_pool){ .block_bytes = block_bytes, .dram_blocks = UINT64_MAX };
	snprintf(pool->dir, sizeof(pool->dir), "%s", dir);
	memset(pool->secret, (int)number + 1, sizeof(pool->secret));
}

/* Under mutex. */
static inline struct fake_file *fake_file_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) == 0)
		for (int i = 0; i < FAKE_FILES; i++)
			if (fake.file[i].used && fake.file[i].ino == st.st_ino)
				return &fake.file[i];
	return NULL;
}

/* A file that was just made, in the directory of a pool. */
static inline void fake_note_new(const char *path, int fd)
{
	struct fake_file *file;
	struct stat st;

	for (int i = 0; i < 2; i++) {
		const struct fake_pool *pool = &fake.pool[i];
		size_t length = strlen(pool->dir);

		if (!length || strncmp(path, pool->dir, length) || fstat(fd, &st) || st.st_size)
			continue;
		pthread_mutex_lock(&fake.mutex);
		file = fake_file_of(fd);
		for (int j = 0; !file && j < FAKE_FILES; j++)
			if (!fake.file[j].used)
				file = &fake.file[j];
		fake_must(file);
		memset(file, 0, sizeof(*file));
		file->used = true;
		file->ino = st.st_ino;
		file->pool = &fake.pool[i];
		pthread_mutex_unlock(&fake.mutex);
	}
}

/* A scratch directory does not take what O_DIRECT takes in a mount. */
int __wrap_open64(const char *path, int flags, ...)
{
	mode_t mode = 0;
	va_list args;
	int fd;

	va_start(args, flags);
	if (flags & O_CREAT)
		mode = va_arg(args, mode_t);
	va_end(args);
	fd = __real_open64(path, flags & ~O_DIRECT, mode);
	if (fd >= 0 && flags & O_CREAT)
		fake_note_new(path, fd);
	return fd;
}

int __wrap___open64_2(const char *path, int flags)
{
	return __wrap_open64(path, flags);
}

static inline uint64_t fake_content_bytes(const struct fake_file *file, int fd, uint64_t block)
{
	uint64_t offset = block * file->pool->block_bytes;
	struct stat st;

	fake_must(fstat(fd, &st) == 0);
	if ((uint64_t)st.st_size <= offset)
		return 0;
	return (uint64_t)st.st_size - offset < file->pool->block_bytes ? (uint64_t)st.st_size - offset
								       : file->pool->block_bytes;
}

/* A block with zeros behind the end of the file. */
static inline void fake_get(const struct fake_file *file, int fd, uint64_t block, uint8_t *plain)
{
	uint64_t length = fake_content_bytes(file, fd, block);

	memset(plain, 0, file->pool->block_bytes);
	fake_must(pread(fd, plain, length, (off_t)(block * file->pool->block_bytes)) == (ssize_t)length);
}

static inline void fake_put(const struct fake_file *file, int fd, uint64_t block, const uint8_t *plain)
{
	uint64_t length = fake_content_bytes(file, fd, block);

	fake_must(__real_pwrite64(fd, plain, length, (off_t)(block * file->pool->block_bytes)) == (ssize_t)length);
}

static inline void fake_make_hole(struct fake_file *file, int fd, uint64_t block)
{
	uint32_t block_bytes = file->pool->block_bytes;

	__real_fallocate64(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(block * block_bytes), block_bytes);
	file->block[block] = (struct fake_block){};
}

static inline void fake_stays_cold(struct fake_block *block)
{
	block->state = block->state == TIERFS_STATE_RESIDENT ? TIERFS_STATE_RESIDENT : TIERFS_STATE_COLD;
	block->away = block->wanted = block->told = false;
}

/* Through the file: what is cold or a hole is cold then. */
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t length, off_t offset)
{
	struct fake_file *file;
	ssize_t put = -1;
	int err = 0;

	pthread_mutex_lock(&fake.mutex);
	file = fake_file_of(fd);
	if (file)
		err = fake_trip(FAKE_PWRITE, file->pool, true);
	if (!err) {
		put = __real_pwrite64(fd, buf, length, offset);
		if (file && put > 0)
			for (uint64_t at = (uint64_t)offset / file->pool->block_bytes;
			     at <= (uint64_t)(offset + put - 1) / file->pool->block_bytes; at++)
				fake_stays_cold(&file->block[at]);
	}
	pthread_mutex_unlock(&fake.mutex);
	if (err)
		errno = -err;
	return put;
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t length)
{
	struct fake_file *file;
	int err = 0, rc = -1;

	pthread_mutex_lock(&fake.mutex);
	file = fake_file_of(fd);
	if (file)
		err = fake_trip(FAKE_PUNCH, file->pool, true);
	if (!err)
		rc = __real_fallocate64(fd, mode, offset, length);
	for (uint64_t block = 0; file && rc == 0 && block < FAKE_BLOCKS; block++) {
		uint64_t start = block * file->pool->block_bytes, bytes = fake_content_bytes(file, fd, block);

		if (bytes && start >= (uint64_t)offset && start + bytes <= (uint64_t)(offset + length))
			file->block[block] = (struct fake_block){};
	}
	pthread_mutex_unlock(&fake.mutex);
	if (err)
		errno = -err;
	return rc;
}

int __wrap_fsync(int fd)
{
	struct fake_file *file;
	int err = 0;

	pthread_mutex_lock(&fake.mutex);
	file = fake_file_of(fd);
	if (file)
		err = fake_trip(FAKE_FSYNC, file->pool, true);
	pthread_mutex_unlock(&fake.mutex);
	errno = -err;
	return err ? -1 : 0;
}

int tierfs_info(int fd, struct tierfs_ioc_info *ret)
{
	struct fake_file *file;

	(void)ret;
	pthread_mutex_lock(&fake.mutex);
	file = fake_file_of(fd);
	pthread_mutex_unlock(&fake.mutex);
	return file ? 0 : -ENOTTY;
}

/* --- handles ----------------------------------------------------------------------------------------------------- */

static inline void fake_make_buffers(struct tierfs_access *access, size_t buffer_bytes)
{
	const struct fake_pool *pool = access->file->pool;

	access->info.buffer_bytes = (uint32_t)buffer_bytes;
	access->records_cap = buffer_bytes / 16 / sizeof(struct tierfs_access_record);
	access->payload_at = (access->records_cap * sizeof(struct tierfs_access_record) + 4095) & ~(size_t)4095;
	access->buffer = calloc(1, buffer_bytes);
	fake_must(access->buffer);
	fake_must(!posix_memalign((void **)&access->plain, 4096, pool->block_bytes));
	fake_must(!posix_memalign((void **)&access->value, 4096, codec_bound(pool->block_bytes)));
	fake_must(!codec_new(pool->block_bytes, 1, &access->codec) && !codec_new(pool->block_bytes, 0, &access->quick));
	fake_must(!mac_new(MAC_POOL, pool->secret, &access->mac));
}

int tierfs_access_open(int fd, size_t buffer_bytes, struct tierfs_access **ret)
{
	struct tierfs_access *access;
	struct fake_file *file;
	struct stat st;
	int err = -ENOTTY;

	pthread_mutex_lock(&fake.mutex);
	file = fake_file_of(fd);
	if (file)
		err = fake_trip(FAKE_OPEN, file->pool, true);
	if (err) {
		pthread_mutex_unlock(&fake.mutex);
		return err;
	}
	access = calloc(1, sizeof(*access));
	fake_must(access && fstat(fd, &st) == 0);
	access->file = file;
	access->serial = ++fake.serial;
	access->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	access->writes = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
	access->info = (struct tierfs_access_info){
		.ino = st.st_ino,
		.size_bytes = (uint64_t)st.st_size,
		.blocks = ((uint64_t)st.st_size + file->pool->block_bytes - 1) / file->pool->block_bytes,
		.block_bytes = file->pool->block_bytes,
		.stored_max = (uint32_t)codec_bound(file->pool->block_bytes),
	};
	fake_must(access->info.blocks <= FAKE_BLOCKS);
	fake_make_buffers(access, buffer_bytes ? buffer_bytes : TIERFS_ACCESS_BUFFER_DEFAULT);
	pthread_mutex_unlock(&fake.mutex);
	*ret = access;
	return 0;
}

void tierfs_access_close(struct tierfs_access *access)
{
	if (!access)
		return;
	close(access->fd);
	codec_free(access->codec);
	codec_free(access->quick);
	mac_free(access->mac);
	free(access->buffer);
	free(access->plain);
	free(access->value);
	free(access);
}

const struct tierfs_access_info *tierfs_access_info(const struct tierfs_access *access)
{
	return &access->info;
}

const void *tierfs_access_payload(const struct tierfs_access *access, const struct tierfs_access_record *record)
{
	fake_must(!access->under_way);
	return record->payload_bytes ? access->buffer + record->payload_at : NULL;
}

void *tierfs_access_room(struct tierfs_access *access, size_t bytes)
{
	fake_must(!access->under_way);
	return bytes > access->info.buffer_bytes - access->payload_at - access->used
		       ? NULL
		       : access->buffer + access->payload_at + access->used;
}

int tierfs_access_add(struct tierfs_access *access, const struct tierfs_access_record *record, const void *payload)
{
	struct tierfs_access_record *request = (struct tierfs_access_record *)access->buffer + access->added;
	uint8_t *room = NULL;

	fake_must(!access->under_way);
	if (access->added == access->records_cap)
		return -ENOBUFS;
	if (record->form == TIERFS_FORM_PLAIN || record->form == TIERFS_FORM_STORED) {
		room = tierfs_access_room(access, record->payload_bytes);
		if (!room)
			return -ENOBUFS;
		if (payload != room)
			memcpy(room, payload, record->payload_bytes);
		access->used += (record->payload_bytes + 63) & ~(size_t)63;
	}
	*request = *record;
	request->payload_at = room ? (uint32_t)(room - access->buffer) : 0;
	request->payload_bytes = room ? record->payload_bytes : 0;
	access->added++;
	return 0;
}

/* --- looking and reading ----------------------------------------------------------------------------------------- */

static inline int fake_refuse(struct tierfs_access_record *record, int err)
{
	record->result = err == -EBUSY ? TIERFS_ACCESS_BUSY : TIERFS_ACCESS_ERROR;
	record->error = err == -EBUSY ? 0 : (uint16_t)-err;
	record->form = TIERFS_FORM_NONE;
	record->payload_bytes = 0;
	return err;
}

/* With the content in access->plain. */
static inline void fake_look(struct tierfs_access *access, uint64_t block, struct tierfs_access_record *ret)
{
	const struct fake_block *at = &access->file->block[block];
	static const uint8_t result[] = { [TIERFS_STATE_HOLE] = TIERFS_ACCESS_HOLE,
					  [TIERFS_STATE_COLD] = TIERFS_ACCESS_READ_OK,
					  [TIERFS_STATE_RESIDENT] = TIERFS_ACCESS_RESIDENT,
					  [TIERFS_STATE_PASSING] = TIERFS_ACCESS_BUSY };

	*ret = (struct tierfs_access_record){ .block = block,
					      .count = 1,
					      .generation = at->generation,
					      .tier = at->tier,
					      .state = at->state,
					      .result = result[at->state],
					      .flags = (at->cached ? TIERFS_BLOCK_CACHED : 0) |
						       (at->away ? TIERFS_BLOCK_AWAY : 0) };
	fake_get(access->file, access->fd, block, access->plain);
	if (at->state == TIERFS_STATE_COLD && !at->away)
		ret->ident = mac_of(access->mac, access->plain, access->info.block_bytes);
}

static inline bool fake_alike(const struct tierfs_access_record *a, const struct tierfs_access_record *b)
{
	return a->result == b->result && a->state == b->state && a->error == b->error && a->flags == b->flags &&
	       a->generation == b->generation && a->tier == b->tier;
}

/* States alone: who moves memory asks for content by lists. */
int tierfs_access_read(struct tierfs_access *access, uint64_t first, uint64_t count, uint32_t flags,
		       struct tierfs_access_answer *ret)
{
	struct tierfs_access_record *records = (struct tierfs_access_record *)access->buffer;
	uint64_t block = first, end = first + count < access->info.blocks ? first + count : access->info.blocks;
	size_t made = 0;
	int err;

	fake_must(!access->added && flags & TIERFS_ACCESS_NO_PAYLOAD);
	pthread_mutex_lock(&fake.mutex);
	err = fake_trip(FAKE_READ, access->file->pool, true);
	for (; !err && block < end && made < FAKE_READ_MOST; block++) {
		struct tierfs_access_record record;

		fake_look(access, block, &record);
		if (record.flags & TIERFS_BLOCK_AWAY)
			fake_refuse(&record, -EREMOTE);
		if (flags & TIERFS_ACCESS_MERGE && made && fake_alike(&records[made - 1], &record))
			records[made - 1].count++;
		else
			records[made++] = record;
	}
	pthread_mutex_unlock(&fake.mutex);
	*ret = (struct tierfs_access_answer){ .record = records, .count = made, .next_block = block };
	return err;
}

/* The payload of a block that was looked at. */
static inline void fake_give(struct tierfs_access *access, struct tierfs_access_record *record)
{
	struct store_key key = { .ino = 0, .block = record->block };
	struct codec_hotness hotness = { .generation = record->generation, .tier = record->tier };
	bool quick = access->flags & TIERFS_ACCESS_QUICK && record->state == TIERFS_STATE_RESIDENT;
	size_t length = fake_content_bytes(access->file, access->fd, record->block), at;

	if (access->used + codec_bound(access->info.block_bytes) > access->info.buffer_bytes - access->payload_at) {
		fake_refuse(record, -ENOBUFS);
		return;
	}
	record->form = TIERFS_FORM_PLAIN;
	at = access->payload_at + access->used;
	if (access->flags & TIERFS_ACCESS_STORED) {
		record->form = TIERFS_FORM_STORED;
		fake_must(!codec_encode(quick ? access->quick : access->codec, key, hotness, access->plain,
					record->ident, access->value, codec_bound(access->info.block_bytes), &length));
	}
	memcpy(access->buffer + at, access->flags & TIERFS_ACCESS_STORED ? access->value : access->plain, length);
	record->payload_at = (uint32_t)at;
	record->payload_bytes = (uint32_t)length;
	access->used += (length + 7) & ~(size_t)7;
}

static inline void fake_list_one(struct tierfs_access *access, struct tierfs_access_record *record)
{
	struct tierfs_ident known = record->ident;
	uint32_t flags = access->flags;
	bool resident;

	fake_look(access, record->block, record);
	resident = record->state == TIERFS_STATE_RESIDENT;
	if (record->flags & TIERFS_BLOCK_AWAY)
		fake_refuse(record, -EREMOTE);
	if (record->result != TIERFS_ACCESS_READ_OK && record->result != TIERFS_ACCESS_RESIDENT)
		return;
	if (record->flags & TIERFS_BLOCK_CACHED ||
	    (resident && !(flags & TIERFS_ACCESS_ALSO_RESIDENT) && !(flags & TIERFS_ACCESS_HASH)))
		return;
	record->ident = mac_of(access->mac, access->plain, access->info.block_bytes);
	if (resident && codec_is_zero(access->plain, access->info.block_bytes)) {
		record->flags |= TIERFS_BLOCK_ZERO;
		if (flags & TIERFS_ACCESS_STORED)
			return;
	}
	if (flags & TIERFS_ACCESS_NO_PAYLOAD || (resident && !(flags & TIERFS_ACCESS_ALSO_RESIDENT)) ||
	    (flags & TIERFS_ACCESS_CHANGED && ident_same(known, record->ident)))
		return;
	fake_give(access, record);
}

/* --- writing ----------------------------------------------------------------------------------------------------- */

/* The content of a request into access->plain. */
static inline int fake_take(struct tierfs_access *access, const struct tierfs_access_record *request,
			    struct tierfs_ident *ret_said)
{
	const uint8_t *payload = access->buffer + request->payload_at;
	struct store_key key = { .ino = 0, .block = request->block };
	uint64_t length = fake_content_bytes(access->file, access->fd, request->block);
	struct codec_info info;
	int err;

	fake_must(request->form == TIERFS_FORM_STORED);
	err = codec_decode(access->codec, key, payload, request->payload_bytes, access->plain, &info);
	if (err)
		return err;
	*ret_said = info.ident;
	for (uint64_t i = length; i < access->info.block_bytes; i++)
		if (access->plain[i])
			return -EBADMSG;
	return 0;
}

static inline bool fake_leaves_alone(const struct fake_block *at, const struct tierfs_access_record *request)
{
	if (request->flags & TIERFS_BLOCK_AWAY)
		return !at->away;
	return at->cached || (at->state == TIERFS_STATE_RESIDENT && !(request->flags & TIERFS_BLOCK_IN_PLACE));
}

static inline void fake_store(struct tierfs_access *access, const struct tierfs_access_record *request)
{
	struct fake_block *at = &access->file->block[request->block];
	struct fake_pool *pool = access->file->pool;

	if (request->form == TIERFS_FORM_AWAY) {
		fake_make_hole(access->file, access->fd, request->block);
		*at = (struct fake_block){ .state = TIERFS_STATE_COLD, .away = true, .ident = request->ident };
	} else if (at->state != TIERFS_STATE_RESIDENT && codec_is_zero(access->plain, access->info.block_bytes)) {
		fake_make_hole(access->file, access->fd, request->block);
		return;
	} else {
		bool dram = request->flags & TIERFS_BLOCK_TO_DRAM && !at->away && at->state != TIERFS_STATE_RESIDENT &&
			    pool->dram_blocks;

		fake_put(access->file, access->fd, request->block, access->plain);
		fake_stays_cold(at);
		if (dram) {
			at->state = TIERFS_STATE_RESIDENT;
			pool->dram_blocks--;
		}
	}
	if (request->flags & TIERFS_BLOCK_SET_AGE) {
		at->generation = request->generation;
		at->tier = request->tier;
	}
}

static inline void fake_write_one(struct tierfs_access *access, struct tierfs_access_record *record)
{
	struct tierfs_access_record request = *record;
	struct fake_block *at = &access->file->block[request.block];
	struct tierfs_ident said = IDENT_NONE;
	int err = 0;

	if (fake_leaves_alone(at, &request)) {
		/* An answer says what the block is; nothing of the request is left. */
		fake_look(access, request.block, record);
		return;
	}
	if (request.form != TIERFS_FORM_AWAY)
		err = fake_take(access, &request, &said);
	if (!err && request.flags & TIERFS_BLOCK_AWAY && !ident_same(at->ident, said))
		err = -ESTALE;
	if (!err)
		fake_store(access, &request);
	fake_look(access, request.block, record);
	record->result = TIERFS_ACCESS_WRITE_OK;
	if (err)
		fake_refuse(record, err);
}

static inline void fake_set_one(struct tierfs_access *access, struct tierfs_access_record *record)
{
	struct fake_block *at = &access->file->block[record->block];

	if (at->state == TIERFS_STATE_COLD || at->state == TIERFS_STATE_RESIDENT) {
		at->generation = record->generation;
		at->tier = record->tier;
	}
	fake_look(access, record->block, record);
	record->result = at->state == TIERFS_STATE_HOLE ? TIERFS_ACCESS_HOLE : TIERFS_ACCESS_SET_OK;
}

static inline void fake_identify_one(struct tierfs_access *access, struct tierfs_access_record *record)
{
	fake_must(record->form == TIERFS_FORM_PLAIN && record->payload_bytes == access->info.block_bytes);
	record->ident = mac_of(access->mac, access->buffer + record->payload_at, record->payload_bytes);
	record->result = TIERFS_ACCESS_READ_OK;
}

/* --- calls ------------------------------------------------------------------------------------------------------- */

static inline int fake_begin(struct tierfs_access *access, enum fake_op op, uint32_t flags)
{
	fake_must(!access->under_way);
	access->begun = access->added;
	access->added = 0;
	if (op == FAKE_LIST)
		access->used = 0;
	if (!access->begun)
		return -ENODATA;
	access->op = op;
	access->flags = flags;
	access->under_way = true;
	return 0;
}

int tierfs_access_begin_read_list(struct tierfs_access *access, uint32_t flags)
{
	return fake_begin(access, FAKE_LIST, flags);
}

int tierfs_access_begin_write(struct tierfs_access *access, uint32_t flags)
{
	return fake_begin(access, FAKE_WRITE, flags);
}

static inline void fake_do_one(struct tierfs_access *access, struct tierfs_access_record *record)
{
	int err = fake_trip(access->op, access->file->pool, false);

	if (fake.hook && !err)
		err = fake.hook(access->op, access->file, record->block);
	fake_must(record->block < access->info.blocks);
	if (err)
		fake_refuse(record, err);
	else if (access->op == FAKE_LIST)
		fake_list_one(access, record);
	else if (access->op == FAKE_WRITE)
		fake_write_one(access, record);
	else if (access->op == FAKE_SET)
		fake_set_one(access, record);
	else
		fake_identify_one(access, record);
}

int tierfs_access_end(struct tierfs_access *access, struct tierfs_access_answer *ret)
{
	struct tierfs_access_record *records = (struct tierfs_access_record *)access->buffer;
	bool changes = access->op == FAKE_WRITE || access->op == FAKE_SET;
	int err;

	fake_must(access->under_way);
	pthread_mutex_lock(&fake.mutex);
	err = changes && !access->writes ? -EACCES : fake_trip(access->op, access->file->pool, true);
	for (size_t i = 0; !err && i < access->begun; i++)
		fake_do_one(access, &records[i]);
	pthread_mutex_unlock(&fake.mutex);
	access->under_way = false;
	access->used = 0;
	*ret = (struct tierfs_access_answer){ .record = records, .count = err ? 0 : access->begun };
	return err;
}

static inline int fake_call(struct tierfs_access *access, enum fake_op op, uint32_t flags,
			    struct tierfs_access_answer *ret)
{
	int err = fake_begin(access, op, flags);

	if (err == -ENODATA) {
		*ret = (struct tierfs_access_answer){};
		return 0;
	}
	return err ? err : tierfs_access_end(access, ret);
}

int tierfs_access_write(struct tierfs_access *access, uint32_t flags, struct tierfs_access_answer *ret)
{
	return fake_call(access, FAKE_WRITE, flags, ret);
}

int tierfs_access_set(struct tierfs_access *access, uint32_t flags, struct tierfs_access_answer *ret)
{
	return fake_call(access, FAKE_SET, flags, ret);
}

int tierfs_access_identify(struct tierfs_access *access, struct tierfs_access_answer *ret)
{
	return fake_call(access, FAKE_IDENTIFY, 0, ret);
}

/* Under mutex: what the supplier was not told of. */
static inline size_t fake_find_wanted(struct tierfs_access *access, uint64_t *ret_away)
{
	struct tierfs_access_record *records = (struct tierfs_access_record *)access->buffer;
	size_t count = 0;

	*ret_away = 0;
	for (uint64_t block = 0; block < access->info.blocks; block++) {
		struct fake_block *at = &access->file->block[block];

		*ret_away += at->away;
		if (!at->away || !at->wanted || at->told)
			continue;
		at->told = true;
		records[count++] = (struct tierfs_access_record){ .block = block, .count = 1 };
	}
	return count;
}

int tierfs_access_wanted(struct tierfs_access *access, struct tierfs_access_answer *ret)
{
	int err = 0;

	*ret = (struct tierfs_access_answer){ .record = (struct tierfs_access_record *)access->buffer };
	for (int tries = 0; !err && !ret->count && tries < 20; tries++) {
		if (tries)
			usleep(1000);
		pthread_mutex_lock(&fake.mutex);
		if (!tries)
			err = fake_trip(FAKE_WANTED, access->file->pool, true);
		if (!err && access->serial < access->file->supplier)
			err = -EBUSY;
		if (!err && access->serial > access->file->supplier) {
			access->file->supplier = access->serial;
			for (uint64_t block = 0; block < access->info.blocks; block++)
				access->file->block[block].told = false;
		}
		if (!err)
			ret->count = fake_find_wanted(access, &ret->away_blocks);
		pthread_mutex_unlock(&fake.mutex);
	}
	return err;
}
