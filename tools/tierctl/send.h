/* send.h - what send and migrate share. */
#pragma once

#include <stdbool.h>

#include "channel.h"
#include "tierctl.h"

/* The channel that the options name. 0, or 1 after the error was printed. */
int send_open_channel(const struct args *args, bool sending, struct channel *ret);
