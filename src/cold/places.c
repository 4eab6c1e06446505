/* cold/places.c - files in a hash table; a file is a sorted array of chunks; a chunk is PER_CHUNK packed places.
 *
 * A packed place is one word: valid bit, 21 bits of segment, 20 bits of offset in units, 22 bits of length. 0 is none.
 * Chunks and files that become empty are freed, so a reserved chunk that is not set stays until a removal that
 * touches it.
 */
#include "cold/places.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define PER_CHUNK 256U
/* What is looked at or removed in a piece: a millisecond at the most. */
#define CHUNKS_AT_ONCE 64U
#define VALID (UINT64_C(1) << 63)
#define SEGMENT_SHIFT 42
#define OFFSET_SHIFT 22

_Static_assert(PLACE_SEGMENTS == UINT64_C(1) << (63 - SEGMENT_SHIFT), "segment numbers fill their bits");
_Static_assert(PLACE_OFFSET_LIMIT / PLACE_UNIT_BYTES == 1U << (SEGMENT_SHIFT - OFFSET_SHIFT), "offsets fill theirs");
_Static_assert(PLACE_LENGTH_LIMIT == 1U << OFFSET_SHIFT, "and lengths theirs");

struct chunk {
	uint64_t number; /* block / PER_CHUNK */
	uint32_t used;
	uint64_t slot[PER_CHUNK];
};

struct places_file {
	UT_hash_handle hh;
	uint64_t ino;
	size_t count, cap;
	struct chunk **chunk; /* by number */
};

uint64_t place_pack(struct place place)
{
	return VALID | (uint64_t)place.segment << SEGMENT_SHIFT |
	       (uint64_t)(place.offset_bytes / PLACE_UNIT_BYTES) << OFFSET_SHIFT | place.length_bytes;
}

static struct place unpack(uint64_t word)
{
	return (struct place){
		.segment = (uint32_t)((word & ~VALID) >> SEGMENT_SHIFT),
		.offset_bytes = (uint32_t)(word >> OFFSET_SHIFT) % (PLACE_OFFSET_LIMIT / PLACE_UNIT_BYTES) *
				PLACE_UNIT_BYTES,
		.length_bytes = (uint32_t)word & (PLACE_LENGTH_LIMIT - 1),
	};
}

static struct places_file *find_file(const struct places *places, uint64_t ino)
{
	struct places_file *file;

	HASH_FIND(hh, places->files, &ino, sizeof(ino), file);
	return file;
}

/* Index of the first chunk that is not before number. */
static size_t find_chunk(const struct places_file *file, uint64_t number)
{
	size_t low = 0, high = file->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (file->chunk[middle]->number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct chunk *chunk_of(const struct places *places, struct store_key key)
{
	struct places_file *file = find_file(places, key.ino);
	uint64_t number = key.block / PER_CHUNK;
	size_t at;

	if (!file)
		return NULL;
	at = find_chunk(file, number);
	return at < file->count && file->chunk[at]->number == number ? file->chunk[at] : NULL;
}

static void drop_file(struct places *places, struct places_file *file)
{
	HASH_DEL(places->files, file);
	places->memory_bytes -= sizeof(*file) + file->cap * sizeof(*file->chunk);
	free(file->chunk);
	free(file);
}

void places_clear(struct places *places)
{
	struct places_file *file, *next;

	HASH_ITER(hh, places->files, file, next) {
		for (size_t i = 0; i < file->count; i++)
			free(file->chunk[i]);
		places->memory_bytes -= file->count * sizeof(struct chunk);
		drop_file(places, file);
	}
	places->count = 0;
}

static struct places_file *file_of(struct places *places, uint64_t ino)
{
	struct places_file *file = find_file(places, ino);

	if (file)
		return file;
	file = calloc(1, sizeof(*file));
	if (!file)
		return NULL;
	file->ino = ino;
	HASH_ADD(hh, places->files, ino, sizeof(ino), file);
	if (!file->hh.tbl) { /* there was no memory for it */
		free(file);
		return NULL;
	}
	places->memory_bytes += sizeof(*file);
	return file;
}

static int grow(struct places *places, struct places_file *file)
{
	size_t cap = file->cap ? 2 * file->cap : 4;
	struct chunk **chunk;

	if (file->count < file->cap)
		return 0;
	chunk = realloc(file->chunk, cap * sizeof(*chunk));
	if (!chunk)
		return -ENOMEM;
	places->memory_bytes += (cap - file->cap) * sizeof(*chunk);
	file->chunk = chunk;
	file->cap = cap;
	return 0;
}

int places_reserve(struct places *places, struct store_key key)
{
	struct places_file *file = file_of(places, key.ino);
	uint64_t number = key.block / PER_CHUNK;
	struct chunk *chunk;
	size_t at;

	if (!file)
		return -ENOMEM;
	at = find_chunk(file, number);
	if (at < file->count && file->chunk[at]->number == number)
		return 0;
	chunk = calloc(1, sizeof(*chunk));
	if (!chunk || grow(places, file) < 0) {
		free(chunk);
		return -ENOMEM;
	}
	chunk->number = number;
	memmove(file->chunk + at + 1, file->chunk + at, (file->count - at) * sizeof(struct chunk *));
	file->chunk[at] = chunk;
	file->count++;
	places->memory_bytes += sizeof(*chunk);
	return 0;
}

bool places_set(struct places *places, struct store_key key, struct place place, struct place *ret_old)
{
	struct chunk *chunk = chunk_of(places, key);
	uint64_t *slot = &chunk->slot[key.block % PER_CHUNK];
	uint64_t old = *slot;

	*slot = place_pack(place);
	if (old) {
		*ret_old = unpack(old);
		return true;
	}
	chunk->used++;
	places->count++;
	return false;
}

bool places_get(const struct places *places, struct store_key key, struct place *ret)
{
	const struct chunk *chunk = chunk_of(places, key);
	uint64_t word = chunk ? chunk->slot[key.block % PER_CHUNK] : 0;

	if (!word)
		return false;
	*ret = unpack(word);
	return true;
}

bool places_next(const struct places *places, struct store_key *key, uint64_t last, struct place *ret)
{
	const struct places_file *file = find_file(places, key->ino);
	uint64_t block = key->block;

	if (!file)
		return false;
	for (size_t at = find_chunk(file, block / PER_CHUNK); at < file->count; at++) {
		const struct chunk *chunk = file->chunk[at];
		uint64_t start = chunk->number * PER_CHUNK;

		if (start > last)
			break;
		for (uint64_t i = block > start ? block - start : 0; i < PER_CHUNK && i <= last - start; i++) {
			if (!chunk->slot[i])
				continue;
			key->block = start + i;
			*ret = unpack(chunk->slot[i]);
			return true;
		}
	}
	return false;
}

static void clear_slots(struct places *places, const struct places_file *file, struct chunk *chunk, uint64_t first,
			uint64_t last, places_fn *fn, void *arg)
{
	uint64_t start = chunk->number * PER_CHUNK;

	for (uint64_t i = first > start ? first - start : 0; i < PER_CHUNK && i <= last - start; i++) {
		uint64_t word = chunk->slot[i];

		if (!word)
			continue;
		chunk->slot[i] = 0;
		chunk->used--;
		places->count--;
		fn(arg, (struct store_key){ file->ino, start + i }, unpack(word));
	}
}

/* Of the chunks from index `from` to before index `end`, those in which nothing is left go. */
static void clear_chunks(struct places *places, struct places_file *file, size_t from, size_t end, uint64_t first,
			 uint64_t last, places_fn *fn, void *arg)
{
	size_t kept = from;

	for (size_t at = from; at < end; at++) {
		struct chunk *chunk = file->chunk[at];

		clear_slots(places, file, chunk, first, last, fn, arg);
		if (chunk->used) {
			file->chunk[kept++] = chunk;
			continue;
		}
		places->memory_bytes -= sizeof(*chunk);
		free(chunk);
	}
	if (end > kept)
		memmove(file->chunk + kept, file->chunk + end, (file->count - end) * sizeof(struct chunk *));
	file->count -= end - kept;
	if (!file->count)
		drop_file(places, file);
}

bool places_remove_some(struct places *places, uint64_t ino, uint64_t first, uint64_t *last, places_fn *fn, void *arg)
{
	struct places_file *file = find_file(places, ino);
	uint64_t left = *last;
	size_t begin, from, end;

	if (!file)
		return false;
	begin = find_chunk(file, first / PER_CHUNK);
	end = find_chunk(file, left / PER_CHUNK);
	end += end < file->count && file->chunk[end]->number == left / PER_CHUNK;
	from = end - begin > CHUNKS_AT_ONCE ? end - CHUNKS_AT_ONCE : begin;
	if (from > begin)
		*last = file->chunk[from]->number * PER_CHUNK - 1;
	clear_chunks(places, file, from, end, first, left, fn, arg);
	return from > begin;
}

void places_remove(struct places *places, uint64_t ino, uint64_t first, uint64_t last, places_fn *fn, void *arg)
{
	while (places_remove_some(places, ino, first, &last, fn, arg))
		;
}

static void each_of_chunk(const struct places_file *file, const struct chunk *chunk, places_fn *fn, void *arg)
{
	for (uint32_t i = 0; i < PER_CHUNK; i++) {
		if (chunk->slot[i])
			fn(arg, (struct store_key){ file->ino, chunk->number * PER_CHUNK + i }, unpack(chunk->slot[i]));
	}
}

void places_each(const struct places *places, places_fn *fn, void *arg)
{
	for (const struct places_file *file = places->files; file; file = file->hh.next) {
		for (size_t at = 0; at < file->count; at++)
			each_of_chunk(file, file->chunk[at], fn, arg);
	}
}

int places_files(const struct places *places, uint64_t **ret_inos, size_t *ret_count)
{
	size_t count = HASH_COUNT(places->files), i = 0;
	uint64_t *inos = calloc(count ? count : 1, sizeof(*inos));

	if (!inos)
		return -ENOMEM;
	for (const struct places_file *file = places->files; file; file = file->hh.next)
		inos[i++] = file->ino;
	*ret_inos = inos;
	*ret_count = count;
	return 0;
}

bool places_some(const struct places *places, uint64_t ino, uint64_t *from, places_fn *fn, void *arg)
{
	const struct places_file *file = find_file(places, ino);
	size_t at, end;

	if (!file)
		return false;
	at = find_chunk(file, *from / PER_CHUNK);
	end = file->count - at > CHUNKS_AT_ONCE ? at + CHUNKS_AT_ONCE : file->count;
	for (; at < end; at++)
		each_of_chunk(file, file->chunk[at], fn, arg);
	if (end == file->count)
		return false;
	*from = file->chunk[end]->number * PER_CHUNK;
	return true;
}
