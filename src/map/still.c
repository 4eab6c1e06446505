/* map/still.c - see still.h. */
#include "map/still.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

/* Of /proc/PID/stat, behind the name, which may hold anything: utime and stime are fields 14 and 15 (proc(5)). */
#define STAT_CAP 1024
#define TIMES "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64 " %" SCNu64

uint64_t still_ticks(pid_t pid)
{
	char path[64], text[STAT_CAP];
	const char *behind_name;
	uint64_t user, system;
	CLEANUP_CLOSE int fd = -1;
	ssize_t got;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	got = read(fd, text, sizeof(text) - 1);
	if (got <= 0)
		return 0;
	text[got] = '\0';
	behind_name = strrchr(text, ')');
	return behind_name && sscanf(behind_name + 1, TIMES, &user, &system) == 2 ? user + system : 0;
}

bool still_ask(struct still *still, uint64_t ticks, uint64_t now_ns)
{
	if (!ticks || !still->since_ns || still->ticks != ticks)
		*still = (struct still){ .ticks = ticks, .since_ns = now_ns };
	still->stands = now_ns >= still->since_ns + STILL_NS;
	return still->stands;
}

bool still_holds(struct still *still, uint64_t ticks)
{
	if (!ticks || still->ticks != ticks)
		still_end(still);
	return still->stands;
}

void still_end(struct still *still)
{
	*still = (struct still){ 0 };
}
