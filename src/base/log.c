/* base/log.c - the log.
 *
 * A message is formatted on the stack and leaves in one write(2), so that lines of different threads never mix and no
 * lock is needed. Control characters, which names from a mount may hold, become '?': one event stays one line.
 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024
#define PREFIX "tierfs: "

static enum log_target log_target = LOG_TARGET_STDERR;
static enum log_level log_max_level = LOG_LEVEL_INFO;

void log_init(enum log_target target, enum log_level max_level)
{
	if (log_target != LOG_TARGET_STDERR)
		closelog();
	log_target = target;
	log_max_level = max_level;
	if (target != LOG_TARGET_STDERR)
		openlog("tierfs", LOG_PID | LOG_NDELAY, LOG_DAEMON);
}

static int syslog_priority(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return LOG_ERR;
	case LOG_LEVEL_WARN:
		return LOG_WARNING;
	case LOG_LEVEL_INFO:
		return LOG_INFO;
	case LOG_LEVEL_DEBUG:
		return LOG_DEBUG;
	}
	return LOG_ERR;
}

static const char *level_word(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_WARN:
		return "warning: ";
	case LOG_LEVEL_DEBUG:
		return "debug: ";
	case LOG_LEVEL_ERROR:
	case LOG_LEVEL_INFO:
		return "";
	}
	return "";
}

/* Makes one line of text and returns its length. UTF-8 passes. */
static size_t one_line(char *text)
{
	size_t i;

	for (i = 0; text[i]; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			text[i] = '?';
	return i;
}

void log_msg(enum log_level level, const char *format, ...)
{
	int saved_errno = errno;
	char line[LINE_MAX_BYTES];
	size_t used, room;
	va_list args;

	if (level > log_max_level)
		return;
	used = (size_t)snprintf(line, sizeof(line), PREFIX "%s", level_word(level));
	room = sizeof(line) - used - 1; /* the newline */
	va_start(args, format);
	if (vsnprintf(line + used, room, format, args) < 0)
		snprintf(line + used, room, "(a message that cannot be formatted: %s)", format);
	va_end(args);
	used = one_line(line);
	if (log_target != LOG_TARGET_STDERR)
		syslog(syslog_priority(level), "%s", line + strlen(PREFIX));
	if (log_target == LOG_TARGET_STDERR || (log_target == LOG_TARGET_STARTING && level <= LOG_LEVEL_WARN)) {
		line[used++] = '\n';
		/* A log that cannot be written has nobody left to tell. */
		while (write(STDERR_FILENO, line, used) < 0 && errno == EINTR)
			;
	}
	errno = saved_errno;
}
