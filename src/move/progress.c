/* move/progress.c - see move/progress.h. */
#include "move/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/size.h"

#define DRAW_NS (200 * NS_PER_MS)

void progress_start(struct progress *progress, const char *what)
{
	*progress = (struct progress){
		.what = what,
		.terminal = isatty(STDERR_FILENO),
		.start_ns = clock_ns(),
	};
}

void progress_show(struct progress *progress, uint64_t done_bytes, uint64_t total_bytes)
{
	char done[SIZE_TEXT_LEN], total[SIZE_TEXT_LEN], rate[SIZE_TEXT_LEN];
	uint64_t now_ns = clock_ns(), left_s = 0;
	double seconds, speed;

	if (!progress->terminal || now_ns - progress->last_ns < DRAW_NS)
		return;
	progress->last_ns = now_ns;
	progress->shown = true;
	seconds = (double)(now_ns - progress->start_ns) / (double)NS_PER_S;
	speed = seconds > 0 ? (double)done_bytes / seconds : 0;
	if (speed > 0 && total_bytes > done_bytes)
		left_s = (uint64_t)((double)(total_bytes - done_bytes) / speed);
	fprintf(stderr, "\r\033[K%3.0f%%  %s of %s %s  %s/s  %llu:%02llu left",
		total_bytes ? 100.0 * (double)done_bytes / (double)total_bytes : 100.0, size_format(done_bytes, done),
		size_format(total_bytes, total), progress->what, size_format((uint64_t)speed, rate),
		(unsigned long long)(left_s / 60), (unsigned long long)(left_s % 60));
	fflush(stderr);
}

void progress_end(struct progress *progress)
{
	if (progress->shown)
		fprintf(stderr, "\r\033[K");
	progress->shown = false;
}
