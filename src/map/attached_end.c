/* The end of mappings, and of those in between: whose agent is gone and whose process lives.
 *
 * What a mapping's end waits for is with its process, and on a disk. Those of a process that is gone end one after the
 * other, by a chore.
 */

#include "map/attached_end.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "mem/arena.h"

#define ORPHAN_CHECK_NS (1 * NS_PER_S)

void attached_end_mapping(struct attached *attached, struct mapping *mapping)
{
	uint64_t ino = mapping->ino;

	if (attached->config.forget)
		attached->config.forget(attached->config.keep_arg, mapping->id);
	log_info("file %llu: process %d has unmapped it", (unsigned long long)ino, (int)mapping->pid);
	/* The keeper may be slow to close its copy, and whether a file without a name goes is decided by who holds it.
	 */
	if (mapping->arena_fd >= 0)
		arena_let_go(mapping->arena_fd);
	mapping->arena_fd = -1;
	map_table_remove(attached->table, mapping);
	ns_put(attached->config.ns, ino);
}

/* --- the dead ----------------------------------------------------------------------------------------------- */

static struct link *next_dead(struct attached *attached)
{
	struct link *link;

	LOCK_SCOPE(&attached->lock);
	link = TAILQ_FIRST(&attached->dead);
	if (link)
		TAILQ_REMOVE(&attached->dead, link, link);
	return link;
}

/* On the chore's thread. */
static void end_dead(void *arg)
{
	struct attached *attached = arg;
	struct link *link;

	while ((link = next_dead(attached))) {
		attached_end_mapping(attached, link->mapping);
		free(link);
	}
}

/* Some are in the list. */
static void send_ending(struct attached *attached)
{
	if (attached->ends)
		return;
	attached->ends = true;
	chores_send(attached->chores, &attached->ending);
}

static void on_ended(void *arg)
{
	struct attached *attached = arg;
	bool more;

	attached->ends = false;
	lock_get(&attached->lock);
	more = !TAILQ_EMPTY(&attached->dead);
	lock_put(&attached->lock);
	if (more)
		send_ending(attached);
}

void attached_end_init(struct attached *attached)
{
	TAILQ_INIT(&attached->orphans);
	TAILQ_INIT(&attached->dead);
	attached->ending = (struct chore){ .go = end_dead, .done = on_ended, .arg = attached };
}

/* --- orphans ------------------------------------------------------------------------------------------------ */

static void orphan_timer(void *arg)
{
	struct attached *attached = arg;
	struct link *link, *next;
	bool more, some;

	lock_get(&attached->lock);
	for (link = TAILQ_FIRST(&attached->orphans); link; link = next) {
		next = TAILQ_NEXT(link, link);
		if (mapping_alive(link->mapping))
			continue;
		TAILQ_REMOVE(&attached->orphans, link, link);
		TAILQ_INSERT_TAIL(&attached->dead, link, link);
	}
	more = !TAILQ_EMPTY(&attached->orphans);
	some = !TAILQ_EMPTY(&attached->dead);
	attached->orphan_timer = more && !loop_after(attached->loop, ORPHAN_CHECK_NS, orphan_timer, attached);
	lock_put(&attached->lock);
	if (some)
		send_ending(attached);
}

void attached_orphan(struct attached *attached, struct link *link)
{
	mapping_orphan(link->mapping);
	log_warn("file %llu: process %d lives and its agent is gone: its memory works, and stays resident until it "
		 "comes back or ends",
		 (unsigned long long)link->mapping->ino, (int)link->mapping->pid);
	lock_get(&attached->lock);
	TAILQ_INSERT_TAIL(&attached->orphans, link, link);
	if (!attached->orphan_timer)
		attached->orphan_timer = !loop_after(attached->loop, ORPHAN_CHECK_NS, orphan_timer, attached);
	lock_put(&attached->lock);
}

static bool is_at(struct mapping *mapping, pid_t pid, uint64_t addr)
{
	return mapping->pid == pid && mapping_addr(mapping) == addr;
}

/* Under lock: by a process that has a connection. */
static bool is_mapped(struct attached *attached, pid_t pid, uint64_t addr)
{
	struct connection *connection;
	struct link *link;

	TAILQ_FOREACH(connection, &attached->connections, link)
		TAILQ_FOREACH(link, &connection->mappings, link)
			if (is_at(link->mapping, pid, addr))
				return true;
	return false;
}

/* Its process came back while the old connection was busy. */
static bool has_successor(struct attached *attached, struct mapping *mapping)
{
	LOCK_SCOPE(&attached->lock);

	return is_mapped(attached, mapping->pid, mapping_addr(mapping));
}

/* Whoever comes back looks for its predecessor when it is in its list, and this one looks for it when it is among the
 * orphans: one of the two finds the other. It may be freed as soon as it is there. */
void attached_late_orphan(struct attached *attached, struct link *link)
{
	uint64_t addr = mapping_addr(link->mapping);
	pid_t pid = link->mapping->pid;
	struct link *next;
	bool some;

	attached_orphan(attached, link);
	lock_get(&attached->lock);
	for (link = is_mapped(attached, pid, addr) ? TAILQ_FIRST(&attached->orphans) : NULL; link; link = next) {
		next = TAILQ_NEXT(link, link);
		if (!is_at(link->mapping, pid, addr))
			continue;
		TAILQ_REMOVE(&attached->orphans, link, link);
		TAILQ_INSERT_TAIL(&attached->dead, link, link);
	}
	some = !TAILQ_EMPTY(&attached->dead);
	lock_put(&attached->lock);
	if (some)
		send_ending(attached);
}

void attached_end_mappings(struct attached *attached, struct connection *connection)
{
	struct link *link;
	bool some = false;

	while ((link = TAILQ_FIRST(&connection->mappings))) {
		bool lives = mapping_alive(link->mapping) && !has_successor(attached, link->mapping);

		lock_get(&attached->lock);
		TAILQ_REMOVE(&connection->mappings, link, link);
		if (!lives)
			TAILQ_INSERT_TAIL(&attached->dead, link, link);
		lock_put(&attached->lock);
		some |= !lives;
		if (lives)
			attached_orphan(attached, link);
	}
	if (some)
		send_ending(attached);
}

void attached_end_orphans(struct attached *attached)
{
	lock_get(&attached->lock);
	TAILQ_CONCAT(&attached->dead, &attached->orphans, link);
	lock_put(&attached->lock);
	if (!TAILQ_EMPTY(&attached->dead))
		send_ending(attached);
}

void attached_end_predecessor(struct attached *attached, pid_t pid, uint64_t addr)
{
	struct link_list found = TAILQ_HEAD_INITIALIZER(found);
	struct link *link, *next;

	lock_get(&attached->lock);
	for (link = TAILQ_FIRST(&attached->orphans); link; link = next) {
		next = TAILQ_NEXT(link, link);
		if (!is_at(link->mapping, pid, addr))
			continue;
		TAILQ_REMOVE(&attached->orphans, link, link);
		TAILQ_INSERT_TAIL(&found, link, link);
	}
	lock_put(&attached->lock);
	while ((link = TAILQ_FIRST(&found))) {
		TAILQ_REMOVE(&found, link, link);
		attached_end_mapping(attached, link->mapping);
		free(link);
	}
}
