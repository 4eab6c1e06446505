/* What is asked and said of a mapping as a whole: see mapping.h. */
#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "map/mapping.h"
#include "map/uffd.h"

#define HUGE (UINT64_C(2) << 20)

void mapping_advise(struct mapping *mapping, uint64_t offset, uint64_t length)
{
	/* An entry of the page table has room for a huge page where address and offset are aligned alike. */
	if ((mapping->segment[0].addr - mapping->segment[0].offset) % HUGE)
		length = 0;
	atomic_store(&mapping->mapper.huge_end, 0);
	atomic_store(&mapping->mapper.huge_start, offset);
	atomic_store(&mapping->mapper.huge_end, length ? offset + length : 0);
}

int mapping_cut(struct mapping *mapping, uint64_t addr, uint64_t length)
{
	uint64_t end = addr + length;

	LOCK_SCOPE(&mapping->lock);
	for (unsigned int i = 0; i < mapping->segments; i++) {
		struct segment *segment = &mapping->segment[i];
		uint64_t segment_end = segment->addr + segment->length;
		struct segment tail = { .addr = end };

		if (end <= segment->addr || addr >= segment_end)
			continue;
		if (end < segment_end) {
			tail.length = segment_end - end;
			tail.offset = segment->offset + (end - segment->addr);
		}
		if (tail.length && addr > segment->addr && mapping->segments == MAPPING_SEGMENTS_MAX)
			return -E2BIG;
		segment->length = addr > segment->addr ? addr - segment->addr : 0;
		if (tail.length && !segment->length)
			*segment = tail;
		else if (tail.length)
			mapping->segment[mapping->segments++] = tail;
		else if (!segment->length)
			*segment-- = mapping->segment[--mapping->segments], i--;
	}
	return (int)mapping->segments;
}

uint64_t mapping_addr(struct mapping *mapping)
{
	LOCK_SCOPE(&mapping->lock);

	return mapping->segment[0].addr;
}

bool mapping_alive(const struct mapping *mapping)
{
	char byte;

	/* The kernel answers end of file when the address space is gone, and only then looks at the length, which makes
	 * no sense: so nothing waits for the lock of the address space. */
	return pread(mapping->pagemap, &byte, sizeof(byte), 0) < 0;
}

void mapping_wake_all(struct mapping *mapping)
{
	LOCK_SCOPE(&mapping->lock);

	for (unsigned int i = 0; i < mapping->segments; i++)
		uffd_wake(mapping->uffd, mapping->segment[i].addr, mapping->segment[i].length);
}
