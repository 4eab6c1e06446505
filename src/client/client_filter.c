/* client/client_filter.c - see client_filter.h.
 *
 * A filter is a small program of classic BPF over (number, architecture, arguments). The kernel has checked nothing of
 * it yet when it is tried here: every index is checked, and jumps go forward only, so that it ends.
 */
#include "client/client_filter.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <tierfs/ioctl.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif

/* What each need calls. An argument is given where filters look at it. */
static const struct {
	unsigned int needs;
	int number;
	uint64_t args[3];
} calls[] = {
	{ CLIENT_FILTER_ATTACH, SYS_fstatfs, {} },
	{ CLIENT_FILTER_ATTACH, SYS_ioctl, { 0, TIERFS_IOC_INFO } },
	{ CLIENT_FILTER_ATTACH, SYS_ioctl, { 0, USERFAULTFD_IOC_NEW } },
	{ CLIENT_FILTER_ATTACH, SYS_ioctl, { 0, UFFDIO_API } },
	{ CLIENT_FILTER_ATTACH | CLIENT_FILTER_PRIVATE, SYS_pidfd_getfd, {} },
	{ CLIENT_FILTER_ATTACH, SYS_mprotect, { 0, 0, PROT_READ | PROT_WRITE } },
	{ CLIENT_FILTER_PRIVATE, SYS_close_range, {} },
	{ CLIENT_FILTER_PRIVATE, SYS_unshare, {} },
	{ CLIENT_FILTER_PRIVATE | CLIENT_FILTER_VECTOR, SYS_pidfd_open, {} },
	{ CLIENT_FILTER_VECTOR, SYS_process_madvise, {} },
	{ CLIENT_FILTER_COMPARE, SYS_kcmp, {} },
	{ CLIENT_FILTER_PEER, SYS_getsockopt, {} },
	{ CLIENT_FILTER_PEER, SYS_geteuid, {} },
	{ CLIENT_FILTER_STAND, SYS_chdir, {} },
	{ CLIENT_FILTER_LOCKED, SYS_msync, { 0, 0, MS_INVALIDATE } },
};

static _Atomic unsigned int denied_by_any; /* needs */
static _Atomic unsigned int denied_to_threads;
static _Atomic bool seen;

struct machine {
	uint32_t a, x, mem[BPF_MEMWORDS];
};

static bool compare(uint16_t code, uint32_t a, uint32_t b)
{
	switch (BPF_OP(code)) {
	case BPF_JEQ:
		return a == b;
	case BPF_JGT:
		return a > b;
	case BPF_JGE:
		return a >= b;
	default:
		return a & b;
	}
}

static void compute(struct machine *m, uint16_t code, uint32_t b)
{
	switch (BPF_OP(code)) {
	case BPF_ADD:
		m->a += b;
		return;
	case BPF_SUB:
		m->a -= b;
		return;
	case BPF_MUL:
		m->a *= b;
		return;
	case BPF_DIV:
		m->a = b ? m->a / b : 0;
		return;
	case BPF_OR:
		m->a |= b;
		return;
	case BPF_AND:
		m->a &= b;
		return;
	case BPF_XOR:
		m->a ^= b;
		return;
	case BPF_LSH:
		m->a = b < 32 ? m->a << b : 0;
		return;
	case BPF_RSH:
		m->a = b < 32 ? m->a >> b : 0;
		return;
	case BPF_NEG:
		m->a = -m->a;
		return;
	}
}

/* A load into A or X. */
static uint32_t load(const struct machine *m, const struct sock_filter *insn, const struct seccomp_data *data)
{
	uint32_t word = 0;

	switch (BPF_MODE(insn->code)) {
	case BPF_ABS:
		if (insn->k <= sizeof(*data) - sizeof(word))
			memcpy(&word, (const char *)data + insn->k, sizeof(word));
		return word;
	case BPF_IMM:
		return insn->k;
	case BPF_MEM:
		return insn->k < BPF_MEMWORDS ? m->mem[insn->k] : 0;
	case BPF_LEN:
		return sizeof(*data);
	}
	return 0;
}

static void move(struct machine *m, const struct sock_filter *insn)
{
	if (BPF_MISCOP(insn->code) == BPF_TAX)
		m->x = m->a;
	else
		m->a = m->x;
}

/* What the filter answers for a call; SECCOMP_RET_KILL_PROCESS for a filter that makes no sense. */
static uint32_t run(const struct sock_fprog *filter, const struct seccomp_data *data)
{
	struct machine m = {};

	for (uint32_t at = 0; at < filter->len; at++) {
		const struct sock_filter *insn = &filter->filter[at];
		uint32_t operand = BPF_SRC(insn->code) == BPF_X ? m.x : insn->k;

		switch (BPF_CLASS(insn->code)) {
		case BPF_LD:
			m.a = load(&m, insn, data);
			break;
		case BPF_LDX:
			m.x = load(&m, insn, data);
			break;
		case BPF_ST:
		case BPF_STX:
			if (insn->k < BPF_MEMWORDS)
				m.mem[insn->k] = BPF_CLASS(insn->code) == BPF_ST ? m.a : m.x;
			break;
		case BPF_ALU:
			compute(&m, insn->code, operand);
			break;
		case BPF_JMP:
			if (BPF_OP(insn->code) == BPF_JA)
				at += insn->k < filter->len ? insn->k : filter->len;
			else
				at += compare(insn->code, m.a, operand) ? insn->jt : insn->jf;
			break;
		case BPF_RET:
			return BPF_RVAL(insn->code) == BPF_A ? m.a : insn->k;
		case BPF_MISC:
			move(&m, insn);
			break;
		}
	}
	return SECCOMP_RET_KILL_PROCESS;
}

static bool is_allowed(const struct sock_fprog *filter, int number, const uint64_t args[3])
{
	struct seccomp_data data = { .nr = number, .arch = ARCH };
	uint32_t action;

	for (int i = 0; i < 3; i++)
		data.args[i] = args[i];
	action = run(filter, &data) & SECCOMP_RET_ACTION_FULL;
	return action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_LOG;
}

void client_filter_add(const struct sock_fprog *filter, bool all_threads)
{
	unsigned int denied = 0;

	if (!filter || !filter->filter || filter->len > BPF_MAXINSNS)
		return; /* the kernel refuses it */
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (!is_allowed(filter, calls[i].number, calls[i].args))
			denied |= calls[i].needs;
	atomic_fetch_or(&denied_by_any, denied);
	if (all_threads)
		atomic_fetch_or(&denied_to_threads, denied);
	atomic_store(&seen, true);
}

bool client_filter_any(void)
{
	return atomic_load(&seen);
}

bool client_filter_allows(enum client_filter_need need)
{
	return !(atomic_load(&denied_to_threads) & need);
}

bool client_filter_allows_all(enum client_filter_need need)
{
	return !(atomic_load(&denied_by_any) & need);
}

void client_filter_inherit(void)
{
	atomic_store(&denied_to_threads, atomic_load(&denied_by_any));
}
