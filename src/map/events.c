#include "map/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/stages.h"
#include "map/peers.h"

/* A read that might sleep counts as a call into the process: who makes it sleep is found out. */
static int read_some(struct mapping *mapping, struct uffd_event *ret, unsigned int most)
{
	bool inside = uffd_read_may_sleep();
	int count;

	if (inside && !peer_enter(mapping->peer))
		return -EBUSY;
	count = uffd_read(mapping->uffd, ret, most);
	if (inside)
		peer_leave(mapping->peer);
	return count;
}

/* Room for so many is the caller's, who reads without the lock. */
static unsigned int reserve(struct mapping *mapping)
{
	unsigned int room;

	LOCK_SCOPE(&mapping->lock);
	room = MAPPING_EVENTS_MAX - mapping->events.count - mapping->events.reserved;
	if (room > UFFD_EVENTS_MAX)
		room = UFFD_EVENTS_MAX;
	mapping->events.reserved += room;
	return room;
}

static void add(struct mapping *mapping, unsigned int room, const struct uffd_event *event, int count, uint64_t now_ns)
{
	struct mapping_events *events = &mapping->events;

	LOCK_SCOPE(&mapping->lock);
	events->reserved -= room;
	for (int i = 0; i < count; i++) {
		bool urgent = event[i].tid && event[i].tid == mapping->main_tid;

		events->urgent += urgent;
		events->event[events->count++] = (struct mapping_event){ event[i].addr, now_ns, event[i].kind, urgent };
	}
}

int events_fill(struct mapping *mapping, uint64_t woken_ns)
{
	unsigned int room = reserve(mapping);
	struct uffd_event event[UFFD_EVENTS_MAX];
	uint64_t now_ns;
	int count;

	if (!room && events_there(mapping, NULL))
		return 0;
	if (!room) /* others are reading */
		return peer_stalled(mapping->peer) ? -EBUSY : -EAGAIN;
	count = read_some(mapping, event, room);
	if (count > 0 && woken_ns)
		now_ns = stage_end(engine_stages(mapping->engine), STAGE_EVENT, mapping->ino,
				   event[0].addr / mapping->block_bytes, woken_ns);
	else
		now_ns = clock_ns();
	add(mapping, room, event, count, now_ns);
	return count < 0 ? count : 0;
}

bool events_take(struct mapping *mapping, struct mapping_event *ret)
{
	struct mapping_events *events = &mapping->events;
	unsigned int at = 0;

	LOCK_SCOPE(&mapping->lock);
	if (!events->count)
		return false;
	while (events->urgent && !events->event[at].urgent)
		at++;
	*ret = events->event[at];
	events->urgent -= ret->urgent;
	events->count--;
	memmove(events->event + at, events->event + at + 1, (events->count - at) * sizeof(*events->event));
	return true;
}

bool events_there(struct mapping *mapping, bool *ret_urgent)
{
	LOCK_SCOPE(&mapping->lock);

	if (ret_urgent)
		*ret_urgent = mapping->events.urgent;
	return mapping->events.count;
}

enum fault_kind events_fault(const struct mapping_event *event)
{
	return event->kind == UFFD_EVENT_PROTECTED ? FAULT_PROTECTED : event->urgent ? FAULT_URGENT : FAULT_MISSING;
}

/* In a PID namespace of its own a process has another number than here; the kernel tells those of threads as the
 * process has them. The last one of the line is that. */
pid_t events_main_thread(pid_t pid)
{
	char path[64], text[4096];
	CLEANUP_CLOSE int fd = -1;
	const char *line, *last;
	ssize_t length;
	size_t end;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (length <= 0)
		return 0;
	text[length] = '\0';
	line = strstr(text, "\nNSpid:");
	if (!line)
		return 0;
	end = strcspn(++line, "\n");
	for (last = line + end; last > line && last[-1] != '\t' && last[-1] != ' '; last--)
		;
	return (pid_t)strtol(last, NULL, 10);
}
