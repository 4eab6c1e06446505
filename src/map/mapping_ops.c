/* The calls are made from many threads. Segments are copied out under the lock, and the kernel is called without it: a
 * range that is unmapped in between answers -ENOENT, which means the same as not having the segment.
 *
 * A range may be unmapped behind our back (a raw munmap system call), or consist of several areas (mprotect, mlock or
 * madvise of a part). The kernel then refuses the whole call, so it is repeated with halves to find what is left.
 *
 * Calls that take the lock of the process's address space are made by threads that can be replaced, or by an arm
 * (map/peers.h). Where the process is stalled, content goes into the arena and not through its page tables, and the
 * rest is refused. */
#include "map/mapping_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <tierfs/protocol.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/load.h"
#include "engine/mapper.h"
#include "engine/mappers.h"
#include "map/table.h"
#include "map/uffd.h"
#include "policy/tiering.h"
#include "wire/wire.h"

#define PAGE 4096U
/* Pages advised by one system call. */
#define SPLIT_PAGES 512

static struct mapping *of(struct mapper *mapper)
{
	return (struct mapping *)mapper;
}

/* A part of a range of the file, as addresses. */
struct piece {
	uint64_t addr, length, offset;
};

/* The next piece of [*offset, end) that is mapped, and moves *offset behind it. *ret_gap: bytes before it that are not.
 */
static bool next_piece(struct mapping *mapping, uint64_t *offset, uint64_t end, struct piece *ret, uint64_t *ret_gap)
{
	const struct segment *best = NULL;
	uint64_t start = end;

	LOCK_SCOPE(&mapping->lock);
	for (unsigned int i = 0; i < mapping->segments; i++) {
		const struct segment *segment = &mapping->segment[i];
		uint64_t from = segment->offset > *offset ? segment->offset : *offset;

		if (from < segment->offset + segment->length && from < start) {
			start = from;
			best = segment;
		}
	}
	*ret_gap = start - *offset;
	if (!best) {
		*offset = end;
		return false;
	}
	ret->offset = start;
	ret->addr = best->addr + (start - best->offset);
	ret->length = best->offset + best->length - start;
	if (ret->length > end - start)
		ret->length = end - start;
	*offset = start + ret->length;
	return true;
}

typedef int piece_fn(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg);

/* Calls fn on a piece, and on halves of it where the kernel says that a part is gone or is another area. */
static int call_halves(struct mapping *mapping, uint64_t addr, uint64_t length, piece_fn *fn, void *arg)
{
	uint64_t half = length / 2 / PAGE * PAGE;
	int err = fn(mapping, addr, length, arg), second;

	if (err != -ENOENT || !half)
		return err == -ENOENT || err == -ESRCH ? 0 : err;
	err = call_halves(mapping, addr, half, fn, arg);
	second = call_halves(mapping, addr + half, length - half, fn, arg);
	return err ? err : second;
}

/* Calls fn on each mapped piece. */
static int each_piece(struct mapping *mapping, uint64_t offset, uint64_t length, piece_fn *fn, void *arg)
{
	uint64_t end = offset + length, gap;
	struct piece piece;
	int first_err = 0;

	while (next_piece(mapping, &offset, end, &piece, &gap)) {
		int err = call_halves(mapping, piece.addr, piece.length, fn, arg);

		if (err && !first_err)
			first_err = err;
	}
	return first_err;
}

/* --- calls into the process --------------------------------------------------------------------------------- */

struct errand {
	struct peer_errand errand; /* first */
	struct mapping *mapping;   /* referenced */
	/* Undone if it was late. */
	int (*fn)(struct errand *errand);
	bool on;       /* protect */
	bool thorough; /* split */
	uint8_t *used; /* look: behind the runs */
	size_t count;
	struct mapper_run run[];
};

static struct errand *errand_new(struct mapping *mapping, int (*fn)(struct errand *errand),
				 const struct mapper_run *run, size_t count, size_t blocks)
{
	struct errand *errand = calloc(1, sizeof(*errand) + count * sizeof(*run) + blocks);

	if (!errand)
		return NULL;
	errand->mapping = mapping;
	errand->fn = fn;
	errand->used = (uint8_t *)&errand->run[count];
	errand->count = count;
	memcpy(errand->run, run, count * sizeof(*run));
	return errand;
}

static int errand_go(struct peer_errand *base)
{
	struct errand *errand = (struct errand *)base;

	return errand->fn(errand);
}

static int protect_all(struct errand *errand);

/* Nobody waits for it any more; a protection that came late would stop writers of blocks that nobody stores. */
static void errand_late(struct peer_errand *base)
{
	struct errand *errand = (struct errand *)base;

	if (errand->fn == protect_all && errand->on) {
		errand->on = false;
		protect_all(errand);
	}
	map_table_drop(errand->mapping);
	free(errand);
}

/* Does it here if this thread can be replaced, or sends an arm. *errand is NULL then if it is late. */
static int run_errand(struct errand **errand)
{
	struct mapping *mapping = (*errand)->mapping;
	int err = -EBUSY;

	if (peers_enlisted(mapping->peers)) {
		if (peer_enter(mapping->peer)) {
			err = (*errand)->fn(*errand);
			peer_leave(mapping->peer);
		}
		return err;
	}
	map_table_keep(mapping);
	(*errand)->errand = (struct peer_errand){ .go = errand_go, .late = errand_late };
	err = peer_call(mapping->peer, &(*errand)->errand);
	if (err == -ETIMEDOUT)
		*errand = NULL;
	else
		map_table_drop(mapping);
	return err;
}

static void read_ahead_late(void *arg, bool late)
{
	tiering_ahead_late(arg, late);
}

/* For calls whose late end would be no use to anybody, since what they do must happen or not: threads of read-ahead,
 * beside the fault workers. */
static bool enter(struct mapping *mapping)
{
	if (peers_enlist(mapping->peers, read_ahead_late, mapping->engine))
		return false;
	return peer_enter(mapping->peer);
}

/* --- engine/mapper.h ------------------------------------------------------------------------------------------ */

static int do_protect(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg)
{
	return uffd_protect(mapping->uffd, addr, length, *(bool *)arg);
}

static int protect_all(struct errand *errand)
{
	int first_err = 0;

	for (size_t i = 0; i < errand->count; i++) {
		int err = each_piece(errand->mapping, errand->run[i].offset, errand->run[i].length, do_protect,
				     &errand->on);

		if (err && !first_err)
			first_err = err;
	}
	return first_err;
}

static int mapping_protect_runs(struct mapper *mapper, const struct mapper_run *run, size_t count, bool on)
{
	struct errand *errand = errand_new(of(mapper), protect_all, run, count, 0);
	int err;

	if (!errand)
		return -ENOMEM;
	errand->on = on;
	err = run_errand(&errand);
	free(errand);
	return err;
}

/* Without memory of its own where a fault worker asks: a writer waits for it. */
static int mapping_protect(struct mapper *mapper, uint64_t offset, uint64_t length, bool on)
{
	struct mapping *mapping = of(mapper);
	struct mapper_run run = { .offset = offset, .length = length };
	int err;

	if (!peers_enlisted(mapping->peers))
		return mapping_protect_runs(mapper, &run, 1, on);
	if (!peer_enter(mapping->peer))
		return -EBUSY;
	err = each_piece(mapping, offset, length, do_protect, &on);
	peer_leave(mapping->peer);
	return err;
}

static int do_zero(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg)
{
	(void)arg;
	return uffd_zero(mapping->uffd, addr, length);
}

/* Calls fn on each mapped piece, unless the process is stalled. */
static int call_pieces(struct mapping *mapping, uint64_t offset, uint64_t length, piece_fn *fn, void *arg)
{
	int err;

	if (!enter(mapping))
		return -EBUSY;
	err = each_piece(mapping, offset, length, fn, arg);
	peer_leave(mapping->peer);
	return err;
}

static int mapping_fill_zero(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	return call_pieces(of(mapper), offset, length, do_zero, NULL);
}

static int do_wake(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg)
{
	(void)arg;
	return uffd_wake(mapping->uffd, addr, length);
}

static int mapping_wake(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	return each_piece(of(mapper), offset, length, do_wake, NULL);
}

static int do_poison(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg)
{
	int err;

	(void)arg;
	/* A demotion leaves markers of its protection behind, over which the kernel puts no poison. */
	err = uffd_protect(mapping->uffd, addr, length, false);
	return err ? err : uffd_poison(mapping->uffd, addr, length);
}

static int mapping_poison(struct mapper *mapper, uint64_t offset, uint64_t length)
{
	int err = call_pieces(of(mapper), offset, length, do_poison, NULL);

	return err == -EBUSY ? 0 : err; /* who touches it waits, and touches it again when the process has recovered */
}

static int do_heal(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg)
{
	return uffd_heal(mapping->uffd, addr, length, *(bool *)arg);
}

static int mapping_heal(struct mapper *mapper, uint64_t offset, uint64_t length, bool zeros)
{
	return call_pieces(of(mapper), offset, length, do_heal, &zeros);
}

/* Through the page tables, or into the arena where those are gone. */
static int fill_piece(struct mapping *mapping, const struct piece *piece, const uint8_t *data)
{
	int err = uffd_copy(mapping->uffd, piece->addr, data, piece->length);
	uint64_t half = piece->length / 2 / PAGE * PAGE;
	struct piece head = { .addr = piece->addr, .length = half, .offset = piece->offset };
	struct piece tail = { .addr = piece->addr + half,
			      .length = piece->length - half,
			      .offset = piece->offset + half };

	if (err != -ENOENT && err != -ESRCH)
		return err;
	if (err == -ESRCH || !half)
		return load_put_absent(mapping->file, data, piece->length, piece->offset);
	err = fill_piece(mapping, &head, data);
	return err ? err : fill_piece(mapping, &tail, data + half);
}

static int fill_pieces(struct mapping *mapping, uint64_t offset, const void *data, uint64_t length)
{
	uint64_t start = offset, end = offset + length, gap;
	struct piece piece;

	for (;;) {
		uint64_t at = offset;
		bool found = next_piece(mapping, &offset, end, &piece, &gap);
		int err = 0;

		if (gap)
			err = load_put_absent(mapping->file, (const uint8_t *)data + (at - start), gap, at);
		if (!err && found)
			err = fill_piece(mapping, &piece, (const uint8_t *)data + (piece.offset - start));
		if (err || !found)
			return err;
	}
}

static int mapping_fill(struct mapper *mapper, uint64_t offset, const void *data, uint64_t length)
{
	struct mapping *mapping = of(mapper);
	int err;

	if (enter(mapping)) {
		err = fill_pieces(mapping, offset, data, length);
		peer_leave(mapping->peer);
		return err;
	}
	err = load_put_absent(mapping->file, data, length, offset);
	return err ? err : mapping_wake(mapper, offset, length);
}

/* A process that stands still does not answer, so it is asked by what it uses (map/still.h). */
static bool stands_still(struct mapping *mapping)
{
	uint64_t ticks;
	bool holds;

	if (!atomic_load(&mapping->stands_still))
		return false;
	ticks = still_ticks(mapping->pid);
	LOCK_SCOPE(&mapping->lock);
	holds = still_holds(&mapping->still, ticks);
	atomic_store(&mapping->stands_still, holds);
	return holds;
}

/* The round of a process that owes an answer to a ZAP: over as well if it stands still. Nothing was zapped then, and
 * nothing that is mapped counts as in use as long as it does. Where the host does not show what a device holds, a page
 * that was not zapped could be demoted under it. */
static bool over_while_still(struct mapping *mapping)
{
	uint64_t ticks;
	bool over;

	if (!engine_sees_holds(mapping->engine))
		return false;
	ticks = still_ticks(mapping->pid);

	LOCK_SCOPE(&mapping->lock);
	if (!mapping->round_ends || !mapping->zaps_out || mapping->sock < 0)
		return false;
	over = still_ask(&mapping->still, ticks, clock_ns());
	atomic_store(&mapping->stands_still, over);
	mapping->round_ends = !over;
	return over;
}

struct sight {
	uint64_t addr, offset; /* of the piece */
	uint64_t first, count; /* blocks */
	uint32_t block_bytes;
	uint8_t *used;
};

static void mark_used(void *arg, uint64_t addr, uint64_t length)
{
	const struct sight *sight = arg;
	uint64_t offset = sight->offset + (addr - sight->addr);

	for (uint64_t block = offset / sight->block_bytes; block * sight->block_bytes < offset + length; block++)
		if (block >= sight->first && block < sight->first + sight->count)
			sight->used[block - sight->first] = 1;
}

static int do_look(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg)
{
	struct sight *sight = arg;
	int err;

	sight->addr = addr;
	err = mapping_offset(mapping, addr, &sight->offset);
	if (err)
		return 0; /* unmapped meanwhile */
	return uffd_mapped(mapping->pagemap, addr, length, mark_used, sight);
}

static int look_all(struct errand *errand)
{
	uint32_t block_bytes = errand->mapping->block_bytes;
	uint8_t *used = errand->used;

	for (size_t i = 0; i < errand->count; i++) {
		const struct mapper_run *run = &errand->run[i];
		struct sight sight = { .first = run->offset / block_bytes,
				       .count = run->length / block_bytes,
				       .block_bytes = block_bytes,
				       .used = used };
		int err = each_piece(errand->mapping, run->offset, run->length, do_look, &sight);

		if (err)
			return err;
		used += sight.count;
	}
	return 0;
}

static int mapping_look_runs(struct mapper *mapper, const struct mapper_run *run, size_t count, uint8_t *used)
{
	struct mapping *mapping = of(mapper);
	struct errand *errand;
	size_t blocks = 0;
	int err = -ENOMEM;

	if (stands_still(mapping)) /* what is mapped is not in use */
		return 0;
	for (size_t i = 0; i < count; i++)
		blocks += run[i].length / mapping->block_bytes;
	errand = errand_new(mapping, look_all, run, count, blocks);
	if (errand)
		err = run_errand(&errand);
	if (err)
		memset(used, 1, blocks); /* what cannot be seen counts as in use */
	for (size_t i = 0; i < blocks && !err; i++)
		used[i] |= errand->used[i];
	free(errand);
	return err;
}

static int mapping_look(struct mapper *mapper, uint64_t first, uint64_t count, uint8_t *used)
{
	struct mapping *mapping = of(mapper);
	struct mapper_run run = { .offset = first * mapping->block_bytes, .length = count * mapping->block_bytes };

	return mapping_look_runs(mapper, &run, 1, used);
}

struct zap {
	struct tierfs_msg msg;
};

static void zap_send(struct mapping *mapping, struct zap *zap)
{
	int err = -EPIPE;

	if (!zap->msg.u.zap.count)
		return;
	lock_get(&mapping->lock);
	zap->msg.type = TIERFS_MSG_ZAP;
	zap->msg.seq = (mapping->id << 24) | (mapping->next_zap++ & 0xffffff);
	if (mapping->sock >= 0) {
		mapping->zaps_out++;
		err = wire_send(mapping->sock, &zap->msg, NULL, 0);
		/* Not sent is not zapped: those blocks stay mapped and count as in use. */
		if (err)
			mapping->zaps_out--;
	}
	lock_put(&mapping->lock);
	zap->msg.u.zap.count = 0;
}

static int do_zap(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg)
{
	struct zap *zap = arg;

	zap->msg.u.zap.range[zap->msg.u.zap.count++] = (struct tierfs_range){ .addr = addr, .length_bytes = length };
	if (zap->msg.u.zap.count == TIERFS_ZAP_MAX)
		zap_send(mapping, zap);
	return 0;
}

/* Under lock: the round is over if everything was sent and acknowledged. */
static bool round_over(struct mapping *mapping)
{
	if (!mapping->round_ends || mapping->zaps_out || mapping->sock < 0)
		return false;
	mapping->round_ends = false;
	return true;
}

static int mapping_zap(struct mapper *mapper, uint64_t first, uint64_t count, const uint8_t *mark, uint64_t round)
{
	struct mapping *mapping = of(mapper);
	struct zap zap = { .msg.u.zap.count = 0 };
	bool over = false;

	for (uint64_t i = 0; i < count && !stands_still(mapping);) {
		uint64_t run = 0;

		while (i + run < count && mark[i + run])
			run++;
		if (run)
			each_piece(mapping, (first + i) * mapping->block_bytes, run * mapping->block_bytes, do_zap,
				   &zap);
		i += run ? run : 1;
	}
	zap_send(mapping, &zap);
	if (!count) {
		lock_get(&mapping->lock);
		mapping->round = round;
		mapping->round_ends = true;
		over = round_over(mapping);
		lock_put(&mapping->lock);
		over = over || over_while_still(mapping);
	}
	if (over)
		mappers_zapped(mapping->file, mapper, round);
	return 0;
}

static void mapping_waiting(struct mapper *mapper, bool on)
{
	map_table_waiting(of(mapper), on);
}

static void mapping_waits(struct mapper *mapper, struct waits_sum *sum)
{
	struct mapping *mapping = of(mapper);

	if (peer_stalled(mapping->peer))
		waits_add(sum, WAIT_PROCESS, atomic_load(&mapper->refused), atomic_load(&mapper->refused_ns));
	else
		atomic_store(&mapper->refused, 0);
	LOCK_SCOPE(&mapping->lock);
	for (unsigned int i = 0; i < mapping->events.count; i++)
		waits_add(sum, WAIT_TURN, 1, mapping->events.event[i].arrived_ns);
}

/* Advice that a part of a large page is cold makes the kernel split it, if no other process maps it. Where it fails the
 * large page stays, and whoever wants it split looks whether it did. */
static void advise_cold(struct mapping *mapping, const struct iovec *part, size_t count)
{
	syscall(SYS_process_madvise, peer_pidfd(mapping->peer), part, count, MADV_COLD, 0);
}

static int do_split(struct mapping *mapping, uint64_t addr, uint64_t length, void *arg)
{
	const bool *thorough = arg;
	struct iovec part[SPLIT_PAGES];
	size_t count = 0;

	/* Advise all but one 4 KiB page: the range then covers only a part of the huge page, so the kernel splits
	 * it. */
	if (!*thorough) {
		part[0] = (struct iovec){ .iov_base = (void *)addr, .iov_len = length - PAGE };
		if (length > PAGE)
			advise_cold(mapping, part, 1);
		return 0;
	}
	for (uint64_t at = 0; at < length; at += PAGE) {
		part[count++] = (struct iovec){ .iov_base = (void *)(addr + at), .iov_len = PAGE };
		if (count == SPLIT_PAGES || at + PAGE == length) {
			advise_cold(mapping, part, count);
			count = 0;
		}
	}
	return 0;
}

static int split_all(struct errand *errand)
{
	return each_piece(errand->mapping, errand->run[0].offset, errand->run[0].length, do_split, &errand->thorough);
}

static int mapping_split(struct mapper *mapper, uint64_t offset, uint64_t length, bool thorough)
{
	struct mapper_run run = { .offset = offset, .length = length };
	struct errand *errand = errand_new(of(mapper), split_all, &run, 1, 0);
	int err;

	if (!errand)
		return -ENOMEM;
	errand->thorough = thorough;
	err = run_errand(&errand);
	free(errand);
	return err;
}

static bool mapping_ended(struct mapper *mapper)
{
	return !mapping_alive(of(mapper));
}

static const struct mapper_ops OPS = {
	.waiting = mapping_waiting,
	.protect = mapping_protect,
	.protect_runs = mapping_protect_runs,
	.fill = mapping_fill,
	.fill_zero = mapping_fill_zero,
	.wake = mapping_wake,
	.poison = mapping_poison,
	.heal = mapping_heal,
	.look = mapping_look,
	.look_runs = mapping_look_runs,
	.zap = mapping_zap,
	.split = mapping_split,
	.ended = mapping_ended,
	.waits = mapping_waits,
};

bool mapping_ops_zapped(struct mapping *mapping, uint64_t seq)
{
	uint64_t round;
	bool over;

	if (seq >> 24 != (mapping->id & (UINT64_MAX >> 24)))
		return false;
	lock_get(&mapping->lock);
	if (mapping->zaps_out)
		mapping->zaps_out--;
	still_end(&mapping->still);
	atomic_store(&mapping->stands_still, false);
	over = round_over(mapping);
	round = mapping->round;
	lock_put(&mapping->lock);
	if (over)
		mappers_zapped(mapping->file, &mapping->mapper, round);
	return true;
}

int mapping_ops_new(const struct mapping_spec *spec, struct mapping **ret)
{
	int err = mapping_new(spec, ret);

	if (!err)
		(*ret)->mapper.ops = &OPS;
	return err;
}
