/* front/control_ops.h - the requests of the control socket: who may make them, and what they do.
 *
 * One table {op, rights, handler}. Handlers run on the thread of their connection, without locks. They return 0 and the
 * result object, or -errno and, in why, one line for a person (empty: the errno says it all).
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "front/control.h"
#include "front/control_line.h"

#define CONTROL_WHY_LEN 200

/* What a handler knows; borrowed for the time of the request. */
struct control_request {
	const struct control_config *config;
	struct control_line *line; /* for progress, and for results that come in pieces */
	const atomic_bool *stopping;
	uid_t uid;            /* of the peer */
	json_t *params;       /* the whole request object */
	uint64_t ino;         /* what it is about */
	uint64_t progress_ns; /* when the last progress line was sent */
	char why[CONTROL_WHY_LEN];
};

typedef int control_handler(struct control_request *request, json_t **ret);

/* Finds the handler, checks the rights, runs it. *ret is the result. */
int control_ops_run(struct control_request *request, json_t **ret);

/* False: the client has gone or the daemon ends; what runs shall stop. */
bool control_ops_wanted(const struct control_request *request);

/* An optional number of the request. -EINVAL: it is there and not a non-negative integer. */
int control_ops_number(struct control_request *request, const char *key, uint64_t otherwise, uint64_t *ret);
const char *control_ops_string(const struct control_request *request, const char *key);
/* The inode of a token besides that of the request; it must carry the rights. */
int control_ops_token(struct control_request *request, const char *key, uint32_t rights, uint64_t *ret_ino);
/* Says why; returns err. */
int control_ops_fail(struct control_request *request, int err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* control_report.c */
control_handler control_report_stat, control_report_ls, control_report_map;
/* control_move.c */
control_handler control_move_demote, control_move_promote, control_move_clone, control_move_pin, control_move_get,
	control_move_set;
