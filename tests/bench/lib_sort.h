/* bench/lib_sort.h - a quicksort by several threads: a load that goes through memory in order from both ends. */
#pragma once

#include <stdint.h>

void measure_sort(uint64_t *words, uint64_t count, unsigned int threads);
