/* mem/huge.h - huge pages of an arena.
 *
 * The arenas' tmpfs is mounted huge=never, so the kernel makes none by itself, neither in a fault nor in khugepaged.
 * Here they are made one by one (MADV_COLLAPSE, Linux 6.1), of a unit: HUGE_BYTES at a multiple of it, all of whose
 * pages the caller owns. A process whose mapping has the same alignment then maps the unit by one entry.
 *
 * A part of a huge page must not be punched unless zeros may stay in its place: the kernel zeroes the part first, then
 * splits the page, and if somebody holds a reference just then, the part stays, as zeros. So it is split before; that
 * changes nothing in what anybody reads, and may fail. Whether it is split, the page cache tells (map/holds.h).
 *
 * To mount with huge=advise while there is plenty of DRAM would make the first touch cheaper. But between the look that
 * finds a page small and its punch no huge page may come into being, and khugepaged could be at work then.
 *
 * Each call maps the unit for a moment: what it touches is present before, so the rule of mem/arena.h holds.
 * Thread-safe. 0 or -errno.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "mem/arena.h"

#define HUGE_BYTES (UINT64_C(2) << 20)

/* Fills the unit at offset, which is absent as a whole, with zeros, and makes one huge page of it if the kernel can.
 * After an error a part of it may be there. */
int huge_fill(const struct arena *arena, uint64_t offset, bool *ret_huge);

/* Splits the large pages that hold present pages of [offset, offset + length), which lies in one unit. The caller owns
 * the range: nobody takes pages out of it meanwhile. Does nothing, and returns 0, where some process maps a part of the
 * large page, or anybody holds a reference. */
int huge_split(const struct arena *arena, uint64_t offset, uint64_t length);
