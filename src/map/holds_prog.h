/* map/holds_prog.h - a BPF program that reads reference counts of the pages of a file, and what it is made of.
 *
 * It is assembled here, for the running kernel: every offset into a structure of the kernel comes from the kernel's own
 * type information (BTF), none is assumed. It only reads, and only by bpf_probe_read_kernel(), which fails on a bad
 * address where a plain load would crash. Nothing of it stays in the kernel when its descriptor is closed.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "map/holds.h"

/* A run answers for this many pages, and begins at a multiple of it. */
#define HOLDS_PROG_PAGES 32U

/* 0, and a descriptor of the loaded program. -EOPNOTSUPP: this kernel has no BTF, does not let us load it, lacks a
 * structure that the program knows, or has a block layer that does not pin what it reads into; *ret_reason says which,
 * for a log line. */
int holds_prog_load(enum holds_kind kind, int *ret_fd, const char **ret_reason);

/* Bit i of *ret: page first + i of the file that fd of this process is open on is so, or nothing sure can be said; with
 * large: or it is a part of a large folio.
 * Any number of threads may run it at a time. */
int holds_prog_run(int prog_fd, int fd, uint64_t first, bool large, uint32_t *ret);
