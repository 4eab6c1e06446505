/* front/control_request.h - one request of the control socket, and what every handler asks of it.
 *
 * On the thread of its connection, without locks. Functions return 0 or -errno and, in why, one line for a person
 * (empty: the errno says it all).
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>

#include "front/control.h"
#include "front/control_line.h"
#include "pool/token.h"

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

/* A handler: *ret is the result object. */
typedef int control_handler(struct control_request *request, json_t **ret);

/* False: the client has gone or the daemon ends; what runs shall stop. */
bool control_request_wanted(const struct control_request *request);

/* An optional number of the request. -EINVAL: it is there and not a non-negative integer. */
int control_request_number(struct control_request *request, const char *key, uint64_t otherwise, uint64_t *ret);
const char *control_request_string(const struct control_request *request, const char *key);
/* What a token allows. */
int control_request_grant(struct control_request *request, const char *text, struct token_grant *ret);
/* The inode of a token besides that of the request; it must carry the rights. */
int control_request_token(struct control_request *request, const char *key, uint32_t rights, uint64_t *ret_ino);
/* Says why; returns err. */
int control_request_fail(struct control_request *request, int err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
