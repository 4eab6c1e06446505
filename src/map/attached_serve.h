/* map/attached_serve.h - the requests of attach.sock. */
#pragma once

#include "map/attached_state.h"

/* The request waits for nobody. */
bool attached_is_quick(const struct connection *connection, const struct wire_packet *packet);
/* Does what the packet asks for, and answers. An error ends the connection; -EPROTO: the packet breaks the rules. */
int attached_serve(struct connection *connection, struct wire_packet *packet);
int attached_answer_error(struct connection *connection, uint64_t seq, int err, const char *text);
