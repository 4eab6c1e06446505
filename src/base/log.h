/* base/log.h - one line for each event, to stderr or to syslog.
 *
 * A message says what happened, to which object, why, and what to do; no trailing newline, no function names. An
 * error is logged once, by whoever handles it. Thread-safe; may be called with locks held (it never blocks on them).
 */
#pragma once

enum log_level {
	LOG_LEVEL_ERROR, /* something the operator must act on */
	LOG_LEVEL_WARN,  /* works, at a cost that is named */
	LOG_LEVEL_INFO,  /* start, stop, attach, detach */
	LOG_LEVEL_DEBUG,
};

enum log_target {
	LOG_TARGET_STDERR,
	LOG_TARGET_SYSLOG,
	LOG_TARGET_STARTING, /* syslog, errors and warnings to stderr as well: somebody waits for the outcome */
};

/* Not thread-safe against the functions below: call before threads start, and once more after daemonizing. */
void log_init(enum log_target target, enum log_level max_level);

void log_msg(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_msg(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_msg(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_msg(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_msg(LOG_LEVEL_DEBUG, __VA_ARGS__)
