/* What is asked and said of a mapping as a whole: see mapping.h. */
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
