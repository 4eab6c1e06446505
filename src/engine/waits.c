#include "engine/waits.h"

#include "base/clock.h"
#include "base/log.h"
#include "engine/file.h"
#include "engine/mapper.h"
#include "engine/mappers.h"

#define LONG_NS NS_PER_S

void waits_init(struct waits *waits)
{
	lock_init(&waits->lock, LOCK_RANK_STATS); /* a leaf */
	for (unsigned int i = 0; i < WAITS; i++)
		TAILQ_INIT(&waits->list[i]);
}

void waits_fini(struct waits *waits)
{
	lock_fini(&waits->lock);
}

void waits_begin(struct ramfile *file, struct wait *wait, enum wait_for what, uint64_t since_ns)
{
	struct wait *before;

	LOCK_SCOPE(&file->waits.lock);
	wait->what = what;
	wait->since_ns = since_ns;
	file->waits.count[what]++;
	before = TAILQ_LAST(&file->waits.list[what], wait_list);
	while (before && before->since_ns > since_ns)
		before = TAILQ_PREV(before, wait_list, link);
	if (before)
		TAILQ_INSERT_AFTER(&file->waits.list[what], before, wait, link);
	else
		TAILQ_INSERT_HEAD(&file->waits.list[what], wait, link);
}

void waits_end(struct ramfile *file, struct wait *wait)
{
	LOCK_SCOPE(&file->waits.lock);

	file->waits.count[wait->what]--;
	TAILQ_REMOVE(&file->waits.list[wait->what], wait, link);
}

uint64_t waits_count(struct ramfile *file)
{
	uint64_t count = 0;

	LOCK_SCOPE(&file->waits.lock);
	for (unsigned int i = 0; i < WAITS; i++)
		count += file->waits.count[i];
	return count;
}

void waits_refused(struct mapper *mapper, uint64_t since_ns)
{
	if (atomic_fetch_add(&mapper->refused, 1) == 0)
		atomic_store(&mapper->refused_ns, since_ns);
}

void waits_add(struct waits_sum *sum, enum wait_for what, uint64_t count, uint64_t since_ns)
{
	if (!count)
		return;
	if (!sum->count[what] || since_ns < sum->since_ns[what])
		sum->since_ns[what] = since_ns;
	sum->count[what] += count;
}

static void add_mapper(void *arg, struct mapper *mapper)
{
	if (mapper->ops->waits)
		mapper->ops->waits(mapper, arg);
}

void waits_sum(struct ramfile *file, struct waits_sum *ret)
{
	struct waits_sum sum = { 0 };

	lock_get(&file->waits.lock);
	for (unsigned int i = 0; i < WAITS; i++) {
		const struct wait *oldest = TAILQ_FIRST(&file->waits.list[i]);

		waits_add(&sum, i, file->waits.count[i], oldest ? oldest->since_ns : 0);
	}
	lock_put(&file->waits.lock);
	mappers_each(file, add_mapper, &sum);
	*ret = sum;
}

uint64_t waits_total(const struct waits_sum *sum, uint64_t *ret_since_ns, enum wait_for *ret_what)
{
	uint64_t total = 0;

	for (unsigned int i = 0; i < WAITS; i++) {
		if (!sum->count[i])
			continue;
		if (!total || sum->since_ns[i] < *ret_since_ns) {
			*ret_since_ns = sum->since_ns[i];
			*ret_what = i;
		}
		total += sum->count[i];
	}
	return total;
}

static const char *name_of(enum wait_for what)
{
	switch (what) {
	case WAIT_TURN:
		return "its turn";
	case WAIT_ROOM:
		return "room in the budget";
	case WAIT_LIMIT:
		return "a limit of its own";
	case WAIT_STORE:
		return "the store";
	case WAIT_PROCESS:
		return "its process, which keeps its address space locked";
	case WAITS:
		break;
	}
	return "?";
}

void waits_tell(struct ramfile *file, uint64_t now_ns)
{
	struct waits_sum sum;
	enum wait_for what = WAITS;
	uint64_t since_ns = 0, total;
	bool is_long;

	waits_sum(file, &sum);
	total = waits_total(&sum, &since_ns, &what);
	is_long = total && now_ns > since_ns + LONG_NS;
	if (is_long == file->waits.told)
		return;
	file->waits.told = is_long;
	if (is_long)
		log_warn("file %llu: a fault waits since %llu ms for %s; %llu wait in all",
			 (unsigned long long)file->ino, (unsigned long long)((now_ns - since_ns) / NS_PER_MS),
			 name_of(what), (unsigned long long)total);
	else
		log_info("file %llu: no fault waits for long any more", (unsigned long long)file->ino);
}
