#include "lib_process.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/mapper.h"
#include "mem/arena.h"

#define PAGE 4096U
#define TRIES 16

struct process {
	struct mapper mapper; /* first */
	struct ramfile *file;
	int arena;
	uint64_t pages;
	uint8_t *mapped, *guarded; /* a page each */
	uint32_t block_pages;
	uint64_t acknowledged, round; /* the agent's: last round answered, last round asked for */
	bool poisoned;
	unsigned int fail_fill; /* 0: never; else the page of that number that is filled from now on is refused, once */
};

static struct process *of(struct mapper *mapper)
{
	return (struct process *)mapper;
}

static bool present(const struct process *process, uint64_t page)
{
	off_t at = (off_t)(page * PAGE);

	return lseek(process->arena, at, SEEK_DATA) == at;
}

static int process_protect(struct mapper *mapper, uint64_t offset, uint64_t length, bool on)
{
	struct process *process = of(mapper);

	for (uint64_t page = offset / PAGE; page < (offset + length) / PAGE && page < process->pages; page++)
		process->guarded[page] = on;
	return 0;
}

static int process_fill(struct mapper *mapper, uint64_t offset, const void *data, uint64_t length)
{
	struct process *process = of(mapper);

	for (uint64_t at = 0; at < length; at += PAGE) {
		uint64_t page = (offset + at) / PAGE;

		if (present(process, page))
			continue;
		if (process->fail_fill && --process->fail_fill == 0)
			return -ENOMEM;
		if (pwrite(process->arena, (const char *)data + at, PAGE, (off_t)(offset + at)) != PAGE)
			return -EIO;
		process->mapped[page] = 1;
		process->guarded[page] = 0; /* UFFDIO_COPY installs a writable entry over a marker */
	}
	return 0;
}

static int process_fill_zero(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	static const char zeros[PAGE];

	for (uint64_t at = 0; at < length; at += PAGE) {
		int err = process_fill(mapper, offset + at, zeros, PAGE);

		if (err)
			return err;
	}
	return 0;
}

static int process_wake(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	(void)mapper;
	(void)offset;
	(void)length;
	return 0; /* touches are tried again by the test */
}

static int process_poison(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	(void)offset;
	(void)length;
	of(mapper)->poisoned = true;
	return 0;
}

static int process_look(struct mapper *mapper, uint64_t first, uint64_t count, uint8_t *used)
{
	struct process *process = of(mapper);

	for (uint64_t i = 0; i < count * process->block_pages; i++) {
		uint64_t page = first * process->block_pages + i;

		if (page < process->pages && process->mapped[page] && present(process, page))
			used[i / process->block_pages] = 1;
	}
	return 0;
}

static int process_zap(struct mapper *mapper, uint64_t first, uint64_t count, const uint8_t *mark, uint64_t round)
{
	struct process *process = of(mapper);

	for (uint64_t i = 0; i < count * process->block_pages; i++)
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

static const struct mapper_ops OPS = {
	.protect = process_protect,
	.fill = process_fill,
	.fill_zero = process_fill_zero,
	.wake = process_wake,
	.poison = process_poison,
	.look = process_look,
	.zap = process_zap,
	.split = process_split,
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
	process->pages = figures.size_bytes / PAGE;
	process->block_pages = (uint32_t)(figures.block_bytes / PAGE);
	process->mapped = calloc(process->pages + 1, 1);
	process->guarded = calloc(process->pages + 1, 1);
	process->arena = -1;
	err = process->mapped && process->guarded ? 0 : -ENOMEM;
	if (!err)
		err = ramfile_arena_fd(file, true, &process->arena);
	if (!err)
		err = arena_hold(process->arena, holder);
	if (!err)
		err = ramfile_add_mapper(file, &process->mapper);
	if (err) {
		if (process->arena >= 0)
			close(process->arena);
		free(process->mapped);
		free(process->guarded);
		free(process);
		return err;
	}
	*ret = process;
	return 0;
}

void process_unmap(struct process *process)
{
	if (!process)
		return;
	ramfile_remove_mapper(process->file, &process->mapper);
	close(process->arena);
	free(process->mapped);
	free(process->guarded);
	free(process);
}

bool process_touch(struct process *process, uint64_t offset, void *buf, uint64_t length, bool write)
{
	uint64_t page = offset / PAGE;

	process->poisoned = false;
	for (int tries = 0; tries < TRIES; tries++) {
		if (!present(process, page)) {
			process->mapped[page] = 0;
			ramfile_fault(process->file, &process->mapper, page * PAGE, RAMFILE_FAULT_MISSING, 0);
			if (process->poisoned)
				return true;
			continue;
		}
		process->mapped[page] = 1;
		if (write && process->guarded[page]) {
			ramfile_fault(process->file, &process->mapper, page * PAGE, RAMFILE_FAULT_PROTECTED, 0);
			continue;
		}
		if (write)
			return pwrite(process->arena, buf, length, (off_t)offset) == (ssize_t)length;
		return pread(process->arena, buf, length, (off_t)offset) == (ssize_t)length;
	}
	return false;
}

void process_fail_fill(struct process *process, unsigned int nth)
{
	process->fail_fill = nth;
}

bool process_poisoned(const struct process *process)
{
	return process->poisoned;
}

void process_run_agent(struct process *process)
{
	if (process->acknowledged == process->round)
		return;
	process->acknowledged = process->round;
	ramfile_zapped(process->file, &process->mapper, process->round);
}
