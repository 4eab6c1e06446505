/* move/progress.h - one line on a terminal that says how far a long command is; silent when stderr is none. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what; /* "copied" */
	bool terminal;
	bool shown;
	uint64_t start_ns;
	uint64_t last_ns;
};

void progress_start(struct progress *progress, const char *what);
/* Cheap to call often: it draws a few times a second. */
void progress_show(struct progress *progress, uint64_t done_bytes, uint64_t total_bytes);
/* Takes the line away. */
void progress_end(struct progress *progress);
