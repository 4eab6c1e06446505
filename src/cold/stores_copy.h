/* cold/stores_copy.h - a part of a file that moves (a window), for stores_move.c. */
#pragma once

#include "cold/stores_state.h"

/* One window of one file on its way. */
struct window {
	struct stores *stores;
	struct home *home;
	struct store *from, *to, *below; /* below: where `to` is durable */
	bool up;
	uint64_t first, last, mark; /* mark: when it has moved */
	uint64_t values, bytes;
};

/* Which one is next, behind the mark: about as much as can be moved while others wait. stores, home, from, to, below
 * and up are given. */
int copy_choose(struct window *window, const struct layout *layout);
/* The window is claimed: nobody changes it. It is cleared there, and then its values are there, durably. */
int copy_window(const struct window *window);
