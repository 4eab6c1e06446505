/* names/outcome.c - see outcome.h. */
#include "names/outcome.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "names/record.h"

#define SLOTS 1024 /* more threads than there ever are; one that finds none does without */

static __thread uint64_t request;
static __thread unsigned int slot_plus_1;

/* ---- slots ---- */

static _Atomic uint64_t slots_used[SLOTS / 64];
static pthread_key_t slot_key;
static pthread_once_t slot_once = PTHREAD_ONCE_INIT;

static void slot_free(void *arg)
{
	uintptr_t slot = (uintptr_t)arg - 1;

	atomic_fetch_and(&slots_used[slot / 64], ~(UINT64_C(1) << slot % 64));
}

static void slot_init(void)
{
	if (pthread_key_create(&slot_key, slot_free) != 0)
		abort(); /* no keys left in a process that uses a handful */
}

static bool slot_take(unsigned int slot)
{
	uint64_t bit = UINT64_C(1) << slot % 64;

	if (atomic_fetch_or(&slots_used[slot / 64], bit) & bit)
		return false;
	slot_plus_1 = slot + 1;
	if (pthread_setspecific(slot_key, (void *)(uintptr_t)slot_plus_1) == 0)
		return true;
	slot_plus_1 = 0;
	slot_free((void *)(uintptr_t)(slot + 1));
	return false;
}

/* False: there is none for this thread. */
static bool slot_get(unsigned int *ret)
{
	pthread_once(&slot_once, slot_init);
	for (unsigned int slot = 0; slot < SLOTS && slot_plus_1 == 0; slot++)
		slot_take(slot);
	*ret = slot_plus_1 - 1;
	return slot_plus_1 > 0;
}

/* ---- one change ---- */

void outcomes_serve(uint64_t served)
{
	request = served;
}

void outcomes_add(const struct outcomes *outcomes, struct record_batch *batch, uint64_t ino)
{
	unsigned int slot;

	if (request != 0 && slot_get(&slot))
		record_batch_outcome(batch, outcomes->session, (uint16_t)slot, request, ino);
	request = 0;
}

bool outcomes_find(const struct outcomes *outcomes, uint64_t asked, uint64_t *ret_ino)
{
	for (size_t i = 0; i < outcomes->count; i++) {
		if (outcomes->list[i].request == asked) {
			*ret_ino = outcomes->list[i].ino;
			return true;
		}
	}
	return false;
}

/* ---- loading ---- */

struct loading {
	struct outcomes *outcomes;
	struct {
		uint32_t session;
		uint16_t slot;
	} * old;
	size_t count, cap;
};

static int add_outcome(struct outcomes *outcomes, struct outcome outcome)
{
	if (outcomes->count == outcomes->cap) {
		size_t cap = outcomes->cap ? outcomes->cap * 2 : 64;
		struct outcome *list = reallocarray(outcomes->list, cap, sizeof(*list));

		if (!list)
			return -ENOMEM;
		outcomes->list = list;
		outcomes->cap = cap;
	}
	outcomes->list[outcomes->count++] = outcome;
	return 0;
}

static int add_old(struct loading *loading, uint32_t session, uint16_t slot)
{
	if (loading->count == loading->cap) {
		size_t cap = loading->cap ? loading->cap * 2 : 64;
		void *old = reallocarray(loading->old, cap, sizeof(*loading->old));

		if (!old)
			return -ENOMEM;
		loading->old = old;
		loading->cap = cap;
	}
	loading->old[loading->count].session = session;
	loading->old[loading->count++].slot = slot;
	return 0;
}

static int load_one(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
	struct loading *loading = arg;
	uint32_t session, now = loading->outcomes->session;
	struct outcome outcome;
	uint16_t slot;
	int err = record_parse_outcome(key, key_len, value, value_len, &session, &slot, &outcome.request, &outcome.ino);

	if (err < 0)
		return err;
	if (session >= now || now - session > OUTCOME_SESSIONS)
		return add_old(loading, session, slot);
	return add_outcome(loading->outcomes, outcome);
}

static int remove_old(const struct loading *loading, struct store *store)
{
	int err = 0;

	for (size_t i = 0; i < loading->count && err == 0;) {
		struct record_batch batch = { .count = 0 };

		for (; i < loading->count && batch.count < RECORD_BATCH_MAX; i++)
			record_batch_drop_outcome(&batch, loading->old[i].session, loading->old[i].slot);
		err = record_batch_put(&batch, store, false);
	}
	return err;
}

int outcomes_load(struct outcomes *outcomes, struct store *store, uint32_t session)
{
	static const char prefix = RECORD_PREFIX_OUTCOME;
	struct loading loading = { .outcomes = outcomes };
	int err;

	outcomes->session = session;
	err = store->meta->walk(store, &prefix, 1, load_one, &loading);
	if (err == 0)
		err = remove_old(&loading, store);
	free(loading.old);
	return err;
}

void outcomes_fini(struct outcomes *outcomes)
{
	free(outcomes->list);
}
