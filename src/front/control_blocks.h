/* front/control_blocks.h - what is done to the blocks of a file. */
#pragma once

#include "front/control_request.h"

control_handler control_blocks_demote, control_blocks_promote, control_blocks_clone, control_blocks_pin;
