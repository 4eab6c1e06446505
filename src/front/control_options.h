/* front/control_options.h - the mount's options. */
#pragma once

#include "front/control_request.h"

control_handler control_options_get, control_options_set;
