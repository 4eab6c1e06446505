/* engine/watch.h - memory that somebody makes in an arena behind the daemon's back, and sizes that somebody gives it.
 *
 * Who maps an arena without registering the memory makes a page of zeros wherever it touches an absent one. Who has a
 * descriptor of it, on a kernel without passthrough, can also fill it, punch it, and make it longer or shorter. Neither
 * is charged to anybody. But what may be in an arena is known: the blocks that were reserved for the file. More than
 * that is looked for, block by block: a block that is a hole or cold, and at rest, has no page, whatever the reason for
 * one may be. Those that have one lose it, and read as they did before.
 *
 * Only a file whose arena was given out can be affected. It is looked at until it is unloaded: a process may close all
 * that it was given and keep what it has mapped. A look costs a system call, and a walk over the pages of the arena if
 * it has too many.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ramfile;

/* A file's part. Of the thread that looks, but for the first. */
struct watch {
	_Atomic bool wanted; /* a process was given the arena, or may have been by an earlier daemon */
	unsigned int over;   /* looks in a row that found too much */
	unsigned int caught; /* looks that found what nobody may have made, not long ago */
	uint64_t caught_ns;  /* when the last of them was */
	uint64_t odd_bytes;  /* the arena's length, when it was not the file's; 0: it was */
};

struct watch_seen {
	uint64_t taken_bytes; /* memory that was taken away */
	bool resized;         /* the arena had another length than the file, and has it no more */
	unsigned int caught;  /* how often that was so not long ago, this time included; 0: this time not */
};

/* Looks, and puts right what it finds. One thread at a time for a file that it visits. */
void watch_look(struct ramfile *file, uint64_t now_ns, struct watch_seen *ret);
