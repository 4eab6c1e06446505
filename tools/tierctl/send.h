/* send.h - what send and migrate share. */
#pragma once

#include <stdbool.h>

#include "move/channel.h"
#include "move/rest.h"
#include "tierctl.h"

/* Adds what the second half of a post-copy was to an object, and returns it as text, which begins with ", ". */
#define REST_TEXT_LEN 200
char *send_rest_totals(const struct rest_totals *totals, json_t *json, char text[static REST_TEXT_LEN]);
/* The channel that the options name. 0, or 1 after the error was printed. */
int send_open_channel(const struct args *args, bool sending, struct channel *ret);
