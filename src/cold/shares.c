/* cold/shares.c - one array, open addressing with linear probing; what follows a removed entry moves up. */
#include "cold/shares.h"

#include <errno.h>
#include <stdlib.h>

#define CAP_MIN 1024U

static size_t home_of(const struct shares *shares, uint64_t word)
{
	uint64_t mixed = word * UINT64_C(0x9e3779b97f4a7c15);

	return (size_t)(mixed ^ mixed >> 32) & (shares->cap - 1);
}

void shares_clear(struct shares *shares)
{
	free(shares->slot);
	*shares = (struct shares){ 0 };
}

/* The entry of the word, or the free one where it belongs. */
static struct share *probe(const struct shares *shares, uint64_t word)
{
	size_t at = home_of(shares, word);

	while (shares->slot[at].word && shares->slot[at].word != word)
		at = (at + 1) & (shares->cap - 1);
	return &shares->slot[at];
}

int shares_reserve(struct shares *shares, size_t more)
{
	struct shares grown = { .cap = shares->cap ? shares->cap : CAP_MIN, .count = shares->count };

	if (shares->count + more <= shares->cap / 4 * 3)
		return 0;
	while (shares->count + more > grown.cap / 4 * 3)
		grown.cap *= 2;
	grown.slot = calloc(grown.cap, sizeof(*grown.slot));
	if (!grown.slot)
		return -ENOMEM;
	for (size_t i = 0; i < shares->cap; i++)
		if (shares->slot[i].word)
			*probe(&grown, shares->slot[i].word) = shares->slot[i];
	free(shares->slot);
	*shares = grown;
	return 0;
}

struct share *shares_find(const struct shares *shares, struct place place)
{
	struct share *share;

	if (!shares->count)
		return NULL;
	share = probe(shares, place_pack(place));
	return share->word ? share : NULL;
}

struct share *shares_add(struct shares *shares, struct place place, uint64_t origin, uint32_t refs)
{
	struct share *share = probe(shares, place_pack(place));

	if (share->word)
		return share;
	*share = (struct share){ place_pack(place), origin, refs };
	shares->count++;
	return share;
}

void shares_remove(struct shares *shares, struct share *share)
{
	size_t mask = shares->cap - 1, hole = (size_t)(share - shares->slot), at = hole;

	for (;;) {
		at = (at + 1) & mask;
		if (!shares->slot[at].word)
			break;
		/* One that may not stand before its home stays where it is. */
		if (((at - home_of(shares, shares->slot[at].word)) & mask) < ((at - hole) & mask))
			continue;
		shares->slot[hole] = shares->slot[at];
		hole = at;
	}
	shares->slot[hole] = (struct share){ 0 };
	shares->count--;
}
