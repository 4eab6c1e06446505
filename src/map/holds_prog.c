/* The walk of the program is that of the kernel's own lookup in the page cache:
 *
 *   current task -> its open files -> file -> mapping -> xarray of folios -> node ... -> slot -> folio -> its counts
 *
 * It runs as a raw tracepoint program by BPF_PROG_TEST_RUN: once for each call, at no tracepoint, in the caller's
 * context and within an RCU read section. So every xarray node that it can reach keeps existing while it walks, as for
 * the kernel's lookup. Whatever it meets that it does not know ends in "pinned": a failed read, a swap entry, a node in
 * passing (retry entry), a folio that does not say of itself that it is this page of this file. An empty slot is an
 * absent page.
 *
 * Registers that live across calls: R6 page, R7 slots of the node, R8 answer so far, R9 counter of pages.
 */
#include "map/holds_prog.h"

#include <assert.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* --- what the program knows of the kernel --------------------------------------------------------------------- */

/* A pin of a folio of one page adds this to its reference count (GUP_PIN_COUNTING_BIAS; a macro, so BTF has no word of
 * it). A large folio counts its pins apart. */
#define PIN_BIAS 1024
/* The page cache's own references to a folio of one page. */
#define CACHE_REFERENCES 1

/* Entries of an xarray (include/linux/xarray.h): the two low bits of a pointer are 00. Internal entries end in 10:
 * below the number of slots, shifted, they name the slot that holds the folio; above 4096 they are nodes. */
#define ENTRY_KIND 3
#define ENTRY_POINTER 0
#define ENTRY_INTERNAL 2
#define ENTRY_INTERNAL_BITS 2
#define ENTRY_NODE_ABOVE 4096
#define SLOTS_SHIFT 6
#define SLOTS (1 << SLOTS_SHIFT)
#define LAST_SIBLING (((SLOTS - 2) << ENTRY_INTERNAL_BITS) | ENTRY_INTERNAL)
#define LEVELS_MAX (64 / SLOTS_SHIFT + 1)

/* Of a folio, what is in its first page's structure is read at once: flags to reference count. */
#define FOLIO_BYTES_MAX 128

struct layout {
	uint32_t task_files, files_fdt, fdt_fd, fdt_max_fds, file_mapping, mapping_head, node_shift, node_slots;
	uint32_t folio_flags, folio_mapping, folio_index, folio_refcount, folio_pincount;
	uint32_t folio_nr_pages; /* 0: not known */
	bool references;         /* not only pins */
	uint32_t folio_bytes;    /* from its start to the end of the last of flags, mapping, index, refcount */
	int64_t head_flag;       /* bit number */
};

/* The offset of a member of that size (0: of any), also in the nameless structures and unions inside. */
static bool find_member(const struct btf *btf, uint32_t type_id, const char *name, uint32_t bytes, uint32_t *ret)
{
	const struct btf_type *type = btf__type_by_id(btf, type_id);
	const struct btf_member *member;

	if (!type || !btf_is_composite(type))
		return false;
	member = btf_members(type);
	for (uint32_t i = 0; i < btf_vlen(type); i++, member++) {
		const char *member_name = btf__name_by_offset(btf, member->name_off);
		uint32_t offset = btf_member_bit_offset(type, i) / 8;

		if (!*member_name && find_member(btf, member->type, name, bytes, ret)) {
			*ret += offset;
			return true;
		}
		if (strcmp(member_name, name) == 0) {
			*ret = offset;
			return bytes == 0 || btf__resolve_size(btf, member->type) == bytes;
		}
	}
	return false;
}

static bool find(const struct btf *btf, const char *structure, const char *name, uint32_t bytes, uint32_t *ret)
{
	int id = btf__find_by_name_kind(btf, structure, BTF_KIND_STRUCT);

	return id > 0 && find_member(btf, (uint32_t)id, name, bytes, ret);
}

static bool find_constant(const struct btf *btf, const char *name, int64_t *ret)
{
	for (uint32_t id = 1; id < btf__type_cnt(btf); id++) {
		const struct btf_type *type = btf__type_by_id(btf, id);
		const struct btf_enum *constant;

		if (!btf_is_enum(type))
			continue;
		constant = btf_enum(type);
		for (uint32_t i = 0; i < btf_vlen(type); i++, constant++) {
			if (strcmp(btf__name_by_offset(btf, constant->name_off), name) == 0) {
				*ret = constant->val;
				return true;
			}
		}
	}
	return false;
}

/* Returns what is wrong, or NULL. */
static const char *find_file_layout(const struct btf *btf, struct layout *ret)
{
	const uint32_t word = sizeof(uint64_t), count = sizeof(uint32_t);
	uint32_t pages, head;

	if (!find(btf, "task_struct", "files", word, &ret->task_files) ||
	    !find(btf, "files_struct", "fdt", word, &ret->files_fdt) ||
	    !find(btf, "fdtable", "fd", word, &ret->fdt_fd) ||
	    !find(btf, "fdtable", "max_fds", count, &ret->fdt_max_fds) ||
	    !find(btf, "file", "f_mapping", word, &ret->file_mapping))
		return "unknown layout of open files";
	if (!find(btf, "address_space", "i_pages", 0, &pages) || !find(btf, "xarray", "xa_head", word, &head) ||
	    !find(btf, "xa_node", "shift", 1, &ret->node_shift) ||
	    !find(btf, "xa_node", "slots", SLOTS * word, &ret->node_slots))
		return "unknown layout of the page cache";
	ret->mapping_head = pages + head;
	return NULL;
}

static const char *find_folio_layout(const struct btf *btf, struct layout *ret)
{
	const uint32_t word = sizeof(uint64_t), count = sizeof(uint32_t);
	const uint32_t *const read_at_once[] = { &ret->folio_flags, &ret->folio_mapping, &ret->folio_index,
						 &ret->folio_refcount };
	int64_t flag;

	if (!find(btf, "folio", "flags", word, &ret->folio_flags) ||
	    !find(btf, "folio", "mapping", word, &ret->folio_mapping) ||
	    !find(btf, "folio", "index", word, &ret->folio_index) ||
	    !find(btf, "folio", "_refcount", count, &ret->folio_refcount) ||
	    !find(btf, "folio", "_pincount", count, &ret->folio_pincount) ||
	    !find_constant(btf, "PG_head", &ret->head_flag) || ret->head_flag < 0 || ret->head_flag > 30)
		return "unknown layout of folios";
	if (!find(btf, "folio", "_nr_pages", count, &ret->folio_nr_pages)) /* Linux 6.15 */
		ret->folio_nr_pages = 0;
	for (size_t i = 0; i < sizeof(read_at_once) / sizeof(*read_at_once); i++) {
		uint32_t end = *read_at_once[i] / word * word + word;

		if (end > ret->folio_bytes)
			ret->folio_bytes = end;
	}
	if (ret->folio_bytes > FOLIO_BYTES_MAX)
		return "unknown layout of folios";
	/* Before Linux 6.5 direct I/O took plain references, which look like any other. */
	if (!find_constant(btf, "BIO_PAGE_PINNED", &flag))
		return "the block layer does not pin pages";
	return NULL;
}

/* --- assembler ------------------------------------------------------------------------------------------------ */

#define INSNS_MAX 1024

enum label {
	LABEL_NONE,
	LABEL_FREE,    /* answer: none is pinned */
	LABEL_FIRST,   /* answer: the first one is */
	LABEL_UNKNOWN, /* answer: all are */
	LABEL_NODE,
	LABEL_WHOLE, /* one large folio is all the pages in question */
	LABEL_LEAF,
	LABEL_PAGE,
	LABEL_FOLIO,
	LABEL_MARK,
	LABEL_NEXT,
	LABEL_LOCAL, /* from here on: made up by code that is emitted more than once */
	LABEL_COUNT = LABEL_LOCAL + 2 * LEVELS_MAX + 8,
};

struct code {
	struct bpf_insn insn[INSNS_MAX];
	size_t count;
	uint16_t jump[INSNS_MAX]; /* label that the instruction jumps to */
	size_t place[LABEL_COUNT];
	unsigned int locals;
};

/* Stack, relative to R10. */
enum {
	AT_ENTRY = -8, /* last xarray entry */
	AT_MAPPING = -16,
	AT_SCRATCH = -24,
	AT_LARGE = -32, /* not 0: a large folio counts as pinned */
	AT_FOLIO = AT_LARGE - FOLIO_BYTES_MAX,
};

static void emit(struct code *code, uint8_t op, uint8_t dst, uint8_t src, int off, int32_t imm)
{
	assert(code->count < INSNS_MAX);
	code->insn[code->count++] = (struct bpf_insn){
		.code = op, .dst_reg = dst & 15, .src_reg = src & 15, .off = (int16_t)off, .imm = imm
	};
}

static void alu(struct code *code, uint8_t op, uint8_t dst, uint8_t src)
{
	emit(code, BPF_ALU64 | BPF_X | op, dst, src, 0, 0);
}

static void alu_imm(struct code *code, uint8_t op, uint8_t dst, int32_t imm)
{
	emit(code, BPF_ALU64 | BPF_K | op, dst, 0, 0, imm);
}

static void load(struct code *code, uint8_t size, uint8_t dst, int at)
{
	emit(code, BPF_LDX | BPF_MEM | size, dst, BPF_REG_10, at, 0);
}

static void store(struct code *code, int at, uint8_t src)
{
	emit(code, BPF_STX | BPF_MEM | BPF_DW, BPF_REG_10, src, at, 0);
}

static unsigned int new_label(struct code *code)
{
	assert(LABEL_LOCAL + code->locals < LABEL_COUNT);
	return LABEL_LOCAL + code->locals++;
}

static void place(struct code *code, unsigned int label)
{
	code->place[label] = code->count;
}

/* Comparisons are unsigned, of 64 bits. */
static void jump_imm(struct code *code, uint8_t op, uint8_t dst, int32_t imm, unsigned int label)
{
	code->jump[code->count] = (uint16_t)label;
	emit(code, BPF_JMP | BPF_K | op, dst, 0, 0, imm);
}

static void jump_reg(struct code *code, uint8_t op, uint8_t dst, uint8_t src, unsigned int label)
{
	code->jump[code->count] = (uint16_t)label;
	emit(code, BPF_JMP | BPF_X | op, dst, src, 0, 0);
}

static void jump(struct code *code, unsigned int label)
{
	jump_imm(code, BPF_JA, 0, 0, label);
}

static void answer(struct code *code, int32_t imm)
{
	alu_imm(code, BPF_MOV, BPF_REG_0, imm);
	emit(code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static void link_labels(struct code *code)
{
	for (size_t i = 0; i < code->count; i++)
		if (code->jump[i])
			code->insn[i].off = (int16_t)((long)code->place[code->jump[i]] - (long)i - 1);
}

/* Reads bytes from kernel address R3 + offset to the stack. R1 to R5 are lost. */
static void fetch(struct code *code, int at, uint32_t bytes, uint32_t offset)
{
	alu_imm(code, BPF_ADD, BPF_REG_3, (int32_t)offset);
	alu(code, BPF_MOV, BPF_REG_1, BPF_REG_10);
	alu_imm(code, BPF_ADD, BPF_REG_1, at);
	alu_imm(code, BPF_MOV, BPF_REG_2, (int32_t)bytes);
	emit(code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel);
	jump_imm(code, BPF_JNE, BPF_REG_0, 0, LABEL_UNKNOWN);
}

/* R3 = the word at R3 + offset. */
static void follow(struct code *code, uint32_t offset)
{
	fetch(code, AT_SCRATCH, sizeof(uint64_t), offset);
	load(code, BPF_DW, BPF_REG_3, AT_SCRATCH);
}

/* --- the program ---------------------------------------------------------------------------------------------- */

/* R6 = first page, AT_LARGE = what was asked for, AT_MAPPING = the file's mapping. The descriptor stays open as long as
 * the caller's system call, and the table of descriptors is RCU's. */
static void emit_file(struct code *code, const struct layout *layout)
{
	emit(code, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_9, BPF_REG_1, 0, 0);
	emit(code, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_6, BPF_REG_1, sizeof(uint64_t), 0);
	emit(code, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_2, BPF_REG_1, 2 * sizeof(uint64_t), 0);
	store(code, AT_LARGE, BPF_REG_2);
	emit(code, BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_current_task);
	alu(code, BPF_MOV, BPF_REG_3, BPF_REG_0);
	follow(code, layout->task_files);
	follow(code, layout->files_fdt);
	alu(code, BPF_MOV, BPF_REG_7, BPF_REG_3);
	fetch(code, AT_SCRATCH, sizeof(uint32_t), layout->fdt_max_fds);
	load(code, BPF_W, BPF_REG_1, AT_SCRATCH);
	jump_reg(code, BPF_JGE, BPF_REG_9, BPF_REG_1, LABEL_UNKNOWN);
	alu(code, BPF_MOV, BPF_REG_3, BPF_REG_7);
	follow(code, layout->fdt_fd);
	alu_imm(code, BPF_LSH, BPF_REG_9, 3);
	alu(code, BPF_ADD, BPF_REG_3, BPF_REG_9);
	follow(code, 0);
	jump_imm(code, BPF_JEQ, BPF_REG_3, 0, LABEL_UNKNOWN);
	follow(code, layout->file_mapping);
	store(code, AT_MAPPING, BPF_REG_3);
}

/* Goes to pinned unless AT_ENTRY is a folio that holds page R6 of our mapping and has no pin (or reference). */
static void emit_folio(struct code *code, const struct layout *layout, unsigned int pinned)
{
	unsigned int large = new_label(code), done = new_label(code);

	load(code, BPF_DW, BPF_REG_3, AT_ENTRY);
	fetch(code, AT_FOLIO, layout->folio_bytes, 0);
	load(code, BPF_DW, BPF_REG_1, AT_FOLIO + (int)layout->folio_mapping);
	load(code, BPF_DW, BPF_REG_2, AT_MAPPING);
	jump_reg(code, BPF_JNE, BPF_REG_1, BPF_REG_2, pinned);
	load(code, BPF_DW, BPF_REG_1, AT_FOLIO + (int)layout->folio_index);
	load(code, BPF_DW, BPF_REG_2, AT_FOLIO + (int)layout->folio_flags);
	alu_imm(code, BPF_AND, BPF_REG_2, 1 << layout->head_flag);
	jump_imm(code, BPF_JNE, BPF_REG_2, 0, large);
	jump_reg(code, BPF_JNE, BPF_REG_1, BPF_REG_6, pinned);
	load(code, BPF_W, BPF_REG_1, AT_FOLIO + (int)layout->folio_refcount);
	jump_imm(code, BPF_JGE, BPF_REG_1, layout->references ? CACHE_REFERENCES + 1 : PIN_BIAS, pinned);
	jump(code, done);
	place(code, large);
	load(code, BPF_DW, BPF_REG_2, AT_LARGE);
	jump_imm(code, BPF_JNE, BPF_REG_2, 0, pinned);
	jump_reg(code, BPF_JGT, BPF_REG_1, BPF_REG_6, pinned);
	if (layout->references) { /* the page cache has as many as the folio has pages */
		if (!layout->folio_nr_pages)
			jump(code, pinned);
		load(code, BPF_DW, BPF_REG_3, AT_ENTRY);
		fetch(code, AT_SCRATCH, sizeof(uint32_t), layout->folio_nr_pages);
		load(code, BPF_W, BPF_REG_1, AT_SCRATCH);
		load(code, BPF_W, BPF_REG_2, AT_FOLIO + (int)layout->folio_refcount);
		jump_reg(code, BPF_JGT, BPF_REG_2, BPF_REG_1, pinned);
	}
	load(code, BPF_DW, BPF_REG_3, AT_ENTRY);
	fetch(code, AT_SCRATCH, sizeof(uint32_t), layout->folio_pincount);
	load(code, BPF_W, BPF_REG_1, AT_SCRATCH);
	jump_imm(code, BPF_JNE, BPF_REG_1, 0, pinned);
	place(code, done);
}

/* AT_ENTRY and R1 = the slot of number R2 in the node whose slots are at R7. */
static void emit_slot(struct code *code)
{
	alu_imm(code, BPF_LSH, BPF_REG_2, 3);
	alu(code, BPF_MOV, BPF_REG_3, BPF_REG_7);
	alu(code, BPF_ADD, BPF_REG_3, BPF_REG_2);
	fetch(code, AT_ENTRY, sizeof(uint64_t), 0);
	load(code, BPF_DW, BPF_REG_1, AT_ENTRY);
}

/* From the mapping to a leaf (R7 = its slots), to one folio in place of all leaves, or to an answer. */
static void emit_descent(struct code *code, const struct layout *layout)
{
	load(code, BPF_DW, BPF_REG_3, AT_MAPPING);
	fetch(code, AT_ENTRY, sizeof(uint64_t), layout->mapping_head);
	load(code, BPF_DW, BPF_REG_1, AT_ENTRY);
	jump_imm(code, BPF_JEQ, BPF_REG_1, 0, LABEL_FREE);
	alu(code, BPF_MOV, BPF_REG_2, BPF_REG_1);
	alu_imm(code, BPF_AND, BPF_REG_2, ENTRY_KIND);
	jump_imm(code, BPF_JNE, BPF_REG_2, ENTRY_POINTER, LABEL_NODE);
	/* A file with nothing but page 0 has no nodes. */
	jump_imm(code, BPF_JNE, BPF_REG_6, 0, LABEL_FREE);
	emit_folio(code, layout, LABEL_FIRST);
	jump(code, LABEL_FREE);

	place(code, LABEL_NODE);
	for (unsigned int level = 0; level < LEVELS_MAX; level++) {
		unsigned int sibling = new_label(code);

		/* R1 is an entry that is no pointer. */
		alu(code, BPF_MOV, BPF_REG_2, BPF_REG_1);
		alu_imm(code, BPF_AND, BPF_REG_2, ENTRY_KIND);
		jump_imm(code, BPF_JNE, BPF_REG_2, ENTRY_INTERNAL, LABEL_UNKNOWN);
		jump_imm(code, BPF_JLE, BPF_REG_1, ENTRY_NODE_ABOVE, LABEL_UNKNOWN);
		alu(code, BPF_MOV, BPF_REG_7, BPF_REG_1);
		alu_imm(code, BPF_SUB, BPF_REG_7, ENTRY_INTERNAL);
		alu(code, BPF_MOV, BPF_REG_3, BPF_REG_7);
		fetch(code, AT_SCRATCH, 1, layout->node_shift);
		load(code, BPF_B, BPF_REG_1, AT_SCRATCH);
		alu_imm(code, BPF_ADD, BPF_REG_7, (int32_t)layout->node_slots);
		alu(code, BPF_MOV, BPF_REG_2, BPF_REG_6);
		alu(code, BPF_RSH, BPF_REG_2, BPF_REG_1);
		if (level == 0) /* behind all that the tree can hold now */
			jump_imm(code, BPF_JGE, BPF_REG_2, SLOTS, LABEL_FREE);
		jump_imm(code, BPF_JEQ, BPF_REG_1, 0, LABEL_LEAF);
		alu_imm(code, BPF_AND, BPF_REG_2, SLOTS - 1);
		emit_slot(code);
		alu(code, BPF_MOV, BPF_REG_2, BPF_REG_1);
		alu_imm(code, BPF_AND, BPF_REG_2, ENTRY_KIND);
		jump_imm(code, BPF_JNE, BPF_REG_2, ENTRY_INTERNAL, sibling);
		jump_imm(code, BPF_JGT, BPF_REG_1, LAST_SIBLING, sibling);
		alu(code, BPF_MOV, BPF_REG_2, BPF_REG_1);
		alu_imm(code, BPF_RSH, BPF_REG_2, ENTRY_INTERNAL_BITS);
		emit_slot(code);
		place(code, sibling);
		jump_imm(code, BPF_JEQ, BPF_REG_1, 0, LABEL_FREE);
		alu(code, BPF_MOV, BPF_REG_2, BPF_REG_1);
		alu_imm(code, BPF_AND, BPF_REG_2, ENTRY_KIND);
		jump_imm(code, BPF_JEQ, BPF_REG_2, ENTRY_POINTER, LABEL_WHOLE);
	}
	jump(code, LABEL_UNKNOWN);

	place(code, LABEL_WHOLE);
	emit_folio(code, layout, LABEL_UNKNOWN);
	jump(code, LABEL_FREE);
}

/* The pages of the run, one slot after the other. */
static void emit_leaf(struct code *code, const struct layout *layout)
{
	place(code, LABEL_LEAF);
	alu_imm(code, BPF_MOV, BPF_REG_8, 0);
	alu_imm(code, BPF_MOV, BPF_REG_9, 0);
	place(code, LABEL_PAGE);
	alu(code, BPF_MOV, BPF_REG_2, BPF_REG_6);
	alu_imm(code, BPF_AND, BPF_REG_2, SLOTS - 1);
	emit_slot(code);
	jump_imm(code, BPF_JEQ, BPF_REG_1, 0, LABEL_NEXT);
	alu(code, BPF_MOV, BPF_REG_2, BPF_REG_1);
	alu_imm(code, BPF_AND, BPF_REG_2, ENTRY_KIND);
	jump_imm(code, BPF_JEQ, BPF_REG_2, ENTRY_POINTER, LABEL_FOLIO);
	jump_imm(code, BPF_JNE, BPF_REG_2, ENTRY_INTERNAL, LABEL_MARK);
	jump_imm(code, BPF_JGT, BPF_REG_1, LAST_SIBLING, LABEL_MARK);
	alu(code, BPF_MOV, BPF_REG_2, BPF_REG_1);
	alu_imm(code, BPF_RSH, BPF_REG_2, ENTRY_INTERNAL_BITS);
	emit_slot(code);
	jump_imm(code, BPF_JEQ, BPF_REG_1, 0, LABEL_MARK);
	alu_imm(code, BPF_AND, BPF_REG_1, ENTRY_KIND);
	jump_imm(code, BPF_JNE, BPF_REG_1, ENTRY_POINTER, LABEL_MARK);
	place(code, LABEL_FOLIO);
	emit_folio(code, layout, LABEL_MARK);
	jump(code, LABEL_NEXT);
	place(code, LABEL_MARK);
	alu_imm(code, BPF_MOV, BPF_REG_1, 1);
	alu(code, BPF_LSH, BPF_REG_1, BPF_REG_9);
	alu(code, BPF_OR, BPF_REG_8, BPF_REG_1);
	place(code, LABEL_NEXT);
	alu_imm(code, BPF_ADD, BPF_REG_6, 1);
	alu_imm(code, BPF_ADD, BPF_REG_9, 1);
	jump_imm(code, BPF_JLT, BPF_REG_9, HOLDS_PROG_PAGES, LABEL_PAGE);
	alu(code, BPF_MOV, BPF_REG_0, BPF_REG_8);
	emit(code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static void assemble(struct code *code, const struct layout *layout)
{
	emit_file(code, layout);
	emit_descent(code, layout);
	emit_leaf(code, layout);
	place(code, LABEL_FREE);
	answer(code, 0);
	place(code, LABEL_FIRST);
	answer(code, 1);
	place(code, LABEL_UNKNOWN);
	answer(code, -1);
	link_labels(code);
}

/* --- the kernel's side ---------------------------------------------------------------------------------------- */

int holds_prog_load(enum holds_kind kind, int *ret_fd, const char **ret_reason)
{
	struct code code = { 0 };
	struct layout layout = { .references = kind == HOLDS_REFERENCED };
	struct btf *btf;
	const char *reason;
	int fd;

	libbpf_set_print(NULL);
	btf = btf__load_vmlinux_btf();
	if (!btf) {
		*ret_reason = "no /sys/kernel/btf/vmlinux";
		return -EOPNOTSUPP;
	}
	reason = find_file_layout(btf, &layout);
	if (!reason)
		reason = find_folio_layout(btf, &layout);
	btf__free(btf);
	if (reason) {
		*ret_reason = reason;
		return -EOPNOTSUPP;
	}
	assemble(&code, &layout);
	/* What the license says is asked for by the helper, and true: MIT may be combined with the GPL. */
	fd = bpf_prog_load(BPF_PROG_TYPE_RAW_TRACEPOINT, "tierfs_pins", "Dual MIT/GPL", code.insn, code.count, NULL);
	if (fd < 0) {
		*ret_reason = strerror(-fd);
		return -EOPNOTSUPP;
	}
	*ret_fd = fd;
	return 0;
}

int holds_prog_run(int prog_fd, int fd, uint64_t first, bool large, uint32_t *ret)
{
	uint64_t argument[3] = { (uint64_t)fd, first, large };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = argument, .ctx_size_in = sizeof(argument));
	int err;

	assert(first % HOLDS_PROG_PAGES == 0);
	err = bpf_prog_test_run_opts(prog_fd, &opts);
	if (err)
		return err;
	*ret = opts.retval;
	return 0;
}
