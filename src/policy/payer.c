#include "policy/payer.h"

#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/file.h"

/* Who has so much more than his part is over it: what all have is not counted at one moment. */
#define OVER_FACTOR (1 + 1.0 / 16)

struct search {
	struct engine *engine;
	uint64_t above;
	const struct payers_out *out;
	const struct going *going;
	uint64_t now_ns;
	bool found;
	struct tenant_payer first;        /* pays least */
	double first_price, second_price; /* second: of the next one; 0: there is none */
	double first_surplus_bytes;       /* with what is going, as the next, */
	double surplus_bytes, weight;     /* of all */
};

void payers_add(struct payers_out *out, uint64_t ino, uint64_t until_ns)
{
	if (out->count == PAYERS_OUT)
		memmove(&out->list[0], &out->list[1], --out->count * sizeof(out->list[0]));
	out->list[out->count++] = (struct payer_out){ .ino = ino, .until_ns = until_ns };
}

void payers_forget(struct payers_out *out, uint64_t now_ns)
{
	size_t kept = 0;

	for (size_t i = 0; i < out->count; i++)
		if (out->list[i].until_ns > now_ns)
			out->list[kept++] = out->list[i];
	out->count = kept;
}

static bool is_out(const struct payers_out *out, uint64_t ino)
{
	for (size_t i = 0; i < out->count; i++)
		if (out->list[i].ino == ino)
			return true;
	return false;
}

static double surplus_of(const struct tenant_payer *payer)
{
	return payer->used_bytes > payer->min_bytes ? (double)(payer->used_bytes - payer->min_bytes) : 0;
}

/* Each file brings its part of what its payer is. */
static void add_up(struct search *search, const struct tenant_payer *payer)
{
	double part = payer->used_bytes ? (double)payer->file_bytes / (double)payer->used_bytes : 0;

	search->weight += part * payer->weight;
	search->surplus_bytes += part * surplus_of(payer);
}

/* Each file leads to its payer, so one with many files is met many times. */
static void weigh(void *arg, struct ramfile *file)
{
	struct search *search = arg;
	struct tenant_payer payer;
	double price, surplus;
	uint64_t gone;

	if (!tenant_payer_of(search->engine, search->above, file, &payer))
		return;
	add_up(search, &payer);
	if (is_out(search->out, payer.ino) || (search->found && payer.ino == search->first.ino))
		return;
	surplus = surplus_of(&payer);
	gone = going_bytes(search->going, search->engine, payer.is_file ? 0 : payer.ino, payer.is_file ? payer.ino : 0,
			   search->now_ns);
	payer.used_bytes -= gone < payer.used_bytes ? gone : payer.used_bytes;
	if (payer.used_bytes <= payer.min_bytes)
		return;
	price = payer.weight / (double)(payer.used_bytes - payer.min_bytes);
	if (!search->found || price < search->first_price) {
		search->second_price = search->found ? search->first_price : 0;
		search->first_price = price;
		search->first = payer;
		search->first_surplus_bytes = surplus;
		search->found = true;
	} else if (search->second_price == 0 || price < search->second_price) {
		search->second_price = price;
	}
}

bool payer_find(struct engine *engine, uint64_t above, const struct payers_out *out, const struct going *going,
		struct payer *ret)
{
	struct search search = { .engine = engine, .above = above, .out = out, .going = going, .now_ns = clock_ns() };
	uint64_t surplus, left;

	engine_each_resident(engine, weigh, &search);
	if (!search.found)
		return false;
	surplus = search.first.used_bytes - search.first.min_bytes;
	left = search.second_price > 0 ? (uint64_t)(search.first.weight / search.second_price) : 0;
	*ret = (struct payer){ .ino = search.first.ino,
			       .is_file = search.first.is_file,
			       .most_bytes = surplus > left ? surplus - left : 0,
			       .surplus_bytes = surplus,
			       .over = search.first_surplus_bytes * search.weight >
				       OVER_FACTOR * search.surplus_bytes * search.first.weight };
	return true;
}
