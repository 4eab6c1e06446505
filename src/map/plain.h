/* map/plain.h - the evictor: takes pages of plain-mapped files out of the kernel's cache when the budget asks for it.
 *
 * The kernel caches pages of a plain mapping without asking. One thread measures what it holds (map/evict.h), and under
 * pressure has the oldest blocks written back and dropped. What comes back is kept in the arena for a short while, in
 * which a block that was dropped too early returns cheaply, and is then demoted like any other.
 */
#pragma once

#include "map/evict.h"
#include "names/names.h"
#include "policy/tiering.h"

struct plain;

struct plain_config {
	struct engine *engine; /* borrowed, like all below */
	struct ns *ns;
	struct evict *evict;
	const char *mountpoint;
};

/* After the mount is there, served or not: the evictor opens files in it. */
int plain_start(const struct plain_config *config, struct plain **ret);
void plain_stop(struct plain *plain); /* takes NULL */
