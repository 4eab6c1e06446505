/* base/le.h - numbers as little-endian bytes, one by one, so that neither alignment nor the host shows in a format. */
#pragma once

#include <stdint.h>

static inline void put_le(uint8_t *at, uint64_t number, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(number >> (8 * i));
}

static inline uint64_t get_le(const uint8_t *at, unsigned int bytes)
{
	uint64_t number = 0;

	for (unsigned int i = 0; i < bytes; i++)
		number |= (uint64_t)at[i] << (8 * i);
	return number;
}
