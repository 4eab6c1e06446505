/* client/client_spans.c - see client_spans.h. */
#include "client/client_spans.h"

#include <string.h>

#include "client/client_range.h"

struct span {
	uintptr_t from, end;
};

static struct span spans[CLIENT_RANGE_MAX];
static size_t span_count;
static int future_flags;

/* Index of the first span that ends at addr or beyond. */
static size_t first_at(uintptr_t addr)
{
	size_t index = 0;

	while (index < span_count && spans[index].end < addr)
		index++;
	return index;
}

static void replace(size_t index, size_t count, const struct span *by, size_t by_count)
{
	memmove(&spans[index + by_count], &spans[index + count], (span_count - index - count) * sizeof(spans[0]));
	for (size_t i = 0; i < by_count; i++)
		spans[index + i] = by[i];
	span_count = span_count - count + by_count;
}

bool client_spans_has_room(void)
{
	return span_count < CLIENT_RANGE_MAX;
}

void client_spans_add(uintptr_t from, uintptr_t end)
{
	size_t index = first_at(from), count = 0;
	struct span span = { from, end };

	while (index + count < span_count && spans[index + count].from <= end) {
		const struct span *old = &spans[index + count++];

		span.from = old->from < span.from ? old->from : span.from;
		span.end = old->end > span.end ? old->end : span.end;
	}
	if (count || client_spans_has_room())
		replace(index, count, &span, 1);
}

void client_spans_remove(uintptr_t from, uintptr_t end)
{
	size_t index = first_at(from), count = 0, left_count = 0;
	struct span left[2];

	while (index + count < span_count && spans[index + count].from < end) {
		const struct span *old = &spans[index + count++];

		if (old->from < from)
			left[left_count++] = (struct span){ old->from, old->end < from ? old->end : from };
		if (old->end > end)
			left[left_count++] = (struct span){ end, old->end };
	}
	if (left_count <= count || client_spans_has_room())
		replace(index, count, left, left_count);
}

uintptr_t client_spans_after(uintptr_t addr)
{
	size_t index = first_at(addr);

	return index < span_count && spans[index].from <= addr ? spans[index].end : addr;
}

size_t client_spans_bytes(uintptr_t from, uintptr_t end)
{
	size_t bytes = 0;

	for (size_t i = first_at(from); i < span_count && spans[i].from < end; i++) {
		uintptr_t low = spans[i].from > from ? spans[i].from : from;
		uintptr_t high = spans[i].end < end ? spans[i].end : end;

		bytes += high > low ? high - low : 0;
	}
	return bytes;
}

void client_spans_set_future(int flags)
{
	future_flags = flags;
}

int client_spans_future(void)
{
	return future_flags;
}

void client_spans_forget(void)
{
	span_count = 0;
	future_flags = 0;
}
