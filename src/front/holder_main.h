/* front/holder_main.h - the process that the holder is (front/holder.h). */
#pragma once

#include "front/holder.h"

/* conn: of the socketpair. */
_Noreturn void holder_main(int conn, pid_t daemon, const struct holder_config *config);
