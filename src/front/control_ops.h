/* front/control_ops.h - the requests of the control socket: one table {op, rights, handler}. */
#pragma once

#include "front/control_request.h"

/* Finds the handler, checks the rights, runs it on this thread, without locks. *ret is the result; or -errno, and why
 * (control_request.h). */
int control_ops_run(struct control_request *request, json_t **ret);
