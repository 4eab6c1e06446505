/* base/size.h - sizes and durations as people write them. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* "4096", "16K", "1.5G", "2t" (binary units K to E; a following "iB" or "B" is accepted) to bytes. -EINVAL: not a size;
 * -ERANGE: beyond 2^63 - 1. *ret is written on success only. */
int size_parse(const char *text, uint64_t *ret_bytes);

/* "30", "0.5", "2s", "100ms", "5m" to nanoseconds; units ns, us, ms, s, m, h, none means seconds. Errors as
 * size_parse(). */
int duration_parse(const char *text, uint64_t *ret_ns);

#define SIZE_TEXT_LEN 16

/* "512M", "1.5G", "512B", "0": three significant digits at most (1000 to 1023 of a unit are written out). Writes to and
 * returns buf. */
char *size_format(uint64_t bytes, char buf[static SIZE_TEXT_LEN]);

#define SIZE_EXACT_LEN 24

/* What size_parse() makes the same number of: as size_format() where that is exact, else in bytes without a unit.
 * Writes to and returns buf. */
char *size_format_exact(uint64_t bytes, char buf[static SIZE_EXACT_LEN]);
