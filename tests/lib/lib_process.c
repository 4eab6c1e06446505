#include "lib_process.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/attach.h"
#include "engine/fault.h"
#include "engine/mapper.h"
#include "engine/mappers.h"
#include "engine/parked.h"
#include "engine/ramfile.h"
#include "mem/arena.h"

#define PAGE 4096U
#define TRIES 16

/* What stands for the kernel here is not what a test has fail with lib_fail, which goes by the symbol. */
off_t process_lseek(int fd, off_t offset, int whence) __asm__("lseek");
ssize_t process_pread(int fd, void *buf, size_t count, off_t offset) __asm__("pread");
ssize_t process_pwrite(int fd, const void *buf, size_t count, off_t offset) __asm__("pwrite");

struct process {
	struct mapper mapper; /* first */
	struct ramfile *file;
	int arena;
	uint64_t pages;
	_Atomic bool ended;
	pthread_mutex_t lock;               /* guards what follows: the engine calls from threads of its own, too */
	uint8_t *mapped, *guarded, *poison; /* a page each */
	uint32_t block_pages;
	uint64_t acknowledged, round; /* the agent's: last round answered, last round asked for */
	bool poisoned;
	unsigned int fail_fill; /* 0: never; else the page of that number that is filled from now on is refused, once */
	enum process_call fail_kind;
	unsigned int fail_call; /* 0: never; else the call of that number from now on fails, once */
	uint64_t calls;
	uint64_t woken_start, woken_end; /* hull of what was woken */
};

static struct process *of(struct mapper *mapper)
{
	return (struct process *)mapper;
}

static void unlock(pthread_mutex_t **lock)
{
	pthread_mutex_unlock(*lock);
}

static pthread_mutex_t *locked(struct process *process)
{
	pthread_mutex_lock(&process->lock);
	return &process->lock;
}

/* Until the end of the scope. */
#define LOCKED(process) __attribute__((cleanup(unlock), unused)) pthread_mutex_t *lock = locked(process)

/* Under lock. */
static int enter(struct process *process, enum process_call call)
{
	process->calls++;
	if (!process->fail_call || (process->fail_kind != call && process->fail_kind != PROCESS_CALLS))
		return 0;
	return --process->fail_call ? 0 : -ENOMEM;
}

static bool present(const struct process *process, uint64_t page)
{
	off_t at = (off_t)(page * PAGE);

	return process_lseek(process->arena, at, SEEK_DATA) == at;
}

static int process_protect(struct mapper *mapper, uint64_t offset, uint64_t length, bool on)
{
	struct process *process = of(mapper);
	LOCKED(process);
	int err = enter(process, PROCESS_PROTECT);

	for (uint64_t page = offset / PAGE; !err && page < (offset + length) / PAGE && page < process->pages; page++)
		process->guarded[page] = on;
	return err;
}

/* Under lock. */
static int fill(struct process *process, uint64_t offset, const void *data, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += PAGE) {
		uint64_t page = (offset + at) / PAGE;

		if (present(process, page))
			continue;
		if (process->fail_fill && --process->fail_fill == 0)
			return -ENOMEM;
		if (process_pwrite(process->arena, (const char *)data + at, PAGE, (off_t)(offset + at)) != PAGE)
			return -EIO;
		process->mapped[page] = 1;
		process->guarded[page] = 0; /* UFFDIO_COPY installs a writable entry over a marker */
		process->poison[page] = 0;
	}
	return 0;
}

static int process_fill(struct mapper *mapper, uint64_t offset, const void *data, uint64_t length)
{
	struct process *process = of(mapper);
	LOCKED(process);
	int err = enter(process, PROCESS_FILL);

	return err ? err : fill(process, offset, data, length);
}

/* Under lock. */
static int fill_zero(struct process *process, uint64_t offset, uint64_t length)
{
	static const char zeros[PAGE];
	int err = enter(process, PROCESS_FILL_ZERO);

	for (uint64_t at = 0; !err && at < length; at += PAGE)
		err = fill(process, offset + at, zeros, PAGE);
	return err;
}

static int process_fill_zero(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	struct process *process = of(mapper);
	LOCKED(process);

	return fill_zero(process, offset, length);
}

static int process_wake(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	struct process *process = of(mapper);
	LOCKED(process);
	int err = enter(process, PROCESS_WAKE);

	/* Touches are tried again by the test. */
	if (err)
		return err;
	if (process->woken_start == process->woken_end) {
		process->woken_start = offset;
		process->woken_end = offset + length;
	}
	if (offset < process->woken_start)
		process->woken_start = offset;
	if (offset + length > process->woken_end)
		process->woken_end = offset + length;
	return 0;
}

static int process_poison(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	struct process *process = of(mapper);
	LOCKED(process);

	process->poisoned = true;
	for (uint64_t page = offset / PAGE; page < (offset + length) / PAGE && page < process->pages; page++)
		if (!process->mapped[page] || !present(process, page))
			process->poison[page] = 1;
	return 0;
}

static int process_heal(struct mapper *mapper, uint64_t offset, uint64_t length, bool zeros)
{
	struct process *process = of(mapper);
	LOCKED(process);
	int err = enter(process, PROCESS_HEAL);

	if (!err && zeros)
		err = fill_zero(process, offset, length);
	for (uint64_t page = offset / PAGE; !err && page < (offset + length) / PAGE && page < process->pages; page++) {
		if (!present(process, page))
			continue;
		process->mapped[page] = 1;
		process->guarded[page] = 0;
		process->poison[page] = 0;
	}
	return err;
}

static int process_look(struct mapper *mapper, uint64_t first, uint64_t count, uint8_t *used)
{
	struct process *process = of(mapper);
	LOCKED(process);
	int err = enter(process, PROCESS_LOOK);

	if (err)
		memset(used, 1, count);
	for (uint64_t i = 0; !err && i < count * process->block_pages; i++) {
		uint64_t page = first * process->block_pages + i;

		if (page < process->pages && process->mapped[page] && present(process, page))
			used[i / process->block_pages] = 1;
	}
	return err;
}

static int process_zap(struct mapper *mapper, uint64_t first, uint64_t count, const uint8_t *mark, uint64_t round)
{
	struct process *process = of(mapper);
	LOCKED(process);
	bool fails = enter(process, PROCESS_ZAP); /* what is not zapped stays mapped; the round ends all the same */

	for (uint64_t i = 0; !fails && i < count * process->block_pages; i++)
		if (mark[i / process->block_pages] && first * process->block_pages + i < process->pages)
			process->mapped[first * process->block_pages + i] = 0;
	if (!count)
		process->round = round;
	return 0;
}

/* It has no page tables whose entries could be large. */
static int process_split(struct mapper *mapper, uint64_t offset, uint64_t length, bool thorough)
{
	(void)mapper;
	(void)offset;
	(void)length;
	(void)thorough;
	return 0;
}

static bool process_ended(struct mapper *mapper)
{
	return atomic_load(&of(mapper)->ended);
}

static const struct mapper_ops OPS = {
	.protect = process_protect,
	.fill = process_fill,
	.fill_zero = process_fill_zero,
	.wake = process_wake,
	.poison = process_poison,
	.heal = process_heal,
	.look = process_look,
	.zap = process_zap,
	.split = process_split,
	.ended = process_ended,
};

int process_map(struct ramfile *file, uint64_t holder, struct process **ret)
{
	struct process *process = calloc(1, sizeof(*process));
	struct ramfile_figures figures;
	int err;

	if (!process)
		return -ENOMEM;
	ramfile_figures(file, &figures);
	process->mapper = (struct mapper){ .ops = &OPS, .holder = holder };
	process->file = file;
	process->pages = (figures.size_bytes + PAGE - 1) / PAGE;
	process->block_pages = (uint32_t)(figures.block_bytes / PAGE);
	process->mapped = calloc(process->pages + 1, 1);
	process->guarded = calloc(process->pages + 1, 1);
	process->poison = calloc(process->pages + 1, 1);
	process->arena = -1;
	pthread_mutex_init(&process->lock, NULL);
	err = process->mapped && process->guarded && process->poison ? 0 : -ENOMEM;
	attach_await_close(file);
	if (!err)
		err = mappers_arena_fd(file, true, &process->arena);
	if (!err)
		err = arena_hold(process->arena, holder);
	if (!err)
		err = attach_add(file, &process->mapper);
	if (err) {
		if (process->arena >= 0)
			close(process->arena);
		free(process->mapped);
		free(process->guarded);
		free(process->poison);
		free(process);
		return err;
	}
	*ret = process;
	return 0;
}

void process_end(struct process *process)
{
	LOCKED(process);

	/* Its descriptors are closed before anybody learns that it has ended. */
	close(process->arena);
	process->arena = -1;
	atomic_store(&process->ended, true);
}

void process_unmap(struct process *process)
{
	if (!process)
		return;
	attach_remove(process->file, &process->mapper);
	if (process->arena >= 0)
		close(process->arena);
	pthread_mutex_destroy(&process->lock);
	free(process->mapped);
	free(process->guarded);
	free(process->poison);
	free(process);
}

enum touched { TOUCHED, TOUCHED_MISSING, TOUCHED_PROTECTED, TOUCHED_FAILED };

/* What the processor does: nobody protects the page between the look at its entry and the access. */
static enum touched try_touch(struct process *process, uint64_t offset, void *buf, uint64_t length, bool write)
{
	LOCKED(process);
	uint64_t page = offset / PAGE;
	ssize_t done;

	process->poisoned = process->poison[page];
	if (process->poisoned)
		return TOUCHED;
	process->mapped[page] = present(process, page);
	if (!process->mapped[page])
		return TOUCHED_MISSING;
	if (write && process->guarded[page])
		return TOUCHED_PROTECTED;
	done = write ? process_pwrite(process->arena, buf, length, (off_t)offset)
		     : process_pread(process->arena, buf, length, (off_t)offset);
	return done == (ssize_t)length ? TOUCHED : TOUCHED_FAILED;
}

bool process_touch(struct process *process, uint64_t offset, void *buf, uint64_t length, bool write)
{
	for (int tries = 0; tries < TRIES; tries++) {
		enum touched touched = try_touch(process, offset, buf, length, write);

		if (touched == TOUCHED || touched == TOUCHED_FAILED)
			return touched == TOUCHED;
		fault_serve(process->file, &process->mapper, offset / PAGE * PAGE,
			    touched == TOUCHED_PROTECTED ? FAULT_PROTECTED : FAULT_MISSING, clock_ns());
	}
	return false;
}

void process_fail_fill(struct process *process, unsigned int nth)
{
	LOCKED(process);

	process->fail_fill = nth;
}

void process_fail_call(struct process *process, enum process_call call, unsigned int nth)
{
	LOCKED(process);

	process->fail_kind = call;
	process->fail_call = nth;
}

uint64_t process_calls(struct process *process)
{
	LOCKED(process);

	return process->calls;
}

bool process_was_woken(struct process *process, uint64_t offset, uint64_t length)
{
	LOCKED(process);
	bool was = process->woken_start <= offset && offset + length <= process->woken_end;

	process->woken_start = process->woken_end = 0;
	return was;
}

void process_map_anew(struct process *process)
{
	LOCKED(process);

	memset(process->mapped, 0, process->pages);
	memset(process->poison, 0, process->pages);
}

bool process_poisoned(struct process *process)
{
	LOCKED(process);

	return process->poisoned;
}

void process_run_agent(struct process *process)
{
	uint64_t round;
	bool news;

	pthread_mutex_lock(&process->lock);
	round = process->round;
	news = process->acknowledged != round;
	process->acknowledged = round;
	pthread_mutex_unlock(&process->lock);
	if (news)
		mappers_zapped(process->file, &process->mapper, round);
}
