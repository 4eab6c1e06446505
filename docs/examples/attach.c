/* The C API of libtierfs from one end to the other: makes a RAM file, attaches it, uses it as memory, gives a part
 * back.
 *
 *	cc attach.c -ltierfs -o attach
 *	./attach /mnt/ram/example
 *
 * Needs no preload library and no privilege beyond the right to create the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <tierfs/tierfs.h>

#define FILE_BYTES ((size_t)64 << 20)
#define PART_BYTES ((size_t)1 << 20)

static int failed(const char *what, int err)
{
	fprintf(stderr, "%s: %s\n", what, strerror(err < 0 ? -err : err));
	return 1;
}

/* A word that tells its own place. */
static uint64_t word_at(size_t index)
{
	return index * UINT64_C(0x9e3779b97f4a7c15);
}

static int check(const uint64_t *words, size_t from, size_t to, int zero)
{
	for (size_t i = from; i < to; i++) {
		if (words[i] == (zero ? 0 : word_at(i)))
			continue;
		fprintf(stderr, "word %zu is wrong\n", i);
		return 1;
	}
	return 0;
}

static int use(int fd, void *memory)
{
	size_t count = FILE_BYTES / sizeof(uint64_t), part = PART_BYTES / sizeof(uint64_t);
	uint64_t *words = memory, word;
	int err;

	/* It is memory: no calls, no copies. */
	for (size_t i = 0; i < count; i++)
		words[i] = word_at(i);
	if (check(words, 0, count, 0))
		return 1;

	/* It is a file as well: a read sees what was stored, also of blocks that are in DRAM only. */
	if (pread(fd, &word, sizeof(word), 8000) != sizeof(word) || word != word_at(1000)) {
		fprintf(stderr, "the file does not hold what the memory does\n");
		return 1;
	}

	/* A part that is not needed any more costs nothing from here on. */
	err = tierfs_discard(memory, PART_BYTES);
	if (err)
		return failed("tierfs_discard", err);
	return check(words, 0, part, 1) || check(words, part, count, 0);
}

int main(int argc, char **argv)
{
	struct tierfs_ioc_info info;
	void *memory;
	int fd, err, rc;

	if (argc != 2) {
		fprintf(stderr, "usage: %s FILE-IN-A-TIERFS-MOUNT\n", argv[0]);
		return 1;
	}
	fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return failed(argv[1], errno);
	if (ftruncate(fd, FILE_BYTES) < 0)
		return failed("ftruncate", errno);
	err = tierfs_info(fd, &info);
	if (err)
		return failed("tierfs_info", err);
	printf("blocks of %u bytes\n", info.block_bytes);
	err = tierfs_attach(fd, NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, 0, &memory);
	if (err)
		return failed("tierfs_attach", err);
	rc = use(fd, memory);
	close(fd); /* the mapping stays */
	err = tierfs_detach(memory, FILE_BYTES);
	if (err)
		return failed("tierfs_detach", err);
	if (!rc)
		printf("all words are right\n");
	return rc;
}
